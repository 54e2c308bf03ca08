"""Every branch of the agent's decision, told by the sentence that an operator would read."""

from __future__ import annotations

import dataclasses

import pytest

from rayward.agent.decide import (
    Action,
    DeadProcess,
    GcsView,
    Kind,
    Observation,
    Phase,
    Step,
    StoreView,
    Verdict,
    decide,
    holds_dashboard,
    judge_gcs,
)  # fmt: skip
from rayward.agent.gcs_probe import Serving
from rayward.agent.processes import Role
from rayward.agent.timing import Timing

T = Timing()
HEALTHY = GcsView(stopped_for=0, silent_for=0.4, served=True, main_thread_share=0.01)
RUNNING = Observation(Kind.HEAD, Phase.RUNNING, gcs=HEALTHY)


def view(**changes: object) -> GcsView:
    return dataclasses.replace(HEALTHY, **changes)


def dead(role: Role, dead_for: float = 0.0, quick: int = 1, cause: str = "killed by SIGKILL") -> DeadProcess:
    return DeadProcess(role, dead_for, quick, cause)


def running(*gone: DeadProcess, **changes: object) -> Observation:
    return dataclasses.replace(RUNNING, dead=gone, **changes)


SILENT = Serving.SILENT


@pytest.mark.parametrize(
    ("gcs", "verdict", "sentence"),
    [
        (HEALTHY, Verdict.SERVING, "gcs_server serves"),
        (view(served=False), Verdict.STARTING, "gcs_server is starting"),
        (view(stopped_for=0.99), Verdict.SERVING, "gcs_server serves"),
        (view(stopped_for=1.0), Verdict.STOPPED, "gcs_server has been stopped for 1.0 s"),
        (view(stopped_for=1.0, main_thread_share=1.0), Verdict.STOPPED,
         "gcs_server has been stopped for 1.0 s"),
        (view(silent_for=1.99, last_answer=SILENT), Verdict.SERVING, "gcs_server serves"),
        (view(silent_for=2.0, last_answer=SILENT), Verdict.QUIET,
         "gcs_server has given no answer for 2.0 s (silent)"),
        (view(silent_for=2.99, last_answer=SILENT), Verdict.QUIET,
         "gcs_server has given no answer for 3.0 s (silent)"),
        (view(silent_for=3.0, last_answer=Serving.LOOP_SILENT), Verdict.HUNG,
         "gcs_server has given no answer for 3.0 s (main loop silent) and its main thread does nothing"),
        (view(silent_for=3.0, main_thread_share=0.199, last_answer=SILENT), Verdict.HUNG,
         "gcs_server has given no answer for 3.0 s (silent) and its main thread does nothing"),
        (view(silent_for=3.0, main_thread_share=0.2, last_answer=SILENT), Verdict.BUSY,
         "gcs_server has given no answer for 3.0 s (silent) but its main thread is busy: left alone"),
        (view(silent_for=179.9, waits_for_disk=True, last_answer=SILENT), Verdict.BUSY,
         "gcs_server has given no answer for 179.9 s (silent) but it waits for its disk: left alone"),
        (view(refused_for=0.29, last_answer=Serving.REFUSED), Verdict.SERVING, "gcs_server serves"),
        (view(refused_for=0.3, main_thread_share=1.0, last_answer=Serving.REFUSED), Verdict.HUNG,
         "gcs_server closed its port 0.3 s ago and has not ended since"),
        (view(served=False, refused_for=9.0, last_answer=Serving.REFUSED), Verdict.STARTING,
         "gcs_server is starting"),
        (view(silent_for=179.9, main_thread_share=1.0, last_answer=SILENT), Verdict.BUSY,
         "gcs_server has given no answer for 179.9 s (silent) but its main thread is busy: left alone"),
        (view(silent_for=180.0, main_thread_share=1.0, last_answer=SILENT), Verdict.HUNG,
         "gcs_server has given no answer for 180.0 s (silent), busy all the time: longer than 180 s is hung"),
        (view(served=False, silent_for=59.9, last_answer=Serving.REFUSED), Verdict.STARTING,
         "gcs_server has given no answer for 59.9 s (refused)"),
        (view(served=False, silent_for=60.0, last_answer=Serving.REFUSED), Verdict.HUNG,
         "gcs_server has given no answer for 60.0 s (refused) and its main thread does nothing"),
        (view(served=False, silent_for=60.0, main_thread_share=0.9, last_answer=SILENT), Verdict.BUSY,
         "gcs_server has given no answer for 60.0 s (silent) but its main thread is busy: left alone"),
        (view(served=False, silent_for=180.0, main_thread_share=0.9, last_answer=SILENT), Verdict.HUNG,
         "gcs_server has given no answer for 180.0 s (silent), busy all the time: longer than 180 s is hung"),
    ],
)  # fmt: skip
def test_judge(gcs: GcsView, verdict: Verdict, sentence: str) -> None:
    assert judge_gcs(gcs, T) == (verdict, sentence)


WAITING = Observation(Kind.HEAD, Phase.WAITING_FOR_STORE)
JOINING = Observation(Kind.WORKER, Phase.WAITING_FOR_GCS)
STARTING = Observation(Kind.HEAD, Phase.STARTING)
FAILED_START = dataclasses.replace(STARTING, start_failure="exit code 1", start_exit_code=1, failed_starts=1)
MEMORY = dataclasses.replace(RUNNING, durable_store=False)
MEMORY_LOST = (
    "gcs_server died (killed by SIGKILL) and its state was in memory only: the head restarts and the workers "
    "start afresh; give the cluster a store (gcsFaultToleranceOptions) to keep its state"
)


def store(fault: str = "", transient: bool = True, waited: float = 0.0, checked: bool = True) -> StoreView:
    return StoreView(checked, fault, transient, waited)


@pytest.mark.parametrize(
    ("seen", "step", "sentence"),
    [
        (dataclasses.replace(WAITING, store=store(checked=False)), Step.WAIT,
         "checking the store before Ray starts"),
        (dataclasses.replace(WAITING, store=store()), Step.START_NODE, "the store answers"),
        (dataclasses.replace(WAITING, store=store("refused", waited=59.9)), Step.WAIT,
         "waiting for the store: refused"),
        (dataclasses.replace(WAITING, store=store("refused", waited=60.0)), Step.FAIL,
         "refused (waited 60 s for it)"),
        (dataclasses.replace(WAITING, store=store("wrong password", transient=False)), Step.FAIL,
         "wrong password"),
        (JOINING, Step.WAIT, "waiting for the GCS before Ray starts here: no answer yet"),
        (dataclasses.replace(JOINING, remote_gcs=Serving.REFUSED), Step.WAIT,
         "waiting for the GCS before Ray starts here: refused"),
        (dataclasses.replace(JOINING, remote_gcs=Serving.LOOP_SILENT), Step.WAIT,
         "waiting for the GCS before Ray starts here: main loop silent"),
        (dataclasses.replace(JOINING, remote_gcs=Serving.SERVING), Step.START_NODE, "the GCS serves"),
        (STARTING, Step.WAIT, "ray start is running"),
        (dataclasses.replace(STARTING, start_exit_code=0), Step.ADOPT_NODE, "ray start is done"),
        (dataclasses.replace(STARTING, start_runs_for=119.9), Step.WAIT, "ray start is running"),
        (dataclasses.replace(STARTING, start_runs_for=120.0), Step.RESTART_NODE,
         "ray start has not ended within 120 s"),
        (dataclasses.replace(STARTING, dead=(dead(Role.GCS, quick=1),)), Step.START_PROCESS,
         "gcs_server died during ray start: killed by SIGKILL"),
        (dataclasses.replace(STARTING, dead=(dead(Role.GCS, dead_for=0.05, quick=2),)), Step.WAIT,
         "ray start is running"),
        (dataclasses.replace(STARTING, dead=(dead(Role.GCS, quick=8),)), Step.WAIT, "ray start is running"),
        (dataclasses.replace(STARTING, dead=(dead(Role.GCS),), durable_store=False), Step.WAIT,
         "ray start is running"),
        (FAILED_START, Step.START_NODE, "ray start failed: exit code 1"),
        (dataclasses.replace(FAILED_START, failed_starts=2, since_failed_start=0.05), Step.WAIT,
         "ray start failed: exit code 1; next try 0.1 s after the last"),
        (dataclasses.replace(FAILED_START, failed_starts=2, since_failed_start=0.1), Step.START_NODE,
         "ray start failed: exit code 1"),
        (dataclasses.replace(FAILED_START, failed_starts=7, since_failed_start=8.0), Step.START_NODE,
         "ray start failed: exit code 1"),
        (dataclasses.replace(FAILED_START, failed_starts=8, since_failed_start=99.0), Step.FAIL,
         "gave up after 8 tries: ray start failed: exit code 1"),
        (dataclasses.replace(FAILED_START, kind=Kind.WORKER, failed_starts=8, remote_gcs=Serving.REFUSED),
         Step.WAIT, "ray start failed and the GCS is away: exit code 1"),
        (dataclasses.replace(FAILED_START, kind=Kind.WORKER, failed_starts=8, remote_gcs=Serving.SERVING),
         Step.FAIL, "gave up after 8 tries: ray start failed: exit code 1"),
        (RUNNING, Step.WAIT, "gcs_server serves"),
        (Observation(Kind.WORKER, Phase.RUNNING), Step.WAIT, "all processes run"),
        (running(dead(Role.RAYLET, cause="exit code 0")), Step.RESTART_NODE, "raylet is gone (exit code 0)"),
        (running(dead(Role.RAYLET), failed_starts=3, since_failed_start=0.2), Step.WAIT,
         "raylet is gone (killed by SIGKILL); next try 0.3 s after the last"),
        (running(dead(Role.RAYLET), failed_starts=8), Step.FAIL,
         "gave up after 8 tries: raylet is gone (killed by SIGKILL)"),
        (running(dead(Role.GCS), dead(Role.RAYLET), gcs=None), Step.RESTART_NODE,
         "raylet is gone (killed by SIGKILL)"),
        (running(dead(Role.GCS), gcs=None), Step.START_PROCESS, "gcs_server died: killed by SIGKILL"),
        (running(dead(Role.GCS, 0.05, 2), gcs=None), Step.WAIT,
         "gcs_server died (killed by SIGKILL); next start 0.1 s after its death"),
        (running(dead(Role.GCS, 0.1, 2), gcs=None), Step.START_PROCESS, "gcs_server died: killed by SIGKILL"),
        (running(dead(Role.GCS, 7.9, 7), gcs=None), Step.WAIT,
         "gcs_server died (killed by SIGKILL); next start 8 s after its death"),
        (running(dead(Role.GCS, 99, 8, "exit code 1"), gcs=None), Step.FAIL,
         "gcs_server died 8 times in a row, each time within 30 s of its start; last: exit code 1"),
        (dataclasses.replace(MEMORY, dead=(dead(Role.GCS),), gcs=None), Step.RESTART_NODE, MEMORY_LOST),
        (dataclasses.replace(MEMORY, dead=(dead(Role.GCS),), gcs=None, failed_starts=8), Step.FAIL,
         f"gave up after 8 tries: {MEMORY_LOST}"),
        (running(gcs=view(stopped_for=1.5)), Step.KILL_GCS, "gcs_server has been stopped for 1.5 s"),
        (running(dead(Role.MONITOR), gcs=view(silent_for=4.0, last_answer=SILENT)), Step.KILL_GCS,
         "gcs_server has given no answer for 4.0 s (silent) and its main thread does nothing"),
        (running(gcs=view(silent_for=4.0, main_thread_share=0.5, last_answer=SILENT)), Step.WAIT,
         "gcs_server has given no answer for 4.0 s (silent) but its main thread is busy: left alone"),
        (running(dead(Role.MONITOR)), Step.START_PROCESS, "monitor died: killed by SIGKILL"),
        (running(dead(Role.MONITOR, 0.2, 3)), Step.WAIT, "waiting before the next start of monitor"),
        (running(dead(Role.MONITOR, 0.0, 3), dead(Role.DASHBOARD)), Step.START_PROCESS,
         "dashboard died: killed by SIGKILL"),
        (running(dead(Role.MONITOR, 7.9, 100), dead(Role.LOG_MONITOR, 0.0, 9)), Step.WAIT,
         "waiting before the next start of monitor, log_monitor"),
        (running(dead(Role.MONITOR, 8.0, 100)), Step.START_PROCESS, "monitor died: killed by SIGKILL"),
        (dataclasses.replace(RUNNING, phase=Phase.STOPPING, dead=(dead(Role.GCS),)), Step.WAIT, "stopping"),
        (dataclasses.replace(RUNNING, phase=Phase.FAILED, dead=(dead(Role.GCS),)), Step.WAIT, "failed"),
    ],
)  # fmt: skip
def test_decide(seen: Observation, step: Step, sentence: str) -> None:
    action = decide(seen, T)
    assert (action.step, action.reason) == (step, sentence)


def test_start_process_names_the_process_that_died() -> None:
    assert decide(running(dead(Role.LOG_MONITOR)), T).role is Role.LOG_MONITOR
    assert decide(running(dead(Role.GCS), gcs=None), T) == Action(
        Step.START_PROCESS, "gcs_server died: killed by SIGKILL", Role.GCS
    )


def test_same_observation_gives_same_action() -> None:
    assert decide(RUNNING, T) == decide(dataclasses.replace(RUNNING), T)


def test_default_timing_is_usable() -> None:
    assert T.problems() == []


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"hung_limit": 1.9}, "hung_limit must be longer than one probe and its time-out"),
        ({"stopped_limit": 0.49}, "stopped_limit must span two ticks"),
        ({"busy_limit": 3.0}, "busy_limit must be longer than hung_limit"),
        ({"restart_delays": (0.0, 0.5, 0.4)}, "restart_delays must not shrink"),
    ],
)
def test_timing_relations(changes: dict[str, object], problem: str) -> None:
    problems = dataclasses.replace(T, **changes).problems()
    assert len(problems) == 1
    assert problems[0].startswith(problem)


def test_timing_relations_hold_at_their_bounds() -> None:
    bounds = dataclasses.replace(
        T, hung_limit=2.0, stopped_limit=0.5, busy_limit=2.1, restart_delays=(1.0, 1.0)
    )
    assert bounds.problems() == []


def test_restart_delays_end() -> None:
    assert [T.restart_delay(deaths) for deaths in (0, 1, 2, 7)] == [0.0, 0.0, 0.1, 8.0]
    assert T.restart_delay(8) is None


@pytest.mark.parametrize(
    ("changes", "held"),
    [
        ({"gcs_died_ago": 0.0}, True),
        ({"gcs_died_ago": 1.29}, True),
        ({"gcs_died_ago": 1.3}, False),
        ({"gcs_died_ago": 3.99, "gcs_away": True}, True),
        ({"gcs_died_ago": 4.0, "gcs_away": True}, False),
        ({"gcs_died_ago": None}, False),
        ({"gcs_died_ago": 0.5, "durable_store": False}, False),
        ({"gcs_died_ago": 0.5, "phase": Phase.STOPPING}, False),
    ],
)
def test_the_dashboard_is_held_after_a_death_of_the_gcs_and_not_for_long(
    changes: dict[str, object], held: bool
) -> None:
    assert holds_dashboard(dataclasses.replace(RUNNING, **changes), T) is held


@pytest.mark.parametrize(
    ("role", "seconds", "killed"),
    [
        (Role.RAYLET, 29.9, False),
        (Role.RAYLET, 30.0, True),
        (Role.DASHBOARD, 30.0, True),
        (Role.DASHBOARD_AGENT, 99.0, False),
        (Role.RUNTIME_ENV_AGENT, 99.0, False),
    ],
)
def test_a_process_that_stays_stopped_is_killed_unless_ray_would_end_the_node_with_it(
    role: Role, seconds: float, killed: bool
) -> None:
    action = decide(running(stopped=((role, seconds),)), T)
    if killed:
        assert action == Action(Step.KILL_PROCESS, f"{role.value} has been stopped for 30 s", role)
    else:
        assert action.step is Step.WAIT
