"""Remembers a reconcile's own writes until the cache shows them, so that none is made twice."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from rayward.kube.kinds import Kind

ESCAPE_S = 30.0
SETTLED_S = 2.0


class Seen(Protocol):
    """What of an informer is asked."""

    def has_seen(self, namespace: str, resource_version: str) -> bool:
        """Whether the cache is at least this new."""

    def stays(self, uid: str) -> bool:
        """Whether an object is there and not marked for deletion."""

    def live_for(self, namespace: str, now: float | None = None) -> float:
        """Seconds for which the watch has been open."""

    def __contains__(self, key: tuple[str, str]) -> bool:
        """Whether an object by this name is there."""


@dataclass(frozen=True)
class _Write:
    kind: Kind
    namespace: str
    name: str
    version: str
    uid: str
    at: float

    @property
    def words(self) -> str:
        what = f"{self.namespace}/{self.name}" if self.name else self.uid
        return f"the {'deletion' if self.uid else 'write'} of {self.kind.name} {what}"


class Expectations:
    """Own writes not yet seen, by the key of their owner. ``clock`` is monotonic, in seconds.

    ``escapes`` counts writes that were given up on after ``ESCAPE_S``: the cache is behind, or broken.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.escapes = 0
        self._clock = clock
        self._writes: dict[str, dict[tuple[str, ...], _Write]] = {}

    def wrote(self, owner: str, kind: Kind, namespace: str, name: str, resource_version: str) -> None:
        """An object is now at ``resource_version``. Empty: the answer got lost, it may or may not be written;
        seen once the object is there, or the watch has been open for ``SETTLED_S`` without it."""
        self._add(owner, _Write(kind, namespace, name, resource_version, "", self._clock()))

    def created(self, owner: str, kind: Kind, namespace: str, name: str, resource_version: str) -> None:
        """The same for an object that was not there before."""
        self.wrote(owner, kind, namespace, name, resource_version)

    def deleted(self, owner: str, kind: Kind, uid: str) -> None:
        """An object was deleted: seen once it is gone, or marked for deletion."""
        self._add(owner, _Write(kind, "", "", "", uid, self._clock()))

    def unseen(self, owner: str, informers: Mapping[Kind, Seen]) -> str | None:
        """The first write that the caches do not show yet, in words; None when they show all.

        Writes of kinds without an informer count as seen.
        """
        writes = self._writes.get(owner)
        if writes is None:
            return None
        now = self._clock()
        for key, write in list(writes.items()):
            informer = informers.get(write.kind)
            if informer is None or _is_seen(write, informer, now):
                del writes[key]
            elif now - write.at >= ESCAPE_S:
                self.escapes += 1
                del writes[key]
            else:
                return write.words
        del self._writes[owner]
        return None

    def forget(self, owner: str) -> None:
        """The owner is gone."""
        self._writes.pop(owner, None)

    def _add(self, owner: str, write: _Write) -> None:
        key = (write.kind.plural, write.kind.group, write.namespace, write.name, write.uid)
        self._writes.setdefault(owner, {})[key] = write


def _is_seen(write: _Write, informer: Seen, now: float) -> bool:
    if write.uid:
        return not informer.stays(write.uid)
    if write.version:
        return informer.has_seen(write.namespace, write.version)
    if (write.namespace, write.name) in informer:
        return True
    return min(informer.live_for(write.namespace, now), now - write.at) >= SETTLED_S
