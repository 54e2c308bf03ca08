"""What a user wrote as a Redis address, as a value. Pure: it opens no connection and resolves no name.

It reads what Ray reads from ``RAY_REDIS_ADDRESS`` (``host:port``, ``redis://``, ``rediss://``), and what
``gcsFaultToleranceOptions.redisAddress`` may hold beyond that: user information, a comma list, and the
Sentinels of a primary (``redis+sentinel://``, ``rediss+sentinel://``).
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from urllib.parse import unquote

from rayward.errors import RaywardError

DEFAULT_PORT = 6379
SENTINEL_PORT = 26379
_EXPECTED = "write it as HOST:PORT, redis://[USER:PASSWORD@]HOST:PORT[/DB] or rediss://... for TLS"
_EXPECTED_SENTINEL = (
    "write it as redis+sentinel://[USER:PASSWORD@]HOST[:26379][,HOST...]/NAME_OF_PRIMARY[/DB]"
)


@dataclass(frozen=True)
class RedisAddress:
    """One Redis server, and the further servers of the same list in ``alternates`` (in their order).

    ``host`` carries no brackets, also for IPv6. ``db`` is the number after the last slash (Ray itself
    always uses 0). ``username`` and ``password`` are decoded, and left out of ``repr`` and ``str``.
    With ``primary`` the servers are Sentinels, and it is the name under which they know the primary; user
    name, password and database are then those of the primary, while ``tls`` holds for both.
    """

    host: str
    port: int = DEFAULT_PORT
    tls: bool = False
    db: int = 0
    username: str | None = field(default=None, repr=False)
    password: str | None = field(default=None, repr=False)
    alternates: tuple[RedisAddress, ...] = ()
    primary: str = ""

    @property
    def hostport(self) -> str:
        """``host:port`` with brackets round an IPv6 address, as Ray wants it without a scheme."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    def redacted(self) -> str:
        """The address as people may read it: no password, and no user name either."""
        secret = "***@" if self.username or self.password else ""
        database = f"/{self.db}" if self.db else ""
        if self.primary:
            hosts = ",".join(server.hostport for server in (self, *self.alternates))
            return f"redis{'s' if self.tls else ''}+sentinel://{secret}{hosts}/{self.primary}{database}"
        scheme = "rediss://" if self.tls else ("redis://" if secret or self.db else "")
        return f"{scheme}{secret}{self.hostport}{database}"

    def __str__(self) -> str:
        return self.redacted()


def parse_redis_address(text: str) -> RedisAddress:
    """Read an address, or a comma list of them whose first entry is the one to use.

    An entry without a scheme takes TLS, database and credentials from the first entry. Raises
    ``RaywardError``, whose text holds the address without user name and password.
    """
    scheme, separator, hosts = text.strip().partition("://")
    if separator and scheme.lower().endswith("+sentinel"):
        return _parse_sentinels(scheme.lower(), hosts, whole=text)
    entries = [entry.strip() for entry in text.split(",")]
    if not any(entries):
        raise RaywardError("the Redis address is empty", todo=_EXPECTED)
    if not all(entries):
        raise _fault(text, "the list of addresses has an empty entry")
    first = _parse_one(entries[0], whole=text)
    rest = []
    for entry in entries[1:]:
        other = _parse_one(entry, whole=text)
        if "://" not in entry:
            other = replace(first, host=other.host, port=other.port)
        rest.append(other)
    return replace(first, alternates=tuple(rest))


def redact(text: str) -> str:
    """Any text that was meant as an address, with everything between its scheme and its last ``@`` hidden."""
    scheme, separator, rest = text.rpartition("://") if text.count("://") == 1 else ("", "", text)
    if "@" not in rest:
        return text
    return f"{scheme}{separator}***@{rest.rpartition('@')[2]}"


def _parse_one(entry: str, *, whole: str) -> RedisAddress:
    scheme, separator, rest = entry.partition("://")
    if not separator:
        scheme, rest = "redis", entry
    if scheme.lower() not in {"redis", "rediss"}:
        raise _fault(whole, f"{redact(scheme)}:// is not a scheme that Ray can reach Redis by")
    userinfo, at, location = rest.rpartition("@")
    if at and not separator:
        raise _fault(whole, "a user name or password needs redis:// or rediss:// in front")
    location, slash, database = location.partition("/")
    username, _, password = userinfo.partition(":")
    host, port = _host_and_port(location, whole=whole)
    return RedisAddress(
        host=host,
        port=port,
        tls=scheme.lower() == "rediss",
        db=_database(database, whole=whole) if slash else 0,
        username=unquote(username) or None,
        password=unquote(password) or None,
    )


def _parse_sentinels(scheme: str, rest: str, *, whole: str) -> RedisAddress:
    if scheme not in {"redis+sentinel", "rediss+sentinel"}:
        raise _fault(whole, f"{redact(scheme)}:// is not a scheme of Redis", _EXPECTED_SENTINEL)
    userinfo, _, location = rest.rpartition("@")
    hosts, _, path = location.partition("/")
    primary, slash, database = path.partition("/")
    if not primary or any(character.isspace() for character in primary):
        raise _fault(whole, "the name of the primary after the slash is missing", _EXPECTED_SENTINEL)
    username, _, password = userinfo.partition(":")
    servers = [_host_and_port(host.strip(), whole=whole, default=SENTINEL_PORT) for host in hosts.split(",")]
    first = RedisAddress(
        host=servers[0][0],
        port=servers[0][1],
        tls=scheme == "rediss+sentinel",
        db=_database(database, whole=whole) if slash else 0,
        username=unquote(username) or None,
        password=unquote(password) or None,
        primary=unquote(primary),
    )
    return replace(
        first, alternates=tuple(replace(first, host=host, port=port) for host, port in servers[1:])
    )


def _host_and_port(location: str, *, whole: str, default: int = DEFAULT_PORT) -> tuple[str, int]:
    if location.startswith("["):
        host, bracket, rest = location[1:].partition("]")
        if not bracket or (rest and not rest.startswith(":")):
            raise _fault(whole, "the brackets round the IPv6 address do not match")
        port = rest[1:] if rest else str(default)
    elif location.count(":") > 1:
        raise _fault(whole, "an IPv6 address needs brackets, as in [::1]:6379")
    else:
        host, colon, port = location.partition(":")
        port = port if colon else str(default)
    if not host or any(character.isspace() for character in host):
        raise _fault(whole, "the host name is missing or holds a space")
    # isdecimal alone would let other scripts' digits through.
    if not (port.isascii() and port.isdecimal() and 0 < int(port) <= 65535):
        raise _fault(whole, "the port is not a number between 1 and 65535")
    return host, int(port)


def _database(text: str, *, whole: str) -> int:
    if not text:
        return 0
    if not (text.isascii() and text.isdecimal()):
        raise _fault(whole, "the database after the slash is not a number")
    return int(text)


def _fault(whole: str, reason: str, todo: str = _EXPECTED) -> RaywardError:
    return RaywardError(f"{redact(whole)!r} is not a Redis address: {reason}", todo=todo)
