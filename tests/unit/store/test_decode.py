from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from rayward.errors import RaywardError
from rayward.store.decode import decoder_of, show_table, text_or_base64
from rayward.store.source import StateSource, TableRow, list_keys


class Shelf(StateSource):
    """Entries in memory."""

    def __init__(self, content: dict[tuple[str, str], dict[bytes, bytes]]) -> None:
        self._content = content

    def rows(self) -> Iterator[TableRow]:
        for (namespace, table), entries in self._content.items():
            yield TableRow(namespace, table, f"RAY{namespace}@{table}", len(entries), None)

    def entries(self, namespace: str, table: str) -> Iterator[tuple[bytes, bytes]]:
        yield from self._content.get((namespace, table), {}).items()


def only(table: str, key: bytes, value: bytes, limit: int | None = None) -> dict[str, Any]:
    found = list(show_table(Shelf({("ns", table): {key: value}}), "ns", table, limit))
    assert json.loads(json.dumps(found)) == found
    return found[0]


@pytest.mark.parametrize(
    ("raw", "shown"),
    [
        (b"plain", "plain"),
        ("ä\n\t".encode(), "ä\n\t"),
        (b"", ""),
        (b"\xff\x00", {"base64": "/wA=", "bytes": 2}),
        # Decodes as UTF-8, but no terminal should get it.
        (b"\x1b[2J", {"base64": "G1sySg==", "bytes": 4}),
    ],
)
def test_bytes_are_text_or_base64(raw: bytes, shown: object) -> None:
    assert text_or_base64(raw) == shown


def test_long_values_are_cut_and_say_so() -> None:
    assert text_or_base64(b"abcdef", 4) == {"text": "abcd", "bytes": 6, "truncated": True}
    assert text_or_base64("aé".encode(), 2) == {"text": "a", "bytes": 3, "truncated": True}
    assert text_or_base64(b"\xff\x00\x00\x00", 3) == {"base64": "/wAA", "bytes": 4, "truncated": True}
    assert text_or_base64(b"abcd", 4) == "abcd"


@pytest.mark.parametrize(
    ("key", "namespace", "name"),
    [
        (b"@namespace_cluster:CLUSTER_METADATA", "cluster", "CLUSTER_METADATA"),
        (b"@namespace_dashboard:IP_PREFIX:10.0.0.1", "dashboard", "IP_PREFIX:10.0.0.1"),
        (b"gcs_pid", None, "gcs_pid"),
        (b"@namespace_broken", None, "@namespace_broken"),
        (b"@namespace_fun:\xff", "fun", {"base64": "/w==", "bytes": 1}),
    ],
)
def test_kv_keys_carry_a_namespace(key: bytes, namespace: str | None, name: object) -> None:
    assert only("KV", key, b"v") == {"namespace": namespace, "key": name, "value": "v"}


def test_the_job_counter_is_a_number() -> None:
    assert only("JobCounter", b"JobCounter", b"12") == {"key": "JobCounter", "value": 12}


def test_an_unknown_table_is_shown_raw() -> None:
    assert only("FUTURE", b"k", b"\xfe\xff") == {"key": "k", "value": {"base64": "/v8=", "bytes": 2}}


def test_keys_are_listed_in_order() -> None:
    shelf = Shelf({("b", "KV"): {}, ("a", "NODE"): {}, ("a", "KV"): {b"x": b"y"}})
    assert [(row.namespace, row.table, row.entries) for row in list_keys(shelf)] == [
        ("a", "KV", 1),
        ("a", "NODE", 0),
        ("b", "KV", 0),
    ]


def test_without_ray_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    # None in sys.modules is how Python itself marks a module that must not be found.
    for name in ("ray", "ray.core", "ray.core.generated", "ray.core.generated.gcs_pb2"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(RaywardError, match="Ray is not installed") as error:
        decoder_of("NODE")
    assert "pip install ray" in str(error.value)
    assert decoder_of("KV")(b"k", b"v")["value"] == "v"
