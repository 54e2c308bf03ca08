"""What ./test itself is made of: the search for what a run left behind, and the closing line of two runs."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from tree import ROOT


def tool(name: str, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, ROOT / "tools" / name, *arguments],
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def left_behind(before: Path, **variables: str) -> tuple[int, str]:
    found = tool("leftovers.py", "compare", str(before), "0", **variables)
    return found.returncode, found.stderr


@pytest.fixture
def before(tmp_path: Path) -> Path:
    file = tmp_path / "before.json"
    assert tool("leftovers.py", "save", str(file), TMPDIR=str(tmp_path)).returncode == 0
    return file


def test_a_process_of_ours_is_found_and_other_processes_are_not(before: Path) -> None:
    sleep = [sys.executable, "-c", "import sys; sys.stdin.read()"]
    for variables, expected in (
        ({"RAYWARD_POD_UID": "u"}, True),
        ({"RAYWARD_CONTROL_PLANE": "/folder"}, True),
        ({"RAYWARD_POD": "u"}, False),
    ):
        with subprocess.Popen(sleep, stdin=subprocess.PIPE, env={**os.environ, **variables}) as child:
            _, words = left_behind(before)
            assert child.stdin is not None
            child.stdin.close()
        assert (f"process: {child.pid} " in words) is expected
    assert f"process: {child.pid} " not in left_behind(before)[1]


def test_a_temporary_folder_is_found_and_what_was_there_before_is_not(before: Path, tmp_path: Path) -> None:
    folder = tempfile.mkdtemp(prefix="rayward-", dir=tmp_path)
    code, words = left_behind(before, TMPDIR=str(tmp_path))
    assert code == 1
    assert f"left behind: temporary file: {folder}" in words
    tool("leftovers.py", "save", str(before), TMPDIR=str(tmp_path))
    assert folder not in left_behind(before, TMPDIR=str(tmp_path))[1]


def test_the_closing_line_adds_two_runs_up(tmp_path: Path) -> None:
    (tmp_path / "unit.xml").write_text(
        '<testsuites><testsuite tests="5" failures="1" skipped="1" errors="0" time="1.5">'
        '<testcase classname="a" name="quick" time="0.01"/></testsuite></testsuites>'
    )
    (tmp_path / "real.xml").write_text(
        '<testsuites><testsuite tests="2" failures="0" skipped="0" errors="0" time="60.25">'
        '<testcase classname="b" name="slow" time="59"/></testsuite></testsuites>'
    )
    files = [str(tmp_path / name) for name in ("unit.xml", "not-reached.xml", "real.xml")]
    lines = tool("closing_line.py", *files).stdout.splitlines()
    assert lines[-1].strip("= ") == "1 failed, 5 passed, 1 skipped in 61.75s"
    assert lines[1].split() == ["59.00", "s", "b::slow"]
