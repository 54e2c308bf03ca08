"""The load and the questions of a drill: a Ray driver that runs inside a worker Pod.

Its source is sent to the Pod as text (``python3 -u -c SOURCE``), so it may use nothing but the standard
library (3.9) and Ray. Commands come as JSON lines on stdin, findings leave as JSON lines on stdout; all times
are CLOCK_MONOTONIC, which every Pod of a machine shares. When stdin ends, it removes what it made and ends.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from typing import Any

NAMESPACE = "rayward-drill"
FRESH_KINDS = ("new_actor", "task", "placement_group")


class Lines:
    """JSON lines to the drill. What Ray itself prints to stdout goes to stderr instead."""

    def __init__(self) -> None:
        self._file = os.fdopen(os.dup(1), "w", encoding="utf-8")
        os.dup2(2, 1)
        self._lock = threading.Lock()

    def say(self, kind: str, **values: Any) -> None:
        with self._lock:
            self._file.write(json.dumps({"is": kind, **values}) + "\n")
            self._file.flush()


class Probe:
    """Everything that the probe keeps in the cluster, and the threads that use it."""

    def __init__(self, ray: Any, lines: Lines, settings: dict[str, Any]) -> None:
        self.ray = ray
        self.lines = lines
        self.settings = settings
        self.prefix = "rayward-drill-" + settings["token"]
        self.lock = threading.Lock()
        self.calls: list[Any] = []
        self.tasks: list[Any] = []
        self.asked_again = 0
        self.acknowledged: dict[bytes, bytes] = {}
        self.puts_failed = 0
        self.ended = threading.Event()
        workers = [
            node
            for node in ray.nodes()
            if node["Alive"] and "node:__internal_head__" not in node["Resources"]
        ]
        own = ray.util.get_node_ip_address()
        here = [node["NodeManagerAddress"] for node in workers if node["NodeManagerAddress"] == own]
        others = [node["NodeManagerAddress"] for node in workers if node["NodeManagerAddress"] != own]
        self.own = (here + others)[0]
        # Calls should cross the network where there is a second worker.
        self.target_place = (others or here)[0]
        self._define()

    def pin(self, address: str) -> dict[str, float]:
        """A sliver of a node's own resource: holds something on that node and takes no CPU from anybody."""
        return {"node:" + address: 0.001}

    def _define(self) -> None:
        ray = self.ray

        class Counter:
            def __init__(self) -> None:
                self.value = 0

            def increment(self) -> int:
                self.value += 1
                return self.value

            def where(self) -> list[int]:
                return [os.getpid(), self.value]

        class Fresh:
            def answer(self) -> int:
                return 1

        def task() -> int:
            return 1

        light: dict[str, Any] = {"num_cpus": 0, "resources": self.pin(self.own)}
        self.counter_class = ray.remote(num_cpus=0, max_restarts=0)(Counter)
        self.fresh_class = ray.remote(**light)(Fresh)
        self.task = ray.remote(max_retries=0, **light)(task)

    # -- what must outlive the fault ---------------------------------------------------------------------

    def set_up(self) -> None:
        ray, limit = self.ray, self.settings["limit"]
        places = [self.target_place, self.own]
        self.names = [f"{self.prefix}-{index}" for index in range(len(places))]
        self.kept = [
            self.counter_class.options(name=name, lifetime="detached", resources=self.pin(place)).remote()
            for name, place in zip(self.names, places)  # noqa: B905 (3.9 has no strict)
        ]
        self.group = ray.util.placement_group(
            [self.pin(self.own)], name=self.prefix, lifetime="detached", strategy="PACK"
        )
        kv = self.kv()
        self.entries = {
            f"{self.prefix}-{index}".encode(): os.urandom(64) for index in range(self.settings["entries"])
        }
        for key, value in self.entries.items():
            kv._internal_kv_put(key, value)
        if not self.group.wait(limit):
            raise RuntimeError("the placement group was not placed")
        ray.get([self.task.remote(), *[actor.increment.remote() for actor in self.kept]], timeout=limit)
        self.before = ray.get([actor.where.remote() for actor in self.kept], timeout=limit)
        self.expected = self.before[0][1]

    def kv(self) -> Any:
        from ray.experimental import internal_kv  # noqa: PLC0415 (only a Pod has to have Ray)

        return internal_kv

    def quiet_actors(self) -> list[float]:
        """Seconds until a new actor has answered while nothing is wrong, several times."""
        found = []
        for _ in range(self.settings["quiet_actors"]):
            started = time.monotonic()
            self.ask_new_actor(self.settings["limit"])
            found.append(time.monotonic() - started)
            time.sleep(0.3)
        return found

    # -- load --------------------------------------------------------------------------------------------

    def call_for_ever(self) -> None:
        ray, target, limit = self.ray, self.kept[0], self.settings["limit"]
        while not self.ended.is_set():
            started = time.monotonic()
            error = None
            try:
                value = ray.get(target.increment.remote(), timeout=limit)
                self.expected += 1
                if value != self.expected:
                    error = f"answered {value} where {self.expected} was due"
                    self.expected = value
            except Exception as problem:
                error = type(problem).__name__ + ": " + str(problem).splitlines()[0][:200]
            with self.lock:
                self.calls.append((started, time.monotonic() - started, error))
            self.ended.wait(self.settings["call_pause"] if error is None else 0.1)

    def task_for_ever(self) -> None:
        while not self.ended.is_set():
            started = time.monotonic()
            error = None
            try:
                self.ask_task(self.settings["limit"])
            except Exception as problem:
                error = type(problem).__name__ + ": " + str(problem).splitlines()[0][:200]
            with self.lock:
                self.tasks.append((started, time.monotonic() - started, error))
            self.ended.wait(self.settings["task_pause"])

    def put_for_ever(self) -> None:
        """Keeps writing: what the GCS has acknowledged must be there afterwards, whatever happened."""
        kv, number = self.kv(), 0
        while not self.ended.is_set():
            number += 1
            key, value = f"{self.prefix}-put-{number}".encode(), os.urandom(8).hex().encode()
            try:
                kv._internal_kv_put(key, value)
                with self.lock:
                    self.acknowledged[key] = value
            except Exception:
                self.puts_failed += 1
            self.ended.wait(self.settings["put_pause"])

    def start_load(self) -> None:
        for work in (self.call_for_ever, self.task_for_ever, self.put_for_ever):
            threading.Thread(target=work, daemon=True).start()

    # -- questions at the moment of the fault --------------------------------------------------------------

    def ask_new_actor(self, limit: float) -> float:
        actor = self.fresh_class.remote()
        self.ray.get(actor.answer.remote(), timeout=limit)
        answered = time.monotonic()
        self.ray.kill(actor)
        return answered

    def ask_task(self, limit: float) -> float:
        self.ray.get(self.task.remote(), timeout=limit)
        return time.monotonic()

    def ask_placement_group(self, limit: float) -> float:
        # A GCS that shuts down cancels this call (RpcError: CANCELLED), and while it is away Ray gives up
        # after a while: ask again until the limit, as any caller would have to, and say how often.
        deadline = time.monotonic() + limit
        while True:
            try:
                group = self.ray.util.placement_group([self.pin(self.own)], strategy="PACK")
                if group.wait(max(0.1, deadline - time.monotonic())):
                    break
                raise TimeoutError("not placed in time")
            except self.ray.exceptions.RayError:
                self.asked_again += 1
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.02)
        answered = time.monotonic()
        self.ray.util.remove_placement_group(group)
        return answered

    def ask_all(self, run: int, limit: float) -> None:
        self.asked_again = 0
        for kind in FRESH_KINDS:
            threading.Thread(target=self._ask, args=(run, kind, limit), daemon=True).start()

    def _ask(self, run: int, kind: str, limit: float) -> None:
        error = answered = None
        try:
            answered = getattr(self, "ask_" + kind)(limit)
        except Exception as problem:
            error = type(problem).__name__ + ": " + str(problem).splitlines()[0][:200]
        self.lines.say("answer", run=run, what=kind, at=answered, error=error)

    # -- afterwards ----------------------------------------------------------------------------------------

    def drain(self) -> dict[str, Any]:
        """What was called since the last time."""
        with self.lock:
            calls, tasks, self.calls, self.tasks = self.calls, self.tasks, [], []
        return {"calls": calls, "tasks": tasks, "now": time.monotonic(), "asked_again": self.asked_again}

    def lost(self) -> dict[str, int]:
        """What was there before the fault and is not any more."""
        ray, lost = self.ray, {"actors": 0, "placement_groups": 0, "kv_entries": 0}
        for name, before in zip(self.names, self.before):  # noqa: B905 (3.9 has no strict)
            try:
                pid, value = ray.get(ray.get_actor(name, NAMESPACE).where.remote(), timeout=10)
                same = pid == before[0] and value >= before[1]
            except Exception:
                same = False
            lost["actors"] += int(not same)
        try:
            state = ray.util.placement_group_table(self.group)["state"]
        except Exception:
            state = "GONE"
        lost["placement_groups"] += int(state != "CREATED")
        kv = self.kv()
        for key, value in self.entries.items():
            try:
                found = kv._internal_kv_get(key)
            except Exception:
                found = None
            lost["kv_entries"] += int(found != value)
        return lost

    def written(self) -> dict[str, int]:
        """Looks up every acknowledged write in the store (the GCS keeps no copy), then removes it."""
        with self.lock:
            due, self.acknowledged = self.acknowledged, {}
        kv, lost = self.kv(), 0
        for key, value in due.items():
            try:
                lost += int(kv._internal_kv_get(key) != value)
                kv._internal_kv_del(key)
            except Exception:
                lost += 1
        return {"writes": len(due), "writes_lost": lost}

    def alive_heads(self) -> int:
        """How many nodes the GCS takes for living heads."""
        nodes = [node for node in self.ray.nodes() if node["Alive"]]
        return sum("node:__internal_head__" in node["Resources"] for node in nodes)

    def clean_up(self) -> None:
        self.ended.set()
        for actor in getattr(self, "kept", ()):
            self.ray.kill(actor)
        if hasattr(self, "group"):
            self.ray.util.remove_placement_group(self.group)
        kv = self.kv()
        for key in (*getattr(self, "entries", ()), *self.acknowledged):
            kv._internal_kv_del(key)


def serve(lines: Lines) -> None:
    """Answer commands until ``end`` or until nobody sends any more."""
    probe: Probe | None = None
    for text in sys.stdin:
        command = json.loads(text)
        what = command["do"]
        if what == "set_up":
            import ray  # noqa: PLC0415 (only a Pod has to have Ray)

            ray.init(namespace=NAMESPACE, log_to_driver=False, logging_level="ERROR")
            probe = Probe(ray, lines, command)
            probe.set_up()
            lines.say("set_up", quiet_actors=probe.quiet_actors(), ray=ray.__version__)
            probe.start_load()
        elif what == "ask" and probe is not None:
            probe.ask_all(command["run"], command["limit"])
        elif what == "report" and probe is not None:
            drained = probe.drain()
            lines.say("report", run=command["run"], **drained, lost=probe.lost(), **probe.written())
        elif what == "heads" and probe is not None:
            lines.say("heads", run=command["run"], alive=probe.alive_heads())
        elif what == "end":
            break
    # Whoever reads may be gone, and so may the GCS: no longer than this.
    watchdog = threading.Timer(8, os._exit, (1,))
    watchdog.daemon = True
    watchdog.start()
    if probe is not None:
        probe.clean_up()
    lines.say("ended")


def main() -> None:
    lines = Lines()
    try:
        serve(lines)
    except Exception as problem:
        lines.say("failed", error=type(problem).__name__ + ": " + str(problem)[:2000])
        os._exit(1)
    os._exit(0)


if __name__ == "__main__":
    main()
