"""RayService: what is built, sent, switched to, let go and said, pass by pass."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
from service_world import OTHER_CONFIG, World, pod

from rayward.plan import names
from rayward.plan.service_outcome import ServeSeen


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
def up(world: World) -> World:
    world.up()
    return world


def bigger(world: World) -> None:
    """A change that needs another cluster."""
    world.service["spec"]["rayClusterConfig"]["rayVersion"] = "2.61.0"
    world.service["metadata"]["generation"] += 1


def active(world: World) -> str:
    return world.side("active")


# -- the first cluster ---------------------------------------------------------------------------------


def test_the_finalizer_comes_before_everything(world: World) -> None:
    plan = world.step()
    assert plan.finalizers == (names.SERVICE_FINALIZER,)
    assert not plan.create


def test_a_clusters_name_is_in_the_status_before_the_cluster_is_made(world: World) -> None:
    world.step()
    plan = world.step()
    assert world.side("pending") == "shop-bbbbb"
    assert not plan.create
    assert world.condition("Ready") == ("False", "Initializing")
    assert world.condition("UpgradeInProgress") == ("False", "Initializing")
    world.step()
    assert list(world.clusters) == ["shop-bbbbb"]


def test_the_cluster_belongs_to_the_service_and_has_its_switches(world: World) -> None:
    world.service["metadata"]["labels"] = {"team": "fruit"}
    world.service["metadata"]["annotations"] = {
        "ray.io/ft-enabled": "true",
        "ray.io/initializing-timeout": "5m",
        "kubectl.kubernetes.io/last-applied-configuration": "{}",
    }
    world.settle()
    metadata = world.clusters["shop-bbbbb"]["metadata"]
    assert metadata["labels"] == {
        "team": "fruit",
        "ray.io/originated-from-cr-name": "shop",
        "ray.io/originated-from-crd": "RayService",
    }
    assert metadata["annotations"] == {"ray.io/ft-enabled": "true"}
    assert [owner["uid"] for owner in metadata["ownerReferences"]] == ["uid-shop"]


def test_it_serves_when_applications_run_and_their_nodes_are_ready(world: World) -> None:
    world.settle()
    name = "shop-bbbbb"
    assert world.submission(name).body is not None
    world.take(name)
    world.settle()
    assert world.clusters[name]["metadata"]["annotations"][names.SERVE_CONFIG_HASH]
    assert world.submission(name).body is None
    world.runs(name, status="DEPLOYING")
    world.bring_pods(name)
    world.settle()
    assert (active(world), world.condition("ApplicationsRunning")) == ("", ("False", "Deploying"))
    world.runs(name)
    world.bring_pods(name, ready=(True, False))
    world.settle()
    assert active(world) == "", "a replica's node does not answer yet"
    world.bring_pods(name)
    world.settle()
    assert active(world) == name
    assert set(world.kind("Service")) == {"shop-head-svc", "shop-serve-svc"}
    assert world.status["serviceStatus"] == "Running"
    assert world.status["numServeEndpoints"] == 2
    assert world.condition("Ready") == ("True", "NonZeroServeEndpoints")
    assert world.condition("UpgradeInProgress") == ("False", "NoPendingCluster")
    assert world.submission(name).settled


def test_an_answer_from_before_the_configuration_was_taken_does_not_count(world: World) -> None:
    world.settle()
    world.bring_pods("shop-bbbbb")
    world.take("shop-bbbbb")
    world.runs("shop-bbbbb")
    world.serve["shop-bbbbb"] = replace(world.serve["shop-bbbbb"], view_after=False)
    world.settle()
    assert active(world) == ""


# -- what Ray Serve is sent ----------------------------------------------------------------------------


def test_nothing_is_sent_twice_even_by_an_operator_that_has_just_started(up: World) -> None:
    up.serve.clear()
    assert up.submission(active(up)).body is None
    up.runs(active(up), taken="")
    assert up.submission(active(up)).body is None


def test_applications_that_ray_has_lost_are_sent_again(up: World) -> None:
    name = active(up)
    up.serve[name] = ServeSeen(replace(up.serve[name].view, applications={}), "", True)
    assert up.submission(name).body is not None
    up.serve[name] = replace(up.serve[name], view_after=False)
    assert up.submission(name).body is None, "another head was not asked yet"


def test_another_text_is_applied_in_place(up: World) -> None:
    up.service["spec"]["serveConfigV2"] = OTHER_CONFIG
    submission = up.submission(active(up))
    assert submission.body is not None
    assert b'"num_replicas":1' in submission.body
    up.take(active(up))
    up.runs(active(up))
    up.settle()
    assert up.submission(active(up)).body is None
    assert len(up.clusters) == 1


def test_another_spelling_of_the_same_text_is_no_change(up: World) -> None:
    up.service["spec"]["serveConfigV2"] += "\n# a comment\n"
    assert up.submission(active(up)).body is None


def test_without_a_text_nothing_is_sent_and_what_others_deploy_counts() -> None:
    world = World(serveConfigV2="")
    world.settle()
    assert world.submission("shop-bbbbb").body is None
    world.bring_pods("shop-bbbbb")
    world.runs("shop-bbbbb")
    world.settle()
    assert active(world) == "shop-bbbbb"


def test_a_text_that_was_taken_out_is_taken_back(up: World) -> None:
    up.service["spec"]["serveConfigV2"] = ""
    assert up.submission(active(up)).body == b'{"applications":[]}'


def test_what_ray_refuses_is_told_and_the_service_goes_on(up: World) -> None:
    name = active(up)
    up.service["spec"]["serveConfigV2"] = OTHER_CONFIG
    up.serve[name] = replace(up.serve[name], refused="ValueError: no such field")
    up.settle()
    assert up.condition("ApplicationsRunning") == ("False", "ConfigRefused")
    assert "no such field" in up.message("ApplicationsRunning")
    assert up.condition("Ready")[0] == "True"


def test_an_import_error_is_told_in_rays_words(world: World) -> None:
    world.settle()
    world.bring_pods("shop-bbbbb")
    world.take("shop-bbbbb")
    world.runs("shop-bbbbb", status="DEPLOY_FAILED")
    view = world.serve["shop-bbbbb"].view
    assert view.applications is not None
    failed = replace(view.applications["fruit"], message="ModuleNotFoundError: no fruit")
    world.serve["shop-bbbbb"] = replace(
        world.serve["shop-bbbbb"], view=replace(view, applications={"fruit": failed})
    )
    world.settle()
    assert world.condition("ApplicationsRunning") == ("False", "ApplicationFailed")
    assert "ModuleNotFoundError: no fruit" in world.message("ApplicationsRunning")
    assert active(world) == ""


def test_a_dashboard_that_is_silent_takes_nothing_back(up: World) -> None:
    before = up.status["activeServiceStatus"]["applicationStatuses"]
    up.serve[active(up)] = ServeSeen(problem="no answer")
    up.settle()
    assert up.status["activeServiceStatus"]["applicationStatuses"] == before
    assert up.condition("ApplicationsRunning")[0] == "True"


# -- which nodes are offered ---------------------------------------------------------------------------


def head_label(world: World) -> str:
    return str(world.pods[active(world)][0]["metadata"]["labels"][names.SERVE])


def test_the_head_is_offered_while_its_proxy_serves(up: World) -> None:
    uid = up.pods[active(up)][0]["metadata"]["uid"]
    up.proxies[uid] = True
    up.settle()
    assert head_label(up) == "true"
    assert up.status["numServeEndpoints"] == 3
    del up.proxies[uid]
    up.settle()
    assert head_label(up) == "true", "an operator that has just started withdraws nobody"
    up.proxies[uid] = False
    up.settle()
    assert head_label(up) == "false"
    assert up.status["numServeEndpoints"] == 2


def test_the_head_can_be_left_out(up: World) -> None:
    uid = up.pods[active(up)][0]["metadata"]["uid"]
    up.proxies[uid] = True
    up.settle()
    up.service["spec"]["excludeHeadPodFromServeSvc"] = True
    up.settle()
    assert head_label(up) == "false"


def test_without_endpoints_it_is_not_ready_and_not_initializing(up: World) -> None:
    up.bring_pods(active(up), ready=(False, False))
    up.settle()
    assert up.condition("Ready") == ("False", "ZeroServeEndpoints")
    assert up.status.get("serviceStatus") == ""
    up.settle()
    assert up.condition("Ready") == ("False", "ZeroServeEndpoints")
    assert len(up.clusters) == 1


# -- another cluster -----------------------------------------------------------------------------------


def test_another_spec_builds_switches_and_lets_go(up: World) -> None:
    old = active(up)
    bigger(up)
    up.settle()
    new = up.side("pending")
    assert new != old
    assert set(up.clusters) == {old, new}
    assert up.condition("UpgradeInProgress") == ("True", "BothActivePendingClustersExist")
    assert up.submission(old).body is None, "the new text is for the new cluster"
    assert up.kind("Service")["shop-serve-svc"]["spec"]["selector"][names.CLUSTER] == old
    up.bring_pods(new)
    up.take(new)
    up.runs(new)
    up.settle()
    assert active(up) == new
    for service in up.kind("Service").values():
        assert service["spec"]["selector"][names.CLUSTER] == new
    assert up.condition("UpgradeInProgress") == ("False", "NoPendingCluster")
    up.now += 59
    up.settle()
    assert set(up.clusters) == {old, new}
    up.now += 1
    up.settle()
    assert set(up.clusters) == {new}


@pytest.mark.parametrize("fraction", [0.0, 0.75])
def test_the_old_cluster_stays_as_long_as_it_is_told_to(up: World, fraction: float) -> None:
    """And not a part of a second less, though times in Kubernetes are whole seconds."""
    up.now += fraction
    up.service["spec"]["rayClusterDeletionDelaySeconds"] = 10
    bigger(up)
    up.settle()
    new = up.side("pending")
    up.bring_pods(new)
    up.take(new)
    up.runs(new)
    plan = up.settle()
    assert plan.requeue_after is not None
    assert 10 <= plan.requeue_after <= 11
    up.now += 9.95
    assert not up.step().delete
    up.now += plan.requeue_after - 9.95
    assert len(up.step().delete) == 1


def test_an_upgrade_goes_on_without_the_old_head(up: World) -> None:
    old = active(up)
    bigger(up)
    up.settle()
    up.pods[old] = up.pods[old][1:]
    new = up.side("pending")
    up.bring_pods(new)
    up.take(new)
    up.runs(new)
    up.settle()
    assert active(up) == new


def test_a_spec_that_is_taken_back_abandons_the_new_cluster(up: World) -> None:
    old = active(up)
    bigger(up)
    up.settle()
    up.service["spec"]["rayClusterConfig"]["rayVersion"] = "2.60.0"
    up.settle()
    assert list(up.clusters) == [old]
    assert up.side("pending") == ""
    assert up.condition("UpgradeInProgress") == ("False", "NoPendingCluster")


def test_a_spec_that_changes_again_abandons_the_one_before(up: World) -> None:
    old = active(up)
    bigger(up)
    up.settle()
    first = up.side("pending")
    up.service["spec"]["rayClusterConfig"]["rayVersion"] = "2.62.0"
    up.settle()
    second = up.side("pending")
    assert second not in (first, "")
    assert set(up.clusters) == {old, second}


def test_a_spec_taken_back_before_its_cluster_was_made_makes_none(up: World) -> None:
    bigger(up)
    up.step()
    assert up.side("pending")
    up.service["spec"]["rayClusterConfig"]["rayVersion"] = "2.60.0"
    up.settle()
    assert len(up.clusters) == 1
    assert up.side("pending") == ""


def test_numbers_of_workers_change_in_place(up: World) -> None:
    up.service["spec"]["rayClusterConfig"]["workerGroupSpecs"][0]["replicas"] = 3
    up.settle()
    (cluster,) = up.clusters.values()
    assert cluster["spec"]["workerGroupSpecs"][0]["replicas"] == 3


def test_with_upgrades_off_another_spec_changes_nothing(world: World) -> None:
    world.service["spec"]["upgradeStrategy"] = {"type": "None"}
    name = world.up()
    bigger(world)
    world.settle()
    assert list(world.clusters) == [name]
    assert world.clusters[name]["spec"]["rayVersion"] == "2.60.0"


def test_a_cluster_that_somebody_deletes_is_replaced(up: World) -> None:
    old = active(up)
    del up.objects["RayCluster", old]
    up.pods.clear()
    up.settle()
    assert list(up.clusters) not in ([], [old])


# -- Services ------------------------------------------------------------------------------------------


def test_a_service_that_was_changed_by_hand_is_brought_in_line(up: World) -> None:
    service = up.kind("Service")["shop-serve-svc"]
    service["spec"]["selector"]["more"] = "x"
    service["spec"]["ports"] = []
    service["metadata"]["labels"].pop(names.SERVE)
    service["metadata"]["labels"]["mine"] = "kept"
    up.settle()
    service = up.kind("Service")["shop-serve-svc"]
    assert service["spec"]["selector"] == {names.CLUSTER: active(up), names.SERVE: "true"}
    assert [port["port"] for port in service["spec"]["ports"]] == [8000]
    assert service["metadata"]["labels"][names.SERVE] == "shop-serve"
    assert service["metadata"]["labels"]["mine"] == "kept"


def test_a_custom_service_keeps_what_it_says() -> None:
    custom = {
        "metadata": {"name": "front", "namespace": "elsewhere", "labels": {"a": "b"}},
        "spec": {"type": "NodePort", "ports": [{"name": "http", "port": 80, "targetPort": 8000}]},
    }
    world = World(serveService=custom)
    world.up()
    service = world.kind("Service")["front"]
    assert service["metadata"]["namespace"] == "default"
    assert service["metadata"]["labels"]["a"] == "b"
    assert service["spec"]["type"] == "NodePort"
    assert [port["port"] for port in service["spec"]["ports"]] == [80, 8000]
    assert service["spec"]["selector"] == {names.CLUSTER: active(world), names.SERVE: "true"}


def with_port(name: str, number: int) -> World:
    world = World()
    head = world.service["spec"]["rayClusterConfig"]["headGroupSpec"]
    head["template"]["spec"]["containers"][0]["ports"] = [{"name": name, "containerPort": number}]
    return world


@pytest.mark.parametrize(
    ("name", "number", "reason"),
    [("http", 8000, "FailedToCreateService"), ("serve", 9000, "ServePortDiffers"), ("serve", 8000, "")],
)
def test_a_port_that_no_request_arrives_at_is_told_once(name: str, number: int, reason: str) -> None:
    world = with_port(name, number)
    world.up()
    told = [found for found in world.reasons() if found in ("FailedToCreateService", "ServePortDiffers")]
    assert told == ([reason] if reason else [])


# -- everything else -----------------------------------------------------------------------------------


def test_an_invalid_spec_is_told_once_and_touches_nothing(up: World) -> None:
    before = dict(up.objects)
    up.service["spec"]["serveConfigV2"] = "applications: [}"
    up.settle()
    assert up.objects == before
    assert up.reasons().count("InvalidRayServiceSpec") == 1
    assert up.condition("SpecValid") == ("False", "ValidationFailed")
    assert "is no YAML" in up.message("SpecValid")
    assert up.condition("Ready")[0] == "True"
    uid = up.pods[active(up)][0]["metadata"]["uid"]
    up.proxies[uid] = True
    up.settle()
    assert head_label(up) == "true", "endpoints stay true"
    up.service["spec"]["serveConfigV2"] = OTHER_CONFIG
    up.settle()
    assert up.condition("SpecValid") == ("", "")


@pytest.mark.parametrize("spec", [None, 5, {"rayClusterConfig": None}, {"rayClusterConfig": {}}])
def test_a_spec_of_the_wrong_shape_is_told(spec: object) -> None:
    world = World()
    world.service["spec"] = spec
    world.settle()
    assert world.condition("Ready") == ("False", "ValidationFailed")


def test_suspension_takes_everything_down_and_resuming_brings_it_back(up: World) -> None:
    up.service["spec"]["suspend"] = True
    up.step()
    assert up.condition("Suspending")[0] == "True"
    up.settle()
    assert not up.objects
    assert up.condition("Suspended") == ("True", "SuspendComplete")
    assert up.condition("Ready") == ("False", "SuspendComplete")
    up.service["spec"]["suspend"] = False
    up.settle()
    assert up.condition("Suspended") == ("False", "RayServiceResumed")
    assert up.condition("Ready") == ("False", "Initializing")
    assert len(up.clusters) == 1


def test_a_suspension_under_way_is_finished_first(up: World) -> None:
    up.service["spec"]["suspend"] = True
    plan = up.look()
    up.service["status"] = plan.status
    up.service["spec"]["suspend"] = False
    assert up.step().delete
    up.settle()
    assert up.condition("Suspended")[0] == "False"


def test_a_service_that_never_becomes_ready_is_given_up_for_good(world: World) -> None:
    world.service["metadata"]["annotations"] = {"ray.io/initializing-timeout": "10s"}
    plan = world.settle()
    assert plan.requeue_after == 10
    world.now += 10
    world.settle()
    assert world.condition("Ready") == ("False", "InitializingTimeout")
    assert not world.clusters
    bigger(world)
    world.now += 100
    world.settle()
    assert not world.clusters
    assert world.status["observedGeneration"] == world.service["metadata"]["generation"]
    assert world.reasons().count("RayServiceInitializingTimeout") == 1


def test_time_alone_changes_nothing(up: World) -> None:
    before = up.status
    up.now += 100
    up.settle()
    assert up.status == before


def test_the_time_to_initialize_says_nothing_later(world: World) -> None:
    world.service["metadata"]["annotations"] = {"ray.io/initializing-timeout": "10s"}
    world.up()
    world.bring_pods(active(world), ready=(False, False))
    world.now += 100
    world.settle()
    assert world.condition("Ready") == ("False", "ZeroServeEndpoints")
    assert world.clusters


def test_a_deleted_service_waits_for_its_clusters(up: World) -> None:
    up.service["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    plan = up.step()
    assert [step.kind for step in plan.delete] == ["RayCluster"]
    assert not up.gone
    up.step()
    assert up.service["metadata"]["finalizers"] == []
    assert up.gone


def test_another_operators_service_is_left_alone() -> None:
    world = World(managedBy="kueue.x-k8s.io/multikueue")
    plan = world.step()
    assert not plan.create
    assert plan.finalizers is None


def broken_status(world: World) -> None:
    world.service["status"] = {"activeServiceStatus": {"rayClusterName": "gone"}, "conditions": []}


def stray_cluster(world: World) -> None:
    stray = world.clusters[active(world)]
    metadata = {**stray["metadata"], "name": "shop-stray", "uid": "uid-stray"}
    world.objects["RayCluster", "shop-stray"] = {**stray, "metadata": metadata}


@pytest.mark.parametrize("damage", [broken_status, stray_cluster])
def test_it_comes_back_from_what_it_did_not_make(up: World, damage: Callable[[World], None]) -> None:
    damage(up)
    up.settle()
    up.now += 100
    up.settle()
    assert len(up.clusters) == 1


def test_a_head_that_ends_is_not_relabelled(up: World) -> None:
    found = pod(active(up), "h", names.HEAD)
    found["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    up.pods[active(up)][0] = found
    up.proxies[found["metadata"]["uid"]] = False
    assert not up.look().update
