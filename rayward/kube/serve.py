"""The operator's two small HTTP ports: metrics for Prometheus, health for the kubelet."""

from __future__ import annotations

import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socket import AF_INET6, has_dualstack_ipv6
from typing import Any

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest

from rayward.errors import RaywardError

Answer = tuple[int, str, bytes]
_TEXT = "text/plain; charset=utf-8"


def health(healthy: Callable[[], str], ready: Callable[[], str]) -> dict[str, Callable[[], Answer]]:
    """Routes for probes. Both functions return what is wrong, or nothing."""

    def route(look: Callable[[], str]) -> Callable[[], Answer]:
        def answer() -> Answer:
            problem = look()
            return (503, _TEXT, f"{problem}\n".encode()) if problem else (200, _TEXT, b"ok\n")

        return answer

    return {"/healthz": route(healthy), "/readyz": route(ready)}


def metrics(registry: CollectorRegistry) -> dict[str, Callable[[], Answer]]:
    """The route of Prometheus."""
    return {"/metrics": lambda: (200, CONTENT_TYPE_LATEST, generate_latest(registry))}


class _Server(ThreadingHTTPServer):
    daemon_threads = True


class _Server6(_Server):
    address_family = AF_INET6


class Port:
    """One port, served by threads of its own until ``close``. Raises RaywardError when it is taken."""

    def __init__(self, address: tuple[str, int], routes: dict[str, Callable[[], Answer]]) -> None:
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                route = routes.get(self.path.partition("?")[0])
                code, kind, body = route() if route else (404, _TEXT, b"not found\n")
                self.send_response(code)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: Any) -> None:
                """Probes are not news."""

        host, port = address
        try:
            if not host and has_dualstack_ipv6():
                self._server: _Server = _Server6(("::", port), Handler)
            else:
                self._server = _Server((host or "0.0.0.0", port), Handler)
        except OSError as error:
            raise RaywardError(
                f"cannot listen: {error.strerror or error}",
                where=f"{host}:{port}",
                todo="choose another port",
            ) from error
        self.number: int = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, name=f"http-{self.number}", daemon=True).start()

    def close(self) -> None:
        """Stop serving."""
        self._server.shutdown()
        self._server.server_close()
