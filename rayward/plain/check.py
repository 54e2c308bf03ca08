"""What in a config contradicts itself or cannot work, each finding with the setting's name. Pure.

Files, addresses and programs of the machine are looked at elsewhere.
"""

from __future__ import annotations

import ipaddress
import math
import re
from collections.abc import Iterable, Iterator

from rayward.agent.timing import lease_timing
from rayward.api.problems import Problem, join_path, shown
from rayward.errors import RaywardError
from rayward.plain.places import split_place
from rayward.plain.schema import Config, Redis
from rayward.store.address import parse_redis_address

_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,251}[A-Za-z0-9])?")
_GLOB = frozenset("*?[]\\")
# What the file itself decides, and where.
_DECIDED = {
    "head": "role",
    "address": "heads",
    "port": "ray.port",
    "node-ip-address": "ray.nodeIpAddress",
    "redis-password": "redis.password",
    "redis-username": "redis.username",
    "external-redis": "redis.address",
}
MAX_TTL_S = 600.0


def problems(config: Config) -> list[Problem]:
    """Everything for which no agent may be started with this config."""
    return [
        *_names(config),
        *_heads(config),
        *(_redis(config.redis) if config.redis is not None else ()),
        *_namespace(config),
        *_ray(config),
        *_agent(config),
        *_lease(config),
    ]


def warnings(config: Config) -> tuple[str, ...]:
    """What works, but not as its writer may think."""
    found = []
    if config.role == "worker" and config.redis is not None:
        secret = config.redis.password or config.redis.password_file or "@" in config.redis.address
        what = "redis: a worker never talks to Redis" + (
            ": leave its password off the workers" if secret else ""
        )
        found.append(what)
    if config.role == "head" and config.redis is None:
        found.append(
            "redis: is not there: the GCS keeps its state in memory and loses all of it when it dies, unless "
            "the environment names another store (RAY_gcs_storage=rocksdb)"
        )
    if config.role == "worker" and config.lease.ttl is not None:
        found.append("lease.ttl: only heads hold a lease; it does nothing on a worker")
    return tuple(found)


def _names(config: Config) -> Iterator[Problem]:
    for path, name in (("cluster", config.cluster), ("name", config.name)):
        if path == "name" and not name:
            continue
        if not _NAME.fullmatch(name):
            yield Problem(path, f"must be letters, digits, `.`, `_` and `-`, got {shown(name)}")


def _heads(config: Config) -> Iterator[Problem]:
    if not config.heads:
        yield Problem("heads", "is empty: name the agent of each head as HOST or HOST:PORT")
    seen: set[tuple[str, int]] = set()
    for number, text in enumerate(config.heads):
        where = join_path("heads", number)
        try:
            place = split_place(text)
        except RaywardError as error:
            yield Problem(where, error.what)
            continue
        if place in seen:
            yield Problem(where, f"{text} is in the list twice")
        seen.add(place)
    if config.role == "head" and len(config.heads) > 1 and config.redis is None:
        yield Problem("redis", "is missing: more than one head needs a store that each of them reaches")


def _redis(redis: Redis) -> Iterator[Problem]:
    tls = True  # unless the address can be read and says otherwise
    try:
        tls = parse_redis_address(redis.address).tls
    except RaywardError as error:
        yield Problem("redis.address", f"{error.what}; {error.todo}")
    if redis.password and redis.password_file:
        yield Problem("redis.passwordFile", "and redis.password are both given: which one counts?")
    if bool(redis.cert_file) != bool(redis.key_file):
        given, other = ("certFile", "keyFile") if redis.cert_file else ("keyFile", "certFile")
        yield Problem(f"redis.{given}", f"needs redis.{other} beside it")
    if (redis.ca_file or redis.cert_file) and not tls:
        name = "caFile" if redis.ca_file else "certFile"
        scheme = "rediss+sentinel://" if "+sentinel://" in redis.address else "rediss://"
        yield Problem(f"redis.{name}", f"is for TLS, but redis.address does not begin with {scheme}")


def _namespace(config: Config) -> Iterator[Problem]:
    if config.role == "worker":
        return
    written = config.redis is not None and bool(config.redis.namespace)
    path, namespace = ("redis.namespace" if written else "cluster"), config.namespace
    found = sorted(set(namespace) & _GLOB)
    if found:
        yield Problem(
            path,
            f"holds `{found[0]}`, which Redis takes for a pattern where keys are listed and removed: "
            "letters, digits, `.`, `_` and `-` are safe",
        )
    elif "@" in namespace:
        yield Problem(path, "holds `@`, which Ray keeps for itself")
    elif written and (not namespace.isprintable() or " " in namespace):
        yield Problem(path, f"holds a space or a character that cannot be printed: {shown(namespace)}")


def _option_names(words: Iterable[str]) -> Iterator[tuple[int, str]]:
    for number, word in enumerate(words):
        if word.startswith("--"):
            yield number, word[2:].partition("=")[0]


def _ray(config: Config) -> Iterator[Problem]:
    for number, option in _option_names(config.ray.start):
        if option in _DECIDED:
            yield Problem(join_path("ray", "start", number), f"--{option} is decided by `{_DECIDED[option]}`")
    if config.ray.start and not config.ray.start[0].startswith("-"):
        yield Problem("ray.start", f"expected options such as --num-cpus=0, got {shown(config.ray.start[0])}")
    yield from _port("ray.port", config.ray.port)
    address = config.ray.node_ip_address
    if address:
        try:
            unusable = ipaddress.ip_address(address).is_unspecified
        except ValueError:
            unusable = True
        if unusable:
            yield Problem(
                "ray.nodeIpAddress", f"must be one IP address of this machine, got {shown(address)}"
            )


def _agent(config: Config) -> Iterator[Problem]:
    yield from _port("agent.port", config.agent.port)
    if config.agent.port == config.ray.port:
        yield Problem("agent.port", f"and ray.port are both {config.ray.port}")
    if config.agent.token and config.agent.token_file:
        yield Problem("agent.tokenFile", "and agent.token are both given: which one counts?")
    if not config.state_dir.startswith("/"):
        yield Problem("stateDir", f"must be an absolute path, got {shown(config.state_dir)}")


def _port(path: str, port: int) -> Iterator[Problem]:
    if not 0 < port <= 65535:
        yield Problem(path, f"must be a port from 1 to 65535, got {port}")


def _lease(config: Config) -> Iterator[Problem]:
    ttl = config.lease.ttl
    if ttl is None:
        return
    if not math.isfinite(ttl) or not 0 < ttl <= MAX_TTL_S:
        yield Problem("lease.ttl", f"must be seconds from 0 to {MAX_TTL_S:g}, got {ttl:g}")
        return
    for sentence in lease_timing(ttl).problems():
        yield Problem("lease.ttl", sentence)
