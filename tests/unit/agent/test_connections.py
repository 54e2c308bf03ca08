"""Who is connected to a port: from the kernel itself, and from tables as kernels write them."""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from agent_node import until

from rayward.agent import connections
from rayward.agent.connections import Connections, Row, ask_kernel, count, look, read_tables

HEAD = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n"
REST = "00000000:00000000 00:00000000 00000000  1000        0 76 1 0000000000000000 20 4 30 10 -1\n"
POD, CLIENT, LOOPBACK = "0500000A", "0700000A", "0100007F"


def row(number: int, local: str, remote: str, state: str) -> str:
    return f"{number:4d}: {local} {remote} {state} {REST}"


@pytest.fixture
def table(tmp_path: Path) -> Path:
    return tmp_path / "tcp"


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ([], Connections(False, 0)),
        ([("00000000:1F40", "00000000:0000", "0A")], Connections(True, 0)),
        ([(f"{POD}:1F40", f"{CLIENT}:C001", "01"), (f"{POD}:1F40", f"{CLIENT}:C002", "01")],
         Connections(False, 2)),
        # Closing ones, other ports, this node's own clients and its own requests elsewhere.
        ([(f"{POD}:1F40", f"{CLIENT}:C001", "06"), (f"{POD}:1F41", f"{CLIENT}:C001", "01"),
          (f"{LOOPBACK}:1F40", f"{LOOPBACK}:C001", "01"), (f"{POD}:1F40", f"{POD}:C001", "01"),
          (f"{POD}:C003", f"{CLIENT}:1F40", "01")], Connections(False, 0)),
    ],
)  # fmt: skip
def test_a_table_of_ipv4(table: Path, rows: list[tuple[str, str, str]], expected: Connections) -> None:
    table.write_text(HEAD + "".join(row(number, *one) for number, one in enumerate(rows)))
    assert count(list(read_tables(8000, (str(table),)))) == expected


def test_a_table_of_ipv6_and_of_ipv4_in_its_clothes(table: Path) -> None:
    own, other = "000080FE00000000FF005450B6AD1DFE", "000080FE00000000FF005450B6AD1DFF"
    mapped = "0000000000000000FFFF0000"
    rows = [
        ("00000000000000000000000000000000:1F40", "00000000000000000000000000000000:0000", "0A"),
        (f"{own}:1F40", f"{other}:C001", "01"),
        (f"{mapped}{POD}:1F40", f"{mapped}{CLIENT}:C002", "01"),
        (f"{mapped}{LOOPBACK}:1F40", f"{mapped}{LOOPBACK}:C003", "01"),
        ("00000000000000000000000001000000:1F40", "00000000000000000000000001000000:C004", "01"),
    ]
    table.write_text(HEAD + "".join(row(number, *one) for number, one in enumerate(rows)))
    assert count(list(read_tables(8000, (str(table),)))) == Connections(True, 2)


def test_a_table_that_is_not_there_is_empty(tmp_path: Path) -> None:
    assert list(read_tables(8000, (str(tmp_path / "none"),))) == []


@pytest.mark.parametrize(("host", "family"), [("127.0.0.1", socket.AF_INET), ("::1", socket.AF_INET6)])
def test_kernel_and_tables_say_the_same(host: str, family: int) -> None:
    try:
        server = socket.create_server((host, 0), family=family, backlog=200)
    except OSError as error:
        pytest.skip(f"no {host} on this machine: {error}")
    with server:
        port = server.getsockname()[1]
        clients = [socket.create_connection((host, port), 10) for _ in range(150)]
        own = socket.inet_pton(family, host)
        listening = (10, own, bytes(len(own)))
        expected = sorted([listening, *[(1, own, own)] * 150])
        # A client is connected a moment before the other end is; a table is read in pieces, so that a line
        # can hide behind connections of others that come and go.
        until(lambda: sorted(ask_kernel(port, family)) == expected, 30, "the kernel has all of them")
        until(lambda: sorted(read_tables(port)) == expected, 30, "the tables have all of them")
        assert look(port) == Connections(True, 0), "one's own connections do not count"
        for client in clients:
            client.close()
    assert look(port).listens is False


def test_where_the_kernel_does_not_answer_the_tables_do(monkeypatch: pytest.MonkeyPatch) -> None:
    def silent(_port: int, _family: int) -> Iterator[Row]:
        raise OSError(errno.EPROTONOSUPPORT, "no sock_diag")

    with socket.create_server(("127.0.0.1", 0)) as server:
        monkeypatch.setattr(connections, "ask_kernel", silent)
        assert look(server.getsockname()[1]) == Connections(True, 0)


def test_a_refusal_of_the_kernels_is_an_error() -> None:
    with pytest.raises(OSError, match="sock_diag"):
        list(ask_kernel(8000, 255))
