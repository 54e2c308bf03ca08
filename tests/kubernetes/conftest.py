"""One control plane for all tests of Kubernetes, and a namespace for each."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Generator, Iterator
from pathlib import Path

import clusters
import control_plane as planes
import pytest
from binaries import Binaries, Unavailable, obtain
from clusters import Stage
from control_plane import ControlPlane, until
from kubelet_fixture import NodeProcess, real_node
from operator_process import OperatorProcess, operator_process

REQUIRE_VARIABLE = "RAYWARD_REQUIRE_KUBERNETES"
CRDS = Path(__file__).parents[2] / "deploy" / "crds"
_FOUND = pytest.StashKey["Binaries | Unavailable"]()
_PLANE = pytest.StashKey[ControlPlane]()


def pytest_collection_finish(session: pytest.Session) -> None:
    """Makes the programs before the first test if one needs them: a test's own time is too short for that."""
    wanted = any("binaries" in getattr(item, "fixturenames", ()) for item in session.items)
    if wanted and not session.config.option.collectonly:
        _find(session.config)


def _find(config: pytest.Config) -> Binaries | Unavailable:
    if _FOUND not in config.stash:
        reporter = config.pluginmanager.get_plugin("terminalreporter")

        def say(line: str) -> None:
            if reporter is not None:
                reporter.ensure_newline()
                reporter.write_line(line)
                reporter.flush()

        try:
            config.stash[_FOUND] = obtain(say)
        except Unavailable as problem:
            config.stash[_FOUND] = problem
    return config.stash[_FOUND]


def _do_without(reason: str) -> None:
    if os.environ.get(REQUIRE_VARIABLE):
        pytest.fail(f"{REQUIRE_VARIABLE} is set, but there is no Kubernetes: {reason}", pytrace=False)
    pytest.skip(f"no Kubernetes: {reason}")


@pytest.fixture(scope="session")
def binaries(request: pytest.FixtureRequest) -> Binaries:
    """The programs of a control plane; a test that needs them is skipped where they cannot be had."""
    found = _find(request.config)
    if isinstance(found, Unavailable):
        _do_without(str(found))
    assert isinstance(found, Binaries)
    return found


@pytest.fixture(scope="session")
def control_plane(request: pytest.FixtureRequest, binaries: Binaries) -> Iterator[ControlPlane]:
    """A control plane that all tests share: API server and etcd, and the controllers if they can be had."""
    with planes.running(binaries) as plane:
        request.config.stash[_PLANE] = plane
        yield plane


@pytest.fixture(scope="session")
def controllers(control_plane: ControlPlane) -> ControlPlane:
    """The same, with controller manager and scheduler: Jobs make Pods, owners take along what they own."""
    if not control_plane.controllers:
        _do_without("KUBEBUILDER_ASSETS has no kube-controller-manager and kube-scheduler, which this needs")
    return control_plane


@pytest.fixture(scope="session")
def crds(control_plane: ControlPlane) -> ControlPlane:
    """The control plane with rayward's own kinds, ready to be used."""
    files = sorted(CRDS.glob("*.yaml"))
    assert files, f"{CRDS} holds no YAML"
    # Client-side apply would copy all of it into an annotation, which has less room.
    # An old kubectl does not know rules (CEL); the server drops what it does not know.
    control_plane.kubectl("create", "--validate=false", *(f"--filename={file}" for file in files))

    def served() -> bool:
        _, page = control_plane.request("GET", "/apis/apiextensions.k8s.io/v1/customresourcedefinitions")
        paths = [
            f"/apis/{crd['spec']['group']}/{version['name']}/{crd['spec']['names']['plural']}"
            for crd in page["items"]
            for version in crd["spec"]["versions"]
            if version["served"]
        ]
        return all(control_plane.request("GET", f"{path}?limit=1")[0] == 200 for path in paths)

    until("the API server serves rayward's kinds", served)
    return control_plane


@pytest.fixture
def namespace(control_plane: ControlPlane) -> Iterator[str]:
    """A fresh namespace in which Pods can be made; deleted afterwards, without waiting for its end."""
    name = f"test-{secrets.token_hex(4)}"
    body = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}
    status, answer = control_plane.request("POST", "/api/v1/namespaces", body)
    assert status == 201, answer
    if control_plane.controllers:
        # A long bound: the controllers come back slowly after a test that took the API server away.
        until(f"namespace {name} has its account", lambda: control_plane.account_exists(name), 90)
    yield name
    # An API server that a test left without etcd takes the connection and says nothing.
    with contextlib.suppress(OSError):
        control_plane.request("DELETE", f"/api/v1/namespaces/{name}", bound_s=5.0)


@pytest.fixture(scope="module")
def hollow_node(controllers: ControlPlane) -> Iterator[NodeProcess]:
    """Nodes for the Pods of ``clusters.template``: ready at once, nothing is started."""
    with clusters.hollow(controllers) as found:
        yield found


@pytest.fixture(scope="module")
def operator(crds: ControlPlane, hollow_node: NodeProcess) -> Iterator[OperatorProcess]:
    """The operator, and nodes for its Pods; one for all tests of a module that has no other."""
    with clusters.operating(crds) as found:
        yield found


@pytest.fixture(scope="module")
def live_operator(
    controllers: ControlPlane, crds: ControlPlane, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[OperatorProcess]:
    """The operator, and a node that runs Pods for real."""
    log = tmp_path_factory.mktemp("operator") / "log"
    with real_node(controllers), operator_process(crds.kubeconfig, log) as found:
        yield found


@pytest.fixture
def stage(operator: OperatorProcess, crds: ControlPlane, namespace: str) -> Stage:
    """A namespace in which the operator works."""
    return Stage(crds, namespace)


def pytest_runtest_setup(item: pytest.Item) -> None:
    plane = item.config.stash.get(_PLANE, None)
    if plane is not None:
        plane.mark_logs()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Shows what the control plane said during a test that failed."""
    report = yield
    plane = item.config.stash.get(_PLANE, None)
    if report.failed and plane is not None and plane.folder.exists():
        report.sections.append(("control plane, what it said", plane.logs()))
    arguments = getattr(item, "funcargs", {})
    operator = arguments.get("operator") or arguments.get("live_operator")
    if report.failed and isinstance(operator, OperatorProcess) and operator.log.exists():
        report.sections.append(("operator, what it said", operator.log.read_text()[-6000:]))
    return report
