"""One HTTP question to another agent, with one deadline for all of it.

``http.client`` bounds each read, not the call: a peer that freezes in mid-answer could stretch it. Who asks
here waits for an answer on which a lease depends.
"""

from __future__ import annotations

import json
import socket
import time
from typing import Any

from rayward.errors import RaywardError

_LARGEST_ANSWER = 1024 * 1024
_LARGEST_PORT = 65535


def host_and_port(address: str, default_port: int) -> tuple[str, int]:
    """Split ``host``, ``host:port``, ``[v6]:port`` or a bare v6 address; raises RaywardError for others."""
    text = address.strip()
    host, port = text, str(default_port)
    if text.startswith("["):
        host, _, rest = text[1:].partition("]")
        port = rest[1:] if rest.startswith(":") else (port if not rest else "?")
    elif text.count(":") == 1:
        host, _, port = text.partition(":")
    if not host or not port.isdecimal() or not 0 < int(port) <= _LARGEST_PORT:
        raise RaywardError(f"{address!r} is not HOST or HOST:PORT", where="address of an agent")
    return host, int(port)


def join_address(host: str, port: int) -> str:
    """``host:port``, a v6 address in brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def ask(address: str, path: str, body: Any, timeout: float, token: str = "") -> tuple[int, Any]:
    """GET ``path`` (POST of ``body`` as JSON when it is not None) from the agent at ``address`` host:port.

    Gives the HTTP status and the answer's JSON (None where there is none). ``token`` goes as a bearer token.
    Takes at most ``timeout`` seconds once the name is resolved: give an IP address where that matters. Raises
    OSError (TimeoutError after the deadline) whenever there is no whole answer.
    """
    deadline = time.monotonic() + timeout
    host, port = host_and_port(address, 8008)
    raw = b"" if body is None else json.dumps(body).encode()
    lines = [f"{'GET' if body is None else 'POST'} {path} HTTP/1.0", f"Host: {join_address(host, port)}"]
    if token:
        lines.append(f"Authorization: Bearer {token}")
    if body is not None:
        lines += ["Content-Type: application/json", f"Content-Length: {len(raw)}"]
    request = "\r\n".join([*lines, "", ""]).encode() + raw
    with socket.create_connection((host, port), timeout=timeout) as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.settimeout(_left(deadline))
        sock.sendall(request)
        return _read_answer(sock, deadline)


def _left(deadline: float) -> float:
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError("no whole answer in time")
    return left


def _read_answer(sock: socket.socket, deadline: float) -> tuple[int, Any]:
    raw = b""
    while len(raw) <= _LARGEST_ANSWER:
        sock.settimeout(_left(deadline))
        try:
            chunk = sock.recv(65536)
        except socket.timeout as error:  # TimeoutError only since Python 3.10
            raise TimeoutError("no whole answer in time") from error
        raw += chunk
        head, separator, body = raw.partition(b"\r\n\r\n")
        length = _content_length(head) if separator else None
        if separator and length is not None and len(body) >= length:
            return _status(head), _as_json(body[:length])
        if not chunk:
            if separator and length is None:
                return _status(head), _as_json(body)
            raise ConnectionError("the answer ended before it was whole")
    raise ConnectionError(f"the answer is longer than {_LARGEST_ANSWER} bytes")


def _status(head: bytes) -> int:
    words = head.split(b" ", 2)
    if len(words) < 2 or not words[0].startswith(b"HTTP/") or not words[1].isdigit():
        raise ConnectionError("the answer is not HTTP")
    return int(words[1])


def _content_length(head: bytes) -> int | None:
    for line in head.split(b"\r\n")[1:]:
        name, _, value = line.partition(b":")
        if name.strip().lower() == b"content-length" and value.strip().isdigit():
            return int(value)
    return None


def _as_json(body: bytes) -> Any:
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        return None
