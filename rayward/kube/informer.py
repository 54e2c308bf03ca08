"""Keeps a copy of all objects of one kind and tells what changes: lists once, then watches, come what may."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from rayward.kube.api_error import ApiError
from rayward.kube.cache import Cache, Change, IndexFunction, View, key_of
from rayward.kube.client import KubeClient, WatchEvent
from rayward.kube.kinds import Kind
from rayward.kube.watch_end import BackOff, Next, Pacing, WatchEnd, classify_watch_end

__all__ = ["Informer", "classify_watch_end"]

Raw = dict[str, Any]
Callback = Callable[[Raw | None, Raw | None, bool], None]

WATCH_S = (240, 360)
PAGE = 250
_log = logging.getLogger("rayward.informer")


@dataclass
class _Feed:
    """One namespace's list and watch (empty: all namespaces)."""

    namespace: str
    back_off: BackOff
    version: str = ""
    relist: bool = True
    listed: bool = False
    problem: str | None = None
    live_since: float | None = None
    events: int = 0


class Informer:
    """The objects of one kind, as ``view`` leaves them, by namespace and name and by ``indices``.

    ``namespaces`` empty: all, with one watch. ``labels`` is a selector. ``metadata_only``: the API server
    sends nothing else of them. Every object handed out is a copy.
    ``synced`` is set when everything was listed once; ``problem`` is a sentence while something is wrong.
    """

    def __init__(
        self,
        client: KubeClient,
        kind: Kind,
        *,
        view: View | None = None,
        namespaces: Iterable[str] = (),
        labels: str = "",
        metadata_only: bool = False,
        indices: Mapping[str, IndexFunction] | None = None,
        pacing: Pacing | None = None,
    ) -> None:
        self.kind = kind
        self.synced = asyncio.Event()
        self.lists = 0
        self._client = client
        self._labels = labels
        self._metadata_only = metadata_only
        self._cache = Cache(view, indices)
        self._callbacks: list[Callback] = []
        pacing = pacing or Pacing()
        scopes = tuple(dict.fromkeys(namespaces)) if kind.namespaced else ()
        self._feeds = {scope: _Feed(scope, BackOff(pacing)) for scope in scopes or ("",)}

    # -- reading ---------------------------------------------------------------------------------------

    def __len__(self) -> int:
        return len(self._cache)

    def __contains__(self, key: tuple[str, str]) -> bool:
        """Whether there is an object of this namespace and name."""
        return key in self._cache

    def get(self, namespace: str, name: str) -> Raw | None:
        """One object."""
        return self._cache.get(namespace, name)

    def select(self, index: str, key: str) -> list[Raw]:
        """The objects under ``key`` of ``index``."""
        return self._cache.select(index, key)

    def all(self) -> list[Raw]:
        """Every object, unpacked here and now: some 10 ms for a thousand."""
        return self._cache.all()

    @property
    def problem(self) -> str | None:
        """What is wrong, for people; None when nothing is."""
        return next((feed.problem for feed in self._feeds.values() if feed.problem), None)

    @property
    def resource_version(self) -> str:
        """Up to where the server's history is known; of several namespaces, where the least is known."""
        versions = [feed.version for feed in self._feeds.values()]
        return min(versions, key=_number) if all(versions) else ""

    def has_seen(self, namespace: str, resource_version: str) -> bool:
        """Whether all up to ``resource_version`` is in the cache; True for a namespace nobody watches."""
        feed = self._feed(namespace)
        return feed is None or _number(feed.version) >= _number(resource_version)

    def live_for(self, namespace: str, now: float | None = None) -> float:
        """Seconds for which the watch has been open without a break (monotonic); 0 while it is not."""
        feed = self._feed(namespace)
        if feed is None or feed.live_since is None:
            return 0.0
        return (time.monotonic() if now is None else now) - feed.live_since

    def stays(self, uid: str) -> bool:
        """Whether an object with this uid is in the cache and not marked for deletion."""
        return self._cache.stays(uid)

    def on_change(self, callback: Callback) -> None:
        """Call ``callback(old, new, initial)`` for each change from now on, in order, from the event loop.

        ``initial``: it was there when the first list was made. A callback must be quick; what it raises is
        logged.
        """
        self._callbacks.append(callback)

    def _feed(self, namespace: str) -> _Feed | None:
        return self._feeds.get("") or self._feeds.get(namespace)

    # -- following -------------------------------------------------------------------------------------

    async def run(self) -> None:
        """List, watch, and again, until cancelled."""
        tasks = [asyncio.create_task(self._follow(feed)) for feed in self._feeds.values()]
        try:
            await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _follow(self, feed: _Feed) -> None:
        what = self._what(feed)
        while True:
            end = await self._round(feed)
            verdict = classify_watch_end(end, what)
            feed.relist = verdict.next is Next.RELIST
            self._report(feed, verdict.problem)
            await asyncio.sleep(feed.back_off.wait(verdict))

    async def _round(self, feed: _Feed) -> WatchEnd:
        """A list if there is need, then one watch to its end."""
        listing = feed.relist
        error: Exception | None = None
        feed.events, feed.live_since = 0, None
        try:
            if listing:
                await self._list(feed)
                listing = False
            await self._watch(feed)
        except (ApiError, OSError) as problem:
            error = problem
        except Exception as problem:  # a defect must cost one round, not the operator
            _log.exception("defect while watching %s", self._what(feed))
            error = problem
        lasted = time.monotonic() - feed.live_since if feed.live_since is not None else 0.0
        feed.live_since = None
        return WatchEnd(listing, error, feed.events, lasted)

    async def _list(self, feed: _Feed) -> None:
        """All pages. What is cached and not listed any more was deleted while nobody looked."""
        gone, mark = self._cache.keys(feed.namespace), ""
        head = {"apiVersion": self.kind.api_version, "kind": self.kind.name}
        while True:
            page = await self._client.list(
                self.kind,
                feed.namespace,
                labels=self._labels,
                limit=PAGE,
                continue_=mark,
                metadata_only=self._metadata_only,
            )
            for item in page:
                gone.discard(key_of(item))
                self._take(feed, {**head, **item})
            mark = page.continue_
            if not mark:
                break
        for key in gone:
            self._tell(self._cache.remove(key), False)
        self.lists += 1
        feed.version, feed.relist, feed.listed = page.resource_version, False, True
        self._report(feed, None)
        if all(each.listed for each in self._feeds.values()):
            self.synced.set()

    async def _watch(self, feed: _Feed) -> None:
        def opened() -> None:
            feed.live_since = time.monotonic()
            self._report(feed, None)

        watch = self._client.watch(
            self.kind,
            feed.namespace,
            resource_version=feed.version,
            labels=self._labels,
            timeout_s=random.randint(*WATCH_S),
            metadata_only=self._metadata_only,
            opened=opened,
        )
        async with contextlib.aclosing(watch) as events:
            async for event in events:
                feed.events += 1
                self._arrived(feed, event)

    def _arrived(self, feed: _Feed, event: WatchEvent) -> None:
        # The version first: callbacks may ask what has been seen.
        feed.version = event.object["metadata"].get("resourceVersion") or feed.version
        if event.type == "DELETED":
            self._tell(self._cache.remove(key_of(event.object), event.object), False)
        elif event.type in ("ADDED", "MODIFIED"):
            self._take(feed, event.object)

    def _take(self, feed: _Feed, raw: Raw) -> None:
        try:
            changes = self._cache.put(raw)
        except Exception:  # one object that the view cannot read must not hide all others
            _log.exception("%s %s cannot be read", self.kind.name, "/".join(key_of(raw)))
            return
        self._tell(changes, not feed.listed)

    def _tell(self, changes: Iterable[Change], initial: bool) -> None:
        for old, new in changes:
            for callback in self._callbacks:
                try:
                    callback(old, new, initial)
                except Exception:
                    _log.exception("a callback for %s failed", self.kind.plural)

    def _what(self, feed: _Feed) -> str:
        where = f"in the namespace {feed.namespace}" if feed.namespace else "at the cluster scope"
        name = f"{self.kind.plural}.{self.kind.group}" if self.kind.group else self.kind.plural
        return f"{name} {where}"

    def _report(self, feed: _Feed, problem: str | None) -> None:
        if problem != feed.problem:
            if problem:
                _log.warning("%s", problem)
            else:
                _log.info("list and watch of %s work again", self._what(feed))
        feed.problem = problem


def _number(version: str) -> int:
    # Versions of one kind are numbers that grow (etcd's revision); anything else counts as nothing seen.
    return int(version) if version.isascii() and version.isdigit() else 0
