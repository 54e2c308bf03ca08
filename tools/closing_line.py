"""Adds the JUnit reports of several pytest runs up to one: the slowest tests, and one closing line.

``closing_line.py FILE ...`` prints them as pytest would have, had it been one run. Files that do not exist
(a stage that was not reached) are left out.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from xml.etree import ElementTree

SLOWEST = 15


def counts_and_times(files: Sequence[Path]) -> tuple[dict[str, int], list[tuple[float, str]], float]:
    """Tests by outcome, each test's seconds and name, and the seconds of all runs."""
    outcomes = {"failed": 0, "passed": 0, "skipped": 0, "errors": 0}
    times: list[tuple[float, str]] = []
    total = 0.0
    for file in files:
        for suite in ElementTree.parse(file).getroot().iter("testsuite"):
            total += float(suite.get("time", "0"))
            kinds = ("failures", "skipped", "errors")
            failed, skipped, errors = (int(suite.get(kind, "0")) for kind in kinds)
            outcomes["failed"] += failed
            outcomes["skipped"] += skipped
            outcomes["errors"] += errors
            outcomes["passed"] += max(0, int(suite.get("tests", "0")) - failed - skipped - errors)
            for case in suite.iter("testcase"):
                name = f"{case.get('classname', '')}::{case.get('name', '')}"
                times.append((float(case.get("time", "0")), name))
    return outcomes, sorted(times, reverse=True), total


def main() -> int:
    files = [path for path in map(Path, sys.argv[1:]) if path.exists()]
    outcomes, times, total = counts_and_times(files)
    print("slowest tests:")
    for seconds, name in times[:SLOWEST]:
        print(f"  {seconds:7.2f} s  {name}")
    shown = [f"{count} {outcome}" for outcome, count in outcomes.items() if count] or ["no tests ran"]
    print(f" {', '.join(shown)} in {total:.2f}s ".center(100, "="))
    return 0


if __name__ == "__main__":
    sys.exit(main())
