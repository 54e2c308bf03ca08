"""The command ``rayward`` itself: its groups, its errors, its exit codes.

0 done; 1 it failed; 2 it was called wrongly; 3 no agent answers; 130 interrupted.
"""

from __future__ import annotations

import os
import sys

import click
from click.shell_completion import get_completion_class

from rayward import __version__
from rayward.cli import agent, ha, lifecycle, look, operator, output, store
from rayward.cli import drill as drills
from rayward.errors import RaywardError

_HELP = """Keeps Ray clusters alive when their control plane is not.

\b
  rayward up                         a cluster on this machine: one head, two workers
  rayward get pods                   what runs
  rayward status                     what each node's agent sees
  rayward drill run gcs-kill         break it on purpose, and measure
  rayward list                       a cluster's heads: who leads
  rayward switchover                 let another head lead
  rayward operator                   the same on Kubernetes
  rayward down                       remove it without a trace
"""


@click.group(help=_HELP, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="rayward")
def root() -> None:
    pass


@root.command(epilog='example: eval "$(rayward completion bash)"')
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print the completion script for a shell."""
    kind = get_completion_class(shell)
    if kind is None:
        raise RaywardError(f"no completion for {shell}")
    print(kind(root, {}, "rayward", "_RAYWARD_COMPLETE").source())


for command in (
    lifecycle.up,
    lifecycle.apply,
    lifecycle.down,
    look.get,
    look.describe,
    look.status,
    look.exec_,
    look.logs,
    ha.list_,
    ha.switchover,
    ha.failover,
    ha.pause,
    ha.resume,
    ha.history,
    lifecycle.delete,
    drills.drill,
    store.store,
    agent.agent,
    operator.operator,
):
    root.add_command(command)


def main() -> None:
    """Entry point: run, and turn every failure into a sentence and an exit code."""
    try:
        code = root.main(prog_name="rayward", standalone_mode=False)
    except RaywardError as problem:
        output.error(problem)
        sys.exit(1)
    except click.exceptions.Exit as ended:
        sys.exit(ended.exit_code)
    except (click.Abort, KeyboardInterrupt):
        print("interrupted", file=sys.stderr)
        sys.exit(130)
    except click.ClickException as problem:
        problem.show()
        sys.exit(problem.exit_code)
    except BrokenPipeError:
        # Whoever read us has gone (`rayward logs | head`): no more output, and no traceback at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
    sys.exit(code if isinstance(code, int) else 0)
