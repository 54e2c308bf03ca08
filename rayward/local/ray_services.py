"""The RayServices of one cluster of this machine: gathers what exists, asks the planner, asks Ray Serve.

Ray Serve is asked in a thread of its own; the node process never waits for an answer.
"""

from __future__ import annotations

import asyncio
import base64
import secrets
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from rayward.local.state import ClusterFolder, Manifest
from rayward.plan import names
from rayward.plan.rayservice import reconcile_service
from rayward.plan.service_outcome import ServiceObserved, ServicePlan
from rayward.plan.settings import Settings
from rayward.plan.token_secret import token_secret_of
from rayward.serve.looks import ServeLooks, questions


class RayServices:
    """``wake`` is called, from another thread, when Ray Serve has said something new."""

    def __init__(self, folder: ClusterFolder, settings: Settings, wake: Callable[[], None]) -> None:
        self._folder, self._settings = folder, settings
        self._looks: ServeLooks[str] = ServeLooks(lambda _: wake())
        self._loop = asyncio.new_event_loop()
        self._thread: threading.Thread | None = None

    def plan(self, service: Manifest, pods: Sequence[Manifest]) -> ServicePlan:
        """What to do for one service now. The asking that it wants is under way when this returns."""
        uid = service["metadata"]["uid"]
        clusters = self._owned("RayCluster", uid)
        of = {name: _pods_of(pods, name) for name in (found["metadata"]["name"] for found in clusters)}
        observed = ServiceObserved(
            clusters=tuple(clusters),
            services=tuple(self._owned("Service", uid)),
            pods=of,
            serve=self._looks.seen(uid),
            proxies=self._looks.proxies(uid),
        )
        suffix = names.generated_name("", secrets.choice)
        plan = reconcile_service(service, observed, self._settings, time.time(), suffix=suffix)
        self._ask(uid, plan, of)
        return plan

    def forget(self, uid: str) -> None:
        """The service is gone."""
        self._in_loop(lambda: self._looks.forget(uid))

    def _owned(self, kind: str, uid: str) -> list[Manifest]:
        return [
            found
            for found in self._folder.list(kind)
            if any(owner["uid"] == uid for owner in found["metadata"].get("ownerReferences") or ())
        ]

    def _ask(self, uid: str, plan: ServicePlan, pods: Mapping[str, Sequence[Manifest]]) -> None:
        if self._thread is None and not plan.serve:
            return
        dashboards, proxies = questions(plan, pods)
        with_tokens = [
            replace(found, token=self._token(found.submission.cluster)) if found.address else found
            for found in dashboards
        ]
        self._in_loop(lambda: self._looks.wish(uid, with_tokens, proxies))

    def _token(self, cluster: str) -> str:
        found = self._folder.get("RayCluster", cluster)
        name = token_secret_of(found) if found is not None else ""
        secret = self._folder.get("Secret", name) if name else None
        text = ((secret or {}).get("data") or {}).get(names.TOKEN_KEY, "")
        return base64.b64decode(text).decode() if text else ""

    def _in_loop(self, work: Callable[[], Any]) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="serve-looks", daemon=True)
            self._thread.start()
        self._loop.call_soon_threadsafe(work)

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_until_complete(self._looks.run())


def _pods_of(pods: Sequence[Manifest], cluster: str) -> tuple[Manifest, ...]:
    return tuple(
        pod
        for pod in pods
        if (pod["metadata"].get("labels") or {}).get(names.CLUSTER) == cluster
        and names.node_type(pod) in (names.HEAD, names.WORKER)
    )
