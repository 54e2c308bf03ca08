"""./quickstart for those who may not make namespaces: root without a single capability, and an ordinary user.

It is the whole story, with real Ray and a real Redis, on the host's network. Must leave nothing.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tree import project_files, relative

NOBODY = 65534
# For root alone: an ordinary user of this machine cannot become another one.
ROOT_WITHOUT_RIGHTS = (
    *("setpriv", "--securebits=+noroot,+noroot_locked"),
    *("--bounding-set=-all", "--inh-caps=-all", "--ambient-caps=-all"),
)
# Interpreter and packages may lie in root's own folder: this user may read there, and no more.
ORDINARY_USER = (
    *("setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"),
    *("--inh-caps=-all,+dac_read_search", "--ambient-caps=-all,+dac_read_search"),
)
WAYS = {"root without capabilities": ROOT_WITHOUT_RIGHTS, "ordinary user": ORDINARY_USER}
if os.geteuid() != 0:
    WAYS = {"whoever runs the tests": ()}


@pytest.fixture
def place() -> Iterator[Path]:
    """A folder for one user: a copy of this tree, a home, temporary files. Its path is short, for Ray puts
    sockets below it."""
    folder = Path(tempfile.mkdtemp(prefix="q", dir="/tmp"))
    try:
        for path in project_files():
            copy = folder / "tree" / relative(path)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(path, copy)
        (folder / "home").mkdir()
        (folder / "t").mkdir()
        yield folder
    finally:
        for pid in processes_of(folder):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        shutil.rmtree(folder, ignore_errors=True)


def processes_of(folder: Path) -> list[int]:
    """Living processes that have the folder in their environment or command line."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        with contextlib.suppress(OSError):
            text = (entry / "environ").read_bytes() + (entry / "cmdline").read_bytes()
            state = (entry / "stat").read_text().rpartition(")")[2].split()[0]
            if os.fsencode(folder) in text and state != "Z":
                found.append(int(entry.name))
    return found


def environment(folder: Path) -> dict[str, str]:
    cache = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return {
        "HOME": str(folder / "home"),
        "TMPDIR": str(folder / "t"),
        "RAYWARD_HOME": str(folder / "state"),
        # The environment that this run is in: what is tested is rayward, not pip.
        "XDG_CACHE_HOME": cache,
        "RAYWARD_PYTHON": str(Path(sys.executable).resolve()),
        "PATH": os.environ["PATH"],
        "LANG": "C.UTF-8",
        "PYTHONDONTWRITEBYTECODE": "1",
    }


def check_capabilities(way: tuple[str, ...]) -> None:
    """A process that is started this way can do nothing but, perhaps, read files (CAP_DAC_READ_SEARCH)."""
    found = subprocess.run([*way, "cat", "/proc/self/status"], capture_output=True, text=True, check=False)
    if found.returncode != 0:
        # Root of a container that may not hand these rights on: it has few of them itself.
        pytest.skip(f"this machine does not let root start such a process: {found.stderr.strip()}")
    (line,) = [line for line in found.stdout.splitlines() if line.startswith("CapEff:")]
    assert int(line.split()[1], 16) in (0, 1 << 2)


@pytest.mark.ray
@pytest.mark.parametrize("way", list(WAYS))
def test_the_whole_story_passes_without_any_right(way: str, place: Path) -> None:
    prefix = WAYS[way]
    check_capabilities(prefix)
    if prefix is ORDINARY_USER:
        subprocess.run(["chown", "-R", f"{NOBODY}:{NOBODY}", str(place)], check=True)

    done = subprocess.run(
        [*prefix, "./quickstart"],
        cwd=place / "tree",
        env=environment(place),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )

    shown = done.stdout + done.stderr
    assert done.returncode == 0, shown[-6000:]
    assert "host's network" in shown, (
        "it must say that Pods share the host's network, and what that leaves out"
    )
    results = place / "tree" / "out" / "quickstart"
    assert json.loads((results / "result.json").read_text())
    assert "<html" in (results / "report.html").read_text().lower()
    deadline = time.monotonic() + 15
    while processes_of(place) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert processes_of(place) == []
    assert [path.name for path in (place / "t").iterdir()] == []
    # The folder of all clusters stays, and nothing is in it.
    assert [path for path in (place / "state").rglob("*") if path != place / "state" / "clusters"] == []


@pytest.mark.parametrize("way", list(WAYS))
def test_its_help_needs_no_rights_either(way: str, place: Path) -> None:
    prefix = WAYS[way]
    check_capabilities(prefix)
    if prefix is ORDINARY_USER:
        subprocess.run(["chown", "-R", f"{NOBODY}:{NOBODY}", str(place)], check=True)
    done = subprocess.run(
        [*prefix, "./quickstart", "--help"],
        cwd=place / "tree",
        env=environment(place),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "usage" in done.stdout.lower()
    assert not (place / "tree" / "out").exists()
