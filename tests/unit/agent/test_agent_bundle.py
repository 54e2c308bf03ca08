"""The agent as it is shipped: one small zip, the same bytes each time, that keeps to old interpreters."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from rayward import __version__
from rayward.agent import bundle
from rayward.errors import RaywardError

PACKAGE = Path(bundle.__file__).resolve().parent.parent
SHIPPED = [PACKAGE / "agent", PACKAGE / "store", PACKAGE / "errors.py", PACKAGE / "__init__.py"]


@pytest.fixture(scope="module")
def agent_zip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("zip") / "agent.zip"
    assert bundle.build_zip(path) == path.stat().st_size
    return path


def test_same_sources_same_bytes(agent_zip: Path, tmp_path: Path) -> None:
    again = tmp_path / "other-name.zip"
    bundle.build_zip(again)
    assert again.read_bytes() == agent_zip.read_bytes()
    with zipfile.ZipFile(again) as archive:
        assert {info.date_time for info in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}
    assert [path.name for path in tmp_path.iterdir()] == ["other-name.zip"], "no unfinished file is left"


def test_fits_into_a_config_map(agent_zip: Path) -> None:
    assert agent_zip.stat().st_size * 4 / 3 < bundle.CONFIG_MAP_LIMIT


def test_holds_what_the_agent_needs_and_no_other_room(agent_zip: Path) -> None:
    with zipfile.ZipFile(agent_zip) as archive:
        names = set(archive.namelist())
        assert archive.testzip() is None
    assert {
        "__main__.py",
        "rayward/agent/main.py",
        "rayward/store/connection.py",
        "redis/__init__.py",
    } <= names
    assert {"licenses/redis.txt", "licenses/async-timeout.txt"} <= names
    rooms = {name.split("/")[1] for name in names if name.startswith("rayward/")}
    assert rooms == {"__init__.py", "errors.py", "agent", "store"}


def test_too_large_for_a_config_map_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bundle, "CONFIG_MAP_LIMIT", 1000)
    with pytest.raises(RaywardError, match="more than a ConfigMap can hold"):
        bundle.build_zip(tmp_path / "agent.zip")
    assert list(tmp_path.iterdir()) == []


def test_shipped_sources_keep_to_python_3_9() -> None:
    vermin = shutil.which("vermin", path=f"{Path(sys.executable).parent}:{Path('/usr/bin')}")
    assert vermin is not None, "the checker `vermin` is a development requirement"
    done = subprocess.run(
        [vermin, "-t=3.9-", "--no-tips", "--violations", *map(str, SHIPPED)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout


def test_the_checker_would_notice(tmp_path: Path) -> None:
    newer = tmp_path / "newer.py"
    newer.write_text("import dataclasses\n@dataclasses.dataclass(slots=True)\nclass A:\n    x: int\n")
    vermin = Path(sys.executable).with_name("vermin")
    done = subprocess.run([vermin, "-t=3.9-", "--no-tips", newer], capture_output=True, check=False)
    assert done.returncode != 0


def python_3_9() -> str | None:
    """An interpreter that really runs: a shim on PATH may stand for a version that is switched off."""
    candidates = [
        shutil.which("python3.9"),
        *map(str, Path.home().glob(".pyenv/versions/3.9.*/bin/python3.9")),
    ]
    for candidate in filter(None, candidates):
        done = subprocess.run([candidate, "--version"], capture_output=True, text=True, check=False)
        if done.returncode == 0 and done.stdout.startswith("Python 3.9."):
            return candidate
    return None


@pytest.fixture(params=["this", "oldest"])
def interpreter(request: pytest.FixtureRequest) -> str:
    """Isolated from all that is installed: the zip has to bring what it needs."""
    found = sys.executable if request.param == "this" else python_3_9()
    if found is None:
        pytest.skip("no python3.9 on this machine")
    return found


def run(interpreter: str, agent_zip: Path, argument: str, **environ: str) -> str:
    done = subprocess.run(
        [interpreter, "-S", "-E", str(agent_zip), argument],
        env={"PATH": "/usr/bin:/bin", **environ}, capture_output=True, text=True, timeout=30, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_zip_runs_alone(interpreter: str, agent_zip: Path) -> None:
    assert run(interpreter, agent_zip, "--version") == f"rayward {__version__}\n"


def test_zip_asks_redis_alone(interpreter: str, agent_zip: Path) -> None:
    answer = json.loads(
        run(interpreter, agent_zip, "store-probe", RAY_REDIS_ADDRESS="127.0.0.1:1", REDIS_PASSWORD="s3cret")
    )
    assert answer["fault"].startswith("Redis at ")
    assert "127.0.0.1:1" in answer["fault"]
    assert "refused" in answer["fault"]
    assert "s3cret" not in json.dumps(answer)
    assert (answer["store"], answer["transient"]) == ("redis", True)


def test_zip_asks_rocksdb(interpreter: str, agent_zip: Path, tmp_path: Path) -> None:
    environ = {"RAY_gcs_storage": "rocksdb"}
    answer = json.loads(run(interpreter, agent_zip, "store-probe", **environ))
    assert "RAY_gcs_storage_path names no directory" in answer["fault"]
    file = tmp_path / "file"
    file.write_text("")
    answer = json.loads(run(interpreter, agent_zip, "store-probe", **environ, RAY_gcs_storage_path=str(file)))
    assert answer["fault"].startswith(f"GCS store in {file}: {file} is not a directory")
    assert answer["transient"] is False
    good = run(interpreter, agent_zip, "store-probe", **environ, RAY_gcs_storage_path=str(tmp_path / "new"))
    assert json.loads(good)["fault"] == ""


def test_the_agent_imports_nothing_heavy() -> None:
    script = (
        "import sys, rayward.agent.main\n"
        "heavy = {'redis', 'click', 'ray', 'msgspec', 'yaml', 'rich', 'pydantic', 'grpc', 'asyncio'}\n"
        "rooms = {'rayward.' + room for room in ('plan', 'local', 'kube', 'api', 'cli', 'drill')}\n"
        "print(sorted((heavy | rooms) & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=PACKAGE.parent, capture_output=True, text=True, check=True
    )
    assert done.stdout == "[]\n"
