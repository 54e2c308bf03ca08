"""Speaks to agents over HTTP, from inside the cluster. Knows one question."""

from __future__ import annotations

from types import TracebackType
from typing import Any

import httpx2
import msgspec


class AgentClient:
    """An asynchronous context; answers take at most ``timeout`` seconds."""

    def __init__(self, timeout: float) -> None:
        # No proxy of the environment: Pods are reached directly.
        self._http = httpx2.AsyncClient(timeout=timeout, trust_env=False)

    async def __aenter__(self) -> AgentClient:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._http.aclose()

    async def status(self, address: str, port: int) -> dict[str, Any]:
        """What the agent on ``address`` says of itself. Raises OSError when there is none, ValueError when it
        is something else."""
        host = f"[{address}]" if ":" in address else address
        try:
            answer = await self._http.get(f"http://{host}:{port}/status")
        except httpx2.HTTPError as error:
            raise OSError(str(error) or type(error).__name__) from error
        if answer.status_code != 200:
            raise OSError(f"status {answer.status_code}")
        try:
            found = msgspec.json.decode(answer.content)
        except msgspec.DecodeError as error:
            raise ValueError(str(error)) from error
        if not isinstance(found, dict):
            raise ValueError("no status of an agent")
        return found
