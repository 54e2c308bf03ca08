"""Takes a Pod's processes away as the loss or the freezing of its host would: all of them, at one moment.

Knows processes of one Pod; what follows from it, and who measures it, is none of its business.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from pathlib import Path

from rayward.errors import RaywardError
from rayward.local import linux
from rayward.local.pod_process import processes_of_pods
from rayward.local.state import Manifest

_LIMIT_S = 5.0


def processes_of(pod: Manifest, *, host_mode: bool) -> list[int]:
    """Every process of a Pod's containers, oldest first: that is the agent before what it started."""
    if host_mode:
        found = list(processes_of_pods({str(pod["metadata"]["uid"])}))
    else:
        spaces = {_pid_namespace(pid) for pid in _first_processes(pod)} - {None}
        found = [
            int(entry)
            for entry in os.listdir("/proc")
            if entry.isdigit() and _pid_namespace(int(entry)) in spaces
        ]
    started = {pid: linux.process_start_time(pid) for pid in found}
    living = [(moment, pid) for pid, moment in started.items() if moment is not None]
    return [pid for _, pid in sorted(living)]


def kill(pod: Manifest, *, host_mode: bool) -> float:
    """SIGKILL for all processes of the Pod's containers; returns the moment (monotonic) right before it.

    What runs the Pod lives on and starts its containers again, as kubelet would. Raises RaywardError when
    nothing runs.
    """
    # With the first process of a process namespace the kernel ends all of it at once. On the host they are
    # stopped before, for what is killed one by one would start others meanwhile.
    victims = _stop_all(pod, host_mode=True) if host_mode else _first_processes(pod)
    _some(victims, pod)
    moment = time.monotonic()
    for pid in victims:
        _signal(pid, signal.SIGKILL)
    return moment


def freeze(pod: Manifest, *, host_mode: bool) -> float:
    """SIGSTOP for all processes of the Pod's containers, the agent first; returns the moment (monotonic)
    right before it. Done when all of them stand still; raises RaywardError when they do not, or none runs."""
    moment = time.monotonic()
    _some(_stop_all(pod, host_mode=host_mode), pod)
    return moment


def thaw(pod: Manifest, *, host_mode: bool) -> float:
    """SIGCONT for all of them, the agent last: what it watches over has a moment of its own, as after a
    thaw of the whole host it may. Returns the moment (monotonic) right before it."""
    moment = time.monotonic()
    for pid in reversed(processes_of(pod, host_mode=host_mode)):
        _signal(pid, signal.SIGCONT)
    return moment


def _first_processes(pod: Manifest) -> list[int]:
    """The first process of each running container, by what the Pod says of itself."""
    entries = ((pod.get("status") or {}).get("rayward") or {}).get("containers") or {}
    return [
        int(entry["pid"])
        for entry in entries.values()
        if linux.process_start_time(int(entry["pid"])) == entry["start_time"]
    ]


def _stop_all(pod: Manifest, *, host_mode: bool) -> list[int]:
    """Stop everything, again and again until nothing new has come up and all stand still."""
    deadline = time.monotonic() + _LIMIT_S
    while True:
        found = processes_of(pod, host_mode=host_mode)
        moving = [pid for pid in found if _state(pid) not in "TtZX"]
        if not moving:
            return found
        if time.monotonic() > deadline:
            for pid in found:
                _signal(pid, signal.SIGCONT)
            raise RaywardError(
                f"{len(moving)} processes did not stop within {_LIMIT_S:g} s", where=_where(pod)
            )
        for pid in moving:
            _signal(pid, signal.SIGSTOP)


def _some(found: list[int], pod: Manifest) -> None:
    if not found:
        raise RaywardError(
            "none of its containers runs",
            where=_where(pod),
            todo="wait until it is running: `rayward get pods`",
        )


def _where(pod: Manifest) -> str:
    return f"Pod {pod['metadata']['name']}"


def _pid_namespace(pid: int) -> str | None:
    try:
        return os.readlink(f"/proc/{pid}/ns/pid")
    except OSError:
        return None


def _state(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return "X"


def _signal(pid: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)
