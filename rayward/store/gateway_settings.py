"""What the gateway is told by its environment. Pure: it opens and reads nothing."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Mapping

from rayward.errors import RaywardError
from rayward.store.upstream import StoreSettings


@dataclass(frozen=True)
class GatewaySettings:
    """``patience`` and ``silence`` are seconds: how long clients wait for a store that is away, and after how
    long without an answer a connection to it counts as broken. ``park_bytes`` bounds what is kept of
    commands without an answer; one command of each client may come on top.
    """

    store: StoreSettings
    token: bytes = field(repr=False)
    port: int = 0
    patience: float = 600.0
    silence: float = 5.0
    park_bytes: int = 64 * 1024 * 1024
    fenced: bool = True
    audit: bool = False

    @classmethod
    def from_environment(cls, environ: Mapping[str, str]) -> GatewaySettings:
        """Read the ``RAYWARD_`` and ``RAY_REDIS_`` variables. Raises ``RaywardError`` naming the variable."""
        token = environ.get("RAYWARD_GATEWAY_TOKEN", "")
        if not token:
            raise RaywardError(
                "the gateway has no token, so anybody on this host could write to the store",
                where="RAYWARD_GATEWAY_TOKEN",
                todo="set it to a random text; clients give it as their password",
            )
        fence = environ.get("RAYWARD_FENCE") or "on"
        if fence not in ("on", "off"):
            raise RaywardError(
                f"{fence!r} is neither on nor off", where="RAYWARD_FENCE", todo="write on or off"
            )
        return cls(
            store=StoreSettings.from_environment(environ),
            token=token.encode("utf-8", "surrogateescape"),
            port=int(_number(environ, "RAYWARD_GATEWAY_PORT", 0, 0, 65535)),
            patience=_number(environ, "RAYWARD_STORE_PATIENCE", cls.patience, 1, 1e9),
            silence=_number(environ, "RAYWARD_GATEWAY_SILENCE", cls.silence, 0.5, 3600),
            park_bytes=int(_number(environ, "RAYWARD_GATEWAY_PARK_BYTES", cls.park_bytes, 64 * 1024, 2**40)),
            fenced=fence == "on",
            audit=environ.get("RAYWARD_AUDIT", "") == "1",
        )


def _number(environ: Mapping[str, str], name: str, default: float, least: float, most: float) -> float:
    text = environ.get(name, "")
    if not text:
        return default
    try:
        number = float(text)
    except ValueError:
        number = float("nan")
    if not least <= number <= most:
        raise RaywardError(
            f"{text!r} is not a number from {least:g} to {most:g}",
            where=name,
            todo=f"leave it out for {default:g}",
        )
    return number
