"""What a RayCluster has beside its Pods: Services, claim, Secret, Ingress, the autoscaler's account, rights.

Each is created when it is missing and left alone after that, but for the few fields that follow the spec;
none waits for another.
"""

from __future__ import annotations

from collections.abc import Iterable

from rayward.api.quantity import QuantityError, parse_quantity
from rayward.plan import access, names
from rayward.plan.ingress import head_ingress
from rayward.plan.outcome import Raw, patch_of
from rayward.plan.pvc import claim_owners, gcs_pvc
from rayward.plan.services import (
    head_agents_service,
    head_service,
    headless_service,
    serve_service,
    wants_serve_service,
)
from rayward.plan.steps import Steps
from rayward.plan.token_secret import needs_token, token_secret


def reconcile_objects(steps: Steps, token: str) -> None:
    """Everything but Pods. ``token`` is a fresh random text, used when a Secret has to be made."""
    _services(steps)
    _claim(steps)
    _token(steps, token)
    if steps.cluster.spec.enable_in_tree_autoscaling:
        _access(steps)
    ingress = head_ingress(steps.cluster)
    if ingress is not None:
        _ensure(ingress, steps.observed.ingresses, steps)


def _ensure(wanted: Raw, existing: Iterable[Raw], steps: Steps) -> None:
    if _named(existing, wanted["metadata"]["name"]) is None:
        steps.add(wanted)


def _named(objects: Iterable[Raw], name: str) -> Raw | None:
    return next((found for found in objects if found["metadata"]["name"] == name), None)


def _services(steps: Steps) -> None:
    cluster, settings = steps.cluster, steps.settings
    wanted = [
        head_service(cluster, settings),
        head_agents_service(cluster, settings),
        headless_service(cluster),
        serve_service(cluster),
    ]
    if wants_serve_service(cluster) and wanted[-1] is None:
        text = f"No Service for {names.SERVE_SERVICE}: no port of the head container is named serve"
        steps.warn_once("FailedToCreateService", text)
    for service in (found for found in wanted if found is not None):
        name = service["metadata"]["name"]
        found = _named(steps.observed.services, name)
        if found is None:
            steps.add(service)
        elif _publishes(service) is not None and _publishes(service) != bool(_publishes(found)):
            # Only this follows the spec: it changes with the number of heads, and no client is cut off by it.
            spec = {"publishNotReadyAddresses": _publishes(service)}
            update = {**patch_of(found, "Service"), "spec": spec}
            steps.update.append(update)
            steps.say("UpdatedService", f"Service {name}: {spec}", update)


def _publishes(service: Raw) -> bool | None:
    """Whether it leads to Pods that are not ready too; None when that is not rayward's to say."""
    found = (service.get("spec") or {}).get("publishNotReadyAddresses")
    return None if found is None else bool(found)


def _claim(steps: Steps) -> None:
    storage = steps.ft.storage
    if storage is None:
        return
    if storage.claim_name is not None:
        if _named(steps.observed.pvcs, storage.claim_name) is None:
            text = (
                f"There is no PersistentVolumeClaim {storage.claim_name}, which storage.claimName asks for;"
                " head Pods wait until there is"
            )
            steps.warn_once("FailedToCreatePVC", text)
        return
    wanted = gcs_pvc(steps.cluster)
    assert wanted is not None
    name = wanted["metadata"]["name"]
    found = _named(steps.observed.pvcs, name)
    if found is None:
        steps.add(wanted)
        return
    owners = claim_owners(steps.cluster, found, retain=storage.retain)
    if owners is not None:
        update = patch_of(found, "PersistentVolumeClaim")
        update["metadata"]["ownerReferences"] = owners
        steps.update.append(update)
        what = "is kept when the cluster goes" if storage.retain else "goes with the cluster"
        steps.say("UpdatedPVC", f"PersistentVolumeClaim {name} {what} from now on", update)
    differing = _differing(wanted["spec"], found.get("spec") or {})
    if differing:
        text = f"PersistentVolumeClaim {name} is used as it is: {'; '.join(differing)}"
        steps.warn_once("FailedToCreatePVC", text)


def _differing(wanted: Raw, found: Raw) -> list[str]:
    """How a claim that exists differs from what is asked for. A class that the spec leaves open does not."""
    facts = []
    size = ((found.get("resources") or {}).get("requests") or {}).get("storage")
    asked = wanted["resources"]["requests"]["storage"]
    if not _equal_amounts(size, asked):
        facts.append(f"size is {size}, the spec says {asked}")
    for field in ("storageClassName", "accessModes"):
        if field in wanted and found.get(field) != wanted[field]:
            facts.append(f"{field} is {found.get(field)}, the spec says {wanted[field]}")
    return facts


def _equal_amounts(one: object, other: str) -> bool:
    try:
        return isinstance(one, str | int | float) and parse_quantity(one) == parse_quantity(other)
    except QuantityError:
        return False


def _token(steps: Steps, token: str) -> None:
    if not needs_token(steps.cluster):
        return
    name = names.token_secret_name(steps.cluster)
    if _named(steps.observed.secrets, name) is not None:
        return
    wanted = token_secret(steps.cluster, token)
    if wanted is None:
        text = f"There is no Secret {name} (authOptions.secretName) yet; Pods wait until there is one"
        steps.warn_once("AuthSecretNotFound", text)
    elif token:
        steps.add(wanted)


def _access(steps: Steps) -> None:
    cluster, observed = steps.cluster, steps.observed
    account = access.service_account(cluster)
    if account is not None:
        _ensure(account, observed.service_accounts, steps)
    else:
        name = names.service_account_name(cluster)
        if _named(observed.service_accounts, name) is None:
            text = f"There is no ServiceAccount {name}, which the head's template names"
            steps.warn_once("AutoscalerServiceAccountNotFound", text)
    _ensure(access.role(cluster), observed.roles, steps)
    _ensure(access.role_binding(cluster), observed.role_bindings, steps)
