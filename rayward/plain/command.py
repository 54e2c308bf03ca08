"""From a checked config to the agent's command line and environment. Pure: the same in, the same out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from rayward.plain.places import join_place, split_place
from rayward.plain.schema import Config, Redis
from rayward.plan.settings import ReconnectSettings

# Longer than the head's 60 s, so that a worker outlives a head that is long in coming back.
WORKER_RECONNECT_S = "600"
_SECRETS = ("REDIS_PASSWORD", "RAYWARD_AGENT_TOKEN")


@dataclass(frozen=True)
class Machine:
    """What the config leaves to the machine: its host name, its address towards the heads, its ``ray``
    program, and the token in the file that the config names."""

    host_name: str
    address: str
    ray: str
    token: str = ""


@dataclass(frozen=True)
class Launch:
    """How one agent is started. ``settings`` are the variables that it gets whatever is set already,
    ``defaults`` those that the environment may overrule, ``dropped`` those that it must not see."""

    argv: tuple[str, ...]
    settings: Mapping[str, str] = field(repr=False)
    defaults: Mapping[str, str] = field(default_factory=dict)
    dropped: tuple[str, ...] = ()

    def environment(self, environ: Mapping[str, str]) -> dict[str, str]:
        """The whole environment of the agent, on top of this one."""
        kept = {name: value for name, value in environ.items() if name not in self.dropped}
        return {**self.defaults, **kept, **self.settings}

    def shown(self) -> dict[str, str]:
        """The variables that the config leads to, without secrets."""
        return {
            name: (
                "***"
                if name in _SECRETS
                else _without_userinfo(value)
                if name == "RAY_REDIS_ADDRESS"
                else value
            )
            for name, value in sorted({**self.defaults, **self.settings}.items())
        }


def _without_userinfo(address: str) -> str:
    scheme, separator, rest = address.partition("://")
    if not separator or "@" not in rest:
        return address
    return f"{scheme}://***@{rest.rpartition('@')[2]}"


def build(config: Config, machine: Machine) -> Launch:
    """The agent's command line (after ``rayward agent``) and environment for this config on this machine."""
    address = config.ray.node_ip_address or machine.address
    settings = {
        "RAYWARD_CLUSTER": config.cluster,
        "RAYWARD_POD": config.name or machine.host_name,
        "RAYWARD_HEADS": ",".join(join_place(split_place(head)) for head in config.heads),
        "RAYWARD_AGENT_PORT": str(config.agent.port),
        "RAYWARD_STATE_DIR": config.state_dir,
    }
    if config.agent.host:
        settings["RAYWARD_AGENT_HOST"] = config.agent.host
    token = config.agent.token or machine.token
    if token:
        settings["RAYWARD_AGENT_TOKEN"] = token
    defaults = ReconnectSettings().environment()
    dropped: tuple[str, ...] = ()
    gcs = join_place((address, config.ray.port))
    start: tuple[str, ...]
    if config.role == "head":
        start = ("--head", f"--node-ip-address={address}", f"--port={config.ray.port}")
        if config.lease.ttl is not None:
            settings["RAYWARD_LEASE_TTL"] = f"{config.lease.ttl:g}"
        if config.redis is not None:
            settings.update(_store(config.redis, config.namespace))
            dropped = _overruled(config.redis)
    else:
        # The agent listens there and passes on to whoever leads.
        start = (f"--address={gcs}", f"--node-ip-address={address}")
        settings["RAYWARD_FORWARD"] = "on"
        defaults["RAY_gcs_rpc_server_reconnect_timeout_s"] = WORKER_RECONNECT_S
    argv = (config.role, "--", machine.ray, "start", *start, *config.ray.start)
    return Launch(argv, settings, defaults, dropped)


def _store(redis: Redis, namespace: str) -> dict[str, str]:
    named = {
        "RAY_REDIS_ADDRESS": redis.address,
        "REDIS_USERNAME": redis.username,
        "REDIS_PASSWORD": redis.password,
        "RAYWARD_REDIS_PASSWORD_FILE": redis.password_file,
        "RAY_REDIS_CA_CERT": redis.ca_file,
        "RAY_REDIS_CLIENT_CERT": redis.cert_file,
        "RAY_REDIS_CLIENT_KEY": redis.key_file,
        "RAY_external_storage_namespace": namespace,
    }
    return {name: value for name, value in named.items() if value}


def _overruled(redis: Redis) -> tuple[str, ...]:
    """The other way to give a password, which an environment may still hold from earlier."""
    if redis.password:
        return ("RAYWARD_REDIS_PASSWORD_FILE",)
    return ("REDIS_PASSWORD",) if redis.password_file else ()
