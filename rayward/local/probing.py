"""Runs the checks of probes without threads, on a selector: exec in the container, TCP connect, HTTP GET.

Must not decide anything: `probes` says when a check is due and what its result means.
"""

from __future__ import annotations

import errno
import os
import selectors
import signal
import socket
import struct
import subprocess
from collections.abc import Callable, Mapping
from contextlib import suppress

from rayward.local import probes
from rayward.local.execute import ExecPlan
from rayward.local.probes import Check, Probe, ProbeState

PlanExec = Callable[[tuple[str, ...]], "ExecPlan | None"]


_MOST_READ = 10 * 1024


class Attempt:
    """One check under way. ``result`` is None until it is known; `close` ends it in any case."""

    result: bool | None = None

    @property
    def result_at_deadline(self) -> bool:
        """What counts when the time is up and ``result`` is not known."""
        return False

    def advance(self) -> None:
        """Go on, after the selector said that this attempt's descriptor is ready."""
        raise NotImplementedError

    def close(self) -> None:
        """Free what the attempt holds; one that is not over is broken off."""
        raise NotImplementedError


class ExecAttempt(Attempt):
    """Runs a command; it succeeds when the command ends with status 0."""

    def __init__(self, plan: ExecPlan, selector: selectors.BaseSelector) -> None:
        self._selector = selector
        self._process = subprocess.Popen(
            plan.argv,
            env=plan.env,
            cwd=plan.cwd,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        self._descriptor = os.pidfd_open(self._process.pid)
        selector.register(self._descriptor, selectors.EVENT_READ, self)

    def advance(self) -> None:
        """The command ended."""
        self.result = self._process.wait() == 0

    def close(self) -> None:
        """A command that still runs is killed with its whole session."""
        self._selector.unregister(self._descriptor)
        os.close(self._descriptor)
        if self._process.poll() is None:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()


class SocketAttempt(Attempt):
    """Connects; for an HTTP check it sends a GET and wants a status from 200 to 399, as kubelet does."""

    def __init__(self, check: Check, address: str, port: int, selector: selectors.BaseSelector) -> None:
        self._check = check
        self._address = check.host or address
        self._port = port
        self._selector = selector
        self._answer = b""
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        self._socket.setblocking(False)
        with suppress(OSError):
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        code = self._socket.connect_ex((self._address, port))
        if code not in (0, errno.EINPROGRESS):
            self.result = False
        selector.register(self._socket, selectors.EVENT_WRITE, self)

    def advance(self) -> None:
        """Connected, refused, or more of the answer came."""
        if self._selector.get_key(self._socket).events & selectors.EVENT_WRITE:
            self._connected()
            return
        try:
            data = self._socket.recv(4096)
        except OSError:
            self.result = False
            return
        self._answer += data
        # Read to the end: a server whose answer is cut off would log an error at every probe.
        if not data or len(self._answer) > _MOST_READ or _complete(self._answer):
            self.result = _well(self._answer)

    @property
    def result_at_deadline(self) -> bool:
        """A status that came in time counts, also from a server that keeps the connection open."""
        return b"\n" in self._answer and _well(self._answer)

    def _connected(self) -> None:
        if self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) != 0:
            self.result = False
        elif self._check.how == "tcp":
            self.result = True
        else:
            try:
                self._socket.sendall(http_request(self._check, self._address, self._port))
            except OSError:
                self.result = False
                return
            self._selector.modify(self._socket, selectors.EVENT_READ, self)

    def close(self) -> None:
        """Hang up."""
        self._selector.unregister(self._socket)
        self._socket.close()


def http_request(check: Check, address: str, port: int) -> bytes:
    """The bytes of a probe's GET."""
    headers = {
        "Host": f"{address}:{port}",
        "User-Agent": "rayward-probe",
        "Accept": "*/*",
        "Connection": "close",
    }
    headers.update(check.headers)
    path = check.path if check.path.startswith("/") else f"/{check.path}"
    lines = [f"GET {path} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items()), "", ""]
    return "\r\n".join(lines).encode()


def _complete(answer: bytes) -> bool:
    """Whether an answer is all there, as far as it tells its length."""
    head, separator, body = answer.partition(b"\r\n\r\n")
    if not separator:
        return False
    for line in head.split(b"\r\n")[1:]:
        name, _, value = line.partition(b":")
        if name.strip().lower() == b"content-length" and value.strip().isdigit():
            return len(body) >= int(value)
        if name.strip().lower() == b"transfer-encoding":
            return body.endswith(b"0\r\n\r\n")
    return False


def _well(answer: bytes) -> bool:
    words = answer.split(b"\r\n", 1)[0].split()
    return (
        len(words) >= 2
        and words[0].startswith(b"HTTP/")
        and words[1].isdigit()
        and 200 <= int(words[1]) < 400
    )


class Prober:
    """The probes of one run of one container.

    ``address`` is the Pod's, ``port`` maps a port of the manifest to the one in use, ``plan_exec`` plans a
    command in the container, or answers None while that is impossible.
    """

    def __init__(
        self,
        wanted: list[Probe],
        selector: selectors.BaseSelector,
        address: str,
        port: Callable[[int], int],
        plan_exec: PlanExec,
    ) -> None:
        self._probes = {probe.kind: probe for probe in wanted}
        self._selector = selector
        self._address = address
        self._port = port
        self._plan_exec = plan_exec
        self._attempts: dict[str, tuple[Attempt, float]] = {}
        self.states: dict[str, ProbeState] = {}

    def start(self, now: float) -> None:
        """The container runs since ``now``: begin."""
        self.states = {kind: probes.first_state(probe, now) for kind, probe in self._probes.items()}

    def stop(self) -> None:
        """The container ended, or will: break off what is under way."""
        for attempt, _ in self._attempts.values():
            attempt.close()
        self._attempts.clear()

    def step(self, now: float) -> None:
        """Take in results and time-outs, and begin the checks that are due."""
        for kind, (attempt, deadline) in list(self._attempts.items()):
            if attempt.result is not None or now >= deadline:
                found = attempt.result_at_deadline if attempt.result is None else attempt.result
                attempt.close()
                del self._attempts[kind]
                self._conclude(kind, found, now)
        for kind, probe in self._probes.items():
            due = kind in self.states and now >= self.states[kind].due and kind not in self._attempts
            if due and probes.may_run(kind, self.states):
                self._begin(probe, now)

    def _begin(self, probe: Probe, now: float) -> None:
        try:
            attempt = self._attempt(probe)
        except OSError:
            attempt = None
        if attempt is None or attempt.result is not None:
            if attempt is not None:
                attempt.close()
            self._conclude(probe.kind, False, now)
        else:
            self._attempts[probe.kind] = (attempt, now + probe.timeout_s)

    def _attempt(self, probe: Probe) -> Attempt | None:
        if probe.check.how == "exec":
            plan = self._plan_exec(probe.check.command)
            return None if plan is None else ExecAttempt(plan, self._selector)
        return SocketAttempt(probe.check, self._address, self._port(probe.check.port), self._selector)

    def _conclude(self, kind: str, success: bool, now: float) -> None:
        before = probes.is_started(self.states)
        self.states[kind] = probes.after_result(self._probes[kind], self.states[kind], success, now)
        if not before and probes.is_started(self.states):
            # The others count their initial delay from the container's start, but had to wait until here.
            self.states = {
                other: state if other == kind else ProbeState(due=max(state.due, now))
                for other, state in self.states.items()
            }

    def next_due(self) -> float | None:
        """When `step` is wanted next, if not woken by the selector before."""
        times = [deadline for _, deadline in self._attempts.values()]
        for kind, state in self.states.items():
            if kind not in self._attempts and probes.may_run(kind, self.states):
                times.append(state.due)
        return min(times) if times else None


def states_of(prober: Prober | None) -> Mapping[str, ProbeState]:
    """The states of a prober that may not be there."""
    return {} if prober is None else prober.states
