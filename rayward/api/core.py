"""Light checks of the core Kubernetes kinds that may stand beside a RayCluster.

They catch what would otherwise fail later and less clearly; fields not named here pass as they are.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

from rayward.api.problems import Problem, join_path, shown

CORE_KINDS: dict[str, tuple[str, ...]] = {
    "Pod": ("v1",),
    "Service": ("v1",),
    "ConfigMap": ("v1",),
    "Secret": ("v1",),
    "PersistentVolumeClaim": ("v1",),
    "Deployment": ("apps/v1",),
    "StatefulSet": ("apps/v1",),
    "Job": ("batch/v1",),
}
DNS_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?")
DNS_SUBDOMAIN = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
PORT_NAME = re.compile(r"(?=.*[a-z])[a-z0-9]([-a-z0-9]*[a-z0-9])?")
QUOTE_IT = "must be a string; write it in quotes"
Raw = dict[str, Any]


def check_core(raw: Raw, subject: str) -> Iterator[Problem]:
    """Problems of one object of a core kind; nothing for other kinds."""
    if raw["kind"] not in CORE_KINDS:
        return
    for problem in (*_name(raw), *_CHECKS[raw["kind"]](raw)):
        yield Problem(problem.path, problem.message, subject)


def check_pod_spec(spec: object, path: str) -> Iterator[Problem]:
    """Containers, their names, env, ports and volume mounts, as far as every Pod needs them."""
    if not isinstance(spec, dict):
        yield Problem(path, f"expected a mapping, got {shown(spec)}" if spec is not None else "is missing")
        return
    volumes = spec.get("volumes")
    if volumes is not None and not _named_items(volumes):
        yield Problem(f"{path}.volumes", "must be a list of volumes with a name")
        volumes = None
    known = {volume["name"] for volume in volumes or ()}
    if not isinstance(spec.get("containers"), list) or not spec["containers"]:
        yield Problem(f"{path}.containers", "must be a list with at least one container")
    names: set[str] = set()
    for field in ("initContainers", "containers"):
        containers = spec.get(field)
        if containers is not None and not isinstance(containers, list):
            yield Problem(f"{path}.{field}", f"expected a list, got {shown(containers)}")
            continue
        for index, container in enumerate(containers or ()):
            yield from _container(container, join_path(path, field, index), names, known)


def check_string_map(value: object, path: str) -> Iterator[Problem]:
    """A mapping of text to text, as labels, annotations and ConfigMap data are."""
    if value is None:
        return
    if not isinstance(value, dict):
        yield Problem(path, f"expected a mapping, got {shown(value)}")
        return
    for key, item in value.items():
        if not isinstance(item, str):
            yield Problem(
                join_path(path, key), QUOTE_IT if not isinstance(item, dict | list) else "must be a string"
            )


def _named_items(items: object) -> bool:
    return isinstance(items, list) and all(
        isinstance(item, dict) and isinstance(item.get("name"), str) for item in items
    )


def _container(container: object, path: str, names: set[str], volumes: set[str]) -> Iterator[Problem]:
    if not isinstance(container, dict):
        yield Problem(path, f"expected a mapping, got {shown(container)}")
        return
    name = container.get("name")
    if not isinstance(name, str) or not DNS_LABEL.fullmatch(name):
        yield Problem(f"{path}.name", "is missing" if not name else f"must be a DNS label, got {shown(name)}")
    elif name in names:
        yield Problem(f"{path}.name", f'"{name}" is the name of another container of the Pod')
    else:
        names.add(name)
    image = container.get("image")
    if not isinstance(image, str) or not image:
        yield Problem(f"{path}.image", "is missing" if not image else f"must be a string, got {shown(image)}")
    yield from _env(container.get("env"), f"{path}.env")
    for field in ("command", "args"):
        value = container.get(field)
        if value is not None and (not isinstance(value, list) or not all(isinstance(v, str) for v in value)):
            yield Problem(f"{path}.{field}", "must be a list of strings; write numbers in quotes")
    yield from _ports(container.get("ports"), f"{path}.ports")
    mounts = container.get("volumeMounts")
    if mounts is not None and not _named_items(mounts):
        yield Problem(f"{path}.volumeMounts", "must be a list of mounts with name and mountPath")
        return
    for index, mount in enumerate(mounts or ()):
        if not isinstance(mount.get("mountPath"), str):
            yield Problem(f"{path}.volumeMounts[{index}].mountPath", "is missing")
        if mount["name"] not in volumes:
            yield Problem(
                f"{path}.volumeMounts[{index}].name", f'no volume of the Pod is named "{mount["name"]}"'
            )


def _env(env: object, path: str) -> Iterator[Problem]:
    if env is None:
        return
    if not _named_items(env):
        yield Problem(path, "must be a list of variables with a name")
        return
    assert isinstance(env, list)
    for index, variable in enumerate(env):
        value, source = variable.get("value"), variable.get("valueFrom")
        if value is not None and not isinstance(value, str):
            yield Problem(f"{path}[{index}].value", QUOTE_IT)
        if value not in (None, "") and source:
            yield Problem(f"{path}[{index}]", "has both value and valueFrom; keep one")
        if source is not None and not isinstance(source, dict):
            yield Problem(f"{path}[{index}].valueFrom", f"expected a mapping, got {shown(source)}")


def _ports(ports: object, path: str) -> Iterator[Problem]:
    if ports is None:
        return
    if not isinstance(ports, list):
        yield Problem(path, f"expected a list, got {shown(ports)}")
        return
    for index, port in enumerate(ports):
        number = port.get("containerPort") if isinstance(port, dict) else None
        if not isinstance(number, int) or isinstance(number, bool) or not 0 < number < 65536:
            yield Problem(
                f"{path}[{index}].containerPort", f"must be a port from 1 to 65535, got {shown(number)}"
            )
        name = port.get("name") if isinstance(port, dict) else None
        if name is not None and (
            not isinstance(name, str) or len(name) > 15 or not PORT_NAME.fullmatch(name)
        ):
            yield Problem(f"{path}[{index}].name", f"must be at most 15 of a-z, 0-9 and -, got {shown(name)}")


def _name(raw: Raw) -> Iterator[Problem]:
    name = raw["metadata"]["name"]
    pattern = DNS_LABEL if raw["kind"] == "Service" else DNS_SUBDOMAIN
    limit = 63 if raw["kind"] in ("Service", "StatefulSet", "Job") else 253
    if len(name) > limit or not pattern.fullmatch(name):
        yield Problem("metadata.name", f'must be at most {limit} of a-z, 0-9 and -, got "{name}"')
    for field in ("labels", "annotations"):
        yield from check_string_map(raw["metadata"].get(field), f"metadata.{field}")


def _pod(raw: Raw) -> Iterator[Problem]:
    yield from check_pod_spec(raw.get("spec"), "spec")


def _config_map(raw: Raw) -> Iterator[Problem]:
    yield from check_string_map(raw.get("data"), "data")
    yield from check_string_map(raw.get("binaryData"), "binaryData")


def _secret(raw: Raw) -> Iterator[Problem]:
    for field in ("data", "stringData"):
        # The message never repeats the value: it may be the secret itself.
        yield from check_string_map(raw.get(field), field)


def _service(raw: Raw) -> Iterator[Problem]:
    spec = raw.get("spec")
    if not isinstance(spec, dict):
        yield Problem("spec", "is missing")
        return
    yield from check_string_map(spec.get("selector"), "spec.selector")
    ports = spec.get("ports") or []
    for index, port in enumerate(ports if isinstance(ports, list) else [None]):
        number = port.get("port") if isinstance(port, dict) else None
        if not isinstance(number, int) or isinstance(number, bool) or not 0 < number < 65536:
            yield Problem(f"spec.ports[{index}].port", f"must be a port from 1 to 65535, got {shown(number)}")


def _claim(raw: Raw) -> Iterator[Problem]:
    spec = raw.get("spec")
    if not isinstance(spec, dict):
        yield Problem("spec", "is missing")
    elif not isinstance(spec.get("accessModes"), list) or not spec["accessModes"]:
        yield Problem("spec.accessModes", "must name at least one access mode, for example ReadWriteOnce")


def _workload(raw: Raw) -> Iterator[Problem]:
    """Deployment and StatefulSet: a selector that the template's labels satisfy, and a Pod template."""
    spec = raw.get("spec")
    if not isinstance(spec, dict):
        yield Problem("spec", "is missing")
        return
    yield from _count(spec.get("replicas"), "spec.replicas")
    template = spec.get("template")
    if not isinstance(template, dict):
        yield Problem("spec.template", "is missing")
        return
    yield from check_pod_spec(template.get("spec"), "spec.template.spec")
    selector = spec.get("selector")
    wanted = selector.get("matchLabels") if isinstance(selector, dict) else None
    if not isinstance(wanted, dict) or not wanted:
        if not (isinstance(selector, dict) and selector.get("matchExpressions")):
            yield Problem(
                "spec.selector.matchLabels", "is missing; it must match spec.template.metadata.labels"
            )
        return
    labels = (template.get("metadata") or {}).get("labels") or {}
    for key, value in wanted.items():
        if labels.get(key) != value:
            yield Problem(
                join_path("spec.selector.matchLabels", key),
                f"spec.template.metadata.labels has no {key}: {value}, so the Pods would never be found",
            )


def _job(raw: Raw) -> Iterator[Problem]:
    spec = raw.get("spec")
    template = spec.get("template") if isinstance(spec, dict) else None
    if not isinstance(template, dict) or not isinstance(spec, dict):
        yield Problem("spec.template", "is missing")
        return
    yield from check_pod_spec(template.get("spec"), "spec.template.spec")
    for field in ("backoffLimit", "activeDeadlineSeconds", "completions", "parallelism"):
        yield from _count(spec.get(field), f"spec.{field}")
    policy = (
        (template.get("spec") or {}).get("restartPolicy") if isinstance(template.get("spec"), dict) else None
    )
    if policy not in ("Never", "OnFailure"):
        yield Problem("spec.template.spec.restartPolicy", "must be Never or OnFailure in a Job")


def _count(value: object, path: str) -> Iterator[Problem]:
    if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < 0):
        yield Problem(path, f"expected an integer of at least 0, got {shown(value)}")


_CHECKS: dict[str, Callable[[Raw], Iterator[Problem]]] = {
    "Pod": _pod,
    "Service": _service,
    "ConfigMap": _config_map,
    "Secret": _secret,
    "PersistentVolumeClaim": _claim,
    "Deployment": _workload,
    "StatefulSet": _workload,
    "Job": _job,
}
