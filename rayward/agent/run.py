"""Puts one node's agent together and runs it."""

from __future__ import annotations

import contextlib
import os
import signal
import threading

from rayward.agent import serve_hook
from rayward.agent.config import build
from rayward.agent.decide import Kind
from rayward.agent.events import EventLog
from rayward.agent.head_lead import HeadLead
from rayward.agent.node import become_subreaper
from rayward.agent.place import placed, start_forwarding
from rayward.agent.rejoin import RejoinWatch
from rayward.agent.serve_watch import ServeWatch
from rayward.agent.server import Views, serve
from rayward.agent.supervisor import Supervisor
from rayward.agent.timing import Timing
from rayward.errors import RaywardError


def run_node(kind: Kind, ray_start: list[str], timing: Timing) -> int:
    """Run a node until it is stopped or gives up; returns the exit code.

    Raises RaywardError for settings that cannot be used.
    """
    if ray_start[:1] == ["--"]:
        ray_start = ray_start[1:]
    config = placed(build(kind, ray_start, os.environ), os.environ)
    become_subreaper()
    supervisor = Supervisor(config, timing, EventLog(f"rayward[{config.name}]"))
    if config.serve_port is not None:
        supervisor.give_serve(start_serve_watch(config.serve_port, timing, supervisor.events))
    if config.head is not None:
        lead = HeadLead(
            config, config.head, os.environ, config.gcs_host, supervisor.events, supervisor.note_lead
        )
        supervisor.give_lead(lead)
    if config.forward is not None:
        forwarder, heads = start_forwarding(config, config.forward, supervisor.events)
        supervisor.give_forwarder(forwarder)
        RejoinWatch(heads, config.name, supervisor.raylet, supervisor.recycle).start()
    server = serve(Views(supervisor, timing), config.http_host, config.http_port)
    try:
        return run_until_signalled(supervisor)
    finally:
        server.server_close()
        if supervisor.serve is not None:
            supervisor.serve.stop()
            serve_hook.remove(os.environ)


def start_serve_watch(port: int, timing: Timing, events: EventLog) -> ServeWatch:
    """Watch Ray Serve's proxy. What lets it leave gracefully comes into this process's environment, which
    Ray's processes inherit; without it the node works as well."""
    try:
        variables = serve_hook.install(os.environ)
    except RaywardError as error:
        events.add("ServeMiddlewareMissing", str(error))
        variables = {}
    os.environ.update(variables)

    def keep() -> None:
        if variables:
            with contextlib.suppress(RaywardError):
                serve_hook.write(serve_hook.folder(os.environ))

    watch = ServeWatch(port, timing, events.add, keep)
    watch.start()
    return watch


def run_until_signalled(supervisor: Supervisor) -> int:
    """Run the loop in the main thread with PID 1's duties: SIGTERM and SIGINT stop the node, SIGHUP,
    SIGUSR1 and SIGUSR2 are passed on, SIGCHLD wakes the loop."""
    node_signals = (signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda received, _frame: supervisor.request_stop(received))
    for number in node_signals:
        signal.signal(number, lambda received, _frame: supervisor.forward(received))
    signal.signal(signal.SIGCHLD, lambda _received, _frame: supervisor.wake())
    assert threading.current_thread() is threading.main_thread()
    return supervisor.run()
