"""The faults of the network, and those that need one: partitions, silent loss of a host, a slow Redis."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from rayward.drill import census
from rayward.drill.cut import Cut, Rule, alone, between, one_way
from rayward.drill.delay import Delay
from rayward.drill.injectors import HostLoss, Injector, Scene
from rayward.errors import RaywardError
from rayward.local.cluster import LocalCluster
from rayward.local.network import Fabric
from rayward.local.state import Manifest

REDIS = "redis-server"
SLOW_S = 2.0


def fabric_of(cluster: LocalCluster) -> Fabric:
    """The cluster's network; raises RaywardError where its Pods have none of their own."""
    if cluster.mode != "namespaces":
        raise RaywardError(
            "its Pods share this host's network, so packets between them cannot be dropped",
            where=f"cluster {cluster.name}",
            todo="run as root, where every Pod gets a network of its own",
        )
    return Fabric(cluster.name, str(cluster.folder.setting("subnet")))


def addresses(pods: Sequence[Manifest]) -> list[str]:
    """The addresses of Pods that have one."""
    found = [str(pod["status"].get("podIP") or "") for pod in pods]
    return [address for address in found if address]


def stores(cluster: LocalCluster) -> list[Manifest]:
    """The Pods in which a Redis (or its Sentinel) runs; raises RaywardError when there is none."""
    found = census.pods_running(cluster, REDIS)
    if not found:
        raise RaywardError(
            "no Pod of the cluster runs redis-server",
            where=f"cluster {cluster.name}",
            todo="these faults need a Redis that runs in the cluster, as in examples/ray-cluster.ha.yaml",
        )
    return found


def store_rules(scene: Scene) -> tuple[Rule, ...]:
    """The active head and Redis (and Sentinels) are apart."""
    return between([scene.lead.address], addresses(stores(scene.cluster)))


def worker_rules(scene: Scene) -> tuple[Rule, ...]:
    """The active head and all workers are apart."""
    return between([scene.lead.address], addresses(scene.workers))


def standby_rules(scene: Scene) -> tuple[Rule, ...]:
    """The heads are apart."""
    return between([scene.lead.address], [view.address for view in scene.standbys])


def one_way_rules(scene: Scene) -> tuple[Rule, ...]:
    """What the active head sends to Redis and to other heads is lost."""
    others = [*addresses(stores(scene.cluster)), *(view.address for view in scene.standbys)]
    return one_way([scene.lead.address], others)


def all_rules(scene: Scene) -> tuple[Rule, ...]:
    """The active head is alone; this host, from which the drill looks on, still reaches it."""
    return alone(scene.lead.address, [fabric_of(scene.cluster).gateway])


RULES: Mapping[str, Callable[[Scene], tuple[Rule, ...]]] = {
    "partition-store": store_rules,
    "partition-workers": worker_rules,
    "partition-standby": standby_rules,
    "partition-one-way": one_way_rules,
    "partition-all": all_rules,
}


class Partition(Injector):
    """Drops packets by the rules of the fault's name."""

    def __init__(self, scene: Scene) -> None:
        super().__init__(scene)
        self._cut = Cut(fabric_of(scene.cluster).path)

    def inject(self) -> float:
        rules = RULES[self.scene.fault.name](self.scene)
        self.target = f"{self.scene.lead.name}, {len(rules)} rules"
        moment = self.now()
        self._cut.apply(rules)
        return moment

    def heal(self) -> None:
        self._cut.heal()


class SilentHostLoss(HostLoss):
    """Cuts the head off first, so that no connection is closed where anybody could see it, then ends it."""

    def __init__(self, scene: Scene) -> None:
        super().__init__(scene)
        self._cut = Cut(fabric_of(scene.cluster).path)

    def inject(self) -> float:
        moment = self.now()
        self._cut.apply(alone(self.scene.lead.address))
        super().inject()
        return moment

    def heal(self) -> None:
        self._cut.heal()


class SlowRedis(Injector):
    """Holds back each packet that a Redis Pod sends."""

    def __init__(self, scene: Scene) -> None:
        super().__init__(scene)
        self._delays: list[Delay] = []

    def inject(self) -> float:
        fabric = fabric_of(self.scene.cluster)
        pods = stores(self.scene.cluster)
        if len(pods) > 1:
            raise RaywardError("more than one Pod runs redis-server", where="redis-slow")
        self._delays = [Delay(fabric, address, SLOW_S) for address in addresses(pods)]
        self.target = f"{pods[0]['metadata']['name']}, {SLOW_S:g} s"
        moment = self.now()
        for delay in self._delays:
            delay.start()
        return moment

    def heal(self) -> None:
        for delay in self._delays:
            delay.stop()


NETWORK_INJECTORS: Mapping[str, type[Injector]] = {
    **dict.fromkeys(RULES, Partition),
    "host-loss-silent": SilentHostLoss,
    "redis-slow": SlowRedis,
}
