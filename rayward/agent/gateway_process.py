"""The agent's handle of the store gateway: starts the child process, orders it about, keeps its reports."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import threading
import time
from dataclasses import dataclass, field, replace
from typing import IO, Any, Callable, Dict, Mapping, Optional, Sequence

from rayward.errors import RaywardError

_START_LIMIT_S = 15.0
_STOP_LIMIT_S = 2.0


@dataclass(frozen=True)
class GatewayView:
    """What the gateway has said last. ``port`` is 0 until it listens; ``heard_at`` is when it said something,
    which it does every second (monotonic seconds).

    ``store``: ``ok``, ``away``, ``refused`` or "" (nothing heard), for the reason ``fault``, since
    ``store_since`` (monotonic seconds). ``fenced_by``: the epoch that was found instead of ours (0: a lease
    that was released), None when nobody has; ``lost``: ``empty`` or ``older`` when the store came back
    without our lease, else "". Both are forgotten when the gateway is told to lead again.
    """

    port: int = 0
    heard_at: float = 0.0
    store: str = ""
    fault: str = ""
    store_since: float = 0.0
    fenced_by: Optional[int] = None
    fenced_epoch: int = 0
    lost: str = ""
    counters: Mapping[str, Any] = field(default_factory=dict)


def apply_report(view: GatewayView, report: Mapping[str, Any]) -> GatewayView:
    """The view after one report; pure. A report of an unknown kind changes nothing."""
    kind = report.get("is")
    if kind == "listening":
        return replace(view, port=int(report["port"]))
    if kind == "store":
        return replace(view, store=report["state"], fault=report["fault"], store_since=report["since"])
    if kind == "fenced":
        return replace(view, fenced_by=report["found"], fenced_epoch=report["epoch"])
    if kind == "lost":
        return replace(view, lost=report["what"])
    if kind == "counters":
        return replace(view, counters={name: value for name, value in report.items() if name != "is"})
    return view


class GatewayProcess:
    """One gateway at a time. ``on_report`` is called from the reader's thread after each change of ``view``
    with the report itself; it must not block.

    ``command`` starts a gateway; ``environ`` is all of its environment. Its standard error is the agent's.
    """

    def __init__(
        self,
        command: Sequence[str],
        environ: Mapping[str, str],
        on_report: Callable[[Mapping[str, Any]], None] = lambda report: None,
    ) -> None:
        self._command = list(command)
        self._environ = dict(environ)
        self._on_report = on_report
        self._process: Optional[subprocess.Popen[bytes]] = None
        self._reader: Optional[threading.Thread] = None
        self._view = GatewayView()
        self._order: Dict[str, Any] = {"do": "hold"}
        self._heard = threading.Condition()

    @property
    def view(self) -> GatewayView:
        """What is known now; of the present process only."""
        return self._view

    @property
    def pid(self) -> Optional[int]:
        """The process, None when it was never started."""
        return self._process.pid if self._process is not None else None

    @property
    def alive(self) -> bool:
        """Whether it runs. Reaps it when it has ended."""
        return self._process is not None and self._process.poll() is None

    @property
    def port(self) -> int:
        """Where it listens on 127.0.0.1; 0 when it does not."""
        return self._view.port

    @property
    def counters(self) -> Mapping[str, Any]:
        """The figures it has reported last."""
        return self._view.counters

    def start(self, limit: float = _START_LIMIT_S) -> int:
        """Start it and return its port once it listens, within ``limit`` seconds.

        It gets the order that was given last: one that was restarted leads (or holds) as the one before.
        After the first start the port stays the same. Raises ``RaywardError``.
        """
        if self.alive:
            return self._view.port
        if self._view.port:
            self._environ["RAYWARD_GATEWAY_PORT"] = str(self._view.port)
        with self._heard:
            self._view = GatewayView()
        process = subprocess.Popen(
            self._command, env=self._environ, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        self._process = process
        assert process.stdout is not None
        self._reader = threading.Thread(
            target=self._read, args=(process, process.stdout), name="gateway-reports", daemon=True
        )
        self._reader.start()
        self._give(self._order)
        with self._heard:
            self._heard.wait_for(lambda: self._view.port or process.poll() is not None, limit)
            port = self._view.port
        if not port:
            code = process.poll()
            self.stop()
            raise RaywardError(
                "the store gateway did not start: "
                + (
                    f"it ended with code {code}"
                    if code is not None
                    else f"it did not listen within {limit:g} s"
                ),
                todo="look at the lines that begin with 'rayward gateway:' above",
            )
        return port

    def restart(self) -> int:
        """End it if it runs, start it anew on the same port with the same order; returns the port."""
        self.stop()
        return self.start()

    def hold(self) -> None:
        """Let nothing of a GCS pass from now on; the connections of one that led are closed."""
        self._give({"do": "hold"})

    def lead(self, epoch: int, writer: str = "") -> None:
        """Let commands pass, writes only as long as the lease carries ``writer`` (else the epoch alone)."""
        with self._heard:
            self._view = replace(self._view, fenced_by=None, lost="")
        self._give({"do": "lead", "epoch": epoch, "writer": writer or str(epoch)})

    def stop(self) -> None:
        """End it, at once; harmless when it does not run."""
        process = self._process
        if process is None:
            return
        with contextlib.suppress(OSError):
            if process.stdin is not None:
                process.stdin.close()
        try:
            process.wait(_STOP_LIMIT_S)
        except subprocess.TimeoutExpired:
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(signal.SIGKILL)
            process.wait()
        if self._reader is not None:
            self._reader.join(_STOP_LIMIT_S)

    def _give(self, order: Dict[str, Any]) -> None:
        self._order = order
        process = self._process
        if process is None or process.stdin is None:
            return
        # A gateway that has died is found by ``alive``; the order is given to its successor.
        with contextlib.suppress(OSError, ValueError):
            process.stdin.write(json.dumps(order).encode() + b"\n")
            process.stdin.flush()

    def _read(self, process: subprocess.Popen[bytes], reports: IO[bytes]) -> None:
        with contextlib.suppress(OSError, ValueError), reports:
            for line in reports:
                with contextlib.suppress(ValueError, KeyError, TypeError):
                    report = json.loads(line)
                    with self._heard:
                        if process is self._process:
                            self._view = replace(apply_report(self._view, report), heard_at=time.monotonic())
                        self._heard.notify_all()
                    self._on_report(report)
        process.wait()
        with self._heard:
            self._heard.notify_all()
