"""How much the operator writes: what must exist, once, and then nothing, also after a restart."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from clusters import REDIS, Stage, cluster, group, metric, operating, stays, template, writes
from control_plane import ControlPlane, until
from kubelet_fixture import NodeProcess
from operator_process import OperatorProcess

from rayward.kube.kinds import SECRETS


@pytest.fixture
def bare(crds: ControlPlane, hollow_node: NodeProcess, namespace: str) -> Stage:
    """A namespace without an operator."""
    return Stage(crds, namespace)


@pytest.fixture
def alone(bare: Stage) -> Iterator[OperatorProcess]:
    """An operator for this namespace only: what ends in others must not count."""
    with operating(bare.plane, "--watch-namespace", bare.namespace) as found:
        yield found


def asked(operator: OperatorProcess) -> list[str]:
    """The counters of all requests that change something, but for those of the Lease."""
    found = [
        line for line in operator.metrics().splitlines() if line.startswith("rest_client_requests_total")
    ]
    reads = ("GET", "LIST", "WATCH")
    return [line for line in found if "leases" not in line and not any(f'"{verb}"' in line for verb in reads)]


def until_quiet(operator: OperatorProcess) -> None:
    """Until the operator has written nothing for a second."""

    def quiet() -> bool:
        before = writes(operator)
        try:
            stays("no write", lambda: writes(operator) == before, 1.0)
        except AssertionError:
            return False
        return True

    try:
        until("it is quiet", quiet, 20)
    except AssertionError as problem:
        raise AssertionError(f"{problem}: {asked(operator)}") from None


def test_it_takes_few_writes(bare: Stage, alone: OperatorProcess) -> None:
    """What must exist, once each, and a status now and then."""
    bare.apply(cluster("first"))
    bare.until_state(name="first")
    until_quiet(alone)

    def made(what: str, verb: str = "CREATE") -> float:
        return metric(alone, "rest_client_requests_total", resource=what, method=verb)

    kinds = ("pods", "services", "configmaps")
    before, patches = [made(kind) for kind in kinds], made("rayclusters", "PATCH")
    bare.apply(cluster("second", group(replicas=3)))
    bare.until_state(name="second")
    until_quiet(alone)
    assert [made(kind) - earlier for kind, earlier in zip(kinds, before, strict=True)] == [4, 1, 0]
    assert made("rayclusters", "PATCH") - patches <= 3
    assert made("pods", "PATCH") == made("pods", "DELETE") == 0


def test_nothing_is_written_when_nothing_happens(bare: Stage, alone: OperatorProcess) -> None:
    """Not for a cluster that is well, nor for one that cannot be: pending, invalid, suspended, without a
    word from its agents, another operator's, with a field that is not acted on."""
    nowhere = template()
    nowhere["spec"]["nodeSelector"] = {"rayward.test/no": "such"}
    wrong = template(env=[{"name": "REDIS_USERNAME", "value": "x"}])
    bare.apply(cluster("well"))
    bare.apply(cluster("silent", gcsFaultToleranceOptions=REDIS))
    bare.apply(cluster("pending", head={"template": nowhere}))
    bare.apply(cluster("invalid", head={"template": wrong}))
    bare.apply(cluster("suspended", suspend=True))
    bare.apply(cluster("others", managedBy="kueue.x-k8s.io/multikueue"))
    bare.apply(cluster("ignored", historyServerOptions={"collectorOptions": {}}))
    for name in ("well", "silent", "ignored"):
        bare.until_state(name=name)
    bare.until_state("suspended", "suspended")
    bare.until_event("InvalidRayClusterSpec")
    until("their silence is noticed", lambda: bare.condition("LeaderElected", "silent")[0] == "Unknown")
    until_quiet(alone)
    objects, counters, made = bare.versions(), asked(alone), writes(alone)
    # Longer than the agents of heads that do not answer are left in peace.
    try:
        stays("nothing is written", lambda: writes(alone) == made, 5.5)
    finally:
        assert asked(alone) == counters
    assert bare.versions() == objects


def test_a_restart_writes_nothing(bare: Stage) -> None:
    """All that was settled is settled for the next one: no other token, no Event again, no status."""
    here = ("--watch-namespace", bare.namespace)
    with operating(bare.plane, *here) as first:
        bare.apply(cluster("plain", authOptions={"mode": "token"}))
        bare.apply(cluster("redis", enableInTreeAutoscaling=True, gcsFaultToleranceOptions=REDIS))
        bare.apply(cluster("resting", suspend=True))
        bare.apply(cluster("ignored", historyServerOptions={"collectorOptions": {}}))
        for name, state in {"plain": "ready", "redis": "ready", "resting": "suspended"}.items():
            bare.until_state(state, name)
        until("their silence is noticed", lambda: bare.condition("LeaderElected", "redis")[0] == "Unknown")
        until_quiet(first)
        assert first.stop() == 0
    token, objects = bare.there(SECRETS, "plain"), bare.versions()
    with operating(bare.plane, *here) as second:
        until("it has looked at each", lambda: metric(second, "kuberay_cluster_info") == 4)
        # Longer than it takes to ask the agents of heads for the first time.
        try:
            stays("nothing is written", lambda: writes(second) == 0, 3.5)
        finally:
            assert asked(second) == []
        assert bare.versions() == objects
        assert bare.there(SECRETS, "plain")["data"] == token["data"]
