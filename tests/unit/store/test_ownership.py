from __future__ import annotations

from dataclasses import replace

import pytest

from rayward.store.ownership import Incarnation, Owner, Ownership, Remembered, StoreFacts, check_owner

OURS = Incarnation("i1", "uid-1", "mine")
THEIRS = Incarnation("i9", "uid-9", "theirs")
EMPTY = StoreFacts(None, has_ray_data=False)
HELD = StoreFacts(OURS, has_ray_data=True, epoch=7, held=True, holder="head-0")


def judged(facts: StoreFacts, remembered: Remembered | None = None) -> Ownership:
    return check_owner(facts, "uid-1", "ns", remembered or Remembered())


@pytest.mark.parametrize(
    ("facts", "remembered", "owner", "words"),
    [
        (EMPTY, Remembered(), Owner.FRESH, "is new"),
        (replace(EMPTY, has_ray_data=True), Remembered(), Owner.UNMARKED_DATA, "without rayward"),
        (HELD, Remembered(), Owner.OURS, "this cluster's"),
        (HELD, Remembered("i1", 7), Owner.OURS, "this cluster's"),
        (EMPTY, Remembered("i1", 7), Owner.EMPTY, "is empty: it lost what this head knew (epoch 7)"),
        (EMPTY, Remembered("", 7), Owner.EMPTY, "is empty"),
        (replace(EMPTY, has_ray_data=True), Remembered("i1", 7), Owner.EMPTY, "but not rayward's"),
        (HELD, Remembered("i1", 8), Owner.OLDER, "its epoch is 7, and 8 has been seen"),
        (HELD, Remembered("i0", 7), Owner.OLDER, "incarnation i1 instead of i0"),
        # Adopted at another head, which raised the epoch above every one that is remembered.
        (HELD, Remembered("i0", 6), Owner.OURS, "this cluster's"),
        (replace(HELD, epoch=0, held=False), Remembered("i1", 1), Owner.OLDER, "went back in time"),
        (
            replace(HELD, incarnation=THEIRS),
            Remembered(),
            Owner.FOREIGN_LIVE,
            "'theirs' (uid uid-9), which runs",
        ),
        (replace(HELD, incarnation=THEIRS, quiet=True), Remembered(), Owner.FOREIGN_RELEASED, "taken over"),
        (replace(HELD, incarnation=THEIRS, held=False), Remembered(), Owner.FOREIGN_RELEASED, "'theirs'"),
        (
            replace(HELD, incarnation=THEIRS, held=False),
            Remembered("i1", 3),
            Owner.OLDER,
            "was taken over by",
        ),
    ],
)
def test_whose_store_it_is(facts: StoreFacts, remembered: Remembered, owner: Owner, words: str) -> None:
    found = judged(facts, remembered)

    assert found.owner is owner
    assert words in found.sentence
    assert bool(found.todo) is not found.usable


def test_a_refusal_names_the_setting_or_the_command() -> None:
    assert "RAY_external_storage_namespace" in judged(replace(HELD, incarnation=THEIRS)).todo
    assert "rayward store adopt" in judged(EMPTY, Remembered("i1", 1)).todo
