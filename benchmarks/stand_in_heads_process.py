"""What stands where the heads of many RayServices would be: one process that answers for all of them.

``python -m benchmarks.stand_in_heads_process``; a part of ``kube_services``. It listens on every address of
this machine and knows a head by the address that was asked: each hollow Pod has one of its own, of loopback.

Says first its two ports (dashboard, Serve), then a line for each question. ``silent ADDRESS`` on standard
input is repeated as such a line: from then on that head takes connections and questions and never answers.
Ends with its standard input.
"""

from __future__ import annotations

import asyncio
import logging
import sys
import time

import msgspec
from aiohttp import web

from benchmarks.serve_lateness import APPLICATIONS, HEALTH, ROUTES, SILENT, SUBMIT, Asked, line_of

# Hundreds of heads may be asked at the same moment; what does not fit is sent again only a second later.
_BACKLOG = 4096
_EMPTY = b'{"applications":{},"proxies":{}}'


class Heads:
    """All heads, by address: what each was sent last, and which are silent."""

    def __init__(self, out: asyncio.WriteTransport) -> None:
        self._out = out
        self._answers: dict[str, bytes] = {}
        self._silent: set[str] = set()

    def silence(self, address: str) -> None:
        """From now on this head answers nothing."""
        self._silent.add(address)
        self._note(address, SILENT)

    async def applications(self, request: web.Request) -> web.Response:
        """The dashboard's answer: everything that was sent runs."""
        address = await self._asked(request, APPLICATIONS)
        return _json(self._answers.get(address, _EMPTY))

    async def submit(self, request: web.Request) -> web.Response:
        """The dashboard takes a configuration."""
        body = await request.read()
        address = await self._asked(request, SUBMIT)
        names = [found.get("name", "default") for found in msgspec.json.decode(body)["applications"]]
        self._answers[address] = msgspec.json.encode(
            {
                "applications": {name: _application(name, address) for name in names},
                "proxies": {"head": {"node_ip": address, "status": "HEALTHY"}},
            }
        )
        return web.Response()

    async def health(self, request: web.Request) -> web.Response:
        """The proxy is well."""
        await self._asked(request, HEALTH)
        return web.Response(text="success")

    async def routes(self, request: web.Request) -> web.Response:
        """The proxy has a route once there was a configuration."""
        address = await self._asked(request, ROUTES)
        return _json(b'{"/":"default"}' if address in self._answers else b"{}")

    async def _asked(self, request: web.Request, question: str) -> str:
        # Not request.host, which is what the other side believes.
        transport = request.transport
        address = str(transport.get_extra_info("sockname")[0]) if transport is not None else "gone"
        self._note(address, question)
        if address in self._silent:
            await asyncio.Event().wait()  # until the other side has had enough
        return address

    def _note(self, address: str, question: str) -> None:
        self._out.write(line_of(Asked(time.monotonic(), address, question)))


def _json(body: bytes) -> web.Response:
    return web.Response(body=body, content_type="application/json")


def _application(name: str, address: str) -> dict[str, object]:
    replica = {"node_ip": address, "state": "RUNNING", "replica_id": f"{name}-1", "pid": 1}
    deployment = {"name": "Market", "status": "HEALTHY", "message": "", "replicas": [replica]}
    return {"name": name, "status": "RUNNING", "message": "", "deployments": {"Market": deployment}}


async def _serve(routes: list[web.RouteDef]) -> tuple[web.AppRunner, int]:
    app = web.Application()
    app.add_routes(routes)
    runner = web.AppRunner(app, access_log=None, handler_cancellation=True, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "0.0.0.0", 0, backlog=_BACKLOG).start()
    return runner, int(runner.addresses[0][1])


async def _run() -> None:
    loop = asyncio.get_running_loop()
    commands = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(commands), sys.stdin.buffer)
    # A pipe that nobody empties for a moment must not keep an answer back, so it is not written directly.
    out, _ = await loop.connect_write_pipe(asyncio.BaseProtocol, sys.stdout.buffer)
    heads = Heads(out)
    dashboard, dashboard_port = await _serve(
        [
            web.get("/api/serve/applications/", heads.applications),
            web.put("/api/serve/applications/", heads.submit),
        ]
    )
    proxy, proxy_port = await _serve(
        [web.get("/-/healthz", heads.health), web.get("/-/routes", heads.routes)]
    )
    out.write(f"{dashboard_port} {proxy_port}\n".encode())
    try:
        while command := (await commands.readline()).decode().split():
            heads.silence(command[1])
    finally:
        await dashboard.cleanup()
        await proxy.cleanup()
        out.close()


def main() -> None:
    """Answer until standard input ends."""
    logging.basicConfig(level=logging.WARNING)
    asyncio.run(_run())


if __name__ == "__main__":
    main()
