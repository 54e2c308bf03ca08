"""What stands in for the agent and Ray in a Pod of the tests for two heads: it leads while it holds a lock.

The lock (on a file that both heads see) is taken by the first and passes on when its holder dies, as a lease
does. Everything around it is real: Pods, probes, Services, the node process.
"""

import fcntl
import http.server
import json
import os
import subprocess
import threading

SHARED = os.environ.get("SHARED", "/shared")
SELF = os.environ["RAYWARD_POD"]
HEAD = "-head-" in SELF
leads = threading.Event()


def lead() -> None:
    """Wait for the lock, then lead until the end."""
    with open(f"{SHARED}/lock", "a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        leads.set()
        threading.Event().wait()


class Handler(http.server.BaseHTTPRequestHandler):
    """The paths of the agent that rayward asks."""

    protocol_version = "HTTP/1.0"

    def do_GET(self) -> None:
        ready = leads.is_set() or not HEAD
        if self.path == "/status":
            warm = os.path.exists(f"{SHARED}/warm")
            said = {"ready": ready, "reason": "it says so", "phase": "running"}
            if HEAD:
                state = "serving" if ready else "warm" if warm else "starting"
                said["lead"] = {
                    "role": "leader" if ready else "standby",
                    "state": state,
                    "member": SELF,
                    "epoch": 1,
                }
            self.answer(200, said)
        else:
            self.answer(200 if ready or self.path == "/livez" else 503, {})

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.headers.get("Authorization") != "Bearer let-me":
            self.answer(401, {"error": "a token is needed", "todo": "send it"})
        elif asked.get("to") == SELF:
            self.answer(409, {"error": f"{SELF} leads already", "todo": "name another one"})
        else:
            self.answer(200, {"ok": True, "message": f"{self.path} {asked}"})

    def answer(self, code: int, body: object) -> None:
        data = json.dumps(body).encode()
        self.send_response(code)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_words: object) -> None:
        """Say nothing."""


child = subprocess.Popen(["sleep", "100000"])
if HEAD:
    threading.Thread(target=lead, daemon=True).start()
http.server.ThreadingHTTPServer(("", 8008), Handler).serve_forever()
