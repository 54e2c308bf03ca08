"""Where this node is: the address that other nodes reach it by, and what that means for ``ray start``.

A head in an election must know its own address before Ray runs; a worker with a forwarder sends its Ray to
itself.
"""

from __future__ import annotations

import contextlib
import dataclasses
import socket
from collections.abc import Iterable, Mapping

from rayward.agent.config import AgentConfig, ForwardSettings, with_option
from rayward.agent.events import EventLog
from rayward.agent.forwarder import Forwarder
from rayward.agent.heads_watch import HeadsWatch
from rayward.agent.peer_call import host_and_port, join_address
from rayward.agent.processes import option
from rayward.errors import RaywardError


def address_toward(targets: Iterable[str]) -> str:
    """The own address from which packets leave for the first of ``targets`` (host[:port]) that has a route;
    empty when none has. Nothing is sent."""
    for target in targets:
        with contextlib.suppress(OSError, RaywardError, UnicodeError):
            host, port = host_and_port(target, 6379)
            for family, kind, _, _, place in socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM):
                with socket.socket(family, kind) as probe:
                    probe.connect(place)
                    found = str(probe.getsockname()[0])
                if not found.startswith("127.") and found != "::1":
                    return found
    return ""


def placed(config: AgentConfig, environ: Mapping[str, str]) -> AgentConfig:
    """``config`` with this node's own address in it, where lease or forwarder need one.

    An explicit ``--node-ip-address`` wins, then ``RAYWARD_ADDRESS`` or ``POD_IP``, then the address that
    leads to the other heads or the store. Raises RaywardError when there is none.
    """
    if config.head is None and config.forward is None:
        return config
    told = option(config.ray_start, "node-ip-address")
    told = told or environ.get("RAYWARD_ADDRESS") or environ.get("POD_IP") or ""
    heads = config.head.heads if config.head is not None else config.forward.heads if config.forward else ()
    own = _resolved(told) if told else address_toward([*_hosts(environ, config), *heads, *_FAR_AWAY])
    if not own and config.head is not None:
        own = "127.0.0.1"
    if not own:
        raise RaywardError(
            "this node has no address that leads to its heads",
            where="ray start --node-ip-address",
            todo="give it: --node-ip-address=ADDRESS",
        )
    if config.head is not None:
        return dataclasses.replace(
            config, gcs_host=own, ray_start=with_option(config.ray_start, "node-ip-address", own)
        )
    return _forwarding(config, own)


def _resolved(told: str) -> str:
    """An IP address for what may be a name: other heads know this one by the address that they see."""
    try:
        return str(socket.getaddrinfo(told, None, type=socket.SOCK_STREAM)[0][4][0])
    except (OSError, UnicodeError) as error:
        raise RaywardError(
            f"{told!r} cannot be resolved: {error}",
            where="ray start --node-ip-address",
            todo="give an IP address of this node",
        ) from error


_FAR_AWAY = ("192.0.2.1:9",)  # a documentation address (RFC 5737): whoever has a default route has one to it


def _hosts(environ: Mapping[str, str], config: AgentConfig) -> list[str]:
    found = []
    address = environ.get("RAY_REDIS_ADDRESS", "")
    if config.head is not None and address:
        found.append(address.rpartition("@")[2].rpartition("//")[2].partition("/")[0].partition(",")[0])
    if config.forward is not None:
        found.append(config.forward.told)
    return found


def _forwarding(config: AgentConfig, own: str) -> AgentConfig:
    assert config.forward is not None
    port = config.forward.port
    command = with_option(config.ray_start, "address", join_address(own, port))
    command = with_option(command, "node-ip-address", own)
    return dataclasses.replace(config, gcs_host=own, gcs_port=port, ray_start=command)


def start_forwarding(
    config: AgentConfig, settings: ForwardSettings, events: EventLog
) -> tuple[Forwarder, HeadsWatch]:
    """Listen on this worker's own address where Ray expects the GCS; the watch says who leads.

    Raises RaywardError.
    """
    watch = HeadsWatch(settings.heads, config.http_port, "", None, config.cluster)
    watch.start()
    forwarder = Forwarder(config.gcs_host, settings.port, watch, events.add)
    forwarder.start()
    return forwarder, watch
