"""The load of the drills on Ray Serve: starts locust, reads what it reports as it runs, ends it by its pid.

What it does is in `serve_locustfile`; what its lines mean in `serve_requests`.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from importlib import resources
from types import TracebackType

from rayward.drill.serve_requests import Request, due_before, parse_request, served_rate
from rayward.errors import RaywardError
from rayward.local.pod_process import package_environment

PATH, BODY, EXPECT = "/fruit/", '["PEAR", 12]', "12"
"""The question of the example's fruit market, and its answer."""
LIMIT_S = 10.0
"""Seconds after which a request that is not answered has failed."""
MAX_S = 4 * 3600.0
"""Seconds after which a load ends by itself."""
_SESSIONS = 12
_CLOSED = 16
_CALIBRATE_S, _WARM_S = 5.0, 1.0
_BEGIN_LIMIT_S, _END_LIMIT_S = 60.0, 10.0
_POLL_S = 0.02
_NICE = -10


def require_locust() -> None:
    """Raise RaywardError when locust is not installed."""
    if importlib.util.find_spec("locust") is None:
        raise RaywardError(
            "locust is not installed, and it is the load of the drills on Ray Serve",
            where="rayward drill run",
            todo="pip install 'rayward[load]'",
        )


class ServeLoad:
    """A context manager: entering starts the load and waits for its begin, leaving ends it.

    ``url`` is the service's ("http://10.90.0.254:8000"); ``rate`` requests due per second, None for as many
    as are answered one after another; ``new_connections``: one for each request, where otherwise they are
    kept; ``limit_s``: seconds after which a request has failed. It ends by itself after ``max_s``. Every wait
    has a bound; a load that ended before its time is a RaywardError with its last words.
    """

    def __init__(
        self,
        url: str,
        rate: float | None,
        new_connections: bool = False,
        max_s: float = MAX_S,
        limit_s: float = LIMIT_S,
    ) -> None:
        self.url, self.rate, self.new_connections = url, rate, new_connections
        self.max_s, self.limit_s = max_s, limit_s
        self.begun = 0.0
        self.requests: list[Request] = []
        self._lines = tempfile.TemporaryFile()  # noqa: SIM115 (lives as long as the process)
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115
        self._read_to = 0
        self._child: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> ServeLoad:
        require_locust()
        try:
            self._start()
            deadline = time.monotonic() + _BEGIN_LIMIT_S
            while not self.begun:
                self.read()
                if time.monotonic() > deadline:
                    raise RaywardError(f"it has not begun within {_BEGIN_LIMIT_S:g} s", where="locust")
                time.sleep(_POLL_S)
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _start(self) -> None:
        # Connections that rest for longer than a server keeps them would be opened anew each time.
        sessions = _SESSIONS if self.rate is None else max(1, min(_SESSIONS, int(self.rate * 2)))
        settings = {
            "fd": self._lines.fileno(),
            "starter": os.getpid(),
            "rate": self.rate,
            "closed": _CLOSED,
            "sessions": sessions,
            "new_connections": self.new_connections,
            "max_s": self.max_s,
            "limit_s": self.limit_s,
            "path": PATH,
            "body": BODY,
            "expect": EXPECT,
        }
        base = {key: value for key, value in package_environment().items() if not key.startswith("LOCUST")}
        words = "--headless --users 1 --spawn-rate 1 --only-summary --loglevel WARNING --stop-timeout 0"
        with resources.as_file(resources.files("rayward.drill").joinpath("serve_locustfile.py")) as path:
            argv = [sys.executable, "-m", "locust", "-f", str(path), *words.split()]
            self._child = subprocess.Popen(
                [*argv, "--exit-code-on-error", "0", "--host", self.url],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=self._errors,
                cwd="/",
                env={**base, "RAYWARD_LOAD": json.dumps(settings)},
                pass_fds=(self._lines.fileno(),),
                # Ctrl-C is for the drill, which ends the load itself.
                start_new_session=True,
            )

        # Clients have machines of their own. Here they must not wait for what they ask: that would count as
        # the service's latency.
        with contextlib.suppress(PermissionError):
            os.setpriority(os.PRIO_PROCESS, self._child.pid, _NICE)

    @property
    def pid(self) -> int:
        """Its process."""
        assert self._child is not None
        return self._child.pid

    def read(self) -> None:
        """Take in what was reported since; raises RaywardError when the load has ended by itself."""
        assert self._child is not None
        ended = self._child.poll() is not None
        while True:
            data = os.pread(self._lines.fileno(), 1 << 20, self._read_to)
            whole = data[: data.rfind(b"\n") + 1]
            if not whole:
                break
            self._read_to += len(whole)
            for line in whole.decode().splitlines():
                if line.startswith("begin "):
                    self.begun = float(line.split()[1])
                else:
                    self.requests.append(parse_request(line))
        if ended and (not self.begun or time.monotonic() < self.begun + self.max_s):
            self._errors.seek(0)
            said = self._errors.read().decode(errors="replace").strip().splitlines()
            raise RaywardError(
                f"the load ended by itself (exit code {self._child.returncode}): "
                f"{said[-1] if said else 'no message'}",
                where="locust",
            )

    def reported(self, moment: float) -> int:
        """Wait until every request that was due before ``moment`` has been reported, no longer than one may
        take; returns how many were due."""
        assert self.rate is not None
        due = due_before(moment, self.begun, self.rate)
        deadline = time.monotonic() + self.limit_s + 5
        while True:
            self.read()
            if sum(request.number < due for request in self.requests) >= due or time.monotonic() > deadline:
                return due
            time.sleep(0.1)

    def rest(self, seconds: float) -> None:
        """Let it run; raises RaywardError when it ends meanwhile."""
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            time.sleep(min(left, 0.5))
            self.read()

    def close(self) -> None:
        """End it, whatever it is doing."""
        child, self._child = self._child, None
        if child is not None:
            with contextlib.suppress(ProcessLookupError):
                child.send_signal(signal.SIGTERM)
            try:
                child.wait(_END_LIMIT_S)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()
        self._lines.close()
        self._errors.close()


def measure_capacity(url: str, new_connections: bool) -> float:
    """Right answers per second with a few clients that ask again as soon as they are answered, for 5 s; the
    load runs on the same machine, so this is what both together can do. Raises RaywardError when nothing is
    answered."""
    with ServeLoad(url, None, new_connections, max_s=_CALIBRATE_S + 60) as load:
        load.rest(_CALIBRATE_S)
        ended = time.monotonic()
        load.read()
        found = served_rate(load.requests, load.begun + _WARM_S, ended)
        if not found:
            why = next((request.words for request in load.requests if not request.ok), "no answer at all")
            raise RaywardError(
                f"it answers no request rightly: {why}",
                where=url + PATH,
                todo="the drills ask the fruit market of examples/ray-service.high-availability.yaml",
            )
        return found
