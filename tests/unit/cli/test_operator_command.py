"""The flags of ``rayward operator`` that KubeRay's users write in Go's form."""

from __future__ import annotations

import pytest

from rayward.cli.operator import operator


@pytest.mark.parametrize(
    ("arguments", "elects"),
    [
        ([], True),
        (["--enable-leader-election"], True),
        (["--enable-leader-election", "--leader-election-namespace=x"], True),
        (["--enable-leader-election=true"], True),
        (["--enable-leader-election=false"], False),
    ],
)
def test_leader_election_is_a_switch_with_or_without_a_value(arguments: list[str], elects: bool) -> None:
    parameters = operator.make_context("operator", list(arguments)).params
    assert parameters["enable_leader_election"] is elects
    assert parameters["no_leader_election"] is False
