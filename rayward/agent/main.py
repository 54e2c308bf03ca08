"""The agent's command line: ``head``, ``worker``, and what the zip does besides (``store-probe``,
``store-cleanup``).

argparse, because the zip may use the standard library only.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path

from rayward import __version__
from rayward.agent.config import build, store_kind
from rayward.agent.decide import Kind
from rayward.agent.events import EventLog
from rayward.agent.node import become_subreaper
from rayward.agent.server import Views, serve
from rayward.agent.supervisor import Supervisor, run_until_signalled
from rayward.agent.timing import Timing
from rayward.errors import RaywardError


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="rayward agent",
        description="Runs a Ray node: starts it, watches it and brings back what dies.",
        epilog="example: rayward agent head -- ray start --head --num-cpus=0",
    )
    parser.add_argument("--version", action="version", version=f"rayward {__version__}")
    commands = parser.add_subparsers(dest="command", required=True)
    for kind, what in ((Kind.HEAD, "a head node"), (Kind.WORKER, "a worker node")):
        node = commands.add_parser(kind.value, help=f"run {what}; the ray start command comes after --")
        node.add_argument("ray_start", nargs=argparse.REMAINDER, metavar="-- ray start ...")
    commands.add_parser("store-probe", help="check the store that the environment names; prints JSON")
    cleanup = commands.add_parser("store-cleanup", help="remove a namespace's keys (the cleanup Job)")
    cleanup.add_argument("arguments", nargs=argparse.REMAINDER)
    return parser


def _run_node(kind: Kind, ray_start: list[str], timing: Timing) -> int:
    if ray_start[:1] == ["--"]:
        ray_start = ray_start[1:]
    config = build(kind, ray_start, os.environ)
    become_subreaper()
    supervisor = Supervisor(config, timing, EventLog(f"rayward[{config.name}]"))
    server = serve(Views(supervisor, timing), config.http_host, config.http_port)
    try:
        return run_until_signalled(supervisor)
    finally:
        server.server_close()


def _rocksdb_fault(environ: Mapping[str, str]) -> str:
    from rayward.store.rocksdb import free_space_fault  # noqa: PLC0415 - only the child pays for it

    path = environ.get("RAY_gcs_storage_path", "")
    if not path:
        return "RAY_gcs_storage is rocksdb, but RAY_gcs_storage_path names no directory"
    error = free_space_fault(Path(path))
    return f"GCS store in {error}" if error else ""


def _probe_store() -> int:
    kind = store_kind(os.environ)
    sentence, transient = "", False
    if kind == "rocksdb":
        sentence = _rocksdb_fault(os.environ)
    elif kind == "redis":
        from rayward.store.connection import probe_from_environment  # noqa: PLC0415

        fault = probe_from_environment(os.environ)
        if fault is not None:
            sentence, transient = f"{fault.sentence}\n  try: {fault.todo}", fault.transient
    print(json.dumps({"store": kind, "fault": sentence, "transient": transient}))
    return 0


def main(argv: list[str] | None = None, timing: Timing | None = None) -> int:
    """Run the agent, with other durations where they are given.

    Returns the exit code: 0 stopped as asked, 1 given up, 2 a command line or setting that cannot be used.
    """
    arguments = _parser().parse_args(argv)
    try:
        if arguments.command == "store-probe":
            return _probe_store()
        if arguments.command == "store-cleanup":
            from rayward.store.cleanup import main_from_environment  # noqa: PLC0415

            return main_from_environment(os.environ, arguments.arguments)
        return _run_node(Kind(arguments.command), arguments.ray_start, timing or Timing())
    except RaywardError as error:
        print(f"rayward agent: {error}", file=sys.stderr, flush=True)
        return 2
