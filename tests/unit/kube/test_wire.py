"""What the API server sends, whole or cut anywhere, gives the same objects."""

from __future__ import annotations

import json
import random

import pytest

from rayward.kube.api_error import ApiError
from rayward.kube.wire import WatchLines, page_of


def test_events_are_the_same_wherever_the_bytes_are_cut() -> None:
    sent = [{"type": "ADDED", "object": {"name": "ü" * number * 50, "n": number}} for number in range(20)]
    content = b"".join(json.dumps(event, ensure_ascii=False).encode() + b"\n" for event in sent) + b"\n"
    for seed in range(50):
        chance, lines, found, at = random.Random(seed), WatchLines(), [], 0
        while at < len(content):
            size = chance.choice((1, 7, 100, 5000))
            found += list(lines.events(content[at : at + size]))
            at += size
        lines.end()
        assert [{"type": event.type, "object": event.object} for event in found] == sent


def test_what_came_before_an_error_is_given_first() -> None:
    lines = WatchLines().events(
        b'{"type":"ADDED","object":{}}\n{"type":"ERROR","object":{"code":410,"reason":"Expired"}}\n'
    )
    assert next(lines).type == "ADDED"
    with pytest.raises(ApiError) as gone:
        next(lines)
    assert gone.value.status == 410


@pytest.mark.parametrize("line", [b"<html>\n", b'{"type":"ADDED"}\n', b"[]\n"])
def test_a_line_that_is_no_event_is_a_broken_connection(line: bytes) -> None:
    with pytest.raises(ConnectionError, match="is not what was asked for"):
        list(WatchLines().events(line))


def test_an_end_within_an_event_is_a_broken_connection() -> None:
    lines = WatchLines()
    assert list(lines.events(b'{"type":')) == []
    with pytest.raises(ConnectionError, match="in the middle of an event"):
        lines.end()


def test_a_page_gives_its_objects_and_where_the_next_one_is() -> None:
    page = page_of(b'{"metadata":{"resourceVersion":"7","continue":"x"},"items":[{"a":1},{"b":2}]}')
    assert (page.items, list(page)) == (({"a": 1}, {"b": 2}), [{"a": 1}, {"b": 2}])
    assert (page.resource_version, page.continue_) == ("7", "x")
    assert page_of(b'{"metadata":{"resourceVersion":"7"},"items":null}').items == ()
    for nonsense in (b"<html>", b'{"items":7}', b"[]"):
        with pytest.raises(ConnectionError):
            page_of(nonsense)
