"""Where a control plane's programs come from, and what is said where they cannot be had."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import binaries
import debian_kubernetes
import pytest
from binaries import Unavailable
from debian_kubernetes import Archive, lines_with_sources, stanzas_with_sources

HERE = Path(__file__).parent


def silent(_: str) -> None:
    """Says nothing."""


def pytest_says(tmp_path: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """What a run of one test says that needs a control plane."""
    test = HERE / "test_control_plane.py"
    return subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "-p",
            "no:cacheprovider",
            f"{test}::test_every_program_says_the_same_version",
        ],
        cwd=HERE.parents[1],
        env={**os.environ, "TMPDIR": str(tmp_path), **variables},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_without_programs_a_test_is_skipped_and_says_why(tmp_path: Path) -> None:
    said = pytest_says(tmp_path, KUBEBUILDER_ASSETS=str(tmp_path), RAYWARD_REQUIRE_KUBERNETES="")
    assert said.returncode == 0, said.stdout
    assert "1 skipped" in said.stdout
    assert f"KUBEBUILDER_ASSETS={tmp_path} has no etcd, kube-apiserver, kubectl" in said.stdout.replace(
        "\n", ""
    )


def test_without_programs_a_test_fails_where_they_are_required(tmp_path: Path) -> None:
    said = pytest_says(tmp_path, KUBEBUILDER_ASSETS=str(tmp_path), RAYWARD_REQUIRE_KUBERNETES="1")
    assert said.returncode == 1, said.stdout
    assert "has no etcd, kube-apiserver, kubectl" in said.stdout


def test_given_programs_may_lack_the_controllers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUBEBUILDER_ASSETS", str(tmp_path))
    for name in ("etcd", "kube-apiserver", "kubectl"):
        (tmp_path / name).touch(0o755)
    assert binaries.obtain(silent) == binaries.Binaries(tmp_path, controllers=False)
    for name in ("kube-controller-manager", "kube-scheduler"):
        (tmp_path / name).touch(0o755)
    assert binaries.obtain(silent) == binaries.Binaries(tmp_path, controllers=True)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv("KUBEBUILDER_ASSETS", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("TMPDIR", str(tmp_path / "other"))
    return tmp_path / "rayward"


def test_two_runs_make_the_programs_once(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    making = threading.Event()
    second_waits = threading.Event()
    calls = []

    def make(scratch: Path, _: object) -> tuple[Path, str]:
        calls.append(scratch)
        making.set()
        assert second_waits.wait(30)
        (scratch / "made").mkdir()
        return scratch / "made", "1.20.2"

    def second(line: str) -> None:
        if "another run" in line:
            second_waits.set()

    monkeypatch.setattr(debian_kubernetes, "make", make)
    found: list[binaries.Binaries] = []
    first = threading.Thread(target=lambda: found.append(binaries.obtain(silent)))
    first.start()
    assert making.wait(30)
    found.append(binaries.obtain(second))
    first.join(30)
    assert (
        found
        == [binaries.Binaries(cache / f"kubernetes-1.20.2-{debian_kubernetes.RECIPE}", controllers=True)] * 2
    )
    assert len(calls) == 1
    assert not calls[0].exists()


def test_what_was_made_by_an_older_recipe_is_made_again(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def make(scratch: Path, _: object) -> tuple[Path, str]:
        (scratch / "made").mkdir()
        return scratch / "made", "1.20.2"

    monkeypatch.setattr(debian_kubernetes, "make", make)
    recipe = debian_kubernetes.RECIPE
    made = binaries.obtain(silent).folder
    (made / "mark").touch()
    assert binaries.obtain(silent).folder == made
    assert (made / "mark").exists()
    monkeypatch.setattr(debian_kubernetes, "RECIPE", recipe + 1)
    newer = binaries.obtain(silent).folder
    assert newer != made
    assert not made.exists()
    # An older checkout beside it makes its own, and takes nothing from the newer.
    monkeypatch.setattr(debian_kubernetes, "RECIPE", recipe)
    assert binaries.obtain(silent).folder == made
    assert newer.exists()


@pytest.mark.usefixtures("cache")
def test_a_failure_leaves_nothing_but_its_words(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def make(scratch: Path, _: object) -> tuple[Path, str]:
        (scratch / "half").touch()
        raise Unavailable("offline")

    monkeypatch.setattr(debian_kubernetes, "make", make)
    with pytest.raises(Unavailable, match="offline"):
        binaries.obtain(silent)
    assert [path.name for path in cache.iterdir()] == ["kubernetes.lock"]


def test_a_system_without_sources_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    configuration = tmp_path / "apt.conf"
    configuration.write_text(
        'Dir::Etc::sourcelist "/nonexistent";\nDir::Etc::sourceparts "/nonexistent.d";\n'
    )
    monkeypatch.setenv("APT_CONFIG", str(configuration))
    with pytest.raises(Unavailable, match=r"no source package kubernetes.*KUBEBUILDER_ASSETS"):
        Archive(tmp_path / "apt", silent).source_version("kubernetes")


def test_a_system_without_apt_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(Unavailable, match=r"Debian 12.*KUBEBUILDER_ASSETS"):
        Archive(tmp_path / "apt", silent)


def test_sources_are_asked_for_beside_packages() -> None:
    assert lines_with_sources(
        "# deb no\ndeb [arch=amd64] mirror stable main\ndeb-src mirror stable main\n"
    ) == ("# deb no\ndeb [arch=amd64] mirror stable main\ndeb-src [arch=amd64] mirror stable main\n")
    stanza = "Types: {}\nURIs: mirror\nSuites: stable\n"
    for before in ("deb", "deb deb-src", "deb-src deb"):
        assert stanzas_with_sources(stanza.format(before)) == stanza.format("deb deb-src")
    assert stanzas_with_sources(stanza.format("deb-src")) == stanza.format("deb-src")
