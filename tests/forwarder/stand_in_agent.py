"""A head's agent as far as its ``/leader`` goes, as a process that can be frozen and killed.

Arguments: HOST PORT. Standard input: one JSON object a line, what ``/leader`` says from then on. Prints
``ready`` once it listens.
"""

from __future__ import annotations

import contextlib
import json
import socket
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

BEAT = 0.5


class State:
    def __init__(self) -> None:
        self.changed = threading.Condition()
        self.version = 0
        self.said: dict[str, object] = {
            "leader": False,
            "epoch": 0,
            "serving": False,
            "gcs": "",
            "member": "",
        }

    def set(self, said: dict[str, object]) -> None:
        with self.changed:
            self.said = said
            self.version += 1
            self.changed.notify_all()


STATE = State()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        serves = bool(STATE.said.get("leader")) and bool(STATE.said.get("serving"))
        watch = self.path == "/leader?watch=1"
        self.send_response(200 if serves or watch else 503)
        self.send_header("Content-Type", "application/json")
        if not watch:
            raw = (json.dumps(STATE.said) + "\n").encode()
            self.send_header("Content-Length", str(len(raw)))
            self.end_headers()
            self.wfile.write(raw)
            return
        self.end_headers()
        while True:
            with STATE.changed:
                version = STATE.version
                raw = (json.dumps(STATE.said) + "\n").encode()
            self.wfile.write(raw)
            with STATE.changed:
                if version == STATE.version:
                    STATE.changed.wait(BEAT)

    do_HEAD = do_OPTIONS = do_GET

    def log_message(self, format: str, *args: object) -> None:
        pass

    def handle(self) -> None:
        with contextlib.suppress(OSError):
            super().handle()


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64

    def server_bind(self) -> None:
        # HTTPServer's own looks up the host's full name, which can take seconds without DNS.
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind(self.server_address)
        self.server_name, self.server_port = "stand-in", self.server_address[1]


if __name__ == "__main__":
    server = Server((sys.argv[1], int(sys.argv[2])), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    print("ready", flush=True)
    for line in sys.stdin:
        STATE.set(json.loads(line))
