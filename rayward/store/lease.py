"""The lease in Redis: who leads, with which epoch, and what stands beside it. One script or command a method.

Every method blocks, for ``timeout`` seconds at the most. It either has a definite answer, or raises
``StoreAwayError``: then nothing is known, not even whether a change was made. For one thread.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import time
from typing import Any, Dict, List, Mapping, Optional, Tuple

from rayward.store import lease_scripts as scripts
from rayward.store import schema
from rayward.store.connection import FaultKind, StoreFault
from rayward.store.lease_record import (
    Acquired,
    AcquireResult,
    Refused,
    RenewResult,
    StoreView,
    parse_control,
    parse_incarnation,
    parse_json,
    parse_lease,
    parse_members,
)
from rayward.store.lease_rules import LeaseToken, RenewOutcome, next_epoch
from rayward.store.ownership import Incarnation
from rayward.store.replication import online_replicas
from rayward.store.resp import Part, Reply, ReplyError
from rayward.store.upstream import StoreAwayError, StoreConnection, StoreSettings, fault_of, open_connection

TIMEOUT_S = 2.0
REPLICATION_BOUND_S = 0.5


class LeaseStore:
    """The lease of one namespace. Connects at its first use, and anew after a fault.

    Common to all methods: ``StoreAwayError`` when the store cannot be reached, refuses, or does not answer
    in time; its ``fault`` says which, and ``fault.transient`` whether waiting may help.
    """

    def __init__(self, settings: StoreSettings) -> None:
        self._settings = settings
        self._connection: Optional[StoreConnection] = None

    def close(self) -> None:
        """Close the connection; the next call opens another."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def observe(
        self,
        cluster: str,
        member: str = "",
        entry: Optional[Mapping[str, Any]] = None,
        timeout: float = TIMEOUT_S,
    ) -> StoreView:
        """Write the caller's own entry among the members, and read all there is to know.

        Without ``member``, or in a namespace of another cluster than ``cluster`` (a uid), nothing is written.
        """
        namespace = self._settings.namespace
        tables = [schema.table_key(namespace, name) for name in (*schema.TABLES, schema.JOB_COUNTER)]
        reply = self._run(
            scripts.OBSERVE,
            timeout,
            *(self._key(what) for what in ("members", "incarnation", "control")),
            cluster,
            member,
            _json(entry or {}),
            schema.legacy_key(namespace),
            schema.legacy_field(namespace, "", "").rstrip(":"),
            *tables,
        )
        lease, incarnation, members, control, data, before = _several(reply, 6)
        return StoreView(
            self._lease(lease),
            parse_incarnation(incarnation),
            parse_members(members),
            parse_control(control),
            has_ray_data=bool(data),
            own_before=parse_json(before.decode("utf-8", "replace")) if isinstance(before, bytes) else {},
        )

    def acquire(
        self,
        member: str,
        instance: str,
        seen: Optional[LeaseToken],
        record: Mapping[str, Any],
        floor: int = 0,
        reason: str = "",
        incarnation: str = "",
        replicas: int = 1,
        replication_bound: float = REPLICATION_BOUND_S,
        heed_pause: bool = True,
        timeout: float = TIMEOUT_S,
    ) -> AcquireResult:
        """Take the lease, if it is still exactly as ``seen`` (None: there is none).

        Compared are epoch, instance, seq and state, and with ``incarnation`` the id of the store's marker.
        The new epoch is one above the one seen and above ``floor``, the highest that the caller remembers.
        Where replicas are connected, up to ``replicas`` of them must have it within ``replication_bound``
        seconds, or it is released again and the answer is ``Refused``. With ``heed_pause`` a held lease is
        not taken while failover is paused, whatever the caller saw of that. ``Refused`` is definite; after a
        ``StoreAwayError`` the lease may be the caller's, as the next ``observe`` shows.
        """
        epoch = next_epoch(seen, floor)
        note = {"epoch": epoch, "member": member, "reason": reason, "time": _now()}
        reply = self._run(
            scripts.ACQUIRE,
            timeout,
            *(("", "", "", "") if seen is None else (seen.epoch, seen.instance, seen.seq, seen.state)),
            *(epoch, member, instance, _json(record)),
            *(self._key("history"), _json(note)),
            *(self._key("incarnation"), incarnation),
            self._key("control") if heed_pause else "",
        )
        outcome, current = _several(reply, 2)
        found = self._lease(current)
        if outcome == b"OTHER_STORE":
            return Refused("the store is not the one that this head knows (its incarnation differs)", found)
        if outcome == b"PAUSED":
            return Refused("failover is paused", found)
        if outcome != b"ACQUIRED" or found is None:
            return Refused(f"the lease has changed: {_describe(found)}", found)
        return self._replicated(
            member, instance, Acquired(epoch, found), replicas, replication_bound, timeout
        )

    def renew(
        self,
        member: str,
        instance: str,
        epoch: int,
        record: Mapping[str, Any],
        entry: Optional[Mapping[str, Any]] = None,
        seq: int = 0,
        timeout: float = TIMEOUT_S,
    ) -> RenewResult:
        """Renew the lease held with ``epoch``; writes ``record`` and the caller's own member ``entry``.

        Compared are epoch, instance, holder and state. PREEMPTED and LOST_STORE are definite. ``seq`` is the
        last one that was acknowledged to the caller, so that a store that forgot it shows (``forgotten``).
        After a ``StoreAwayError`` the renewal may have been made; making it again is harmless.
        """
        reply = self._run(
            scripts.RENEW,
            timeout,
            *(epoch, instance, member, seq, _json(record)),
            *(self._key("members"), _json(entry or {})),
            *(self._key("control"), self._key("incarnation")),
        )
        outcome, current, *rest = _several(reply, 2)
        if outcome != b"RENEWED":
            lost = outcome == b"LOST_STORE"
            ended = RenewOutcome.LOST_STORE if lost else RenewOutcome.PREEMPTED
            return RenewResult(ended, self._lease(current))
        members, control, incarnation, before = _several(rest, 4)
        known = int(before) if isinstance(before, bytes) and before.isdigit() else 0
        return RenewResult(
            RenewOutcome.RENEWED,
            self._lease(current),
            parse_members(members),
            parse_control(control),
            parse_incarnation(incarnation),
            forgotten=max(0, seq - known),
        )

    def release(
        self, member: str, instance: str, epoch: int, successor: str = "", timeout: float = TIMEOUT_S
    ) -> bool:
        """Give the lease up, in favour of ``successor`` where one is named; False when it was not ours.

        From then on every gateway is refused, the caller's own included.
        """
        outcome, _ = _several(self._run(scripts.RELEASE, timeout, epoch, instance, member, successor), 2)
        return outcome == b"RELEASED"

    def claim_incarnation(
        self, cluster: str, cluster_name: str, instead_of: str = "", timeout: float = TIMEOUT_S
    ) -> Incarnation:
        """Mark the store as ``cluster``'s (a uid), unless it is marked; the marker that stands there now.

        ``instead_of`` names the cluster (uid) whose store is taken over: its lease is released and a new
        marker made. The caller compares ``cluster`` of the answer: of two that ask at once, one gets it.
        """
        reply = self._run(
            scripts.CLAIM,
            timeout,
            *(self._key("incarnation"), _new_id(), cluster, cluster_name, _now()),
            instead_of,
        )
        found = parse_incarnation(reply)
        if found is None:
            raise self._unreadable("the claim of the store had no answer")
        return found

    def adopt(
        self, cluster: str, cluster_name: str, floor: int, member: str = "", timeout: float = TIMEOUT_S
    ) -> Tuple[Incarnation, int]:
        """Accept the store as it is: a new marker, and an epoch above ``floor`` and any in the store.

        An operator's command, without a comparison: whoever holds the lease has lost it, and nobody holds it
        afterwards. Returns the marker and the epoch.
        """
        new = Incarnation(_new_id(), cluster, cluster_name, _now())
        note = {"member": member, "reason": "the store was adopted", "time": new.created}
        reply = self._run(
            scripts.ADOPT,
            timeout,
            *(self._key("incarnation"), new.id, cluster, cluster_name, new.created),
            *(floor, member, self._key("history"), _json(note)),
        )
        if not (isinstance(reply, bytes) and reply.isdigit()):
            raise self._unreadable("the adoption of the store had no answer")
        return new, int(reply)

    def set_paused(self, paused: bool, by: str = "", timeout: float = TIMEOUT_S) -> None:
        """Switch failover by itself off or on, for the whole cluster."""
        words = ("paused", "1" if paused else "0", "paused_by", by, "paused_at", _now())
        self._ask(timeout, "HSET", self._key("control"), *words)

    def drop_member(self, member: str, timeout: float = TIMEOUT_S) -> bool:
        """Remove a member's entry; whether there was one. A head that lives writes its own again."""
        return self._ask(timeout, "HDEL", self._key("members"), member) == 1

    def history(self, timeout: float = TIMEOUT_S) -> List[Dict[str, Any]]:
        """Every change of leader that is kept, oldest first: epoch, member, reason, time."""
        reply = self._ask(timeout, "LRANGE", self._key("history"), 0, -1)
        lines = reply if isinstance(reply, list) else []
        return [parse_json(line.decode("utf-8", "replace")) for line in lines if isinstance(line, bytes)]

    def session_name(self, timeout: float = TIMEOUT_S) -> str:
        """The name of Ray's session in this store (Ray 2.38 or later); empty where there is none."""
        key = schema.table_key(self._settings.namespace, "KV")
        reply = self._ask(timeout, "HGET", key, "@namespace_session:session_name")
        return reply.decode("utf-8", "replace") if isinstance(reply, bytes) else ""

    def connection(self, timeout: float = TIMEOUT_S) -> StoreConnection:
        """The connection, opened where there is none or where the server has closed it."""
        if self._connection is not None and _is_dead(self._connection):
            self.close()
        if self._connection is None:
            self._connection = open_connection(self._settings, timeout)
        return self._connection

    def _replicated(
        self, member: str, instance: str, won: Acquired, wanted: int, bound: float, timeout: float
    ) -> AcquireResult:
        """``won`` with what the replicas said, or ``Refused`` after giving it up again."""
        connected = self._replicas(timeout) if wanted > 0 else 0
        if connected == 0:
            return won
        need = min(wanted, connected)
        try:
            # WAIT takes 0 for ever, and answers late by up to its bound.
            answer = self._call(bound + timeout, "WAIT", need, max(1, int(bound * 1000)))
        except ReplyError:
            return won
        acknowledged = answer if isinstance(answer, int) else 0
        if acknowledged >= need:
            return Acquired(won.epoch, won.record, connected, acknowledged)
        self.release(member, instance, won.epoch, timeout=timeout)
        reason = f"{acknowledged} of {connected} replicas had the lease within {bound:g} s, wanted {need}"
        return Refused(f"the lease was not replicated and is released again: {reason}", won.record)

    def _replicas(self, timeout: float) -> int:
        """How many replicas keep up; 0 where this server does not say."""
        try:
            return online_replicas(self._call(timeout, "INFO", "replication"))
        except ReplyError:
            return 0

    def _key(self, what: str) -> str:
        return schema.own_key(self._settings.namespace, what)

    def _run(self, script: str, timeout: float, *arguments: Part) -> Reply:
        try:
            return self._call(timeout, "EVAL", script, 1, self._key("lease"), *arguments)
        except ReplyError as error:
            raise self._script_fault(error) from error

    def _ask(self, timeout: float, *words: Part) -> Reply:
        try:
            return self._call(timeout, *words)
        except ReplyError as error:
            raise StoreAwayError(fault_of(error, self._settings)) from error

    def _call(self, timeout: float, *words: Part) -> Reply:
        """One command; ``ReplyError`` only for one that this very command earned, not the server's state."""
        deadline = time.monotonic() + timeout
        connection = self.connection(timeout)
        try:
            return connection.call(*words, timeout=max(0.001, deadline - time.monotonic()))
        except ReplyError as error:
            inner = scripts.inner_error(error)
            if inner.code not in _SERVER_STATE:
                raise inner from error
            # The server is not what it was (a failover, a restart): the next call looks for the right one.
            self.close()
            raise StoreAwayError(fault_of(inner, self._settings)) from error
        except OSError as error:
            self.close()
            raise StoreAwayError(fault_of(error, self._settings)) from error

    def _script_fault(self, error: ReplyError) -> StoreAwayError:
        text = str(error).lower()
        if ("eval" in text and error.code == "NOPERM") or "unknown command" in text:
            where = self._settings.address.redacted()
            return StoreAwayError(
                StoreFault(
                    FaultKind.NO_PERMISSION,
                    f"Redis at {where} refuses EVAL, which rayward's fence needs: {error}",
                    "allow scripts: +@scripting for this user, no rename-command for EVAL and EVALSHA",
                    False,
                )
            )
        return StoreAwayError(fault_of(error, self._settings))

    def _lease(self, reply: Reply) -> Any:
        try:
            return parse_lease(reply)
        except ValueError as error:
            raise self._unreadable(str(error)) from error

    def _unreadable(self, what: str) -> StoreAwayError:
        where = f"{self._key('lease')} in Redis at {self._settings.address.redacted()}"
        todo = "something else writes to rayward's keys; `rayward store adopt` makes them anew"
        return StoreAwayError(StoreFault(FaultKind.OTHER, f"{where}: {what}", todo, False))


# Codes that speak of the server, not of the command.
_SERVER_STATE = frozenset(
    {
        *("READONLY", "LOADING", "MASTERDOWN", "CLUSTERDOWN", "TRYAGAIN", "MOVED", "ASK"),
        *("BUSY", "MISCONF", "NOREPLICAS", "OOM", "NOAUTH", "UNBLOCKED"),
    }
)


def _is_dead(connection: StoreConnection) -> bool:
    """Whether the server closed an idle connection: then a command would be lost for nothing."""
    if connection.address.tls:
        return False  # what is to be read there may be TLS' own
    try:
        # With a timeout set, Python would wait for it whatever the flags say; the next call sets its own.
        connection.socket.settimeout(0)
        with contextlib.suppress(BlockingIOError):
            # Anything to read is the end, or an answer that nobody waits for any more.
            connection.socket.recv(1, socket.MSG_PEEK)
            return True
    except OSError:
        return True
    return False


def _several(reply: Reply, count: int) -> List[Reply]:
    if not isinstance(reply, list) or len(reply) < count:
        raise TypeError(f"a script answered {reply!r}")
    return reply


def _describe(record: Any) -> str:
    if record is None:
        return "there is none any more"
    return f"epoch {record.epoch} is {record.state} by {record.holder}, renewal {record.seq}"


def _json(value: Mapping[str, Any]) -> str:
    return json.dumps(value, separators=(",", ": "))


def _new_id() -> str:
    return os.urandom(8).hex()


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
