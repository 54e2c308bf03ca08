"""Ask a GCS over its own gRPC port whether it serves, with nothing but a socket.

Two calls go over one connection. ``grpc.health.v1.Health/Check`` is answered by gRPC's own threads, also
while the GCS's main loop is blocked for good (measured on Ray 2.60 with the main thread stopped under
ptrace: health, CheckAlive and KV reads go on, actor, placement group and resource calls do not). So the
second call is a read that the main loop must answer itself: ``NodeResourceInfoGcsService/GetDrainingNodes``,
whose request is empty and whose answer is small on any cluster.
"""

from __future__ import annotations

import enum
import socket
import time
from dataclasses import dataclass

from rayward.agent import grpc_wire
from rayward.agent.grpc_wire import Frame, NotGrpcError, ServerEndedError

HEALTH_CHECK = "/grpc.health.v1.Health/Check"
MAIN_LOOP_READ = "/ray.rpc.NodeResourceInfoGcsService/GetDrainingNodes"

_SERVING = 1
_HEALTH_STREAM, _LOOP_STREAM = 1, 3


class Serving(enum.Enum):
    """What a probe found; each value is a different fact about the server.

    ``REFUSED``: nothing listens. ``SILENT``: something listens and says nothing. ``LOOP_SILENT``: gRPC
    answers, the GCS's main loop does not. ``NOT_SERVING``: it answered that it does not serve.
    """

    SERVING = "serving"
    LOOP_SILENT = "main loop silent"
    NOT_SERVING = "not serving"
    SILENT = "silent"
    REFUSED = "refused"


@dataclass(frozen=True)
class Health:
    """One answer: what was found, a short reason for people, and how long it took in seconds."""

    serving: Serving
    reason: str
    seconds: float


def _health_status(message: bytes) -> int:
    """The ``status`` field of a HealthCheckResponse (field 1, varint); 0 where it is left out."""
    return message[1] if len(message) >= 2 and message[0] == 0x08 else 0


class _Exchange:
    """The state of one probe: which of its two calls has been answered, and how."""

    def __init__(self, sock: socket.socket, deadline: float) -> None:
        self._sock = sock
        self._deadline = deadline
        self.health: int | None = None
        self.loop_answered = False
        self.ended = ""

    def run(self, authority: str) -> None:
        """Send both calls and read until both are answered or the server ends the connection."""
        self._sock.sendall(
            grpc_wire.PREFACE
            + grpc_wire.frame(grpc_wire.SETTINGS, 0, 0, b"")
            + grpc_wire.unary_call(_HEALTH_STREAM, HEALTH_CHECK, authority)
            + grpc_wire.unary_call(_LOOP_STREAM, MAIN_LOOP_READ, authority)
        )
        while not (self.ended or (self.health is not None and self.loop_answered)):
            try:
                frame = grpc_wire.read_frame(self._sock, self._deadline)
            except (NotGrpcError, ServerEndedError) as problem:
                self.ended = str(problem)
                return
            if frame is not None:
                self._take_answer(frame)

    def _take_answer(self, frame: Frame) -> None:
        has_data = frame.kind == grpc_wire.DATA
        ended = frame.kind == grpc_wire.HEADERS and frame.ends_stream
        answered = has_data or ended or frame.kind == grpc_wire.RST_STREAM
        if frame.stream == _HEALTH_STREAM and answered and self.health is None:
            readable = has_data and len(frame.payload) >= 5
            self.health = _health_status(frame.payload[5:]) if readable else 0
        elif frame.stream == _LOOP_STREAM and answered:
            # Also "unimplemented" or "unauthenticated" counts: a Ray without this call, or one that asks
            # for a token, must not be taken for hung.
            self.loop_answered = True


def check(host: str, port: int, timeout: float) -> Health:  # noqa: PLR0911 - one return for each finding
    """Probe the GCS on ``host:port``; never takes much longer than ``timeout`` seconds.

    Raises nothing: every failure is an answer.
    """
    started = time.monotonic()
    exchange = None

    def answer(serving: Serving, reason: str) -> Health:
        return Health(serving, reason, time.monotonic() - started)

    try:
        with socket.create_connection((host, port), timeout=timeout) as sock:
            exchange = _Exchange(sock, started + timeout)
            exchange.run(f"{host}:{port}")
    except socket.timeout:
        if exchange is not None and exchange.health == _SERVING:
            return answer(Serving.LOOP_SILENT, f"its main loop gave no answer within {timeout:g} s")
        if exchange is not None and exchange.health is not None:
            return answer(Serving.NOT_SERVING, f"health status {exchange.health}")
        return answer(Serving.SILENT, f"no answer within {timeout:g} s")
    except OSError as error:
        return answer(Serving.REFUSED, (error.strerror or str(error)).lower())
    except (UnicodeError, OverflowError) as error:  # a name or a port that no socket takes
        return answer(Serving.REFUSED, str(error).lower())
    if exchange.ended:
        return answer(Serving.NOT_SERVING, exchange.ended)
    if exchange.health != _SERVING:
        return answer(Serving.NOT_SERVING, f"health status {exchange.health}")
    return answer(Serving.SERVING, "serving")
