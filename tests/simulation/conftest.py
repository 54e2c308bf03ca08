"""Puts the simulator's modules on the path; ``--seed`` works when pytest is asked for this folder."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--seed", type=int, default=None, help="replay this schedule of the simulator only")


@pytest.fixture(scope="session")
def seed(request: pytest.FixtureRequest) -> int | None:
    """The one seed to replay: ``--seed``, or RAYWARD_SIM_SEED."""
    given = request.config.getoption("--seed", default=None)
    told = os.environ.get("RAYWARD_SIM_SEED")
    return given if given is not None else int(told) if told else None
