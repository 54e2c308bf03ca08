"""Exec and port-forward over SPDY streams: which stream is which, and the processes and sockets behind."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import json
import os
import pty
import signal
import socket
import struct
import termios
from collections.abc import Coroutine
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kubelet.spdy_session import Session, Stream
from rayward.errors import RaywardError
from rayward.local.execute import ExecPlan, exec_command
from rayward.local.network import in_network_of

_STREAMS_S = 30.0
_LAST_OUTPUT_S = 2.0
_HANG_UP_S = 5.0
_CHUNK = 1 << 15


def exit_status(code: int) -> bytes:
    """What the v4 protocol says on the error stream about how a command ended."""
    if code == 0:
        return json.dumps({"metadata": {}, "status": "Success"}).encode()
    status = {
        "metadata": {},
        "status": "Failure",
        "reason": "NonZeroExitCode",
        "message": f"command terminated with non-zero exit code: exit status {code}",
        "details": {"causes": [{"reason": "ExitCode", "message": str(code)}]},
    }
    return json.dumps(status).encode()


def failure(message: str) -> bytes:
    """The same about a command that could not be started."""
    status = {"metadata": {}, "status": "Failure", "reason": "InternalError", "message": message, "code": 500}
    return json.dumps(status).encode()


async def _write_all(descriptor: int, stream: Stream) -> None:
    """From a stream into a pipe or terminal, until either end is reached."""
    loop = asyncio.get_running_loop()
    protocol = asyncio.StreamReaderProtocol(asyncio.StreamReader())
    pipe = open(os.dup(descriptor), "wb", buffering=0)  # noqa: SIM115 (the transport closes it)
    transport, _ = await loop.connect_write_pipe(lambda: protocol, pipe)
    writer = asyncio.StreamWriter(transport, protocol, None, loop)
    with contextlib.closing(transport), contextlib.suppress(OSError):
        while data := await stream.read():
            writer.write(data)
            await writer.drain()


async def _read_all(descriptor: int, stream: Stream) -> None:
    """From a pipe or terminal into a stream, until the end; a terminal's is an error (EIO)."""
    reader = asyncio.StreamReader()
    pipe = open(os.dup(descriptor), "rb", buffering=0)  # noqa: SIM115 (the transport closes it)
    loop = asyncio.get_running_loop()
    transport, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), pipe)
    with contextlib.closing(transport), contextlib.suppress(OSError):
        while data := await reader.read(_CHUNK):
            await stream.write(data)


@dataclass
class ExecCall:
    """One exec: collects the peer's streams by their type, then runs the command between them."""

    folder: Path
    container: str
    argv: tuple[str, ...]
    stdin: bool = False
    stdout: bool = False
    stderr: bool = False
    tty: bool = False
    _streams: dict[str, Stream] = field(default_factory=dict)
    _complete: asyncio.Event = field(default_factory=asyncio.Event)

    def take(self, stream: Stream) -> None:
        """The peer opened a stream."""
        self._streams[stream.headers.get("streamtype", "")] = stream
        if self._wanted() <= set(self._streams):
            self._complete.set()

    def _wanted(self) -> set[str]:
        flags = {"stdin": self.stdin, "stdout": self.stdout, "stderr": self.stderr}
        return {"error"} | {name for name, wanted in flags.items() if wanted}

    async def run(self, session: Session) -> None:
        """Serve the session to its end."""
        serving = asyncio.create_task(session.run())
        try:
            await asyncio.wait_for(self._complete.wait(), _STREAMS_S)
            verdict = await self._execute(session)
            for name in ("stdout", "stderr"):
                if name in self._streams:
                    await self._streams[name].close()
            await self._streams["error"].write(verdict)
            await self._streams["error"].close()
            # The peer hangs up once it has read everything; to be first would lose what is on its way.
            await asyncio.wait_for(session.over.wait(), _HANG_UP_S)
        except (asyncio.TimeoutError, ConnectionError):
            pass
        finally:
            serving.cancel()
            await asyncio.gather(serving, return_exceptions=True)

    async def _execute(self, session: Session) -> bytes:
        try:
            plan = exec_command(self.folder, self.container, self.argv, tty=self.tty)
            ends = _Ends(self.tty, self.stdin)
        except (RaywardError, OSError) as error:
            return failure(str(error))
        try:
            process = await _start(plan, ends)
        except OSError as error:
            ends.close()
            return failure(f"the command cannot be executed: {error}")
        ends.close_theirs()
        jobs = [asyncio.create_task(job) for job in self._pumps(ends)]
        feed = asyncio.create_task(self._feed(ends)) if self.stdin else None
        gone = asyncio.create_task(session.over.wait())
        ended = asyncio.create_task(process.wait())
        try:
            await asyncio.wait((ended, gone), return_when=asyncio.FIRST_COMPLETED)
            if not ended.done():
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
            code = await ended
            # What the command left running may hold its output open for ever.
            if jobs:
                await asyncio.wait(jobs, timeout=_LAST_OUTPUT_S)
        finally:
            for task in (*jobs, *filter(None, (feed, gone))):
                task.cancel()
            await asyncio.gather(*jobs, *filter(None, (feed, gone)), return_exceptions=True)
            ends.close()
        return exit_status(code if code >= 0 else 128 - code)

    def _pumps(self, ends: _Ends) -> list[Coroutine[Any, Any, None]]:
        found = []
        for name, descriptor in (("stdout", ends.stdout), ("stderr", ends.stderr)):
            if descriptor is not None and name in self._streams:
                found.append(_read_all(descriptor, self._streams[name]))
        return found

    async def _feed(self, ends: _Ends) -> None:
        if ends.stdin is not None:
            await _write_all(ends.stdin, self._streams["stdin"])
            ends.end_stdin()


class _Ends:
    """Our ends of a command's standard streams, and its own until it has them."""

    def __init__(self, tty: bool, stdin: bool) -> None:
        self.tty = tty
        if tty:
            ours, theirs = pty.openpty()
            fcntl.ioctl(ours, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
            self.stdin, self.stdout, self.stderr = ours, ours, None
            self.theirs = (theirs, theirs, theirs)
        else:
            read, self.stdin = os.pipe() if stdin else (os.open(os.devnull, os.O_RDONLY), None)
            self.stdout, out = os.pipe()
            self.stderr, err = os.pipe()
            self.theirs = (read, out, err)
        mine = {end for end in (self.stdin, self.stdout, self.stderr) if end is not None}
        self._open = mine | set(self.theirs)

    def close_theirs(self) -> None:
        """The command has its ends now."""
        self._close(*self.theirs)

    def end_stdin(self) -> None:
        """The command's input ends here; a terminal's is told so by its own character."""
        if self.tty and self.stdin is not None:
            with contextlib.suppress(OSError):
                os.write(self.stdin, b"\x04")
        elif self.stdin is not None:
            self._close(self.stdin)

    def _close(self, *ends: int) -> None:
        for end in set(ends) & self._open:
            self._open.discard(end)
            os.close(end)

    def close(self) -> None:
        """Close what is open yet."""
        self._close(*tuple(self._open))


async def _start(plan: ExecPlan, ends: _Ends) -> asyncio.subprocess.Process:
    def own_terminal() -> None:
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)

    return await asyncio.create_subprocess_exec(
        *plan.argv,
        env=plan.env,
        cwd=plan.cwd,
        stdin=ends.theirs[0],
        stdout=ends.theirs[1],
        stderr=ends.theirs[2],
        start_new_session=True,
        preexec_fn=own_terminal if ends.tty else None,
    )


class PortForward:
    """One port-forward: a pair of streams, error and data, for each connection into the Pod."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._halves: dict[str, dict[str, Stream]] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def take(self, stream: Stream) -> None:
        """The peer opened a stream; with both of a request there, its connection begins."""
        request = stream.headers.get("requestid", "")
        pair = self._halves.setdefault(request, {})
        pair[stream.headers.get("streamtype", "")] = stream
        if {"error", "data"} <= set(pair):
            del self._halves[request]
            task = asyncio.create_task(self._connect(pair["data"], pair["error"]))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def run(self, session: Session) -> None:
        """Serve until the peer goes, which ends all connections."""
        try:
            await session.run()
        finally:
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _connect(self, data: Stream, error: Stream) -> None:
        port = int(data.headers.get("port", "0"))
        try:
            made = await asyncio.to_thread(
                in_network_of, self._pid, lambda: socket.create_connection(("127.0.0.1", port), 10)
            )
        except OSError as problem:
            with contextlib.suppress(ConnectionError):
                await error.write(f"port {port} of the Pod does not accept: {problem}".encode())
        else:
            await self._pass(made, data)
        await data.close()
        await error.close()

    async def _pass(self, made: socket.socket, data: Stream) -> None:
        made.setblocking(False)
        reader, writer = await asyncio.open_connection(sock=made)

        async def inward() -> None:
            while received := await data.read():
                writer.write(received)
                await writer.drain()
            writer.write_eof()

        async def outward() -> None:
            while sent := await reader.read(_CHUNK):
                await data.write(sent)
            await data.close()

        with contextlib.closing(writer), contextlib.suppress(OSError):
            # The Pod's end decides: a client may end its own half long before the answer is there.
            incoming = asyncio.create_task(inward())
            try:
                await outward()
            finally:
                incoming.cancel()
                await asyncio.gather(incoming, return_exceptions=True)
