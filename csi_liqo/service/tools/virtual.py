"""Telling this driver's volumes from others by what they say of themselves."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import msgspec

from csi_liqo.model import names, objects, twins
from csi_liqo.service.controller import description
from csi_liqo.service.tools import ports


def is_virtual(volume: objects.PersistentVolume) -> bool:
    """Whether an installation of this driver made a volume, whatever its driver name."""
    source = volume.spec.csi
    return source is not None and {twins.TWIN_KEY, twins.CONSUMER_KEY} <= set(
        source.volume_attributes
    )


def is_local(volume: objects.PersistentVolume) -> bool:
    """Whether a virtual volume's home is the cluster it was made for."""
    own = volume.spec.csi.volume_attributes[twins.CONSUMER_KEY] if volume.spec.csi else ""
    return description.home_of(volume) == own


def forgotten(volume: objects.PersistentVolume) -> bool:
    """Whether a volume's home was given up, its data kept there."""
    return names.FORGOTTEN_ANNOTATION in volume.metadata.annotations


def volumes_at(
    manifests: Iterable[ports.Manifest], cluster_id: str
) -> Iterator[objects.PersistentVolume]:
    """Return the virtual volumes whose home is a cluster, forgotten ones included."""
    for manifest in manifests:
        volume = msgspec.convert(manifest, objects.PersistentVolume)
        if is_virtual(volume) and description.home_of(volume) == cluster_id:
            yield volume
