"""What one agent is told at its start: its command line and its environment, checked, as one frozen value.

Pure: reads the mappings it is given and nothing else.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rayward.agent.decide import Kind
from rayward.agent.processes import option
from rayward.errors import RaywardError

DEFAULT_PORT = 8008
DEFAULT_GCS_PORT = 6379
MAX_PORT = 65535


@dataclass(frozen=True)
class AgentConfig:
    """One node's settings. ``store`` is "redis", "rocksdb" or "memory"; ``ray_start`` is the command to run
    (without ``--block``, for the agent itself stays)."""

    kind: Kind
    ray_start: tuple[str, ...]
    gcs_host: str
    gcs_port: int
    store: str
    http_host: str = "0.0.0.0"
    http_port: int = DEFAULT_PORT
    cluster: str = ""
    pod: str = ""

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
        host, port = split_address(option(command, "address") or environ.get("RAY_ADDRESS", ""))
    return AgentConfig(
        kind=kind,
        ray_start=tuple(command),
        gcs_host=host,
        gcs_port=port,
        store=store_kind(environ) if kind is Kind.HEAD else "",
        http_host=environ.get("RAYWARD_AGENT_HOST", "0.0.0.0"),
        http_port=_port(environ.get("RAYWARD_AGENT_PORT", ""), "RAYWARD_AGENT_PORT", DEFAULT_PORT),
        cluster=environ.get("RAYWARD_CLUSTER", ""),
        pod=environ.get("RAYWARD_POD", ""),
    )


def own_command(environ: Mapping[str, str], argv0: str, executable: str) -> tuple[list[str], dict[str, str]]:
    """How to run this agent's other entry points: from the zip it came in, or from the package."""
    if argv0.endswith(".zip"):
        return [executable, argv0], dict(environ)
    return [executable, "-m", "rayward.agent"], dict(environ)
