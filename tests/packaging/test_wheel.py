"""The wheel: it builds from this tree, holds all of the package, and works where it is installed."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest
from tree import ROOT, project_files, relative

import rayward


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True, timeout=120)
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bin folder of a fresh environment with this wheel; its dependencies are this environment's."""
    venv = tmp_path_factory.mktemp("fresh") / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(venv)], check=True, timeout=60)
    python = venv / "bin" / "python"
    place = subprocess.run(
        [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"],
        capture_output=True,
        text=True,
        check=True,
        timeout=30,
    ).stdout.strip()
    Path(place, "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    pip = [
        sys.executable,
        "-m",
        "pip",
        "--python",
        str(python),
        "install",
        "--quiet",
        "--no-deps",
        "--no-index",
    ]
    subprocess.run([*pip, str(wheel)], check=True, capture_output=True, timeout=120)
    return venv / "bin"


def run(bin_folder: Path, *arguments: str, **variables: str) -> str:
    """Run the installed command away from this tree, and return what it prints."""
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run(
        [bin_folder / "rayward", *arguments],
        cwd="/",
        env={**environment, **variables},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_wheel_holds_every_file_of_the_package(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        inside = {name for name in archive.namelist() if not name.split("/")[0].endswith(".dist-info")}
    package = {relative(path) for path in project_files() if relative(path).startswith("rayward/")}
    assert inside == package


def test_its_metadata_say_what_it_is(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
        text = archive.read(name).decode()
        licences = [name for name in archive.namelist() if name.endswith("/LICENSE")]
    assert f"Version: {rayward.__version__}\n" in text
    assert "License-Expression: Apache-2.0\n" in text
    assert "Requires-Python: >=3.10\n" in text
    assert licences


def test_the_installed_command_works(installed: Path) -> None:
    place = subprocess.run(
        [installed / "python", "-I", "-c", "import rayward; print(rayward.__file__)"],
        cwd="/",
        capture_output=True,
        text=True,
        check=True,
        timeout=30,
    ).stdout
    assert place.startswith(str(installed.parent))
    assert "rayward up" in run(installed, "--help")
    assert rayward.__version__ in run(installed, "--version")


def test_bash_takes_the_completion_that_the_installed_command_prints(installed: Path) -> None:
    script = 'eval "$(rayward completion bash)" && complete -p rayward'
    environment = {**os.environ, "PATH": f"{installed}:{os.environ['PATH']}"}
    environment.pop("PYTHONPATH", None)
    done = subprocess.run(
        ["bash", "-c", script], env=environment, capture_output=True, text=True, check=True, timeout=60
    )
    assert "_rayward_completion" in done.stdout


def test_the_installed_command_makes_an_agent_that_runs_by_itself(installed: Path, tmp_path: Path) -> None:
    run(installed, "agent", "--build-zip", str(tmp_path / "agent.zip"))
    # -I and another folder: nothing but the zip and the standard library can be imported.
    done = subprocess.run(
        [sys.executable, "-I", "-S", str(tmp_path / "agent.zip"), "--help"],
        cwd="/",
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "worker" in done.stdout
