"""A TLS end in front of a plain redis-server (PyPI's binary has no TLS); client certificates on demand."""

from __future__ import annotations

import contextlib
import socket
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
    """The port of a TLS listener that passes bytes to ``backend``; with ``client_ca`` it asks who comes."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, cert.with_suffix(".key"))
    if client_ca is not None:
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(client_ca)
    workers: list[threading.Thread] = []

    def serve(peer: socket.socket) -> None:
        peer.settimeout(BOUND_S)
        with (
            contextlib.suppress(OSError),
            context.wrap_socket(peer, server_side=True) as inner,
            socket.create_connection(("127.0.0.1", backend), BOUND_S) as outer,
        ):
            back = threading.Thread(target=_pump, args=(outer, inner))
            back.start()
            _pump(inner, outer)
            back.join(BOUND_S)

    def accept(listener: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                peer, _ = listener.accept()
                workers.append(threading.Thread(target=serve, args=(peer,)))
                workers[-1].start()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        acceptor = threading.Thread(target=accept, args=(listener,))
        acceptor.start()
        try:
            yield listener.getsockname()[1]
        finally:
            with contextlib.suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)  # close() alone does not wake an accept()
            acceptor.join(BOUND_S)
            for worker in workers:
                worker.join(BOUND_S)


def _pump(source: socket.socket, sink: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while chunk := source.recv(65536):
            sink.sendall(chunk)
    with contextlib.suppress(OSError):
        sink.shutdown(socket.SHUT_RDWR)
