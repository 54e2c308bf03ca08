"""Remove everything that one Ray cluster, and rayward beside it, left in Redis. Nothing else is touched.

Which keys go is a pure decision; the rest scans, unlinks in batches, and looks again until nothing is left.
It does not know whether the cluster still runs: it notices only that keys come back.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from rayward.errors import RaywardError
from rayward.store import schema
from rayward.store.connection import connect
from rayward.store.upstream import StoreAwayError, StoreSettings, fault_of, primary_address

if TYPE_CHECKING:
    import redis

RETRY_FOR_S = 60.0
_RETRY_PAUSE_S = 0.5
_ANSWER_TIMEOUT_S = 10.0
_SCAN_COUNT = 1000
_ROUNDS = 5

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class CleanupReport:
    """What a clean-up found and did: ``keys`` are the names, ``deleted`` is what Redis counted as removed."""

    namespace: str
    keys: tuple[str, ...]
    deleted: int
    seconds: float
    dry_run: bool = False


class KeysReturned(RaywardError):
    """Keys were there again after each removal: something still writes to the namespace."""


def plan_cleanup(keys: Iterable[str], namespace: str) -> tuple[str, ...]:
    """The keys among ``keys`` that belong to ``namespace``, sorted, each once.

    A key equal to the namespace counts as the one hash of Ray before 2.38; the caller passes it only when
    it has looked inside.
    """
    schema.check_namespace(namespace)
    return tuple(sorted({key for key in keys if _belongs(key, namespace)}))


def cleanup(
    client: redis.Redis,
    namespace: str,
    batch: int = 100,
    dry_run: bool = False,
    on_progress: Progress | None = None,
) -> CleanupReport:
    """Remove all keys of ``namespace`` and check that none is left. Safe to repeat.

    ``on_progress(done, found)`` is called after each batch. Raises ``KeysReturned`` when keys come back
    after every one of a few rounds, ``RaywardError`` when a removal is refused, and redis-py's exceptions.
    """
    started = time.monotonic()
    removed: set[str] = set()
    deleted = 0
    found = plan_cleanup(_candidates(client, namespace), namespace)
    if dry_run:
        return CleanupReport(namespace, found, 0, time.monotonic() - started, dry_run=True)
    for _ in range(_ROUNDS):
        if not found:
            break
        for start in range(0, len(found), batch):
            deleted += _remove(client, found[start : start + batch])
            if on_progress is not None:
                on_progress(min(start + batch, len(found)), len(found))
        removed.update(found)
        found = plan_cleanup(_candidates(client, namespace), namespace)
    if not found:
        return CleanupReport(namespace, tuple(sorted(removed)), deleted, time.monotonic() - started)
    raise KeysReturned(
        f"keys of namespace {namespace!r} were there again after each of {_ROUNDS} removals "
        f"(now {len(found)}: {', '.join(found[:3])})",
        todo="stop the cluster that still writes to this namespace (its GCS runs), then clean up again",
    )


def list_redis_keys(client: redis.Redis, patterns: Sequence[str] = ("RAY*@*", "rayward:*")) -> list[str]:
    """All keys that match one of the patterns, by SCAN; a name that is not UTF-8 survives the round trip."""
    return [_text(key) for pattern in patterns for key in client.scan_iter(match=pattern, count=_SCAN_COUNT)]


def main_from_environment(environ: Mapping[str, str], argv: Sequence[str]) -> int:
    """What the clean-up Job runs: 0 when the namespace is empty at the end, else 1 and one clear line.

    Reads the variables of a head container (``RAY_REDIS_ADDRESS``, ``RAY_external_storage_namespace``,
    ``REDIS_USERNAME``, ``REDIS_PASSWORD``...: see ``StoreSettings.from_environment``). A fault that may pass
    is retried for ``RAYWARD_CLEANUP_TIMEOUT_S`` seconds (60).
    """
    parser = argparse.ArgumentParser(prog="store-cleanup", description="Remove a cluster's keys from Redis.")
    parser.add_argument("--namespace", default=environ.get("RAY_external_storage_namespace", ""))
    parser.add_argument("--dry-run", action="store_true", help="only list the keys")
    arguments = parser.parse_args(argv)
    try:
        patience = _patience(environ)
        namespace = schema.check_namespace(arguments.namespace)
        settings = replace(StoreSettings.from_environment(environ), namespace=namespace)
        _run(settings, dry_run=arguments.dry_run, patience=patience)
    except RaywardError as error:
        print(f"clean-up failed: {error}", file=sys.stderr, flush=True)
        return 1
    return 0


def _run(settings: StoreSettings, *, dry_run: bool, patience: float) -> None:
    _say(f"cleaning namespace {settings.namespace} in Redis at {settings.address.redacted()}")
    give_up = time.monotonic() + patience
    last = ""
    while True:
        client = None
        try:
            client = _client(settings)
            report = cleanup(client, settings.namespace, dry_run=dry_run, on_progress=_say_progress)
            break
        except Exception as error:
            if isinstance(error, RaywardError) and not isinstance(error, StoreAwayError):
                raise
            fault = fault_of(error, settings)
            if not fault.transient or time.monotonic() >= give_up:
                raise fault.as_error() from None
            if fault.sentence != last:
                _say(f"{fault.sentence}; trying again for {give_up - time.monotonic():.0f} s")
                last = fault.sentence
            time.sleep(_RETRY_PAUSE_S)
        finally:
            if client is not None:
                client.close()
    for key in report.keys:
        _say(f"{'found' if dry_run else 'removed'} {key}")
    _say(f"{len(report.keys)} keys found, {report.deleted} removed in {report.seconds:.2f} s")


def _client(settings: StoreSettings) -> redis.Redis:
    username, password = settings.credentials()
    address = settings.address
    if address.primary:
        address = primary_address(settings, _ANSWER_TIMEOUT_S)
    return connect(address, username, password, _ANSWER_TIMEOUT_S, settings.tls)


def _patience(environ: Mapping[str, str]) -> float:
    text = environ.get("RAYWARD_CLEANUP_TIMEOUT_S", "")
    try:
        seconds = float(text) if text else RETRY_FOR_S
    except ValueError:
        seconds = -1.0
    if not (math.isfinite(seconds) and seconds >= 0):
        raise RaywardError(
            f"{text!r} is not a number of seconds",
            where="RAYWARD_CLEANUP_TIMEOUT_S",
            todo="give a number, as in 60",
        )
    return seconds


def _belongs(key: str, namespace: str) -> bool:
    table = schema.parse_key(key)
    if table is not None:
        return table.namespace == namespace
    own = schema.parse_own_key(key)
    return own[0] == namespace if own is not None else key == schema.legacy_key(namespace)


def _candidates(client: redis.Redis, namespace: str) -> list[str]:
    keys = list_redis_keys(client, schema.match_patterns(namespace))
    if is_legacy_hash(client, namespace):
        keys.append(schema.legacy_key(namespace))
    return keys


def is_legacy_hash(client: redis.Redis, namespace: str) -> bool:
    """Whether the key named like the namespace is Ray's old hash and not a hash of somebody else."""
    key = schema.legacy_key(namespace)
    reader: Any = client
    try:
        if _text(reader.type(key)) != "hash":
            return False
    except Exception as error:  # redis-py's own class, which is not imported here
        # The key's name is outside the rights that rayward asks for: this user cannot have written it.
        if type(error).__name__ == "NoPermissionError":
            return False
        raise
    _, fields = reader.hscan(key, count=10)
    return bool(fields) and all(
        schema.split_legacy_field(_text(field), namespace) is not None for field in fields
    )


def _remove(client: redis.Redis, keys: Sequence[str]) -> int:
    """One key per command: in a Redis Cluster, keys of several slots may not share one."""
    answers = _pipelined(client, "UNLINK", keys)
    refused = [keys[place] for place, answer in enumerate(answers) if isinstance(answer, Exception)]
    if not refused:
        return sum(answers)
    # Redis before 4 has no UNLINK, and a user may have been given DEL only.
    removed = sum(answer for answer in answers if not isinstance(answer, Exception))
    again = _pipelined(client, "DEL", refused)
    for answer in again:
        if isinstance(answer, Exception):
            raise answer
    return int(removed + sum(again))


def _pipelined(client: redis.Redis, command: str, keys: Sequence[str]) -> list[Any]:
    pipeline: Any = client.pipeline(transaction=False)
    for key in keys:
        pipeline.execute_command(command, key.encode("utf-8", "surrogateescape"))
    return list(pipeline.execute(raise_on_error=False))


def _text(value: Any) -> str:
    return value.decode("utf-8", "surrogateescape") if isinstance(value, bytes) else str(value)


def _say(line: str) -> None:
    print(line, flush=True)


def _say_progress(done: int, found: int) -> None:
    if done < found:
        _say(f"removed {done} of {found} keys")
