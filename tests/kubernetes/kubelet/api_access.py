"""The kubelet's own small client of the API server: what plays the cluster shall not lean on the product's.

Objects are plain dictionaries. Knows nothing of Pods.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import ssl
import tempfile
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import aiohttp
import msgspec
import yaml
from yarl import URL

from rayward.kube.kinds import Kind

Object = dict[str, Any]

PVS = Kind("", "v1", "persistentvolumes", "PersistentVolume", namespaced=False)
ENDPOINTS = Kind("", "v1", "endpoints", "Endpoints")
_decode = msgspec.json.decode
_encode = msgspec.json.encode
_PATCH = {"Content-Type": "application/merge-patch+json"}
_SILENCE_S = 90.0
_LONGEST_PAUSE_S = 1.0
GONE = 410


class ApiError(Exception):
    """The API server's refusal: its HTTP status, and its words."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(f"{status}: {message}")
        self.status = status


UNREACHABLE = (aiohttp.ClientError, asyncio.TimeoutError, TimeoutError, ConnectionError)


def _file(entry: Object, key: str, folder: Path, scratch: Path) -> str | None:
    """A file of a kubeconfig entry, whether it names one or holds its content."""
    if entry.get(f"{key}-data"):
        path = scratch / key
        path.write_bytes(base64.b64decode(entry[f"{key}-data"]))
        return str(path)
    return str(folder / entry[key]) if entry.get(key) else None


class ApiServer:
    """An API server by its kubeconfig file; `async with` it, in one event loop."""

    def __init__(self, kubeconfig: Path, connections: int = 64) -> None:
        config = yaml.safe_load(kubeconfig.read_text())
        context = next(
            item["context"]
            for item in config["contexts"]
            if item["name"] == config.get("current-context", item["name"])
        )
        cluster = next(item["cluster"] for item in config["clusters"] if item["name"] == context["cluster"])
        user = next(item["user"] for item in config["users"] if item["name"] == context["user"])
        self.url = str(cluster["server"]).rstrip("/")
        self._headers = {"User-Agent": "rayward-test-kubelet"}
        if user.get("token"):
            self._headers["Authorization"] = f"Bearer {user['token']}"
        self._tls = _tls(cluster, user, kubeconfig.parent)
        self._connections = connections

    async def __aenter__(self) -> ApiServer:
        connector = aiohttp.TCPConnector(limit=self._connections, ssl=self._tls or True)
        self._http = aiohttp.ClientSession(connector=connector, headers=self._headers)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._http.close()

    async def _call(
        self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None
    ) -> Object:
        data = None if body is None else _encode(body)
        given = headers or ({"Content-Type": "application/json"} if data is not None else {})
        timeout = aiohttp.ClientTimeout(total=30)
        url = URL(self.url + path, encoded=True)
        async with self._http.request(method, url, data=data, headers=given, timeout=timeout) as answer:
            content = await answer.read()
            if answer.status >= 400:
                raise ApiError(answer.status, _message(content))
            found: Object = _decode(content)
            return found

    async def get(self, kind: Kind, namespace: str | None, name: str) -> Object:
        """One object; ApiError 404 when it is not there."""
        return await self._call("GET", kind.path(namespace, name))

    async def list(self, kind: Kind, fields: str = "") -> tuple[list[Object], str]:
        """All objects of a kind in all namespaces, and the resource version of the list."""
        items: list[Object] = []
        query = {"limit": "1000", **({"fieldSelector": fields} if fields else {})}
        while True:
            page = await self._call("GET", f"{kind.path()}?{urlencode(query)}")
            items += page.get("items") or ()
            if not page["metadata"].get("continue"):
                return items, page["metadata"]["resourceVersion"]
            query["continue"] = page["metadata"]["continue"]

    async def create(self, kind: Kind, body: Object, subresource: str = "") -> Object:
        """Create an object, or a subresource of the object of that name."""
        metadata = body["metadata"]
        name = metadata["name"] if subresource else ""
        path = kind.path(metadata.get("namespace"), name, subresource)
        full = {**body} if "kind" in body else {"apiVersion": kind.api_version, "kind": kind.name, **body}
        return await self._call("POST", path, full)

    async def patch(self, kind: Kind, item: Object, body: Object, subresource: str = "") -> Object:
        """Merge-patch the object that ``item`` is a version of: another one of its name is left alone."""
        metadata = item["metadata"]
        guarded = {**body, "metadata": {**body.get("metadata", {}), "uid": metadata["uid"]}}
        path = kind.path(metadata.get("namespace"), metadata["name"], subresource)
        return await self._call("PATCH", path, guarded, _PATCH)

    async def delete(self, kind: Kind, item: Object, grace_s: int | None = None) -> None:
        """Delete this very object; one that is gone already is no error."""
        metadata = item["metadata"]
        body: Object = {"kind": "DeleteOptions", "apiVersion": "v1"}
        if metadata.get("uid"):
            body["preconditions"] = {"uid": metadata["uid"]}
        if grace_s is not None:
            body["gracePeriodSeconds"] = grace_s
        try:
            await self._call("DELETE", kind.path(metadata.get("namespace"), metadata["name"]), body)
        except ApiError as error:
            if error.status not in (404, 409):
                raise

    async def watch(self, kind: Kind, version: str, fields: str = "") -> AsyncIterator[tuple[str, Object]]:
        """Events (type, object) from a resource version on, bookmarks too, until the server ends them."""
        async for line in self.watch_lines(kind, version, fields):
            event = _decode(line)
            if event["type"] == "ERROR":
                raise ApiError(int(event["object"].get("code", 500)), str(event["object"]))
            yield event["type"], event["object"]

    async def watch_lines(self, kind: Kind, version: str, fields: str = "") -> AsyncIterator[bytes]:
        """The same, each event as it came."""
        query = {
            "watch": "1",
            "allowWatchBookmarks": "true",
            "resourceVersion": version,
            "timeoutSeconds": "300",
        }
        if fields:
            query["fieldSelector"] = fields
        url = URL(f"{self.url}{kind.path()}?{urlencode(query)}", encoded=True)
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=10, sock_read=_SILENCE_S)
        async with self._http.get(url, timeout=timeout) as answer:
            if answer.status >= 400:
                raise ApiError(answer.status, _message(await answer.read()))
            rest = b""
            async for chunk in answer.content.iter_any():
                *lines, rest = (rest + chunk).split(b"\n")
                for line in filter(None, lines):
                    yield line


def _tls(cluster: Object, user: Object, folder: Path) -> ssl.SSLContext | None:
    if not str(cluster["server"]).startswith("https"):
        return None
    with tempfile.TemporaryDirectory(prefix="rayward-kubelet-") as scratch:
        authority = _file(cluster, "certificate-authority", folder, Path(scratch))
        context = ssl.create_default_context(cafile=authority)
        if cluster.get("insecure-skip-tls-verify"):
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        certificate = _file(user, "client-certificate", folder, Path(scratch))
        if certificate:
            context.load_cert_chain(certificate, _file(user, "client-key", folder, Path(scratch)))
    return context


def _message(content: bytes) -> str:
    try:
        return str(_decode(content)["message"])
    except (msgspec.DecodeError, KeyError, TypeError):
        return content[:500].decode(errors="replace")


Change = Callable[[Object | None, Object | None], None]


class Reflector:
    """The objects of a kind as the API server has them; goes on whatever happens to the server.

    ``on_change(old, new)`` is told of each change, None standing for "not there".
    """

    def __init__(self, api: ApiServer, kind: Kind, on_change: Change, fields: str = "") -> None:
        self._api, self._kind, self._on_change, self._fields = api, kind, on_change, fields
        self.items: dict[tuple[str, str], Object] = {}
        self.synced = asyncio.Event()

    async def run(self) -> None:
        """List and watch for ever."""
        pause, version = 0.0, ""
        while True:
            try:
                if not version:
                    version = await self._relist()
                async for kind, item in self._api.watch(self._kind, version, self._fields):
                    version = item["metadata"]["resourceVersion"]
                    pause = 0.0
                    if kind != "BOOKMARK":
                        self.take(item, gone=kind == "DELETED")
                pause = max(pause, 0.05)
            except ApiError as error:
                if error.status == GONE:
                    version = ""
                pause = min(_LONGEST_PAUSE_S, pause * 2 + 0.1)
            except UNREACHABLE:
                pause = min(_LONGEST_PAUSE_S, pause * 2 + 0.1)
            await asyncio.sleep(pause)

    async def _relist(self) -> str:
        items, version = await self._api.list(self._kind, self._fields)
        found = {_key(item): item for item in items}
        for key in [key for key in self.items if key not in found]:
            self.take(self.items[key], gone=True)
        for item in items:
            self.take(item)
        self.synced.set()
        return version

    def written(self, item: Object) -> None:
        """Take in what a write returned, unless the object is known to be gone since."""
        known = self.items.get(_key(item))
        if known is not None and known["metadata"]["uid"] == item["metadata"]["uid"]:
            self.take(item)

    def take(self, item: Object, gone: bool = False) -> None:
        """Take in a version of an object; one that is older than what is known changes nothing."""
        key = _key(item)
        old = self.items.get(key)
        if gone:
            if old is not None and old["metadata"]["uid"] == item["metadata"]["uid"]:
                del self.items[key]
                self._on_change(old, None)
            return
        if old is not None:
            if old["metadata"]["uid"] == item["metadata"]["uid"]:
                if int(item["metadata"]["resourceVersion"]) <= int(old["metadata"]["resourceVersion"]):
                    return
            else:
                self._on_change(old, None)
                old = None
        item.setdefault("kind", self._kind.name)
        item.setdefault("apiVersion", self._kind.api_version)
        self.items[key] = item
        self._on_change(old, item)


def _key(item: Object) -> tuple[str, str]:
    return item["metadata"].get("namespace", ""), item["metadata"]["name"]


async def quietly(work: Any) -> Any:
    """The outcome of a call, None when the server refused it or was away: the caller looks again later."""
    with contextlib.suppress(ApiError, *UNREACHABLE):
        return await work
    return None
