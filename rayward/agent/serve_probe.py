"""Asks the Ray Serve proxy on this node, over HTTP on its loopback address.

``/-/healthz`` and ``/-/routes`` are the proxy's own paths. It listens on all addresses unless the user's
``http_options.host`` says otherwise.
"""

from __future__ import annotations

import http.client
import json
import select
import socket
import time
from typing import Optional

from rayward.agent.serve_rules import Answer, Finding

_LONGEST_WORDS, _LONGEST_ROUTES = 4 * 1024, 256 * 1024
_HOSTS = ("127.0.0.1", "::1")


class ServeProbe:
    """Asks ``port`` of this host; an answer takes ``timeout`` seconds at the most. For one thread.

    Each question opens a connection, so that it meets what a client would. The connection of the last one
    stays open until the next: the kernel closes it with the proxy's process, and ``wait`` notices.
    """

    def __init__(self, port: int, timeout: float) -> None:
        self._port = port
        self._timeout = timeout
        self._host = _HOSTS[0]
        self._kept: Optional[http.client.HTTPConnection] = None

    def ask(self, routes: bool) -> Answer:
        """Whether the proxy answers, and how many routes it has if ``routes``. Raises nothing."""
        before, self._kept = self._kept, None
        deadline = time.monotonic() + self._timeout
        connection: Optional[http.client.HTTPConnection] = None
        try:
            connection = self._connect()
            code, body = _get(connection, "/-/healthz", deadline, _LONGEST_WORDS)
            if code != 200:
                return Answer(Finding.SAYS_NO, f"the Serve proxy answers {code}: {_words(body)}")
            self._kept = connection if connection.sock is not None else None
            found = self._routes(connection, deadline) if routes and self._kept is not None else None
            return Answer(Finding.ANSWERS, "the Serve proxy answers", found)
        except socket.timeout:
            return Answer(Finding.SILENT, f"no answer of the Serve proxy within {self._timeout:g} s")
        except (OSError, http.client.HTTPException) as error:
            why = getattr(error, "strerror", None) or str(error) or type(error).__name__
            return Answer(Finding.REFUSED, f"the Serve proxy on port {self._port}: {why.lower()}")
        finally:
            if connection is not None and connection is not self._kept:
                connection.close()
            if before is not None:
                before.close()

    def wait(self, seconds: float) -> bool:
        """Wait; True at once when the proxy ends the connection of the last question."""
        sock = self._kept.sock if self._kept is not None else None
        if sock is None:
            time.sleep(seconds)
            return False
        poller = select.poll()
        poller.register(sock, select.POLLIN | select.POLLRDHUP)
        return bool(poller.poll(seconds * 1000))

    def close(self) -> None:
        """Hang up."""
        if self._kept is not None:
            self._kept.close()
            self._kept = None

    def _connect(self) -> http.client.HTTPConnection:
        """A proxy of an IPv6 Pod may listen on that family only."""
        try:
            return self._connect_to(self._host)
        except ConnectionRefusedError as refusal:
            other = _HOSTS[1 - _HOSTS.index(self._host)]
            try:
                connection = self._connect_to(other)
            except OSError:
                raise refusal from None
            self._host = other
            return connection

    def _connect_to(self, host: str) -> http.client.HTTPConnection:
        connection = http.client.HTTPConnection(host, self._port, timeout=self._timeout)
        connection.connect()
        return connection

    def _routes(self, connection: http.client.HTTPConnection, deadline: float) -> Optional[int]:
        """How many routes there are; None when that is not told: the proxy's health is known already."""
        try:
            code, body = _get(connection, "/-/routes", deadline, _LONGEST_ROUTES)
            found = json.loads(body) if code == 200 else None
        except (OSError, http.client.HTTPException, ValueError):
            self._kept = None
            return None
        if connection.sock is None:
            self._kept = None
        return len(found) if isinstance(found, dict) else None


def _get(
    connection: http.client.HTTPConnection, path: str, deadline: float, longest: int
) -> tuple[int, bytes]:
    assert connection.sock is not None
    connection.sock.settimeout(max(0.05, deadline - time.monotonic()))
    connection.request("GET", path)
    response = connection.getresponse()
    body = response.read(longest)
    if not response.isclosed():  # more than anybody wants to read: of no use for the next question
        connection.close()
    return response.status, body


def _words(body: bytes) -> str:
    return " ".join(body.decode(errors="replace").strip().strip('"').split())[:200]
