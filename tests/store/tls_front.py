"""A TLS end in front of a plain redis-server (PyPI's binary has no TLS); client certificates on demand."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

BOUND_S = 10.0


def certificate(folder: Path, name: str, alternative: str = "IP:127.0.0.1") -> Path:
    """A self-signed certificate, its own CA: ``folder/NAME.pem`` and ``folder/NAME.key``."""
    subject = ["-subj", f"/CN={name}", "-addext", f"subjectAltName={alternative}"]
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
    files = ["-keyout", str(folder / f"{name}.key"), "-out", str(folder / f"{name}.pem"), "-days", "2"]
    subprocess.run([*command, *files, *subject], check=True, capture_output=True, timeout=BOUND_S)
    return folder / f"{name}.pem"


@contextlib.contextmanager
def tls_front(cert: Path, backend: int, client_ca: Path | None = None) -> Iterator[int]:
    """The port of a TLS listener that passes bytes to ``backend``; with ``client_ca`` it asks who comes.

    One thread for all of it: an SSL object must not be read in one thread and written in another.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, cert.with_suffix(".key"))
    if client_ca is not None:
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(client_ca)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.CancelledError):  # cancelled: the test is over
            theirs, ours = await asyncio.open_connection("127.0.0.1", backend)
            await asyncio.gather(_pump(reader, ours), _pump(theirs, writer))

    loop = asyncio.new_event_loop()
    server = loop.run_until_complete(asyncio.start_server(serve, "127.0.0.1", 0, ssl=context))
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        asyncio.run_coroutine_threadsafe(_end(server), loop).result(BOUND_S)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(BOUND_S)
        loop.close()


async def _pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
    try:
        with contextlib.suppress(OSError):
            while chunk := await source.read(65536):
                sink.write(chunk)
                await sink.drain()
    finally:
        sink.close()


async def _end(server: asyncio.Server) -> None:
    server.close()
    serving = asyncio.all_tasks() - {asyncio.current_task()}
    for task in serving:
        task.cancel()
    await asyncio.gather(*serving, return_exceptions=True)
