"""This machine as a config needs it: its files, its address, its ``ray`` program.

Changes nothing, but makes a head's state folder.
"""

from __future__ import annotations

import ipaddress
import os
import shutil
import socket
import ssl
import sys
from collections.abc import Mapping
from pathlib import Path

from rayward.api.problems import ManifestError, Problem
from rayward.errors import RaywardError
from rayward.plain import check, command, places
from rayward.plain.command import Launch, Machine
from rayward.plain.read import load
from rayward.plain.schema import Config, Redis


def prepare(path: Path) -> tuple[Config, Launch, tuple[str, ...]]:
    """Read and check the file at ``path`` against this machine: the config, how to start its agent, warnings.

    Raises RaywardError with everything that is wrong at once, each with its setting's name.
    """
    config, remarks = load(path)
    problems = check.problems(config)
    if not problems:
        problems = [*_file_problems(config), *_state_problems(config)]
    if problems:
        raise ManifestError(problems, source=str(path))
    address, doubts = _own_address(config, str(path))
    host_name = socket.gethostname()
    machine = Machine(host_name, address, find_ray(), token(config))
    return config, command.build(config, machine), (*remarks, *check.warnings(config), *doubts)


def find_ray(environ: Mapping[str, str] = os.environ) -> str:
    """The ``ray`` program: the one beside this Python, else the first on PATH; raises RaywardError."""
    beside = Path(sys.executable).with_name("ray")
    if os.access(beside, os.X_OK):
        return str(beside)
    found = shutil.which("ray", path=environ.get("PATH"))
    if found is None:
        raise RaywardError(
            f"there is no `ray` program: not in {beside.parent}, not on PATH",
            where="rayward agent run",
            todo='install Ray beside rayward: pip install "ray[default]"',
        )
    return found


def token(config: Config) -> str:
    """The token of the config, from its file where that is named; raises RaywardError."""
    if not config.agent.token_file:
        return config.agent.token
    try:
        text = Path(config.agent.token_file).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = (error.strerror or "").lower() if isinstance(error, OSError) else "it is not text"
        raise RaywardError(f"cannot be read: {reason}", where="agent.tokenFile") from error
    if not text:
        raise RaywardError("is empty", where=f"agent.tokenFile {config.agent.token_file}")
    return text


def _file_problems(config: Config) -> list[Problem]:
    found = []
    named = [("agent.tokenFile", config.agent.token_file)]
    redis = config.redis if config.role == "head" else None
    if redis is not None:
        named += [
            ("redis.passwordFile", redis.password_file),
            ("redis.caFile", redis.ca_file),
            ("redis.certFile", redis.cert_file),
            ("redis.keyFile", redis.key_file),
        ]
    for setting, name in named:
        reason = _unreadable(name) if name else ""
        if reason:
            found.append(Problem(setting, f"{name}: {reason}"))
    if redis is not None and not found:
        found += _tls_problems(redis)
    return found


def _unreadable(name: str) -> str:
    try:
        with open(name, "rb") as file:
            return "" if file.read(1) else "is empty"
    except OSError as error:
        return (error.strerror or str(error)).lower()


def _tls_problems(redis: Redis) -> list[Problem]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    if redis.ca_file:
        try:
            context.load_verify_locations(redis.ca_file)
        except (ssl.SSLError, OSError):
            return [Problem("redis.caFile", f"{redis.ca_file} holds no certificate in PEM form")]
    if redis.cert_file:
        try:
            # A key with a pass phrase would ask for it on a terminal; Ray could not use it either.
            context.load_cert_chain(redis.cert_file, redis.key_file, password=lambda: "")
        except (ssl.SSLError, OSError):
            return [
                Problem(
                    "redis.certFile",
                    f"{redis.cert_file} and redis.keyFile {redis.key_file} are no pair in PEM form",
                )
            ]
    return []


def _state_problems(config: Config) -> list[Problem]:
    """A head remembers there which store it knew; a worker has nothing to remember."""
    if config.role == "worker":
        return []
    folder = Path(config.state_dir)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        return [Problem("stateDir", f"{folder} cannot be made: {(error.strerror or str(error)).lower()}")]
    if not os.access(folder, os.W_OK | os.X_OK):
        return [Problem("stateDir", f"{folder} cannot be written by this user")]
    return []


def _own_address(config: Config, source: str) -> tuple[str, tuple[str, ...]]:
    """This machine's address as the others see it, and doubts about it; raises RaywardError."""
    hosts = [places.split_place(head)[0] for head in config.heads]
    address = config.ray.node_ip_address
    if address and not places.is_own(address):
        raise ManifestError(
            [Problem("ray.nodeIpAddress", f"this machine has no address {address} (any more?)")],
            source=source,
            todo="correct it, or leave it out: the address that leads to the first head is then taken",
        )
    found = address or places.address_towards(hosts)
    if not found:
        raise ManifestError(
            [Problem("heads", f"no address of this machine leads to any of {', '.join(hosts)}")],
            source=source,
            todo="correct the names, or the network, or set ray.nodeIpAddress",
        )
    doubts = _head_doubts(config, hosts, found, source) if config.role == "head" else ()
    if not address and ipaddress.ip_address(found).is_loopback:
        doubts = (
            *doubts,
            f"ray.nodeIpAddress: {found} is what leads to {', '.join(hosts)}; other machines cannot reach it",
        )
    return found, doubts


def _head_doubts(config: Config, hosts: list[str], own: str, source: str) -> tuple[str, ...]:
    """A head must be in the list by which workers and other heads find it."""
    resolved = {host: places.addresses_of(host) for host in hosts}
    if any(address == own or places.is_own(address) for found in resolved.values() for address in found):
        return ()
    unknown = [host for host, found in resolved.items() if not found]
    if unknown:
        return (f"heads: {', '.join(unknown)} cannot be resolved now; is this machine ({own}) among them?",)
    raise ManifestError(
        [
            Problem(
                "heads",
                f"this head has the address {own}, and none of {', '.join(hosts)} leads to it: "
                "neither workers nor other heads would find it",
            )
        ],
        source=source,
        todo="put its address into `heads` on every machine; has this machine changed its address?",
    )
