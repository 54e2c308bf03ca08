"""Ask a GCS what its node table says of one raylet, with nothing but a socket.

One unary gRPC call, ``NodeInfoGcsService/GetAllNodeInfo``, over ``grpc_wire``, and a reader for
the few protobuf fields of its answer. Field numbers are those of Ray 2.37 to 2.60; a server that does not
know the filter in the request sends all its nodes, which is read as well.
"""

from __future__ import annotations

import socket
import struct
import time
from collections.abc import Iterator
from dataclasses import dataclass

from rayward.agent import grpc_wire
from rayward.agent.grpc_wire import NotGrpcError, ServerEndedError
from rayward.agent.recycle import NodeState

NODE_INFO = "/ray.rpc.NodeInfoGcsService/GetAllNodeInfo"
UNREGISTER = "/ray.rpc.NodeInfoGcsService/UnregisterNode"
# NodeDeathInfo.Reason of Ray.
_UNEXPECTED = 2

_STREAM = 1
# A node takes 1 to 2 KB, and a GCS remembers 1,000 dead ones.
_LARGEST_ANSWER = 16 * 1024 * 1024
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_DEAD = 1


@dataclass(frozen=True)
class Node:
    """One row of the node table. ``node_id`` in hex, ``started_ms`` since 1970 on the GCS's clock."""

    node_id: str
    state: NodeState
    address: str = ""
    raylet_socket: str = ""
    started_ms: int = 0
    head: bool = False


@dataclass(frozen=True)
class NodesAnswer:
    """What came of the question. ``nodes`` is None when there is no answer; ``reason`` says why."""

    nodes: tuple[Node, ...] | None
    reason: str


def ask_node(host: str, port: int, node_id: str, timeout: float) -> tuple[NodeState, str]:
    """What the GCS on ``host:port`` says of the raylet with this id (hex), and a short reason for people.

    Never takes much longer than ``timeout`` seconds and raises nothing: no answer is ``UNKNOWN``.
    """
    try:
        raw = bytes.fromhex(node_id)
    except ValueError:
        return NodeState.UNKNOWN, f"{node_id!r} is no node id"
    answer = ask_nodes(host, port, _one_node(raw, 1, 1), timeout)
    return state_of(answer, node_id=node_id)


def ask_raylet(
    host: str, port: int, address: str, raylet_socket: str, timeout: float
) -> tuple[NodeState, str]:
    """The same for the raylet with this node address and this socket name (``--raylet_socket_name``)."""
    answer = ask_nodes(host, port, _one_node(address.encode(), 3, 4), timeout)
    return state_of(answer, address=address, raylet_socket=raylet_socket)


def state_of(
    answer: NodesAnswer, node_id: str = "", address: str = "", raylet_socket: str = ""
) -> tuple[NodeState, str]:
    """Pick one node out of an answer; the one started last where several match (socket names come again)."""
    if answer.nodes is None:
        return NodeState.UNKNOWN, answer.reason
    matching = [
        node
        for node in answer.nodes
        if (not node_id or node.node_id == node_id.lower())
        and (not address or node.address == address)
        and (not raylet_socket or node.raylet_socket == raylet_socket)
    ]
    if not matching:
        return NodeState.ABSENT, "not in the node table"
    newest = max(matching, key=lambda node: (node.started_ms, node.state is NodeState.ALIVE))
    return newest.state, f"{newest.state.value} in the node table"


def ask_nodes(host: str, port: int, request: bytes, timeout: float) -> NodesAnswer:
    """Send a GetAllNodeInfoRequest (protobuf) and read the table that comes back."""
    deadline = time.monotonic() + timeout
    try:
        with socket.create_connection((host, port), timeout=timeout) as sock:
            message = _Call(sock, deadline).run(request, f"{host}:{port}")
        return NodesAnswer(tuple(read_reply(message)), "answered")
    except socket.timeout:
        return NodesAnswer(None, f"no answer within {timeout:g} s")
    except OSError as error:
        return NodesAnswer(None, (error.strerror or str(error)).lower())
    except (ValueError, OverflowError) as error:
        return NodesAnswer(None, f"an answer that cannot be read: {error}")


def unregister_heads(host: str, port: int, timeout: float, spared: str = "") -> tuple[list[Node], str]:
    """Tell the GCS that every head in its table is gone, but for one at address ``spared``; which they were,
    and what went wrong (or "").

    For a new leader whose own raylet has not begun yet: Ray's table comes from the store and still holds the
    last leader's raylet as alive. Placement groups wait for an answer of it until Ray finds out by itself
    (seconds when its host refuses, half a minute when it is silent).
    """
    answer = ask_nodes(host, port, b"", timeout)
    if answer.nodes is None:
        return [], answer.reason
    heads = [node for node in answer.nodes if node.head and node.state is NodeState.ALIVE]
    gone = [node for node in heads if node.address != spared]
    for node in gone:
        words = b"another head leads"
        death = _tagged_number(1, _UNEXPECTED) + _tagged(2, words)
        message = _tagged(1, bytes.fromhex(node.node_id)) + _tagged(2, death)
        try:
            with socket.create_connection((host, port), timeout=timeout) as sock:
                _Call(sock, time.monotonic() + timeout).run(message, f"{host}:{port}", UNREGISTER)
        except (OSError, ValueError) as error:
            return gone, str(error)
    return gone, ""


class _Call:
    """One unary call on a fresh connection."""

    def __init__(self, sock: socket.socket, deadline: float) -> None:
        self._sock = sock
        self._deadline = deadline
        self._data = bytearray()

    def run(self, request: bytes, authority: str, path: str = NODE_INFO) -> bytes:
        """The message of the answer. Raises OSError when there is none, ValueError for other than gRPC."""
        wide = struct.pack(">HI", grpc_wire.INITIAL_WINDOW_SIZE, _LARGEST_ANSWER)
        more = struct.pack(">I", _LARGEST_ANSWER - 65_535)
        self._sock.sendall(
            grpc_wire.PREFACE
            + grpc_wire.frame(grpc_wire.SETTINGS, 0, 0, wide)
            + grpc_wire.frame(grpc_wire.WINDOW_UPDATE, 0, 0, more)
            + grpc_wire.unary_call(_STREAM, path, authority, request)
        )
        while not self._read_frame():
            pass
        if len(self._data) < 5:
            # The error is in the trailers, compressed; what matters here is that there is no message.
            raise ConnectionError("the GCS refused the question")
        if self._data[0]:
            raise ValueError("a compressed message")
        length = int.from_bytes(self._data[1:5], "big")
        if len(self._data) < 5 + length:
            raise ValueError("half a message")
        return bytes(self._data[5 : 5 + length])

    def _read_frame(self) -> bool:
        """Read one frame; True when the answer is complete."""
        try:
            frame = grpc_wire.read_frame(self._sock, self._deadline)
        except NotGrpcError as problem:
            raise ValueError("something that is not gRPC") from problem
        except ServerEndedError as problem:
            raise ConnectionError(str(problem)) from problem
        if frame is None or frame.stream != _STREAM:
            return False
        if frame.kind == grpc_wire.RST_STREAM:
            raise ConnectionError("the GCS ended the call")
        if frame.kind == grpc_wire.DATA:
            self._data += frame.payload
            if len(self._data) > _LARGEST_ANSWER:
                raise ValueError("too long")
        return frame.ends_stream


def _one_node(value: bytes, selector_field: int, filter_field: int) -> bytes:
    """A request for one node. Field 2 holds selectors since Ray 2.49 or later; before, 4 held filters. A
    server passes over what it does not know, at the worst it then sends all its nodes."""
    return _tagged(2, _tagged(selector_field, value)) + _tagged(4, _tagged(filter_field, value))


def _tagged(field: int, value: bytes) -> bytes:
    return bytes([field << 3 | _BYTES]) + _varint(len(value)) + value


def _tagged_number(field: int, value: int) -> bytes:
    return _varint(field << 3 | _VARINT) + _varint(value)


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def read_reply(message: bytes) -> Iterator[Node]:
    """The nodes of a GetAllNodeInfoReply; raises ValueError for bytes that are none, or a refusal in it."""
    for field, value in fields(message):
        if field == 1 and isinstance(value, bytes):
            status = dict(fields(value))
            if status.get(1, 0):
                raise ValueError(f"the GCS answered with its status {status[1]!r}")
        elif field == 2 and isinstance(value, bytes):
            yield _node(value)


def _node(message: bytes) -> Node:
    known = dict(fields(message))

    def text(field: int) -> str:
        value = known.get(field, b"")
        return value.decode(errors="replace") if isinstance(value, bytes) else ""

    node_id, started = known.get(1, b""), known.get(23, 0)
    return Node(
        node_id.hex() if isinstance(node_id, bytes) else "",
        NodeState.DEAD if known.get(7, 0) == _DEAD else NodeState.ALIVE,
        address=text(2),
        raylet_socket=text(3),
        started_ms=started if isinstance(started, int) else 0,
        head=known.get(25, 0) == 1,
    )


def fields(message: bytes) -> Iterator[tuple[int, int | bytes]]:
    """The fields of one protobuf message, in order; raises ValueError where it is cut off or malformed."""
    at = 0
    while at < len(message):
        tag, at = _read_varint(message, at)
        kind = tag & 7
        if kind == _VARINT:
            value, at = _read_varint(message, at)
            yield tag >> 3, value
            continue
        if kind == _BYTES:
            length, at = _read_varint(message, at)
        elif kind in (_FIXED64, _FIXED32):
            length = 8 if kind == _FIXED64 else 4
        else:
            raise ValueError(f"wire type {kind}")
        if at + length > len(message):
            raise ValueError("cut off")
        yield tag >> 3, message[at : at + length]
        at += length


def _read_varint(message: bytes, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(message):
            raise ValueError("cut off")
        value |= (message[at] & 0x7F) << shift
        at += 1
        if not message[at - 1] & 0x80:
            return value, at
    raise ValueError("a number of more than 64 bits")
