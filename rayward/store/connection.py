"""Open a Redis connection, and say in one sentence why it did not work.

It knows what a fault means for Ray's GCS, but not who asks: no files of a cluster, no Pods, no processes.
redis-py is imported where it is used, because the agent imports this module for its types.
"""

from __future__ import annotations

import enum
import socket
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rayward.errors import RaywardError
from rayward.store.address import RedisAddress, parse_redis_address

if TYPE_CHECKING:
    import redis

PROBE_TIMEOUT_S = 5.0
# The ACL rules under which GCS of Ray 2.60 works; scripts are for rayward.
RIGHTS = ("~RAY*", "~rayward:*", "~DUMMY", "+@read", "+@write", "+@connection", "+@scripting", "+info")


class FaultKind(enum.Enum):
    """Why Redis cannot be used. The value is the word for it in events and JSON."""

    REFUSED = "refused"
    UNRESOLVED = "unresolved"
    TIMEOUT = "timeout"
    WRONG_PASSWORD = "wrong-password"
    NO_PASSWORD = "no-password"
    NO_PERMISSION = "no-permission"
    LOADING = "loading"
    READONLY = "readonly"
    TLS = "tls"
    OOM = "out-of-memory"
    OTHER = "other"


@dataclass(frozen=True)
class StoreFault:
    """One reason why the store cannot be used now.

    ``sentence`` names address and cause and never a password; ``todo`` says what to do about it.
    ``transient`` is true where waiting may be enough (a restart, a failover, a name not yet there).
    """

    kind: FaultKind
    sentence: str
    todo: str
    transient: bool

    def as_error(self) -> RaywardError:
        """The fault as the error that a user reads."""
        return RaywardError(self.sentence, todo=self.todo)


@dataclass(frozen=True)
class TlsFiles:
    """PEM files of a TLS connection; the names of Ray's settings are in ``from_environment``."""

    ca: str | None = None
    certificate: str | None = None
    key: str | None = None

    @classmethod
    def from_environment(cls, environ: Mapping[str, str]) -> TlsFiles:
        """The files that Ray's own Redis client is told to use."""
        return cls(
            ca=environ.get("RAY_REDIS_CA_CERT") or None,
            certificate=environ.get("RAY_REDIS_CLIENT_CERT") or None,
            key=environ.get("RAY_REDIS_CLIENT_KEY") or None,
        )


def connect(
    address: RedisAddress,
    username: str | None = None,
    password: str | None = None,
    timeout: float = PROBE_TIMEOUT_S,
    tls: TlsFiles | None = None,
) -> redis.Redis:
    """A client for ``address``. It connects at its first command and does not retry by itself.

    ``username`` and ``password`` win over those of the address. ``timeout`` (seconds) bounds the
    connection and each answer, but not the resolver of the system. Raises ``RaywardError`` when redis-py
    is missing.
    """
    redis_py = _redis()
    from redis.backoff import NoBackoff  # noqa: PLC0415 - see the module's docstring
    from redis.retry import Retry  # noqa: PLC0415

    files = tls or TlsFiles()
    # RESP 2 and no CLIENT SETINFO: an old server, or a user with few rights, must not trip over extras.
    options: dict[str, Any] = {
        "protocol": 2,
        "lib_name": None,
        "lib_version": None,
        "retry": Retry(NoBackoff(), 0),
        "socket_timeout": timeout,
        "socket_connect_timeout": timeout,
    }
    if address.tls:
        options.update(ssl=True, ssl_ca_certs=files.ca, ssl_certfile=files.certificate, ssl_keyfile=files.key)
    username, password = _credentials(address, username, password)
    client: redis.Redis = redis_py.Redis(
        host=address.host, port=address.port, db=address.db, username=username, password=password, **options
    )
    return client


def probe(
    address: RedisAddress,
    username: str | None = None,
    password: str | None = None,
    timeout: float = PROBE_TIMEOUT_S,
    tls: TlsFiles | None = None,
) -> StoreFault | None:
    """Whether GCS could start on this Redis now: None, or the fault. Returns within ``timeout`` seconds.

    It sends PING and, as gcs_server does at its start, ``DEL DUMMY``, which a replica and a user without
    write rights refuse. The work runs in a daemon thread because neither the resolver nor a server that
    answers byte by byte can be bounded from outside; on a time-out that thread is left to end by itself.
    """
    _redis()
    answer: list[StoreFault | None] = []
    worker = threading.Thread(
        target=lambda: answer.append(_try_once(address, username, password, timeout, tls)),
        name="redis-probe",
        daemon=True,
    )
    worker.start()
    worker.join(timeout)
    return answer[0] if answer else _timeout_fault(address)


def probe_from_environment(environ: Mapping[str, str], timeout: float = PROBE_TIMEOUT_S) -> StoreFault | None:
    """``probe`` of the Redis that a head's environment names; None also when it names none.

    Reads ``RAY_REDIS_ADDRESS``, ``REDIS_USERNAME``, ``REDIS_PASSWORD`` and Ray's TLS files. An address
    that cannot be read is a fault that is not transient.
    """
    text = environ.get("RAY_REDIS_ADDRESS", "")
    if not text:
        return None
    try:
        address = parse_redis_address(text)
    except RaywardError as error:
        return StoreFault(FaultKind.OTHER, error.what, error.todo or "correct RAY_REDIS_ADDRESS", False)
    return probe(
        address,
        environ.get("REDIS_USERNAME") or None,
        environ.get("REDIS_PASSWORD") or None,
        timeout,
        TlsFiles.from_environment(environ),
    )


def classify_redis_error(
    error: BaseException, address: RedisAddress, secrets: Sequence[str | None] = ()
) -> StoreFault:
    """What an exception of redis-py (or of a socket) means.

    ``secrets`` are texts besides the address's own password that must not show, should the server or
    the library repeat them.
    """
    kind, cause, transient = _cause(error)
    if kind in (FaultKind.OTHER, FaultKind.TLS, FaultKind.NO_PERMISSION):
        cause = f"{cause}: {_without(str(error), (*secrets, address.password))}"
    return StoreFault(kind, f"Redis at {address.redacted()}: {cause}", _TODO[kind], transient)


_TODO = {
    FaultKind.REFUSED: "start Redis, or correct the address; a firewall may refuse as well",
    FaultKind.UNRESOLVED: "correct the host name, or check that its Service exists and DNS works",
    FaultKind.TIMEOUT: "check that Redis runs there and that no firewall or NetworkPolicy drops packets",
    FaultKind.WRONG_PASSWORD: "correct the user name and password (redisPassword, or its Secret)",
    FaultKind.NO_PASSWORD: "give the password (redisPassword, or REDIS_PASSWORD in the environment)",
    FaultKind.NO_PERMISSION: f"allow this user what GCS and rayward need: {' '.join(RIGHTS)}",
    FaultKind.LOADING: "wait until it has loaded its data",
    FaultKind.READONLY: "point the address at the primary, or wait for the failover to end",
    FaultKind.TLS: "use rediss:// for a TLS port and redis:// for a plain one; "
    "name the CA in RAY_REDIS_CA_CERT",
    FaultKind.OOM: "give Redis more memory (maxmemory); GCS must not lose keys, so keep noeviction",
    FaultKind.OTHER: "look at the log of Redis",
}

# The code at the start of an error reply (redis-py strips it and keeps it as the class).
_CODES = {
    "NOAUTH": (FaultKind.NO_PASSWORD, "it asks for a password and none was given", False),
    "WRONGPASS": (FaultKind.WRONG_PASSWORD, "it refused the user name or password", False),
    "NOPERM": (FaultKind.NO_PERMISSION, "the user lacks a right that GCS needs", False),
    "LOADING": (FaultKind.LOADING, "it is still loading its data", True),
    "READONLY": (FaultKind.READONLY, "it is a read-only replica, GCS must write", True),
    "OOM": (FaultKind.OOM, "its memory limit is reached and it refuses writes", False),
    "MASTERDOWN": (FaultKind.OTHER, "it is a replica without its primary", True),
    "CLUSTERDOWN": (FaultKind.OTHER, "its cluster is down", True),
    "TRYAGAIN": (FaultKind.OTHER, "its cluster is moving keys", True),
    "MISCONF": (FaultKind.OTHER, "it cannot save to its disk and refuses writes", False),
}
_CLASSES = {
    "NoPermissionError": "NOPERM",
    "BusyLoadingError": "LOADING",
    "ReadOnlyError": "READONLY",
    "OutOfMemoryError": "OOM",
    "MasterDownError": "MASTERDOWN",
    "ClusterDownError": "CLUSTERDOWN",
    "TryAgainError": "TRYAGAIN",
}
# redis-py gives these replies one class, AuthenticationError; only their words differ (Redis 5 to 8).
_WORDS = (
    ("authentication required", "NOAUTH"),
    ("noauth", "NOAUTH"),
    ("invalid username-password pair", "WRONGPASS"),
    ("invalid password", "WRONGPASS"),
    ("wrongpass", "WRONGPASS"),
)


def _cause(error: BaseException) -> tuple[FaultKind, str, bool]:
    chain = list(_chain(error))
    names = {cls.__name__ for link in chain for cls in type(link).__mro__}
    text = str(error).lower()
    if "configured for the default user" in text or "no password is set" in text:
        return FaultKind.WRONG_PASSWORD, "a password was given, but this Redis has none", False
    for link in chain:
        code = _CLASSES.get(type(link).__name__) or str(link).partition(" ")[0]
        if code in _CODES:
            return _CODES[code]
    for words, code in _WORDS:
        if words in text:
            return _CODES[code]
    if "AuthenticationError" in names:
        return _CODES["WRONGPASS"]
    return _socket_cause(chain, names, text)


def _socket_cause(chain: Sequence[BaseException], names: set[str], text: str) -> tuple[FaultKind, str, bool]:
    if any(_is_tls_error(link) for link in chain):
        return FaultKind.TLS, "the TLS handshake failed", False
    if any(isinstance(link, socket.gaierror) for link in chain):
        return FaultKind.UNRESOLVED, "the host name cannot be resolved", True
    if any(isinstance(link, ConnectionRefusedError) for link in chain):
        return FaultKind.REFUSED, "the connection was refused", True
    if "TimeoutError" in names or "timeout" in names:
        return FaultKind.TIMEOUT, "no answer in time", True
    if any(isinstance(link, OSError) for link in chain) or "connection closed" in text:
        return FaultKind.OTHER, "the connection broke", True
    return FaultKind.OTHER, "it answered with an error", False


def _is_tls_error(error: BaseException) -> bool:
    # Who has not loaded ssl (4.5 MB, and a library that not every user can load) has no error of it.
    tls = sys.modules.get("ssl")
    return tls is not None and isinstance(error, tls.SSLError)


def _chain(error: BaseException) -> Iterator[BaseException]:
    seen: list[BaseException] = []
    link: BaseException | None = error
    while link is not None and link not in seen:
        seen.append(link)
        yield link
        link = link.__cause__ or link.__context__


def _without(text: str, secrets: Sequence[str | None]) -> str:
    for secret in secrets:
        if secret:
            text = text.replace(secret, "***")
    return text


def _credentials(
    address: RedisAddress, username: str | None, password: str | None
) -> tuple[str | None, str | None]:
    return username or address.username, password or address.password


def _timeout_fault(address: RedisAddress) -> StoreFault:
    return classify_redis_error(TimeoutError(), address)


def _try_once(
    address: RedisAddress,
    username: str | None,
    password: str | None,
    timeout: float,
    tls: TlsFiles | None,
) -> StoreFault | None:
    try:
        client = connect(address, username, password, timeout, tls)
        try:
            client.ping()
            client.delete("DUMMY")
        finally:
            client.close()
    except Exception as error:  # a probe reports whatever happened and raises nothing
        if _is_redirect(error):
            return None
        return classify_redis_error(error, address, (password,))
    return None


def _is_redirect(error: BaseException) -> bool:
    """A cluster node or a Sentinel answered: GCS follows both to the writable node by itself."""
    if type(error).__name__ == "MovedError":
        return True
    text = str(error).lower()
    return "unknown command" in text and "del" in text


def _redis() -> Any:
    try:
        import redis  # noqa: PLC0415 - only those who talk to Redis pay for the import
    except ImportError as error:
        raise RaywardError("redis-py is not installed", todo="pip install redis") from error
    return redis
