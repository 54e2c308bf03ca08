"""What must hold of the files themselves: no machine's own paths, no dead links, no forgotten example."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from tree import ROOT, SCRIPTS, project_files, relative

# Written in pieces, so that this file does not hold what it looks for.
SLASH = "/"
MACHINE_PATHS = [
    rf"(?<![\w.\-/]){SLASH}work{SLASH}",
    rf"(?<![\w.\-/]){SLASH}root{SLASH}",
    rf"\.cache{SLASH}rayward{SLASH}dev",
    rf"{SLASH}tmp{SLASH}(?:brief|rw-)",
]
PACKAGE_INDEXES = [
    "pypi" + r"\.org",
    "python" + "hosted",
    r"--(?:extra-)?index" + "-url",
    "--trusted" + "-host",
    "--find" + "-links",
]
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")


def lines_matching(patterns: list[str], files: Iterator[Path]) -> list[str]:
    pattern = re.compile("|".join(patterns))
    found = []
    for path in files:
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
        found += [
            f"{relative(path)}:{number}: {line.strip()[:120]}"
            for number, line in enumerate(text.splitlines(), 1)
            if pattern.search(line)
        ]
    return found


def test_the_patterns_find_what_they_are_for() -> None:
    samples = [f"see {SLASH}work{SLASH}main/x", f'"{SLASH}root{SLASH}.cache"']
    assert all(re.search("|".join(MACHINE_PATHS), sample) for sample in samples)
    for innocent in (
        f"{SLASH}proc/7{SLASH}root{SLASH}home/ray",
        f"{SLASH}home{SLASH}ray/samples",
        "a/work/b",
    ):
        assert not re.search("|".join(MACHINE_PATHS), innocent)


def test_no_file_holds_a_path_of_the_machine_that_it_was_written_on() -> None:
    assert lines_matching(MACHINE_PATHS, iter(project_files())) == []


def test_no_file_names_a_package_index() -> None:
    # The Makefile's and this folder's own words about pip's options are no configuration.
    files = (path for path in project_files() if path.name != "Makefile")
    assert lines_matching(PACKAGE_INDEXES, files) == []


def test_no_archive_is_or_ever_was_under_version_control() -> None:
    archives = (".zip", ".whl", ".egg", ".tar.gz")
    assert [relative(path) for path in project_files() if path.name.endswith(archives)] == []
    if shutil.which("git") is None or not (ROOT / ".git").exists():
        return
    command = ["git", "-c", "safe.directory=*", "log", "--all", "--diff-filter=A", "--name-only", "--format="]
    ever = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\n")
    assert [name for name in ever if name.endswith(archives)] == []


def anchors(text: str) -> set[str]:
    """The anchors that headings of a Markdown file get."""
    headings = re.findall(r"^#+ +(.+?) *$", re.sub(r"```.*?```", "", text, flags=re.DOTALL), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def dead_links(path: Path) -> list[str]:
    text = path.read_text(encoding="utf-8")
    dead = []
    for target in LINK.findall(re.sub(r"```.*?```", "", text, flags=re.DOTALL)):
        if "://" in target or target.startswith("mailto:"):
            continue
        name, _, anchor = target.partition("#")
        there = (path.parent / name).resolve() if name else path
        if not there.exists() or (
            anchor and there.suffix == ".md" and anchor not in anchors(there.read_text(encoding="utf-8"))
        ):
            dead.append(f"{relative(path)} -> {target}")
    return dead


def test_links_between_documents_lead_somewhere() -> None:
    documents = [path for path in project_files() if path.suffix == ".md"]
    assert {"docs/local.md", "docs/agent.md", "docs/architecture.md"} <= {
        relative(path) for path in documents
    }
    assert [link for path in documents for link in dead_links(path)] == []


def test_every_document_can_be_reached_from_the_readme() -> None:
    reached: set[Path] = set()
    queue = [ROOT / "README.md"]
    while queue:
        path = queue.pop()
        if path in reached:
            continue
        reached.add(path)
        targets = [target.partition("#")[0] for target in LINK.findall(path.read_text(encoding="utf-8"))]
        queue += [
            (path.parent / target).resolve()
            for target in targets
            if target.endswith(".md") and "://" not in target
        ]
    documents = set((ROOT / "docs").glob("*.md"))
    assert sorted(relative(path) for path in documents - reached) == []


def test_every_example_is_named_in_the_documents() -> None:
    written = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "docs").glob("*.md"))
    examples = [path.name for path in (ROOT / "examples").glob("*.yaml")]
    assert examples
    assert [name for name in examples if name not in written] == []


@pytest.mark.parametrize("script", SCRIPTS)
def test_scripts_are_bash_without_errors(script: str) -> None:
    path = ROOT / script
    subprocess.run(["bash", "-n", path], check=True, timeout=30)
    assert path.read_text().startswith(("#!/usr/bin/env bash\n", "# shellcheck shell=bash\n"))
    assert bool(path.stat().st_mode & 0o100) == path.read_text().startswith("#!")
