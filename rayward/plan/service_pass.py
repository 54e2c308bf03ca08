"""One pass over a RayService that is valid, neither suspended nor given up, while it is put together."""

from __future__ import annotations

import math

import msgspec

from rayward.api.problems import ManifestError
from rayward.api.raycluster import RayCluster, parse_ray_cluster
from rayward.api.rayservice import RayService, inner_cluster, may_upgrade
from rayward.api.serve_config import ServeConfig, read_serve_config
from rayward.plan import names
from rayward.plan.merge_patch import difference
from rayward.plan.outcome import Event, ObjectRef, Raw, patch_of, reference
from rayward.plan.pod_state import is_terminating, seconds, timestamp
from rayward.plan.ray_start import DASHBOARD_PORT
from rayward.plan.serve_heads import addresses, head_labels, offered
from rayward.plan.service_change import Change, change_of, changed_in_place
from rayward.plan.service_objects import head_service, new_cluster, serve_ports, serve_service
from rayward.plan.service_outcome import ServeSeen, ServiceObserved, ServicePlan, Submission
from rayward.plan.service_status import Side, cluster_names, service_status
from rayward.plan.settings import Settings
from rayward.plan.spec_hash import fingerprint

STEADY_S = 300.0


class ServicePass:
    """The pass; ``now`` is seconds since the epoch. ``plan`` takes all decisions, once."""

    def __init__(
        self, service: RayService, observed: ServiceObserved, settings: Settings, now: float, suffix: str
    ) -> None:
        self._service, self._observed, self._settings = service, observed, settings
        self._now, self._suffix = now, suffix
        self._wanted = inner_cluster(service)
        config = read_serve_config(service.spec.serve_config_v2)
        self._config = config if isinstance(config, ServeConfig) else ServeConfig(b"")
        self._digest = fingerprint(self._config.body.decode())
        self._clusters = {found["metadata"]["name"]: found for found in observed.clusters}
        self._create: list[Raw] = []
        self._update: list[Raw] = []
        self._delete: list[ObjectRef] = []
        self._events: list[Event] = []
        self._serve: list[Submission] = []
        self._wake = STEADY_S

    def wake(self, seconds_left: float) -> None:
        """Look again after that many seconds at the latest."""
        self._wake = min(self._wake, max(0.0, seconds_left))

    def plan(self) -> ServicePlan:
        """Decide everything."""
        active_name, pending_name = self._choose(*cluster_names(self._service.status))
        active, pending = self._side(active_name), self._side(pending_name)
        for side in (active, pending):
            self._offer_heads(side)
        self._submit(active, newest=not pending.name)
        self._submit(pending, newest=True)
        if self._can_take_over(pending):
            self._say("SwitchedToRayCluster", f"{pending.name} serves" + _instead(active.name))
            active, pending = pending, Side()
        self._lead_to(active)
        self._let_go({active.name, pending.name})
        self._warn_of_ports()
        status = service_status(self._service, active, pending, self._now)
        return ServicePlan(
            create=tuple(self._create),
            delete=tuple(self._delete),
            update=tuple(self._update),
            status=status,
            requeue_after=self._wake,
            events=tuple(self._events),
            serve=tuple(self._serve),
            serve_port=self._serve_port(),
        )

    # -- which clusters there are ----------------------------------------------------------------------

    def _choose(self, active: str, pending: str) -> tuple[str, str]:
        """The names of the two clusters from now on. A new one's name is in the status before it is made: an
        operator that ends in between finds it there."""
        if active and self._living(active) is None:
            # Somebody deleted it; what is pending, if anything, is the way back.
            active = ""
        if pending and pending in self._clusters and self._living(pending) is None:
            pending = ""
        if pending and pending not in self._clusters:
            if active and self._keeps(active):
                return active, ""
            self._build(pending)
            return active, pending
        newest = pending or active
        if newest and self._keeps(newest):
            self._change_in_place(self._clusters[newest])
            return active, pending
        return active, self._successor(active, pending)

    def _successor(self, active: str, pending: str) -> str:
        """What is pending after the newest cluster turned out to be another than the one wanted."""
        if pending:
            self._abandon(pending)
        elif active and not may_upgrade(self._service):
            return ""
        return "" if active and self._keeps(active) else self._next_name()

    def _living(self, name: str) -> Raw | None:
        found = self._clusters.get(name)
        return None if found is None or is_terminating(found) else found

    def _next_name(self) -> str:
        self.wake(0.0)
        return names.service_cluster_name(self._service.name, self._suffix)

    def _build(self, name: str) -> None:
        body = new_cluster(self._service, name)
        self._create.append(body)
        self._say("CreatedRayCluster", f"Created RayCluster {name}", body)

    def _abandon(self, name: str) -> None:
        step = reference({"kind": "RayCluster", **self._clusters[name]}, "the spec changed before it served")
        self._delete.append(step)
        self._say("DeletedRayCluster", f"Deleted RayCluster {name}: {step.reason}", step)

    def _keeps(self, name: str) -> bool:
        """Whether this cluster is the wanted one, or can be made it in place."""
        return self._change(self._clusters[name]) is not Change.NEW_CLUSTER

    def _change(self, raw: Raw) -> Change:
        try:
            running = parse_ray_cluster(raw, unknown=[])
        except ManifestError:
            return Change.NEW_CLUSTER
        return change_of(running, self._wanted)

    def _change_in_place(self, raw: Raw) -> None:
        if self._change(raw) is not Change.IN_PLACE:
            return
        spec = changed_in_place(raw["spec"], self._service.spec.ray_cluster_config)
        patch = _patch_of_cluster(raw)
        patch["spec"] = difference(raw["spec"], spec)
        self._update.append(patch)
        self._say("UpdatedRayCluster", f"Updated RayCluster {raw['metadata']['name']}", patch)

    def _let_go(self, kept: set[str]) -> None:
        """Clusters that nobody is led to any more stay for a while: connections may still be open."""
        for name, raw in sorted(self._clusters.items()):
            if name in kept or is_terminating(raw) or any(step.name == name for step in self._delete):
                continue
            since = seconds(_annotation(raw, names.UNREFERENCED_SINCE))
            delay = self._service.deletion_delay_s
            if since is None:
                patch = _patch_of_cluster(raw)
                # Whole seconds, and never earlier than it is: the delay is a promise to clients.
                since = math.ceil(self._now)
                patch["metadata"]["annotations"] = {names.UNREFERENCED_SINCE: timestamp(since)}
                self._update.append(patch)
                self.wake(since + delay - self._now)
            elif self._now - since < delay:
                self.wake(since + delay - self._now)
            else:
                step = reference({"kind": "RayCluster", **raw}, f"another one serves since {delay} s")
                self._delete.append(step)
                self._say("DeletedRayCluster", f"Deleted RayCluster {name}: {step.reason}", step)

    # -- what is served --------------------------------------------------------------------------------

    def _side(self, name: str) -> Side:
        pods = self._observed.pods.get(name, ())
        nodes = {
            str(pod["status"]["podIP"]): str(pod["metadata"]["name"])
            for pod in pods
            if (pod.get("status") or {}).get("podIP")
        }
        seen = self._observed.serve.get(name)
        return Side(name, self._clusters.get(name), seen, len(offered(pods)), nodes)

    def _offer_heads(self, side: Side) -> None:
        exclude = bool(self._service.spec.exclude_head_pod_from_serve_svc)
        pods = self._observed.pods.get(side.name, ())
        for patch in head_labels(pods, self._observed.proxies, exclude=exclude):
            self._update.append(patch)
            metadata = patch["metadata"]
            words = "is offered" if metadata["labels"][names.SERVE] == "true" else "is not offered any more"
            self._say("UpdatedHeadPodServeLabel", f"Head Pod {metadata['name']} {words} to clients", patch)

    def _submit(self, side: Side, *, newest: bool) -> None:
        """Ask for the applications of one cluster; the newest one also gets the configuration, until it is
        written on it that it has it."""
        if side.raw is None:
            return
        seen = side.seen or ServeSeen()
        written = _annotation(side.raw, names.SERVE_CONFIG_HASH)
        lost = bool(self._config.applications) and seen.view.empty and seen.view_after
        # Nothing was ever sent and nothing is to be: applications may come by another way.
        idle = not written and not self._service.spec.serve_config_v2.strip()
        due = newest and not idle and (self._digest not in (written, seen.taken) or lost)
        if newest and seen.taken == self._digest and written != self._digest and not lost:
            patch = _patch_of_cluster(side.raw)
            patch["metadata"]["annotations"] = {names.SERVE_CONFIG_HASH: self._digest}
            self._update.append(patch)
            self._say("UpdatedServeApplications", f"{side.name} has taken serveConfigV2", patch)
        settled = not due and side.endpoints > 0 and self._all_serve(seen)
        port = int(self._wanted.head.ray_start_params.get("dashboard-port", DASHBOARD_PORT))
        body = self._config.body if due else None
        self._serve.append(Submission(side.name, port, body, self._digest if due else "", settled))

    def _can_take_over(self, side: Side) -> bool:
        """Whether requests may be led to it: every application runs, and every node with a replica of one
        is ready for clients."""
        seen = side.seen
        if side.raw is None or seen is None or not seen.view_after:
            return False
        written = _annotation(side.raw, names.SERVE_CONFIG_HASH)
        if self._service.spec.serve_config_v2.strip() and self._digest not in (written, seen.taken):
            return False
        pods = self._observed.pods.get(side.name, ())
        ready = addresses(offered(pods))
        workers = addresses(pod for pod in pods if names.node_type(pod) == names.WORKER)
        return bool(ready) and self._all_serve(seen) and seen.view.hosts() & workers <= ready

    def _all_serve(self, seen: ServeSeen) -> bool:
        """Whether the applications of the configuration serve; without any, whatever Ray has."""
        return seen.view.serves(self._config.applications or tuple(seen.view.applications or ()))

    def _lead_to(self, active: Side) -> None:
        """The two Services, as they should be for the active cluster."""
        if active.raw is None:
            return
        cluster = _named(self._wanted, active.name)
        wanted = [head_service(self._service, cluster, self._settings)]
        serve = serve_service(self._service, cluster)
        if serve is not None:
            wanted.append(serve)
        existing = {found["metadata"]["name"]: found for found in self._observed.services}
        for body in wanted:
            found = existing.get(body["metadata"]["name"])
            if found is None:
                self._create.append(body)
                self._say("CreatedService", f"Created Service {body['metadata']['name']}", body)
            elif not is_terminating(found):
                self._bring_in_line(found, body)

    def _bring_in_line(self, found: Raw, body: Raw) -> None:
        patch = patch_of(found, "Service")
        old, new = found.get("spec") or {}, body["spec"]
        spec = {}
        if old.get("selector") != new["selector"]:
            # A merge patch: what the old selector had more is taken away.
            spec["selector"] = {**dict.fromkeys(old.get("selector") or {}), **new["selector"]}
        if _ports(old) != _ports(new):
            spec["ports"] = new["ports"]
        labels = (found["metadata"].get("labels") or {}).items()
        missing = {
            key: value for key, value in body["metadata"]["labels"].items() if (key, value) not in labels
        }
        if spec:
            patch["spec"] = spec
        if missing:
            patch["metadata"]["labels"] = missing
        if spec or missing:
            self._update.append(patch)
            self._say("UpdatedService", f"Updated Service {found['metadata']['name']}", patch)

    def _serve_port(self) -> int:
        ports = serve_ports(self._wanted)
        return ports.get("serve", next(iter(ports.values()), self._config.port))

    def _warn_of_ports(self) -> None:
        """What leads to a service that no request reaches; said once for each generation of the spec."""
        if self._service.status.get("observedGeneration") == self._service.metadata.generation:
            return
        ports = serve_ports(self._wanted)
        if not ports and not (self._service.spec.serve_service or {}).get("spec", {}).get("ports"):
            words = "no port of the head container is named serve, so there is no Service for Serve"
            self._events.append(Event("Warning", "FailedToCreateService", words))
        elif ports and self._config.port not in ports.values():
            words = (
                f"Ray Serve listens on {self._config.port} (http_options.port), the head container's port "
            )
            words += f"for Serve is {self._serve_port()}: no request will arrive"
            self._events.append(Event("Warning", "ServePortDiffers", words))

    def _say(self, reason: str, message: str, step: object = None) -> None:
        self._events.append(Event("Normal", reason, message, step))


def _annotation(raw: Raw, name: str) -> str | None:
    found: str | None = (raw["metadata"].get("annotations") or {}).get(name)
    return found


def _patch_of_cluster(raw: Raw) -> Raw:
    return {**patch_of(raw, "RayCluster"), "apiVersion": "ray.io/v1"}


def _named(cluster: RayCluster, name: str) -> RayCluster:
    return msgspec.structs.replace(cluster, metadata=msgspec.structs.replace(cluster.metadata, name=name))


def _ports(spec: Raw) -> set[tuple[object, ...]]:
    return {
        (port.get("name"), port.get("port"), port.get("targetPort", port.get("port")))
        for port in spec.get("ports") or ()
    }


def _instead(name: str) -> str:
    return f" instead of {name}" if name else ""
