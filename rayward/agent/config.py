"""What one agent is told at its start: its command line and its environment, checked, as one frozen value.

Pure: reads the mappings it is given and nothing else.
"""

from __future__ import annotations

import json
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rayward.agent.decide import Kind
from rayward.agent.processes import option
from rayward.agent.timing import lease_timing
from rayward.errors import RaywardError

DEFAULT_PORT = 8008
DEFAULT_GCS_PORT = 6379
MAX_PORT = 65535


@dataclass(frozen=True)
class HeadSettings:
    """What a head with a Redis store is told about lease, fence and the other heads.

    ``heads``: where the agents of all heads are (host or host:port; a name may have several addresses), empty
    where there is one head only. ``fence`` False lets writes pass unchecked (for drills that must go red).
    ``audit``: each accepted write also leaves an entry in a stream. ``ttl``: seconds, None for the default.
    """

    member: str
    cluster: str
    cluster_uid: str
    heads: tuple[str, ...] = ()
    fence: bool = True
    audit: bool = False
    ttl: float | None = None
    state_dir: str = ""
    token: str = ""


@dataclass(frozen=True)
class ForwardSettings:
    """Where a worker's forwarder finds the heads, and what ``ray start`` was told to connect to."""

    heads: tuple[str, ...]
    port: int
    told: str


@dataclass(frozen=True)
class AgentConfig:
    """One node's settings. ``store`` is "redis", "rocksdb" or "memory"; ``ray_start`` is the command to run
    (without ``--block``, for the agent itself stays). ``serve_port`` is where Ray Serve's proxy on this node
    listens, None where nobody asks for it."""

    kind: Kind
    ray_start: tuple[str, ...]
    gcs_host: str
    gcs_port: int
    store: str
    http_host: str = "0.0.0.0"
    http_port: int = DEFAULT_PORT
    cluster: str = ""
    pod: str = ""
    head: HeadSettings | None = None
    forward: ForwardSettings | None = None
    serve_port: int | None = None

    @property
    def durable(self) -> bool:
        """Whether GCS state outlives the GCS process."""
        return self.store != "memory"

    @property
    def name(self) -> str:
        """How this node is called in log lines."""
        return self.pod or self.kind.value


def _is_port(text: str) -> bool:
    return text.isdecimal() and 0 < int(text) <= MAX_PORT


def split_address(address: str) -> tuple[str, int]:
    """Split ``host:port`` (IPv6 in brackets); raises RaywardError for anything else."""
    host, separator, port = address.rpartition(":")
    if not separator or not _is_port(port) or not host:
        raise RaywardError(
            f"{address!r} is not HOST:PORT", where="ray start --address", todo="give the head's GCS address"
        )
    return host.strip("[]"), int(port)


def store_kind(environ: Mapping[str, str]) -> str:
    """Where the GCS of this environment keeps its state, by the variables that Ray itself reads."""
    if environ.get("RAY_gcs_storage", "").lower() == "rocksdb":
        return "rocksdb"
    return "redis" if environ.get("RAY_REDIS_ADDRESS") else "memory"


def _extra_arguments(environ: Mapping[str, str]) -> list[str]:
    raw = environ.get("RAYWARD_RAY_START_ARGS", "")
    if not raw:
        return []
    try:
        extra = json.loads(raw)
    except ValueError:
        extra = None
    if not isinstance(extra, list) or not all(isinstance(item, str) for item in extra):
        raise RaywardError("must be a JSON list of strings", where="RAYWARD_RAY_START_ARGS")
    return extra


def _port(raw: str, where: str, default: int) -> int:
    if raw and not _is_port(raw):
        raise RaywardError(f"must be a port from 1 to {MAX_PORT}, got {raw!r}", where=where)
    return int(raw) if raw else default


def _without_block(command: Sequence[str]) -> list[str]:
    """The agent itself stays in the foreground; a ``ray start`` that stays as well would never be done."""
    return [argument for argument in command if argument not in ("--block", "--block=true")]


def build(kind: Kind, ray_start: Sequence[str], environ: Mapping[str, str]) -> AgentConfig:
    """Check a command line and an environment; raises RaywardError naming the setting that is wrong.

    ``RAYWARD_RAY_START_ARGS`` (a JSON list) is appended to ``ray start``, whose later options win.
    """
    command = _without_block(ray_start)
    if "start" not in command[1:2]:
        what_to_add = "--head" if kind is Kind.HEAD else "--address=HEAD:6379"
        raise RaywardError(
            "expected the ray start command after --",
            where="rayward agent",
            todo=f"rayward agent {kind.value} -- ray start {what_to_add}",
        )
    if (kind is Kind.HEAD) != ("--head" in command):
        raise RaywardError(
            f"`ray start {'without ' if kind is Kind.HEAD else ''}--head` does not belong to a {kind.value}",
            where=f"rayward agent {kind.value}",
        )
    command += _without_block(_extra_arguments(environ))
    if kind is Kind.HEAD:
        host = option(command, "node-ip-address") or "127.0.0.1"
        port = _port(option(command, "port") or "", "ray start --port", DEFAULT_GCS_PORT)
    else:
        told = option(command, "address") or environ.get("RAY_ADDRESS", "")
        host, port = split_address(told)
    store = store_kind(environ) if kind is Kind.HEAD else ""
    heads = tuple(item.strip() for item in environ.get("RAYWARD_HEADS", "").split(",") if item.strip())
    forwards = kind is Kind.WORKER and heads and _switch(environ, "RAYWARD_FORWARD", default=True)
    return AgentConfig(
        kind=kind,
        ray_start=tuple(command),
        gcs_host=host,
        gcs_port=port,
        store=store,
        http_host=environ.get("RAYWARD_AGENT_HOST", "0.0.0.0"),
        http_port=_port(environ.get("RAYWARD_AGENT_PORT", ""), "RAYWARD_AGENT_PORT", DEFAULT_PORT),
        cluster=environ.get("RAYWARD_CLUSTER", ""),
        pod=environ.get("RAYWARD_POD", ""),
        head=_head_settings(environ, heads) if store == "redis" else None,
        forward=ForwardSettings(heads, port, told) if forwards else None,
        serve_port=_port(environ.get("RAYWARD_SERVE_PORT", ""), "RAYWARD_SERVE_PORT", 0) or None,
    )


def _head_settings(environ: Mapping[str, str], heads: tuple[str, ...]) -> HeadSettings:
    cluster = environ.get("RAYWARD_CLUSTER", "") or environ.get("RAY_external_storage_namespace", "default")
    ttl = environ.get("RAYWARD_LEASE_TTL", "")
    return HeadSettings(
        member=environ.get("RAYWARD_POD", "") or socket.gethostname(),
        cluster=cluster,
        cluster_uid=environ.get("RAYWARD_CLUSTER_UID", "") or cluster,
        heads=heads,
        fence=_switch(environ, "RAYWARD_FENCE", default=True),
        audit=_switch(environ, "RAYWARD_AUDIT", default=False),
        ttl=_seconds(ttl, "RAYWARD_LEASE_TTL") if ttl else None,
        state_dir=environ.get("RAYWARD_STATE_DIR", ""),
        token=environ.get("RAYWARD_AGENT_TOKEN", ""),
    )


def _switch(environ: Mapping[str, str], name: str, *, default: bool) -> bool:
    word = environ.get(name, "").lower()
    if not word:
        return default
    if word in ("on", "1", "true", "yes"):
        return True
    if word in ("off", "0", "false", "no"):
        return False
    raise RaywardError(f"must be on or off, got {word!r}", where=name)


def _seconds(text: str, where: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < 3600:
        raise RaywardError(f"must be seconds, more than 0 and less than 3600, got {text!r}", where=where)
    problems = lease_timing(seconds).problems()
    if problems:
        raise RaywardError(problems[0], where=where, todo="give a longer lease, or leave the default of 3 s")
    return seconds


def store_credentials(command: Sequence[str]) -> dict[str, str]:
    """User name and password of Redis that ``ray start`` is told on its command line, by the variables that
    otherwise hold them: there they win over the environment, as in Ray."""
    given = {
        name: option(command, name.lower().replace("_", "-")) for name in ("REDIS_USERNAME", "REDIS_PASSWORD")
    }
    return {name: value for name, value in given.items() if value}


def with_option(command: Sequence[str], name: str, value: str) -> tuple[str, ...]:
    """The command with ``--name=value`` in place of every earlier ``--name``."""
    kept: list[str] = []
    skip = False
    for argument in command:
        if skip:
            skip = False
        elif argument == f"--{name}":
            skip = True
        elif not argument.startswith(f"--{name}="):
            kept.append(argument)
    return (*kept, f"--{name}={value}")


def without_option(command: Sequence[str], name: str) -> tuple[str, ...]:
    """The command without ``--name``."""
    return with_option(command, name, "")[:-1]


def own_command(environ: Mapping[str, str], argv0: str, executable: str) -> tuple[list[str], dict[str, str]]:
    """How to run this agent's other entry points: from the zip it came in, or from the package."""
    if argv0.endswith(".zip"):
        return [executable, argv0], dict(environ)
    return [executable, "-m", "rayward.agent"], dict(environ)
