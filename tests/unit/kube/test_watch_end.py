"""What follows the end of a watch: the rules, and the pauses."""

from __future__ import annotations

import pytest

from rayward.kube.api_error import ApiError, from_response
from rayward.kube.watch_end import BackOff, Next, Pace, Pacing, Verdict, WatchEnd, classify_watch_end

WHAT = "pods at the cluster scope"


def verdict(
    error: BaseException | None, *, listing: bool = False, events: int = 0, lasted: float = 0.0
) -> Verdict:
    return classify_watch_end(WatchEnd(listing, error, events, lasted), WHAT)


@pytest.mark.parametrize(
    ("error", "events", "lasted", "expected"),
    [
        (None, 5, 300.0, (Next.RESUME, Pace.AT_ONCE, True)),
        (None, 0, 300.0, (Next.RESUME, Pace.AT_ONCE, True)),
        (None, 0, 0.1, (Next.RESUME, Pace.BACK_OFF, False)),
        (TimeoutError("ReadTimeout"), 0, 70.0, (Next.RESUME, Pace.AT_ONCE, True)),
        (TimeoutError("ConnectTimeout"), 0, 0.0, (Next.RESUME, Pace.BACK_OFF, False)),
        (ConnectionError("reset"), 3, 1.0, (Next.RESUME, Pace.BACK_OFF, True)),
        (ConnectionError("refused"), 0, 0.0, (Next.RESUME, Pace.BACK_OFF, False)),
        (ApiError(410, "Expired", "too old"), 0, 0.0, (Next.RELIST, Pace.BACK_OFF, False)),
        (ApiError(410, "Expired", "too old"), 2, 0.0, (Next.RELIST, Pace.BACK_OFF, True)),
        (ApiError(500, "InternalError", "etcd"), 0, 0.0, (Next.RESUME, Pace.BACK_OFF, False)),
        (ApiError(429, "TooManyRequests", ""), 0, 0.0, (Next.RESUME, Pace.BACK_OFF, False)),
        (ApiError(400, "BadRequest", "selector"), 0, 0.0, (Next.RELIST, Pace.BACK_OFF, False)),
        (ApiError(403, "Forbidden", "no"), 5, 0.0, (Next.RELIST, Pace.SLOWLY, False)),
        (ApiError(401, "Unauthorized", "no"), 0, 0.0, (Next.RELIST, Pace.SLOWLY, False)),
        (ApiError(404, "NotFound", "no"), 0, 0.0, (Next.RELIST, Pace.SLOWLY, False)),
        (KeyError("metadata"), 5, 100.0, (Next.RELIST, Pace.BACK_OFF, False)),
    ],
)
def test_every_end_has_its_answer(
    error: BaseException | None, events: int, lasted: float, expected: tuple[Next, Pace, bool]
) -> None:
    found = verdict(error, events=events, lasted=lasted)
    assert (found.next, found.pace, found.progress) == expected


@pytest.mark.parametrize(
    "error", [None, TimeoutError(), ConnectionError(), ApiError(500), ApiError(429), ApiError(410)]
)
def test_a_list_that_failed_is_made_again(error: BaseException | None) -> None:
    assert verdict(error, listing=True).next is Next.RELIST


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (
            ApiError(403, "Forbidden", "User x cannot"),
            f"no permission to list or watch {WHAT}: User x cannot",
        ),
        (
            ApiError(401, "Unauthorized", "no"),
            f"the API server does not accept our credentials for {WHAT}: no",
        ),
        (ApiError(404), f"the API server does not know {WHAT}: is the CustomResourceDefinition installed?"),
        (ConnectionError("refused"), f"cannot list or watch {WHAT}: refused"),
        (ApiError(410, "Expired", "old"), None),
        (None, None),
    ],
)
def test_people_read_what_is_wrong(error: BaseException | None, words: str | None) -> None:
    assert verdict(error).problem == words


def test_pauses_grow_jitter_and_start_anew_after_progress() -> None:
    back_off = BackOff(Pacing(), chance=lambda: 1.0)
    failed, went_well = Verdict(Next.RESUME, Pace.BACK_OFF, False), Verdict(Next.RESUME, Pace.BACK_OFF, True)
    assert [back_off.wait(failed) for _ in range(10)] == pytest.approx(
        [0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 12.8, 25.6, 30, 30]
    )
    assert back_off.wait(went_well) == 0.2
    lucky = BackOff(Pacing(), chance=lambda: 0.0)
    assert {lucky.wait(failed) for _ in range(40)} == {0.2}  # never hotter than this


def test_a_full_jitter_reaches_from_the_shortest_pause_to_the_ceiling() -> None:
    back_off = BackOff(Pacing(shortest=0.2, longest=30.0))
    failed = Verdict(Next.RELIST, Pace.BACK_OFF, False)
    for _ in range(20):
        back_off.wait(failed)
    pauses = [back_off.wait(failed) for _ in range(500)]
    assert min(pauses) < 3
    assert max(pauses) > 25
    assert max(pauses) <= 30


def test_who_lacks_permission_asks_slowly_and_who_is_told_to_wait_waits() -> None:
    back_off = BackOff(Pacing(), chance=lambda: 0.5)
    assert back_off.wait(Verdict(Next.RELIST, Pace.SLOWLY, False)) == 6.5
    told = classify_watch_end(WatchEnd(True, from_response(429, b"slow down", "7")), WHAT)
    assert back_off.wait(told) == 7.0
    assert back_off.wait(Verdict(Next.RESUME, Pace.AT_ONCE, True)) == 0.2


def test_a_refusal_that_is_no_status_keeps_its_text() -> None:
    error = from_response(502, b"<html>Bad Gateway</html>")
    assert (error.status, error.reason, error.message) == (502, "", "<html>Bad Gateway</html>")
    assert from_response(503, b'{"code":503,"details":{"retryAfterSeconds":2}}').retry_after == 2.0
