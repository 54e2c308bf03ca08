"""When a connection through the proxy leaves its endpoint, to the moment: the loop is turned by the test."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable

from rayward.agent.relay import new_scratch
from rayward.local.service_link import Link
from rayward.local.service_rules import QUIET_S, Endpoint

ASK = b"GET / HTTP/1.1\r\n\r\n"
ANSWER = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"
LAST = b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 2\r\n\r\nok"


class Ends:
    """A link between two socket pairs, and the far ends of both; ``ended`` is what it said at its end."""

    def __init__(self) -> None:
        self.client, near_client = socket.socketpair()
        near_server, self.server = socket.socketpair()
        for sock in (self.client, near_client, near_server, self.server):
            sock.setblocking(False)
        self.near_client = near_client
        self.ended: list[tuple[Link, socket.socket | None]] = []
        self.link = Link(
            near_client,
            near_server,
            Endpoint("", 0, ""),
            new_scratch(),
            lambda *said: self.ended.append(said),
        )
        self.link.start()

    async def take(self, sock: socket.socket, count: int) -> bytes:
        found = b""
        while len(found) < count:
            part = await asyncio.wait_for(asyncio.get_running_loop().sock_recv(sock, count), 10)
            if not part:
                break
            found += part
        return found

    async def exchange(self, answer: bytes = ANSWER) -> None:
        """One question and its answer."""
        self.client.sendall(ASK)
        assert await self.take(self.server, len(ASK)) == ASK
        self.server.sendall(answer)
        assert await self.take(self.client, len(answer)) == answer

    @property
    def moved(self) -> bool:
        """It has left its server once, and the client is still there to be led to another one."""
        return self.ended == [(self.link, self.near_client)] and self.near_client.fileno() >= 0

    async def until_quiet(self) -> None:
        loop = asyncio.get_running_loop()
        until = loop.time() + QUIET_S
        while loop.time() < until:
            await asyncio.sleep(QUIET_S / 10)


def run(story: Callable[[Ends], Awaitable[None]]) -> None:
    """A story in an event loop of its own, with a new link."""

    async def told() -> None:
        ends = Ends()
        try:
            await story(ends)
        finally:
            ends.link.cut()
            for sock in (ends.client, ends.near_client, ends.server):
                sock.close()

    asyncio.run(told())


def test_a_quiet_client_is_handed_over_at_once() -> None:
    async def story(ends: Ends) -> None:
        await ends.exchange()
        await ends.until_quiet()
        ends.link.leave(True)
        assert ends.moved
        assert await ends.take(ends.server, 1) == b""
        ends.client.sendall(ASK)  # at this very moment: nothing is lost
        assert await ends.take(ends.near_client, len(ASK)) == ASK

    run(story)


def test_a_client_that_will_not_ask_again_gets_its_end_at_once() -> None:
    async def story(ends: Ends) -> None:
        await ends.exchange(LAST)
        await ends.until_quiet()
        ends.link.leave(True)
        assert ends.ended == [(ends.link, None)]
        assert await ends.take(ends.client, 1) == b""

    run(story)


def test_a_client_that_has_said_its_last_word_is_not_handed_over() -> None:
    async def story(ends: Ends) -> None:
        ends.client.sendall(ASK)
        ends.client.shutdown(socket.SHUT_WR)
        assert await ends.take(ends.server, 999) == ASK
        ends.link.leave(True)
        ends.server.sendall(ANSWER)
        assert await ends.take(ends.client, 999) == ANSWER
        assert ends.ended == [(ends.link, None)]

    run(story)


def test_a_question_that_has_come_but_was_not_read_yet_keeps_it() -> None:
    async def story(ends: Ends) -> None:
        await ends.exchange()
        await ends.until_quiet()
        ends.client.sendall(ASK)
        ends.link.leave(True)  # the loop has not turned: nobody has read the question
        assert ends.ended == []
        assert await ends.take(ends.server, len(ASK)) == ASK
        ends.server.sendall(ANSWER)
        assert await ends.take(ends.client, len(ANSWER)) == ANSWER
        assert ends.moved

    run(story)


def test_right_behind_an_answer_it_leaves_before_its_client_can_ask_again() -> None:
    async def story(ends: Ends) -> None:
        ends.client.sendall(ASK)
        assert await ends.take(ends.server, len(ASK)) == ASK
        ends.link.leave(True)
        ends.server.sendall(ANSWER)
        assert await ends.take(ends.client, len(ANSWER)) == ANSWER
        assert ends.moved

    run(story)


def test_an_answer_that_its_reader_has_not_taken_keeps_it() -> None:
    async def story(ends: Ends) -> None:
        # More than the kernel holds for the reader, and all of it read from the server.
        body = b"x" * 400_000
        answer = b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(body) + body
        ends.client.sendall(ASK)
        assert await ends.take(ends.server, len(ASK)) == ASK
        await asyncio.get_running_loop().sock_sendall(ends.server, answer)
        await ends.until_quiet()
        ends.link.leave(True)
        assert ends.ended == []
        assert await ends.take(ends.client, len(answer)) == answer
        await ends.until_quiet()
        assert ends.moved

    run(story)


def test_one_that_may_stay_after_all_stays() -> None:
    async def story(ends: Ends) -> None:
        await ends.exchange()
        ends.link.leave(True)
        ends.link.leave(False)
        await ends.until_quiet()
        await ends.exchange()
        assert ends.ended == []

    run(story)


def test_it_ends_but_once() -> None:
    async def story(ends: Ends) -> None:
        ends.link.cut()
        ends.link.cut()
        ends.link.leave(True)
        assert ends.ended == [(ends.link, None)]

    run(story)
