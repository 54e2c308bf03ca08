"""One Pod: `python -m rayward.local.pod POD_DIR` makes its sandbox, runs its containers, keeps status.json.

It needs nobody once it runs: whoever started it may die, and finds it again by the pid in status.json. It
must not know of clusters, of other Pods or of the daemon; POD_DIR/pod.json says everything.
"""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
import socket
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rayward.errors import RaywardError
from rayward.local import container as shim
from rayward.local import linux, volumes
from rayward.local.environment import NotYet, PodFacts
from rayward.local.hostmode import HostFacts
from rayward.local.launch import Place
from rayward.local.member import RETRY_S, Member, timestamp
from rayward.local.pod_status import ContainerView, pod_status

_LONGEST_WAIT_S = 30.0
_HOST_CONF = "multi on\n"
"""glibc reads on after the first line of /etc/hosts that has a name: a name may have several addresses."""


def read_place(folder: Path) -> tuple[Place, dict[str, Any]]:
    """Read POD_DIR/pod.json: the place of the Pod, and its `network` part (empty: the host's network)."""
    config: dict[str, Any] = json.loads((folder / "pod.json").read_text())
    mode = str(config.get("mode", "namespaces"))
    network: dict[str, Any] = dict(config.get("network") or {}) if mode == "namespaces" else {}
    host = HostFacts.from_json(config.get("host") or {})
    objects = volumes.ObjectFolder(Path(config["objects"])) if config.get("objects") else None
    facts = PodFacts(
        pod=config["pod"],
        address=str(network.get("address") or host.address),
        host_address=str(network.get("gateway") or "127.0.0.1"),
        node_name=str(config["pod"]["spec"].get("nodeName") or socket.gethostname()),
        **({"lookup": objects} if objects is not None else {}),
    )
    place = Place(
        folder=folder,
        facts=facts,
        mode=mode,
        host=host,
        hosts_file=Path(config["hosts"]) if config.get("hosts") else None,
        claims=Path(config["claims"]) if config.get("claims") else None,
        substitutions=dict(config.get("substitutions") or {}),
    )
    return place, network


# --- the sandbox ------------------------------------------------------------------------------------


def _handshake() -> None:
    """Tell the starter that the network namespace is there, and wait until it has put eth0 into it."""
    sys.stdout.write("netns-ready\n")
    sys.stdout.flush()
    answer = sys.stdin.readline()
    if answer != "go\n":
        raise RaywardError("the process that started this Pod went before it had given it a network")


def _resolv_conf(pod: Mapping[str, Any]) -> str:
    """Names come from /etc/hosts; a name that is not there fails at once instead of after a DNS time-out."""
    servers = (pod["spec"].get("dnsConfig") or {}).get("nameservers") or ["127.0.0.1"]
    return "".join(f"nameserver {server}\n" for server in servers) + "options timeout:1 attempts:1\n"


def make_sandbox(place: Place, network: Mapping[str, Any]) -> None:
    """Move this process into the Pod's namespaces, with its address, host name and shared memory.

    Nothing is ever mounted on the host: all mounts are made in the Pod's own mount namespace.
    """
    kinds = linux.CLONE_NEWIPC | linux.CLONE_NEWUTS | linux.CLONE_NEWNS
    linux.unshare(kinds | (linux.CLONE_NEWNET if network else 0))
    linux.mount("none", "/", flags=linux.MS_REC | linux.MS_PRIVATE)
    socket.sethostname(str(place.pod["spec"].get("hostname") or place.facts.name)[:63])
    # A copy of another cluster's namespace mount would keep that namespace alive for as long as this Pod.
    with contextlib.suppress(OSError):
        for held in os.scandir("/run/netns"):
            with contextlib.suppress(OSError):
                linux.umount(held.path)
    place.shared_memory.mkdir(parents=True, exist_ok=True)
    linux.mount("tmpfs", str(place.shared_memory), "tmpfs", linux.MS_NOSUID | linux.MS_NODEV, "mode=1777")
    (place.folder / "resolv.conf").write_text(_resolv_conf(place.pod))
    (place.folder / "host.conf").write_text(_HOST_CONF)
    if network:
        _handshake()
        linux.interface_up("lo")
        linux.interface_up("eth0", str(network["address"]), int(network.get("prefix", 24)))
        if network.get("gateway"):
            linux.default_route(str(network["gateway"]))


def _detach(place: Place) -> None:
    """Let go of the starter's pipes: from here on this process writes to its own log only."""
    nothing = os.open(os.devnull, os.O_RDONLY)
    log = os.open(place.folder / "pod.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(nothing, 0)
    for descriptor in (1, 2):
        os.dup2(log, descriptor)
    os.close(nothing)
    os.close(log)


# --- running ----------------------------------------------------------------------------------------


class PodRun:
    """The Pod from its sandbox to its end: one loop, one selector, no threads."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self._spec: Mapping[str, Any] = place.pod["spec"]
        self._selector = selectors.DefaultSelector()
        policy = str(self._spec.get("restartPolicy") or "Always")
        init_policy = "Never" if policy == "Never" else "OnFailure"
        self.init = [self._member(entry, init_policy) for entry in self._spec.get("initContainers") or ()]
        self.containers = [self._member(entry, policy) for entry in self._spec["containers"]]
        self._sources: dict[str, Path] = {}
        self._volumes_left: list[Mapping[str, Any]] = list(self._spec.get("volumes") or ())
        self._retry_volumes = 0.0
        self._stop_requested = 0
        self._stopping = False
        self._written: dict[str, Any] = {}
        self._start_time = timestamp()

    def _member(self, manifest: Mapping[str, Any], policy: str) -> Member:
        return Member(manifest, self._place, self._selector, policy)

    @property
    def _members(self) -> list[Member]:
        return [*self.init, *self.containers]

    def listen_for_signals(self) -> None:
        """SIGTERM and SIGINT ask for a graceful end; a second one reads POD_DIR/grace again."""
        read_end, write_end = os.pipe()
        for descriptor in (read_end, write_end):
            os.set_blocking(descriptor, False)
        signal.set_wakeup_fd(write_end, warn_on_full_buffer=False)
        self._selector.register(read_end, selectors.EVENT_READ, None)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_signal)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)

    def _on_signal(self, _number: int, _frame: object) -> None:
        self._stop_requested += 1

    def run(self) -> None:
        """Run until every container has ended for good."""
        while True:
            now = time.monotonic()
            if self._stop_requested:
                self._stop_requested = 0
                self._begin_stop(now)
            self._step(now)
            self.write_status()
            if all(member.final for member in self._members):
                return
            self._wait()

    def _wait(self) -> None:
        due = [member.next_due() for member in self._active()]
        times = [time_due for time_due in due if time_due is not None]
        if self._volumes_left and not self._stopping:
            times.append(self._retry_volumes)
        now = time.monotonic()
        pause = min([_LONGEST_WAIT_S, *(moment - now for moment in times)])
        for key, _ in self._selector.select(max(0.0, pause)):
            if key.data is None:
                with contextlib.suppress(BlockingIOError):
                    os.read(key.fd, 4096)
            elif isinstance(key.data, Member):
                key.data.advance(time.monotonic())
            else:
                key.data.advance()

    def _active(self) -> list[Member]:
        """The containers whose turn it is: init containers one by one, then all the others."""
        if self._stopping:
            return [member for member in self._members if not member.final]
        for member in self.init:
            if not member.final:
                return [member]
        return self.containers

    def _step(self, now: float) -> None:
        if self._volumes_left and not self._stopping:
            if now >= self._retry_volumes:
                self._prepare_volumes(now)
            if self._volumes_left:
                return
        for member in self._active():
            member.step(self._sources, now)
        if any(member.final and not member.view().succeeded for member in self.init):
            for member in self._members:
                member.never_again()

    def _prepare_volumes(self, now: float) -> None:
        """Make the volumes ready; one that lacks something keeps the Pod waiting and is tried again."""
        while self._volumes_left:
            volume = self._volumes_left[0]
            folder = self._place.folder / "volumes" / str(volume.get("name"))
            try:
                source = volumes.prepare(
                    volume, folder, self._place.claims, self._place.facts, self._mount_memory
                )
            except NotYet as error:
                self._hold(error.reason, str(error), now)
                return
            except (RaywardError, OSError, KeyError, TypeError, ValueError) as error:
                self._hold(
                    "CreateContainerError",
                    f"Pod {self._place.facts.name}, volume {folder.name}: {error}",
                    now,
                )
                return
            self._sources[str(volume["name"])] = source
            self._volumes_left.pop(0)

    def _hold(self, reason: str, message: str, now: float) -> None:
        self._retry_volumes = now + RETRY_S
        for member in self._members:
            member.hold(reason, message, now)

    def _mount_memory(self, folder: Path, limit: int | None) -> None:
        if self._place.mode == "host":
            return
        size = "" if limit is None else f",size={limit}"
        linux.mount("tmpfs", str(folder), "tmpfs", linux.MS_NOSUID | linux.MS_NODEV, f"mode=777{size}")

    # --- the end -------------------------------------------------------------------------------------

    def _grace_s(self) -> float:
        """POD_DIR/grace if somebody wrote it, else the Pod's terminationGracePeriodSeconds."""
        try:
            return float((self._place.folder / "grace").read_text())
        except (OSError, ValueError):
            return self.containers[0].grace_s

    def _begin_stop(self, now: float) -> None:
        self._stopping = True
        grace = self._grace_s()
        for member in self._members:
            member.never_again()
            member.stop(now, grace, "the Pod is to end")

    # --- status --------------------------------------------------------------------------------------

    def _fixed(self) -> dict[str, Any]:
        facts = self._place.facts
        return {
            "podIP": facts.address,
            "podIPs": [{"ip": facts.address}],
            "hostIP": facts.host_address,
            "startTime": self._start_time,
        }

    def write_status(self) -> None:
        """Write status.json if anything changed, by rename, and wake whoever wants to know."""
        views: list[ContainerView] = [member.view() for member in self.containers]
        init = [member.view() for member in self.init]
        status = pod_status(views, init, self._fixed(), self._written, timestamp())
        processes = {member.name: member.process() for member in self._members}
        status["rayward"] = {
            "pid": os.getpid(),
            "start_time": linux.process_start_time(os.getpid()),
            "containers": {name: process for name, process in processes.items() if process is not None},
        }
        if status == self._written:
            return
        self._written = status
        fresh = self._place.folder / "status.json.new"
        fresh.write_text(json.dumps(status))
        fresh.rename(self._place.folder / "status.json")
        self._wake()

    def _wake(self) -> None:
        path = self._wake_path
        if path is None:
            return
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
            sender.setblocking(False)
            sender.sendto(self._place.facts.name.encode(), path)

    _wake_path: str | None = None

    def wake_at(self, path: str | None) -> None:
        """Where a datagram goes after each change of status.json; None: nowhere."""
        self._wake_path = path


def main(folder: Path) -> int:
    """Run the Pod of POD_DIR ``folder`` to its end; the status to exit with."""
    place, network = read_place(folder)
    try:
        if place.mode == "namespaces":
            make_sandbox(place, network)
        else:
            linux.adopt_orphans()
    except (OSError, RaywardError) as error:
        print(f"Pod {place.facts.name}: the sandbox could not be made: {error}", file=sys.stderr)
        return 1
    _detach(place)
    pod = PodRun(place)
    pod.wake_at(json.loads((folder / "pod.json").read_text()).get("wake"))
    pod.listen_for_signals()
    pod.write_status()
    pod.run()
    if place.mode == "host":
        shim.end_descendants()
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]).absolute()))
