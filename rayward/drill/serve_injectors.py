"""From a fault's name to the code that injects it into a RayService and takes away what is left of it.

``inject`` breaks one thing once; ``heal`` is called whatever happens, and may be called more than once.
"""

from __future__ import annotations

import copy
import signal
import time
from collections.abc import Mapping

from rayward.drill import census, heads
from rayward.drill.injectors import kill_pod, strike
from rayward.drill.injectors_network import REDIS, stores
from rayward.drill.injectors_store import is_sentinel
from rayward.drill.serve_look import operator_of, service_of
from rayward.errors import RaywardError
from rayward.local.cluster import LocalCluster
from rayward.local.state import Manifest

OPERATOR_AWAY_S = 5.0
UPGRADE_VARIABLE = "RAYWARD_DRILL_UPGRADE"
UPGRADE_DELAY_S = 5


class ServeInjector:
    """One fault, once. ``target`` says what was hit; ``gone`` which Pods must not be there afterwards.
    ``number`` counts the runs from 1."""

    def __init__(self, cluster: LocalCluster, number: int) -> None:
        self.cluster, self.number = cluster, number
        self.target = ""
        self.gone: frozenset[str] = frozenset()

    def inject(self) -> float:
        """Break it; returns the moment (CLOCK_MONOTONIC) right before."""
        raise NotImplementedError

    def heal(self) -> None:
        """Take away what is still broken on purpose."""


class HeadDelete(ServeInjector):
    """Deletes the leading head's Pod, as kubectl does: it is asked to end first."""

    def inject(self) -> float:
        self.target = heads.leader(self.cluster).name
        self.gone = frozenset({self.target})
        moment = time.monotonic()
        self.cluster.delete("Pod", self.target)
        return moment


class GcsKill(ServeInjector):
    """Kills the leading head's gcs_server."""

    def inject(self) -> float:
        lead = heads.leader(self.cluster)
        assert lead.gcs is not None
        self.target = f"gcs_server pid {lead.gcs[0]} of {lead.name}"
        return strike(lead.gcs, signal.SIGKILL, census.GCS)


class HostLoss(ServeInjector):
    """Ends all of the leading head's Pod at once, and what would start it again."""

    def inject(self) -> float:
        return self.lose(heads.leader(self.cluster).pod)

    def lose(self, pod: Manifest) -> float:
        """End all of a Pod."""
        self.target = str(pod["metadata"]["name"])
        self.gone = frozenset({self.target})
        return kill_pod(self.cluster, pod)


class WorkerLoss(HostLoss):
    """The same for a worker: the next one each run."""

    def inject(self) -> float:
        workers = sorted(census.worker_pods(self.cluster), key=lambda pod: str(pod["metadata"]["name"]))
        return self.lose(workers[(self.number - 1) % len(workers)])


class RedisRestart(ServeInjector):
    """Kills redis-server; what runs its Pod starts it again."""

    def inject(self) -> float:
        pod = next((pod for pod in stores(self.cluster) if not is_sentinel(pod)), None)
        server = census.find_process(pod, REDIS) if pod is not None else None
        if pod is None or server is None:
            raise RaywardError(
                "no redis-server runs in one of its Pods",
                where=f"cluster {self.cluster.name}",
                todo="this fault needs a Redis of its own as the store",
            )
        self.target = f"redis-server pid {server[0]} of {pod['metadata']['name']}"
        return strike(server, signal.SIGKILL, REDIS)


class Upgrade(ServeInjector):
    """Applies the RayService with another variable in the environment of its head's container."""

    _delay = "rayClusterDeletionDelaySeconds"

    def __init__(self, cluster: LocalCluster, number: int) -> None:
        super().__init__(cluster, number)
        self._old_delay: object = None
        self._changed = False

    def inject(self) -> float:
        service = copy.deepcopy(service_of(self.cluster))
        service.pop("status", None)
        spec = service["spec"]
        self._old_delay = spec.get(self._delay)
        container = spec["rayClusterConfig"]["headGroupSpec"]["template"]["spec"]["containers"][0]
        others = [item for item in container.get("env") or () if item["name"] != UPGRADE_VARIABLE]
        value = f"{time.time():.3f}"
        container["env"] = [*others, {"name": UPGRADE_VARIABLE, "value": value}]
        spec[self._delay] = UPGRADE_DELAY_S
        self.target = f"{UPGRADE_VARIABLE}={value} on the head"
        moment = time.monotonic()
        self.cluster.apply([service])
        self._changed = True
        return moment

    def heal(self) -> None:
        if not self._changed:
            return
        self._changed = False
        service = copy.deepcopy(service_of(self.cluster))
        service.pop("status", None)
        if self._old_delay is None:
            service["spec"].pop(self._delay, None)
        else:
            service["spec"][self._delay] = self._old_delay
        self.cluster.apply([service])


class OperatorKill(ServeInjector):
    """Kills the process that keeps the cluster, and starts another a while later."""

    def inject(self) -> float:
        node = operator_of(self.cluster)
        if node is None:
            raise RaywardError("nothing keeps it", where=f"cluster {self.cluster.name}", todo="rayward up")
        self.target = f"node process pid {node[0]}"
        moment = strike(node, signal.SIGKILL, "the node process")
        time.sleep(OPERATOR_AWAY_S)
        self.heal()
        return moment

    def heal(self) -> None:
        self.cluster.ensure_node()


SERVE_INJECTORS: Mapping[str, type[ServeInjector]] = {
    "serve-head-delete": HeadDelete,
    "serve-gcs-kill": GcsKill,
    "serve-host-loss": HostLoss,
    "serve-redis-restart": RedisRestart,
    "serve-worker-loss": WorkerLoss,
    "serve-upgrade": Upgrade,
    "serve-operator-kill": OperatorKill,
}
