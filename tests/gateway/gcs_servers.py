"""Real gcs_server processes of several Ray versions, without the rest of Ray: its KV is asked over gRPC.

The binary of the Ray that is installed is used as it is. Those of older versions are taken from the wheel on
PyPI, once, into rayward's cache folder; ``RAYWARD_TEST_GCS_2_37_0`` and so on name one that is there already.
"""

from __future__ import annotations

import base64
import contextlib
import os
import socket
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import ray
from gateway_rig import TOKEN, clean_environment, until
from redis_server import free_port

INSTALLED = ray.__version__
# One of the old layout (one hash), one between.
OLDER = ("2.37.0", "2.48.0")
_INSIDE = "ray/core/src/ray/gcs/gcs_server"
_FETCH_BOUND_S = 150


def binary(version: str) -> Path:
    """The gcs_server of this version; skips the test where it cannot be had."""
    if version == INSTALLED:
        return Path(ray.__file__).parent.parent / _INSIDE
    named = os.environ.get(f"RAYWARD_TEST_GCS_{version.replace('.', '_')}")
    if named:
        return Path(named)
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "rayward" / "gcs_server"
    path = cache / version / "gcs_server"
    if not path.exists():
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache) as folder:
            _fetch(version, Path(folder), path)
    return path


def _fetch(version: str, folder: Path, path: Path) -> None:
    # The binary does not depend on Python's version, so any wheel of that Ray does.
    wanted = ["--python-version", "3.11", "--platform", "manylinux2014_x86_64", "--only-binary=:all:"]
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", *wanted, f"ray=={version}"]
    try:
        subprocess.run(
            [*command, "--dest", str(folder)], check=True, capture_output=True, timeout=_FETCH_BOUND_S
        )
    except (OSError, subprocess.SubprocessError) as error:
        pytest.skip(f"Ray {version} cannot be had here: {error}")
    [wheel] = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extract(_INSIDE, folder)
    (folder / _INSIDE).chmod(0o755)
    path.parent.mkdir(exist_ok=True)
    os.replace(folder / _INSIDE, path)


@dataclass
class Gcs:
    """A gcs_server. ``port`` is that of its gRPC server."""

    process: subprocess.Popen[bytes]
    port: int
    log: Path

    @property
    def serves(self) -> bool:
        try:
            socket.create_connection(("127.0.0.1", self.port), 1).close()
        except OSError:
            return False
        return True

    def wait_serves(self, seconds: float = 20) -> None:
        def look() -> bool:
            assert self.process.poll() is None, self.log.read_text(errors="replace")[-3000:]
            return self.serves

        until(look, seconds, "the GCS serves")

    def client(self) -> Any:
        """Ray's own client; of the installed version, whose messages older servers understand."""
        from ray._raylet import GcsClient  # noqa: PLC0415

        return GcsClient(address=f"127.0.0.1:{self.port}")


@contextlib.contextmanager
def gcs(folder: Path, redis_port: int, version: str = INSTALLED, token: str = TOKEN) -> Iterator[Gcs]:
    """A gcs_server on the Redis (or gateway) at this port of 127.0.0.1, in the namespace ``default``."""
    folder.mkdir(parents=True, exist_ok=True)
    port, log = free_port(), folder / "gcs.log"
    command = [
        str(binary(version)), f"--log_dir={folder}", f"--gcs_server_port={port}", "--metrics_agent_port=-1",
        f"--config_list={base64.b64encode(b'{}').decode()}", "--node_ip_address=127.0.0.1",
        "--session_name=session_test", "--redis_address=127.0.0.1", f"--redis_port={redis_port}",
        f"--redis_password={token}", "--redis_enable_ssl=false", "--retry_redis=true",
    ]  # fmt: skip
    environment = {
        **clean_environment(),
        "RAY_REDIS_ADDRESS": f"127.0.0.1:{redis_port}",
        "RAY_external_storage_namespace": "default",
    }
    with log.open("ab") as out:
        # No core dump of one that aborts when it is refused.
        process = subprocess.Popen(
            ["sh", "-c", 'ulimit -c 0; exec "$@"', "sh", *command],
            env=environment, cwd=folder, stdin=subprocess.DEVNULL, stdout=out, stderr=out,
        )  # fmt: skip
    try:
        yield Gcs(process, port, log)
    finally:
        if process.poll() is None:
            process.kill()
        process.wait(10)
