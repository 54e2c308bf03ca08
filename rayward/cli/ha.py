"""``list``, ``history``, ``switchover``, ``failover``, ``pause``, ``resume``: who leads, and who should.

Exit codes: 0 done, 1 not done, 2 called wrongly, 3 no agent answers.
"""

from __future__ import annotations

import contextlib
import functools
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.shell_completion import CompletionItem

from rayward.cli import kinds, output
from rayward.errors import RaywardError
from rayward.local import cluster as local
from rayward.local import state

if TYPE_CHECKING:
    from rayward.plain.ask import Heads
    from rayward.plain.members import Member, Members

TOKEN_VARIABLE = "RAYWARD_AGENT_TOKEN"
_NO_AGENT_ANSWERS = 3
_WATCH_EVERY_S = 1.0
_PAUSE_SEEN_S = 5.0


def target_options(function: kinds.Function) -> kinds.Function:
    """The three ways to say which cluster is meant, as one argument ``heads``; no answer ends with code 3."""

    @functools.wraps(function)
    def called(*args: Any, cluster: str | None, config: Path | None, agent: str | None, **rest: Any) -> Any:
        from rayward.plain.ask import NoAnswer  # noqa: PLC0415 - see `find_heads`

        try:
            return function(*args, heads=find_heads(cluster, config, agent), **rest)
        except NoAnswer as problem:
            output.error(problem)
            raise click.exceptions.Exit(_NO_AGENT_ANSWERS) from problem

    for option in (
        click.option("--agent", metavar="HOST[:PORT]", help="Ask this head's agent."),
        click.option(
            "--config",
            type=click.Path(path_type=Path),
            metavar="FILE",
            help="Ask the heads of this file (/etc/rayward/rayward.yaml when no local cluster is up).",
        ),
        click.option(
            "-C",
            "--cluster",
            shell_complete=kinds.complete_cluster,
            help="Ask the heads of a cluster of this machine (default: the only one that is up).",
        ),
    ):
        called = option(called)
    return called  # type: ignore[return-value]


def find_heads(cluster: str | None, config: Path | None, agent: str | None) -> Heads:
    """The heads to ask: a named agent's, a local cluster's or a config file's; raises RaywardError."""
    # HTTP, YAML and msgspec: half of the time that other commands take to start.
    from rayward.plain import read  # noqa: PLC0415
    from rayward.plain.ask import Heads  # noqa: PLC0415
    from rayward.plain.places import split_place  # noqa: PLC0415

    given = [name for name, value in (("cluster", cluster), ("config", config), ("agent", agent)) if value]
    if len(given) > 1:
        raise click.UsageError(f"--{given[0]} and --{given[1]} name two places: give one of them")
    token = os.environ.get(TOKEN_VARIABLE, "")
    if agent is not None:
        return Heads((split_place(agent),), f"--agent {agent}", token)
    if config is None and (cluster is not None or state.clusters()):
        return _local_heads(local.find(cluster), token)
    path = config or read.DEFAULT_PATH
    if config is None and not path.exists():
        raise RaywardError(
            f"no cluster is up on this machine, and there is no {path}",
            todo="say which one with --agent HOST:PORT, --config FILE or --cluster NAME",
        )
    return _configured_heads(path, token)


def _local_heads(cluster: local.LocalCluster, token: str) -> Heads:
    from rayward.plain.ask import Heads  # noqa: PLC0415

    pods = [pod for pod in cluster.pods(ray_io_node_type="head") if pod["status"].get("podIP")]
    if not pods:
        raise RaywardError(
            "has no head with an address yet", where=f"cluster {cluster.name}", todo="rayward get pods"
        )
    return Heads(tuple(cluster.agent_address(pod) for pod in pods), f"cluster {cluster.name}", token)


def _configured_heads(path: Path, token: str) -> Heads:
    from rayward.plain import machine, read  # noqa: PLC0415
    from rayward.plain.ask import Heads  # noqa: PLC0415
    from rayward.plain.places import split_place  # noqa: PLC0415

    found, _ = read.load(path)
    if not found.heads:
        raise RaywardError("`heads` is empty", where=str(path))
    with contextlib.suppress(RaywardError):  # looking needs no token, and its file may be root's
        token = token or machine.token(found)
    return Heads(tuple(split_place(head) for head in found.heads), str(path), token)


def complete_member(
    context: click.Context, _parameter: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """Members of the cluster that the words typed so far mean."""
    from rayward.plain.members import look  # noqa: PLC0415

    try:
        given = context.params
        heads = find_heads(given.get("cluster"), given.get("config"), given.get("agent"))
        seen = look(heads, timeout=0.5)
    except (RaywardError, click.UsageError):
        return []
    return [
        CompletionItem(member.name, help=member.role)
        for member in seen.members
        if member.name.startswith(incomplete) and not member.leads
    ]


@click.command("list", epilog="example: rayward list --watch")
@target_options
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("-w", "--watch", is_flag=True, help="Show it again every second.")
def list_(heads: Heads, as_json: bool, watch: bool) -> None:
    """List a cluster's heads: who leads, with which epoch, whose lease runs out when."""
    from rayward.plain.members import look  # noqa: PLC0415

    if not watch:
        seen = look(heads)
        output.print_json(seen.raw) if as_json else _print_members(seen)
        return
    while True:
        try:
            seen = look(heads)
        except RaywardError as problem:
            # An outage is what a person watches for: it is shown, and the watch goes on.
            output.error(problem)
        else:
            if sys.stdout.isatty():
                click.clear()
            output.print_json(seen.raw) if as_json else _print_members(seen)
            sys.stdout.flush()
        time.sleep(_WATCH_EVERY_S)


def _print_members(seen: Members) -> None:
    leader = seen.leader
    words = [f"{leader.name} leads with epoch {leader.epoch}" if leader else "nobody leads"]
    if seen.paused:
        words.append("paused: no failover by itself (`rayward resume`)")
    if seen.store:
        words.append(f"store: {seen.store}")
    print(f"cluster {seen.cluster or '-'}: {'; '.join(words)}")
    output.table(
        ["member", "role", "state", "epoch", "lease", "seen ago", "gcs", "address"],
        [_row(member) for member in seen.members],
    )


def _row(member: Member) -> list[object]:
    return [
        member.name,
        member.role,
        member.state or "-",
        "-" if member.epoch is None else member.epoch,
        _seconds(member.lease_left),
        _seconds(member.seen_ago),
        member.gcs or "-",
        member.address or "-",
    ]


def _seconds(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f} s"


def _agreed(question: str, yes: bool) -> None:
    """Go on only when the person agrees; without a terminal, ``--yes`` is asked for."""
    if yes:
        return
    if not sys.stdin.isatty():
        raise click.UsageError("there is no terminal to ask on: say --yes")
    if not click.confirm(question):
        raise click.Abort


_to_option = click.option("--to", metavar="MEMBER", shell_complete=complete_member, help="Who should lead.")
_yes_option = click.option("--yes", is_flag=True, help="Do not ask.")
_timeout_option = click.option(
    "--timeout",
    default=60.0,
    show_default=True,
    type=click.FloatRange(0.1),
    help="Seconds to wait for the outcome.",
)


@click.command(epilog="example: rayward switchover --to head-2 --yes")
@target_options
@_to_option
@_yes_option
@_timeout_option
def switchover(heads: Heads, to: str | None, yes: bool, timeout: float) -> None:
    """Let another head lead, in good order: the leader stops its GCS and hands its lease over.

    Without --to the agents choose a head that is ready. Running actors go on.
    """
    from rayward.plain.members import look  # noqa: PLC0415

    seen = look(heads)
    if seen.leader is None:
        raise RaywardError(
            "nobody leads, so nobody can hand over", where=heads.source, todo="rayward failover [--to MEMBER]"
        )
    _agreed(
        f"let {to or 'another head'} lead instead of {seen.leader.name} (epoch {seen.leader.epoch})?", yes
    )
    _change(heads, "/switchover", to, timeout, seen)


@click.command(epilog="example: rayward failover --to head-2 --yes")
@target_options
@_to_option
@_yes_option
@_timeout_option
def failover(heads: Heads, to: str | None, yes: bool, timeout: float) -> None:
    """Let another head take the lease without asking the leader: for one that hangs or is cut off.

    Works while paused too. What the old leader still wants to write is refused by the store.
    """
    from rayward.plain.members import look  # noqa: PLC0415

    seen = look(heads)
    now = f"{seen.leader.name} leads (epoch {seen.leader.epoch})" if seen.leader else "nobody leads"
    _agreed(f"{now}: let {to or 'another head'} take the lease, whatever the leader does?", yes)
    _change(heads, "/failover", to, timeout, seen)


def _change(heads: Heads, path: str, to: str | None, timeout: float, seen: Members) -> None:
    from rayward.plain.handover import change_leader  # noqa: PLC0415

    with output.progress(f"{path.strip('/')} of cluster {seen.cluster or '-'}") as shown:
        done = change_leader(heads, path, to, timeout, shown.say, seen)
    print(
        f"{done.now.member} leads with epoch {done.now.epoch} after {done.seconds:.2f} s "
        f"(before: {done.before.leader or 'nobody'}, epoch {done.before.epoch})"
    )


@click.command(epilog="example: rayward pause")
@target_options
def pause(heads: Heads) -> None:
    """Switch failover by itself off, for maintenance: the leader goes on, no other head takes over."""
    _set_paused(heads, "/pause", True)


@click.command(epilog="example: rayward resume")
@target_options
def resume(heads: Heads) -> None:
    """Switch failover by itself on again."""
    _set_paused(heads, "/resume", False)


def _set_paused(heads: Heads, path: str, paused: bool) -> None:
    """Ask for it, and wait until the heads act by it: they read it with their next look at the store."""
    from rayward.plain.members import look  # noqa: PLC0415

    with told_when_lost(heads):
        said = heads.post(path, {}).body.get("message") or path.strip("/")
    deadline = time.monotonic() + _PAUSE_SEEN_S
    while time.monotonic() < deadline:
        with contextlib.suppress(RaywardError):
            if look(heads).paused is paused:
                print(said)
                return
        time.sleep(0.1)
    raise RaywardError(
        f"it was accepted ({said}), and the heads do not show it after {_PAUSE_SEEN_S:g} s",
        where=heads.source,
        todo="rayward list",
    )


@contextlib.contextmanager
def told_when_lost(heads: Heads) -> Iterator[None]:
    """Turn an answer that got lost on its way into an error that says so."""
    from rayward.plain.ask import Unreachable  # noqa: PLC0415

    try:
        yield
    except Unreachable as problem:
        raise RaywardError(
            f"the request was sent and its answer got lost: {problem}",
            where=heads.source,
            todo="`rayward list` shows how it stands",
        ) from problem


@click.command(epilog="example: rayward history --json")
@target_options
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def history(heads: Heads, as_json: bool) -> None:
    """List who has led, since when, and why it changed; the newest last."""
    entries = heads.get("/history").body.get("history")
    if not isinstance(entries, list):
        raise RaywardError("its answer holds no history", where=heads.source)
    if as_json:
        output.print_json(entries)
        return
    if not entries:
        print("nobody has led yet")
        return
    rows = [
        [
            _time(entry.get("time")),
            entry.get("epoch", "-"),
            entry.get("member", "-"),
            entry.get("reason", "-"),
        ]
        for entry in entries
        if isinstance(entry, dict)
    ]
    output.table(["since", "epoch", "member", "reason"], rows)


def _time(value: object) -> str:
    """A moment as local time; texts are shown as they came."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        with contextlib.suppress(OverflowError, OSError, ValueError):
            return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(value))
    return str(value) if value else "-"
