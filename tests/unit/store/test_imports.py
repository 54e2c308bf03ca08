"""The agent imports these modules on every node: they must stay cheap and within the agent's Python."""

from __future__ import annotations

import subprocess
import sys

CHEAP = (
    "address",
    "schema",
    "connection",
    "cleanup",
    "source",
    "rocksdb",
    "redis_source",
    "rocksdb_source",
    "decode",
)


def test_nothing_heavy_is_imported_before_it_is_used() -> None:
    program = (
        f"import importlib, sys\n"
        f"for name in {CHEAP!r}: importlib.import_module('rayward.store.' + name)\n"
        f"print(*sorted({{'redis', 'ray', 'google.protobuf', 'rocksdict', 'rayward.api', 'rayward.plan', "
        f"'rayward.agent', 'rayward.local', 'rayward.kube'}} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.split() == []
