from __future__ import annotations

from rayward.store.audit import AuditEntry, audit_verdict


def entries(*epochs: int) -> list[AuditEntry]:
    return [
        AuditEntry(f"{n}-0", f"{epoch}:i{epoch}", "HSET", "RAYx@KV", "f") for n, epoch in enumerate(epochs)
    ]


def test_epochs_that_only_grow_prove_one_writer() -> None:
    verdict = audit_verdict(entries(1, 1, 2, 5, 5))

    assert (verdict.writes, verdict.epochs, verdict.stale) == (5, (1, 2, 5), ())


def test_a_write_of_an_old_epoch_is_found() -> None:
    verdict = audit_verdict(entries(1, 3, 1, 3, 2))

    assert [(entry.id, entry.epoch) for entry in verdict.stale] == [("2-0", 1), ("4-0", 2)]


def test_an_empty_stream_proves_nothing_and_accuses_nobody() -> None:
    assert audit_verdict([]).writes == 0


def test_two_writers_of_one_epoch_are_found() -> None:
    # After a store forgot its newest seconds, two heads may have taken one and the same epoch.
    first, second = (AuditEntry(f"{n}-0", f"4:{who}", "HSET", "k", "f") for n, who in enumerate("ab"))

    assert audit_verdict([first, second, first]).stale == (second,)
