"""How to run one more command in a container that runs: as words, environment and folder for exec.

Decides from what a Pod left in its folder (status.json, containers/NAME.json); the asker executes the plan.
Must not know of clusters or of the command line.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rayward.errors import RaywardError
from rayward.local import hostmode, linux


@dataclass(frozen=True)
class ExecPlan:
    """What to give to execve: ``argv[0]`` is a program's path or name, ``cwd`` a folder of the machine."""

    argv: tuple[str, ...]
    env: dict[str, str]
    cwd: str


def plan(spec: Mapping[str, Any], pid: int, argv: Sequence[str], nsenter: str = "nsenter") -> ExecPlan:
    """The plan for a container with this spec and first process; pure."""
    env: dict[str, str] = dict(spec["env"])
    if spec["mode"] == "host":
        facts = hostmode.HostFacts.from_json(spec.get("host") or {})
        adapted = hostmode.adapt_client(hostmode.substitute_all(argv, spec["replacements"]), facts)
        return ExecPlan(adapted, env, spec["cwd"])
    words = (
        nsenter,
        f"--target={pid}",
        *("--mount", "--net", "--pid", "--ipc", "--uts", "--root"),
        # Opened before the namespaces are entered, so it is named by the way to it from outside.
        f"--wd=/proc/{pid}/root{spec['cwd']}",
        "--",
        *argv,
    )
    return ExecPlan(words, env, "/")


def nsenter_path() -> str:
    """Where util-linux's nsenter is; RaywardError if it is not."""
    found = shutil.which("nsenter") or shutil.which("nsenter", path="/usr/bin:/bin:/usr/sbin:/sbin")
    if found is None:
        raise RaywardError("nsenter is missing, which enters a running container", todo="install util-linux")
    return found


def exec_command(pod_dir: Path, container: str | None, argv: Sequence[str], tty: bool = False) -> ExecPlan:
    """The plan for running ``argv`` in a container (the first when None) of the Pod in ``pod_dir``.

    With ``tty`` the caller's terminal type goes along. Raises RaywardError when the Pod has no such container
    or the container does not run.
    """
    try:
        status: dict[str, Any] = json.loads((pod_dir / "status.json").read_text())
        manifest: dict[str, Any] = json.loads((pod_dir / "pod.json").read_text())["pod"]
    except FileNotFoundError:
        raise RaywardError(
            "this Pod is not there any more, or never started", where=f"Pod {pod_dir.name}"
        ) from None
    pod = manifest["metadata"]["name"]
    names = [entry["name"] for entry in manifest["spec"]["containers"]]
    names += [entry["name"] for entry in manifest["spec"].get("initContainers") or ()]
    name = container or names[0]
    where = f"Pod {pod}, container {name}"
    if name not in names:
        raise RaywardError(
            "the Pod has no such container", where=where, todo=f"name one of: {', '.join(names)}"
        )
    entry = status["rayward"]["containers"].get(name)
    if entry is None or linux.process_start_time(entry["pid"]) != entry["start_time"]:
        raise RaywardError(
            f"the container is not running ({_condition(status, name)})",
            where=where,
            todo="look at `rayward logs` and `rayward describe` of the Pod, and try again once it runs",
        )
    spec = json.loads((pod_dir / "containers" / f"{name}.json").read_text())
    if tty:
        import os  # noqa: PLC0415 (only a terminal needs the caller's environment)

        spec["env"] = {"TERM": os.environ.get("TERM", "xterm"), **spec["env"]}
    return plan(spec, int(entry["pid"]), argv, nsenter_path() if spec["mode"] != "host" else "")


def _condition(status: Mapping[str, Any], name: str) -> str:
    for entry in (*(status.get("containerStatuses") or ()), *(status.get("initContainerStatuses") or ())):
        if entry["name"] == name:
            for word, detail in entry["state"].items():
                return f"{word}: {detail['reason']}" if detail.get("reason") else str(word)
    return "not started yet"
