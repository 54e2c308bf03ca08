"""A real Kubernetes control plane for tests: etcd, API server, controller manager and scheduler on loopback.

There is no kubelet and no kube-proxy in it. The API server reaches a kubelet (exec, logs, port-forward) at
its Node's InternalIP and `status.daemonEndpoints.kubeletEndpoint.Port`, by TLS whose certificate it does not
check and without one of its own. Nothing outlives the process that started it, nothing of it stays.
"""

from __future__ import annotations

import contextlib
import fcntl
import http.client
import ipaddress
import json
import os
import secrets
import shutil
import signal
import ssl
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import certificates
from binaries import Binaries
from program_flags import Options, Place, all_flags
from programs import MARK, Program, free_port, healthy, listens, until

if TYPE_CHECKING:
    from rayward.kube.client import KubeClient

__all__ = ["ControlPlane", "Options", "running", "until"]

_PREFIX = "rayward-control-plane-"
_YOUNG_S = 60.0
_NAMES = ("kubernetes", "kubernetes.default", "kubernetes.default.svc")


class ControlPlane:
    """A control plane, as administrator sees it at ``url`` with ``kubeconfig``.

    ``controllers``: it has a controller manager and a scheduler. ``version``: of the API server, as (1, 20).
    """

    def __init__(self, binaries: Binaries, options: Options | None = None) -> None:
        self.binaries = binaries
        self.options = options or Options()
        self.controllers = binaries.controllers
        self.version = binaries.version()
        remove_abandoned()
        self.folder = Path(tempfile.mkdtemp(prefix=_PREFIX))
        self._lock: TextIO = (self.folder / "lock").open("w")
        fcntl.flock(self._lock, fcntl.LOCK_EX)
        for name in ("logs", "home", "etcd", "flex-volumes"):
            (self.folder / name).mkdir()
        self._port = free_port()
        self.url = f"https://127.0.0.1:{self._port}"
        first = ipaddress.ip_network(self.options.service_range)[1]
        certificates.write_all(
            self.folder,
            ("127.0.0.1", "localhost", str(first), *_NAMES, *self.options.names),
        )
        self._tls = ssl.create_default_context(cafile=str(self.folder / "ca.crt"))
        self._token = secrets.token_hex(16)
        tokens = self.folder / "tokens.csv"
        tokens.touch(mode=0o600)
        tokens.write_text(f'{self._token},admin,admin,"system:masters"\n')
        self.kubeconfig = self._write_kubeconfig("admin", self._token, "default")
        place = Place(
            self.folder, self.kubeconfig, free_port(), self._port, self.version, binaries.controllers
        )
        self._etcd_port = place.etcd_port
        self._programs = {
            name: Program(name, [binaries.path(name), *flags], self.folder)
            for name, flags in all_flags(place, self.options).items()
        }
        self._marks: dict[str, int] = {}

    # --- its life ------------------------------------------------------------------------------------

    def start(self) -> None:
        """Starts everything; returns when the API server is ready and the controllers work.

        AssertionError with the logs' ends if something does not come up.
        """
        self._programs["etcd"].start()
        # The API server asks again only after a second when it was here first.
        self._until_ready("etcd listens", lambda: listens(self._etcd_port))
        self.start_api_server()
        if self.controllers:
            for name in ("kube-controller-manager", "kube-scheduler"):
                self._programs[name].start()
            self._until_ready("kube-controller-manager works", lambda: self.account_exists("default"))
            port = self._programs["kube-scheduler"].flag("--secure-port")
            self._until_ready("kube-scheduler is healthy", lambda: healthy(f"127.0.0.1:{port}"))

    def stop(self) -> None:
        """Ends every process and removes the folder."""
        for program in reversed(self._programs.values()):
            program.kill()
        shutil.rmtree(self.folder, ignore_errors=True)
        self._lock.close()

    def stop_api_server(self) -> None:
        """The API server is gone at once, connections and all; etcd and what it holds stay."""
        self._programs["kube-apiserver"].kill()

    def start_api_server(self) -> None:
        """Starts it, on the same port and the same etcd; returns when it is ready."""
        self._programs["kube-apiserver"].start()
        self._until_ready("kube-apiserver is ready", self._is_ready)

    def freeze_api_server(self) -> None:
        """It answers nobody any more, but its connections stay open."""
        self._programs["kube-apiserver"].signal(signal.SIGSTOP)

    def thaw_api_server(self) -> None:
        """It goes on where it was frozen."""
        self._programs["kube-apiserver"].signal(signal.SIGCONT)

    def pids(self) -> dict[str, int]:
        """The processes that live, by program."""
        return {name: program.pid for name, program in self._programs.items() if program.alive()}

    def mark_logs(self) -> None:
        """From here on is what ``logs`` shows."""
        self._marks = {name: program.log.stat().st_size for name, program in self._programs.items()}

    def logs(self, lines: int = 40) -> str:
        """The end of every program's log since ``mark_logs``."""
        parts = (
            (name, program.tail(self._marks.get(name, 0), lines)) for name, program in self._programs.items()
        )
        return "\n".join(f"--- {name}\n{said}" for name, said in parts if said)

    # --- ways to talk to it --------------------------------------------------------------------------

    def kubectl(
        self,
        *arguments: str,
        input: str | None = None,
        check: bool = True,
        kubeconfig: Path | None = None,
        timeout_s: float = 60.0,
    ) -> subprocess.CompletedProcess[str]:
        """Runs kubectl, as administrator unless ``kubeconfig`` says otherwise.

        With ``check``, AssertionError with its words if it fails.
        """
        done = subprocess.run(
            [self.binaries.path("kubectl"), *arguments],
            env={
                "PATH": os.environ.get("PATH", ""),
                "HOME": str(self.folder / "home"),
                "KUBECONFIG": str(kubeconfig or self.kubeconfig),
                MARK: str(self.folder),
            },
            input=input,
            stdin=subprocess.DEVNULL if input is None else None,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )
        if check and done.returncode != 0:
            raise AssertionError(
                f"kubectl {' '.join(arguments)}: {done.stderr.strip() or done.stdout.strip()}"
            )
        return done

    def request(
        self,
        method: str,
        path: str,
        body: object = None,
        *,
        token: str | None = None,
        content_type: str = "application/json",
        bound_s: float = 30.0,
    ) -> tuple[int, dict[str, Any]]:
        """Status and JSON body of one request, as administrator unless ``token`` says otherwise.

        OSError when nobody answers.
        """
        connection = http.client.HTTPSConnection("127.0.0.1", self._port, timeout=bound_s, context=self._tls)
        with contextlib.closing(connection):
            try:
                connection.request(
                    method,
                    path,
                    body=None if body is None else json.dumps(body),
                    headers={
                        "Authorization": f"Bearer {token or self._token}",
                        "Content-Type": content_type,
                    },
                )
                answer = connection.getresponse()
                content = answer.read()
            except http.client.HTTPException as problem:
                raise ConnectionError(f"{method} {path}: {problem!r}") from problem
        with contextlib.suppress(ValueError):
            return answer.status, json.loads(content)
        return answer.status, {"text": content.decode(errors="replace")}

    def client(self) -> KubeClient:
        """A client with all rights; the caller closes it, in the event loop that used it."""
        return _client(self.kubeconfig)

    def client_as(self, namespace: str, service_account: str) -> KubeClient:
        """A client with the rights of a service account; the caller closes it."""
        return _client(self.kubeconfig_as(namespace, service_account))

    def kubeconfig_as(self, namespace: str, service_account: str) -> Path:
        """A kubeconfig file with a token of a service account, which must exist."""
        token = self.token(namespace, service_account)
        return self._write_kubeconfig(f"{namespace}-{service_account}", token, namespace)

    def token(self, namespace: str, service_account: str) -> str:
        """A token of a service account, good for a day."""
        status, answer = self.request(
            "POST",
            f"/api/v1/namespaces/{namespace}/serviceaccounts/{service_account}/token",
            {
                "apiVersion": "authentication.k8s.io/v1",
                "kind": "TokenRequest",
                "spec": {"expirationSeconds": 86400},
            },
        )
        assert status == 201, answer
        return str(answer["status"]["token"])

    def account_exists(self, namespace: str) -> bool:
        """Pods can be made in a namespace: its account is there, with a token where that is a Secret."""
        status, account = self.request("GET", f"/api/v1/namespaces/{namespace}/serviceaccounts/default")
        return status == 200 and (bool(account.get("secrets")) or self.version >= (1, 24))

    # --- how it is made ------------------------------------------------------------------------------

    def _is_ready(self) -> bool:
        with contextlib.suppress(OSError):
            return self.request("GET", "/readyz", bound_s=5.0)[0] == 200
        return False

    def _until_ready(self, what: str, condition: Callable[[], bool]) -> None:
        def all_live() -> bool:
            for program in self._programs.values():
                if program.started:
                    program.check()
            return condition()

        try:
            until(what, all_live)
        except AssertionError as problem:
            raise AssertionError(f"{problem}\n{self.logs(15)}") from None

    def _write_kubeconfig(self, name: str, token: str, namespace: str) -> Path:
        file = self.folder / f"{name}.kubeconfig"
        file.touch(mode=0o600)
        cluster = {"server": self.url, "certificate-authority": str(self.folder / "ca.crt")}
        content = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "test",
            "clusters": [{"name": "test", "cluster": cluster}],
            "users": [{"name": name, "user": {"token": token}}],
            "contexts": [
                {"name": "test", "context": {"cluster": "test", "user": name, "namespace": namespace}}
            ],
        }
        file.write_text(json.dumps(content))  # which is YAML too
        return file


@contextlib.contextmanager
def running(binaries: Binaries, options: Options | None = None) -> Iterator[ControlPlane]:
    """A control plane for the length of a block."""
    plane = ControlPlane(binaries, options)
    try:
        plane.start()
        yield plane
    finally:
        plane.stop()


def _client(kubeconfig: Path) -> KubeClient:
    from rayward.kube.client import KubeClient  # noqa: PLC0415 - its libraries take their time, kubectl does without

    return KubeClient.connect(kubeconfig=kubeconfig)


def remove_abandoned() -> None:
    """Removes the folders of control planes whose test process was killed: nobody holds their lock."""
    for folder in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        with contextlib.suppress(OSError), (folder / "lock").open("r") as lock:
            if time.time() - folder.stat().st_mtime < _YOUNG_S:
                continue
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(folder, ignore_errors=True)
