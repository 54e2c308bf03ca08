"""Where things are: ``host[:port]`` as people write it, and which address of this machine the others see.

Asks the kernel and the resolver, and sends nothing to anybody.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Iterable

from rayward.errors import RaywardError
from rayward.plain.schema import DEFAULT_AGENT_PORT

Place = tuple[str, int]


def split_place(text: str, default_port: int = DEFAULT_AGENT_PORT) -> Place:
    """``host``, ``host:port`` or ``[v6]:port`` as host and port; raises RaywardError for anything else."""
    host, port = text, ""
    if text.startswith("["):
        host, bracket, rest = text[1:].partition("]")
        port = rest[1:]
        if not bracket or (rest and (not rest.startswith(":") or not port)):
            raise RaywardError(f"{text!r} is not [ADDRESS]:PORT")
    elif text.count(":") == 1:
        host, _, port = text.partition(":")
        port = port or "?"
    elif ":" in text and not _is_address(text):
        raise RaywardError(f"{text!r} is not HOST or HOST:PORT")
    if not host or any(letter.isspace() or letter in "/@," for letter in host):
        raise RaywardError(f"{text!r} is not HOST or HOST:PORT")
    if port and not (port.isascii() and port.isdecimal() and 0 < int(port) <= 65535):
        raise RaywardError(f"the port of {text!r} is not a number from 1 to 65535")
    return host, int(port) if port else default_port


def join_place(place: Place) -> str:
    """Host and port as one text, with brackets round an IPv6 address."""
    host, port = place
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def addresses_of(host: str) -> tuple[str, ...]:
    """The addresses behind a name, IPv4 first; empty when it cannot be resolved now."""
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return ()
    ordered = sorted(found, key=lambda entry: entry[0] != socket.AF_INET)
    return tuple(dict.fromkeys(str(entry[4][0]) for entry in ordered))


def is_own(address: str) -> bool:
    """Whether this machine has that address now."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.bind((address, 0))
    except OSError:
        return False
    return True


def _source_address(target: str) -> str | None:
    """The own address from which packets to ``target`` would leave; no packet is sent."""
    family = socket.AF_INET6 if ":" in target else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect((target, 9))
            return str(probe.getsockname()[0])
    except OSError:
        return None


def address_towards(hosts: Iterable[str]) -> str | None:
    """The own address that leads to the first of ``hosts``; None when there is a way to none of them.

    A loopback address counts only when nothing else is found: some systems give their own name one.
    """
    loopback = None
    for host in hosts:
        for target in addresses_of(host):
            own = _source_address(target)
            if own is None:
                continue
            if not ipaddress.ip_address(own).is_loopback:
                return own
            loopback = loopback or own
    return loopback
