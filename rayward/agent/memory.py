"""What a head remembers of its store from one process to the next: epoch and incarnation, in one small file.

With it a store that came back empty or older is told from one that was never used. Without a folder to keep
it in, it lasts as long as the process.
"""

from __future__ import annotations

import contextlib
import json
import os

from rayward.store.ownership import Remembered


class Memory:
    """Reads the file once, at the start; writes it whenever what is known changes."""

    def __init__(self, folder: str, name: str) -> None:
        self._path = os.path.join(folder, f"{name}.json") if folder else ""
        self.now = self._read()

    def keep(self, known: Remembered) -> None:
        """Remember this from now on. A file that cannot be written costs the memory, never the head."""
        if known == self.now:
            return
        self.now = known
        if not self._path:
            return
        unfinished = f"{self._path}.{os.getpid()}"
        with contextlib.suppress(OSError):
            os.makedirs(os.path.dirname(self._path), exist_ok=True)
            with open(unfinished, "w", encoding="utf-8") as file:
                json.dump({"incarnation": known.incarnation, "epoch": known.epoch}, file)
                file.flush()
                os.fsync(file.fileno())
            os.replace(unfinished, self._path)

    def _read(self) -> Remembered:
        if not self._path:
            return Remembered()
        try:
            with open(self._path, encoding="utf-8") as file:
                found = json.load(file)
        except (OSError, ValueError, RecursionError):
            return Remembered()
        known = found if isinstance(found, dict) else {}
        incarnation, epoch = known.get("incarnation"), known.get("epoch")
        if not isinstance(incarnation, str) or type(epoch) is not int or epoch < 0:
            return Remembered()
        return Remembered(incarnation, epoch)
