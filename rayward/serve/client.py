"""Ray's dashboard and Ray Serve's proxies over HTTP. Knows three questions and keeps nothing."""

from __future__ import annotations

from types import TracebackType
from typing import Any

import httpx2
import msgspec

APPLICATIONS = "/api/serve/applications/"
SUBMIT_S = 30.0
_LONGEST = 600


class RefusedError(Exception):
    """The dashboard has understood the configuration and does not take it; in its own words."""


class ServeClient:
    """An asynchronous context; each question takes at most ``timeout`` seconds, a submission `SUBMIT_S`.

    ``idle``: how many connections may stay open between questions; 0 for proxies, because one that is to go
    waits for those that it has. ``token`` is Ray's own authentication token, if the cluster has one.
    """

    def __init__(self, timeout: float, idle: int = 200) -> None:
        # No proxy of the environment: Pods are reached directly.
        limits = httpx2.Limits(max_connections=None, max_keepalive_connections=idle, keepalive_expiry=30)
        self._http = httpx2.AsyncClient(timeout=timeout, trust_env=False, limits=limits)

    async def __aenter__(self) -> ServeClient:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._http.aclose()

    async def applications(self, address: str, port: int, token: str = "") -> Any:
        """What the dashboard says of its applications, as JSON. Raises OSError when it says nothing."""
        # Those that came by another way than a configuration are left out, as they are not the service's.
        path = f"{APPLICATIONS}?api_type=declarative"
        answer = await self._ask("GET", address, port, path, token=token)
        if answer.status_code != 200:
            raise OSError(f"status {answer.status_code}: {_words(answer)}")
        try:
            return msgspec.json.decode(answer.content)
        except msgspec.DecodeError as error:
            raise OSError(f"no answer of Ray Serve: {error}") from error

    async def submit(self, address: str, port: int, body: bytes, token: str = "") -> None:
        """Have the dashboard take a configuration (JSON). Raises RefusedError when it does not want it,
        OSError when it cannot be asked."""
        # The first one starts the controller and a proxy before it is answered: up to 11 s were seen.
        answer = await self._ask("PUT", address, port, APPLICATIONS, body, token, timeout=SUBMIT_S)
        if 200 <= answer.status_code < 300:
            return
        words = _words(answer)
        # Ray 2.60 answers 400 to what does not fit its schema, and also, with a traceback, without a GCS.
        if answer.status_code in (400, 422) and "validation error" in answer.text:
            raise RefusedError(words)
        raise OSError(f"status {answer.status_code}: {words}")

    async def proxy_serves(self, address: str, port: int) -> bool:
        """Whether the proxy there answers and knows a route. Raises OSError (TimeoutError among them) when it
        does not answer at all."""
        health = await self._ask("GET", address, port, "/-/healthz")
        if health.status_code != 200:
            return False
        routes = await self._ask("GET", address, port, "/-/routes")
        try:
            return routes.status_code == 200 and bool(msgspec.json.decode(routes.content))
        except msgspec.DecodeError:
            return False

    async def _ask(
        self,
        method: str,
        address: str,
        port: int,
        path: str,
        body: bytes | None = None,
        token: str = "",
        timeout: float | None = None,
    ) -> httpx2.Response:
        host = f"[{address}]" if ":" in address else address
        headers = {"content-type": "application/json"} if body is not None else {}
        if token:
            headers["x-ray-authorization"] = f"Bearer {token}"
        try:
            return await self._http.request(
                method,
                f"http://{host}:{port}{path}",
                content=body,
                headers=headers,
                timeout=httpx2.USE_CLIENT_DEFAULT if timeout is None else timeout,
            )
        except httpx2.TimeoutException as error:
            raise TimeoutError(f"no answer in time from {host}:{port}") from error
        except httpx2.HTTPError as error:
            raise OSError(f"{host}:{port}: {error or type(error).__name__}") from error


def _words(answer: httpx2.Response) -> str:
    """What an answer says, short: Ray puts a traceback around it."""
    text = answer.text.strip()
    try:
        found = msgspec.json.decode(text)
        text = str(found.get("msg") or found.get("message") or text) if isinstance(found, dict) else text
    except msgspec.DecodeError:
        pass
    return text if len(text) <= _LONGEST else f"... {text[-_LONGEST:]}"
