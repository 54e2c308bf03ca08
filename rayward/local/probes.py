"""When a probe runs and what follows from its results: kubelet's rules as a pure state machine.

Times are seconds on any clock that only grows; the caller runs the checks. Must not do any I/O.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from rayward.errors import RaywardError

STARTUP, READINESS, LIVENESS = "startup", "readiness", "liveness"
KINDS = (STARTUP, READINESS, LIVENESS)


@dataclass(frozen=True)
class Check:
    """What a probe does: run ``command`` in the container, or connect to ``port``, or GET ``path`` there.

    ``how`` is "exec", "tcp" or "http"; an empty ``host`` is the Pod's own address.
    """

    how: str
    command: tuple[str, ...] = ()
    host: str = ""
    port: int = 0
    path: str = "/"
    headers: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Probe:
    """A probe of a manifest with Kubernetes' defaults filled in; durations in seconds."""

    kind: str
    check: Check
    initial_delay_s: float = 0.0
    period_s: float = 10.0
    timeout_s: float = 1.0
    success_threshold: int = 1
    failure_threshold: int = 3


@dataclass(frozen=True)
class ProbeState:
    """``passed`` is the verdict so far (None: none yet); the counts are of results in a row."""

    due: float
    passed: bool | None = None
    successes: int = 0
    failures: int = 0


def _port(value: Any, ports: Mapping[str, int], where: str) -> int:
    if isinstance(value, str) and not value.isdigit():
        if value not in ports:
            raise RaywardError(
                f"no container port is named {value!r}", where=where, todo="name one in `ports`"
            )
        return ports[value]
    return int(value)


def _check(definition: Mapping[str, Any], ports: Mapping[str, int], where: str) -> Check:
    if "exec" in definition:
        return Check("exec", command=tuple(str(word) for word in definition["exec"].get("command") or ()))
    if "httpGet" in definition:
        get = definition["httpGet"]
        headers = tuple(
            (str(header["name"]), str(header["value"])) for header in get.get("httpHeaders") or ()
        )
        # Certificates are not checked by kubelet either; a TLS server is taken to be well when it accepts.
        how = "tcp" if str(get.get("scheme", "HTTP")).upper() == "HTTPS" else "http"
        port = _port(get.get("port", 80), ports, where)
        return Check(
            how, host=str(get.get("host") or ""), port=port, path=str(get.get("path") or "/"), headers=headers
        )
    if "tcpSocket" in definition:
        socket = definition["tcpSocket"]
        return Check(
            "tcp", host=str(socket.get("host") or ""), port=_port(socket.get("port", 0), ports, where)
        )
    raise RaywardError(
        "the probe does nothing that is known here", where=where, todo="use exec, httpGet or tcpSocket"
    )


def probes_of(container: Mapping[str, Any], pod_name: str) -> list[Probe]:
    """The probes of a container, startup first. Raises RaywardError for one that cannot be run."""
    ports = {
        str(port["name"]): int(port["containerPort"])
        for port in container.get("ports") or ()
        if port.get("name")
    }
    found = []
    for kind in KINDS:
        definition = container.get(f"{kind}Probe")
        if definition:
            where = f"Pod {pod_name}, container {container.get('name')}, {kind}Probe"
            found.append(
                Probe(
                    kind=kind,
                    check=_check(definition, ports, where),
                    initial_delay_s=float(definition.get("initialDelaySeconds") or 0),
                    period_s=float(definition.get("periodSeconds") or 10),
                    timeout_s=float(definition.get("timeoutSeconds") or 1),
                    success_threshold=int(definition.get("successThreshold") or 1),
                    failure_threshold=int(definition.get("failureThreshold") or 3),
                )
            )
    return found


def first_state(probe: Probe, started: float) -> ProbeState:
    """The state of a probe whose container started at ``started``."""
    return ProbeState(due=started + probe.initial_delay_s)


def after_result(probe: Probe, state: ProbeState, success: bool, now: float) -> ProbeState:
    """The state after one result. The verdict changes only at a threshold."""
    if success:
        successes = state.successes + 1
        passed = True if successes >= probe.success_threshold else state.passed
        return replace(state, due=now + probe.period_s, successes=successes, failures=0, passed=passed)
    failures = state.failures + 1
    passed = False if failures >= probe.failure_threshold else state.passed
    return replace(state, due=now + probe.period_s, successes=0, failures=failures, passed=passed)


def is_started(states: Mapping[str, ProbeState]) -> bool:
    """Whether the startup probe, if there is one, has passed: the other probes wait for that."""
    return STARTUP not in states or states[STARTUP].passed is True


def is_ready(states: Mapping[str, ProbeState]) -> bool:
    """Whether a running container counts as ready."""
    return is_started(states) and (READINESS not in states or states[READINESS].passed is True)


def may_run(kind: str, states: Mapping[str, ProbeState]) -> bool:
    """Whether a probe of this kind is run at all at this stage of the container's life."""
    return not is_started(states) if kind == STARTUP else is_started(states)


def restart_wanted(states: Mapping[str, ProbeState]) -> str | None:
    """The kind of probe whose failure asks for the container to be started again, or None."""
    for kind in (STARTUP, LIVENESS):
        if kind in states and states[kind].passed is False:
            return kind
    return None
