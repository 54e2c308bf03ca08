"""Waits for the next moment at which a node process has something to look at: a Pod's new status, a signal,
or the end of its pause.

Costs nothing while nothing happens; must not know what a status means.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
from pathlib import Path

from rayward.local import linux

STATUS_FILE = "status.json"


class StatusWatch:
    """Wakes when one of the watched folders gets a new status.json by rename."""

    def __init__(self) -> None:
        self._inotify = linux.inotify()
        self._folders: dict[Path, int] = {}
        self._signals, self._signalled = os.pipe()
        for descriptor in (self._inotify, self._signals, self._signalled):
            os.set_blocking(descriptor, False)

    def wake_on_signals(self) -> None:
        """Let handled signals end a wait (main thread only)."""
        signal.set_wakeup_fd(self._signalled, warn_on_full_buffer=False)

    def wake(self) -> None:
        """End a wait, from any thread."""
        with contextlib.suppress(BlockingIOError):  # full of wakes already
            os.write(self._signalled, b"\0")

    def add(self, folder: Path) -> None:
        """Watch a folder; one that is not there (yet) is left out, one that goes is forgotten."""
        if folder not in self._folders:
            with contextlib.suppress(FileNotFoundError):
                self._folders[folder] = linux.inotify_add(self._inotify, str(folder), linux.IN_MOVED_TO)

    def wait(self, timeout: float) -> bool:
        """Wait at most ``timeout`` seconds; whether a Pod's status changed."""
        ready, _, _ = select.select([self._inotify, self._signals], [], [], timeout)
        if self._signals in ready:
            os.read(self._signals, 4096)
        return self._inotify in ready and self._drain()

    def _drain(self) -> bool:
        changed = False
        for event in linux.inotify_events(self._inotify):
            if event.mask & linux.IN_IGNORED:
                self._folders = {path: watch for path, watch in self._folders.items() if watch != event.watch}
            changed = changed or event.name == STATUS_FILE or bool(event.mask & linux.IN_Q_OVERFLOW)
        return changed
