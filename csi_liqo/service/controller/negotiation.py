"""Which of a provider's classes and namespaces stand behind a virtual claim."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from csi_liqo.model import errors, names, objects
from csi_liqo.service.controller import clusters

_ACCESS_MODES: Final = {
    "RWO": "ReadWriteOnce",
    "ROX": "ReadOnlyMany",
    "RWX": "ReadWriteMany",
    "RWOP": "ReadWriteOncePod",
}

_OF_KUBERNETES: Final = "kube-"
"""Prefix of the namespaces that Kubernetes keeps for itself."""


def map_namespace(spec: objects.RemoteClusterSpec, consumer_id: str, namespace: str) -> str:
    """Return the provider's namespace for one of ours; empty when none is mapped to it."""
    mapping = spec.namespace_mapping
    if namespace in mapping.explicit:
        return mapping.explicit[namespace]
    if mapping.template:
        return mapping.template.replace("${namespace}", namespace).replace(
            "${consumer}", consumer_id
        )
    return namespace if mapping.default == "SameName" else ""


def maps_unnamed(spec: objects.RemoteClusterSpec) -> bool:
    """Tell whether namespaces of ours are mapped that the mapping does not name."""
    return bool(spec.namespace_mapping.template) or spec.namespace_mapping.default == "SameName"


def map_all(
    spec: objects.RemoteClusterSpec, consumer_id: str, namespaces: Iterable[str]
) -> set[str]:
    """Return the provider's namespaces for ours, without those that never hold our twins."""
    targets = {map_namespace(spec, consumer_id, namespace) for namespace in namespaces}
    return {
        target
        for target in targets - {"", names.DEFAULT_TWINS_NAMESPACE}
        if not target.startswith("kube-")
    }


def maps_any(spec: objects.RemoteClusterSpec) -> bool:
    """Tell whether any namespace of ours can have a counterpart in a provider."""
    mapping = spec.namespace_mapping
    usable = any(target and not why_never(target) for target in mapping.explicit.values())
    return usable or bool(mapping.template) or mapping.default == "SameName"


def why_never(target: str) -> str:
    """Say why a provider's namespace is never the target of a mapping; empty when it may be.

    The schema of RemoteCluster refuses most of these. It cannot see what a template or the
    same name leads to, and what Liqo maps it does not see at all.
    """
    if target == names.DEFAULT_TWINS_NAMESPACE:
        return "is kept for that cluster's own twins"
    if target.startswith(_OF_KUBERNETES):
        return "belongs to that cluster's Kubernetes"
    return ""


def choose_namespace(
    cluster: clusters.Cluster, spec: objects.RemoteClusterSpec, consumer_id: str, namespace: str
) -> str:
    """Return the provider's namespace for one of ours.

    Raises:
        errors.PlacementError: none is mapped to it, or one that is never a target.
    """
    target = map_namespace(spec, consumer_id, namespace)
    if not target:
        raise errors.PlacementError(
            f"namespace {namespace} is not mapped to one of cluster {cluster.id}; "
            f"{spec.how_to_map(namespace)}, or keep its pods away from that cluster with a node "
            f"selector on {names.CLUSTER_KEY}"
        )
    refused = why_never(target)
    if refused:
        raise errors.PlacementError(
            f"namespace {namespace} is mapped to {target} of cluster {cluster.id}, which "
            f"{refused}; map it to another one"
        )
    return target


def choose_class(
    cluster: clusters.Cluster,
    claim: objects.Claim,
    remote_class: str,
    driver: str,
    *,
    begun: bool = False,
) -> tuple[str, bool]:
    """Return the negotiated class, and whether its volumes wait for their first consumer.

    The first that is set decides: the claim's annotation, the provider's mapping of
    this virtual class, the class parameter, the provider's default. It must be
    offered. Where the provider's classes may not be read, a class that is named is
    believed unless there is a list of the offered ones, and counts as one that waits.

    What was ``begun`` before the provider's description was deleted is ended there.

    Raises:
        errors.PlacementError: nothing is offered that fits.
    """
    assert cluster.spec is not None
    if cluster.closing and not begun:
        raise errors.PlacementError(
            f"{cluster.spec.described_by} is being deleted and takes no new volumes"
        )
    virtual_class = claim.spec.storage_class_name
    mapped = {entry.virtual: entry.offered for entry in cluster.spec.classes}
    wanted = (
        claim.metadata.annotations.get(names.REMOTE_CLASS_ANNOTATION, "")
        or mapped.get(virtual_class, "")
        or remote_class
    )
    offered = offered_classes(cluster, driver)
    if offered is None:
        if wanted:
            return wanted, True
        raise errors.PlacementError(
            f"cluster {cluster.id} does not let its classes be read, so one must be named: "
            f"{cluster.spec.how_to_offer(virtual_class)}"
        )
    chosen = offered.get(wanted) if wanted else _default(offered)
    if chosen is None:
        what = f"class {wanted}" if wanted else "a default class"
        raise errors.PlacementError(
            f"cluster {cluster.id} does not offer {what} (offered: "
            f"{', '.join(sorted(offered)) or 'none'}); {cluster.spec.how_to_offer(virtual_class)}"
        )
    return chosen.name, chosen.waits


def offered_classes(
    cluster: clusters.Cluster, driver: str
) -> dict[str, objects.StorageClass] | None:
    """Return the real classes that a provider offers, by name; None when nothing says which.

    Its description has a list, or its classes have labels. Of a class that is in the
    list and may not be read only the name is known; it counts as one that waits.
    """
    assert cluster.spec is not None
    known = None if cluster.classes is None else {c.name: c for c in cluster.classes.all()}
    listed = cluster.spec.offers
    if listed is None:
        if known is None:
            return None
        return {name: c for name, c in known.items() if _offers(c, driver)}
    if known is None:
        return {offer.name: _as_listed(offer, "WaitForFirstConsumer") for offer in listed}
    return {
        offer.name: _as_listed(offer, known[offer.name].volume_binding_mode)
        for offer in listed
        if offer.name in known and not is_virtual(known[offer.name].provisioner, driver)
    }


def _as_listed(offer: objects.OfferedClass, binding_mode: str) -> objects.StorageClass:
    """Return a class as a provider's list has it; the list alone says which is the default."""
    default = {names.DEFAULT_CLASS_ANNOTATION: "true"} if offer.default else {}
    return objects.StorageClass(
        metadata=objects.Metadata(name=offer.name, annotations=default),
        volume_binding_mode=binding_mode,
    )


def choose_access_modes(claim: objects.Claim) -> tuple[str, ...]:
    """Return the access modes of a remote twin: the claim's, or those its annotation names.

    Raises:
        errors.PreconditionError: the annotation is malformed.
    """
    given = claim.metadata.annotations.get(names.REMOTE_ACCESS_MODES_ANNOTATION, "")
    if not given:
        return claim.spec.access_modes
    short = [mode.strip() for mode in given.split(",")]
    unknown = [mode for mode in short if mode not in _ACCESS_MODES]
    if unknown:
        raise errors.PreconditionError(
            f"annotation {names.REMOTE_ACCESS_MODES_ANNOTATION} of claim {claim.reference} has "
            f"{unknown[0]!r}; known are {', '.join(_ACCESS_MODES)}"
        )
    return tuple(_ACCESS_MODES[mode] for mode in short)


def is_virtual(provisioner: str, driver: str) -> bool:
    """Whether a class leads back to a storage fabric, and so can never be a real one."""
    return provisioner in (driver, names.DEFAULT_DRIVER, names.LIQO_PROVISIONER)


def _offers(known: objects.StorageClass, driver: str) -> bool:
    offered = known.metadata.labels.get(names.OFFERED_LABEL) == "true"
    return offered and not is_virtual(known.provisioner, driver)


def _default(offered: dict[str, objects.StorageClass]) -> objects.StorageClass | None:
    """The offered class that is the cluster's default, or the only one there is."""
    defaults = [known for known in offered.values() if known.default]
    if not defaults and len(offered) == 1:
        return next(iter(offered.values()))
    return max(defaults, key=lambda known: known.metadata.creation_timestamp, default=None)
