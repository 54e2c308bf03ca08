"""Ray's answer about Ray Serve, and what it means for a RayService."""

from __future__ import annotations

from typing import Any

import pytest

from rayward.plan.serve_status import (
    ServeView,
    application_statuses,
    placement_of,
    placement_text,
    read_answer,
)

ANSWER: dict[str, Any] = {
    "applications": {
        "fruit": {
            "status": "RUNNING",
            "message": "",
            "deployments": {
                "Market": {
                    "status": "HEALTHY",
                    "message": "",
                    "replicas": [
                        {"node_ip": "10.0.0.2", "state": "RUNNING"},
                        {"node_ip": "10.0.0.3", "state": "RUNNING"},
                        {"node_ip": "10.0.0.3", "state": "STARTING"},
                    ],
                }
            },
        },
        "math": {"status": "DEPLOY_FAILED", "message": "ImportError: no such", "deployments": {}},
    },
}


def test_an_answer_is_read() -> None:
    view = read_answer(ANSWER)
    assert view.applications is not None
    assert view.applications["fruit"].deployments["Market"].replicas == {"10.0.0.2": 1, "10.0.0.3": 1}
    assert view.failures() == ["math is DEPLOY_FAILED: ImportError: no such"]
    assert application_statuses(view, {"10.0.0.2": "w1"}) == {
        "fruit": {
            "status": "RUNNING",
            "message": "",
            "serveDeploymentStatuses": {"Market": {"status": "HEALTHY", "message": "1 on 10.0.0.3, 1 on w1"}},
        },
        "math": {
            "status": "DEPLOY_FAILED",
            "message": "ImportError: no such",
            "serveDeploymentStatuses": {},
        },
    }


@pytest.mark.parametrize("replicas", [{}, {"10.0.0.2": 2}, {"10.0.0.2": 12, "10.0.0.3": 1}])
def test_where_replicas_run_can_be_read_again(replicas: dict[str, int]) -> None:
    names = {"10.0.0.2": "ha-small-worker-x7k2p"}
    assert placement_of(placement_text(replicas, names)) == {
        names.get(address, address): count for address, count in replicas.items()
    }


@pytest.mark.parametrize("message", ["", "1 on", "The deployment failed 3 times", "1 on a, then it failed"])
def test_other_messages_place_nothing(message: str) -> None:
    assert placement_of(message) == {}


def test_it_serves_when_all_that_is_wanted_runs() -> None:
    view = read_answer(ANSWER)
    assert view.serves(["fruit"])
    assert not view.serves(["fruit", "math"])
    assert not view.serves(["fruit", "unknown"])
    assert not view.serves([])
    assert not ServeView().serves(["fruit"])


@pytest.mark.parametrize(
    "answer", [None, [], "busy", {}, {"applications": None}, {"applications": []}], ids=str
)
def test_what_is_no_answer_says_nothing(answer: object) -> None:
    view = read_answer(answer)
    assert view.applications is None
    assert not view.empty, "nobody said that there is nothing"
    assert application_statuses(view, {}) == {}


def test_a_cluster_without_applications_says_so() -> None:
    assert read_answer({"applications": {}}).empty
    assert not read_answer(ANSWER).empty


def test_odd_parts_hide_no_others() -> None:
    odd = {
        "applications": {"a": 3, "b": {"status": "RUNNING", "deployments": [], "message": None}},
    }
    view = read_answer(odd)
    assert view.serves(["b"])
    assert application_statuses(view, {})["a"] == {"status": "", "message": "", "serveDeploymentStatuses": {}}


def test_of_a_long_message_the_end_stays() -> None:
    trace = "x" * 5000 + "ModuleNotFoundError: fruit"
    (found,) = read_answer({"applications": {"a": {"message": trace}}}).applications.values()  # type: ignore[union-attr]
    assert len(found.message) == 1000
    assert found.message.startswith("... ")
    assert found.message.endswith("ModuleNotFoundError: fruit")


def test_the_cause_is_told_wherever_ray_has_it() -> None:
    trace = (
        "\x1b[36mray::deploy()\x1b[39m\nTraceback:\n  File x\nModuleNotFoundError: No module named 'fruit'\n"
    )
    broken = {"status": "UNHEALTHY", "message": "trace\nValueError: no price", "replicas": []}
    view = read_answer(
        {
            "applications": {
                "a": {"status": "DEPLOY_FAILED", "message": trace, "deployments": {}},
                "b": {"status": "DEPLOY_FAILED", "message": "Failed to update", "deployments": {"B": broken}},
            }
        }
    )
    assert view.failures() == [
        "a is DEPLOY_FAILED: ModuleNotFoundError: No module named 'fruit'",
        "b is DEPLOY_FAILED: Failed to update: B: ValueError: no price",
    ]
