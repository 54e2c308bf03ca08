"""Keeps a stream ``GET /leader?watch=1`` open to the agent of every head, and knows at once when one ends.

One thread serves all streams. Names are looked up in threads of their own, one each, so that a slow resolver
stalls neither the streams nor another name.
"""

from __future__ import annotations

import contextlib
import errno
import selectors
import socket
import threading
import time
import traceback
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Callable

from rayward.agent import heads as rules
from rayward.agent.heads import Choice, Contact, Floor, HeadView, Link, choose_leader
from rayward.agent.peer_call import ask, host_and_port, join_address

__all__ = ["Choice", "Floor", "HeadView", "HeadsWatch", "Link", "ask", "choose_leader"]

CONNECT_TIMEOUT = 1.0
# A new connection may wait this long for its first line: a frozen agent answers it when it thaws.
FIRST_LINE_TIMEOUT = 3.0
# A stream that lived this long was a good one: after it, the next attempt is made at once.
GOOD_STREAM = 1.0
RESOLVE_EVERY = 1.0
RESOLVE_EVERY_AT_REST = 5.0
FORGET_AFTER = 30.0
MOST_HEADS = 64
_CHUNK = 64 * 1024

Place = tuple[int, Any]


class _Head:
    """One address: its socket, what came from it, and what it is known for. Only the thread uses it."""

    def __init__(self, address: str, place: Place, now: float) -> None:
        self.place = place
        self.sock: socket.socket | None = None
        self.connected = False
        self.dialled_at = now
        self.next_at = now
        self.buffer = b""
        self.in_body = False
        self.received = False
        self.failures = 0
        self.contact = Contact(since=now)
        self.view = HeadView(address)
        self.unwanted_since: float | None = None

    def deadline(self) -> float:
        """When to look at this head again if nothing comes from it."""
        if self.sock is None:
            return self.next_at
        if self.view.link is Link.SILENT:
            return self.gives_up_at()
        # A millisecond later than the rule says: never just before it, which would turn the loop for nothing.
        return min(self.gives_up_at(), rules.newest(self.contact) + rules.SILENT_AFTER + 0.001)

    def gives_up_at(self) -> float:
        """When the connection (attempt) is given up if nothing comes from it."""
        if not self.connected:
            return self.dialled_at + CONNECT_TIMEOUT
        heard = self.contact.heard_at
        if heard is not None and heard >= self.dialled_at:
            return heard + rules.SILENT_AFTER
        return self.dialled_at + FIRST_LINE_TIMEOUT


class HeadsWatch:
    """Watches the agents of ``heads`` (host[:port], several addresses a name are fine) from its own threads.

    ``own`` (member name, host or host:port) is left out of all answers. ``cluster``: heads that name another
    cluster never count as leader. ``on_change`` is called from the watch's thread at once when the link of a
    head or what it says has changed; it must be quick and may not raise. Raises RaywardError at once for an
    address that cannot be one.
    """

    def __init__(
        self,
        heads: Sequence[str],
        default_port: int = 8008,
        own: str = "",
        on_change: Callable[[], None] | None = None,
        cluster: str = "",
    ) -> None:
        self._own = own
        self._cluster = cluster
        self._names = [
            place
            for place in dict.fromkeys(host_and_port(head, default_port) for head in heads if head.strip())
            if own not in (place[0], join_address(*place))
        ]
        self._listeners = [on_change] if on_change is not None else []
        self._lock = threading.Lock()
        self._found: dict[tuple[str, int], tuple[Place, ...]] = {}
        self._heads: dict[str, _Head] = {}
        self._views: tuple[HeadView, ...] = self._with_unresolved(())
        self._floor = Floor()
        self._ended = False
        self._troubles = {place: threading.Event() for place in self._names}
        self._selector = selectors.DefaultSelector()
        self._wake_in, self._wake_out = socket.socketpair()
        self._wake_in.setblocking(False)
        self._wake_out.setblocking(False)
        self._selector.register(self._wake_out, selectors.EVENT_READ, None)
        self._thread = threading.Thread(target=self._run, name="heads-watch", daemon=True)

    def start(self) -> None:
        """Begin to watch."""
        self._thread.start()
        for place in self._names:
            threading.Thread(target=self._resolve, args=(place,), name="heads-resolve", daemon=True).start()

    def stop(self) -> None:
        """End the threads and close all streams; a name lookup under way is left to its time-out."""
        self._ended = True
        for trouble in self._troubles.values():
            trouble.set()
        self._wake()
        if self._thread.ident is None:
            self._close_all()
        elif self._thread is not threading.current_thread():
            self._thread.join(2.0)

    def subscribe(self, on_change: Callable[[], None]) -> None:
        """Call one more listener on every change."""
        with self._lock:
            self._listeners = [*self._listeners, on_change]

    def heads(self) -> tuple[HeadView, ...]:
        """Every head but oneself, as known now. A name that has no address yet is listed as itself."""
        now = time.monotonic()
        with self._lock:
            views = self._views
        return tuple(_aged(view, now) for view in views if not self._is_own(view))

    def choice(self) -> Choice:
        """Who leads, and why it is thought so. Once an epoch was seen to lead, no older one is chosen."""
        views = self.heads()
        with self._lock:
            found = choose_leader(views, self._floor, self._cluster)
            self._floor = self._floor.raised(found.leader)
        return found

    def leader(self) -> HeadView | None:
        """The head that leads; None while nobody that is connected says so."""
        return self.choice().leader

    def view_of(self, member: str) -> HeadView | None:
        """The head of that name: a connected one if there is, else the one heard last; None: never heard."""
        named = [view for view in self.heads() if view.member == member]
        order = [(view.link is Link.CONNECTED, view.heard_at or 0.0) for view in named]
        return named[order.index(max(order))] if named else None

    def _is_own(self, view: HeadView) -> bool:
        return bool(self._own) and self._own in (
            view.member,
            view.address,
            view.address.rpartition(":")[0].strip("[]"),
        )

    # names

    def _resolve(self, place: tuple[str, int]) -> None:
        """The life of one name's thread. A look-up that fails leaves the addresses as they were."""
        name, port = place
        trouble = self._troubles[place]
        while not self._ended:
            found: tuple[Place, ...] = ()
            with contextlib.suppress(OSError, UnicodeError):
                answers = socket.getaddrinfo(name, port, type=socket.SOCK_STREAM)
                found = tuple(dict.fromkeys((answer[0].value, answer[4]) for answer in answers))
            with self._lock:
                news = bool(found) and set(found) != set(self._found.get(place, ()))
                if news:
                    self._found[place] = found
            if news:
                self._wake()
            if trouble.wait(self._resolve_pause(bool(found))):
                trouble.clear()

    def _resolve_pause(self, found: bool) -> float:
        with self._lock:
            at_rest = found and all(view.link is Link.CONNECTED for view in self._views)
        return RESOLVE_EVERY_AT_REST if at_rest else RESOLVE_EVERY

    def _adopt(self, now: float) -> None:
        """Take over what the look-ups found. Called from the thread."""
        with self._lock:
            places = [place for found in self._found.values() for place in found]
        wanted = {join_address(place[1][0], place[1][1]): place for place in places}
        for address, place in wanted.items():
            if address not in self._heads and len(self._heads) < MOST_HEADS:
                self._heads[address] = _Head(address, place, now)
        for address, head in self._heads.items():
            if address in wanted:
                head.unwanted_since = None
            elif head.unwanted_since is None:
                head.unwanted_since = now

    def _forget(self, now: float) -> None:
        """Drop addresses that their name no longer has; one that still speaks is kept."""
        for address, head in list(self._heads.items()):
            gone = head.unwanted_since is not None and now - head.unwanted_since >= FORGET_AFTER
            if gone and head.view.link is not Link.CONNECTED:
                self._close(head)
                del self._heads[address]

    # the thread of the streams

    def _wake(self) -> None:
        with contextlib.suppress(OSError):  # full: it is being woken already; closed: it has ended
            self._wake_in.send(b".")

    def _run(self) -> None:
        while not self._ended:
            try:
                self._turn()
            except Exception:  # the watch must outlive a fault in one turn: everything rests on it
                traceback.print_exc()
                time.sleep(0.1)
        self._close_all()

    def _close_all(self) -> None:
        for head in self._heads.values():
            self._close(head)
        self._selector.close()
        self._wake_in.close()
        self._wake_out.close()

    def _turn(self) -> None:
        deadlines = [head.deadline() for head in self._heads.values()]
        pause = min(deadlines, default=time.monotonic() + 1.0) - time.monotonic()
        for key, events in self._selector.select(max(0.0, min(pause, 1.0))):
            head: _Head | None = key.data
            if head is None:
                with contextlib.suppress(BlockingIOError):
                    self._wake_out.recv(4096)
            elif events & selectors.EVENT_WRITE:
                self._finish_dial(head)
            else:
                self._receive(head)
        now = time.monotonic()
        self._adopt(now)
        for head in self._heads.values():
            self._look_after(head, now)
        self._forget(now)
        self._publish(now)

    def _look_after(self, head: _Head, now: float) -> None:
        if head.sock is not None and now >= head.gives_up_at():
            self._failed(head, refused=False)
        if head.sock is None and now >= head.next_at:
            self._dial(head)

    def _dial(self, head: _Head) -> None:
        head.dialled_at = time.monotonic()
        head.connected = head.in_body = head.received = False
        head.buffer = b""
        family, where = head.place
        try:
            head.sock = socket.socket(family, socket.SOCK_STREAM)
            head.sock.setblocking(False)
            head.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            code = head.sock.connect_ex(where)
        except OSError:
            self._failed(head, refused=False)
            return
        if code in (0, errno.EINPROGRESS):
            self._selector.register(head.sock, selectors.EVENT_WRITE, head)
        else:
            self._failed(head, refused=code in (errno.ECONNREFUSED, errno.ECONNRESET))

    def _finish_dial(self, head: _Head) -> None:
        assert head.sock is not None
        code = head.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if code:
            self._failed(head, refused=code in (errno.ECONNREFUSED, errno.ECONNRESET))
            return
        try:
            # A port of the kernel's own range that nobody listens on may connect to itself.
            if head.sock.getsockname() == head.sock.getpeername():
                raise ConnectionRefusedError
            # HTTP/1.0: the body is not cut into chunks.
            head.sock.send(f"GET /leader?watch=1 HTTP/1.0\r\nHost: {head.view.address}\r\n\r\n".encode())
            self._selector.modify(head.sock, selectors.EVENT_READ, head)
            head.connected = True
        except OSError as error:
            self._failed(head, refused=isinstance(error, ConnectionError))

    def _receive(self, head: _Head) -> None:
        if head.sock is None:
            return
        try:
            data = head.sock.recv(_CHUNK)
        except BlockingIOError:
            return
        except OSError as error:
            # Reset before it said anything: nobody was there to take the connection.
            self._failed(head, refused=isinstance(error, ConnectionError) and not head.received)
            return
        if not data:
            self._failed(head, refused=None)
            return
        head.received = True
        head.buffer += data
        if not self._take_lines(head):
            self._failed(head, refused=None)

    def _take_lines(self, head: _Head) -> bool:
        """Read what is complete; False for an answer that is none."""
        if not head.in_body:
            before, separator, after = head.buffer.partition(b"\r\n\r\n")
            if not separator:
                return len(head.buffer) <= rules.LONGEST_LINE
            head.in_body, head.buffer = True, after
            if before.split(b" ", 2)[1:2] not in ([b"200"], [b"503"]):
                return False
        *lines, head.buffer = head.buffer.split(b"\n")
        for line in lines:
            if not line.strip():
                continue
            now = time.monotonic()
            view = rules.read_line(head.view, line, now) if len(line) <= rules.LONGEST_LINE else None
            if view is None:
                return False
            head.view = view
            head.contact = Contact(head.contact.since, heard_at=now)
            if now - head.dialled_at >= GOOD_STREAM:
                head.failures = 0
        return len(head.buffer) <= rules.LONGEST_LINE

    def _failed(self, head: _Head, refused: bool | None) -> None:
        """An attempt or a stream came to its end. ``refused``: None when the host answered, but neither by
        a refusal nor by silence."""
        now = time.monotonic()
        self._close(head)
        if head.failures == 0:  # it was well until now: perhaps its name has moved on
            for trouble in self._troubles.values():
                trouble.set()
        head.failures += 1
        head.next_at = now + rules.pace(head.failures)
        if refused:
            head.contact = replace(head.contact, refused_at=now, refusals=head.contact.refusals + 1)
        elif refused is False:
            head.contact = replace(head.contact, refusals=0)

    def _close(self, head: _Head) -> None:
        if head.sock is not None:
            with contextlib.suppress(KeyError, ValueError):
                self._selector.unregister(head.sock)
            head.sock.close()
            head.sock = None

    def _publish(self, now: float) -> None:
        """Show the new views, and tell the listeners if they differ in more than the time."""
        for head in self._heads.values():
            head.view = replace(head.view, link=rules.judge(head.contact, now))
        fresh = self._with_unresolved(tuple(head.view for head in self._heads.values()))
        with self._lock:
            changed = [replace(view, heard_at=None) for view in self._views] != [
                replace(view, heard_at=None) for view in fresh
            ]
            self._views = fresh
            listeners = self._listeners
        for listener in listeners if changed else ():
            listener()

    def _with_unresolved(self, views: tuple[HeadView, ...]) -> tuple[HeadView, ...]:
        missing = [place for place in self._names if place not in self._found]
        return (*views, *(HeadView(join_address(*place)) for place in missing))


def _aged(view: HeadView, now: float) -> HeadView:
    """A view read long after it was made (this process was frozen) does not claim a connection."""
    if view.link is Link.CONNECTED and (view.heard_at is None or now - view.heard_at > rules.SILENT_AFTER):
        return replace(view, link=Link.SILENT)
    return view
