"""``rayward agent``: the node agent, and the zip in which it travels."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from rayward.agent import main as agent_main
from rayward.agent.bundle import build_zip
from rayward.errors import RaywardError


@click.command(
    context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False},
    epilog="example: rayward agent head -- ray start --head --num-cpus=0",
)
@click.option(
    "--build-zip",
    "build_zip_to",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Write the agent as one zip and end.",
)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def agent(build_zip_to: Path | None, arguments: tuple[str, ...]) -> None:
    """Run a Ray node under the agent: head|worker -- ray start ...

    Takes the place of `ray start --block`. The zip needs Python 3.9 or later and nothing else:
    `python3 agent.zip head -- ray start --head`.
    """
    if build_zip_to is not None:
        size = build_zip(build_zip_to)
        print(f"{build_zip_to}: {size} bytes")
        return
    if not arguments:
        raise RaywardError("say head or worker", where="rayward agent", todo="rayward agent --help")
    sys.exit(agent_main.main(list(arguments)))
