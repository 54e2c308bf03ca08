"""How the command line speaks: tables as kubectl prints them, JSON and YAML for machines, errors on stderr,
progress on anything that takes a while, colour only on a terminal."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import yaml
from rich.console import Console
from rich.table import Table

from rayward.errors import RaywardError

_WIDE = 100_000


def console(stderr: bool = False) -> Console:
    """A console that never wraps what goes into a pipe."""
    stream = sys.stderr if stderr else sys.stdout
    return Console(stderr=stderr, highlight=False, soft_wrap=True, width=None if stream.isatty() else _WIDE)


def table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print a table in kubectl's manner: upper-case heads, no lines."""
    drawn = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0), header_style="")
    for column in columns:
        drawn.add_column(column.upper(), no_wrap=True, overflow="ignore")
    for row in rows:
        drawn.add_row(*(str(cell) for cell in row))
    screen = console()
    if screen.width < _WIDE:
        screen = Console(highlight=False, width=max(screen.width, 200), soft_wrap=True)
    with screen.capture() as captured:
        screen.print(drawn)
    print("\n".join(line.rstrip() for line in captured.get().splitlines()))


def dump(value: object, form: str) -> None:
    """Print a value as ``json`` or ``yaml``."""
    if form == "json":
        print(json.dumps(value, indent=2))
    else:
        print(yaml.safe_dump(value, sort_keys=False).rstrip())


def error(problem: RaywardError) -> None:
    """Print an error for a person: what, where, what to do."""
    screen = console(stderr=True)
    screen.print("[bold red]error:[/] ", end="")
    screen.print(str(problem), markup=False)


def note(text: str) -> None:
    """Print a remark that is no result, on stderr."""
    console(stderr=True).print(f"note: {text}", markup=False, style="yellow" if sys.stderr.isatty() else None)


class Progress:
    """One line that changes on a terminal; a new line for each change elsewhere."""

    def __init__(self, status: Any, screen: Console) -> None:
        self._status = status
        self._screen = screen
        self._last = ""

    def say(self, text: str) -> None:
        """Show where things stand; repeated texts are shown once."""
        if text == self._last:
            return
        self._last = text
        if self._status is not None:
            self._status.update(text)
        else:
            self._screen.print(text, markup=False)


@contextlib.contextmanager
def progress(text: str) -> Iterator[Progress]:
    """Show that something is going on, on stderr, so that results stay clean."""
    screen = console(stderr=True)
    if screen.is_terminal:
        with screen.status(text) as status:
            yield Progress(status, screen)
    else:
        shown = Progress(None, screen)
        shown.say(text)
        yield shown


def print_json(value: Any) -> None:
    """Print one value as JSON."""
    dump(value, "json")
