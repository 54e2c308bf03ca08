"""Connection attempts to a silent host: real sockets that wait for an answer which does not come."""

import contextlib
import socket
import subprocess
import sys
from collections.abc import Iterator

import pytest
from agent_node import until

from rayward.agent.hang_up import attempts, hang_up

CONNECT = """
import socket, sys
sock = socket.socket(socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET)
print("trying", flush=True)
try:
    sock.connect((sys.argv[1], int(sys.argv[2])))
except OSError as error:
    print(error.errno, flush=True)
"""


@contextlib.contextmanager
def silent(address: str = "127.0.0.1") -> Iterator[int]:
    """A port whose queue is full: the kernel drops what else wants to connect."""
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(socket.socket())
        server.bind((address, 0))
        server.listen(0)
        port = server.getsockname()[1]
        for _ in range(2):
            client = stack.enter_context(socket.socket())
            client.setblocking(False)
            client.connect_ex((address, port))
        yield port


@contextlib.contextmanager
def trying(address: str, port: int) -> Iterator["subprocess.Popen[str]"]:
    command = [sys.executable, "-c", CONNECT, address, str(port)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        try:
            assert child.stdout is not None
            assert child.stdout.readline() == "trying\n"
            yield child
        finally:
            child.kill()


@pytest.mark.parametrize("written", ["127.0.0.1", "::ffff:127.0.0.1"])
def test_an_attempt_that_gets_no_answer_is_ended(written: str) -> None:
    with silent() as port, trying(written, port) as child:
        assert until(lambda: hang_up(child.pid, {"127.0.0.1"}), 30, "an attempt to end") == 1
        assert child.wait(10) == 0


def test_attempts_to_other_hosts_and_open_connections_are_left_alone() -> None:
    with silent() as port, trying("127.0.0.1", port) as child:
        until(lambda: under_way(child.pid), 30, "the attempt")
        assert hang_up(child.pid, {"127.0.0.2", "10.0.0.1"}) == 0
        assert child.poll() is None


def under_way(pid: int) -> bool:
    with open(f"/proc/{pid}/net/tcp") as table:
        return bool(list(attempts(table.read(), {"127.0.0.1"})))


def test_only_the_attempts_of_that_process_are_ended() -> None:
    with silent() as port, trying("127.0.0.1", port) as one, trying("127.0.0.1", port) as other:
        until(lambda: under_way(other.pid), 30, "the other's attempt")
        until(lambda: hang_up(one.pid, {"127.0.0.1"}), 30, "an attempt to end")
        assert one.wait(10) == 0
        assert other.poll() is None


def test_a_process_that_is_gone_has_none() -> None:
    with subprocess.Popen(["true"]) as child:
        child.wait()
    assert hang_up(child.pid, {"127.0.0.1"}) == 0
