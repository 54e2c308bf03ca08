"""Facts about the directory in which Ray's embedded backend keeps GCS state, read from the file system only.

Read off Ray 2.60: two RocksDB databases side by side, ``tables`` (a column family per table, the job
counter in the default one) and ``kv``, each held by one process through a lock on its ``LOCK`` file.
It opens no database; ``rocksdb_source`` does.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import stat
import struct
from dataclasses import dataclass
from pathlib import Path

from rayward.errors import RaywardError

DATABASES = ("tables", "kv")
SESSION_FILE = "session_name"
JOB_COUNTER_KEY = b"__ray_job_counter__"
# What a small cluster occupies (18 MB), the log and the files that a compaction writes anew, with room.
MINIMUM_FREE_BYTES = 128 * 1024 * 1024

_MEBIBYTE = 1024 * 1024


@dataclass(frozen=True)
class DirectoryFacts:
    """What rests at ``path``.

    ``databases`` names those of ``DATABASES`` that exist; ``in_use`` is true while some process (a GCS)
    holds the lock of one; ``size_bytes`` sums the files as they are allocated on disk; ``session_name`` is
    what Ray noted there, if it did.
    """

    path: Path
    databases: tuple[str, ...]
    in_use: bool
    size_bytes: int
    session_name: str | None

    @property
    def is_gcs_directory(self) -> bool:
        """Whether a GCS has kept its tables here."""
        return "tables" in self.databases


def inspect_directory(path: Path) -> DirectoryFacts:
    """Look at ``path`` without opening or locking anything; a missing directory is an empty one."""
    databases = tuple(name for name in DATABASES if (path / name / "CURRENT").is_file())
    session = path / SESSION_FILE
    return DirectoryFacts(
        path=path,
        databases=databases,
        in_use=any(_locked(path / name / "LOCK") for name in databases),
        size_bytes=_size(path),
        session_name=session.read_text(encoding="utf-8", errors="replace").strip()
        if session.is_file()
        else None,
    )


def free_space_fault(path: Path, minimum_bytes: int = MINIMUM_FREE_BYTES) -> RaywardError | None:
    """Why a GCS could not write below ``path`` (full disk, no right, a file in its place); None if it could.

    ``path`` need not exist; then the nearest directory above it counts, as Ray creates the rest.
    """
    where = str(path)
    existing = path
    while not existing.exists() and existing != existing.parent:
        existing = existing.parent
    if not existing.is_dir():
        return RaywardError(
            f"{existing} is not a directory", where=where, todo="name a directory for the GCS store"
        )
    # access(2) answers for a read-only file system too; root passes it everywhere else.
    if not os.access(existing, os.W_OK | os.X_OK):
        return RaywardError(
            f"{existing} cannot be written", where=where, todo="choose another directory or change its rights"
        )
    free = shutil.disk_usage(existing).free
    if free < minimum_bytes:
        return RaywardError(
            f"the disk has {free // _MEBIBYTE} MiB free, "
            f"the GCS store needs {_ceil_mebibytes(minimum_bytes)} MiB",
            where=where,
            todo=f"free space on the disk of {existing}, or put the store on another disk",
        )
    facts = os.statvfs(existing)
    # Some file systems have no fixed number of inodes and report 0 of 0.
    if facts.f_files and not facts.f_favail:
        return RaywardError(
            "the disk has no inode left, so no file can be created",
            where=where,
            todo=f"remove files on the disk of {existing}",
        )
    return None


def _locked(lock: Path) -> bool:
    """Whether another process holds the lock; F_GETLK asks without taking it."""
    # struct flock on Linux, 64 bit: l_type, l_whence, l_start, l_len, l_pid.
    layout = "hhqqi"
    request = struct.pack(layout, fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
    try:
        descriptor = os.open(lock, os.O_RDONLY)
    except OSError:
        return False
    try:
        answer = fcntl.fcntl(descriptor, fcntl.F_GETLK, request)
    except OSError:
        return False
    finally:
        os.close(descriptor)
    return bool(struct.unpack(layout, answer[: struct.calcsize(layout)])[0] != fcntl.F_UNLCK)


def _size(path: Path) -> int:
    total = 0
    for folder, _, names in os.walk(path):
        for name in names:
            try:
                found = os.lstat(os.path.join(folder, name))
            except FileNotFoundError:  # a running GCS removes old files at any time
                continue
            if stat.S_ISREG(found.st_mode):
                total += found.st_blocks * 512
    return total


def _ceil_mebibytes(count: int) -> int:
    return -(-count // _MEBIBYTE)
