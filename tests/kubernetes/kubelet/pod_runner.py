"""Runs the Pods that are bound to this process's nodes: starts them, writes their status, ends them.

Every Pod has a task of its own that looks at everything afresh whenever something changed. All that must
outlive this process is on disk, so another one goes on where it was.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import traceback
from collections.abc import Callable, Mapping
from typing import Any

from kubelet.api_access import UNREACHABLE, ApiError, ApiServer, Object, Reflector, quietly
from kubelet.pod_ground import Ground
from kubelet.pod_report import OVER, complaints, difference, running_since, wanted_status
from kubelet.registration import now_text
from rayward.errors import RaywardError
from rayward.kube.kinds import EVENTS, PODS
from rayward.local.pod_process import PodProcess

_LOOK_S = 0.5
_AFTER_GRACE_S = 10.0
_AT_ONCE = 4

Prepare = Callable[[Object], Any]
Settings = Callable[[Object], Object]


class PodRunner:
    """All Pods of these nodes.

    ``prepare(pod)`` is awaited before a start, and sees to it that what the Pod refers to is on disk;
    ``settings(pod)`` gives what the Pod's process is to be started with; ``changed()`` is called after every
    change of a Pod.
    """

    def __init__(
        self,
        api: ApiServer,
        ground: Ground,
        prepare: Prepare,
        settings: Settings,
        changed: Callable[[], None],
    ) -> None:
        self._api, self._ground = api, ground
        self._prepare, self._settings, self._changed = prepare, settings, changed
        self.pods: dict[str, Object] = {}
        self._reflectors: dict[str, Reflector] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._wakes: dict[str, asyncio.Event] = {}
        self._starts = asyncio.Semaphore(_AT_ONCE)

    def reflector(self, node: str) -> Reflector:
        """The watch of the Pods that are bound to one node."""
        made = Reflector(self._api, PODS, self.take, f"spec.nodeName={node}")
        self._reflectors[node] = made
        return made

    def take(self, old: Object | None, new: Object | None) -> None:
        """A Pod came, changed or went on the API server."""
        for pod, there in ((old, False), (new, True)):
            if pod is None:
                continue
            uid = pod["metadata"]["uid"]
            if there:
                self.pods[uid] = pod
            elif new is None or new["metadata"]["uid"] != uid:
                self.pods.pop(uid, None)
            self._care_for(uid)
        self._changed()

    def _care_for(self, uid: str) -> None:
        if uid not in self._tasks:
            self._wakes[uid] = asyncio.Event()
            self._tasks[uid] = asyncio.create_task(_PodTask(self, uid).run(), name=f"pod {uid}")
        self._wakes[uid].set()

    def adopt(self) -> None:
        """Take up the Pods that an earlier process left, once it is known which of them still exist."""
        for uid in self._ground.found():
            self._care_for(uid)

    def wake_all(self) -> None:
        """Some Pod's process said something."""
        for wake in self._wakes.values():
            wake.set()

    def done_with(self, uid: str) -> None:
        """A Pod is gone for good."""
        self._tasks.pop(uid, None)
        self._wakes.pop(uid, None)
        self._changed()

    async def end_all(self, grace_s: int, bound_s: float) -> None:
        """End every Pod here and delete it on the API server."""
        for pod in list(self.pods.values()):
            await quietly(self._api.delete(PODS, pod, grace_s))
        tasks = list(self._tasks.values())
        if tasks:
            await asyncio.wait(tasks, timeout=bound_s)

    def written(self, pod: Object) -> None:
        """A write returned this version of a Pod."""
        reflector = self._reflectors.get(pod["spec"].get("nodeName", ""))
        if reflector is not None:
            reflector.written(pod)


class _PodTask:
    """One Pod from its binding to its end."""

    def __init__(self, runner: PodRunner, uid: str) -> None:
        self._runner, self._uid = runner, uid
        self._api: ApiServer = runner._api
        self._ground: Ground = runner._ground
        self._asked: tuple[float, int] | None = None
        self._events: dict[str, Any] = {}
        self._sent: tuple[Object, str] | None = None

    async def run(self) -> None:
        """Look again and again, until the Pod is gone."""
        wake = self._runner._wakes[self._uid]
        while True:
            try:
                if await self._step():
                    break
            except (ApiError, *UNREACHABLE, OSError, RaywardError) as error:
                print(f"{now_text()} pod {self._uid}: {error!r}", flush=True)
                await asyncio.sleep(_LOOK_S)
            except Exception:  # one look that went wrong must not be the last one at this Pod
                traceback.print_exc()
                await asyncio.sleep(_LOOK_S)
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(wake.wait(), _LOOK_S)
            wake.clear()
        self._runner.done_with(self._uid)

    @property
    def _process(self) -> PodProcess:
        return self._ground.process(self._uid)

    async def _step(self) -> bool:
        """Look once; True when nothing is left of the Pod."""
        pod = self._runner.pods.get(self._uid)
        process = self._process
        if pod is None:
            return self._end(1)
        if self._ground.is_lost(pod["spec"]["nodeName"]):
            return False
        if "deletionTimestamp" in pod["metadata"]:
            if self._end(int(pod["metadata"].get("deletionGracePeriodSeconds") or 1), forget=False):
                await self._report(pod)
                await self._api.delete(PODS, pod, 0)
            else:
                await self._report(pod)
            return False
        if not process.started and (pod.get("status") or {}).get("phase") not in OVER:
            await self._start(pod)
        await self._report(pod)
        return False

    async def _start(self, pod: Object) -> None:
        async with self._runner._starts:
            if self._uid not in self._runner.pods:
                return
            self._ground.admit(pod)
            await self._runner._prepare(pod)
            settings = self._runner._settings(pod)
            try:
                await asyncio.to_thread(self._process.start, settings, self._ground.fabric)
            except (RaywardError, OSError) as error:
                print(f"{pod['metadata']['name']}: {error}", flush=True)
                await self._event(pod, "Warning", "FailedCreatePodSandBox", str(error))
            self._runner._changed()

    def _end(self, grace_s: int, forget: bool = True) -> bool:
        """Ask the process to end, and see to it that it does; True when it is gone."""
        process = self._process
        if process.started and process.alive():
            now = asyncio.get_running_loop().time()
            if self._asked is None or self._asked[1] > grace_s:
                (process.folder / "grace").write_text(str(grace_s), encoding="ascii")
                self._asked = (now, grace_s)
                process.terminate()
            elif now > self._asked[0] + grace_s + _AFTER_GRACE_S:
                process.kill()
            return False
        if forget:
            self._ground.forget(self._uid)
        return True

    async def _report(self, pod: Object) -> None:
        process = self._process
        died = process.started and not process.alive()
        said = process.status()
        await self._tell(pod, said)
        wanted = wanted_status(pod, said, died, now_text())
        patch = difference(pod, wanted)
        if not patch or self._sent == (wanted, pod["metadata"]["resourceVersion"]):
            return
        try:
            written = await self._api.patch(PODS, pod, {"status": patch}, "status")
        except ApiError as error:
            if error.status not in (404, 409):
                raise
            return
        self._sent = (wanted, written["metadata"]["resourceVersion"])
        self._runner.written(written)

    # -- Events ----------------------------------------------------------------------------------------

    async def _tell(self, pod: Object, said: Mapping[str, Any]) -> None:
        """An Event for each container that started, and for each reason why one did not."""
        for name, start in running_since(said).items():
            if self._events.get(name) != start:
                self._events[name] = start
                await self._event(pod, "Normal", "Started", f"Started container {name}")
        for name, complaint in complaints(said).items():
            if self._events.get(name) != complaint:
                self._events[name] = complaint
                await self._event(pod, "Warning", *complaint)

    async def _event(self, pod: Object, kind: str, reason: str, message: str) -> None:
        now, metadata = now_text(), pod["metadata"]
        about = {"kind": "Pod", "apiVersion": "v1", "uid": metadata["uid"]}
        body = {
            "metadata": {
                "name": f"{metadata['name']}.{os.urandom(8).hex()}",
                "namespace": metadata["namespace"],
            },
            "involvedObject": {**about, "name": metadata["name"], "namespace": metadata["namespace"]},
            "type": kind,
            "reason": reason,
            "message": message[:1024],
            "count": 1,
            "firstTimestamp": now,
            "lastTimestamp": now,
            "source": {"component": "kubelet", "host": pod["spec"]["nodeName"]},
        }
        await quietly(self._api.create(EVENTS, body))
