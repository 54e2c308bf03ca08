"""RayService: what is read, what is refused and with which sentence, and Ray Serve's own text inside it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from rayward.api.problems import ManifestError, Problem
from rayward.api.rayservice import (
    inner_cluster,
    may_upgrade,
    parse_ray_service,
    seconds_of,
    validate_service,
)
from rayward.api.serve_config import ServeConfig, read_serve_config

Raw = dict[str, Any]
Change = Callable[[Raw, Raw], object]
CONFIG = """\
applications:
  - name: fruit
    import_path: fruit:app
    route_prefix: /fruit
    deployments:
      - {name: Market, num_replicas: 2}
"""


@pytest.fixture
def service(raw: Raw) -> Raw:
    return {
        "apiVersion": "ray.io/v1",
        "kind": "RayService",
        "metadata": {"name": "shop", "uid": "uid-9", "annotations": {}},
        "spec": {"serveConfigV2": CONFIG, "rayClusterConfig": raw["spec"]},
    }


def refused(service: Raw) -> list[str]:
    """Every problem, from the reader or from the checks."""
    try:
        found = validate_service(parse_ray_service(service))
    except ManifestError as error:
        found = error.problems
    assert all(problem.subject == "RayService/shop" or problem.path == "metadata.name" for problem in found)
    return [f"{problem.path}: {problem.message}" for problem in found]


def test_a_service_with_nothing_wrong(service: Raw) -> None:
    parsed = parse_ray_service(service)
    assert validate_service(parsed) == ()
    assert (parsed.deletion_delay_s, parsed.initializing_timeout_s) == (60, None)
    cluster = inner_cluster(parsed)
    assert (cluster.name, cluster.workers[0].group_name) == ("shop", "small")
    service["spec"]["rayClusterDeletionDelaySeconds"] = 0
    service["metadata"]["annotations"]["ray.io/initializing-timeout"] = "10m"
    parsed = parse_ray_service(service)
    assert (parsed.deletion_delay_s, parsed.initializing_timeout_s) == (0, 600.0)


REDIS = {"redisAddress": "redis:6379", "externalStorageNamespace": "mine"}
FILES = {"backend": "rocksdb", "storage": {"claimName": "mine"}}


@pytest.mark.parametrize(
    ("change", "path", "words"),
    [
        (lambda m, s: s.pop("rayClusterConfig"), "spec.rayClusterConfig", "is missing"),
        (lambda m, s: s.update(rayClusterConfig=[]), "spec.rayClusterConfig", "expected a mapping"),
        (lambda m, s: s.update(serveConfig="x"), "spec", "did you mean `serveConfigV2`"),
        (lambda m, s: s.update(serveConfigV2={}), "spec.serveConfigV2", "a mapping"),
        (lambda m, s: s.update(serveConfigV2="a: ["), "spec.serveConfigV2", "is no YAML"),
        (
            lambda m, s: s["rayClusterConfig"].pop("headGroupSpec"),
            "spec.rayClusterConfig.headGroupSpec",
            "is missing",
        ),
        (
            lambda m, s: s["rayClusterConfig"]["workerGroupSpecs"][0].update(replicas="2"),
            "spec.rayClusterConfig.workerGroupSpecs[0].replicas",
            "expected an integer",
        ),
        (
            lambda m, s: s["rayClusterConfig"]["workerGroupSpecs"][0].update(minReplicas=3, maxReplicas=1),
            "spec.rayClusterConfig.workerGroupSpecs[0]",
            "",
        ),
        (
            lambda m, s: s["rayClusterConfig"].update(suspend=True),
            "spec.rayClusterConfig.suspend",
            "spec.suspend",
        ),
        (
            lambda m, s: s["rayClusterConfig"].update(upgradeStrategy={"type": "Recreate"}),
            "spec.rayClusterConfig.upgradeStrategy.type",
            "spec.upgradeStrategy",
        ),
        (lambda m, s: m.update(name="a" * 48), "metadata.name", "at most 47 characters, has 48"),
        (lambda m, s: m.update(name="1shop"), "metadata.name", "must start with a-z"),
        (
            lambda m, s: m["annotations"].update({"ray.io/initializing-timeout": "soon"}),
            "metadata.annotations['ray.io/initializing-timeout']",
            '"soon" is no duration',
        ),
        (lambda m, s: s.update(managedBy="me"), "spec.managedBy", "must be one of"),
        (
            lambda m, s: s.update(rayClusterDeletionDelaySeconds=-1),
            "spec.rayClusterDeletionDelaySeconds",
            "must not be negative",
        ),
        (
            lambda m, s: s.update(upgradeStrategy={"type": "Blue"}),
            "spec.upgradeStrategy.type",
            "NewCluster, None",
        ),
        (
            lambda m, s: s.update(upgradeStrategy={"type": "NewClusterWithIncrementalUpgrade"}),
            "spec.upgradeStrategy.type",
            "is not supported yet",
        ),
        (
            lambda m, s: s["rayClusterConfig"].update(gcsFaultToleranceOptions=REDIS),
            "spec.rayClusterConfig.gcsFaultToleranceOptions.externalStorageNamespace",
            "both would write to the same keys",
        ),
        (
            lambda m, s: s["rayClusterConfig"].update(gcsFaultToleranceOptions=FILES),
            "spec.rayClusterConfig.gcsFaultToleranceOptions.storage.claimName",
            "both heads would open the same files",
        ),
        (lambda m, s: s.update(serveService={"spec": []}), "spec.serveService.spec", "expected a mapping"),
        (
            lambda m, s: s.update(serveService={"spec": {"ports": [{"name": "x"}]}}),
            "spec.serveService.spec.ports[0]",
            "with a number",
        ),
    ],
)
def test_what_is_refused(service: Raw, change: Change, path: str, words: str) -> None:
    change(service["metadata"], service["spec"])
    found = refused(service)
    assert any(line.startswith(f"{path}") and words in line for line in found), found


@pytest.mark.parametrize("options", [REDIS, FILES])
def test_a_fixed_place_of_the_state_is_fine_without_upgrades(service: Raw, options: Raw) -> None:
    service["spec"]["rayClusterConfig"]["gcsFaultToleranceOptions"] = options
    assert may_upgrade(parse_ray_service(service))
    service["spec"]["upgradeStrategy"] = {"type": "None"}
    assert not may_upgrade(parse_ray_service(service))
    assert refused(service) == []


def test_fields_of_a_newer_definition_pass_and_are_named(service: Raw) -> None:
    service["spec"]["novelty"] = 1
    service["spec"]["rayClusterConfig"]["other"] = 1
    unknown: list[Problem] = []
    parse_ray_service(service, unknown=unknown)
    assert sorted((found.path, found.message) for found in unknown) == [
        ("spec", "unknown field `novelty`"),
        ("spec.rayClusterConfig", "unknown field `other`"),
    ]


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("", None),
        ("90", 90.0),
        ("30s", 30.0),
        ("1h5m", 3900.0),
        ("1.5m", 90.0),
        ("500ms", 0.5),
        (" 2m ", 120.0),
    ],
)
def test_durations(text: str, seconds: float | None) -> None:
    assert seconds_of(text) == seconds


@pytest.mark.parametrize("text", ["soon", "0", "-5", "5 m", "10x", "0s"])
def test_what_is_no_duration(text: str) -> None:
    with pytest.raises(ValueError, match=r"no duration|not positive"):
        seconds_of(text)


# -- Ray Serve's text ----------------------------------------------------------------------------------


def test_a_configuration_is_the_same_bytes_however_it_is_written() -> None:
    lines = CONFIG.splitlines()
    turned = "\n".join([lines[0], lines[2].replace("    ", "  - ", 1), "    name: fruit", *lines[3:]])
    one, other = read_serve_config(CONFIG), read_serve_config(turned)
    assert isinstance(one, ServeConfig)
    assert one == other
    assert (one.applications, one.deployments, one.port) == (("fruit",), {"fruit": ("Market",)}, 8000)


@pytest.mark.parametrize("text", ["", "  \n"])
def test_no_text_is_no_application(text: str) -> None:
    found = read_serve_config(text)
    assert isinstance(found, ServeConfig)
    assert found.applications == ()


def test_the_port_is_serves_own() -> None:
    found = read_serve_config("http_options: {port: 9000}\n" + CONFIG)
    assert isinstance(found, ServeConfig)
    assert found.port == 9000


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a: [", "is no YAML"),
        ("- a", "expected a mapping with applications"),
        ("import_path: fruit:app", "below applications"),
        ("applications: {}", "applications must be a list"),
        ("applications: [1]", "applications[0]: expected a mapping, got 1"),
        ("applications: [{name: a}]", "applications[0].import_path is missing"),
        ("applications: [{name: 1, import_path: x}]", "applications[0].name must be a text"),
        ("applications: [{import_path: x, deployments: [{}]}]", "each needs a name"),
        ("applications: [{import_path: x, deployments: 3}]", "must be a list of mappings"),
        (
            "applications: [{name: a, import_path: x, route_prefix: /1}, {name: a, import_path: y}]",
            'two applications are called "a"',
        ),
        (
            "applications: [{name: a, import_path: x}, {name: b, import_path: y}]",
            'two applications have the route_prefix "/"',
        ),
        ("http_options: {port: many}\napplications: []", 'http_options.port must be a port, got "many"'),
        ("applications: []\nat: 2020-01-01", "holds what JSON cannot say"),
    ],
)
def test_what_ray_would_refuse_is_said_before(text: str, words: str) -> None:
    found = read_serve_config(text)
    assert isinstance(found, list)
    assert any(words in line for line in found), found
