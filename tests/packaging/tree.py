"""The files of this project, as its tests of packaging see them."""

from __future__ import annotations

import subprocess
from functools import lru_cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = ("quickstart", "test", ".ci/run", "tools/environment.sh", "tools/lint.sh")


@lru_cache(maxsize=1)
def project_files() -> tuple[Path, ...]:
    """What is, or is about to be, under version control; outside of a checkout, every file but rubbish."""
    listed = subprocess.run(
        ["git", "-c", "safe.directory=*", "ls-files", "-co", "--exclude-standard", "-z"],
        cwd=ROOT,
        capture_output=True,
        check=False,
    )
    if listed.returncode == 0 and listed.stdout:
        found = [ROOT / name for name in listed.stdout.decode().split("\0") if name]
    else:
        found = [path for path in ROOT.rglob("*") if not {"__pycache__", "out", "dist"} & set(path.parts)]
    return tuple(sorted(path for path in found if path.is_file() and not path.is_symlink()))


def relative(path: Path) -> str:
    """How a file is called in a message."""
    return path.relative_to(ROOT).as_posix()
