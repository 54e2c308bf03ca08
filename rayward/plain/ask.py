"""Asks agents over HTTP, one after the other, with a bound on each question. Decides nothing about answers.

No proxy of the environment is ever used: agents are on the cluster's own network.
"""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from rayward.errors import RaywardError
from rayward.plain.places import Place, join_place

ASK_TIMEOUT_S = 2.0
ACT_TIMEOUT_S = 30.0
_MAX_ANSWER = 4_000_000


class NoAnswer(RaywardError):
    """No agent of the cluster answered at all."""


class Unreachable(Exception):
    """One agent did not answer; the text says why in a few words. ``sent``: the request may have arrived."""

    def __init__(self, words: str, sent: bool = False) -> None:
        super().__init__(words)
        self.sent = sent


@dataclass(frozen=True)
class Answer:
    """What one agent answered: HTTP code and JSON body (empty when it was no JSON object)."""

    place: Place
    code: int
    body: dict[str, Any] = field(default_factory=dict)

    @property
    def fault(self) -> str:
        """Its error in its own words."""
        return str(self.body.get("error") or f"it answered with HTTP {self.code}")


def ask(
    place: Place,
    path: str,
    *,
    method: str = "GET",
    body: dict[str, Any] | None = None,
    token: str = "",
    timeout: float = ASK_TIMEOUT_S,
) -> Answer:
    """One request to one agent; raises Unreachable when no HTTP answer comes within ``timeout`` per step."""
    connection = http.client.HTTPConnection(*place, timeout=timeout)
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    text, sent = None, False
    if method == "POST":
        text, headers["Content-Type"] = json.dumps(body or {}), "application/json"
    try:
        connection.connect()
        sent = True
        connection.request(method, path, text, headers)
        reply = connection.getresponse()
        raw = reply.read(_MAX_ANSWER)
    except TimeoutError:
        raise Unreachable(f"no answer within {timeout:g} s", sent) from None
    except (OSError, http.client.HTTPException) as error:
        raise Unreachable(_words(error), sent) from error
    finally:
        connection.close()
    try:
        found = json.loads(raw)
    except ValueError:
        found = {}
    return Answer(place, reply.status, found if isinstance(found, dict) else {})


def _words(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror.lower()
    return str(error).lower() or type(error).__name__


def status_of(place: Place, timeout: float = ASK_TIMEOUT_S) -> dict[str, Any] | None:
    """The ``/status`` of the agent there; None when it does not answer."""
    try:
        answer = ask(place, "/status", timeout=timeout)
    except Unreachable:
        return None
    return answer.body if answer.code == 200 else None


@dataclass(frozen=True)
class Heads:
    """The agents of a cluster's heads, as this machine reaches them, and the token that a POST carries.
    ``source``: where the addresses came from, for messages."""

    places: tuple[Place, ...]
    source: str
    token: str = field(default="", repr=False)

    def get(self, path: str, timeout: float = ASK_TIMEOUT_S) -> Answer:
        """The first good answer, the heads asked in turn. Raises NoAnswer when no head answers at all, and
        RaywardError with the last one's words when none answers well."""
        return self._first_good(list(self.answers(path, timeout)), path)

    def answers(self, path: str, timeout: float = ASK_TIMEOUT_S) -> Iterator[Answer | Unreachable]:
        """Each head's answer in turn, up to the first good one."""
        for place in self.places:
            try:
                answer = ask(place, path, token=self.token, timeout=timeout)
            except Unreachable as error:
                yield Unreachable(f"{join_place(place)}: {error}", error.sent)
                continue
            yield answer
            if answer.code == 200:
                return

    def post(self, path: str, body: dict[str, Any], first: Sequence[Place] = ()) -> Answer:
        """Send it to ``first`` (the leader, say), then to the heads in turn, until one accepts or refuses it.

        A head that cannot (503), is not the one that is meant (412) or cannot be reached leaves it to the
        next. One that got it and did not answer does not, or it might be done twice: raises Unreachable
        then. Raises like ``get`` otherwise.
        """
        seen: list[Answer | Unreachable] = []
        for place in dict.fromkeys((*first, *self.places)):
            try:
                answer = ask(place, path, method="POST", body=body, token=self.token, timeout=ACT_TIMEOUT_S)
            except Unreachable as error:
                if error.sent:
                    raise Unreachable(f"{join_place(place)}: {error}", True) from error
                seen.append(Unreachable(f"{join_place(place)}: {error}"))
                continue
            seen.append(answer)
            if answer.code not in (412, 503):
                break
        return self._first_good(seen, path)

    def _first_good(self, seen: Sequence[Answer | Unreachable], path: str) -> Answer:
        answered = [one for one in seen if isinstance(one, Answer)]
        if not answered:
            raise NoAnswer(
                "no agent answers: " + "; ".join(str(one) for one in seen),
                where=self.source,
                todo="are the heads up, is the agent's port open from here? `--agent HOST:PORT` asks another",
            )
        if answered[-1].code == 200:
            return answered[-1]
        # The last one has decided, unless it only passed the question on.
        told = answered[0] if answered[-1].code in (412, 503) else answered[-1]
        where, todo = f"agent {join_place(told.place)}", told.body.get("todo")
        if told.code in (401, 403):
            todo = todo or "set RAYWARD_AGENT_TOKEN, or agent.token in the config"
        if told.code == 404:
            raise RaywardError(
                f"it knows no {path}: it has no lease (no Redis), or is an older rayward", where=where
            )
        raise RaywardError(told.fault, where=where, todo=todo)
