"""The faults that play on the change of leaders itself: on purpose, twice at once, twenty times in a row, and
a store that comes back empty."""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections.abc import Mapping

from redis.exceptions import RedisError

from rayward.drill import census, heads, settle
from rayward.drill.heads import HeadView
from rayward.drill.injectors import HostLoss, Injector, Scene, kill_pod, send
from rayward.drill.injectors_store import RedisAway
from rayward.errors import RaywardError
from rayward.store import schema

_PROMOTION_LIMIT = 30.0
_SECOND_WITHIN = 2.0
_REFUSAL_LIMIT = 30.0
_ADOPT_LIMIT = 60.0
_LOOK_AGAIN = 0.02
_POST_LIMIT = 35.0
TIMES = 20
# What twenty failovers may add: caches and new threads settle, a leak of each failover does not.
_ALLOWED = {"agent MiB": 20.0, "GCS MiB": 60.0, "agent threads": 6.0, "keys": 2.0, "alive heads": 0.0}


class Switchover(Injector):
    """Asks the leader's agent to hand over."""

    def __init__(self, scene: Scene) -> None:
        super().__init__(scene)
        self._answer: list[str] = []
        self._thread: threading.Thread | None = None

    def inject(self) -> float:
        self.target = self.scene.lead.name
        moment = self.now()
        self._thread = threading.Thread(target=self._ask, name="drill-switchover", daemon=True)
        self._thread.start()
        return moment

    def _ask(self) -> None:
        try:
            self.scene.cluster.agent_post(self.scene.lead.pod, "/switchover", {"to": None})
        except RaywardError as problem:
            self._answer.append(str(problem).splitlines()[0])

    def aftermath(self) -> list[str]:
        """The agent's refusal, if it refused."""
        if self._thread is not None:
            self._thread.join(_POST_LIMIT)
        return [f"switchover refused: {words}" for words in self._answer]


class SecondFailure(HostLoss):
    """Host-loss; then, at a random moment after somebody has taken the lease, the same to the new leader."""

    def __init__(self, scene: Scene) -> None:
        super().__init__(scene)
        self._delay = scene.generator.uniform(0.0, _SECOND_WITHIN)
        self._whole_host = scene.generator.random() < 0.5
        self._over = threading.Event()
        self._thread: threading.Thread | None = None
        self._struck = False

    def inject(self) -> float:
        moment = super().inject()
        self._thread = threading.Thread(target=self._second, name="drill-second", daemon=True)
        self._thread.start()
        return moment

    def _second(self) -> None:
        deadline = time.monotonic() + _PROMOTION_LIMIT
        while not self._over.is_set() and time.monotonic() < deadline:
            for view in self.scene.standbys:
                status = self.scene.cluster.agent_status(view.pod, timeout=0.3)
                if heads.view_of(view.pod, status, None).role == "leader":
                    self._over.wait(self._delay)
                    self._strike(view)
                    return
            self._over.wait(_LOOK_AGAIN)

    def _strike(self, view: HeadView) -> None:
        what = "every process" if self._whole_host else "gcs_server"
        self.target += f", then {what} of {view.name} {self._delay:.2f} s into its promotion"
        gcs = census.find_process(view.pod, census.GCS)
        with contextlib.suppress(RaywardError):
            if self._whole_host:
                kill_pod(self.scene.cluster, view.pod)
                self._struck = True
            elif gcs is not None:
                self._struck = send(gcs, signal.SIGKILL)

    def heal(self) -> None:
        if self._thread is not None:
            # Answers that came already came from a head that leads: its blow is due now.
            self._thread.join(_SECOND_WITHIN + 1)
        self._over.set()

    def aftermath(self) -> list[str]:
        """Without the second blow this was a plain host-loss."""
        return [] if self._struck else ["the second failure met nobody: no head was being promoted"]


class BackToBack(Injector):
    """Nineteen changes of leader, each after both heads are back, and the twentieth as the fault itself."""

    prelude = True

    def __init__(self, scene: Scene) -> None:
        super().__init__(scene)
        self._wanted = 1 + len(scene.standbys)
        self._before: Mapping[str, float] = {}
        self._last: Injector | None = None

    def inject(self) -> float:
        cluster = self.scene.cluster
        # One of each kind first: what every leader has and a fresh cluster has not is no growth.
        for number in range(1, TIMES):
            if number == 3:
                self._before = settle.measure(cluster)
            self.scene.tell(f"change {number} of {TIMES}")
            step = self._step(number)
            step.inject()
            step.heal()
            settle.wait_settled(cluster, self._wanted, but_leader=step.scene.lead.name)
        self._last = self._step(TIMES)
        self.target = f"{TIMES} changes, the last one {type(self._last).__name__}"
        # What is measured is the last change, from the head that leads now.
        self.scene.lead = self._last.scene.lead
        return self._last.inject()

    def _step(self, number: int) -> Injector:
        views = heads.look(self.scene.cluster)
        lead = heads.choose_leader(views)
        if lead is None:
            raise RaywardError(f"nobody leads before change {number}", where=self.scene.cluster.name)
        scene = Scene(**{**self.scene.__dict__, "lead": lead, "standbys": heads.standbys(views, lead)})
        return Switchover(scene) if number % 2 == 0 else HostLoss(scene)

    def heal(self) -> None:
        if self._last is not None:
            self._last.heal()

    def aftermath(self) -> list[str]:
        """What has grown by more than it may."""
        after = settle.measure(self.scene.cluster)
        self.growth = {name: (self._before.get(name, 0.0), value) for name, value in after.items()}
        return grown(self.growth)


def grown(counted: Mapping[str, tuple[float, float]]) -> list[str]:
    """Which counts, before and after, have grown by more than they may. Pure."""
    return [
        f"{name} grew from {before:g} to {after:g}"
        for name, (before, after) in counted.items()
        if name in _ALLOWED and after - before > _ALLOWED[name]
    ]


class RedisWiped(RedisAway):
    """Empties Redis and restarts it. Some head has to refuse it out loud; then it is adopted by hand."""

    def __init__(self, scene: Scene) -> None:
        super().__init__(scene)
        self._refused: str | None = None
        self._adopted = False

    def inject(self) -> float:
        with heads.redis_of(self.scene.cluster) as (client, _):
            moment = self.now()
            client.flushall()
        super().inject()
        self._keys = 0  # that they are gone is the fault
        return moment

    def heal(self) -> None:
        super().heal()
        if self._adopted:
            return
        self._adopted = True
        self._refused = self._await_refusal()
        self.scene.tell(f"refused: {self._refused or 'by nobody'}; adopting the store")
        self._adopt()

    def _await_refusal(self) -> str | None:
        """The words of the first head that refuses the empty store."""
        deadline = time.monotonic() + _REFUSAL_LIMIT
        while time.monotonic() < deadline:
            with contextlib.suppress(RaywardError):
                for view in heads.look(self.scene.cluster):
                    store = (view.status.get("lead") or {}).get("store") or {}
                    if store.get("state") in ("empty", "older", "foreign"):
                        return str(store.get("fault") or store["state"])
            time.sleep(0.1)
        return None

    def _adopt(self) -> None:
        """Ask every head until one of them takes it, as `rayward store adopt` does."""
        deadline = time.monotonic() + _ADOPT_LIMIT
        words = "no head answers"
        while time.monotonic() < deadline:
            for pod in census.head_pods(self.scene.cluster):
                try:
                    self.scene.cluster.agent_post(pod, "/store/adopt")
                    return
                except RaywardError as problem:
                    words = str(problem).splitlines()[0]
            time.sleep(0.5)
        raise RaywardError(f"the empty store could not be adopted: {words}", where=self.scene.cluster.name)

    def aftermath(self) -> list[str]:
        """It had to be refused, and it must be marked as ours afterwards."""
        found = [] if self._refused else ["no head refused the empty store"]
        with (
            contextlib.suppress(RedisError, RaywardError, OSError),
            heads.redis_of(self.scene.cluster) as (client, namespace),
        ):
            if not client.exists(schema.own_key(namespace, "incarnation")):
                found.append("the adopted store carries no incarnation")
        return found


HEAD_INJECTORS: Mapping[str, type[Injector]] = {
    "switchover": Switchover,
    "second-failure-during-promotion": SecondFailure,
    "back-to-back": BackToBack,
    "redis-wiped": RedisWiped,
}
