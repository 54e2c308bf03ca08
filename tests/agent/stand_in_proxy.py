"""A little HTTP server where Ray Serve's proxy would be: it answers as it is told to."""

from __future__ import annotations

import json
import socket
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

# What Ray Serve 2.60 says.
DRAINING = "This node is being drained."
ROUTES = {"/fruit": "fruit_app"}


class StandInProxy:
    """``code`` and ``message`` answer ``/-/healthz``, ``routes`` answers ``/-/routes``; while ``hold`` is set
    nothing is answered at all. ``asked`` counts the questions by path."""

    def __init__(self, port: int = 0, host: str = "127.0.0.1") -> None:
        self.code, self.message = 200, "success"
        self.routes: Any = ROUTES
        self.asked: dict[str, int] = {}
        self._answers = threading.Event()
        self._answers.set()
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            # Head and body in one segment, as a real server sends them.
            wbufsize = -1

            def do_GET(self) -> None:
                proxy.asked[self.path] = proxy.asked.get(self.path, 0) + 1
                proxy._answers.wait()
                code, body = proxy.code, proxy.message
                if self.path == "/-/routes" and code == 200:
                    body = json.dumps(proxy.routes)
                self.send_response(code)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body.encode())

            def log_message(self, format: str, *args: Any) -> None:
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            address_family = socket.AF_INET6 if ":" in host else socket.AF_INET

            def handle_error(self, request: Any, client_address: Any) -> None:
                pass  # whoever asks may hang up

            def process_request(self, request: Any, client_address: Any) -> None:
                proxy._open.append(request)
                super().process_request(request, client_address)

        self._open: list[socket.socket] = []
        self._server = Server((host, port), Handler)
        self.port: int = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def hold(self) -> None:
        """Answer nothing from now on."""
        self._answers.clear()

    def go_on(self) -> None:
        """Answer again, also what was asked meanwhile."""
        self._answers.set()

    def end(self) -> None:
        """Stop as a process that is killed: the port closes, and all connections end."""
        self._server.shutdown()
        self._server.server_close()
        for connection in self._open:
            try:
                connection.shutdown(socket.SHUT_RDWR)
            except OSError:
                continue
        self._answers.set()


if __name__ == "__main__":
    StandInProxy(int(sys.argv[1]))
    threading.Event().wait()
