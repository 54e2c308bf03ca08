"""SPDY/3.1 as the tests' kubelet speaks it: frames against fixed bytes, sessions over a socket."""

from __future__ import annotations

import asyncio
import struct
import zlib
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from kubelet import spdy
from kubelet.spdy import (
    Codec,
    Data,
    Frame,
    GoAway,
    Headers,
    Ping,
    RstStream,
    Settings,
    SpdyError,
    SynReply,
    SynStream,
    Unknown,
    WindowUpdate,
)
from kubelet.spdy_session import Session, Stream

# A SYN_STREAM for stream 1, by hand: header, id, no parent, priority 0, then one pair compressed afresh.
PAIRS = struct.pack(">I", 1) + struct.pack(">I", 10) + b"streamtype" + struct.pack(">I", 5) + b"error"


def by_hand(pairs: bytes) -> bytes:
    deflate = zlib.compressobj(zdict=spdy.DICTIONARY)
    block = deflate.compress(pairs) + deflate.flush(zlib.Z_SYNC_FLUSH)
    return b"\x80\x03\x00\x01\x00" + struct.pack(">I", 10 + len(block))[1:] + b"\0\0\0\1\0\0\0\0\0\0" + block


def test_the_dictionary_is_the_protocols() -> None:
    # Every SPDY/3 header block starts with these six bytes: zlib's two, then the dictionary's Adler-32.
    block = Codec().encode(SynReply(1, {"a": "b"}))[12:]
    assert block[:6].hex() == "78bbe3c6a7c2"


def test_a_stream_opened_by_hand_is_understood() -> None:
    assert list(Codec().feed(by_hand(PAIRS))) == [SynStream(1, {"streamtype": "error"})]


FRAMES: list[tuple[Frame, str]] = [
    (Data(5, b"abc"), "00000005 00000003 616263"),
    (Data(5, b"", fin=True), "00000005 01000000"),
    (RstStream(3, 5), "80030003 00000008 00000003 00000005"),
    (Settings({7: 65536}), "80030004 0000000c 00000001 00000007 00010000"),
    (Ping(9), "80030006 00000004 00000009"),
    (GoAway(7, 1), "80030007 00000008 00000007 00000001"),
    (WindowUpdate(1, 4096), "80030009 00000008 00000001 00001000"),
    (Unknown(11), "8003000b 00000000"),
]


@pytest.mark.parametrize(("frame", "text"), FRAMES, ids=lambda item: type(item).__name__)
def test_frames_are_the_bytes_of_the_protocol(frame: Frame, text: str) -> None:
    assert Codec().encode(frame) == bytes.fromhex(text)
    assert list(Codec().feed(bytes.fromhex(text))) == [frame]


def test_frames_come_out_however_the_bytes_are_cut() -> None:
    frames: list[Frame] = [
        SynStream(1, {"streamtype": "data", "port": "8080"}),
        SynStream(3, {"streamtype": "data", "port": "8080", "täg": "ü"}, fin=True, unidirectional=True),
        SynReply(1, {}),
        Data(1, bytes(range(256)) * 9),
        Headers(1, {"a": ""}, fin=True),
        Ping(1),
    ]
    sender = Codec()
    stream = b"".join(sender.encode(frame) for frame in frames)
    for size in (1, 2, 7, 100, len(stream)):
        receiver = Codec()
        cuts = (stream[start : start + size] for start in range(0, len(stream), size))
        assert [frame for cut in cuts for frame in receiver.feed(cut)] == frames


BROKEN = {
    "another version": "80020006 00000004 00000001",
    "an enormous control frame": "80030001 00ffffff",
    "no zlib": "80030002 00000008 00000001 00000000",
    "too short for its type": "80030006 00000002 0000",
    "settings that are not there": "80030004 00000004 00000009",
}


@pytest.mark.parametrize("text", BROKEN.values(), ids=BROKEN.keys())
def test_what_is_no_spdy_is_refused(text: str) -> None:
    with pytest.raises(SpdyError):
        list(Codec().feed(bytes.fromhex(text)))


@pytest.mark.parametrize(
    "pairs", [PAIRS[:-3], struct.pack(">I", 2) + PAIRS[4:], struct.pack(">II", 1, 1 << 31)]
)
def test_a_header_block_that_ends_too_early_is_refused(pairs: bytes) -> None:
    with pytest.raises(SpdyError):
        list(Codec().feed(by_hand(pairs)))


def test_a_header_block_that_swells_is_refused() -> None:
    with pytest.raises(SpdyError, match="more than"):
        list(Codec().feed(by_hand(struct.pack(">III", 1, 1, 1 << 22) + b"a" * (1 << 22))))


# -- sessions ----------------------------------------------------------------------------------------------

Peer = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Client:
    """The other side, as plain as can be."""

    def __init__(self, peer: Peer) -> None:
        self.reader, self.writer = peer
        self.codec = Codec()
        self._pending: list[Frame] = []

    async def send(self, *frames: Frame) -> None:
        self.writer.write(b"".join(self.codec.encode(frame) for frame in frames))
        await self.writer.drain()

    async def frame(self) -> Frame:
        while not self._pending:
            data = await asyncio.wait_for(self.reader.read(1 << 16), 10)
            assert data, "the server hung up"
            self._pending += self.codec.feed(data)
        return self._pending.pop(0)


def serve(on_stream: Callable[[Stream], Any], client: Callable[[Client], Coroutine[Any, Any, None]]) -> None:
    """Run a session on a real socket with ``client`` at the other end of it."""

    async def both() -> None:
        ended = asyncio.Event()

        async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await Session(reader, writer, on_stream).run()
            writer.close()
            ended.set()

        server = await asyncio.start_server(accept, "127.0.0.1", 0)
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        try:
            await client(Client((reader, writer)))
        finally:
            writer.close()
            await asyncio.wait_for(ended.wait(), 10)
            server.close()

    asyncio.run(asyncio.wait_for(both(), 30))


def test_a_stream_is_answered_read_and_ended() -> None:
    tasks = []

    async def echo(stream: Stream) -> None:
        while data := await stream.read():
            await stream.write(stream.headers["streamtype"].encode() + b":" + data)
        await stream.close()
        await stream.close()

    async def client(peer: Client) -> None:
        await peer.send(SynStream(1, {"StreamType": "data"}), Data(1, b"one"), Data(1, b"two", fin=True))
        assert await peer.frame() == SynReply(1)
        got = []
        while not (got and got[-1].fin):
            frame = await peer.frame()
            assert isinstance(frame, Data)
            got.append(frame)
        assert b"".join(frame.data for frame in got) == b"data:onedata:two"
        await peer.send(Settings({7: 1}), WindowUpdate(0, 5), Headers(1, {}), Unknown(99), Ping(2), Ping(7))
        assert await peer.frame() == Ping(7), "only the peer's own pings, the odd ones, are sent back"

    serve(lambda stream: tasks.append(asyncio.ensure_future(echo(stream))), client)


def test_a_wrong_stream_number_is_reset_and_the_others_go_on() -> None:
    async def client(peer: Client) -> None:
        await peer.send(SynStream(5), SynStream(4), SynStream(5), SynStream(7))
        assert [await peer.frame() for _ in range(4)] == [
            SynReply(5),
            RstStream(4, spdy.PROTOCOL_ERROR),
            RstStream(5, spdy.PROTOCOL_ERROR),
            SynReply(7),
        ]

    serve(lambda stream: None, client)


def test_nonsense_ends_the_connection_with_a_goaway() -> None:
    async def client(peer: Client) -> None:
        peer.writer.write(bytes.fromhex(BROKEN["another version"]))
        assert await peer.frame() == GoAway(0, spdy.PROTOCOL_ERROR)
        assert await asyncio.wait_for(peer.reader.read(), 10) == b""

    serve(lambda stream: None, client)


def test_a_reader_ends_when_the_peer_resets_or_goes() -> None:
    read: list[bytes] = []
    tasks: list[asyncio.Future[None]] = []

    async def collect(stream: Stream) -> None:
        while data := await stream.read():
            read.append(data)
        read.append(b"end of %d" % stream.number)

    async def client(peer: Client) -> None:
        await peer.send(SynStream(1), SynStream(3), Data(1, b"a"), RstStream(1, 5), Data(1, b"late"))
        while b"end of 1" not in read:
            await asyncio.sleep(0.01)
        peer.writer.close()
        await asyncio.wait_for(asyncio.gather(*tasks), 10)

    serve(lambda stream: tasks.append(asyncio.ensure_future(collect(stream))), client)
    assert read == [b"a", b"end of 1", b"end of 3"]
