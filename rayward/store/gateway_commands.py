"""What the gateway does with each Redis command: answer it here, pass it, guard it, or refuse it. Pure.

A GCS must see a plain writable server of its own, whatever the store behind is, and no command may pass of
which nobody has said whether it writes and whether it can be repeated.
"""

from __future__ import annotations

import enum
import hmac
from typing import Dict, Optional, Tuple

from rayward.store.resp import encode


class Kind(enum.IntEnum):
    """What happens to a command."""

    READ = 1
    WRITE = 2
    LOCAL = 3
    UNKNOWN = 4


# What GCS of Ray 2.37 to 2.60 sends, and what people and rayward's own tools may ask through the gateway.
READS = frozenset(
    b"HGET HMGET HEXISTS HSCAN HGETALL HKEYS HVALS HLEN HSTRLEN GET MGET STRLEN EXISTS KEYS SCAN TYPE TTL"
    b" PTTL".split()
)
# Each writes its first key only, says the same thing again when it is repeated (HSETNX and INCRBY aside, see
# gateway_replies), and is known to take its key as its first argument.
WRITES = frozenset(b"HSET HMSET HSETNX HDEL DEL UNLINK SET INCR INCRBY EXPIRE PEXPIRE PERSIST".split())
LOCALS = frozenset(b"AUTH HELLO INFO PING SELECT CLIENT QUIT COMMAND READONLY READWRITE".split())

# A GCS writes to ten keys with four commands; whoever writes to more pays a little more.
_MOST_HEADS = 256

OK = b"+OK\r\n"
PONG = b"+PONG\r\n"
NIL = b"$-1\r\n"
_NOT_LOGGED_IN = b"-NOAUTH Authentication required.\r\n"
_WRONG = b"-WRONGPASS invalid username-password pair or user is disabled.\r\n"
# What redis-server 6.2 answers when it is neither a Sentinel nor a cluster: Ray then asks no further.
_INFO = {
    b"SENTINEL": b"",
    b"CLUSTER": b"# Cluster\r\ncluster_enabled:0\r\n",
    b"REPLICATION": b"# Replication\r\nrole:master\r\nconnected_slaves:0\r\n",
    b"SERVER": b"# Server\r\nredis_version:6.2.0\r\nredis_mode:standalone\r\n",
}
_FIXED_REPLIES = {
    b"QUIT": OK,
    b"READONLY": OK,
    b"READWRITE": OK,
    b"COMMAND": b"*0\r\n",
    b"DEL": b":0\r\n",
}
_INFO_ALL = b"\r\n".join((_INFO[b"SERVER"], _INFO[b"REPLICATION"], _INFO[b"CLUSTER"]))


_KINDS = {
    **dict.fromkeys(READS, Kind.READ),
    **dict.fromkeys(WRITES, Kind.WRITE),
    **dict.fromkeys(LOCALS, Kind.LOCAL),
}


def kind_of(name: bytes) -> Kind:
    """What to do with the command of this name."""
    return _KINDS.get(name) or _KINDS.get(name.upper(), Kind.UNKNOWN)


def probes_for_writing(words: Tuple[bytes, ...]) -> bool:
    """Whether this is ``DEL DUMMY``, by which Ray finds out whether a server takes writes.

    It is answered here: behind the gateway somebody does, now or later.
    """
    return len(words) == 2 and words[1] == b"DUMMY" and words[0].upper() == b"DEL"


def asks_session_name(words: Tuple[bytes, ...]) -> bool:
    """Whether this is the one question of ``ray start`` that a standby may ask.

    The name of the session is written once in the life of a cluster; every other value may be stale for a
    standby, and gcs_server itself does not begin with this one.
    """
    return len(words) == 3 and words[0].upper() == b"HGET" and words[2].endswith(b"session:session_name")


def login_reply(words: Tuple[bytes, ...], token: bytes) -> Tuple[bool, bytes]:
    """Whether this AUTH lets a client in, and the answer to it."""
    if len(words) not in (2, 3):
        return False, b"-ERR wrong number of arguments for 'auth' command\r\n"
    right = hmac.compare_digest(words[-1], token)
    return right, OK if right else _WRONG


def before_login_reply(words: Tuple[bytes, ...]) -> bytes:
    """The answer to anything but AUTH from a client that has not logged in."""
    return _unknown(words) if words[0].upper() == b"HELLO" else _NOT_LOGGED_IN


def local_reply(words: Tuple[bytes, ...]) -> bytes:
    """The answer to a command of ``LOCALS`` (AUTH aside) or to ``DEL DUMMY``."""
    name = words[0].upper()
    if name in _FIXED_REPLIES:
        return _FIXED_REPLIES[name]
    if name == b"PING":
        return PONG if len(words) == 1 else _bulk(words[1])
    if name == b"INFO":
        return _bulk(_info(words[1].upper() if len(words) > 1 else None))
    if name == b"SELECT":
        return OK if words[1:] == (b"0",) else b"-ERR DB index is out of range\r\n"
    if name == b"CLIENT":
        return _client_reply(words)
    # Redis before 6 does not know HELLO, and its clients then go on with RESP 2.
    return _unknown(words)


def refusal(words: Tuple[bytes, ...]) -> bytes:
    """The answer to a command that the gateway does not pass."""
    return _unknown(words)


def protocol_error(reason: str) -> bytes:
    """The last words to a client whose bytes make no sense."""
    return b"-ERR Protocol error: %b\r\n" % reason.encode("ascii", "replace").replace(b"\r\n", b" ")


def _info(section: Optional[bytes]) -> bytes:
    return (
        _INFO_ALL if section in (None, b"ALL", b"DEFAULT", b"EVERYTHING") else _INFO.get(section or b"", b"")
    )


def _client_reply(words: Tuple[bytes, ...]) -> bytes:
    what = words[1].upper() if len(words) > 1 else b""
    if what == b"ID":
        return b":1\r\n"
    return NIL if what == b"GETNAME" else OK


def _unknown(words: Tuple[bytes, ...]) -> bytes:
    name = words[0][:128].replace(b"\r", b" ").replace(b"\n", b" ")
    return b"-ERR unknown command '%b'\r\n" % name


def _bulk(data: bytes) -> bytes:
    return b"$%d\r\n%b\r\n" % (len(data), data)


class Guard:
    """Rewrites the frame of a write into the call of the script that checks the epoch first.

    The bytes of key and values are taken over as they are. ``audit_key`` is empty when no audit is kept, and
    ``digest`` when nothing is guarded at all (a negative control): then a frame passes unchanged.
    """

    def __init__(self, digest: str, lease_key: str, audit_key: str) -> None:
        self._digest = digest
        self._lease_key = lease_key
        self._audit_key = audit_key
        self._before_key = b""
        self._after_key = b""
        self._added = 0
        # By number of words, command and key: what goes before the rest of the frame, and where that begins.
        self._heads: Dict[Tuple[int, bytes, bytes], Tuple[bytes, int]] = {}

    def lead(self, writer: str) -> None:
        """From now on, guard with this writer's name: what the lease must carry."""
        after = [self._lease_key, writer, *([self._audit_key] if self._audit_key else [])]
        self._before_key = _words("EVALSHA", self._digest, "1")
        self._after_key = _words(*after)
        self._added = 3 + len(after)
        self._heads.clear()

    def wrap(self, frame: bytes, name: bytes, key: bytes) -> bytes:
        """The guarded form of a command, whose first two words are given beside its frame."""
        if not self._digest:
            return frame
        count = int(frame[1 : frame.find(b"\r\n")])
        head, rest = self._heads.get((count, name, key)) or self._head(count, name, key)
        return head + frame[rest:]

    def _head(self, count: int, name: bytes, key: bytes) -> Tuple[bytes, int]:
        if len(self._heads) >= _MOST_HEADS:
            self._heads.clear()
        command, table = _bulk(name), _bulk(key)
        head = b"*%d\r\n%b%b%b%b" % (count + self._added, self._before_key, table, self._after_key, command)
        found = head, len(b"*%d\r\n" % count) + len(command) + len(table)
        self._heads[count, name, key] = found
        return found


def _words(*parts: str) -> bytes:
    return encode(*parts).partition(b"\r\n")[2]
