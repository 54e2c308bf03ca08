"""Heads without Ray: each is a process with the real elector, desk, electorate and HTTP port.

Only what would hold a real GCS is played: the guard writes down what it is told, and a "GCS" is a flag that
the fence's deadline or the loss of the lease ends. Times in the journal are CLOCK_BOOTTIME: one clock.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import json
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rayward.agent.config import AgentConfig, build
from rayward.agent.decide import Kind, Phase
from rayward.agent.elector import Elector, Guard, boot_seconds
from rayward.agent.electorate import Electorate
from rayward.agent.events import EventLog
from rayward.agent.head_lead import HeadLead
from rayward.agent.heads_watch import HeadsWatch
from rayward.agent.memory import Memory
from rayward.agent.news import News
from rayward.agent.server import Views, serve
from rayward.agent.snapshot import Snapshot
from rayward.agent.store_desk import StoreDesk
from rayward.agent.timing import LeaseTiming, Timing
from rayward.store.upstream import StoreSettings

TIMING = LeaseTiming(
    ttl=2.0, kill_margin=0.4, renew_interval=0.4, store_timeout=0.4, peer_timeout=0.4, newcomer_factor=2.0,
    forget_after=5.0, gone_after=0.3,
)  # fmt: skip
assert TIMING.problems() == []
# How long a condition may take on a machine that does other things as well.
BOUND = 20.0


# -- the head's side -----------------------------------------------------------------------------------


class PlayedNode(Guard):
    """Guard, supervisor and GCS of one head. What happens is written to ``journal``."""

    def __init__(self, config: AgentConfig, journal: Path) -> None:
        self.config, self.events, self.news = config, EventLog(f"rayward[{config.name}]"), News()
        self.forwarder = self.serve = None
        self.lead: HeadLead | None = None
        self._journal = journal
        self._deadline: float | None = None
        self._fired = ""
        self._gcs = self._prepared = False
        self._ready, self._sticky, self._epoch_killed = True, False, 0
        self._turn = threading.Event()
        self.snapshot = Snapshot(Phase.WAITING_FOR_STORE, "", {}, False, time.monotonic())

    def note(self, what: str, **details: Any) -> None:
        with self._journal.open("a") as journal:
            journal.write(json.dumps({"do": what, "at": boot_seconds(), **details}) + "\n")

    def wake(self) -> None:
        self._turn.set()
        self.news.tell()

    def arm(self, deadline: float) -> None:
        self._deadline, self._fired = deadline, ""
        self.note("arm", deadline=deadline)

    def disarm(self) -> None:
        self._deadline = None
        self.note("disarm")

    def open(self, epoch: int, *_writer: str) -> None:
        self.note("open", epoch=epoch)

    def close(self) -> None:
        self.note("close")

    def ready(self) -> bool:
        return self._ready

    def fired(self) -> str:
        return self._fired

    def obey(self, order: dict[str, Any]) -> bool:
        """Carry out one line from the test; False when the head is to stop."""
        self._prepared = order.get("prepared", self._prepared)
        self._ready = order.get("fence_ready", self._ready)
        self._sticky = order.get("gcs_hangs", self._sticky)
        self.wake()
        return not order.get("stop")

    def turn(self) -> None:
        """One look of the played supervisor."""
        assert self.lead is not None
        self._turn.wait(0.01)
        self._turn.clear()
        standing = self.lead.elector.standing
        if self._deadline is not None and boot_seconds() >= self._deadline:
            self._deadline, self._fired, self._epoch_killed = None, "deadline", standing.epoch
            self.note("fired")
            self._run(False)
            self.lead.elector.wake()
        wanted = standing.leads and standing.epoch != self._epoch_killed
        if wanted or not (self._sticky and self._gcs):
            self._run(wanted)
        self.lead.elector.report(gcs_running=self._gcs, prepared=self._prepared and not self._gcs, gave_up="")

    def _run(self, wanted: bool) -> None:
        if wanted != self._gcs:
            self._gcs = wanted
            self.note("gcs up" if wanted else "gcs down")
            phase = Phase.RUNNING if wanted else Phase.WAITING_FOR_STORE
            self.snapshot = Snapshot(phase, "", {}, wanted, time.monotonic())
            self.news.tell()


def run_head(journal: Path, timing: LeaseTiming) -> None:
    """Run a head by this process's environment until it is told to stop."""
    config = build(Kind.HEAD, ["ray", "start", "--head", "--port=6380"], os.environ)
    settings = config.head
    assert settings is not None
    node = PlayedNode(config, journal)
    lead = HeadLead(config, settings, os.environ, "127.0.0.1", node.events, node.wake)
    agent = f"127.0.0.1:{config.http_port}"
    watch = HeadsWatch(settings.heads, config.http_port, agent, None, settings.cluster)
    desk = StoreDesk(StoreSettings.from_environment(os.environ), settings, timing)
    memory = Memory(settings.state_dir, f"{settings.cluster}-{settings.member}")
    lead.elector = Elector(
        settings, timing, desk, Electorate(watch, timing, settings.token), node, memory, node.events,
        node.wake, agent, lead.gcs_address,
    )  # fmt: skip
    node.lead = lead
    serve(Views(node, Timing()), "127.0.0.1", config.http_port)  # type: ignore[arg-type]
    lead.elector.start()
    stop = threading.Event()

    def listen() -> None:
        for line in sys.stdin:
            if not node.obey(json.loads(line)):
                break
        stop.set()

    threading.Thread(target=listen, daemon=True).start()
    while not stop.is_set():
        node.turn()
    node._run(False)
    lead.elector.report(gcs_running=False, prepared=False, gave_up="")
    lead.elector.stop(6.0)
    node.note("stopped")


# -- the test's side -----------------------------------------------------------------------------------


@dataclasses.dataclass
class Head:
    """One head's process, told by its stdin and seen through its HTTP port."""

    member: str
    port: int
    process: subprocess.Popen[str]
    journal_path: Path
    log: Path
    state_dir: str

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def tell(self, **order: Any) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(order) + "\n")
        self.process.stdin.flush()

    def call(self, path: str, body: Any = None) -> tuple[int, dict[str, Any]]:
        """GET, or POST of ``body``."""
        raw = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"http://{self.address}{path}", data=raw)
        try:
            with urllib.request.urlopen(request, timeout=5) as answer:
                return answer.status, json.loads(answer.read())
        except urllib.error.HTTPError as error:
            return error.code, json.loads(error.read())

    def status(self) -> dict[str, Any]:
        return self.call("/status")[1]

    def lead(self) -> dict[str, Any]:
        found: dict[str, Any] = self.status()["lead"]
        return found

    def leads(self) -> bool:
        return bool(self.lead()["role"] == "leader")

    def reasons(self) -> list[str]:
        return [f"{event['reason']}: {event['message']}" for event in self.status()["events"]]

    def journal(self, what: str = "") -> list[dict[str, Any]]:
        lines = self.journal_path.read_text().splitlines() if self.journal_path.exists() else []
        found = [json.loads(line) for line in lines]
        return [line for line in found if what in ("", line["do"])]

    def kill(self) -> None:
        """As a crash: no farewell. Its GCS goes with it (the rig has no second process)."""
        self.process.kill()
        self.process.wait(10)
        with self.journal_path.open("a") as journal:
            journal.write(json.dumps({"do": "gcs down", "at": boot_seconds()}) + "\n")

    def freeze(self) -> None:
        self.process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self.process.send_signal(signal.SIGCONT)

    def stop(self) -> None:
        """A clean stop."""
        if self.process.poll() is None:
            with contextlib.suppress(OSError):
                self.tell(stop=True)
        self.process.wait(15)

    def end(self) -> None:
        """Whatever a test left of it."""
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(10)
        for pipe in (self.process.stdin,):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()


def start_head(
    directory: Path, member: str, port: int, heads: list[int], redis_port: int, **environ: str
) -> Head:
    """Start a head; ``environ`` overrides."""
    journal, log = directory / f"{member}-{port}.journal", directory / f"{member}-{port}.log"
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("RAY", "REDIS"))}
    settings = {
        **clean,
        "RAY_REDIS_ADDRESS": f"127.0.0.1:{redis_port}",
        "RAY_external_storage_namespace": "ns",
        "RAYWARD_CLUSTER": "blue", "RAYWARD_CLUSTER_UID": "uid-blue", "RAYWARD_POD": member,
        "RAYWARD_HEADS": ",".join(f"127.0.0.1:{head}" for head in heads),
        "RAYWARD_AGENT_PORT": str(port), "RAYWARD_STATE_DIR": str(directory / f"state-{member}"),
        "PYTHONPATH": os.pathsep.join(sys.path),
        **environ,
    }  # fmt: skip
    with log.open("ab") as out:
        process = subprocess.Popen(
            [sys.executable, __file__, str(journal), json.dumps(dataclasses.asdict(TIMING))],
            env=settings, stdin=subprocess.PIPE, stdout=out, stderr=out, text=True,
        )  # fmt: skip
    return Head(member, port, process, journal, log, settings["RAYWARD_STATE_DIR"])


def gcs_spans(head: Head) -> Iterator[tuple[float, float]]:
    """From when until when its GCS ran."""
    since: float | None = None
    for line in head.journal():
        if line["do"] == "gcs up":
            since = line["at"]
        elif line["do"] == "gcs down" and since is not None:
            yield since, line["at"]
            since = None
    if since is not None:
        yield since, float("inf")


def assert_one_at_a_time(*heads: Head) -> None:
    """No two GCS ran at one moment, and every epoch was opened once, by one head, in rising order."""
    spans = sorted((*span, head.member) for head in heads for span in gcs_spans(head))
    for (_, end, first), (start, _, second) in itertools.pairwise(spans):
        assert end <= start, f"{first}'s GCS ran until {end}, {second}'s from {start}: {spans}"
    opened = sorted((line["at"], line["epoch"]) for head in heads for line in head.journal("open"))
    epochs = [epoch for _, epoch in opened]
    assert epochs == sorted(set(epochs)), f"epochs in the order of time: {epochs}"


if __name__ == "__main__":
    run_head(Path(sys.argv[1]), LeaseTiming(**json.loads(sys.argv[2])))
