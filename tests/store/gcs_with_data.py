"""A helper process: one real Ray head with known state, for as long as its standard input stays open.

``python gcs_with_data.py DIRECTORY PORT CLIENT_PORT AGENT_PORT`` prints one line of JSON when the state is
there; each line it then reads is written as a KV entry and answered with ``ok``. It is a subreaper, so at
the end it finds and ends, by pid, whatever ``ray start`` left behind.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

PR_SET_CHILD_SUBREAPER = 36


def descendants(pid: int) -> list[int]:
    parents: dict[int, int] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
                parents[int(entry.name)] = int(fields[1])
    found: list[int] = []
    queue = [pid]
    while queue:
        parent = queue.pop()
        children = [child for child, above in parents.items() if above == parent]
        found += children
        queue += children
    return found


def end_everything() -> None:
    # Twice: a process may start another one while the first list is read.
    for _ in range(2):
        for pid in descendants(os.getpid()):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            while True:
                os.waitpid(-1, 0)


def start_head(directory: Path, port: str, client_port: str, agent_port: str) -> None:
    command = [str(Path(sys.executable).with_name("ray")), "start", "--head", "--port", port]
    command += ["--temp-dir", str(directory / "t"), "--num-cpus", "2", "--include-dashboard", "false"]
    command += ["--min-worker-port", "0", "--max-worker-port", "0", "--ray-client-server-port", client_port]
    command += ["--dashboard-agent-listen-port", agent_port, "--object-store-memory", "80000000"]
    if "REDIS_PASSWORD" in os.environ:
        command += ["--redis-username", os.environ["REDIS_USERNAME"]]
        command += ["--redis-password", os.environ["REDIS_PASSWORD"]]
    with (directory / "start.log").open("wb") as log:
        subprocess.run([*command, "--disable-usage-stats"], check=True, stdout=log, stderr=log, timeout=90)


def seed(port: str) -> dict[str, str]:
    import ray  # noqa: PLC0415 - a second's import, paid only when the head runs
    from ray.experimental import internal_kv  # noqa: PLC0415

    ray.init(address=f"127.0.0.1:{port}", namespace="default_namespace", logging_level="ERROR")

    @ray.remote(num_cpus=0)
    class Counter:
        def increment(self) -> int:
            return 1

    actor = Counter.options(name="counter_actor", lifetime="detached").remote()
    ray.get(actor.increment.remote(), timeout=60)
    group = ray.util.placement_group([{"CPU": 1}], name="trainers", lifetime="detached")
    ray.get(group.ready(), timeout=60)
    internal_kv._internal_kv_put(b"greeting", b"hello", namespace=b"rayward-test")
    internal_kv._internal_kv_put(b"blob", b"\xff\x00\xfe", namespace=b"rayward-test")
    context = ray.get_runtime_context()
    return {
        "actor": actor._actor_id.hex(),
        "group": group.id.hex(),
        "node": context.get_node_id(),
        "job": context.get_job_id(),
    }


def main() -> None:
    directory, *ports = sys.argv[1:]
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1)
    try:
        start_head(Path(directory), *ports)
        facts = seed(ports[0])
        print(json.dumps(facts), flush=True)
        from ray.experimental import internal_kv  # noqa: PLC0415

        for line in sys.stdin:
            internal_kv._internal_kv_put(line.strip().encode(), b"late", namespace=b"rayward-test")
            print("ok", flush=True)
    finally:
        end_everything()
    # Ray's driver threads would try to say goodbye to processes that are gone.
    os._exit(0)


if __name__ == "__main__":
    main()
