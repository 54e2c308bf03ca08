"""Facts about a store directory, and the disk under it, on real file systems."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from rayward.errors import RaywardError
from rayward.store.rocksdb import free_space_fault, inspect_directory
from rayward.store.rocksdb_source import RocksDbSource

MEBIBYTE = 1024 * 1024
_LOCK_HOLDER = """
import fcntl, sys
held = open(sys.argv[1], "w")
fcntl.lockf(held, fcntl.LOCK_EX)
print("held", flush=True)
sys.stdin.read()
"""
_FULL_DISK = """
mount -t tmpfs -o size=2m none "$1" || exit 77
head -c 2000000 /dev/zero > "$1/ballast"
exec "$2" -c 'import sys; from pathlib import Path; from rayward.store.rocksdb import free_space_fault
print(free_space_fault(Path(sys.argv[1], "gcs"), 1048576))' "$1"
"""
_NO_INODES = """
mount -t tmpfs -o nr_inodes=2 none "$1" || exit 77
touch "$1/last"
exec "$2" -c 'import sys; from pathlib import Path; from rayward.store.rocksdb import free_space_fault
print(free_space_fault(Path(sys.argv[1]), 1))' "$1"
"""
_READ_ONLY = """
mount -t tmpfs -o ro none "$1" || exit 77
exec "$2" -c 'import sys; from pathlib import Path; from rayward.store.rocksdb import free_space_fault
print(free_space_fault(Path(sys.argv[1], "gcs"), 1))' "$1"
"""


def database(path: Path) -> Path:
    for name in ("tables", "kv"):
        (path / name).mkdir(parents=True)
        (path / name / "CURRENT").write_text("MANIFEST-000005\n")
        (path / name / "LOCK").touch()
    (path / "session_name").write_text("session_1\n")
    return path


def test_an_idle_store(tmp_path: Path) -> None:
    facts = inspect_directory(database(tmp_path))
    assert facts.databases == ("tables", "kv")
    assert (facts.is_gcs_directory, facts.in_use, facts.session_name) == (True, False, "session_1")
    assert facts.size_bytes > 0


@pytest.mark.parametrize("held", ["tables", "kv"])
def test_a_store_that_a_process_holds(tmp_path: Path, held: str) -> None:
    store = database(tmp_path)
    command = [sys.executable, "-c", _LOCK_HOLDER, str(store / held / "LOCK")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        assert inspect_directory(store).in_use
        assert inspect_directory(store).in_use, "asking must not have taken the lock away"
        holder.communicate(timeout=20)
    assert not inspect_directory(store).in_use


def test_other_directories_are_no_store(tmp_path: Path) -> None:
    (tmp_path / "tables").mkdir()
    for path in (tmp_path, tmp_path / "missing"):
        assert not inspect_directory(path).is_gcs_directory
        with pytest.raises(RaywardError, match="not a directory in which a GCS") as error:
            RocksDbSource(path)
        assert str(path) in str(error.value)


def test_a_disk_with_room_has_no_fault(tmp_path: Path) -> None:
    assert free_space_fault(tmp_path / "not" / "yet" / "there", MEBIBYTE) is None


def test_more_than_the_disk_has(tmp_path: Path) -> None:
    found = free_space_fault(tmp_path / "gcs", 1 << 60)
    assert found is not None
    assert found.where == str(tmp_path / "gcs")
    assert "MiB free" in found.what
    assert f"needs {(1 << 60) // MEBIBYTE} MiB" in found.what


def test_a_file_in_its_place(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    found = free_space_fault(tmp_path / "file" / "gcs")
    assert found is not None
    assert "is not a directory" in found.what


@pytest.mark.parametrize(
    ("script", "words"),
    [
        (_FULL_DISK, "the disk has 0 MiB free, the GCS store needs 1 MiB"),
        (_NO_INODES, "no inode"),
        (_READ_ONLY, "cannot be written"),
    ],
    ids=["full", "inodes", "read-only"],
)
def test_a_real_disk_that_takes_no_more(tmp_path: Path, script: str, words: str) -> None:
    """A small tmpfs in a mount namespace of its own, which goes when its only process ends."""
    namespace = ["unshare", "--mount", "--map-root-user"]
    command = [*namespace, "sh", "-c", script, "sh", str(tmp_path), sys.executable]
    root = str(Path(__file__).parents[2])
    done = subprocess.run(
        command,
        env={**os.environ, "PYTHONPATH": root},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    if done.returncode == 77 or "unshare" in done.stderr:
        pytest.skip("no right to make a mount namespace here")
    assert done.returncode == 0, done.stderr
    assert words in done.stdout
    assert str(tmp_path) in done.stdout
