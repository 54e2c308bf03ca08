"""The one error that a user of rayward is meant to read.

It is shared by every room and ships in the agent's zip, so it keeps to Python 3.9 and imports nothing.
"""

from __future__ import annotations

from typing import Optional


class RaywardError(Exception):
    """Something a user can act on: what went wrong, where, and what to do about it.

    ``what`` and ``todo`` are sentences without a trailing full stop; ``where`` names a file, field,
    address or Pod. None of them may hold a secret.
    """

    def __init__(self, what: str, *, where: Optional[str] = None, todo: Optional[str] = None) -> None:
        self.what = what
        self.where = where
        self.todo = todo
        super().__init__(what)

    def __str__(self) -> str:
        text = self.what if self.where is None else f"{self.where}: {self.what}"
        return text if self.todo is None else f"{text}\n  try: {self.todo}"
