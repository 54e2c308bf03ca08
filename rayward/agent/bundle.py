"""Packs the agent into the one zip file that stock images run: ``python3 agent.zip head -- ray start ...``.

Holds rooms ``agent`` and ``store``, redis-py and async-timeout (which redis-py needs before Python 3.11.3).
The same sources always give the same bytes, so that an unchanged agent is an unchanged ConfigMap.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import zipfile
from collections.abc import Iterator
from pathlib import Path

from rayward.errors import RaywardError

CONFIG_MAP_LIMIT = 1_048_576
_ROOMS = ("agent", "store")
_BUNDLED = ("redis", "async_timeout")
_EPOCH = (1980, 1, 1, 0, 0, 0)
_MAIN = "import sys\nfrom rayward.agent.main import main\nsys.exit(main())\n"


def _sources(folder: Path, prefix: str) -> Iterator[tuple[str, bytes]]:
    for path in sorted(folder.rglob("*.py")):
        yield f"{prefix}/{path.relative_to(folder).as_posix()}", path.read_bytes()


def _library(name: str) -> Iterator[tuple[str, bytes]]:
    spec = importlib.util.find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        raise RaywardError(
            f"the Python package {name} is not installed", where="agent zip", todo=f"pip install {name}"
        )
    yield from _sources(Path(next(iter(spec.submodule_search_locations))), name)
    distribution = name.replace("_", "-")
    for file in importlib.metadata.files(distribution) or ():
        if "LICENSE" in file.name.upper():
            yield f"licenses/{distribution}.txt", Path(str(file.locate())).read_bytes()


def contents() -> dict[str, bytes]:
    """Every file of the zip, by its path in it."""
    package = Path(__file__).resolve().parent.parent
    files = {"__main__.py": _MAIN.encode()}
    for name in ("__init__.py", "errors.py"):
        files[f"rayward/{name}"] = (package / name).read_bytes()
    for room in _ROOMS:
        files.update(_sources(package / room, f"rayward/{room}"))
    for library in _BUNDLED:
        files.update(_library(library))
    return files


def build_zip(target: Path) -> int:
    """Write the zip and return its size in bytes; raises RaywardError when a ConfigMap could not hold it."""
    unfinished = target.with_name(f".{target.name}.{os.getpid()}")
    with zipfile.ZipFile(unfinished, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for path, content in sorted(contents().items()):
            archive.writestr(zipfile.ZipInfo(path, _EPOCH), content, zipfile.ZIP_DEFLATED)
    size = unfinished.stat().st_size
    if size > CONFIG_MAP_LIMIT * 3 // 4:  # what base64 makes of it must fit as well
        unfinished.unlink()
        raise RaywardError(f"the zip has {size} bytes, more than a ConfigMap can hold", where=str(target))
    unfinished.replace(target)
    return size
