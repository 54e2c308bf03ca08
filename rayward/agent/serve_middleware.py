"""Runs inside Ray Serve's HTTP proxy: while its node is leaving, each answer ends its connection.

A client that keeps a connection open would otherwise use it until the proxy's process ends, and lose the
request that is under way by then. With ``Connection: close`` it opens another one, which the Service leads
elsewhere.

The agent copies this one file out of its zip (``serve_hook``), so it may import nothing of rayward. Ray calls
``middlewares`` in every new proxy: what goes wrong here must not keep a proxy from starting.
"""

from __future__ import annotations

import os
from typing import Any, Awaitable, Callable, MutableMapping

# Exists while the node is leaving.
LEAVING = os.environ.get("RAYWARD_SERVE_LEAVING", "")

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]


class LastAnswers:
    """ASGI middleware around the proxy's application."""

    def __init__(self, app: Callable[[Message, Receive, Send], Awaitable[None]]) -> None:
        self._app = app

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Pass a request on, and mark its answer as the connection's last if the node is leaving by then."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_on(message: Message) -> None:
            if message["type"] == "http.response.start" and os.path.exists(LEAVING):
                headers = [*message.get("headers", ()), (b"connection", b"close")]
                message = {**message, "headers": headers}
            await send(message)

        await self._app(scope, receive, send_on)


def middlewares() -> list[Any]:
    """What Ray Serve adds to its HTTP proxy (``RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH``)."""
    if not LEAVING:
        return []
    try:
        from starlette.middleware import Middleware  # noqa: PLC0415 - there is Starlette where there is Serve
    except ImportError:
        return []
    return [Middleware(LastAnswers)]
