"""Finds the one Redis that may be written to now, and opens a connection to it.

Plain servers, TLS, Sentinel and a Redis Cluster of one shard; credentials are read anew at each connect. Who
needs the store, and what for, is not known here. redis-py is not used: it costs 17 MB per process.
"""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass, field, replace
from typing import Dict, List, Mapping, NoReturn, Optional, Sequence, Tuple

from rayward.errors import RaywardError
from rayward.store import schema
from rayward.store.address import RedisAddress, parse_redis_address
from rayward.store.channel import StoreConnection, open_channel
from rayward.store.connection import FaultKind, StoreFault, TlsFiles, classify_redis_error
from rayward.store.resp import Part, Reply, ReplyError

__all__ = [
    "StoreAwayError",
    "StoreConnection",
    "StoreSettings",
    "fault_of",
    "open_connection",
    "primary_address",
]

_REDIRECTS = 5


class StoreAwayError(RaywardError):
    """The store cannot be used now, or what it was asked has no known outcome. ``fault`` says why."""

    def __init__(self, fault: StoreFault) -> None:
        super().__init__(fault.sentence, todo=fault.todo)
        self.fault = fault


@dataclass(frozen=True)
class StoreSettings:
    """Where the store is and how to be let in. Secrets are left out of ``repr``.

    ``password_file`` wins over ``password`` and is read at each connect. ``server_name`` is the name that a
    TLS certificate must carry, where it is not the host's. The ``sentinel_`` credentials are for Sentinels
    themselves; the others never go there.
    """

    address: RedisAddress
    namespace: str = schema.DEFAULT_NAMESPACE
    username: Optional[str] = None
    password: Optional[str] = field(default=None, repr=False)
    password_file: str = ""
    tls: TlsFiles = field(default_factory=TlsFiles)
    server_name: str = ""
    sentinel_username: Optional[str] = None
    sentinel_password: Optional[str] = field(default=None, repr=False)

    @classmethod
    def from_environment(cls, environ: Mapping[str, str]) -> StoreSettings:
        """What a head's environment says: Ray's variables, and rayward's for what Ray has no word for.

        Raises ``RaywardError`` when ``RAY_REDIS_ADDRESS`` or the namespace cannot be used.
        """
        text = environ.get("RAY_REDIS_ADDRESS", "")
        try:
            address = parse_redis_address(text)
        except RaywardError as error:
            raise RaywardError(error.what, where="RAY_REDIS_ADDRESS", todo=error.todo) from None
        namespace = environ.get("RAY_external_storage_namespace") or schema.DEFAULT_NAMESPACE
        return cls(
            address=address,
            namespace=schema.check_namespace(namespace),
            username=environ.get("REDIS_USERNAME") or None,
            password=environ.get("REDIS_PASSWORD") or None,
            password_file=environ.get("RAYWARD_REDIS_PASSWORD_FILE", ""),
            tls=TlsFiles.from_environment(environ),
            server_name=environ.get("RAY_REDIS_SERVER_NAME", ""),
            sentinel_username=environ.get("RAYWARD_SENTINEL_USERNAME") or None,
            sentinel_password=environ.get("RAYWARD_SENTINEL_PASSWORD") or None,
        )

    def secrets(self) -> Tuple[Optional[str], ...]:
        """What must not show in any text."""
        in_file = None
        with contextlib.suppress(StoreAwayError):
            in_file = self.credentials()[1]
        return (self.password, self.address.password, self.sentinel_password, in_file)

    def credentials(self) -> Tuple[Optional[str], Optional[str]]:
        """User name and password as of now. Raises ``StoreAwayError`` when the file cannot be read."""
        username = self.username or self.address.username
        if not self.password_file:
            return username, self.password or self.address.password
        try:
            with open(self.password_file, encoding="utf-8", errors="surrogateescape") as file:
                password = file.read().strip("\r\n")
        except OSError as error:
            raise self._password_fault(f"cannot be read: {error.strerror}") from error
        if not password:
            raise self._password_fault("is empty")
        return username, password

    def _password_fault(self, problem: str) -> StoreAwayError:
        # It may be there again in a moment: a rotation replaces the file.
        return StoreAwayError(
            StoreFault(
                FaultKind.NO_PASSWORD,
                f"Redis at {self.address.redacted()}: the password file {self.password_file} {problem}",
                "correct RAYWARD_REDIS_PASSWORD_FILE, or mount the Secret that holds the password",
                True,
            )
        )


def open_connection(settings: StoreSettings, timeout: float) -> StoreConnection:
    """A connection to the server that takes writes now, authenticated, with the database selected.

    Asks Sentinels for the primary, follows a Redis Cluster to the node that owns the slots, and checks that
    the server calls itself a primary; a server that forbids that question is taken at its word. Returns
    within ``timeout`` seconds. Raises ``StoreAwayError``; ``fault.transient`` tells whether waiting may help.
    """
    deadline = time.monotonic() + timeout
    if settings.address.primary:
        return _by_sentinels(settings, deadline)
    return _first_usable(settings, _candidates(settings.address), deadline)


def primary_address(settings: StoreSettings, timeout: float) -> RedisAddress:
    """The server that takes writes now, as a plain address, for clients that know no Sentinel.

    Raises ``StoreAwayError``.
    """
    connection = open_connection(settings, timeout)
    connection.close()
    return connection.address


def fault_of(error: BaseException, settings: StoreSettings) -> StoreFault:
    """What an exception of ``open_connection``, ``call`` or a socket means, in a sentence without secrets."""
    return _fault(error, settings.address, settings)


# Nodes of a cluster, learned from one of them: the one that is configured may be the one that dies.
_known_nodes: Dict[str, Tuple[RedisAddress, ...]] = {}


def _candidates(address: RedisAddress) -> List[RedisAddress]:
    found = [replace(address, alternates=()), *address.alternates]
    known = {server.hostport for server in found}
    found += [node for node in _known_nodes.get(address.hostport, ()) if node.hostport not in known]
    return found


def _first_usable(
    settings: StoreSettings, candidates: Sequence[RedisAddress], deadline: float
) -> StoreConnection:
    first: Optional[StoreAwayError] = None
    for place, address in enumerate(candidates):
        now = time.monotonic()
        if now >= deadline and first is not None:
            break
        try:
            return _open(settings, address, now + (deadline - now) / (len(candidates) - place))
        except StoreAwayError as error:
            first = first or error
    assert first is not None
    raise first


def _open(
    settings: StoreSettings, address: RedisAddress, deadline: float, redirects: int = _REDIRECTS
) -> StoreConnection:
    """Connect to this server, or to the node of its cluster that owns the slots."""
    try:
        connection = open_channel(address, deadline, settings.tls, settings.server_name)
    except StoreAwayError:
        raise
    except (OSError, RaywardError) as error:
        raise StoreAwayError(_fault(error, address, settings)) from error
    try:
        moved = _greet(connection, settings, deadline)
    except (OSError, ReplyError) as error:
        connection.close()
        raise StoreAwayError(_fault(error, address, settings)) from error
    except BaseException:
        connection.close()
        raise
    if moved is None:
        return connection
    connection.close()
    if redirects <= 0:
        _refuse(address, f"its cluster passes on from node to node ({_REDIRECTS} times)", transient=True)
    return _open(settings, moved, deadline, redirects - 1)


def _greet(connection: StoreConnection, settings: StoreSettings, deadline: float) -> Optional[RedisAddress]:
    """Log in and check what the server is; the node to ask instead, or None when this is the one."""
    _log_in(connection, *settings.credentials(), deadline)
    if connection.address.db:
        connection.call("SELECT", connection.address.db, timeout=_left(deadline))
    # The last command touches a key, so that a server that is loading, or does not own the slot, says so.
    role, replication, cluster, key = connection.pipeline(
        [
            ("ROLE",),
            ("INFO", "replication"),
            ("INFO", "cluster"),
            ("EXISTS", schema.own_key(settings.namespace, "lease")),
        ],
        timeout=_left(deadline),
    )
    moved = _moved_to(key, connection.address)
    if moved is None:
        _check_primary(connection.address, role, replication)
        if isinstance(key, ReplyError):
            raise key
    if b"cluster_enabled:1" in _bytes(cluster):
        _check_shards(connection, settings, deadline)
    return moved


def _log_in(
    connection: StoreConnection, username: Optional[str], password: Optional[str], deadline: float
) -> None:
    if password is None:
        return
    words: Tuple[Part, ...] = ("AUTH", username, password) if username else ("AUTH", password)
    connection.call(*words, timeout=_left(deadline))


def _check_primary(address: RedisAddress, role: Reply, replication: Reply) -> None:
    """Raise unless the server calls itself a primary, or forbids both questions."""
    said = _bytes(role[0]) if isinstance(role, list) and role else b""
    if not said:
        for line in _bytes(replication).splitlines():
            if line.startswith(b"role:"):
                said = line[len(b"role:") :].strip()
    if said == b"slave":
        _refuse(
            address,
            "it is a read-only replica, GCS must write",
            todo="point the address at the primary, or wait for the failover to end",
            kind=FaultKind.READONLY,
            transient=True,
        )
    if said == b"sentinel":
        _refuse_sentinel(address)


def _refuse_sentinel(address: RedisAddress) -> NoReturn:
    _refuse(
        address,
        "it is a Sentinel, which holds no data",
        todo=f"write redis+sentinel://{address.hostport}/NAME_OF_PRIMARY",
    )


def _moved_to(reply: Reply, asked: RedisAddress) -> Optional[RedisAddress]:
    if not isinstance(reply, ReplyError) or reply.code != "MOVED":
        return None
    host, _, port = str(reply).split(" ")[-1].rpartition(":")
    if not port.isdigit():
        return None
    return replace(asked, host=host.strip("[]?") or asked.host, port=int(port))


def _check_shards(connection: StoreConnection, settings: StoreSettings, deadline: float) -> None:
    """Raise ``StoreAwayError`` for a cluster of several shards: GCS keeps its tables in keys of different
    slots. Remembers the nodes; a server that forbids the question is taken for a good one.
    """
    try:
        slots = connection.call("CLUSTER", "SLOTS", timeout=_left(deadline))
    except ReplyError:
        return
    owners: Dict[str, RedisAddress] = {}
    nodes: Dict[str, RedisAddress] = {}
    for entry in slots if isinstance(slots, list) else []:
        if isinstance(entry, list) and len(entry) > 2:
            servers = [_node(node, connection.address) for node in entry[2:]]
            owners[servers[0].hostport] = servers[0]
            nodes.update({server.hostport: server for server in servers})
    if len(owners) > 1:
        _refuse(
            connection.address,
            f"it is a Redis Cluster of {len(owners)} shards, and Ray's GCS works with one",
            todo="use a Redis Cluster of one shard, or a Redis without cluster mode",
        )
    _known_nodes[settings.address.hostport] = tuple(nodes.values())


def _node(entry: Reply, asked: RedisAddress) -> RedisAddress:
    host, port = (entry[0], entry[1]) if isinstance(entry, list) and len(entry) > 1 else (None, None)
    name = _bytes(host).decode("utf-8", "replace").strip("?")
    return replace(asked, host=name or asked.host, port=port if isinstance(port, int) else asked.port)


def _by_sentinels(settings: StoreSettings, deadline: float) -> StoreConnection:
    """Ask one Sentinel after the other; the first that names a server which is a primary decides."""
    sentinels = [replace(settings.address, alternates=()), *settings.address.alternates]
    problems: List[StoreAwayError] = []
    for place, sentinel in enumerate(sentinels):
        now = time.monotonic()
        if now >= deadline and problems:
            break
        share = now + (deadline - now) / (len(sentinels) - place)
        try:
            primary = _ask_sentinel(settings, sentinel, share)
            return _open(settings, primary, share)
        except StoreAwayError as error:
            problems.append(error)
    # What a Sentinel, or the server it named, has said is worth more than one that cannot be reached.
    silent = (FaultKind.REFUSED, FaultKind.TIMEOUT, FaultKind.UNRESOLVED)
    raise next((problem for problem in problems if problem.fault.kind not in silent), problems[0])


def _ask_sentinel(settings: StoreSettings, sentinel: RedisAddress, deadline: float) -> RedisAddress:
    plain = replace(sentinel, primary="", db=0, username=None, password=None)
    try:
        # Half of the share: the primary that it names must be asked as well.
        half = (time.monotonic() + deadline) / 2
        connection = open_channel(plain, half, settings.tls, settings.server_name)
        try:
            _log_in(connection, settings.sentinel_username, settings.sentinel_password, half)
            answer = connection.call(
                "SENTINEL", "get-master-addr-by-name", sentinel.primary, timeout=_left(half)
            )
        finally:
            connection.close()
    except ReplyError as error:
        raise StoreAwayError(_sentinel_refused(error, plain, settings)) from error
    except (OSError, RaywardError) as error:
        fault = _fault(error, plain, settings)
        fault = replace(fault, sentence=fault.sentence.replace("Redis at", "the Sentinel at", 1))
        if fault.kind in (FaultKind.REFUSED, FaultKind.TIMEOUT):
            fault = replace(fault, todo="start the Sentinel, or correct RAY_REDIS_ADDRESS; name several")
        raise StoreAwayError(fault) from error
    if not isinstance(answer, list) or len(answer) < 2:
        raise StoreAwayError(
            StoreFault(
                FaultKind.OTHER,
                f"the Sentinel at {plain.hostport} knows no primary named {sentinel.primary!r}",
                "correct the name after the slash in RAY_REDIS_ADDRESS",
                False,
            )
        )
    host, port = (_bytes(part).decode("utf-8", "replace") for part in answer[:2])
    return replace(sentinel, primary="", alternates=(), host=host, port=int(port) if port.isdigit() else 0)


def _sentinel_refused(error: ReplyError, sentinel: RedisAddress, settings: StoreSettings) -> StoreFault:
    if "unknown command" in str(error).lower():
        return StoreFault(
            FaultKind.OTHER,
            f"the server at {sentinel.hostport} is no Sentinel",
            "give the port of a Sentinel (26379), or write redis:// for a plain Redis",
            False,
        )
    fault = _fault(error, sentinel, settings)
    todo = "set RAYWARD_SENTINEL_PASSWORD (and RAYWARD_SENTINEL_USERNAME), the Sentinels' own"
    secret = fault.kind in (FaultKind.NO_PASSWORD, FaultKind.WRONG_PASSWORD, FaultKind.NO_PERMISSION)
    sentence = fault.sentence.replace("Redis at", "the Sentinel at", 1)
    return replace(fault, sentence=sentence, todo=todo if secret else fault.todo)


def _fault(error: BaseException, address: RedisAddress, settings: StoreSettings) -> StoreFault:
    if isinstance(error, StoreAwayError):
        return error.fault
    if isinstance(error, RaywardError):
        where = f" ({error.where})" if error.where else ""
        sentence = f"Redis at {address.redacted()}: {error.what}{where}"
        return StoreFault(FaultKind.TLS, sentence, error.todo or "correct the TLS files", False)
    return classify_redis_error(error, address, settings.secrets())


def _refuse(
    address: RedisAddress,
    cause: str,
    todo: str = "look at the log of Redis",
    kind: FaultKind = FaultKind.OTHER,
    transient: bool = False,
) -> NoReturn:
    raise StoreAwayError(StoreFault(kind, f"Redis at {address.redacted()}: {cause}", todo, transient))


def _left(deadline: float) -> float:
    return max(0.001, deadline - time.monotonic())


def _bytes(reply: Reply) -> bytes:
    return reply if isinstance(reply, bytes) else b""
