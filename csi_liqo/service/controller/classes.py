"""What is behind a virtual class in this cluster."""

from __future__ import annotations

from collections.abc import Iterable

from csi_liqo.model import objects
from csi_liqo.service.controller import clusters, negotiation, parameters


def find_default(classes: Iterable[objects.StorageClass]) -> objects.StorageClass | None:
    """Return the default class; of several the newest, as Kubernetes does; None without one."""
    marked = (known for known in classes if known.default)
    return max(marked, key=lambda known: known.metadata.creation_timestamp, default=None)


def real_drivers(consumer: clusters.Consumer, driver: str) -> tuple[str, ...]:
    """Return the CSI drivers that make the local volumes of a driver's classes, sorted.

    A class whose real one is missing, virtual, or of no CSI driver adds nothing.
    """
    default = find_default(consumer.classes.all())
    found = set()
    for virtual in consumer.classes.all():
        if virtual.provisioner != driver:
            continue
        wanted = virtual.parameters.get(parameters.LOCAL_CLASS, "")
        real = consumer.classes.get("", wanted) if wanted else default
        if real is None or negotiation.is_virtual(real.provisioner, driver):
            continue
        if consumer.csi_drivers.get("", real.provisioner) is not None:
            found.add(real.provisioner)
    return tuple(sorted(found))
