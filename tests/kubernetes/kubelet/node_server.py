"""The kubelet's HTTPS server, as the API server calls it: finds the Pod that is meant and hands the work on.

HTTP/1.1 by hand, one request per connection: an exec or a port-forward takes the whole connection over.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from kubelet.log_stream import LogRequest, log_problem, stream_log
from kubelet.pod_ground import Ground
from kubelet.spdy_session import Session
from kubelet.streaming import ExecCall, PortForward
from rayward.errors import RaywardError

_BOUND_S = 30.0
_REASONS = {101: "Switching Protocols", 200: "OK", 400: "Bad Request", 403: "Forbidden", 404: "Not Found"}
_EXEC_PROTOCOL = "v4.channel.k8s.io"
_FORWARD_PROTOCOL = "portforward.k8s.io"


class Refused(Exception):
    """A request that is answered with a status and a sentence."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True)
class Request:
    """One request: the parts of its path, its query, its headers by lower-case name."""

    method: str
    path: tuple[str, ...]
    query: Mapping[str, list[str]]
    headers: Mapping[str, list[str]]

    def flag(self, name: str) -> bool:
        """Whether a query parameter says yes."""
        return self.query.get(name, [""])[0] in ("1", "true")


def parse_request(head: bytes) -> Request:
    """The request in front of an empty line; raises Refused."""
    first, *lines = head.decode("latin-1").split("\r\n")
    words = first.split(" ")
    if len(words) != 3:
        raise Refused(400, "no HTTP request")
    target = urlsplit(words[1])
    headers: dict[str, list[str]] = {}
    for line in filter(None, lines):
        name, _, value = line.partition(":")
        headers.setdefault(name.strip().lower(), []).extend(part.strip() for part in value.split(","))
    path = tuple(unquote(part) for part in target.path.split("/") if part)
    return Request(words[0], path, parse_qs(target.query, keep_blank_values=True), headers)


def certificate(folder: Path, address: str) -> ssl.SSLContext:
    """A server's TLS with a certificate of its own making, kept in ``folder``."""
    key, cert = folder / "kubelet.key", folder / "kubelet.pem"
    if not cert.exists():
        command = [
            "openssl",
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:P-256",
            "-nodes",
        ]
        names = ["-subj", "/CN=kubelet", "-addext", f"subjectAltName=IP:{address}"]
        files = ["-days", "30", "-keyout", str(key), "-out", str(cert)]
        subprocess.run([*command, *names, *files], check=True, capture_output=True, timeout=_BOUND_S)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)
    return context


class NodeServer:
    """Logs, exec and port-forward of the Pods in ``pods`` (by uid, kept up to date by somebody else)."""

    def __init__(self, ground: Ground, pods: Mapping[str, Mapping[str, Any]]) -> None:
        self._ground, self._pods = ground, pods
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self, address: str, port: int) -> None:
        """Listen; raises OSError when the port is taken there."""
        context = certificate(self._ground.folder.path, address)
        self._server = await asyncio.start_server(self._accept, address, port, ssl=context)

    async def stop(self) -> None:
        """End it, and all that goes through it."""
        if self._server is not None:
            self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        with contextlib.suppress(OSError, asyncio.IncompleteReadError, asyncio.TimeoutError):
            try:
                head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), _BOUND_S)
                await self._serve(parse_request(head[:-4]), reader, writer)
            except Refused as refused:
                await answer(writer, refused.status, str(refused))
            except (RaywardError, LookupError, ValueError) as error:
                await answer(writer, 400, str(error))
        writer.close()

    async def _serve(
        self, request: Request, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        verb, *rest = request.path or ("",)
        if verb == "healthz":
            await answer(writer, 200, "ok")
        elif verb == "containerLogs" and len(rest) == 3:
            await self._logs(request, rest, writer)
        elif verb == "exec" and len(rest) in (3, 4):
            await self._exec(request, rest, reader, writer)
        elif verb == "portForward" and len(rest) in (2, 3):
            await self._forward(request, rest, reader, writer)
        else:
            raise Refused(404, f"/{'/'.join(request.path)} is none of what this kubelet serves")

    def _uid(self, namespace: str, name: str) -> str:
        for uid, pod in self._pods.items():
            metadata = pod["metadata"]
            if (metadata["namespace"], metadata["name"]) == (namespace, name):
                if self._ground.is_lost(pod["spec"]["nodeName"]):
                    raise Refused(404, f"node {pod['spec']['nodeName']} does not answer")
                return uid
        raise Refused(404, f'pod "{name}" is not on this node')

    async def _logs(self, request: Request, rest: list[str], writer: asyncio.StreamWriter) -> None:
        namespace, pod, container = rest
        process = self._ground.process(self._uid(namespace, pod))
        tail, limit = request.query.get("tailLines"), request.query.get("limitBytes")
        wanted = LogRequest(
            container,
            follow=request.flag("follow"),
            previous=request.flag("previous"),
            tail=int(tail[0]) if tail else None,
            limit=int(limit[0]) if limit else None,
        )
        problem = log_problem(process, wanted)
        if problem:
            raise Refused(400, f'container "{container}" in pod "{pod}" {problem}')
        writer.write(head(200, {"Content-Type": "text/plain", "Transfer-Encoding": "chunked"}))
        await stream_log(process, wanted, writer)

    async def _exec(
        self, request: Request, rest: list[str], reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        folder = self._ground.process(self._uid(rest[0], rest[1])).folder
        call = ExecCall(
            folder,
            rest[-1],
            tuple(request.query.get("command", ())),
            stdin=request.flag("input"),
            stdout=request.flag("output"),
            stderr=request.flag("error") and not request.flag("tty"),
            tty=request.flag("tty"),
        )
        await self._upgrade(request, _EXEC_PROTOCOL, writer)
        session = Session(reader, writer, call.take)
        await call.run(session)

    async def _forward(
        self, request: Request, rest: list[str], reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        process = self._ground.process(self._uid(rest[0], rest[1]))
        identity = process.identity()
        if identity is None or not process.alive():
            raise Refused(400, f'pod "{rest[1]}" is not running')
        await self._upgrade(request, _FORWARD_PROTOCOL, writer)
        forward = PortForward(identity[0])
        session = Session(reader, writer, forward.take)
        await forward.run(session)

    async def _upgrade(self, request: Request, protocol: str, writer: asyncio.StreamWriter) -> None:
        """Change to SPDY. Whoever asks for a websocket is refused, and comes again with SPDY."""
        upgrade = [text.lower() for text in request.headers.get("upgrade", ())]
        if "spdy/3.1" not in upgrade:
            raise Refused(
                400, f"this kubelet upgrades to SPDY/3.1 only, not to {', '.join(upgrade) or 'nothing'}"
            )
        offered = request.headers.get("x-stream-protocol-version", [])
        if protocol not in offered:
            raise Refused(403, f"this kubelet speaks {protocol}, none of {', '.join(offered)}")
        headers = {
            "Connection": "Upgrade",
            "Upgrade": "SPDY/3.1",
            "X-Stream-Protocol-Version": protocol,
        }
        writer.write(head(101, headers))
        await writer.drain()


def head(status: int, headers: Mapping[str, str]) -> bytes:
    """The first part of an answer."""
    lines = [f"HTTP/1.1 {status} {_REASONS.get(status, 'Error')}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


async def answer(writer: asyncio.StreamWriter, status: int, message: str) -> None:
    """A whole answer in plain words; the connection ends with it."""
    body = message.encode() + b"\n" * (status == 200)
    headers = {"Content-Type": "text/plain", "Content-Length": str(len(body)), "Connection": "close"}
    writer.write(head(status, headers) + body)
    await writer.drain()
