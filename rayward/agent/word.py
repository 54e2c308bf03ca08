"""The word that this head gives to a leader without a store, and what it forbids meanwhile: the memory around
``lead.give_word``.

Asked from HTTP threads while the elector's thread looks and acquires: one lock makes sure that the word is
not given in the moment in which the lease is taken.
"""

from __future__ import annotations

import threading
import time
from typing import Callable

from rayward.agent.lead import WordView, give_word

_NEVER = float("-inf")


class Word:
    """One head's word; ``ttl`` is how long it binds, in seconds. Thread-safe."""

    def __init__(self, ttl: float) -> None:
        self._ttl = ttl
        self._lock = threading.Lock()
        self._until = 0.0
        self._epoch = 0
        self._acquiring = self._unsure = False
        self._good_look_at = _NEVER

    @property
    def until(self) -> float:
        """Until when the word binds (monotonic seconds); 0: it was never given."""
        return self._until

    @property
    def epoch(self) -> int:
        """The epoch of the leader that got it last; 0: nobody has."""
        return self._epoch

    def give(
        self, asked_epoch: int, trouble_for: float, own_epoch: Callable[[], int], known_epoch: int
    ) -> tuple[bool, str]:
        """Answer a leader that cannot reach the store; ``own_epoch`` is asked under the lock."""
        now = time.monotonic()
        with self._lock:
            good_look_ago = now - self._good_look_at if self._good_look_at > _NEVER else None
            given, why = give_word(
                WordView(
                    asked_epoch=asked_epoch,
                    own_epoch=own_epoch(),
                    acquiring=self._acquiring or self._unsure,
                    known_epoch=known_epoch,
                    trouble_for=trouble_for,
                    good_look_ago=good_look_ago,
                )
            )
            if given:
                self._until, self._epoch = now + self._ttl, asked_epoch
        return given, why

    def left(self, released_epoch: int) -> float:
        """For how long the word binds; not any more once its own holder has released the epoch that it was
        given for (``released_epoch``, 0: none is). An adopted or an older lease says nothing of it."""
        if released_epoch and released_epoch == self._epoch:
            return 0.0
        return max(0.0, self._until - time.monotonic())

    def begin_acquiring(self, decided_until: float) -> bool:
        """From here on no word is given; False when one was since the decision (``until`` as it was then)."""
        with self._lock:
            if self._until > decided_until:
                return False
            self._acquiring = True
            return True

    def end_acquiring(self, unsure: bool) -> None:
        """The attempt is over. ``unsure``: it may still take effect, so no word until the next good look."""
        with self._lock:
            self._acquiring, self._unsure = False, unsure

    def looked(self, began_at: float, good: bool) -> None:
        """The newest look at the store began then, and succeeded or not."""
        with self._lock:
            self._good_look_at = began_at if good else _NEVER
            self._unsure = self._unsure and not good
