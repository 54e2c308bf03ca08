"""The gateway's line to the agent: orders as lines of JSON on standard input, reports on standard output.

An agent that stands still must not stop the gateway, so nothing here blocks: what the pipe does not take
waits, and figures are left out then. An agent that is gone (end of input) ends the gateway.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections import deque
from typing import Any, Deque, Dict, List, Optional

_MOST_WAITING = 1000
_MOST_INPUT = 1024 * 1024


class Control:
    """Both directions, on the given file descriptors, which become non-blocking."""

    def __init__(self, orders_fd: int = 0, reports_fd: int = 1) -> None:
        self.orders_fd = orders_fd
        self._reports_fd = reports_fd
        self._input = b""
        self._out: Deque[bytes] = deque(maxlen=_MOST_WAITING)
        os.set_blocking(orders_fd, False)
        os.set_blocking(reports_fd, False)

    def orders(self) -> Optional[List[Dict[str, Any]]]:
        """The orders that have come; None when there will be none any more. A line that cannot be read is
        left out.
        """
        try:
            data = os.read(self.orders_fd, 65536)
        except BlockingIOError:
            return []
        if not data or len(self._input) > _MOST_INPUT:
            return None
        *lines, self._input = (self._input + data).split(b"\n")
        found = []
        for line in lines:
            with contextlib.suppress(ValueError):
                order = json.loads(line)
                if isinstance(order, dict):
                    found.append(order)
        return found

    def report(self, what: Dict[str, Any], droppable: bool = False) -> None:
        """Say something; ``droppable`` when the next report of its kind says it as well."""
        self.flush()
        if droppable and self._out:
            return
        self._out.append(json.dumps(what).encode() + b"\n")
        self.flush()

    def flush(self) -> None:
        """Send what waits, as far as the pipe takes it."""
        while self._out:
            try:
                sent = os.write(self._reports_fd, self._out[0])
            except BlockingIOError:
                return
            except OSError:
                # Nobody listens; the end of the input says the same and ends the process.
                self._out.clear()
                return
            if sent == len(self._out[0]):
                self._out.popleft()
            else:
                self._out[0] = self._out[0][sent:]
