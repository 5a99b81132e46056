"""Which of a provider's classes and namespaces stand behind a virtual claim."""

from __future__ import annotations

from typing import Final

from csi_liqo.model import errors, names, objects
from csi_liqo.service.controller import clusters

_ACCESS_MODES: Final = {
    "RWO": "ReadWriteOnce",
    "ROX": "ReadOnlyMany",
    "RWX": "ReadWriteMany",
    "RWOP": "ReadWriteOncePod",
}


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


def choose_namespace(
    cluster: clusters.Cluster, spec: objects.RemoteClusterSpec, consumer_id: str, namespace: str
) -> str:
    """Return the provider's namespace for one of ours.

    Raises:
        errors.PlacementError: none is mapped to it, or one that holds others' twins.
    """
    target = map_namespace(spec, consumer_id, namespace)
    if not target:
        raise errors.PlacementError(
            f"namespace {namespace} is not mapped to one of cluster {cluster.id}; add it to "
            f"spec.namespaceMapping of RemoteCluster {cluster.id}, or keep its pods away from "
            f"that cluster with a node selector on {names.CLUSTER_KEY}"
        )
    if target == names.DEFAULT_TWINS_NAMESPACE:
        raise errors.PlacementError(
            f"namespace {namespace} is mapped to {target} of cluster {cluster.id}, which is kept "
            "for that cluster's own twins; map it to another one"
        )
    return target


def choose_class(
    cluster: clusters.Cluster, claim: objects.Claim, remote_class: str, driver: str
) -> tuple[str, bool]:
    """Return the negotiated class, and whether its volumes wait for their first consumer.

    The first that is set decides: the claim's annotation, the provider's mapping of
    this virtual class, the class parameter, the provider's default. It must be
    offered. Where the provider's classes may not be read, a class that is named is
    believed, and counts as one that waits.

    Raises:
        errors.PlacementError: nothing is offered that fits.
    """
    assert cluster.spec is not None
    mapped = {entry.virtual: entry.offered for entry in cluster.spec.classes}
    wanted = (
        claim.metadata.annotations.get(names.REMOTE_CLASS_ANNOTATION, "")
        or mapped.get(claim.spec.storage_class_name, "")
        or remote_class
    )
    if cluster.classes is None:
        if wanted:
            return wanted, True
        raise errors.PlacementError(
            f"cluster {cluster.id} does not let its classes be read, so one must be named: add "
            f"{claim.spec.storage_class_name} to spec.classes of RemoteCluster {cluster.id}"
        )
    offered = {known.name: known for known in cluster.classes.all() if _offers(known, driver)}
    chosen = offered.get(wanted) if wanted else _default(offered)
    if chosen is None:
        what = f"class {wanted}" if wanted else "a default class"
        raise errors.PlacementError(
            f"cluster {cluster.id} does not offer {what} (offered: "
            f"{', '.join(sorted(offered)) or 'none'}); label a StorageClass there "
            f"{names.OFFERED_LABEL}=true, or name an offered one in spec.classes of "
            f"RemoteCluster {cluster.id}"
        )
    return chosen.name, chosen.waits


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
