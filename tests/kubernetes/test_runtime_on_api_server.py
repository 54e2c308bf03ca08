"""Client, informer and election against a real API server: what the fake one was made after."""

from __future__ import annotations

import asyncio
import contextlib
import json
import shutil
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from control_plane import ControlPlane

from rayward.kube import client as client_module
from rayward.kube import kubeconfig
from rayward.kube.client import ApiError, KubeClient
from rayward.kube.election import Election, Timing
from rayward.kube.informer import Informer
from rayward.kube.kinds import CONFIGMAPS, CRDS, LEASES, SERVICE_ACCOUNTS, Kind
from rayward.kube.watch_end import Pacing

Raw = dict[str, Any]
QUICK = Pacing(shortest=0.05, longest=1.0, slow=(0.1, 0.3))
WIDGETS = Kind("runtime.rayward.test", "v1", "widgets", "Widget")


async def eventually(condition: Callable[[], object], what: str = "", bound_s: float = 60.0) -> None:
    end = time.monotonic() + bound_s
    while not condition():
        assert time.monotonic() < end, f"not within {bound_s} s: {what}"
        await asyncio.sleep(0.02)


def with_client(
    plane: ControlPlane,
    test: Callable[[KubeClient], Awaitable[None]],
    make: Callable[[], KubeClient] | None = None,
) -> None:
    async def run() -> None:
        client = make() if make is not None else plane.client()
        try:
            await asyncio.wait_for(test(client), 150)
        finally:
            await client.close()

    asyncio.run(run())


@contextlib.asynccontextmanager
async def following(informer: Informer) -> AsyncIterator[list[tuple[str, str, bool]]]:
    """What it tells: new, changed or gone, the name, and whether that was in the first list."""
    told: list[tuple[str, str, bool]] = []

    def heard(old: Raw | None, new: Raw | None, initial: bool) -> None:
        name = (new or old or {})["metadata"]["name"]
        told.append(("gone" if new is None else "new" if old is None else "changed", name, initial))

    informer.on_change(heard)
    task = asyncio.create_task(informer.run())
    try:
        yield told
        assert not task.done()
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def config_map(namespace: str, name: str, **data: str) -> Raw:
    metadata = {"name": name, "namespace": namespace, "labels": {"of": "runtime"}}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": data}


def maps_in(client: KubeClient, namespace: str, **options: Any) -> Informer:
    return Informer(client, CONFIGMAPS, namespaces=(namespace,), labels="of=runtime", pacing=QUICK, **options)


def names(informer: Informer) -> list[str]:
    return sorted(found["metadata"]["name"] for found in informer.all())


def test_every_verb_and_every_refusal(control_plane: ControlPlane, namespace: str) -> None:
    async def run(client: KubeClient) -> None:
        assert await client.server_version() >= (1, 20)
        assert await client.raw_get("/healthz") == b"ok"
        made = await client.create(CONFIGMAPS, config_map(namespace, "a", x="1"))
        uid, version = made["metadata"]["uid"], made["metadata"]["resourceVersion"]
        with pytest.raises(ApiError) as taken:
            await client.create(CONFIGMAPS, config_map(namespace, "a"))
        assert (taken.value.status, taken.value.already_exists) == (409, True)
        changed = await client.patch(CONFIGMAPS, namespace, "a", {"data": {"y": "2"}})
        assert changed["data"] == {"x": "1", "y": "2"}
        with pytest.raises(ApiError) as stale:
            await client.patch(
                CONFIGMAPS, namespace, "a", {"metadata": {"resourceVersion": version}, "data": {"z": "3"}}
            )
        assert stale.value.conflict
        step = [{"op": "test", "path": "/metadata/uid", "value": uid}, {"op": "remove", "path": "/data/y"}]
        assert (await client.patch(CONFIGMAPS, namespace, "a", step, content="json"))["data"] == {"x": "1"}
        wish = config_map(namespace, "a", x="9")
        with pytest.raises(ApiError) as owned:
            await client.patch(CONFIGMAPS, namespace, "a", wish, content="apply", field_manager="other")
        assert (owned.value.status, owned.value.reason) == (409, "Conflict")
        await client.patch(
            CONFIGMAPS, namespace, "a", wish, content="apply", field_manager="other", force=True
        )
        assert (await client.get(CONFIGMAPS, namespace, "a"))["data"] == {"x": "9"}
        with pytest.raises(ApiError) as other:
            await client.delete(CONFIGMAPS, namespace, "a", uid="someone-else")
        assert other.value.conflict
        await client.delete(CONFIGMAPS, namespace, "a", uid=uid)
        with pytest.raises(ApiError) as gone:
            await client.get(CONFIGMAPS, namespace, "a")
        assert gone.value.not_found
        with pytest.raises(ApiError) as invalid:
            await client.create(CONFIGMAPS, config_map(namespace, "Not_A_Name"))
        assert invalid.value.status == 422
        assert "Not_A_Name" in invalid.value.message

    with_client(control_plane, run)


def test_lists_come_in_pages_and_watches_with_large_lines(
    control_plane: ControlPlane, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rayward.kube.informer.PAGE", 4)

    async def run(client: KubeClient) -> None:
        await asyncio.gather(
            *(client.create(CONFIGMAPS, config_map(namespace, f"m{number}")) for number in range(11))
        )
        informer = maps_in(
            client, namespace, indices={"of": lambda found: [found["metadata"]["labels"]["of"]]}
        )
        async with following(informer) as told:
            await asyncio.wait_for(informer.synced.wait(), 60)
            assert sorted(told) == sorted(("new", f"m{number}", True) for number in range(11))
            big = await client.create(CONFIGMAPS, config_map(namespace, "big", x="ü" * 400_000))
            version = big["metadata"]["resourceVersion"]
            await eventually(lambda: informer.has_seen(namespace, version))
            found = informer.get(namespace, "big")
            assert found is not None
            assert len(found["data"]["x"]) == 400_000
            assert found["kind"] == "ConfigMap"
            assert len(informer.select("of", "runtime")) == 12
            assert informer.stays(big["metadata"]["uid"])
            await client.delete(CONFIGMAPS, namespace, "big")
            await eventually(lambda: told[-1] == ("gone", "big", False))
            assert not informer.stays(big["metadata"]["uid"])

    with_client(control_plane, run)


def test_an_api_server_that_restarts_is_followed_on(control_plane: ControlPlane, namespace: str) -> None:
    async def run(client: KubeClient) -> None:
        for name in "abc":
            await client.create(CONFIGMAPS, config_map(namespace, name))
        informer = maps_in(client, namespace)
        async with following(informer) as told:
            await asyncio.wait_for(informer.synced.wait(), 60)
            for _ in range(2):
                await asyncio.to_thread(control_plane.stop_api_server)
                await eventually(lambda: informer.problem is not None, "it says what is wrong")
                with pytest.raises((ConnectionError, TimeoutError)):
                    await client.get(CONFIGMAPS, namespace, "a")
                assert names(informer) == ["a", "b", "c"], "what was known stays"
                await asyncio.to_thread(control_plane.start_api_server)
                await client.delete(CONFIGMAPS, namespace, "a")
                await client.create(CONFIGMAPS, config_map(namespace, "d"))
                await eventually(lambda: names(informer) == ["b", "c", "d"], "it follows on")
                await eventually(lambda: informer.problem is None)
                await client.create(CONFIGMAPS, config_map(namespace, "a"))
                await client.delete(CONFIGMAPS, namespace, "d")
                await eventually(lambda: names(informer) == ["a", "b", "c"])
        for name in "bc":
            assert [each for each in told if each[1] == name] == [("new", name, True)], "never told twice"

    with_client(control_plane, run)


def test_a_frozen_api_server_is_noticed_and_followed_on(
    control_plane: ControlPlane, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client_module, "SILENCE_S", 1.0)
    monkeypatch.setattr(client_module, "READ_S", 1.0)

    async def run(client: KubeClient) -> None:
        await client.create(CONFIGMAPS, config_map(namespace, "a"))
        informer = maps_in(client, namespace)
        async with following(informer):
            await asyncio.wait_for(informer.synced.wait(), 60)
            control_plane.freeze_api_server()
            try:
                await eventually(lambda: informer.problem is not None, "the silence is noticed")
            finally:
                control_plane.thaw_api_server()
            await eventually(lambda: informer.problem is None)
            await client.create(CONFIGMAPS, config_map(namespace, "b"))
            await eventually(lambda: names(informer) == ["a", "b"])

    with_client(control_plane, run)


def test_a_version_that_the_server_has_forgotten_is_410(control_plane: ControlPlane, namespace: str) -> None:
    async def run(client: KubeClient) -> None:
        with pytest.raises(ApiError) as gone:
            async with contextlib.aclosing(
                client.watch(CONFIGMAPS, namespace, resource_version="1")
            ) as events:
                await anext(events)
        assert gone.value.status == 410

    with_client(control_plane, run)


def widget_definition() -> Raw:
    schema = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    version = {"name": "v1", "served": True, "storage": True, "schema": {"openAPIV3Schema": schema}}
    return {
        "apiVersion": CRDS.api_version,
        "kind": CRDS.name,
        "metadata": {"name": f"{WIDGETS.plural}.{WIDGETS.group}"},
        "spec": {
            "group": WIDGETS.group,
            "scope": "Namespaced",
            "names": {"plural": WIDGETS.plural, "singular": "widget", "kind": WIDGETS.name},
            "versions": [version],
        },
    }


def test_a_definition_that_comes_and_goes(control_plane: ControlPlane, namespace: str) -> None:
    name = widget_definition()["metadata"]["name"]

    async def make(client: KubeClient) -> None:
        body = {"apiVersion": WIDGETS.api_version, "kind": WIDGETS.name, "spec": {}}
        await client.create(WIDGETS, {**body, "metadata": {"name": "w", "namespace": namespace}})

    async def run(client: KubeClient) -> None:
        informer = Informer(client, WIDGETS, pacing=QUICK)
        try:
            async with following(informer) as told:
                for _ in range(2):
                    await eventually(lambda: "does not know widgets" in str(informer.problem))
                    await client.create(CRDS, widget_definition())
                    await eventually(lambda: informer.problem is None, "it finds the new definition")
                    await make(client)
                    await eventually(lambda: names(informer) == ["w"])
                    await client.delete(CRDS, None, name)
                await eventually(lambda: "does not know widgets" in str(informer.problem))
                assert ("gone", "w", False) in told
        finally:
            with contextlib.suppress(ApiError):
                await client.delete(CRDS, None, name)

    with_client(control_plane, run)


def test_without_permission_it_waits_for_it(control_plane: ControlPlane, namespace: str) -> None:
    async def run(admin: KubeClient) -> None:
        account = {"metadata": {"name": "runtime", "namespace": namespace}}
        await admin.create(SERVICE_ACCOUNTS, {"apiVersion": "v1", "kind": "ServiceAccount", **account})
        await admin.create(CONFIGMAPS, config_map(namespace, "a"))
        client = control_plane.client_as(namespace, "runtime")
        try:
            informer = maps_in(client, namespace)
            async with following(informer):
                await eventually(lambda: informer.problem is not None)
                expected = f"no permission to list or watch configmaps in the namespace {namespace}: "
                assert str(informer.problem).startswith(expected)
                assert f"system:serviceaccount:{namespace}:runtime" in str(informer.problem)
                assert not informer.synced.is_set()
                grant = (
                    "rolebinding",
                    "runtime",
                    "--clusterrole=view",
                    f"--serviceaccount={namespace}:runtime",
                )
                await asyncio.to_thread(control_plane.kubectl, "create", "-n", namespace, *grant)
                await asyncio.wait_for(informer.synced.wait(), 60)
                assert (names(informer), informer.problem) == (["a"], None)
        finally:
            await client.close()

    with_client(control_plane, run)


def test_the_token_of_a_pod_is_read_again_when_it_has_changed(
    control_plane: ControlPlane, namespace: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copy(control_plane.folder / "ca.crt", tmp_path / "ca.crt")
    (tmp_path / "namespace").write_text(namespace)
    (tmp_path / "token").write_text("expired")
    config = json.loads(control_plane.kubeconfig.read_text())
    host, port = config["clusters"][0]["cluster"]["server"].removeprefix("https://").split(":")
    monkeypatch.setattr(kubeconfig, "ACCOUNT", tmp_path)
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", host)
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", port)
    monkeypatch.delenv("KUBECONFIG", raising=False)

    async def run(client: KubeClient) -> None:
        assert client.namespace == namespace
        with pytest.raises(ApiError) as refused:
            await client.list(CONFIGMAPS, namespace)
        assert refused.value.status == 401
        informer = maps_in(client, namespace)
        async with following(informer):
            await eventually(lambda: "does not accept our credentials" in str(informer.problem))
            (tmp_path / "token").write_text(config["users"][0]["user"]["token"])
            await asyncio.wait_for(informer.synced.wait(), 60)

    with_client(control_plane, run, KubeClient.connect)


class Member:
    """One candidate for the lease, with a client of its own."""

    def __init__(self, plane: ControlPlane, namespace: str, name: str, timing: Timing) -> None:
        self.client = plane.client()
        self.election = Election(self.client, namespace, "operators", name, timing)
        self.told: list[str] = []
        self.task = asyncio.create_task(
            self.election.hold(lambda: self.told.append("leads"), lambda: self.told.append("lost"))
        )

    async def end(self) -> None:
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)
        await self.client.close()


def test_one_of_two_leads_and_a_lease_let_go_passes_at_once(
    control_plane: ControlPlane, namespace: str
) -> None:
    # Nothing but the release can bring the second one to lead within the time of this test.
    timing = Timing(duration=3000, renew_deadline=2000, retry=1000)

    async def run(client: KubeClient) -> None:
        first = Member(control_plane, namespace, "first", timing)
        await eventually(lambda: first.told == ["leads"])
        second = Member(control_plane, namespace, "second", timing)
        try:
            await eventually(lambda: second.election.holder == "first")
            spec = (await client.get(LEASES, namespace, "operators"))["spec"]
            assert (spec["holderIdentity"], spec["leaseDurationSeconds"]) == ("first", 3000)
            await first.end()
            await eventually(lambda: second.told == ["leads"])
            spec = (await client.get(LEASES, namespace, "operators"))["spec"]
            assert (spec["holderIdentity"], spec["leaseTransitions"]) == ("second", 1)
        finally:
            await second.end()

    with_client(control_plane, run)


def test_a_silent_holder_is_replaced_and_a_holder_without_api_server_stops(
    control_plane: ControlPlane, namespace: str
) -> None:
    timing = Timing(duration=3, renew_deadline=2, retry=0.2)

    async def run(client: KubeClient) -> None:
        metadata = {"name": "operators", "namespace": namespace}
        spec = {
            "holderIdentity": "ghost",
            "leaseDurationSeconds": 3,
            "renewTime": "2199-01-01T00:00:00.000000Z",
        }
        body = {"apiVersion": LEASES.api_version, "kind": LEASES.name, "metadata": metadata, "spec": spec}
        started = time.monotonic()
        await client.create(LEASES, body)
        member = Member(control_plane, namespace, "member", timing)
        try:
            await eventually(lambda: member.told == ["leads"], "it follows the silent holder")
            assert time.monotonic() - started >= 3
            await asyncio.to_thread(control_plane.stop_api_server)
            try:
                await eventually(lambda: member.told == ["leads", "lost"], "it stops without an API server")
                assert not member.election.leads
            finally:
                await asyncio.to_thread(control_plane.start_api_server)
        finally:
            await member.end()

    with_client(control_plane, run)
