"""What a head remembers of its store, in a real file."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path

import pytest

from rayward.agent.memory import Memory
from rayward.store.ownership import Remembered

KNOWN = Remembered("abc", 7)


def test_what_is_kept_is_read_by_the_next_process(tmp_path: Path) -> None:
    folder = tmp_path / "not" / "there yet"
    Memory(str(folder), "blue-a").keep(KNOWN)
    assert Memory(str(folder), "blue-a").now == KNOWN
    assert Memory(str(folder), "blue-b").now == Remembered(), "another member has its own"
    assert [entry.name for entry in folder.iterdir()] == ["blue-a.json"], "nothing unfinished is left"


def test_without_a_folder_it_lasts_as_long_as_the_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    memory = Memory("", "blue-a")
    memory.keep(KNOWN)
    assert memory.now == KNOWN
    assert Memory("", "blue-a").now == Remembered()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "content",
    [
        b"", b'{"incarnation": "abc", "ep', b"[]", b"null", b"7", b"{}", b"\xff\xfe\x00",
        b'{"incarnation": "abc"}',
        b'{"incarnation": null, "epoch": 3}', b'{"incarnation": "abc", "epoch": "3"}',
        b'{"incarnation": "abc", "epoch": Infinity}', b'{"incarnation": "abc", "epoch": NaN}',
        b'{"incarnation": "abc", "epoch": -1}', b'{"incarnation": "abc", "epoch": true}', b"[" * 100_000,
    ],
)  # fmt: skip
def test_a_file_that_makes_no_sense_counts_as_none(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "blue-a.json").write_bytes(content)
    memory = Memory(str(tmp_path), "blue-a")
    assert memory.now == Remembered()
    memory.keep(KNOWN)
    assert Memory(str(tmp_path), "blue-a").now == KNOWN


def test_a_folder_that_cannot_be_written_costs_the_memory_only(tmp_path: Path) -> None:
    in_the_way = tmp_path / "file"
    in_the_way.write_text("")
    memory = Memory(str(in_the_way / "state"), "blue-a")
    memory.keep(KNOWN)
    assert memory.now == KNOWN


def test_the_file_is_replaced_whole_and_only_when_something_changed(tmp_path: Path) -> None:
    memory = Memory(str(tmp_path), "blue-a")
    path = tmp_path / "blue-a.json"
    memory.keep(KNOWN)
    first = path.stat()
    memory.keep(Remembered("abc", 7))
    assert path.stat().st_ino == first.st_ino
    os.link(path, tmp_path / "held")  # or its inode may be used again
    memory.keep(Remembered("abc", 8))
    assert path.stat().st_ino != first.st_ino, "a new file in its place, never a half-written one"
    assert json.loads(path.read_text()) == {"incarnation": "abc", "epoch": 8}
    assert stat.S_ISREG(path.stat().st_mode)
