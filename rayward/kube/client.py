"""Speaks to the API server: requests, pages of lists and one watch at a time, as plain JSON objects.

The one module that knows lightkube. Connection, certificates and credentials are lightkube's; requests and
the watch are made here, because an operator needs bookmarks, bounded reads and errors it can tell apart.
"""

from __future__ import annotations

import asyncio
import os
import re
import socket
import time
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping
from contextlib import aclosing, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote
from urllib.request import getproxies

import httpx2
import msgspec
from lightkube.config.client_adapter import ConnectionParams
from lightkube.config.kubeconfig import KubeConfig, SingleConfig
from lightkube.config.models import User
from lightkube.core.exceptions import ConfigError

from rayward.errors import RaywardError
from rayward.kube import kubeconfig as files
from rayward.kube.api_error import ApiError, from_response
from rayward.kube.kinds import LEASES, Kind
from rayward.kube.rate import LEASE, Pace
from rayward.kube.wire import ListPage, WatchEvent, WatchLines, page_of, read

__all__ = ["ApiError", "KubeClient", "ListPage", "WatchEvent"]

Object = dict[str, Any]
Observe = Callable[[str, str, int, float], None]

FIELD_MANAGER = "rayward"
QPS, BURST, AT_ONCE = 100.0, 200, 64
# A list may take the server long; so may a write with webhooks, for which 30 s is Kubernetes' own bound.
CONNECT_S, READ_S, WRITE_S = 5.0, 35.0, 30.0
# A bookmark comes about every 60 s if there is anything to say at all: longer silence may be a dead path.
SILENCE_S = 70.0
# A dead peer is noticed by the kernel: what is sent and not acknowledged for this long breaks the connection.
_UNANSWERED_S = 20
_SOCKET = [
    (level, getattr(socket, name), value)
    for level, name, value in (
        (socket.SOL_SOCKET, "SO_KEEPALIVE", 1),
        (socket.IPPROTO_TCP, "TCP_KEEPIDLE", _UNANSWERED_S // 2),
        (socket.IPPROTO_TCP, "TCP_KEEPINTVL", _UNANSWERED_S // 4),
        (socket.IPPROTO_TCP, "TCP_USER_TIMEOUT", _UNANSWERED_S * 1000),
    )
    if hasattr(socket, name)
]
# The server closes idle connections after 90 s; a shorter time here avoids racing with that.
_IDLE_S = 60.0
BUSY_TRIES = 4
BUSY_WAIT_S = 5.0
_CONTENT = {
    "merge": "application/merge-patch+json",
    "json": "application/json-patch+json",
    "apply": "application/apply-patch+yaml",
}
# Without what is in the objects: the API server leaves it out.
_METADATA_ONLY = {
    name: {"Accept": f"application/json;as={name};g=meta.k8s.io;v=v1"}
    for name in ("PartialObjectMetadataList", "PartialObjectMetadata")
}
_HEADERS = {"Accept": "application/json", "Accept-Encoding": "identity", "User-Agent": "rayward"}


class KubeClient:
    """A connection to one API server, for one event loop.

    Every method raises ``ApiError`` when the server refuses, ``TimeoutError`` when it is silent and
    ``ConnectionError`` when it cannot be reached. ``observe(verb, plural, code, seconds)`` is called after
    each request (code 0: no answer). ``namespace`` is the one that the credentials belong to.

    ``may_write``, if set, is asked before each write but those of Leases: a replica that was frozen and does
    not lead any more must not carry on with what it was about to do. No is a ConnectionError.
    """

    def __init__(
        self,
        config: SingleConfig,
        *,
        qps: float = QPS,
        burst: int = BURST,
        at_once: int = AT_ONCE,
        observe: Observe | None = None,
    ) -> None:
        self.observe = observe
        self.may_write: Callable[[], bool] | None = None
        self.namespace = config.namespace
        self.server = config.cluster.server
        self._pace = Pace(qps, burst, at_once)
        timeout = httpx2.Timeout(READ_S, connect=CONNECT_S, write=WRITE_S, pool=None)
        try:
            params = ConnectionParams(timeout=timeout).httpx_params(_with_user(config))
        except (ConfigError, OSError, ValueError) as problem:  # ssl.SSLError is an OSError
            raise _config_error(str(problem), config.fname) from problem
        # No bound on connections here: every watch has one of its own, requests are bounded by the pace.
        limits = httpx2.Limits(
            max_connections=None, max_keepalive_connections=at_once, keepalive_expiry=_IDLE_S
        )
        if not getproxies():  # httpx2 leaves proxies of the environment out when it is given a transport
            params["transport"] = httpx2.AsyncHTTPTransport(
                verify=params["verify"], limits=limits, socket_options=_SOCKET
            )
        self._http = httpx2.AsyncClient(**params, limits=limits, headers=_HEADERS)

    @classmethod
    def connect(
        cls,
        kubeconfig: str | os.PathLike[str] | None = None,
        context: str | None = None,
        *,
        qps: float = QPS,
        burst: int = BURST,
        at_once: int = AT_ONCE,
        observe: Observe | None = None,
    ) -> KubeClient:
        """A client by the first of: the file given, `$KUBECONFIG`, the Pod's account, `~/.kube/config`.

        Connects at the first request. Raises RaywardError when none of them is there or one is wrong.
        """
        return cls(_read_config(kubeconfig, context), qps=qps, burst=burst, at_once=at_once, observe=observe)

    async def list(
        self,
        kind: Kind,
        namespace: str | None = None,
        *,
        labels: str = "",
        fields: str = "",
        limit: int = 500,
        continue_: str = "",
        resource_version: str = "",
        metadata_only: bool = False,
    ) -> ListPage:
        """One page of a namespace's objects, or of all (no namespace); ``limit`` 0: all in one answer.
        ``metadata_only``: nothing but their metadata."""
        params = _params(
            labelSelector=labels,
            fieldSelector=fields,
            limit=str(limit) if limit else "",
            resourceVersion=resource_version,
            **{"continue": continue_},
        )
        accept = _METADATA_ONLY["PartialObjectMetadataList"] if metadata_only else {}
        content = await self._send("list", "GET", kind, _path(kind, namespace), params, headers=accept)
        return page_of(content)

    async def get(self, kind: Kind, namespace: str | None, name: str) -> Object:
        """One object."""
        return read(await self._send("get", "GET", kind, _path(kind, namespace, name)))

    async def create(self, kind: Kind, body: Mapping[str, Any]) -> Object:
        """Creates ``body`` in the namespace it names; the object as it is now."""
        path = _path(kind, (body.get("metadata") or {}).get("namespace"))
        params = {"fieldManager": FIELD_MANAGER}
        return read(await self._send("create", "POST", kind, path, params, body))

    async def patch(
        self,
        kind: Kind,
        namespace: str | None,
        name: str,
        body: object,
        *,
        subresource: str = "",
        content: str = "merge",
        field_manager: str = FIELD_MANAGER,
        force: bool = False,
    ) -> Object:
        """Changes one object; ``content`` is `merge`, `json` or `apply`. The object as it is now.

        A `metadata.resourceVersion` in a merge makes it conditional (409 when somebody was faster).
        """
        params = _params(fieldManager=field_manager, force="true" if force else "")
        path = _path(kind, namespace, name, subresource)
        return read(await self._send("patch", "PATCH", kind, path, params, body, _CONTENT[content]))

    async def delete(
        self,
        kind: Kind,
        namespace: str | None,
        name: str,
        *,
        uid: str | None = None,
        resource_version: str | None = None,
        grace_s: int | None = None,
        propagation: str = "Background",
    ) -> None:
        """Deletes one object, if ``uid`` and ``resource_version`` still fit (409 otherwise)."""
        options: Object = {"kind": "DeleteOptions", "apiVersion": "v1", "propagationPolicy": propagation}
        preconditions = _params(uid=uid or "", resourceVersion=resource_version or "")
        if preconditions:
            options["preconditions"] = preconditions
        if grace_s is not None:
            options["gracePeriodSeconds"] = grace_s
        await self._send("delete", "DELETE", kind, _path(kind, namespace, name), None, options)

    async def raw_get(self, path: str, params: Mapping[str, str] | None = None) -> bytes:
        """The body of a GET of any path, such as `/healthz`."""
        return await self._send("get", "GET", None, path, dict(params or {}))

    async def server_version(self) -> tuple[int, int]:
        """Major and minor version of the API server; 0 for a number it does not say."""
        said = read(await self.raw_get("/version"))
        return _number(said.get("major")), _number(said.get("minor"))

    async def watch(
        self,
        kind: Kind,
        namespace: str | None = None,
        *,
        resource_version: str,
        labels: str = "",
        fields: str = "",
        timeout_s: int = 300,
        metadata_only: bool = False,
        opened: Callable[[], None] | None = None,
    ) -> AsyncGenerator[WatchEvent, None]:
        """What happens after ``resource_version``, and bookmarks, until the server ends it (``timeout_s``).

        ``opened`` is called when the server has agreed. Raises ApiError for a refusal, at the start or in the
        stream (410: list again), TimeoutError after ``SILENCE_S`` without a byte. Close it
        (``contextlib.aclosing``) when leaving early.
        """
        params = _params(
            labelSelector=labels,
            fieldSelector=fields,
            resourceVersion=resource_version,
            watch="true",
            allowWatchBookmarks="true",
            timeoutSeconds=str(timeout_s),
        )
        timeout = httpx2.Timeout(SILENCE_S, connect=CONNECT_S, write=WRITE_S, pool=None)
        accept = _METADATA_ONLY["PartialObjectMetadata"] if metadata_only else None
        started, code = time.monotonic(), 0
        try:
            with _plain_errors(self.server):
                async with self._http.stream(
                    "GET", _path(kind, namespace), params=params, headers=accept, timeout=timeout
                ) as response:
                    code = response.status_code
                    if code != 200:
                        raise _refusal(response, await response.aread())
                    if opened is not None:
                        opened()
                    lines = WatchLines()
                    async with aclosing(response.aiter_raw()) as chunks:
                        async for chunk in chunks:
                            for event in lines.events(chunk):
                                yield event
                    lines.end()
        finally:
            self._observed("watch", kind, code, started)

    async def close(self) -> None:
        """Closes every connection."""
        await self._http.aclose()

    async def _send(
        self,
        verb: str,
        method: str,
        kind: Kind | None,
        path: str,
        params: Mapping[str, str] | None = None,
        body: object = None,
        content_type: str = "application/json",
        headers: Mapping[str, str] | None = None,
    ) -> bytes:
        """One request. A server that is too busy (429) did not act on it: it is asked again after a pause."""
        content = None if body is None else msgspec.json.encode(body)
        sent = {**(headers or {}), **({"Content-Type": content_type} if content is not None else {})}
        for trial in range(1, BUSY_TRIES + 1):
            async with self._pace.turn(LEASE if kind == LEASES else None):
                if method != "GET" and kind != LEASES and self.may_write is not None and not self.may_write():
                    raise ConnectionError("this replica does not lead: nothing is written")
                started, code = time.monotonic(), 0
                try:
                    with _plain_errors(self.server):
                        response = await self._http.request(
                            method, path, params=params, content=content, headers=sent
                        )
                    code = response.status_code
                finally:
                    self._observed(verb, kind, code, started)
            if code < 300:
                return response.content
            error = _refusal(response, response.content)
            if code != 429 or trial == BUSY_TRIES:
                raise error
            await asyncio.sleep(min(error.retry_after or 1.0, BUSY_WAIT_S))
        raise AssertionError("unreachable")

    def _observed(self, verb: str, kind: Kind | None, code: int, started: float) -> None:
        if self.observe is not None:
            self.observe(verb, kind.plural if kind else "", code, time.monotonic() - started)


@contextmanager
def _plain_errors(server: str) -> Iterator[None]:
    """Turns the errors of httpx2 and lightkube into the three that callers know."""
    try:
        yield
    except httpx2.TimeoutException as problem:
        raise TimeoutError(f"{server}: no answer in time ({type(problem).__name__})") from problem
    except (httpx2.TransportError, httpx2.DecodingError, httpx2.StreamError) as problem:
        raise ConnectionError(f"{server}: {str(problem) or type(problem).__name__}") from problem
    except (
        ConfigError,
        PermissionError,
        FileNotFoundError,
    ) as problem:  # a token file or a credential program
        raise ConnectionError(f"credentials for {server}: {problem}") from problem


def _refusal(response: httpx2.Response, content: bytes) -> ApiError:
    return from_response(response.status_code, content, response.headers.get("Retry-After", ""))


def _params(**values: str) -> dict[str, str]:
    return {key: value for key, value in values.items() if value}


def _path(kind: Kind, namespace: str | None = None, name: str = "", subresource: str = "") -> str:
    # Names come from manifests and command lines: a slash in one must not become another path.
    return kind.path(quote(namespace, safe="") if namespace else None, quote(name, safe=""), subresource)


def _number(text: object) -> int:
    digits = re.match(r"\d+", str(text or ""))
    return int(digits.group()) if digits else 0


def _read_config(kubeconfig: str | os.PathLike[str] | None, context: str | None) -> SingleConfig:
    given = str(kubeconfig) if kubeconfig else os.environ.get("KUBECONFIG", "")
    where = given or str(files.DEFAULT)
    try:
        if not given and not context and files.in_a_pod():
            return _single(KubeConfig.from_service_account(files.ACCOUNT), None)
        paths = [Path(part).expanduser() for part in where.split(os.pathsep) if part]
        return _single(KubeConfig.from_dict(files.read(paths), fname=paths[0]), context)
    except (ConfigError, KeyError, TypeError, OSError, msgspec.ValidationError) as problem:
        raise _config_error(str(problem), where) from problem


def _single(config: KubeConfig, context: str | None) -> SingleConfig:
    chosen = config.get(context)
    if chosen is None:
        raise ConfigError("no context is chosen")
    return chosen


def _with_user(config: SingleConfig) -> SingleConfig:
    user = config.user or User()
    if user.exec and user.exec.apiVersion == "client.authentication.k8s.io/v1":
        # What lightkube reads of a credential program's answer is the same in v1 as in v1beta1.
        known = msgspec.structs.replace(user.exec, apiVersion="client.authentication.k8s.io/v1beta1")
        user = msgspec.structs.replace(user, exec=known)
    return config._replace(user=user)


def _config_error(problem: str, where: object) -> RaywardError:
    return RaywardError(
        f"no usable way to the API server: {problem}",
        where=str(where or "kubeconfig"),
        todo="--kubeconfig FILE, $KUBECONFIG, or run in a Pod with a service account",
    )
