"""Listens where the worker's Ray expects the GCS, and passes every connection to the head that leads.

While there is no such head, or its GCS does not answer, connections wait here, accepted and unread; when the
leader changes, those to the old one are cut at once. One thread serves all of them.
"""

from __future__ import annotations

import contextlib
import enum
import errno
import os
import select
import socket
import threading
import time
import traceback
from typing import Callable, Protocol

from rayward.agent import forwarder_rules as rules
from rayward.agent.forwarder_rules import Course, ForwarderStatus, Target
from rayward.agent.heads import Choice
from rayward.agent.listener import Listener
from rayward.agent.peer_call import join_address
from rayward.agent.relay import Relay, is_itself, new_scratch, prepare, reset, still_there
from rayward.errors import RaywardError

CONNECT_TIMEOUT = 1.0
STEER_EVERY = 0.25
TELL_AFTER = 0.1
_IDLE_TURN = 1.0


class LeaderSource(Protocol):
    """What the forwarder needs of ``HeadsWatch``."""

    def choice(self) -> Choice:
        """Who leads, and why it is thought so."""

    def subscribe(self, on_change: Callable[[], None]) -> None:
        """Call ``on_change``, from any thread, whenever ``choice`` may have changed."""


class _Stage(enum.Enum):
    PARKED = "parked"
    CONNECTING = "connecting"
    PASSING = "passing"


class _Connection:
    """One client: its socket, the one to the GCS once there is one, and where it belongs."""

    def __init__(self, client: socket.socket) -> None:
        self.client = client
        self.stage = _Stage.PARKED
        self.dialled_at = 0.0
        self.server: socket.socket | None = None
        self.target: Target | None = None
        self.relay: Relay | None = None


class Forwarder:
    """Passes connections to ``listen_host:listen_port`` on to the GCS of the leader that ``watch`` names.

    ``on_event(reason, message)`` is called from the forwarder's thread when connections begin to wait, go
    on, or change their target. TLS passes untouched: only bytes are seen.
    """

    def __init__(
        self,
        listen_host: str,
        listen_port: int,
        watch: LeaderSource,
        on_event: Callable[[str, str], object],
    ) -> None:
        self._address = join_address(listen_host, listen_port)
        self._watch = watch
        self._on_event = on_event
        self._course = Course(None, False, "no head is known yet")
        # Whether the target is known to take connections; until then one tries for all.
        self._proven = False
        self._try_at = 0.0
        self._steer_at = 0.0
        self._parked: dict[_Connection, None] = {}
        self._connecting: dict[_Connection, None] = {}
        self._passing: dict[_Connection, None] = {}
        self._owners: dict[int, tuple[_Connection, socket.socket]] = {}
        self._masks: dict[int, int] = {}
        self._waiting_since: float | None = None
        self._told_waiting = False
        self._accepted = self._hung_up = self._cuts = self._to_gcs = self._from_gcs = 0
        self._refused = dict.fromkeys(rules.REASONS, 0)
        self._scratch = new_scratch()
        self._poll = select.epoll()
        self._listener = Listener(listen_host, listen_port, self._poll, self._tell)
        self._wake_in, self._wake_out = socket.socketpair()
        self._wake_in.setblocking(False)
        self._wake_out.setblocking(False)
        self._ended = False
        self._thread = threading.Thread(target=self._run, name="forwarder", daemon=True)

    def start(self) -> None:
        """Listen and serve; raises RaywardError when the address cannot be had."""
        try:
            self._listener.listen()
        except OSError as error:
            raise RaywardError(
                f"cannot listen: {os.strerror(error.errno) if error.errno else error}".lower(),
                where=f"address of the forwarder to the GCS, {self._address}",
                todo="end what listens there (ss -ltnp shows it), or give this node's own address and a free "
                "port to `ray start --address`; RAYWARD_FORWARD=off does without a forwarder",
            ) from error
        self._poll.register(self._wake_out.fileno(), select.EPOLLIN)
        self._watch.subscribe(self._wake)
        self._thread.start()

    def stop(self) -> None:
        """Cut everything and end the thread."""
        self._ended = True
        self._wake()
        if self._thread.ident is None:
            self._close_all()
        elif self._thread is not threading.current_thread():
            self._thread.join(2.0)

    def status(self) -> ForwarderStatus:
        """What is forwarded now and was until now; may be called from any thread."""
        course, target = self._course, self._course.target
        refused = dict(self._refused)
        refused[rules.NO_FILES_LEFT] += self._listener.out_of_files
        return ForwarderStatus(
            listening=self._address if self._listener.open else "",
            gcs=target.gcs if target is not None else "",
            epoch=target.epoch if target is not None else 0,
            reason=course.reason,
            connections=len(self._passing),
            parked=len(self._parked),
            connecting=len(self._connecting),
            accepted=self._accepted,
            hung_up=self._hung_up,
            cuts=self._cuts,
            bytes_to_gcs=self._to_gcs,
            bytes_from_gcs=self._from_gcs,
            refused=refused,
            leads=course.open,
        )

    def _wake(self) -> None:
        with contextlib.suppress(OSError):  # full: it is being woken already; closed: it has ended
            self._wake_in.send(b".")

    def _tell(self, reason: str, message: str) -> None:
        try:
            self._on_event(reason, message)
        except Exception:  # a log that fails must not stop the bytes
            traceback.print_exc()

    # the thread

    def _run(self) -> None:
        while not self._ended:
            try:
                self._turn()
            except Exception:  # a worker without its forwarder has no GCS: go on
                traceback.print_exc()
                time.sleep(0.05)
        self._close_all()

    def _close_all(self) -> None:
        for connection in [*self._parked, *self._connecting, *self._passing]:
            self._drop(connection)
        self._listener.close()
        self._poll.close()
        self._wake_in.close()
        self._wake_out.close()

    def _turn(self) -> None:
        called = False
        for number, events in self._poll.poll(self._pause(), 1024):
            if number == self._wake_out.fileno():
                self._steer_at = 0.0
                with contextlib.suppress(BlockingIOError):
                    self._wake_out.recv(4096)
            elif number == self._listener.number():
                called = True
            else:
                self._serve(number, events)
        # Only now may new sockets come to be: they can get the numbers of those that this turn has closed.
        now = time.monotonic()
        self._listener.keep(now)
        if called:
            self._accept(now)
        if now >= self._steer_at:
            self._steer_at = now + STEER_EVERY
            self._steer(now)
        self._give_up_silent(now)
        self._release(now)
        self._report(now)

    def _pause(self) -> float:
        now = time.monotonic()
        times = [now + (_IDLE_TURN if not self._parked else TELL_AFTER)]
        if self._course.open and self._parked and not self._connecting:
            times.append(self._try_at)
        if self._connecting:
            times.append(next(iter(self._connecting)).dialled_at + CONNECT_TIMEOUT)
        listener_at = self._listener.next_look()
        if listener_at is not None:
            times.append(listener_at)
        return max(0.0, min(times) - now)

    def _serve(self, number: int, events: int) -> None:
        connection, sock = self._owners.get(number, (None, None))
        if connection is None or sock is None:
            return
        if sock is connection.client and connection.stage is not _Stage.PASSING:
            self._hung_up += 1
            self._drop(connection)
        elif connection.stage is _Stage.CONNECTING:
            self._finish_dial(connection)
        else:
            self._pass_on(connection, sock, events)

    def _pass_on(self, connection: _Connection, sock: socket.socket, events: int) -> None:
        relay = connection.relay
        assert relay is not None
        try:
            up, down = relay.pump(sock, events)
        except OSError:
            self._drop(connection)
            return
        self._to_gcs += up
        self._from_gcs += down
        if relay.finished:
            self._drop(connection, gently=True)
            return
        for side in (relay.client, relay.server):
            self._wait_for(connection, side, relay.interest(side))

    def _accept(self, now: float) -> None:
        for client in self._listener.accept(now):
            self._accepted += 1
            if len(self._parked) >= rules.MOST_PARKED:
                self._refused[rules.TOO_MANY_PARKED] += 1
                reset(client)
                continue
            try:
                prepare(client)
            except OSError:  # gone already
                client.close()
                continue
            self._park(_Connection(client))

    # where to

    def _steer(self, now: float) -> None:
        before = self._course
        course = rules.choose_course(before.target, self._watch.choice(), self._address)
        self._course = course
        if course.target != before.target:
            old = [each for each in [*self._connecting, *self._passing] if each.target != course.target]
            cut = sum(each.stage is _Stage.PASSING for each in old)
            for each in old:
                if each.stage is _Stage.CONNECTING:
                    self._park_again(each)
                else:
                    self._drop(each)
            self._cuts += cut
            self._tell("ForwarderTarget", f"{course.reason}; {cut} connections to the last GCS were cut")
        if course.target != before.target or (course.open and not before.open):
            self._proven, self._try_at = False, now

    def _release(self, now: float) -> None:
        """Let those go that wait: all when the GCS takes connections, else one that tries for all."""
        if not self._course.open:
            return
        for connection in list(self._parked):
            if not self._proven and (self._connecting or now < self._try_at):
                return
            if still_there(connection.client):
                self._dial(connection, now)
            else:
                self._hung_up += 1
                self._drop(connection)

    def _dial(self, connection: _Connection, now: float) -> None:
        target = self._course.target
        assert target is not None
        try:
            server = socket.socket(target.family, socket.SOCK_STREAM)
        except OSError:
            self._refused[rules.NO_FILES_LEFT] += 1
            self._proven, self._try_at = False, now + rules.RETRY_EVERY
            return
        connection.server, connection.target, connection.dialled_at = server, target, now
        del self._parked[connection]
        self._connecting[connection] = None
        connection.stage = _Stage.CONNECTING
        try:
            prepare(server)
            code = server.connect_ex(target.place)
        except OSError as error:
            code = error.errno or errno.EINVAL
        if code in (0, errno.EINPROGRESS):
            self._wait_for(connection, server, select.EPOLLOUT)
        else:
            self._dial_failed(connection, rules.GCS_REFUSED, now)

    def _finish_dial(self, connection: _Connection) -> None:
        server = connection.server
        assert server is not None
        if server.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) or is_itself(server):
            self._dial_failed(connection, rules.GCS_REFUSED, time.monotonic())
            return
        self._proven = True
        del self._connecting[connection]
        self._passing[connection] = None
        connection.stage = _Stage.PASSING
        connection.relay = Relay(connection.client, server, self._scratch)
        for side in (connection.client, server):
            self._wait_for(connection, side, connection.relay.interest(side))

    def _dial_failed(self, connection: _Connection, reason: str, now: float) -> None:
        self._refused[reason] += 1
        self._proven, self._try_at = False, now + rules.RETRY_EVERY
        self._park_again(connection)

    def _give_up_silent(self, now: float) -> None:
        for connection in list(self._connecting):
            if now - connection.dialled_at >= CONNECT_TIMEOUT:
                self._dial_failed(connection, rules.GCS_SILENT, now)

    # one connection

    def _park(self, connection: _Connection) -> None:
        connection.stage = _Stage.PARKED
        self._parked[connection] = None
        # Not for reading: what the client says is for the GCS. Only its leaving is of interest.
        self._wait_for(connection, connection.client, select.EPOLLRDHUP)

    def _park_again(self, connection: _Connection) -> None:
        self._connecting.pop(connection, None)
        self._close_server(connection)
        self._park(connection)

    def _wait_for(self, connection: _Connection, sock: socket.socket, mask: int) -> None:
        number = sock.fileno()
        known = self._masks.get(number, 0)
        if mask == known:
            return
        if not mask:
            self._poll.unregister(number)
            del self._masks[number], self._owners[number]
            return
        if known:
            self._poll.modify(number, mask)
        else:
            self._poll.register(number, mask)
            self._owners[number] = (connection, sock)
        self._masks[number] = mask

    def _close_server(self, connection: _Connection) -> None:
        if connection.server is not None:
            self._wait_for(connection, connection.server, 0)
            reset(connection.server)
            connection.server = None

    def _drop(self, connection: _Connection, gently: bool = False) -> None:
        """End a connection on both sides: with a RST, or ``gently`` when both have ended already."""
        for stage in (self._parked, self._connecting, self._passing):
            stage.pop(connection, None)
        self._wait_for(connection, connection.client, 0)
        if gently and connection.server is not None:
            self._wait_for(connection, connection.server, 0)
            connection.server.close()
            connection.client.close()
            return
        self._close_server(connection)
        reset(connection.client)

    def _report(self, now: float) -> None:
        """One event when connections have waited for a moment, one when none waits any more."""
        if not self._parked and not self._connecting:
            if self._told_waiting and self._waiting_since is not None:
                waited = now - self._waiting_since
                self._tell("ForwarderGoesOn", f"no connection waits any more, after {waited:.2f} s")
            self._waiting_since, self._told_waiting = None, False
        elif self._waiting_since is None:
            self._waiting_since = now
        elif not self._told_waiting and now - self._waiting_since >= TELL_AFTER:
            self._told_waiting = True
            why = (
                f"{self._course.reason}, its GCS does not answer"
                if self._course.open
                else self._course.reason
            )
            self._tell("ForwarderWaits", f"connections to the GCS wait: {why}")
