"""The store gateway: a small server that stands between a GCS and its Redis, and the loop that drives it.

It lets writes through only as long as the lease in Redis carries the epoch that the agent holds, and keeps
commands while Redis is away. One process, one loop; ``docs/gateway.md`` says what it guarantees.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import sys
import time
from typing import Callable, Dict, Mapping, Set, Tuple

from rayward.errors import RaywardError
from rayward.store import schema
from rayward.store.connection import FaultKind
from rayward.store.gateway_commands import Guard, Kind
from rayward.store.gateway_connector import Connector, Opened
from rayward.store.gateway_control import Control
from rayward.store.gateway_counters import Counters
from rayward.store.gateway_entry import Entry, Special
from rayward.store.gateway_replies import Judgement, Verdict, judge_writer
from rayward.store.gateway_session import ASK_AGAIN_S, Session
from rayward.store.gateway_settings import GatewaySettings
from rayward.store.gateway_stream import Stream
from rayward.store.lease_scripts import guarded_write

_TICK_S = 0.5
_REPORT_S = 1.0
_MOST_CLIENTS = 128
# Faults by which somebody has to do something about the store or the settings.
_REFUSALS = (
    FaultKind.WRONG_PASSWORD, FaultKind.NO_PASSWORD, FaultKind.NO_PERMISSION, FaultKind.TLS, FaultKind.OOM,
)  # fmt: skip


class Gateway:
    """The state that all sessions share. ``holding``: this node does not lead, nothing of a GCS passes;
    ``flowing``: it leads, and the store has not come back as another one; ``term``: how often it has been
    told to lead; ``full``: so much is kept that clients are not read from; ``troubled``: the last that was
    heard of the store was a fault.
    """

    def __init__(self, settings: GatewaySettings, control: Control) -> None:
        self.settings = settings
        self.token = settings.token
        self.park_bytes = settings.park_bytes
        self.counters = Counters()
        self.poller = select.epoll()
        self.handlers: Dict[int, Callable[[int], None]] = {}
        self.holding = True
        self.flowing = False
        self.epoch, self.writer = 0, ""
        self.term = 0
        self.full = False
        self.troubled = False
        self.sessions: Set[Session] = set()
        namespace = settings.store.namespace
        script = guarded_write(settings.audit, settings.fenced) if settings.fenced or settings.audit else ""
        lease_key = schema.own_key(namespace, "lease")
        self._control = control
        self._wake_read, self._wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._connector = Connector(settings.store, script, lease_key, self._wake)
        audit_key = schema.own_key(namespace, "audit") if settings.audit else ""
        self.guard = Guard(self._connector.digest, lease_key, audit_key)
        self._lost = ""
        self._store_state = ""
        self._store_fault = ""
        self._store_since = time.monotonic()
        self._write_refused = False
        self._unknown: Set[bytes] = set()
        self._next_report = 0.0
        self._next_tick = 0.0
        self._listener = socket.create_server(("127.0.0.1", settings.port), backlog=64)

    # -- what sessions ask and tell

    def may_send(self, entry: Entry) -> bool:
        """Whether a question may go to the store now."""
        if self.flowing or entry.kind is Kind.LOCAL:
            return True
        return self.holding and entry.special is Special.SESSION_NAME

    def parked(self, entries: int, size: int) -> None:
        """So many more questions, and bytes of them, wait."""
        counters = self.counters
        counters.parked += entries
        counters.parked_bytes += size
        counters.parked_max = max(counters.parked_max, counters.parked)

    def limit(self, session: Session) -> None:
        """Too much is kept: stop reading from this client, unless it waits for nothing."""
        if session.waiting or session.sent:
            self.full = True
            session.client.pause(True)

    def relieve(self) -> None:
        """Read from clients again once there is room."""
        if self.full and self.counters.held_bytes < self.park_bytes // 2:
            self.full = False
            for session in self.sessions:
                session.client.pause(False)

    def count_wanted(self) -> None:
        """Tell the connector how many sessions are without a connection that want one."""
        self._connector.want(sum(session.wants_upstream for session in self.sessions))

    def upstream_failed(self, reason: str, wait: bool) -> None:
        """A connection to the store is of no use any more. ``wait``: not at once another one."""
        self.counters.reconnects += 1
        if wait:
            self._connector.failed_in_use()
            if not self._write_refused:
                self._store_is("away", f"the connection to the store broke: {reason}")

    def store_refused(self, verdict: Verdict, text: str, kind: Kind) -> None:
        """The store has answered a question with a fault of its own."""
        if verdict is not Verdict.AGAIN:
            # Reads may go on meanwhile; only a write that works shows that this is over.
            self._write_refused = kind is Kind.WRITE
            self._store_is("refused" if verdict is Verdict.REFUSED else "away", f"the store answers: {text}")

    def store_answered(self, kind: Kind) -> None:
        """After a fault the store has answered a question."""
        if self._write_refused and kind is not Kind.WRITE:
            return
        self._write_refused = False
        self.troubled = False
        self._connector.worked()
        self._store_is("ok", "")

    def judged(self, judgement: Judgement) -> None:
        """The lease in the store is not ours."""
        if judgement.verdict is Verdict.FENCED:
            self.counters.fenced += 1
            found = {"is": "fenced", "epoch": self.epoch, "found": judgement.found, "fault": judgement.text}
            self._hold()
            self._control.report(found)
        elif judgement.verdict in (Verdict.EMPTY, Verdict.OLDER) and self._lost != judgement.verdict.value:
            self._lost = judgement.verdict.value
            self.flowing = False
            self._control.report({"is": "lost", "what": self._lost, "fault": judgement.text})

    def tell_unknown(self, name: bytes) -> None:
        """A command that does not pass: once per name into the log, for a new Ray may need it."""
        if name not in self._unknown and len(self._unknown) < 100:
            self._unknown.add(name)
            _log(f"refused a command that the gateway does not know: {name[:40]!r}")

    def forget(self, session: Session) -> None:
        """A session has ended."""
        self.handlers.pop(session.client.fd, None)
        self.sessions.discard(session)
        self.counters.clients = len(self.sessions)
        self.count_wanted()
        self.relieve()

    # -- the loop

    def run(self) -> int:
        """Serve until the agent says quit or is gone; returns the exit code."""
        poller = self.poller
        own: Tuple[Tuple[int, Callable[[int], None]], ...] = (
            (self._control.orders_fd, self._obey),
            (self._listener.fileno(), self._accept),
            (self._wake_read, self._take_opened),
        )
        for fd, handle in own:
            poller.register(fd, select.EPOLLIN)
            self.handlers[fd] = handle
        self._listener.setblocking(False)
        self._control.report({"is": "listening", "port": self._listener.getsockname()[1]})
        handlers, poll, clock = self.handlers, poller.poll, time.monotonic
        while True:
            for fd, mask in poll(_TICK_S / 2, 64):
                handler = handlers.get(fd)
                if handler is not None:
                    handler(mask)
            if clock() >= self._next_tick:
                self._tick(clock())

    def _tick(self, now: float) -> None:
        asking = False
        for session in list(self.sessions):
            session.probe(now, self.settings.silence)
            if session.ask_again_at:
                asking = True
                if now >= session.ask_again_at:
                    session.ask_again_at = 0.0
                    session.pump()
        self._next_tick = now + (ASK_AGAIN_S / 2 if asking else _TICK_S)
        away = self.troubled and not self.holding and now - self._store_since > self.settings.patience
        if away and self.counters.parked:
            _log(f"the store is away for {self.settings.patience:g} s: the clients that wait are closed")
            for session in list(self.sessions):
                if session.waiting:
                    session.close()
        self._control.flush()
        if now >= self._next_report:
            # Also when nothing has changed: it shows that the loop turns.
            self._next_report = now + _REPORT_S
            self._control.report({"is": "counters", **self.counters.as_json()}, droppable=True)

    def _obey(self, _mask: int) -> None:
        orders = self._control.orders()
        if orders is None:
            self._end(0)
            return
        for order in orders:
            what = order.get("do")
            if what == "quit":
                self._end(0)
            elif what == "hold":
                self._hold()
            elif what == "lead" and isinstance(order.get("epoch"), int):
                self._lead(order["epoch"], str(order.get("writer") or order["epoch"]))
            else:
                _log(f"an order that makes no sense: {str(order)[:200]}")

    def _end(self, code: int) -> None:
        # At once, with nothing left to happen: the agent counts on it.
        os._exit(code)

    def _hold(self) -> None:
        """From now on nothing passes. A GCS that led must not go on later with what it knows."""
        led = not self.holding
        self.holding = True
        self.flowing = False
        self._lost = ""
        if led:
            for session in list(self.sessions):
                session.close()

    def _lead(self, epoch: int, writer: str) -> None:
        self.holding = False
        self.flowing = True
        self._lost = ""
        self.epoch, self.writer = epoch, writer
        self.term += 1
        self._connector.lead(self.term)
        self.guard.lead(writer)
        for session in list(self.sessions):
            session.pump()

    def _accept(self, _mask: int) -> None:
        with contextlib.suppress(BlockingIOError):
            while True:
                try:
                    sock, _ = self._listener.accept()
                except OSError as error:
                    if isinstance(error, BlockingIOError):
                        raise
                    _log(f"a client could not be accepted: {error}")
                    return
                if len(self.sessions) >= _MOST_CLIENTS:
                    with contextlib.suppress(OSError):
                        sock.send(b"-ERR max number of clients reached\r\n")
                    sock.close()
                    continue
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                session = Session(self, Stream(sock, self.poller))
                self.sessions.add(session)
                self.handlers[sock.fileno()] = session.client_ready
                self.counters.clients = len(self.sessions)

    # -- the store

    def _wake(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.write(self._wake_write, b"x")

    def _take_opened(self, _mask: int) -> None:
        with contextlib.suppress(BlockingIOError):
            os.read(self._wake_read, 4096)
        for opened in self._connector.take():
            if opened.fault is not None:
                refused = opened.fault.kind in _REFUSALS
                self._store_is("refused" if refused else "away", opened.fault.sentence)
            else:
                self._give_out(opened)
        self.count_wanted()

    def _give_out(self, opened: Opened) -> None:
        connection = opened.connection
        assert connection is not None
        # What the lease said before the agent last told us to lead is out of date.
        if not self.holding and self.settings.fenced and opened.term == self.term:
            judgement = judge_writer(opened.writer, self.writer)
            if judgement.verdict is not Verdict.AGAIN:
                self.judged(judgement)
        session = next((session for session in self.sessions if session.wants_upstream), None)
        if session is None:
            connection.close()
            return
        if not self._write_refused:
            self.troubled = False
            # It has just answered. A pause left from an old fault would hold up the next promotion, or let
            # `ray start` give up its one question, the session's name, after a second.
            self._connector.worked()
            self._store_is("ok", "")
        session.attach(connection)

    def _store_is(self, state: str, fault: str) -> None:
        self.troubled = state != "ok"
        if state == "ok" or self._store_state in ("", "ok"):
            if state == self._store_state:
                return
            self._store_since = time.monotonic()
        elif state == self._store_state and fault == self._store_fault:
            return
        self._store_state, self._store_fault = state, fault
        self._control.report({"is": "store", "state": state, "fault": fault, "since": self._store_since})


def gateway_main(environ: Mapping[str, str]) -> int:
    """Run the gateway in this process until the agent ends it.

    Returns 2 for settings that cannot be used, after a sentence on standard error.
    """
    try:
        settings = GatewaySettings.from_environment(environ)
    except RaywardError as error:
        _log(str(error))
        return 2
    # A Ctrl-C or a service's stop goes to all processes; the GCS has to end before its store does. The agent
    # ends this process, or its own end does.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    try:
        gateway = Gateway(settings, Control())
    except OSError as error:
        _log(f"it cannot listen on 127.0.0.1:{settings.port}: {error.strerror}")
        return 2
    return gateway.run()


def _log(text: str) -> None:
    print(f"rayward gateway: {text}", file=sys.stderr, flush=True)
