"""requirements.lock: complete, hashed, and enough to begin with nothing but Python and pip."""

from __future__ import annotations

import re
import subprocess
import sys
from importlib import metadata

import pytest
from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from tree import ROOT

try:
    import tomllib
except ImportError:  # Python 3.10
    import tomli as tomllib

LOCK = (ROOT / "requirements.lock").read_text()
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
ENTRIES = re.split(r"(?m)^(?=[a-z0-9])", LOCK)[1:]
PYTHONS = ("3.10", "3.11", "3.12", "3.13")


def pins(python: str) -> dict[str, str]:
    """Name to version of what the lock installs for a Python."""
    environment = {**default_environment(), "python_version": python, "python_full_version": f"{python}.5"}
    found = {}
    for entry in ENTRIES:
        requirement = Requirement(entry.split("\\")[0].split(" --hash")[0].strip())
        if requirement.marker is None or requirement.marker.evaluate(environment):
            (pin,) = requirement.specifier
            assert pin.operator == "=="
            found[canonicalize_name(requirement.name)] = pin.version
    return found


def test_every_entry_has_hashes_and_nothing_else_is_in_the_file() -> None:
    assert len(ENTRIES) > 50
    for entry in ENTRIES:
        assert "--hash=sha256:" in entry, entry.splitlines()[0]
    options = [line for line in LOCK.splitlines() if line.startswith("-")]
    assert options == []


@pytest.mark.parametrize("python", PYTHONS)
def test_the_lock_satisfies_pyproject(python: str) -> None:
    locked = pins(python)
    wanted = [*PROJECT["dependencies"], *PROJECT["optional-dependencies"]["dev"]]
    for requirement in map(Requirement, wanted):
        if requirement.marker is not None and not requirement.marker.evaluate({"python_version": python}):
            continue
        assert locked[canonicalize_name(requirement.name)] in requirement.specifier, requirement.name
    assert locked["ray"] == "2.60.0"


def test_the_environment_of_this_run_is_the_locked_one() -> None:
    locked = pins(f"{sys.version_info.major}.{sys.version_info.minor}")
    installed = {canonicalize_name(found.name): found.version for found in metadata.distributions()}
    assert {name: installed.get(name) for name in locked} == locked


def test_what_is_fetched_to_make_environments_needs_nothing_else() -> None:
    script = f"source '{ROOT}/tools/environment.sh' && rayward_virtualenv_lock"
    lines = subprocess.run(
        ["bash", "-c", script], capture_output=True, text=True, check=True, timeout=30
    ).stdout
    given = set(re.findall(r"(?m)^([a-z][a-z0-9-]*)==", lines))
    needed, queue = set(), ["virtualenv"]
    while queue:
        name = canonicalize_name(queue.pop())
        if name in needed:
            continue
        needed.add(name)
        for requirement in map(Requirement, metadata.requires(name) or ()):
            # Those for older Pythons must be given too; extras are not installed.
            environment = {"extra": "", "python_version": "3.10", "python_full_version": "3.10.5"}
            if requirement.marker is None or requirement.marker.evaluate(environment):
                queue.append(requirement.name) if _installed(requirement.name) else needed.add(
                    requirement.name
                )
    assert needed <= given
    assert "--hash=sha256:" in lines


def _installed(name: str) -> bool:
    return any(metadata.distributions(name=name))
