"""One client of the gateway and its own connection to the store: what was asked, sent and answered.

Answers leave in the order of the questions, whoever gives them. A question stays here until its whole answer
has come, so that it can be asked again on another connection.
"""

from __future__ import annotations

import contextlib
import time
from collections import deque
from typing import TYPE_CHECKING, Deque, List, Optional, Sequence, Tuple

from rayward.store.gateway_commands import (
    NIL,
    Kind,
    asks_session_name,
    before_login_reply,
    kind_of,
    local_reply,
    login_reply,
    probes_for_writing,
    protocol_error,
    refusal,
)
from rayward.store.gateway_entry import ENTRY_BYTES, Entry, Special
from rayward.store.gateway_frames import Cutter, command_and_key, words_of_one
from rayward.store.gateway_replies import LEASE_VERDICTS, Verdict, judge, repeated_hsetnx
from rayward.store.gateway_stream import Stream
from rayward.store.resp import ProtocolError, encode, split_request

if TYPE_CHECKING:
    from rayward.store.gateway import Gateway
    from rayward.store.upstream import StoreConnection

# Answers kept for a client that does not read, and what somebody may send who has not logged in.
_OUT_LIMIT = 16 * 1024 * 1024
_STRANGER_LIMIT = 16 * 1024
# How soon a standby asks again for the name of a session that is not there yet.
ASK_AGAIN_S = 0.2
_PING = encode("PING")
_ERROR = ord("-")
# Of select.epoll; anything else beside them means that the connection has ended.
_IN, _OUT = 1, 4
# What is shorter is looked at whether it is one simple command.
_SHORT = 16 * 1024


class Session:
    """A client and its way to the store. ``waiting`` holds questions that were not sent, ``sent`` those that
    were; between them lie those that the gateway answers itself when their turn comes.
    """

    def __init__(self, gateway: Gateway, client: Stream) -> None:
        self.gateway = gateway
        self.client = client
        self.upstream: Optional[Stream] = None
        self.wants_upstream = False
        self.waiting: Deque[Entry] = deque()
        self.sent: Deque[Entry] = deque()
        self.heard_at = 0.0
        self.ask_again_at = 0.0
        self.closed = False
        self._logged_in = False
        self._closing = False
        self._questions = Cutter(commands=True)
        self._answers = Cutter()

    def client_ready(self, mask: int) -> None:
        """The client's socket can be read or written."""
        try:
            if mask != _IN:
                self._client_takes()
            if mask != _OUT:
                data = self.client.read()
                if data is not None:
                    self._client_sent(data)
        except OSError:
            self.close()

    def _client_takes(self) -> None:
        self.client.flush()
        if self.upstream is not None and self.client.out_bytes <= _OUT_LIMIT:
            self.upstream.pause(False)

    def _client_sent(self, data: bytes) -> None:
        if not data or self._closing:
            self.close()
            return
        batch: List[bytes] = []
        words = words_of_one(data) if len(data) < _SHORT and self._questions.fresh else []
        if words:
            self._question(data, words, batch)
        else:
            self._many_sent(data, batch)
        if self.closed:
            return
        if batch:
            self._send(batch)
        if self.waiting:
            self._claim_upstream()
        gateway = self.gateway
        if gateway.counters.held_bytes >= gateway.park_bytes:
            gateway.limit(self)

    def _many_sent(self, data: bytes, batch: List[bytes]) -> None:
        """Commands in any number and state of completeness."""
        try:
            frames = self._questions.feed(data)
        except ProtocolError as error:
            self.gateway.counters.refused += 1
            self._say_and_close(protocol_error(str(error)))
            return
        if not self._logged_in and self._questions.held + len(data) > _STRANGER_LIMIT:
            self._say_and_close(protocol_error("too much before AUTH"))
            return
        for frame in frames:
            words = command_and_key(frame)
            if words:  # "*0" has none, and Redis ignores it
                self._question(frame, words, batch)
            if self.closed or self._closing:
                return

    def _question(self, frame: bytes, words: Sequence[bytes], batch: List[bytes]) -> None:
        """Answer, send (by way of ``batch``) or park one command, of which ``words`` are the first two."""
        counters = self.gateway.counters
        counters.commands += 1
        kind = kind_of(words[0])
        if kind > Kind.WRITE or not self._logged_in or len(words) < 2 or words[1] == b"DUMMY":
            self._answer_here(split_request(frame), kind)
            return
        entry = Entry(frame, kind, words)
        if kind is Kind.WRITE:
            counters.writes += 1
        else:
            counters.reads += 1
            if self.gateway.holding and asks_session_name(split_request(frame)):
                entry.special = Special.SESSION_NAME
        counters.held_bytes += len(frame) + ENTRY_BYTES
        if self.upstream is not None and not self.waiting and self.gateway.may_send(entry):
            self._prepare(entry, batch, time.monotonic())
        else:
            self._park(entry)

    def _answer_here(self, words: Tuple[bytes, ...], kind: Kind) -> None:
        counters = self.gateway.counters
        name = words[0].upper()
        if name == b"AUTH":
            self._logged_in, reply = login_reply(words, self.gateway.token)
            counters.refused += not self._logged_in
        elif not self._logged_in:
            counters.refused += 1
            reply = before_login_reply(words)
        elif kind is Kind.LOCAL or probes_for_writing(words):
            reply = local_reply(words)
        else:
            counters.refused += 1
            self.gateway.tell_unknown(name)
            reply = refusal(words)
        counters.local += 1
        if name == b"QUIT":
            self._closing = True
        if not self.sent and not self.waiting:
            self.client.write(reply)
            if self._closing:
                self.close()
            return
        entry = Entry(b"", Kind.LOCAL, (name, b""))
        entry.reply = reply
        counters.held_bytes += ENTRY_BYTES
        if self.waiting:
            self._park(entry)
        else:
            self.sent.append(entry)

    def _say_and_close(self, text: bytes) -> None:
        with contextlib.suppress(OSError):
            self.client.write(text)
        self.close()

    def _park(self, entry: Entry) -> None:
        self.waiting.append(entry)
        self.gateway.parked(1, len(entry.frame))

    def _prepare(self, entry: Entry, batch: List[bytes], now: float) -> None:
        if not self.sent:
            self.heard_at = now
        entry.sent_at = now
        entry.term = self.gateway.term
        self.sent.append(entry)
        if entry.kind is Kind.WRITE:
            batch.append(self.gateway.guard.wrap(entry.frame, entry.name, entry.key))
        else:
            batch.append(entry.frame)
        if entry.tried:
            self._repeat_unsure(entry, batch)
        entry.tried = True

    def _repeat_unsure(self, entry: Entry, batch: List[bytes]) -> None:
        self.gateway.counters.retried += 1
        words = split_request(entry.frame)
        if words[0].upper() == b"HSETNX" and len(words) == 4:
            entry.special = Special.TWOFOLD
            entry.reply = b""
            batch.append(encode("HGET", words[1], words[2]))

    def _send(self, batch: List[bytes]) -> None:
        if not batch or self.upstream is None:
            return
        try:
            self.upstream.write(batch[0] if len(batch) == 1 else b"".join(batch))
        except OSError as error:
            self.upstream_lost(str(error))

    def pump(self) -> None:
        """Send what is parked and may be sent now."""
        if self.closed:
            return
        batch: List[bytes] = []
        now = time.monotonic()
        if self.upstream is not None and now >= self.ask_again_at:
            while self.waiting and self.gateway.may_send(self.waiting[0]):
                entry = self.waiting.popleft()
                self.gateway.parked(-1, -len(entry.frame))
                if entry.kind is Kind.LOCAL:
                    self.sent.append(entry)
                else:
                    self._prepare(entry, batch, now)
            self._send(batch)
            self._answer_due([])
        self._claim_upstream()

    def probe(self, now: float, silence: float) -> None:
        """Look after the connection to the store: ask when it is quiet, give it up when it stays silent."""
        if self.upstream is None:
            return
        if not self.sent:
            if now - self.heard_at >= 1.0:
                entry = Entry(_PING, Kind.READ, (b"PING", b""))
                entry.special = Special.OWN_PROBE
                batch: List[bytes] = []
                self._prepare(entry, batch, now)
                self._send(batch)
        elif now - self.heard_at > silence and not self.upstream.paused:
            self.upstream_lost(f"no answer for {silence:g} s")

    def _claim_upstream(self, also_idle: bool = False) -> None:
        wanted = self.upstream is None and not self.closed and (also_idle or bool(self.waiting))
        if wanted and not self.wants_upstream:
            self.wants_upstream = True
            self.gateway.count_wanted()

    def attach(self, connection: StoreConnection) -> None:
        """Go on over this connection."""
        self.wants_upstream = False
        self.upstream = Stream(connection.socket, self.gateway.poller)
        self._answers = Cutter()
        self.heard_at = time.monotonic()
        self.gateway.handlers[self.upstream.fd] = self.upstream_ready
        self.pump()

    def upstream_lost(self, reason: str, wait: bool = True) -> None:
        """The connection to the store is of no use; what was sent over it is parked again, in order."""
        self.drop_upstream()
        self._park_sent()
        self.gateway.upstream_failed(reason, wait)
        self._claim_upstream(also_idle=True)

    def _park_sent(self) -> None:
        while self.sent:
            entry = self.sent.pop()
            if entry.special is not Special.OWN_PROBE:
                self.waiting.appendleft(entry)
                self.gateway.parked(1, len(entry.frame))

    def drop_upstream(self) -> None:
        """Close the connection to the store so that nothing sent on it can still arrive."""
        if self.upstream is not None:
            self.gateway.handlers.pop(self.upstream.fd, None)
            self.upstream.close(reset=True)
            self.upstream = None

    def upstream_ready(self, mask: int) -> None:
        """The store's socket can be read or written."""
        upstream = self.upstream
        if upstream is None:
            return
        try:
            if mask != _IN:
                upstream.flush()
            data = upstream.read()
            if data is None:
                return
            replies = self._answers.feed(data)
        except (OSError, ProtocolError) as error:
            self.upstream_lost(str(error))
            return
        if not data:
            self.upstream_lost("connection closed by the store")
            return
        self._store_answered(replies)

    def _store_answered(self, replies: List[bytes]) -> None:
        now = self.heard_at = time.monotonic()
        gateway = self.gateway
        counters = gateway.counters
        out: List[bytes] = []
        for answer in replies:
            reply = answer
            if not self.sent:
                self.upstream_lost("an answer that nobody asked for")
                return
            entry = self.sent[0]
            if reply[0] == _ERROR and not self._error_passes(reply, entry, out):
                return
            if entry.special is Special.TWOFOLD:
                if not entry.reply:
                    entry.reply = reply
                    continue
                reply = repeated_hsetnx(entry.reply, reply, split_request(entry.frame)[3])
            elif entry.special is Special.SESSION_NAME and reply == NIL and gateway.holding:
                self._ask_session_name_again(out)
                return
            self.sent.popleft()
            if gateway.troubled:
                gateway.store_answered(entry.kind)
            if entry.special is Special.OWN_PROBE:
                continue
            counters.answered(now - entry.sent_at)
            counters.held_bytes -= len(entry.frame) + ENTRY_BYTES
            out.append(reply)
            if self.sent and self.sent[0].kind is Kind.LOCAL:
                self._take_local(out)
        self._answer_due(out)
        if gateway.full:
            gateway.relieve()

    def _error_passes(self, reply: bytes, entry: Entry, out: List[bytes]) -> bool:
        """Whether an error reply is the client's business; otherwise it has been dealt with."""
        judgement = judge(reply, self.gateway.writer)
        verdict = judgement.verdict
        if verdict is Verdict.PASS:
            return True
        self._answer_due(out)
        if self.closed:
            return False
        if verdict in LEASE_VERDICTS and entry.term != self.gateway.term:
            verdict = Verdict.AGAIN  # we have been told to lead since
        if verdict not in LEASE_VERDICTS:
            self.gateway.store_refused(verdict, judgement.text, entry.kind)
            self.upstream_lost(judgement.text, wait=verdict is not Verdict.AGAIN)
        else:
            self.gateway.judged(judgement)
            if not self.closed:
                self.upstream_lost(judgement.text)
        return False

    def _ask_session_name_again(self, out: List[bytes]) -> None:
        """A `ray start` that asks before a leader has written the name has to wait for it."""
        self._answer_due(out)
        self.ask_again_at = time.monotonic() + ASK_AGAIN_S
        if sum(entry.kind is not Kind.LOCAL for entry in self.sent) > 1:
            # Another answer is under way, which would be taken for that of the repetition.
            self.upstream_lost("the session has no name yet", wait=False)
            return
        self._park_sent()

    def _take_local(self, out: List[bytes]) -> None:
        while self.sent and self.sent[0].kind is Kind.LOCAL:
            out.append(self.sent.popleft().reply)
            self.gateway.counters.held_bytes -= ENTRY_BYTES

    def _answer_due(self, out: List[bytes]) -> None:
        self._take_local(out)
        if out and not self.closed:
            try:
                self.client.write(out[0] if len(out) == 1 else b"".join(out))
            except OSError:
                self.close()
                return
            if self.client.out_bytes > _OUT_LIMIT and self.upstream is not None:
                self.upstream.pause(True)
        if self._closing and not self.sent and not self.waiting:
            self.close()

    def close(self) -> None:
        """The client is gone, or has to go."""
        if self.closed:
            return
        self.closed = True
        self.drop_upstream()
        self.gateway.parked(-len(self.waiting), -sum(len(entry.frame) for entry in self.waiting))
        kept = (*self.waiting, *self.sent)
        self.gateway.counters.held_bytes -= sum(
            len(entry.frame) + ENTRY_BYTES for entry in kept if entry.special is not Special.OWN_PROBE
        )
        self.waiting.clear()
        self.sent.clear()
        self.client.close()
        self.gateway.forget(self)
