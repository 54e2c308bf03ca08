"""Finds what a run left on this machine: processes, network namespaces, mounts, temporary files.

``leftovers.py save FILE`` writes down what is there; ``leftovers.py compare FILE [SECONDS]`` waits a moment
for processes that are still ending, prints what was not there before, and exits 1 if there is any. Needs the
standard library only. It knows rayward by names alone, so that a fault in rayward cannot hide from it.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

# In the environment of everything that runs in a Pod, and of the parts of a control plane for tests.
VARIABLES = (b"RAYWARD_POD_UID=", b"RAYWARD_CONTROL_PLANE=")
PATIENCE_S = 15.0
Found = dict[str, list[str]]


def processes() -> Iterator[str]:
    """Living processes of ours as "PID START COMMAND"; START tells a pid that was used again."""
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit():
            continue
        try:
            environment = (folder / "environ").read_bytes()
            if not any(entry.startswith(VARIABLES) for entry in environment.split(b"\0")):
                continue
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
            command = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:  # ended meanwhile, or somebody else's
            continue
        if fields[0] != "Z":
            yield f"{folder.name} {fields[19]} {command[:120].strip()}"


def namespaces() -> Iterator[str]:
    """Named network namespaces of clusters."""
    yield from (str(path) for path in Path("/run/netns").glob("rayward-*"))


def mounts() -> Iterator[str]:
    """Mount points that name rayward."""
    for line in Path("/proc/self/mounts").read_text().splitlines():
        if "rayward" in line:
            yield line.split()[1]


def links() -> Iterator[str]:
    """Network interfaces on this host's side of a cluster."""
    yield from (path.name for path in Path("/sys/class/net").iterdir() if path.name.startswith("rw"))


def temporary_files() -> Iterator[str]:
    """Folders and files of rayward where temporary files go."""
    for place in {tempfile.gettempdir(), "/tmp", "/dev/shm"}:
        try:
            names = os.listdir(place)
        except OSError:
            continue
        for name in names:
            if name.startswith("rayward-") and not name.startswith("rayward-cache-"):
                yield f"{place}/{name}"


def take_stock() -> Found:
    """Everything of rayward's that is on this machine now."""
    return {
        "process": sorted(processes()),
        "network namespace": sorted(namespaces()),
        "mount": sorted(mounts()),
        "network interface": sorted(links()),
        "temporary file": sorted(temporary_files()),
    }


def new_since(before: Found) -> list[str]:
    """What is there now and was not before, one line each."""
    now = take_stock()
    return [f"{kind}: {item}" for kind, items in now.items() for item in items if item not in before[kind]]


def compare(before: Found, patience_s: float) -> int:
    """Print what is new and stays; the exit code."""
    deadline = time.monotonic() + patience_s
    while (left := new_since(before)) and time.monotonic() < deadline:
        time.sleep(0.2)
    for line in left:
        print(f"left behind: {line}", file=sys.stderr)
    return 1 if left else 0


def main() -> int:
    verb, file = sys.argv[1], Path(sys.argv[2])
    if verb == "save":
        file.write_text(json.dumps(take_stock()))
        return 0
    patience_s = float(sys.argv[3]) if len(sys.argv) > 3 else PATIENCE_S
    return compare(json.loads(file.read_text()), patience_s)


if __name__ == "__main__":
    sys.exit(main())
