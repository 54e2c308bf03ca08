"""One blocking connection to one Redis server: resolve, connect, TLS, ask and read, each with a bound.

It does not know which server is the right one (``upstream`` does) and uses no client library: the gateway and
the lease live in processes whose memory matters.
"""

from __future__ import annotations

import contextlib
import ipaddress
import socket
import threading
import time
from typing import TYPE_CHECKING, Any, Dict, List, Optional, Sequence, Tuple

from rayward.errors import RaywardError
from rayward.store.address import RedisAddress
from rayward.store.connection import TlsFiles
from rayward.store.resp import Part, ProtocolError, Reply, ReplyError, encode, parse_reply

if TYPE_CHECKING:
    import ssl

_READ_SIZE = 65536
# A peer that acknowledges nothing for this long is gone. A server that is only slow still acknowledges.
_USER_TIMEOUT_MS = 5000
_KEEPALIVE = (("TCP_KEEPIDLE", 2), ("TCP_KEEPINTVL", 1), ("TCP_KEEPCNT", 3))

_Target = Tuple[int, int, int, str, Any]


class StoreConnection:
    """A connection that is open. ``socket`` may be used directly as long as no ``call`` is under way.

    Not for several threads at a time. ``address`` is the server at the other end, without alternates.
    """

    def __init__(self, sock: socket.socket, address: RedisAddress) -> None:
        self.socket = sock
        self.address = address
        self._received = bytearray()

    def call(self, *args: Part, timeout: float) -> Reply:
        """Send one command and return its answer within ``timeout`` seconds.

        Raises ``ReplyError`` where Redis answers with an error (the connection stays usable); ``OSError``
        (``TimeoutError`` among them) where no answer came: the connection is then closed, and whether the
        command was executed is unknown.
        """
        reply = self.pipeline([args], timeout=timeout)[0]
        if isinstance(reply, ReplyError):
            raise reply
        return reply

    def pipeline(self, commands: Sequence[Sequence[Part]], timeout: float) -> List[Reply]:
        """Send several commands at once; their answers in order, an error as a ``ReplyError`` in its place.

        Raises as ``call`` does.
        """
        deadline = time.monotonic() + timeout
        try:
            self.socket.settimeout(max(0.001, timeout))
            self.socket.sendall(b"".join(encode(*command) for command in commands))
            return [self._read(deadline) for _ in commands]
        except ProtocolError as error:
            self.close()
            raise ConnectionError(f"the server does not speak Redis' protocol: {error}") from error
        except BaseException:
            # An answer that comes later would be taken for that of the next command.
            self.close()
            raise

    def close(self) -> None:
        """Close it; harmless when it is closed."""
        with contextlib.suppress(OSError):
            self.socket.close()

    def _read(self, deadline: float) -> Reply:
        while True:
            reply, end = parse_reply(self._received)
            if end >= 0:
                del self._received[:end]
                return reply
            left = deadline - time.monotonic()
            if left <= 0:
                raise TimeoutError("no answer in time")
            self.socket.settimeout(left)
            data = self.socket.recv(_READ_SIZE)
            if not data:
                raise ConnectionResetError("Connection closed by server")
            self._received += data


def open_channel(
    address: RedisAddress, deadline: float, tls: TlsFiles, server_name: str = ""
) -> StoreConnection:
    """Connect to ``address`` before ``deadline`` (monotonic seconds), with TLS where it says so.

    A name with several addresses is tried one address after the other, each with its share of the time.
    ``server_name`` is what the certificate is checked against where it does not hold the host's own name.
    Raises ``OSError`` (``ssl.SSLError``, ``socket.gaierror``, ``TimeoutError``...) or, for a TLS file that
    cannot be read, ``RaywardError``.
    """
    context = tls_context(tls) if address.tls else None
    targets = _resolve(address.host, address.port, deadline)
    problem: Optional[OSError] = None
    for place, target in enumerate(targets):
        now = time.monotonic()
        if now >= deadline:
            break
        try:
            share = now + (deadline - now) / (len(targets) - place)
            return StoreConnection(_connect(target, share, context, server_name or address.host), address)
        except OSError as error:
            problem = error
    raise problem or TimeoutError("no connection in time")


def tls_context(files: TlsFiles) -> ssl.SSLContext:
    """A context that verifies the server against the CA named, or against the system's.

    The files are read at every call, so a renewed certificate is found. Raises ``RaywardError``.
    """
    named = ((files.ca, "RAY_REDIS_CA_CERT"), (files.certificate, "RAY_REDIS_CLIENT_CERT"))
    for path, setting in (*named, (files.key, "RAY_REDIS_CLIENT_KEY")):
        if path is not None:
            _check_readable(path, setting)
    import ssl  # noqa: PLC0415 - 4.5 MB that only those with TLS pay

    try:
        context = ssl.create_default_context(cafile=files.ca)
        if files.certificate is not None:
            context.load_cert_chain(files.certificate, files.key)
    except (OSError, ValueError) as error:
        where = " ".join(f"{setting}={path}" for path, setting in named if path is not None)
        raise RaywardError(
            f"a TLS file for Redis cannot be used: {error}",
            where=where,
            todo="give PEM files: the CA, the client's certificate and its key without a passphrase",
        ) from error
    return context


def _check_readable(path: str, setting: str) -> None:
    try:
        with open(path, "rb"):
            pass
    except OSError as error:
        raise RaywardError(
            f"the file {path} cannot be read: {error.strerror}",
            where=setting,
            todo="correct the path, or mount the Secret that holds the file",
        ) from error


def _connect(
    target: _Target, deadline: float, context: Optional[ssl.SSLContext], server_name: str
) -> socket.socket:
    family, kind, protocol, _, location = target
    sock = socket.socket(family, kind, protocol)
    try:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for name, value in _KEEPALIVE:
            if hasattr(socket, name):
                sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
        if hasattr(socket, "TCP_USER_TIMEOUT"):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _USER_TIMEOUT_MS)
        sock.settimeout(max(0.001, deadline - time.monotonic()))
        sock.connect(location)
        if context is not None:
            sock.settimeout(max(0.001, deadline - time.monotonic()))
            sock = context.wrap_socket(sock, server_hostname=server_name)
        return sock
    except BaseException:
        sock.close()
        raise


class _Lookup:
    """One question to the system's resolver, which cannot be interrupted, asked in a thread."""

    def __init__(self, host: str, port: int) -> None:
        self.done = threading.Event()
        self.found: List[_Target] = []
        self.problem: Optional[OSError] = None
        self._question = (host, port)

    def ask(self) -> None:
        """Ask; runs in the thread."""
        try:
            self.found = [
                (int(family), int(kind), protocol, name, location)
                for family, kind, protocol, name, location in socket.getaddrinfo(
                    *self._question, type=socket.SOCK_STREAM
                )
            ]
        except OSError as error:
            self.problem = error
        except UnicodeError as error:  # a label that is empty or too long for IDNA
            self.problem = socket.gaierror(socket.EAI_NONAME, f"not a host name: {error}")
        finally:
            with _lookups_lock:
                _lookups.pop(self._question, None)
            self.done.set()


# A resolver that hangs is asked once per name, however often a caller loses patience and comes back.
_lookups: Dict[Tuple[str, int], _Lookup] = {}
_lookups_lock = threading.Lock()


def _resolve(host: str, port: int, deadline: float) -> List[_Target]:
    try:
        version = ipaddress.ip_address(host.partition("%")[0]).version
    except ValueError:
        pass
    else:
        if version == 4:
            return [(socket.AF_INET, socket.SOCK_STREAM, 0, "", (host, port))]
        return list(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST))
    with _lookups_lock:
        lookup = _lookups.get((host, port))
        if lookup is None:
            lookup = _lookups[host, port] = _Lookup(host, port)
            threading.Thread(target=lookup.ask, name="store-resolver", daemon=True).start()
    if not lookup.done.wait(max(0.0, deadline - time.monotonic())):
        raise socket.gaierror(socket.EAI_AGAIN, f"the name {host} was not resolved in time")
    if lookup.problem is not None:
        # A new one each time: several threads may wait for one answer, and a traceback belongs to one.
        raise type(lookup.problem)(*lookup.problem.args)
    return lookup.found
