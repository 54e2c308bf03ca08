"""The node process of one cluster on this machine: makes what is into what should be, again and again.

Reads the cluster's objects, asks the planner what follows, and carries it out: creates and ends Pods, keeps
their hosts files current, writes status. It remembers nothing that it could not read again, so it may be
killed at any time; Pods go on without it, and the next one takes over where it was.

Run as ``python -m rayward.local.node FOLDER``; ends by itself when the cluster is taken down.
"""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import sys
import time
import traceback
import uuid
from pathlib import Path
from typing import Any

from rayward.errors import RaywardError
from rayward.local import linux
from rayward.local.addresses import pick_address
from rayward.local.hosts import AddressBook, HostsFiles, lasting_role
from rayward.local.intake import now_text
from rayward.local.network import Fabric
from rayward.local.pod_process import PodProcess
from rayward.local.ray_services import RayServices
from rayward.local.service_keeper import ServiceAddresses
from rayward.local.state import (
    ENDED_IN_ORDER,
    NAMESPACE,
    ClusterFolder,
    Manifest,
    read_json,
    write_json,
)
from rayward.local.wake import StatusWatch
from rayward.plan.heads import is_fenced
from rayward.plan.merge_patch import merge_patch
from rayward.plan.names import generated_name
from rayward.plan.reconcile import Observed, reconcile
from rayward.plan.settings import Settings
from rayward.plan.workloads import reconcile_workload

_WORKLOADS = ("Deployment", "StatefulSet", "Job")
_KEPT_EVENTS = 500
_BUSY_PAUSE, _QUIET_PAUSE, _BUSY_FOR = 0.05, 0.5, 3.0


class Node:
    """Everything of one cluster that runs. One ``cycle`` looks at all of it once."""

    def __init__(self, folder: ClusterFolder) -> None:
        self.folder = folder
        self.host_mode = folder.setting("mode") == "host"
        # On the host's network the GCS' port is the host's: nobody else can listen there.
        self.settings = Settings(forward=not self.host_mode)
        self.fabric = None if self.host_mode else Fabric(folder.name, folder.setting("subnet"))
        self.book = AddressBook(folder)
        self.hosts = HostsFiles(folder, self.book)
        self.addresses = ServiceAddresses(folder, self.fabric, self.book) if self.fabric else None
        self._processes: dict[str, PodProcess] = {}
        self._watch = StatusWatch()
        self.services = RayServices(folder, self.settings, self._watch.wake)
        self._stop = False
        self._changed = True

    # -- the loop --------------------------------------------------------------------------------------

    def run(self) -> None:
        """Cycle until the cluster is down or this process is told to end (Pods then go on)."""
        self._watch.wake_on_signals()
        signal.signal(signal.SIGTERM, self._on_stop)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        write_json(
            self.folder.path / "node.json",
            {"pid": os.getpid(), "start_time": linux.process_start_time(os.getpid())},
        )
        busy_until = time.monotonic() + _BUSY_FOR
        while not self._stop:
            self._changed = False
            try:
                with self.folder.locked():
                    done = self.cycle()
            except Exception:  # one bad cycle must not end the node: the next looks at everything afresh
                traceback.print_exc()
                done, self._changed = False, False
                time.sleep(1.0)
            if done:
                return
            if self._changed:
                busy_until = time.monotonic() + _BUSY_FOR
            # A Pod's new status ends the pause: names follow a change of leader at once.
            self._watch.wait(_BUSY_PAUSE if time.monotonic() < busy_until else _QUIET_PAUSE)

    def _on_stop(self, _number: int, _frame: object) -> None:
        self._stop = True

    def cycle(self) -> bool:
        """Look at everything once and take every step that can be taken; True when the cluster is down."""
        going_down = bool(self.folder.setting("down"))
        if going_down:
            self._take_down()
        pods = self._observed_pods()
        if self.addresses is not None and self.addresses.keep(pods):
            self._changed = True
        # Before what may take a second: somebody waits for the name of a new leader.
        if not self.host_mode and self.hosts.refresh(pods):
            self._changed = True
        for service in self.folder.list("RayService"):
            self._reconcile_ray_service(service, pods)
        for cluster in self.folder.list("RayCluster"):
            self._reconcile_ray_cluster(cluster, pods)
        for kind in _WORKLOADS:
            for workload in self.folder.list(kind):
                self._reconcile_workload(workload, pods)
        self._collect_orphans()
        self._keep_claims()
        self._run_pods()
        left = any(self.folder.list(kind) for kind in ENDED_IN_ORDER)
        return going_down and not left

    # -- objects ---------------------------------------------------------------------------------------

    def _observed_pods(self) -> list[Manifest]:
        return [self._with_status(pod) for pod in self.folder.list("Pod")]

    def _with_status(self, pod: Manifest) -> Manifest:
        process = self._process(pod)
        status = dict(process.status())
        if process.started and not process.alive() and status.get("phase") not in ("Succeeded", "Failed"):
            status.update(phase="Failed", reason="PodProcessDied", conditions=[])
        return {**pod, "status": status or {"phase": "Pending"}}

    def _process(self, pod: Manifest) -> PodProcess:
        name = pod["metadata"]["name"]
        found = self._processes.get(name)
        if found is None:
            found = self._processes[name] = PodProcess(self.folder.pods / name)
        self._watch.add(found.folder)
        return found

    def _owned(self, objects: list[Manifest], owner: Manifest) -> tuple[Manifest, ...]:
        uid = owner["metadata"]["uid"]
        return tuple(item for item in objects if uid in _owner_uids(item))

    def _reconcile_ray_cluster(self, cluster: Manifest, pods: list[Manifest]) -> None:
        name = cluster["metadata"]["name"]
        label = [pod for pod in pods if pod["metadata"].get("labels", {}).get("ray.io/cluster") == name]
        jobs = self._owned(self.folder.list("Job"), cluster)
        job_uids = {job["metadata"]["uid"] for job in jobs}
        observed = Observed(
            pods=tuple(pod for pod in label if not job_uids & _owner_uids(pod)),
            services=self._owned(self.folder.list("Service"), cluster),
            jobs=jobs,
            pvcs=tuple(self.folder.list("PersistentVolumeClaim")),
            service_accounts=tuple(self.folder.list("ServiceAccount")),
            roles=self._owned(self.folder.list("Role"), cluster),
            role_bindings=self._owned(self.folder.list("RoleBinding"), cluster),
            secrets=tuple(self.folder.list("Secret")),
            ingresses=self._owned(self.folder.list("Ingress"), cluster),
        )
        plan = reconcile(cluster, observed, self.settings, time.time(), token=secrets.token_urlsafe(32))
        self._carry_out(plan, cluster)
        if plan.remove_cluster:
            self.folder.drop("RayCluster", name)
            self._changed = True

    def _reconcile_ray_service(self, service: Manifest, pods: list[Manifest]) -> None:
        plan = self.services.plan(service, pods)
        self._carry_out(plan, service)
        if plan.remove_cluster:
            self.services.forget(service["metadata"]["uid"])
            self.folder.drop("RayService", service["metadata"]["name"])
            self._changed = True

    def _reconcile_workload(self, workload: Manifest, pods: list[Manifest]) -> None:
        plan = reconcile_workload(workload, self._owned(pods, workload), time.time())
        self._carry_out(plan, workload)

    def _carry_out(self, plan: Any, subject: Manifest) -> None:
        for manifest in plan.create:
            self._create(manifest)
        for reference in plan.delete:
            self._delete(reference.kind, reference.name)
        for manifest in plan.update:
            self._update(manifest)
        changed = dict(subject)
        if plan.finalizers is not None:
            changed["metadata"] = {**subject["metadata"], "finalizers": list(plan.finalizers)}
        if plan.status:
            changed["status"] = plan.status
        if changed != subject:
            self.folder.put(changed)
            self._changed = True
        for event in plan.events:
            self._event(event.type, event.reason, event.message, subject)

    def _create(self, manifest: Manifest) -> None:
        metadata = dict(manifest["metadata"])
        if "name" not in metadata:
            metadata["name"] = generated_name(metadata["generateName"], secrets.choice)
        if self.folder.get(manifest["kind"], metadata["name"]) is not None:
            return
        metadata.setdefault("namespace", NAMESPACE)
        metadata.setdefault("uid", str(uuid.uuid4()))
        metadata.setdefault("creationTimestamp", now_text())
        self.folder.put({**manifest, "metadata": metadata})
        self._changed = True

    def _update(self, manifest: Manifest) -> None:
        found = self.folder.get(manifest["kind"], manifest["metadata"]["name"])
        if found is not None:
            self.folder.put(merge_patch(found, manifest))
            self._changed = True

    def _delete(self, kind: str, name: str) -> None:
        found = self.folder.get(kind, name)
        if found is None or found["metadata"].get("deletionTimestamp"):
            return
        if kind in ENDED_IN_ORDER:
            found["metadata"]["deletionTimestamp"] = now_text()
            self.folder.put(found)
        else:
            self.folder.drop(kind, name)
        self._changed = True

    def _collect_orphans(self) -> None:
        """Delete what belonged to an object that is gone, as Kubernetes' garbage collector does."""
        kinds = self.folder.kinds()
        objects = {kind: self.folder.list(kind) for kind in kinds if kind not in ("ConfigMap", "Secret")}
        uids = {item["metadata"].get("uid") for items in objects.values() for item in items}
        for kind, items in objects.items():
            for item in items:
                owners = _owner_uids(item)
                if owners and not owners & uids:
                    self._delete(kind, item["metadata"]["name"])

    def _keep_claims(self) -> None:
        """A folder for each claim, and none for a claim that is gone."""
        claims = {item["metadata"]["name"] for item in self.folder.list("PersistentVolumeClaim")}
        for name in claims:
            (self.folder.claims / name).mkdir(exist_ok=True)
        for path in self.folder.claims.iterdir():
            if path.name not in claims:
                shutil.rmtree(path, ignore_errors=True)

    def _take_down(self) -> None:
        """Ray clusters first, for their cleanup Job may need a Redis that runs here; then the rest."""
        for kind in ("RayService", "RayCluster"):
            found = self.folder.list(kind)
            for item in found:
                self._delete(kind, item["metadata"]["name"])
            if found:
                return
        for kind in _WORKLOADS:
            for workload in self.folder.list(kind):
                self.folder.drop(kind, workload["metadata"]["name"])
        for pod in self.folder.list("Pod"):
            self._delete("Pod", pod["metadata"]["name"])

    def _event(self, kind: str, reason: str, message: str, about: Manifest) -> None:
        path = self.folder.path / "events.json"
        events = read_json(path) or []
        entry = {
            "type": kind,
            "reason": reason,
            "message": message,
            "kind": about["kind"],
            "name": about["metadata"]["name"],
        }
        if events and {**events[-1], "time": None, "count": None} == {**entry, "time": None, "count": None}:
            events[-1].update(time=now_text(), count=events[-1]["count"] + 1)
        else:
            events.append({**entry, "time": now_text(), "count": 1})
        write_json(path, events[-_KEPT_EVENTS:])

    # -- Pods ------------------------------------------------------------------------------------------

    def _run_pods(self) -> None:
        for pod in self.folder.list("Pod"):
            process = self._process(pod)
            if pod["metadata"].get("deletionTimestamp"):
                self._end_pod(pod, process)
            elif not process.started and not self._predecessor_writes(pod):
                self._start_pod(pod, process)

    def _predecessor_writes(self, pod: Manifest) -> bool:
        """Whether an older head in this one's place still has a process that no fence stops: one GCS may
        write. On the host's network it also has the ports that the new one needs."""
        role = lasting_role(pod)
        others = (
            other for other in self.folder.list("Pod") if other["metadata"]["uid"] != pod["metadata"]["uid"]
        )
        return role is not None and any(
            lasting_role(other) == role
            and (self.host_mode or not is_fenced(other))
            and self._process(other).started
            for other in others
        )

    def _end_pod(self, pod: Manifest, process: PodProcess) -> None:
        name = pod["metadata"]["name"]
        asked = process.folder / "asked-to-end"
        if process.started and process.alive():
            if not asked.exists():
                if self.folder.setting("down"):
                    (process.folder / "grace").write_text("3", encoding="ascii")
                asked.touch()
                process.terminate()
            return
        process.remove()
        self._processes.pop(name, None)
        self.folder.drop("Pod", name)
        self._changed = True

    def _start_pod(self, pod: Manifest, process: PodProcess) -> None:
        try:
            process.start(self._pod_settings(pod), self.fabric)
        except (RaywardError, OSError) as error:
            self._event("Warning", "FailedToStartPod", str(error), pod)
            print(f"{pod['metadata']['name']}: {error}", file=sys.stderr, flush=True)
        self._changed = True

    def _pod_settings(self, pod: Manifest) -> Manifest:
        name = pod["metadata"]["name"]
        address = self.book.address(pod)
        common = {
            "pod": pod,
            "cluster": self.folder.name,
            "objects": str(self.folder.objects),
            "claims": str(self.folder.claims),
            "hosts": str(self.hosts.path(pod)),
            "wake": None,
        }
        (self.folder.pods / name).mkdir(exist_ok=True)
        if self.host_mode:
            return {
                **common,
                "mode": "host",
                "substitutions": self.book.substitutions(pod),
                "host": self.book.host_place(pod),
            }
        self.hosts.write(pod, self._observed_pods())
        subnet = str(self.folder.setting("subnet"))
        return {
            **common,
            "mode": "namespaces",
            "network": {
                "address": address,
                "prefix": int(subnet.rpartition("/")[2]),
                "gateway": pick_address(subnet, ()).rpartition(".")[0] + ".1",
            },
        }


def _owner_uids(manifest: Manifest) -> set[str]:
    return {str(owner["uid"]) for owner in manifest["metadata"].get("ownerReferences", ())}


def main() -> int:
    """Entry point of the node process."""
    folder = ClusterFolder(Path(sys.argv[1]))
    with folder.node_lock() as free:
        if not free:
            return 0
        Node(folder).run()
    return 0


if __name__ == "__main__":
    sys.exit(main())
