"""What a Pod's manifest needs before it can run here: what it refers to, and what a kubelet adds to it."""

from __future__ import annotations

import base64
import copy
from collections.abc import Iterator, Mapping
from typing import Any

from kubelet.api_access import ApiServer, Object
from rayward.kube.kinds import CONFIGMAPS, SECRETS, SERVICE_ACCOUNTS, Kind

API_NAME = "kubernetes.default.svc"
_REFERENCES = {
    "configMap": CONFIGMAPS,
    "configMapRef": CONFIGMAPS,
    "configMapKeyRef": CONFIGMAPS,
    "secret": SECRETS,
    "secretRef": SECRETS,
    "secretKeyRef": SECRETS,
}


def containers(pod: Mapping[str, Any]) -> list[Object]:
    """All containers, in the order in which they start."""
    return [*(pod["spec"].get("initContainers") or ()), *pod["spec"]["containers"]]


def _projected(pod: Mapping[str, Any]) -> Iterator[Object]:
    for volume in pod["spec"].get("volumes") or ():
        yield from (volume.get("projected") or {}).get("sources") or ()


def references(pod: Mapping[str, Any]) -> set[tuple[Kind, str]]:
    """The ConfigMaps and Secrets that a Pod needs, by environment or volume."""
    found: set[tuple[Kind, str]] = set()
    sources: list[Mapping[str, Any]] = [*(pod["spec"].get("volumes") or ()), *_projected(pod)]
    for container in containers(pod):
        sources += container.get("envFrom") or ()
        sources += [entry.get("valueFrom") or {} for entry in container.get("env") or ()]
    for source in sources:
        for key, kind in _REFERENCES.items():
            name = (source.get(key) or {}).get("name") or (source.get(key) or {}).get("secretName")
            found |= {(kind, name)} if name else set()
    return found


def claims(pod: Mapping[str, Any]) -> Iterator[str]:
    """The names of the claims that a Pod mounts."""
    for volume in pod["spec"].get("volumes") or ():
        if "persistentVolumeClaim" in volume:
            yield volume["persistentVolumeClaim"]["claimName"]


def adapted(pod: Object) -> Object:
    """The Pod as it is started here: without its status, and told where the API server is."""
    started = copy.deepcopy({key: value for key, value in pod.items() if key != "status"})
    started["metadata"].pop("managedFields", None)
    service = [
        {"name": "KUBERNETES_SERVICE_HOST", "value": API_NAME},
        {"name": "KUBERNETES_SERVICE_PORT", "value": "443"},
    ]
    for container in containers(started):
        container["env"] = [*service, *(container.get("env") or ())]
    for index, source in enumerate(_projected(started)):
        token = source.pop("serviceAccountToken", None)
        if token is not None:
            items = [{"key": "token", "path": token["path"]}]
            source["secret"] = {"name": _token_name(pod, index), "items": items}
    return started


def _token_name(pod: Mapping[str, Any], index: int) -> str:
    return f"token-{index}-{pod['metadata']['uid']}"


async def tokens(pod: Mapping[str, Any], api: ApiServer) -> list[Object]:
    """Secrets with the tokens that a Pod's projected volumes are to hold; `adapted` refers to them.

    They are not renewed: a test is over before they are.
    """
    found = []
    for index, source in enumerate(_projected(pod)):
        wanted = source.get("serviceAccountToken")
        if wanted is None:
            continue
        metadata, spec = pod["metadata"], pod["spec"]
        request = {
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenRequest",
            "metadata": {
                "name": spec.get("serviceAccountName") or "default",
                "namespace": metadata["namespace"],
            },
            "spec": {
                "expirationSeconds": wanted.get("expirationSeconds", 3600),
                "audiences": [wanted["audience"]] if wanted.get("audience") else [],
                "boundObjectRef": {
                    "apiVersion": "v1",
                    "kind": "Pod",
                    "name": metadata["name"],
                    "uid": metadata["uid"],
                },
            },
        }
        answer = await api.create(SERVICE_ACCOUNTS, request, "token")
        token = base64.b64encode(answer["status"]["token"].encode()).decode()
        name = {"name": _token_name(pod, index), "namespace": metadata["namespace"]}
        found.append({"apiVersion": "v1", "kind": "Secret", "metadata": name, "data": {"token": token}})
    return found
