"""The client against a server that misbehaves, over real sockets: pages, errors, lines, limits."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from fake_api_server import FakeApiServer, Fault, serving
from lightkube.config.kubeconfig import KubeConfig

from rayward.errors import RaywardError
from rayward.kube import client as module
from rayward.kube.client import ApiError, KubeClient, WatchEvent
from rayward.kube.kinds import LEASES, PODS

Test = Callable[[FakeApiServer, KubeClient], Awaitable[Any]]


def with_server(test: Test, **options: Any) -> Any:
    async def run() -> Any:
        async with serving() as server:
            config = KubeConfig.from_server(server.url).get()
            assert config is not None
            client = KubeClient(config, **options)
            try:
                return await asyncio.wait_for(test(server, client), 30)
            finally:
                await client.close()

    return asyncio.run(run())


async def watched(events: AsyncIterator[WatchEvent], names: list[str]) -> None:
    async for event in events:
        names.append(event.object["metadata"]["name"])


def test_a_list_comes_in_pages_that_hold_everything_once() -> None:
    async def run(server: FakeApiServer, client: KubeClient) -> None:
        for number in range(7):
            server.put("pods", f"p{number}", "a" if number < 4 else "b")
        names, mark = [], ""
        while True:
            page = await client.list(PODS, limit=3, continue_=mark, labels="x=y")
            names += [item["metadata"]["name"] for item in page.items]
            mark = page.continue_
            if not mark:
                break
        assert names == [f"p{number}" for number in range(7)]
        assert page.resource_version == str(server.version)
        assert [call.params["labelSelector"] for call in server.calls] == ["x=y"] * 3
        assert len((await client.list(PODS, "b")).items) == 3

    with_server(run)


def test_writes_say_who_writes_and_what_kind_of_patch_it_is() -> None:
    async def run(server: FakeApiServer, client: KubeClient) -> None:
        made = await client.create(PODS, {"metadata": {"name": "p", "namespace": "n"}, "spec": {"a": 1}})
        assert made["metadata"]["uid"]
        await client.patch(PODS, "n", "p", {"spec": {}}, subresource="status")
        await client.patch(PODS, "n", "p", {"spec": {}}, content="apply", force=True, field_manager="me")
        await client.delete(PODS, "n", "p", uid=made["metadata"]["uid"], grace_s=0)
        create, merge, apply, delete = server.calls
        assert (create.path, create.params) == ("/api/v1/namespaces/n/pods", {"fieldManager": "rayward"})
        assert merge.path == "/api/v1/namespaces/n/pods/p/status"
        assert merge.headers["content-type"] == "application/merge-patch+json"
        assert apply.params == {"fieldManager": "me", "force": "true"}
        assert apply.headers["content-type"] == "application/apply-patch+yaml"
        assert delete.body["preconditions"] == {"uid": made["metadata"]["uid"]}
        assert (delete.body["gracePeriodSeconds"], delete.body["propagationPolicy"]) == (0, "Background")

    with_server(run)


def test_a_refusal_says_code_reason_and_sentence() -> None:
    async def run(server: FakeApiServer, client: KubeClient) -> None:
        with pytest.raises(ApiError) as missing:
            await client.get(PODS, "n", "p")
        assert (missing.value.status, missing.value.reason, missing.value.not_found) == (
            404,
            "NotFound",
            True,
        )
        server.put("pods", "p", "n")
        with pytest.raises(ApiError) as taken:
            await client.create(PODS, {"metadata": {"name": "p", "namespace": "n"}})
        assert taken.value.already_exists
        assert not taken.value.conflict
        with pytest.raises(ApiError) as stale:
            await client.patch(PODS, "n", "p", {"metadata": {"resourceVersion": "1"}})
        assert stale.value.conflict
        assert "modified" in str(stale.value)

    with_server(run)


def test_a_name_with_a_slash_stays_one_name() -> None:
    async def run(server: FakeApiServer, client: KubeClient) -> None:
        server.put("pods", "p", "n")
        with pytest.raises(ApiError):
            await client.get(PODS, "n", "../../secrets/s?x=ü")
        assert server.calls[0].path == "/api/v1/namespaces/n/pods/..%2F..%2Fsecrets%2Fs%3Fx%3D%C3%BC"

    with_server(run)


def test_a_busy_server_is_asked_again_and_no_more_than_a_few_times() -> None:
    async def run(server: FakeApiServer, client: KubeClient) -> None:
        server.put("pods", "p", "n")
        server.faults.append(Fault("get", "status", 429, times=2))
        assert (await client.get(PODS, "n", "p"))["metadata"]["name"] == "p"
        assert server.count("get") == 3
        server.faults.append(Fault("get", "status", 429, times=99, headers="Retry-After: 1\r\n"))
        with pytest.raises(ApiError) as busy:
            await client.get(PODS, "n", "p")
        assert (busy.value.status, busy.value.retry_after) == (429, 1.0)
        assert server.count("get") == 3 + module.BUSY_TRIES

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "BUSY_WAIT_S", 0.01)
        with_server(run)


def test_who_may_not_write_reads_and_elects_only() -> None:
    async def run(server: FakeApiServer, client: KubeClient) -> None:
        server.put("pods", "p", "n")
        client.may_write = lambda: False
        body = {"metadata": {"name": "q", "namespace": "n"}}
        for write in (
            lambda: client.create(PODS, body),
            lambda: client.patch(PODS, "n", "p", {}),
            lambda: client.delete(PODS, "n", "p"),
        ):
            with pytest.raises(ConnectionError, match="does not lead"):
                await write()
        assert server.calls == []
        await client.get(PODS, "n", "p")
        await client.create(LEASES, body)
        client.may_write = lambda: True
        await client.create(PODS, body)

    with_server(run)


def test_no_connection_a_broken_one_and_nonsense_are_connection_errors() -> None:
    async def run(server: FakeApiServer, client: KubeClient) -> None:
        server.faults += [Fault("get", "reset"), Fault("get", "nonsense")]
        for words in (f"{server.url}: .", "not what was asked for"):
            with pytest.raises(ConnectionError, match=words):
                await client.get(PODS, "n", "p")
        await server.stop()
        with pytest.raises(ConnectionError, match=server.url):
            await client.get(PODS, "n", "p")

    with_server(run)


def test_silence_is_a_timeout_for_requests_and_watches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "READ_S", 0.2)
    monkeypatch.setattr(module, "SILENCE_S", 0.2)

    async def run(server: FakeApiServer, client: KubeClient) -> None:
        server.faults += [Fault("get", "hang"), Fault("watch", "hang")]
        with pytest.raises(TimeoutError):
            await client.get(PODS, "n", "p")
        with pytest.raises(TimeoutError):
            await anext(aiter(client.watch(PODS, resource_version="1")))

    with_server(run)


def test_a_watch_brings_events_in_order_however_long_a_line_is() -> None:
    async def run(server: FakeApiServer, client: KubeClient) -> None:
        start, opened = str(server.version), []
        watch = client.watch(PODS, "n", resource_version=start, opened=lambda: opened.append(1))
        async with contextlib.aclosing(watch) as events:
            server.put("pods", "big", "n", data="ü" * 700_000)
            server.put("pods", "elsewhere", "m")
            server.put("pods", "small", "n")
            server.remove("pods", "big", "n")
            server.bookmark("pods")
            seen = [await anext(events) for _ in range(4)]
        assert [event.type for event in seen] == ["ADDED", "ADDED", "DELETED", "BOOKMARK"]
        assert len(seen[0].object["data"]) == 700_000
        assert seen[3].object["metadata"]["resourceVersion"] == str(server.version)
        assert opened == [1]
        assert server.calls[0].params["allowWatchBookmarks"] == "true"

    with_server(run)


@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        (Fault("watch", "gone", after=1), "410 Expired: too old resource version"),
        (Fault("watch", "status", 410, after=1), "410 Expired: told to"),
        (Fault("watch", "reset", after=1), "127.0.0.1"),
        (Fault("watch", "cut", after=1), "in the middle of an event"),
    ],
    ids=lambda value: f"{value.what}-{value.code}" if isinstance(value, Fault) else "",
)
def test_a_watch_that_ends_badly_says_how(fault: Fault, expected: str) -> None:
    async def run(server: FakeApiServer, client: KubeClient) -> None:
        start = str(server.version)
        server.put("pods", "p", "n")
        server.faults.append(fault)
        seen: list[str] = []
        with pytest.raises((ApiError, ConnectionError), match=expected) as found:
            await watched(client.watch(PODS, resource_version=start), seen)
        assert seen == ["p"] * fault.after * (fault.what != "status")
        assert isinstance(found.value, ApiError) == ("410" in expected)

    with_server(run)


def test_the_hook_hears_of_every_request() -> None:
    heard: list[tuple[str, str, int]] = []

    async def run(server: FakeApiServer, client: KubeClient) -> None:
        with contextlib.suppress(ApiError):
            await client.get(PODS, "n", "p")
        server.faults.append(Fault("watch", "eof"))
        async for _ in client.watch(PODS, resource_version="1"):
            pass
        await server.stop()
        with contextlib.suppress(ConnectionError):
            await client.list(PODS)

    with_server(run, observe=lambda verb, kind, code, seconds: heard.append((verb, kind, code)))
    assert heard == [("get", "pods", 404), ("watch", "pods", 200), ("list", "pods", 0)]


def test_the_kernel_watches_over_connections_that_say_nothing() -> None:
    async def run(server: FakeApiServer, client: KubeClient) -> None:
        async with client._http.stream("GET", "/api/v1/pods") as response:
            found = response.extensions["network_stream"].get_extra_info("socket")
            assert found.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
            assert found.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 20_000
            assert found.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == 10

    with_server(run)


def test_requests_keep_to_the_rate_and_to_the_number_at_once() -> None:
    async def run(server: FakeApiServer, client: KubeClient) -> None:
        server.put("pods", "p", "n")
        started = time.monotonic()
        await asyncio.gather(*(client.get(PODS, "n", "p") for _ in range(12)))
        # Two at once from the burst, then one each 20 ms: a lower bound only.
        assert time.monotonic() - started >= 0.19
        assert server.most_at_once <= 3

    with_server(run, qps=50.0, burst=2, at_once=3)


def kubeconfig_with(folder: Path, url: str, user: dict[str, Any]) -> Path:
    file = folder / "config"
    file.write_text(
        json.dumps(
            {
                "clusters": [{"name": "c", "cluster": {"server": url}}],
                "users": [{"name": "u", "user": user}],
                "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u", "namespace": "mine"}}],
                "current-context": "x",
            }
        )
    )
    return file


@pytest.mark.parametrize("version", ["v1", "v1beta1"])
def test_a_credential_program_is_asked_for_the_token(version: str, tmp_path: Path) -> None:
    async def run(server: FakeApiServer, _: KubeClient) -> None:
        program = tmp_path / "login"
        program.write_text(
            '#!/bin/sh\ntest -e "$0.ok" || exit 3\necho \'{"status": {"token": "of-a-program"}}\'\n'
        )
        program.chmod(0o755)
        user = {"exec": {"apiVersion": f"client.authentication.k8s.io/{version}", "command": str(program)}}
        client = KubeClient.connect(kubeconfig_with(tmp_path, server.url, user))
        assert client.namespace == "mine"
        with pytest.raises(ConnectionError, match=f"credentials for {server.url}: .*returned 3"):
            await client.list(PODS)
        (tmp_path / "login.ok").touch()
        await client.list(PODS)
        await client.close()
        assert server.calls[-1].headers["authorization"] == "Bearer of-a-program"

    with_server(run)


def test_without_any_configuration_it_says_where_it_looked(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))
    with pytest.raises(RaywardError, match="no such file") as missing:
        KubeClient.connect()
    assert "--kubeconfig" in str(missing.value)
    wrong = tmp_path / "config"
    wrong.write_text("clusters: [{name: c, cluster: {server: 7}}]\ncurrent-context: x\n")
    with pytest.raises(RaywardError, match=r"server|clusters"):
        KubeClient.connect(wrong)
