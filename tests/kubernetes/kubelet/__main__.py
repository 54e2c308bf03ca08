"""The kubelet's command line: `python -m kubelet --kubeconfig FILE --folder FOLDER`, or `python kubelet ...`.

SIGTERM ends it cleanly: Pods are ended and deleted, nodes are taken away. After SIGKILL all goes on, and the
next one with the same folder takes over.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import sys
from pathlib import Path

_HERE = Path(__file__).resolve().parent
for _needed in (_HERE.parents[2], _HERE.parent):
    if str(_needed) not in sys.path:
        sys.path.insert(0, str(_needed))

from kubelet.api_access import ApiServer  # noqa: E402
from kubelet.hollow_node import ADDRESSES, HollowNodes  # noqa: E402
from kubelet.pod_ground import Ground  # noqa: E402
from kubelet.real_node import RealNode  # noqa: E402
from kubelet.registration import NodeFacts  # noqa: E402
from rayward.errors import RaywardError  # noqa: E402
from rayward.local.ground import sweep  # noqa: E402
from rayward.local.linux import process_start_time  # noqa: E402
from rayward.local.state import write_json  # noqa: E402

_CAPACITY = {"cpu": "64", "memory": "256Gi", "ephemeral-storage": "1Ti", "pods": "250"}
_HOLLOW_CAPACITY = {"cpu": "1000000", "memory": "1000Ti", "ephemeral-storage": "1000Ti", "pods": "100000"}


def parse(arguments: list[str]) -> argparse.Namespace:
    """The command line, read."""
    parser = argparse.ArgumentParser(prog="kubelet", description=__doc__)
    parser.add_argument("--kubeconfig", type=Path, required=True)
    parser.add_argument("--folder", type=Path, help="where Pods and network are kept (not for hollow nodes)")
    parser.add_argument("--name", default="node", help="the node's name; of several: NAME-0, NAME-1 ...")
    parser.add_argument("--nodes", type=int, default=1)
    parser.add_argument("--port", type=int, default=10250, help="of the server, on the Pods' gateway")
    parser.add_argument("--capacity", action="append", default=[], metavar="RESOURCE=AMOUNT")
    parser.add_argument("--label", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--stdin", action="store_true", help="end cleanly when standard input ends, too")
    parser.add_argument("--hollow", action="store_true", help="mark Pods ready without starting anything")
    parser.add_argument("--writers", type=int, default=32, help="hollow: how many writes at a time")
    parser.add_argument("--bind", action="store_true", help="hollow: bind Pods too, in place of a scheduler")
    parser.add_argument("--addresses", default=ADDRESSES, help="hollow: the network of the Pods' addresses")
    options = parser.parse_args(arguments)
    if not options.hollow and options.folder is None:
        parser.error("--folder is needed")
    return options


def _pairs(texts: list[str]) -> dict[str, str]:
    return dict(text.split("=", 1) for text in texts)


def nodes(options: argparse.Namespace, address: str) -> list[NodeFacts]:
    """What the nodes are called and have."""
    names = [options.name] if options.nodes == 1 else [f"{options.name}-{i}" for i in range(options.nodes)]
    capacity = {**(_HOLLOW_CAPACITY if options.hollow else _CAPACITY), **_pairs(options.capacity)}
    port = 0 if options.hollow else options.port
    return [NodeFacts(name, address, port, capacity, _pairs(options.label)) for name in names]


def _listen_for_signals(stop: asyncio.Event) -> None:
    """Let SIGTERM and SIGINT set ``stop``.

    Without asyncio's own handlers: they make the kernel's signal a byte in a socket that forked children
    share, and the children that pyroute2 forks and ends with SIGTERM would end this process that way.
    """
    loop, own = asyncio.get_running_loop(), os.getpid()

    def handle(_number: int, _frame: object) -> None:
        if os.getpid() != own:
            os._exit(0)
        loop.call_soon_threadsafe(stop.set)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, handle)


def _end_of_input(stop: asyncio.Event) -> None:
    if not os.read(0, 4096):
        asyncio.get_running_loop().remove_reader(0)
        stop.set()


async def _run(options: argparse.Namespace, ground: Ground | None) -> None:
    stop = asyncio.Event()
    _listen_for_signals(stop)
    if options.stdin:
        # Whoever started this and was killed takes it along, and all that it runs.
        asyncio.get_running_loop().add_reader(0, _end_of_input, stop)
    async with ApiServer(options.kubeconfig) as api:
        if ground is None:
            hollow = (options.writers, options.bind, options.addresses)
            await HollowNodes(api, nodes(options, "127.0.0.1"), *hollow).run(stop)
        else:
            await RealNode(api, ground, nodes(options, ground.gateway)).run(stop)


def main(arguments: list[str]) -> int:
    """Run until SIGTERM; the status to exit with."""
    options = parse(arguments)
    if options.hollow:
        asyncio.run(_run(options, None))
        return 0
    ground = Ground(options.folder.absolute())
    try:
        ground.prepare()
        with ground.folder.node_lock() as free:
            if not free:
                raise RaywardError("another kubelet works in this folder", where=str(ground.folder.path))
            pid = os.getpid()
            write_json(ground.folder.path / "node.json", {"pid": pid, "start_time": process_start_time(pid)})
            asyncio.run(_run(options, ground))
        # The sweep would end the process that is named there.
        (ground.folder.path / "node.json").unlink(missing_ok=True)
        sweep(ground.folder)
    except RaywardError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
