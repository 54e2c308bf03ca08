"""Reading a RocksDB that another process writes, flushes and compacts at the same time."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from rayward.store.rocksdb_source import RocksDbSource

_READS = 40
# Prints each number after it has been written; flushes and compacts all the time, as a busy GCS would.
_WRITER = """
import sys
from rocksdict import Options, Rdict, WriteOptions
options = Options(raw_mode=True)
options.create_if_missing(True)
database = Rdict(sys.argv[1], options)
family = database.create_column_family("NODE", Options(raw_mode=True))
number = 0
for line in sys.stdin:
    number += 1
    family[b"last"] = b"%d" % number
    for extra in range(50):
        family[b"%d" % extra] = b"x" * 1000
    print(number, flush=True)
    family.flush()
    if number % 3 == 0:
        family.compact_range(None, None)
database.close()
"""


def test_every_look_sees_what_was_written_before_it(tmp_path: Path) -> None:
    (tmp_path / "kv").mkdir()
    command = [sys.executable, "-c", _WRITER, str(tmp_path / "tables")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdin is not None
        assert writer.stdout is not None
        for _ in range(_READS):
            # The writer answers before it flushes, so its files change during the look that follows.
            writer.stdin.write("next\n")
            writer.stdin.flush()
            written = int(writer.stdout.readline())
            seen = dict(RocksDbSource(tmp_path).entries("", "NODE"))
            assert int(seen[b"last"]) == written
            assert len(seen) == 51
