"""An API server over real loopback sockets, small enough to be told how to misbehave.

Keeps objects, versions and history as the real one does, for lists with pages, watches with bookmarks, and
single objects with conditional writes. ``faults`` holds what goes wrong next, for requests whose verb fits.
"""

from __future__ import annotations

import asyncio
import contextlib
import copy
import json
import socket
import struct
import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl, urlsplit

Raw = dict[str, Any]
_REASONS = {401: "Unauthorized", 403: "Forbidden", 404: "NotFound", 409: "Conflict", 410: "Expired"}


@dataclass
class Fault:
    """``what``: status (with ``code``), gone (410 in the stream), eof, cut (in a line), reset, hang, lost
    (done, but not answered), nonsense. A watch does it after ``after`` events. ``times``: how often;
    ``skip``: how many such requests go well before; ``path``: what theirs must hold."""

    verb: str
    what: str
    code: int = 500
    after: int = 0
    times: int = 1
    skip: int = 0
    path: str = ""
    message: str = "told to"
    headers: str = ""


@dataclass
class Call:
    verb: str
    path: str
    params: dict[str, str]
    body: Any
    headers: dict[str, str]


@dataclass
class FakeApiServer:
    faults: list[Fault] = field(default_factory=list)
    calls: list[Call] = field(default_factory=list)
    watching: int = 0
    version: int = 100
    port: int = 0
    at_once: int = 0
    most_at_once: int = 0

    def __post_init__(self) -> None:
        self._objects: dict[str, dict[tuple[str, str], Raw]] = {}
        self._history: list[tuple[int, str, str, Raw]] = []
        self._compacted = 0
        self._news = asyncio.Event()
        self._server: asyncio.Server | None = None
        self._open: set[asyncio.StreamWriter] = set()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def count(self, verb: str) -> int:
        return sum(call.verb == verb for call in self.calls)

    # -- what is there ---------------------------------------------------------------------------------

    def put(self, plural: str, name: str, namespace: str = "default", **body: Any) -> Raw:
        """Creates or changes an object, as somebody else would."""
        key = (namespace, name)
        before = self._objects.setdefault(plural, {}).get(key)
        self.version += 1
        metadata = {
            "name": name,
            "namespace": namespace,
            "uid": before["metadata"]["uid"] if before else str(uuid.uuid4()),
            "resourceVersion": str(self.version),
            **body.pop("metadata", {}),
        }
        found = self._objects[plural][key] = {"metadata": metadata, **body}
        self._tell("MODIFIED" if before else "ADDED", plural, found)
        return found

    def remove(self, plural: str, name: str, namespace: str = "default") -> None:
        found = copy.deepcopy(self._objects[plural].pop((namespace, name)))
        self.version += 1
        found["metadata"]["resourceVersion"] = str(self.version)
        self._tell("DELETED", plural, found)

    def bookmark(self, plural: str) -> None:
        self._tell("BOOKMARK", plural, {"metadata": {"resourceVersion": str(self.version)}})

    def forget_history(self) -> None:
        """Compacts: whoever asks for an older version is told 410."""
        self._history.clear()
        self._compacted = self.version

    def _tell(self, event: str, plural: str, found: Raw) -> None:
        self._history.append((self.version, event, plural, copy.deepcopy(found)))
        self._wake()

    def _wake(self) -> None:
        self._news.set()
        self._news = asyncio.Event()

    # -- coming and going ------------------------------------------------------------------------------

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        """Refuses connections and breaks those that are open."""
        if self._server is not None:
            self._server.close()
        for writer in list(self._open):
            _reset(writer)
        self._wake()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._open.add(writer)
        try:
            while await self._one(reader, writer):
                pass
        except (OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            self._open.discard(writer)
            writer.close()

    async def _one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        method, target, _ = (await reader.readuntil(b"\r\n")).decode().split()
        lines = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        headers = {key.lower(): value for key, _, value in (line.partition(": ") for line in lines if line)}
        content = await reader.readexactly(int(headers.get("content-length", 0)))
        parts = urlsplit(target)
        params, path = dict(parse_qsl(parts.query)), parts.path.strip("/").split("/")
        group = path[3:] if path[0] == "apis" else path[2:]
        namespace = group[1] if group[0] == "namespaces" and len(group) > 2 else ""
        plural, *rest = group[2:] if namespace else group
        name = rest[0] if rest else ""
        verb = {"POST": "create", "PATCH": "patch", "DELETE": "delete"}.get(method, "get" if name else "list")
        verb = "watch" if params.get("watch") else verb
        body = json.loads(content) if content else None
        self.calls.append(Call(verb, parts.path, params, body, headers))
        fault = self._fault(verb, parts.path)
        if fault is not None and fault.what == "status":
            return await _answer(writer, fault.code, _status(fault.code, fault.message), fault.headers)
        if fault is not None and fault.what == "lost":
            self._do(verb, plural, namespace, name, params, body)
            return await self._misbehave(writer, "reset")
        if fault is not None and verb != "watch":
            return await self._misbehave(writer, fault.what)
        if verb == "watch":
            return await self._watch(reader, writer, plural, namespace, params, fault)
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        await asyncio.sleep(0.001)
        self.at_once -= 1
        code, said = self._do(verb, plural, namespace, name, params, body)
        return await _answer(writer, code, said)

    def _fault(self, verb: str, path: str) -> Fault | None:
        fits = (fault for fault in self.faults if fault.verb in (verb, "*") and fault.path in path)
        found = next(fits, None)
        if found is not None and found.skip > 0:
            found.skip -= 1
            return None
        if found is not None:
            found.times -= 1
            if found.times <= 0:
                self.faults.remove(found)
        return found

    async def _misbehave(self, writer: asyncio.StreamWriter, what: str) -> bool:
        if what == "reset":
            _reset(writer)
        elif what == "hang":
            await asyncio.Event().wait()
        elif what == "nonsense":
            return await _answer(writer, 200, "<html>")
        return False

    # -- verbs -----------------------------------------------------------------------------------------

    def _do(  # noqa: PLR0911
        self, verb: str, plural: str, namespace: str, name: str, params: dict[str, str], body: Any
    ) -> tuple[int, Any]:
        there = self._objects.setdefault(plural, {})
        found = there.get((namespace, name))
        if verb == "list":
            return 200, self._page(there, namespace, params)
        if verb == "create":
            name = body["metadata"]["name"]
            if (namespace, name) in there:
                return 409, {**_status(409, f"{name} already exists"), "reason": "AlreadyExists"}
            return 201, self.put(plural, name, namespace, **_without_metadata(body))
        if found is None:
            return 404, _status(404, f"{plural} {name!r} not found")
        if verb == "patch":
            asked = (body.get("metadata") or {}).get("resourceVersion")
            if asked and asked != found["metadata"]["resourceVersion"]:
                return 409, _status(409, "the object has been modified")
            changed = {**_without_metadata(found), **_without_metadata(body)}
            return 200, self.put(plural, name, namespace, **changed)
        if verb == "delete":
            uid = (body.get("preconditions") or {}).get("uid")
            if uid and uid != found["metadata"]["uid"]:
                return 409, _status(409, "the uid differs")
            self.remove(plural, name, namespace)
        return 200, found

    def _page(self, there: dict[tuple[str, str], Raw], namespace: str, params: dict[str, str]) -> Raw:
        keys = sorted(key for key in there if not namespace or key[0] == namespace)
        first, limit = int(params.get("continue", 0)), int(params.get("limit", 0)) or len(keys) + 1
        rest = str(first + limit) if first + limit < len(keys) else ""
        metadata = {"resourceVersion": str(self.version), "continue": rest}
        return {"metadata": metadata, "items": [there[key] for key in keys[first : first + limit]]}

    async def _watch(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        plural: str,
        namespace: str,
        params: dict[str, str],
        fault: Fault | None,
    ) -> bool:
        seen = int(params.get("resourceVersion") or 0)
        writer.write(
            b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
        )
        if seen < self._compacted:
            return await _end(writer, "ERROR", _status(410, f"too old resource version: {seen}"))
        self.watching += 1
        sent, only = 0, params.get("fieldSelector", "").removeprefix("metadata.name=")
        try:
            while self._server is not None and self._server.is_serving():
                news = self._news
                for version, event, kind, found in list(self._history):
                    if version < seen + (event != "BOOKMARK") or kind != plural:
                        continue
                    if event != "BOOKMARK" and (
                        (namespace and found["metadata"]["namespace"] != namespace)
                        or (only and found["metadata"]["name"] != only)
                    ):
                        continue
                    if fault is not None and sent >= fault.after:
                        break
                    seen, sent = version, sent + 1
                    _chunk(writer, event, found)
                await writer.drain()
                if fault is not None and sent >= fault.after:
                    return await self._end_badly(writer, fault)
                gone, told = asyncio.ensure_future(reader.read(1)), asyncio.ensure_future(news.wait())
                await asyncio.wait((gone, told), return_when=asyncio.FIRST_COMPLETED)
                ended = gone.done()
                for task in (gone, told):
                    task.cancel()
                await asyncio.gather(gone, told, return_exceptions=True)
                if ended:
                    break
        finally:
            self.watching -= 1
        return False

    async def _end_badly(self, writer: asyncio.StreamWriter, fault: Fault) -> bool:
        if fault.what == "gone":
            return await _end(writer, "ERROR", _status(410, "too old resource version"))
        if fault.what == "eof":
            writer.write(b"0\r\n\r\n")
            return True
        if fault.what == "cut":
            writer.write(b'a\r\n{"type":"A\r\n0\r\n\r\n')
            return True
        return await self._misbehave(writer, fault.what)


@contextlib.asynccontextmanager
async def serving() -> AsyncIterator[FakeApiServer]:
    server = FakeApiServer()
    await server.start()
    try:
        yield server
    finally:
        await server.stop()


def _chunk(writer: asyncio.StreamWriter, event: str, found: Raw) -> None:
    line = json.dumps({"type": event, "object": found}).encode() + b"\n"
    writer.write(f"{len(line):x}\r\n".encode() + line + b"\r\n")


async def _end(writer: asyncio.StreamWriter, event: str, found: Raw) -> bool:
    _chunk(writer, event, found)
    writer.write(b"0\r\n\r\n")
    await writer.drain()
    return True


async def _answer(writer: asyncio.StreamWriter, code: int, body: Any, headers: str = "") -> bool:
    content = body.encode() if isinstance(body, str) else json.dumps(body).encode()
    writer.write(f"HTTP/1.1 {code} X\r\nContent-Length: {len(content)}\r\n{headers}\r\n".encode() + content)
    await writer.drain()
    return True


def _reset(writer: asyncio.StreamWriter) -> None:
    found = writer.get_extra_info("socket")
    with contextlib.suppress(OSError):
        found.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


def _status(code: int, message: str) -> Raw:
    return {"kind": "Status", "code": code, "reason": _REASONS.get(code, ""), "message": message}


def _without_metadata(body: Raw) -> Raw:
    return {key: value for key, value in body.items() if key != "metadata"}
