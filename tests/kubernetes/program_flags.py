"""How each program of a control plane for tests is started: what is always so, and what a test may choose."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from programs import free_port


@dataclass(frozen=True)
class Options:
    """What a test may want otherwise; ``flags`` are added to a program's own (key: `kube-apiserver`)."""

    bind: str = "127.0.0.1"  # `0.0.0.0` to be reached from Pods with a network of their own
    names: tuple[str, ...] = ()  # further names and addresses that the API server's certificate is good for
    service_range: str = "10.96.0.0/16"
    # A Node that is silent this long is not ready, and this much later its Pods are evicted.
    node_grace_s: int = 40
    toleration_s: int = 300
    flags: Mapping[str, Sequence[str]] = field(default_factory=dict)


@dataclass(frozen=True)
class Place:
    """What the programs share: files in ``folder``, an administrator's kubeconfig, two ports, a version."""

    folder: Path
    kubeconfig: Path
    etcd_port: int
    api_port: int
    version: tuple[int, int]
    controllers: bool


def all_flags(place: Place, options: Options) -> dict[str, list[str]]:
    """The flags of every program that is to run, in the order in which they start."""
    flags = {"etcd": _etcd(place), "kube-apiserver": _api_server(place, options)}
    if place.controllers:
        flags["kube-controller-manager"] = _controller_manager(place, options)
        flags["kube-scheduler"] = _client(place)
    return {name: [*own, *options.flags.get(name, ())] for name, own in flags.items()}


def _etcd(place: Place) -> list[str]:
    url = f"http://127.0.0.1:{place.etcd_port}"
    return [
        f"--listen-client-urls={url}",
        f"--advertise-client-urls={url}",
        "--listen-peer-urls=http://127.0.0.1:0",
        f"--data-dir={place.folder}/etcd",
        "--unsafe-no-fsync",
        "--log-level=warn",
    ]


def _api_server(place: Place, options: Options) -> list[str]:
    folder = place.folder
    # Nobody would make the accounts that this plugin wants every Pod to have.
    without = [] if place.controllers else ["--disable-admission-plugins=ServiceAccount"]
    return [
        f"--etcd-servers=http://127.0.0.1:{place.etcd_port}",
        f"--bind-address={options.bind}",
        f"--secure-port={place.api_port}",
        f"--cert-dir={folder}",
        f"--tls-cert-file={folder}/server.crt",
        f"--tls-private-key-file={folder}/server.key",
        f"--token-auth-file={folder}/tokens.csv",
        "--authorization-mode=RBAC",
        f"--service-cluster-ip-range={options.service_range}",
        f"--service-account-key-file={folder}/accounts.key",
        f"--service-account-signing-key-file={folder}/accounts.key",
        "--service-account-issuer=https://kubernetes.default.svc",
        "--allow-privileged=true",
        "--max-requests-inflight=4000",
        "--max-mutating-requests-inflight=2000",
        "--kubelet-preferred-address-types=InternalIP",
        # The addresses behind the Service `kubernetes` may not be loopback ones.
        "--endpoint-reconciler-type=none",
        # Some clusters forbid owners that one may not finalize: what works here works there.
        "--enable-admission-plugins=OwnerReferencesPermissionEnforcement",
        *without,
        f"--default-not-ready-toleration-seconds={options.toleration_s}",
        f"--default-unreachable-toleration-seconds={options.toleration_s}",
    ]


def _controller_manager(place: Place, options: Options) -> list[str]:
    return [
        *_client(place),
        f"--service-account-private-key-file={place.folder}/accounts.key",
        f"--root-ca-file={place.folder}/ca.crt",
        # It makes this folder, by default one of the system's.
        f"--flex-volume-plugin-dir={place.folder}/flex-volumes",
        "--node-monitor-period=1s",
        f"--node-monitor-grace-period={options.node_grace_s}s",
    ]


def _client(place: Place) -> list[str]:
    return [
        f"--kubeconfig={place.kubeconfig}",
        "--leader-elect=false",
        "--bind-address=127.0.0.1",
        f"--secure-port={free_port()}",
        f"--cert-dir={place.folder}/home",
        # Else it is their own pace that tests with many objects would measure.
        "--kube-api-qps=1000",
        "--kube-api-burst=2000",
        *(["--port=0"] if place.version < (1, 24) else []),  # a fixed port without TLS
    ]
