"""One SPDY connection of the serving side: streams that the peer opens, to be read, written and closed.

No window is kept in either direction: the library behind kubectl and the API server sends no window updates
and ignores those that it gets. What nobody reads is held back by not reading the connection any further.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable, Mapping

from kubelet.spdy import (
    PROTOCOL_ERROR,
    Codec,
    Data,
    Frame,
    GoAway,
    Ping,
    RstStream,
    SpdyError,
    SynReply,
    SynStream,
)

_MOST_HELD = 16 << 20
_CHUNK = 32 << 10


class Stream:
    """One stream. ``headers`` are those it was opened with, names in lower case."""

    def __init__(self, session: Session, number: int, headers: Mapping[str, str], fin: bool) -> None:
        self.number = number
        self.headers = headers
        self._session = session
        self._parts: deque[bytes] = deque()
        self._ended = fin
        self._closed = False
        self._news = asyncio.Event()

    async def read(self) -> bytes:
        """The next bytes; empty once the peer has ended the stream and all is read."""
        while not self._parts and not self._ended:
            self._news.clear()
            await self._news.wait()
        if not self._parts:
            return b""
        part = self._parts.popleft()
        self._session.let_go(len(part))
        return part

    async def write(self, data: bytes) -> None:
        """Send bytes, as fast as the peer takes them. Raises ConnectionError when it is gone."""
        for start in range(0, len(data), _CHUNK):
            if not self._closed:
                await self._session.send(Data(self.number, data[start : start + _CHUNK]))

    async def close(self) -> None:
        """End this direction of the stream; once is enough."""
        if not self._closed:
            self._closed = True
            if self._ended:
                self._session.forget(self.number)
            with contextlib.suppress(ConnectionError):
                await self._session.send(Data(self.number, b"", fin=True))

    def take(self, data: bytes, fin: bool) -> None:
        """Bytes came from the peer."""
        if data and not self._ended:
            self._parts.append(data)
            self._session.hold(len(data))
        self._ended = self._ended or fin
        if self._ended and self._closed:
            self._session.forget(self.number)
        self._news.set()

    def break_off(self) -> None:
        """The peer is gone or does not want the stream any more."""
        self._closed = True
        self.take(b"", True)


class Session:
    """The connection. `run` serves it until the peer goes; ``on_stream`` is told of each new stream."""

    def __init__(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        on_stream: Callable[[Stream], None],
    ) -> None:
        self._reader, self._writer, self._on_stream = reader, writer, on_stream
        self._codec = Codec()
        self._streams: dict[int, Stream] = {}
        self._last = 0
        self._held = 0
        self._room = asyncio.Event()
        self._room.set()
        self.over = asyncio.Event()

    async def run(self) -> None:
        """Read until the peer hangs up, or says what cannot be understood."""
        try:
            while data := await self._reader.read(1 << 16):
                for frame in self._codec.feed(data):
                    await self._receive(frame)
                await self._room.wait()
        except SpdyError:
            with contextlib.suppress(ConnectionError):
                await self.send(GoAway(self._last, PROTOCOL_ERROR))
        except (ConnectionError, TimeoutError):
            pass  # a peer that is gone is gone
        finally:
            self.over.set()
            for stream in tuple(self._streams.values()):
                stream.break_off()

    async def _receive(self, frame: Frame) -> None:
        if isinstance(frame, Data):
            stream = self._streams.get(frame.stream)
            if stream is not None:
                stream.take(frame.data, frame.fin)
        elif isinstance(frame, SynStream):
            if frame.stream % 2 == 0 or frame.stream <= self._last:
                await self.send(RstStream(frame.stream, PROTOCOL_ERROR))
                return
            stream = Stream(self, frame.stream, frame.headers, frame.fin)
            self._streams[frame.stream], self._last = stream, frame.stream
            await self.send(SynReply(frame.stream))
            self._on_stream(stream)
        elif isinstance(frame, Ping) and frame.number % 2 == 1:
            await self.send(frame)
        elif isinstance(frame, RstStream) and frame.stream in self._streams:
            self._streams[frame.stream].break_off()
        # Settings and window updates concern windows, a goaway new streams of ours: there are none.

    async def send(self, frame: Frame) -> None:
        """Send one frame; raises ConnectionError when the peer is gone."""
        if self.over.is_set():
            raise ConnectionResetError("the peer of the SPDY connection is gone")
        self._writer.write(self._codec.encode(frame))
        await self._writer.drain()

    def forget(self, number: int) -> None:
        """A stream is over in both directions."""
        self._streams.pop(number, None)

    def hold(self, size: int) -> None:
        """So many bytes wait for somebody who reads them."""
        self._held += size
        if self._held > _MOST_HELD:
            self._room.clear()

    def let_go(self, size: int) -> None:
        """So many were read."""
        self._held -= size
        if self._held <= _MOST_HELD:
            self._room.set()
