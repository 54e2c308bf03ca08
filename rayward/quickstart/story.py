"""The guide's steps, one function each: they act through the command line and return what they checked."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import rayward as package
from rayward.errors import RaywardError
from rayward.local import state
from rayward.local.cluster import LocalCluster
from rayward.quickstart.command import guide, rayward, show
from rayward.quickstart.leftovers import Traces, count_leftovers, note_traces
from rayward.quickstart.steps import Check, equal

EXAMPLE = Path("examples/ray-cluster.external-redis.yaml")
SAMPLES = "/home/ray/samples"
STOCK_SECONDS = 60.0
NEW_ACTOR_LIMIT = 30.0
TABLES = ("ACTOR", "ACTOR_TASK_SPEC", "JOB", "JobCounter", "KV", "NODE", "WORKERS")
_CLEANUP_EVENTS = ("CreatedRedisCleanupJob", "CompletionsReached", "RedisCleanupDone")
_TIMEOUT = "RAY_gcs_rpc_server_reconnect_timeout_s"


def manifest_path() -> Path:
    """The example that the story runs; raises RaywardError outside of a checkout."""
    path = Path(package.__file__).resolve().parent.parent / EXAMPLE
    if not path.is_file():
        raise RaywardError(
            "the example is missing", where=str(path), todo="run it from a checkout of rayward"
        )
    return path


@dataclass
class Scene:
    """What one step leaves for the next: names of Pods, traces to look for, the drills' results."""

    cluster: str
    out: Path
    head: str = ""
    worker: str = ""
    redis: str = ""
    uid: str = ""
    before: dict[str, int] = field(default_factory=dict)
    drill: dict[str, Any] = field(default_factory=dict)
    host_loss: dict[str, Any] = field(default_factory=dict)
    mode: str = "namespaces"
    traces: Traces | None = None

    def local(self) -> LocalCluster:
        """The cluster's folder, for checking."""
        return LocalCluster(state.cluster(self.cluster))

    def pods(self) -> list[dict[str, Any]]:
        """Its Pods, as `get pods -o json` would give them."""
        return self.local().pods()

    def restarts(self) -> dict[str, int]:
        """Container restarts of the Ray Pods by name: a replaced Pod has another name."""
        return {
            pod["metadata"]["name"]: sum(
                int(c["restartCount"]) for c in pod["status"].get("containerStatuses", ())
            )
            for pod in self.pods()
            if pod["metadata"]["name"] in (self.head, self.worker)
            or "ray.io/node-type" in pod["metadata"]["labels"]
        }

    def note(self) -> None:
        """Note which traces the cluster leaves now."""
        self.traces = note_traces(self.local(), self.traces)


def bring_up(scene: Scene) -> list[Check]:
    """Steps 1 to 3 of the guide: a cluster from the guide's manifest."""
    guide(
        "kind create cluster; helm install kuberay-operator; kubectl apply -f ray-cluster.external-redis.yaml"
    )
    rayward("up", "-f", str(_shown(manifest_path())), "--name", scene.cluster)
    scene.note()
    by_kind = {"head": "", "worker": "", "redis": ""}
    for pod in scene.pods():
        labels = pod["metadata"]["labels"]
        by_kind[labels.get("ray.io/node-type") or labels.get("app", "")] = pod["metadata"]["name"]
    scene.head, scene.worker, scene.redis = by_kind["head"], by_kind["worker"], by_kind["redis"]
    addresses = {str(pod["status"].get("podIP")) for pod in scene.pods()}
    kinds = sorted(kind for kind, name in by_kind.items() if name)
    return [
        equal("head, redis, worker", ", ".join(kinds)),
        equal(3, len(addresses), "addresses:"),
    ]


def _shown(path: Path) -> Path:
    try:
        return path.relative_to(Path.cwd())
    except ValueError:
        return path


def use_it(scene: Scene) -> list[Check]:
    """Steps 4 and 5: look at the Pods, create the detached actor, increment it."""
    guide("kubectl get pods")
    rayward("get", "pods", "--cluster", scene.cluster)
    scene.before = scene.restarts()
    guide(f"kubectl exec $HEAD_POD -- python3 {SAMPLES}/detached_actor.py")
    rayward("exec", "--cluster", scene.cluster, scene.head, "--", "python3", f"{SAMPLES}/detached_actor.py")
    return [equal("1", increment(scene), "the counter says")]


def increment(scene: Scene) -> str:
    """Run the guide's script that increments the counter; returns what it printed last."""
    guide(f"kubectl exec $HEAD_POD -- python3 {SAMPLES}/increment_counter.py")
    said = rayward(
        "exec", "--cluster", scene.cluster, scene.head, "--", "python3", f"{SAMPLES}/increment_counter.py"
    )
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    return lines[-1] if lines else "nothing"


def _environment(scene: Scene, pod: str) -> dict[str, str]:
    found = json.loads(rayward("get", "pods", pod, "--cluster", scene.cluster, "-o", "json", quiet=True))
    entries = found["spec"]["containers"][0]["env"]
    values = {
        entry["name"]: entry.get("value", "(from " + ", ".join(entry.get("valueFrom", {})) + ")")
        for entry in entries
    }
    for name in sorted(values):
        if name in (_TIMEOUT, "RAY_external_storage_namespace", "RAY_REDIS_ADDRESS", "REDIS_PASSWORD"):
            show(f"    {name}={values[name]}")
    return values


def look_into_redis(scene: Scene) -> list[Check]:
    """Step 6 and 7.1: the keys in Redis, and what head and worker were told."""
    guide("kubectl get rayclusters.ray.io raycluster-external-redis -o=jsonpath='{.metadata.uid}'")
    found = rayward("get", "rayclusters", scene.cluster, "--cluster", scene.cluster, "-o", "json", quiet=True)
    scene.uid = json.loads(found)["metadata"]["uid"]
    show(f"    {scene.uid}")
    guide("kubectl exec -i $REDIS_POD -- env REDISCLI_AUTH=... redis-cli KEYS '*'")
    rows = json.loads(rayward("store", "keys", "--cluster", scene.cluster, "--json", quiet=True))
    for row in rows:
        show(f"    {row['key']} ({row['entries']})")
    expected = {f"RAY{scene.uid}@{table}" for table in TABLES}
    missing = sorted(expected - {row["key"] for row in rows})
    guide("kubectl get pods $HEAD_POD -o=jsonpath='{.spec.containers[0].env}'")
    head = _environment(scene, scene.head)
    guide("kubectl get pods $YOUR_WORKER_POD -o=jsonpath='{.spec.containers[0].env}'")
    worker = _environment(scene, scene.worker)
    namespace = head.get("RAY_external_storage_namespace")
    return [
        Check(
            f"keys RAY<uid>@ {', '.join(TABLES)}",
            "missing: " + ", ".join(missing) if missing else "all there",
            not missing,
        ),
        Check("namespace = the cluster's uid", namespace or "not set", namespace == scene.uid),
        Check(
            "time-out of 600 s on the worker only",
            f"head: {head.get(_TIMEOUT, 'not set')}, worker: {worker.get(_TIMEOUT, 'not set')}",
            _TIMEOUT not in head and worker.get(_TIMEOUT) == "600",
        ),
    ]


def kill_the_gcs(scene: Scene) -> list[Check]:
    """Step 7: kill gcs_server under load, and see who notices."""
    guide("kubectl exec $HEAD_POD -- pkill gcs_server")
    show("  # a drill kills that one process by its pid, with SIGKILL (pkill could meet others here),")
    show("  # while calls, tasks and a placement group go on, and measures")
    path = scene.out / "drill.json"
    path.unlink(missing_ok=True)
    rayward(
        *("drill", "run", "gcs-kill", "-n", "1", "--pause", "1"),
        *("--cluster", scene.cluster, "--json", str(path)),
        may_fail=True,
    )
    scene.drill = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    guide("kubectl get pods -l=ray.io/is-ray-node=yes")
    rayward("get", "pods", "--cluster", scene.cluster, "-l", "ray.io/is-ray-node=yes")
    after = scene.restarts()
    figures = scene.drill.get("figures", {})
    new_actor = figures.get("new_actor_s", {}).get("p50")
    return [
        Check(
            "the drill holds: no call fails, nothing is lost",
            f"{figures.get('calls_failed', '?')} of {figures.get('calls', '?')} calls failed, "
            f"{figures.get('state_lost', '?')} lost",
            bool(scene.drill.get("ok")),
        ),
        Check(
            "same Pods, 0 restarts",
            ("same Pods" if after.keys() == scene.before.keys() else "other Pods")
            + f", {sum(after.values())} restarts",
            after == scene.before and not sum(after.values()),
        ),
        Check(
            f"a new actor well before {STOCK_SECONDS:.0f} s, when stock Ray's head only gives up after pkill",
            f"{new_actor:.2f} s after the kill" if new_actor is not None else "no new actor",
            new_actor is not None and new_actor < NEW_ACTOR_LIMIT,
        ),
    ]


def use_it_again(scene: Scene) -> list[Check]:
    """Step 8: the actor still counts."""
    return [equal("2", increment(scene), "the counter says")]


def remove_it(scene: Scene) -> list[Check]:
    """Step 9: delete the cluster, see Redis empty, leave nothing."""
    scene.note()
    guide("kubectl delete raycluster raycluster-external-redis")
    rayward("delete", "raycluster", scene.cluster, "--cluster", scene.cluster)
    events = state.read_json(state.cluster(scene.cluster).path / "events.json") or []
    cleaned = [event["reason"] for event in events if event["reason"] in _CLEANUP_EVENTS]
    show(f"    events: {', '.join(cleaned)}")
    size = _database_size(scene)
    scene.note()
    guide("kubectl delete ... ; kind delete cluster")
    rayward("down", scene.cluster)
    assert scene.traces is not None
    left = {what: count for what, count in count_leftovers(scene.traces).items() if count}
    told = ", ".join(f"{count} {what}" for what, count in left.items())
    return [
        Check(
            "the cleanup Job ran",
            "completed" if len(cleaned) == len(_CLEANUP_EVENTS) else "not seen",
            bool(cleaned),
        ),
        equal("0", size, "keys in Redis:"),
        Check(
            "nothing left: no process, namespace, mount, interface, file", told or "nothing left", not left
        ),
    ]


def _database_size(scene: Scene) -> str:
    guide("kubectl exec -i $REDIS_POD -- env REDISCLI_AUTH=... redis-cli DBSIZE")
    # The password is the example's own, and public. One word for address and port, so that it is found and
    # replaced where Pods share this host's network.
    words = ("env", "REDISCLI_AUTH=5241590000000000", "redis-cli", "-u", "redis://127.0.0.1:6379", "DBSIZE")
    said = rayward("exec", "--cluster", scene.cluster, scene.redis, "--", *words)
    return said.strip().removeprefix("(integer) ")
