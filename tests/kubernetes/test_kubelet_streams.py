"""Logs, exec and port-forward of the tests' own kubelet, as kubectl asks for them."""

from __future__ import annotations

import os
import pty
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from control_plane import ControlPlane
from kubelet_bench import Bench, program
from kubelet_fixture import NodeProcess, real_node

from rayward.local.pod_process import processes_of_pods

pytestmark = pytest.mark.namespaces


@pytest.fixture(scope="module")
def node(controllers: ControlPlane) -> Iterator[NodeProcess]:
    with real_node(controllers) as found:
        yield found


@pytest.fixture
def bench(controllers: ControlPlane, node: NodeProcess, namespace: str) -> Bench:
    return Bench(controllers, node, namespace)


def test_logs_by_tail_and_by_bytes(bench: Bench) -> None:
    bench.pod("one", program("print(*range(20000), sep='\\n')"), restartPolicy="Never")
    bench.until_phase("one", "Succeeded")
    assert bench.logs("one") == "".join(f"{number}\n" for number in range(20000))
    assert bench.logs("one", "--tail=2") == "19998\n19999\n"
    assert bench.logs("one", "--tail=0") == ""
    assert bench.logs("one", "--tail=15000").splitlines() == [str(number) for number in range(5000, 20000)]
    assert bench.logs("one", "--limit-bytes=4") == "0\n1\n"
    assert "not found" in bench.logs("none")


def test_exec_gives_output_errors_and_exit_code(bench: Bench) -> None:
    bench.pod("one")
    bench.until_ready("one")
    done = bench.execute("one", "sh", "-c", "echo out; echo err >&2; hostname; exit 7")
    assert (done.stdout, done.returncode) == ("out\none\n", 7)
    assert done.stderr == "err\ncommand terminated with exit code 7\n"
    assert bench.execute("one", "true").returncode == 0
    big = bench.execute("one", "python3", "-c", "print('x' * 3_000_000)")
    assert (len(big.stdout), big.returncode) == (3_000_001, 0)
    missing = bench.execute("one", "no-such-program")
    assert missing.returncode != 0


def test_exec_takes_standard_input(bench: Bench) -> None:
    bench.pod("one")
    bench.until_ready("one")
    text = "".join(f"line {number}\n" for number in range(100_000))
    done = bench.execute("one", "sort", "-n", "-k2", flags=("-i",), input=text)
    assert (done.stdout == text, done.returncode) == (True, 0)
    assert bench.execute("one", "cat", flags=("-i",), input="").stdout == ""
    # A command that ends without having read what it was sent.
    assert bench.execute("one", "sh", "-c", "exit 5", flags=("-i",), input=text).returncode == 5


def test_exec_does_not_wait_for_what_a_command_leaves_running(bench: Bench) -> None:
    bench.pod("one")
    bench.until_ready("one")
    done = bench.execute("one", "sh", "-c", "sleep 600 & echo started", timeout_s=30)
    assert (done.stdout, done.returncode) == ("started\n", 0)


def test_a_command_ends_with_the_kubectl_that_asked_for_it(bench: Bench) -> None:
    bench.pod("one")
    bench.until_ready("one")
    uid = bench.get("pod", "one")["metadata"]["uid"]

    def sleepers() -> list[int]:
        names = {pid: Path(f"/proc/{pid}/comm") for pid in processes_of_pods({uid})}
        return [pid for pid, path in names.items() if path.exists() and path.read_text() == "sleep\n"]

    kubectl = [bench.plane.binaries.path("kubectl"), f"--kubeconfig={bench.plane.kubeconfig}"]
    with subprocess.Popen([*kubectl, "-n", bench.namespace, "exec", "one", "--", "sleep", "600"]) as process:
        bench.until("the command runs", sleepers)
        process.kill()
    bench.until("the command is gone", lambda: not sleepers())


def test_exec_with_a_terminal(bench: Bench) -> None:
    bench.pod("one")
    bench.until_ready("one")
    ours, theirs = pty.openpty()
    words = ["exec", "-it", "one", "--", "sh", "-c", "tty && read word && echo got $word && exit 3"]
    kubectl = [bench.plane.binaries.path("kubectl"), f"--kubeconfig={bench.plane.kubeconfig}"]
    with subprocess.Popen(
        [*kubectl, "-n", bench.namespace, *words], stdin=theirs, stdout=theirs, stderr=theirs
    ) as process:
        os.close(theirs)
        os.write(ours, b"hello\n")
        said = b""
        try:
            while data := os.read(ours, 4096):
                said += data
        except OSError:
            pass  # the terminal's other end was closed
        os.close(ours)
        assert process.wait(30) == 3
    assert b"/dev/pts/" in said
    assert b"got hello" in said


SERVE = """
import http.server
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        body = b"x" * int(self.path[1:])
        self.send_response(200); self.send_header("Content-Length", str(len(body))); self.end_headers()
        self.wfile.write(body)
    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200); self.send_header("Content-Length", str(len(body))); self.end_headers()
        self.wfile.write(body)
    def log_message(self, *_): pass
http.server.ThreadingHTTPServer(("127.0.0.1", 8080), Handler).serve_forever()
"""


@contextmanager
def port_forward(bench: Bench, pod: str, port: int) -> Iterator[int]:
    """The local port of a `kubectl port-forward`."""
    kubectl = [bench.plane.binaries.path("kubectl"), f"--kubeconfig={bench.plane.kubeconfig}"]
    with subprocess.Popen(
        [*kubectl, "-n", bench.namespace, "port-forward", f"pod/{pod}", f":{port}"],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            assert line.startswith("Forwarding from 127.0.0.1:"), line
            yield int(line.split(":")[1].split(" ")[0])
        finally:
            process.terminate()


def test_port_forward_passes_connections_into_the_pod(bench: Bench) -> None:
    probe = {
        "exec": {"command": ["python3", "-c", "import socket; socket.create_connection(('127.0.0.1', 8080))"]}
    }
    bench.pod("one", program(SERVE, readinessProbe={**probe, "periodSeconds": 1}))
    bench.until_ready("one")
    with port_forward(bench, "one", 8080) as port:
        for size in (1, 100, 2_000_000):
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/{size}", timeout=30) as answer:
                assert answer.read() == b"x" * size
        sent = os.urandom(1_000_000)
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/", data=sent, timeout=30) as answer:
            assert answer.read() == sent
    with port_forward(bench, "one", 8081) as port, pytest.raises((OSError, urllib.error.URLError)):
        urllib.request.urlopen(f"http://127.0.0.1:{port}/1", timeout=30).read()
