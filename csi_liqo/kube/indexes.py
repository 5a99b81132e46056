"""The indexes of the caches, by the names the services ask for."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

from csi_liqo.kube import store
from csi_liqo.model import names, objects, twins
from csi_liqo.service.controller import attaching, clusters, description


def _by_volume(claim: objects.Claim) -> Iterable[str]:
    return (claim.volume_id,) if claim.volume_id else ()


def _by_claim_uid(volume: objects.PersistentVolume) -> Iterable[str]:
    reference = volume.spec.claim_ref
    return (reference.uid,) if reference is not None and reference.uid else ()


def _by_class(volume: objects.PersistentVolume) -> Iterable[str]:
    return (volume.spec.storage_class_name,) if volume.spec.csi is None else ()


def _by_home(volume: objects.PersistentVolume) -> Iterable[str]:
    """A volume whose home was given up keeps nobody from going."""
    if names.FORGOTTEN_ANNOTATION in volume.metadata.annotations:
        return ()
    source = volume.spec.csi
    virtual = source is not None and twins.TWIN_KEY in source.volume_attributes
    home = description.home_of(volume) if virtual else ""
    return (home,) if home else ()


def _by_node_key(node: objects.Node) -> Iterable[str]:
    value = node.metadata.labels.get(names.NODE_KEY)
    return (value,) if value else ()


def _by_wish(claim: objects.Claim) -> Iterable[str]:
    asks = names.REMOTE_CLASS_ANNOTATION in claim.metadata.annotations
    return (claim.spec.storage_class_name,) if asks and not claim.spec.volume_name else ()


CLAIMS: Final[Mapping[str, store.Index[objects.Claim]]] = {
    clusters.BY_VOLUME: _by_volume,
    clusters.BY_WISH: _by_wish,
}

NODES: Final[Mapping[str, store.Index[objects.Node]]] = {clusters.BY_NODE_KEY: _by_node_key}


def _by_attached(attachment: objects.VolumeAttachment) -> Iterable[str]:
    volume_id = attachment.metadata.labels.get(names.VOLUME_LABEL)
    return (volume_id,) if volume_id else ()


ATTACHMENTS: Final[Mapping[str, store.Index[objects.VolumeAttachment]]] = {
    attaching.BY_VOLUME: _by_attached
}


def _by_capacity_class(capacity: objects.StorageCapacity) -> Iterable[str]:
    return (capacity.storage_class_name,)


CAPACITIES: Final[Mapping[str, store.Index[objects.StorageCapacity]]] = {
    clusters.BY_CLASS: _by_capacity_class
}

REMOTE_VOLUMES: Final[Mapping[str, store.Index[objects.PersistentVolume]]] = {
    clusters.BY_CLAIM_UID: _by_claim_uid
}


def local_volumes(driver: str) -> Mapping[str, store.Index[objects.PersistentVolume]]:
    """Return the indexes of this cluster's volumes; virtual ones are those of ``driver``."""

    def by_handle(volume: objects.PersistentVolume) -> Iterable[str]:
        source = volume.spec.csi
        return (source.volume_handle,) if source is not None and source.driver == driver else ()

    return {
        clusters.BY_HANDLE: by_handle,
        clusters.BY_CLAIM_UID: _by_claim_uid,
        clusters.BY_CLASS: _by_class,
        clusters.BY_HOME: _by_home,
    }
