"""The Secret with the token by which Ray's own processes and its clients know each other.

The token itself is chosen by the shell: nothing here is random.
"""

from __future__ import annotations

import base64
from typing import Any

from rayward.api.raycluster import RayCluster
from rayward.plan import names

Raw = dict[str, Any]


def needs_token(cluster: RayCluster) -> bool:
    """Whether Ray in this cluster asks for a token that a Secret holds."""
    options = cluster.spec.auth_options
    return options is not None and options.mode == "token" and not options.enable_k8s_token_auth


def token_secret_of(cluster_raw: Raw) -> str:
    """The name of the Secret that holds the token of a RayCluster as it is stored; empty when it has none."""
    options = (cluster_raw.get("spec") or {}).get("authOptions") or {}
    if options.get("mode") != "token" or options.get("enableK8sTokenAuth"):
        return ""
    return str(options.get("secretName") or names.side_object_name(cluster_raw["metadata"]["name"]))


def token_secret(cluster: RayCluster, token: str) -> Raw | None:
    """The Secret to make, None when no token is asked for or the user names a Secret that holds one."""
    options = cluster.spec.auth_options
    if options is None or options.secret_name or not needs_token(cluster):
        return None
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": names.owned_metadata(cluster, names.token_secret_name(cluster)),
        "type": "Opaque",
        "data": {names.TOKEN_KEY: base64.b64encode(token.encode()).decode()},
    }
