"""The agent's command line: ``head``, ``worker``, and what the zip does besides (``leave``, ``store-probe``,
``store-cleanup``).

argparse, because the zip may use the standard library only.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING

from rayward import __version__
from rayward.errors import RaywardError

if TYPE_CHECKING:
    import argparse

    from rayward.agent.timing import Timing


def _parser() -> argparse.ArgumentParser:
    import argparse  # noqa: PLC0415 - the fence and the gateway do without

    parser = argparse.ArgumentParser(
        prog="rayward agent",
        description="Runs a Ray node: starts it, watches it and brings back what dies.",
        epilog="example: rayward agent head -- ray start --head --num-cpus=0",
    )
    parser.add_argument("--version", action="version", version=f"rayward {__version__}")
    commands = parser.add_subparsers(dest="command", required=True)
    for kind, what in (("head", "a head node"), ("worker", "a worker node")):
        node = commands.add_parser(kind, help=f"run {what}; the ray start command comes after --")
        node.add_argument("ray_start", nargs=argparse.REMAINDER, metavar="-- ray start ...")
    commands.add_parser("gateway", help="the store gateway of a head; started by its agent")
    commands.add_parser("fence", help="the fence timer of a head; started by its agent")
    leave = commands.add_parser("leave", help="wait until nobody sends requests any more (a Pod's preStop)")
    leave.add_argument("--least", type=float, default=2.0, metavar="SECONDS", help="at least this long")
    leave.add_argument("--most", type=float, default=10.0, metavar="SECONDS", help="at the most this long")
    commands.add_parser("store-probe", help="check the store that the environment names; prints JSON")
    cleanup = commands.add_parser("store-cleanup", help="remove a namespace's keys (the cleanup Job)")
    cleanup.add_argument("arguments", nargs=argparse.REMAINDER)
    return parser


def _rocksdb_fault(environ: Mapping[str, str]) -> str:
    from pathlib import Path  # noqa: PLC0415

    from rayward.store.rocksdb import free_space_fault  # noqa: PLC0415 - only the child pays for it

    path = environ.get("RAY_gcs_storage_path", "")
    if not path:
        return "RAY_gcs_storage is rocksdb, but RAY_gcs_storage_path names no directory"
    error = free_space_fault(Path(path))
    return f"GCS store in {error}" if error else ""


def _probe_store() -> int:
    from rayward.agent.config import store_kind  # noqa: PLC0415

    kind = store_kind(os.environ)
    sentence, transient = "", False
    if kind == "rocksdb":
        sentence = _rocksdb_fault(os.environ)
    elif kind == "redis":
        from rayward.store.connection import probe_from_environment  # noqa: PLC0415

        fault = probe_from_environment(os.environ)
        if fault is not None:
            sentence, transient = f"{fault.sentence}\n  try: {fault.todo}", fault.transient
    import json  # noqa: PLC0415

    print(json.dumps({"store": kind, "fault": sentence, "transient": transient}))
    return 0


def main(argv: list[str] | None = None, timing: Timing | None = None) -> int:
    """Run the agent, with other durations where they are given.

    Returns the exit code: 0 stopped as asked, 1 given up, 2 a command line or setting that cannot be used.
    """
    words = sys.argv[1:] if argv is None else argv
    # Each head pays for these two processes all the time: they import nothing that they do not need.
    if words == ["fence"]:
        from rayward.agent.fence import fence_main  # noqa: PLC0415

        return fence_main(0)
    if words == ["gateway"]:
        from rayward.store.gateway import gateway_main  # noqa: PLC0415

        return gateway_main(os.environ)
    try:
        return _run(_parser().parse_args(words), timing)
    except RaywardError as error:
        print(f"rayward agent: {error}", file=sys.stderr, flush=True)
        return 2


def _run(arguments: argparse.Namespace, timing: Timing | None) -> int:
    if arguments.command == "store-probe":
        return _probe_store()
    if arguments.command == "store-cleanup":
        from rayward.store.cleanup import main_from_environment  # noqa: PLC0415

        return main_from_environment(os.environ, arguments.arguments)
    if arguments.command == "leave":
        from rayward.agent.serve_leave import Patience, leave_main  # noqa: PLC0415

        return leave_main(os.environ, Patience(least=arguments.least, most=arguments.most))
    from rayward.agent.decide import Kind  # noqa: PLC0415
    from rayward.agent.run import run_node  # noqa: PLC0415
    from rayward.agent.timing import Timing  # noqa: PLC0415

    return run_node(Kind(arguments.command), arguments.ray_start, timing or Timing())
