"""The API server's door for Pods: passes bytes from port 443 of their gateway to where the server listens."""

from __future__ import annotations

import asyncio
import contextlib
from urllib.parse import urlsplit

PORT = 443


class ApiDoor:
    """A listener per kubelet; connections end with it."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._target = parts.hostname or "127.0.0.1", parts.port or 443
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self, address: str) -> None:
        """Listen on the Pods' gateway; raises OSError when the port is taken there."""
        self._server = await asyncio.start_server(self._accept, address, PORT)

    async def stop(self) -> None:
        """End it, and whatever goes through."""
        if self._server is not None:
            self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        with contextlib.closing(writer), contextlib.suppress(OSError):
            # The API server may be away: the Pod's connection ends then.
            there, back = await asyncio.open_connection(*self._target)
            with contextlib.closing(back):
                await asyncio.gather(pump(reader, back), pump(there, writer))


async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Bytes from one to the other until the end, which is passed on too."""
    try:
        while data := await reader.read(1 << 16):
            writer.write(data)
            await writer.drain()
    except OSError:
        pass
    finally:
        with contextlib.suppress(OSError, RuntimeError):
            writer.write_eof()
