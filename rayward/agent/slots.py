"""The leader's count of workers that are being recycled: the memory around ``recycle.answer_request``."""

from __future__ import annotations

import threading
import time

from rayward.agent.recycle import Slots, answer_request

_ASKED_LATELY = 60.0


class SlotKeeper:
    """Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._slots = Slots()
        self._asked: dict[str, float] = {}

    def ask(self, member: str, workers: int) -> tuple[bool, str]:
        """Whether ``member`` may restart its node now, one of ``workers`` in all, and why or why not."""
        with self._lock:
            now = time.monotonic()
            self._asked[member] = now
            self._asked = {name: at for name, at in self._asked.items() if now - at < _ASKED_LATELY}
            # Those who ask are known to be there, whoever counts the rest.
            workers = max(workers, len(self._asked))
            answer = answer_request(self._slots, member, workers, now)
            self._slots = answer.slots
        return answer.granted, answer.reason
