"""What the operator of rayward, not the author of a manifest, decides about planned objects.

Values only; where they come from (flags, environment, Helm) is a shell's business.
"""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class ReconnectSettings:
    """How quickly Ray's processes find a GCS that came back, in milliseconds.

    The defaults of Ray wait up to seconds between tries; these cost a few packets a second per process
    while the GCS is away. ``min_backoff_ms`` stays Ray's own: gRPC takes it for the time that one attempt
    to connect gets, and one that is shorter than a busy GCS needs to answer would never connect.
    """

    check_connection_interval_ms: int = 50
    min_backoff_ms: int = 1000
    initial_backoff_ms: int = 20
    max_backoff_ms: int = 200

    def environment(self) -> dict[str, str]:
        """The variables that Ray reads these from."""
        return {
            "RAY_grpc_client_check_connection_status_interval_milliseconds": str(
                self.check_connection_interval_ms
            ),
            "RAY_gcs_grpc_min_reconnect_backoff_ms": str(self.min_backoff_ms),
            "RAY_gcs_grpc_initial_reconnect_backoff_ms": str(self.initial_backoff_ms),
            "RAY_gcs_grpc_max_reconnect_backoff_ms": str(self.max_backoff_ms),
        }


@dataclass(frozen=True)
class Settings:
    """Defaults that hold for every cluster of one rayward.

    ``redis_cleanup`` wipes a deleted cluster's keys; ``inject_probes`` and ``inject_init_container``
    add what a template lacks; ``reconnect`` None leaves Ray's own pace; ``agent_image_python`` is the
    interpreter inside Ray images; ``default_env`` goes to every Ray container unless the user set it;
    ``forward`` lets the agents of workers listen where Ray expects the GCS, which needs an address per Pod;
    ``agent_config_map`` is the ConfigMap that carries the agent's zip file.
    """

    cluster_domain: str = "cluster.local"
    redis_cleanup: bool = True
    ulimit_open_files: int = 65536
    login_shell: bool = False
    inject_probes: bool = True
    inject_init_container: bool = True
    reconnect: ReconnectSettings | None = field(default_factory=ReconnectSettings)
    agent_image_python: str = "python3"
    agent_port: int = 8008
    default_env: tuple[tuple[str, str], ...] = ()
    cluster_ip_head_service: bool = False
    forward: bool = True
    agent_config_map: str = "rayward-agent"
