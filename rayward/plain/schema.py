"""What a machine's file ``rayward.yaml`` may hold, as frozen structs. Names are those that a person writes.

Types and defaults only; what contradicts what is checked elsewhere.
"""

from __future__ import annotations

from typing import Literal

import msgspec

DEFAULT_AGENT_PORT = 8008
DEFAULT_GCS_PORT = 6379
DEFAULT_STATE_DIR = "/var/lib/rayward"


class _Section(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    """A mapping of the file: a field that it does not know is an error."""


class Redis(_Section, frozen=True):
    """Where the heads keep Ray's state and the lease. ``namespace`` defaults to the cluster's name."""

    address: str
    username: str = ""
    password: str = ""
    password_file: str = ""
    ca_file: str = ""
    cert_file: str = ""
    key_file: str = ""
    namespace: str = ""


class Ray(_Section, frozen=True):
    """``start``: more parameters of ``ray start``. ``node_ip_address``: this machine's address as the others
    see it (default: the one that leads to the first head). ``port``: the GCS's, the same everywhere."""

    start: tuple[str, ...] = ()
    node_ip_address: str = ""
    port: int = DEFAULT_GCS_PORT


class Agent(_Section, frozen=True):
    """``host``: address to listen on (default: all). ``token``: what a POST must carry."""

    port: int = DEFAULT_AGENT_PORT
    host: str = ""
    token: str = ""
    token_file: str = ""


class Lease(_Section, frozen=True):
    """``ttl``: seconds after which a standby takes over from a leader that has gone silent (None: the agent's
    own default)."""

    ttl: float | None = None


class Config(_Section, frozen=True):
    """One machine of a cluster. ``heads``: the agents of all heads as ``host[:port]``, its own included;
    ``name``: this machine's member name (default: its host name)."""

    role: Literal["head", "worker"]
    cluster: str
    heads: tuple[str, ...]
    name: str = ""
    redis: Redis | None = None
    ray: Ray = Ray()
    agent: Agent = Agent()
    lease: Lease = Lease()
    state_dir: str = DEFAULT_STATE_DIR

    @property
    def namespace(self) -> str:
        """The storage namespace: what is written, else the cluster's name."""
        return (self.redis.namespace if self.redis is not None else "") or self.cluster
