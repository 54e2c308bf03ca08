"""``rayward agent``: the node agent, by config file or command line, and the zip in which it travels."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import click

from rayward.cli import output
from rayward.errors import RaywardError

CONFIG_OPTION_HELP = "This machine's file (default: /etc/rayward/rayward.yaml)."
_NODE = {"ignore_unknown_options": True, "allow_interspersed_args": False}


@click.group(
    invoke_without_command=True,
    epilog="example: rayward agent head -- ray start --head --num-cpus=0",
)
@click.option(
    "--build-zip",
    "build_zip_to",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Write the agent as one zip and end.",
)
@click.pass_context
def agent(context: click.Context, build_zip_to: Path | None) -> None:
    """Run a Ray node under the agent.

    Takes the place of `ray start --block`. The zip needs Python 3.9 or later and nothing else:
    `python3 agent.zip head -- ray start --head`.
    """
    if build_zip_to is not None:
        from rayward.agent.bundle import build_zip  # noqa: PLC0415 - few ask for it

        print(f"{build_zip_to}: {build_zip(build_zip_to)} bytes")
        context.exit(0)
    if context.invoked_subcommand is None:
        raise RaywardError("say run, head or worker", where="rayward agent", todo="rayward agent --help")


def _run_node(kind: str, words: tuple[str, ...]) -> None:
    from rayward.agent import main as agent_main  # noqa: PLC0415 - the other commands do without it

    sys.exit(agent_main.main([kind, *words]))


@agent.command(context_settings=_NODE, epilog="example: rayward agent head -- ray start --head --num-cpus=0")
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED, metavar="-- ray start --head ...")
def head(arguments: tuple[str, ...]) -> None:
    """Run a head; what it is told comes from the environment (docs/agent.md)."""
    _run_node("head", arguments)


@agent.command(
    context_settings=_NODE, epilog="example: rayward agent worker -- ray start --address=10.0.0.1:6379"
)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED, metavar="-- ray start --address ...")
def worker(arguments: tuple[str, ...]) -> None:
    """Run a worker; what it is told comes from the environment (docs/agent.md)."""
    _run_node("worker", arguments)


def _config_option(function: click.decorators.FC) -> click.decorators.FC:
    option = click.option(
        "--config", "config_path", type=click.Path(path_type=Path), metavar="FILE", help=CONFIG_OPTION_HELP
    )
    return option(function)


@agent.command(epilog="example: rayward agent run --config /etc/rayward/rayward.yaml --check")
@_config_option
@click.option("--check", is_flag=True, help="Only say whether the file can be used (exit code 0 or 2).")
@click.option(
    "--print", "show", is_flag=True, help="Print the command line and environment, without secrets."
)
@click.option(
    "--detach", is_flag=True, help="Return once the node is up; the agent goes on in the background."
)
@click.option(
    "--timeout", default=180.0, show_default=True, type=click.FloatRange(1), help="Seconds, with --detach."
)
def run(config_path: Path | None, check: bool, show: bool, detach: bool, timeout: float) -> None:
    """Run this machine's Ray node as its config file says.

    Stays in the foreground, as systemd wants it. Exit codes: 0 stopped as asked, 1 given up, 2 the file
    cannot be used.
    """
    from rayward.plain import machine, read  # noqa: PLC0415 - YAML and all: for this command only

    path = config_path or read.DEFAULT_PATH
    try:
        config, launch, warnings = machine.prepare(path)
    except RaywardError as problem:
        output.error(problem)
        sys.exit(2)
    for warning in warnings:
        output.note(warning)
    if show:
        for name, value in launch.shown().items():
            print(f"{name}={value}")
        print("rayward agent " + " ".join(launch.argv))
    if check:
        print(f"{path} can be used: {config.role} of cluster {config.cluster}")
    if check or show:
        return
    if detach:
        _detach(config, launch, timeout)
        return
    from rayward.plain.background import arguments  # noqa: PLC0415

    command = arguments(launch)
    # In place of this process: its pid is the one that systemd knows, and its memory is not needed any more.
    os.execve(command[0], command, launch.environment(os.environ))


def _detach(config: object, launch: object, timeout: float) -> None:
    from rayward.plain import background, command, schema  # noqa: PLC0415

    assert isinstance(config, schema.Config)
    assert isinstance(launch, command.Launch)
    place = (config.agent.host or "127.0.0.1", config.agent.port)
    with output.progress("starting the agent") as shown:
        done = background.start(launch, Path(config.state_dir), place, timeout, shown.say)
    where = f"log: {Path(config.state_dir) / background.LOG_FILE}; it ends with `rayward agent stop`"
    if done.up:
        print(f"{config.role} is up after {done.seconds:.1f} s: {done.reason} (pid {done.pid}; {where})")
        return
    raise RaywardError(
        f"not up after {timeout:g} s: {done.reason}. The agent (pid {done.pid}) goes on trying",
        where="rayward agent run --detach",
        todo=where,
    )


@agent.command(epilog="example: rayward agent stop --config rayward.yaml")
@_config_option
@click.option(
    "--timeout",
    default=30.0,
    show_default=True,
    type=click.FloatRange(0),
    help="Seconds before the node is ended by force.",
)
def stop(config_path: Path | None, timeout: float) -> None:
    """End the agent that `agent run --detach` has started, with its node."""
    from rayward.plain import background, read  # noqa: PLC0415

    config, _ = read.load(config_path or read.DEFAULT_PATH)
    with output.progress("stopping the agent") as shown:
        pid = background.stop(Path(config.state_dir), timeout, shown.say)
    print(
        "no agent was started in the background here" if pid is None else f"the agent (pid {pid}) has ended"
    )
