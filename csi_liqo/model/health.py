"""What a virtual volume and its claim show of the twin behind them.

A remote twin may get its real volume long after CreateVolume answered, so class, name,
capacity and phase of that volume come back as annotations, and a larger capacity onto the
objects themselves. For a local volume nothing of this is wanted: raising the capacity of
one that is mounted makes kubelet expand its file system. Trouble is shown for both.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from csi_liqo.model import errors, names, objects, quantities


class Health(enum.Enum):
    """How a virtual volume fares: the values of annotation ``csi.liqo.io/health``."""

    HEALTHY = "Healthy"
    DELETED = "TwinDeleted"
    """Someone else deleted the twin; the finalizer holds it, and its data is there."""
    GONE = "TwinGone"
    """The twin is gone, or another claim has its name."""
    LOST = "TwinLost"
    """The twin is there and its real volume is gone."""


@dataclass(frozen=True, slots=True)
class Facts:
    """What is known of the real volume of a remote twin; the capacity is a quantity."""

    class_name: str
    volume_name: str
    capacity: str
    phase: str


_FACTS = (
    names.REAL_CLASS_ANNOTATION,
    names.REAL_VOLUME_ANNOTATION,
    names.REAL_CAPACITY_ANNOTATION,
    names.REAL_PHASE_ANNOTATION,
)


def facts_of(twin: objects.Claim) -> Facts | None:
    """Return what a twin says of its real volume; None while it has none.

    Raises:
        errors.InvalidRequestError: its capacity is no quantity.
    """
    if not twin.spec.volume_name or twin.status.phase == "Pending":
        return None
    capacity = twin.status.capacity.get("storage", "")
    try:
        quantities.to_bytes(capacity or "0")
    except ValueError as error:
        raise errors.InvalidRequestError(f"twin {twin.reference}: {error}") from error
    return Facts(
        class_name=twin.spec.storage_class_name,
        volume_name=twin.spec.volume_name,
        capacity=capacity,
        phase=twin.status.phase,
    )


def forge_on_volume(
    volume: objects.PersistentVolume,
    claim: objects.Claim | None,
    health: Health | None,
    facts: Facts | None,
    identity: str = "",
) -> dict[str, Any] | None:
    """Return the patch that makes a virtual volume show this; None when it does already.

    ``identity`` is that of the cluster where its twin was looked for. It is noted from the
    moment when there is data to lose, and then kept up: one that changes was accepted.

    ``claim`` is the one it is bound to. A capacity is only ever raised, and not while an
    expansion is wanted: the resizer then writes it. Another writer of a capacity makes the
    patch fail, so that a stale one never lowers it.
    """
    annotations = _changes(volume, health, facts)
    noted = volume.metadata.annotations.get(names.IDENTITY_ANNOTATION)
    if identity and identity != noted and (noted or facts is not None):
        annotations[names.IDENTITY_ANNOTATION] = identity
    raised = _raised(facts, volume.spec.capacity, claim)
    if not annotations and not raised:
        return None
    metadata: dict[str, Any] = {"uid": volume.uid}
    if annotations:
        metadata["annotations"] = annotations
    if not raised:
        return {"metadata": metadata}
    metadata["resourceVersion"] = volume.metadata.resource_version
    return {"metadata": metadata, "spec": {"capacity": {"storage": raised}}}


def forge_on_claim(
    claim: objects.Claim, health: Health | None, facts: Facts | None
) -> dict[str, Any] | None:
    """Return the patch of a virtual claim's status that shows this; None when it does already.

    The volume controller takes a volume's capacity over when a claim becomes bound and never
    again (kubernetes v1.37.2, pv_controller.go:818-841). A patch of the status may change
    annotations, too (persistentvolumeclaim/strategy.go, PrepareForUpdate of the status), so
    it is one write.
    """
    annotations = _changes(claim, health, facts)
    raised = _raised(facts, claim.status.capacity, claim) if claim.status.capacity else ""
    if not annotations and not raised:
        return None
    metadata: dict[str, Any] = {"uid": claim.uid}
    if annotations:
        metadata["annotations"] = annotations
    if not raised:
        return {"metadata": metadata}
    metadata["resourceVersion"] = claim.metadata.resource_version
    return {"metadata": metadata, "status": {"capacity": {"storage": raised}}}


def _changes(
    thing: objects.Object, health: Health | None, facts: Facts | None
) -> dict[str, str | None]:
    """Return the annotations to set, and with None those to take off."""
    shown = thing.metadata.annotations
    wanted: dict[str, str | None] = {names.HEALTH_ANNOTATION: health.value if health else None}
    if facts is not None:
        values = (facts.class_name, facts.volume_name, facts.capacity, facts.phase)
        wanted |= dict(zip(_FACTS, values, strict=True))
    return {key: value for key, value in wanted.items() if shown.get(key) != value}


def _raised(facts: Facts | None, shown: Mapping[str, str], claim: objects.Claim | None) -> str:
    """Return the capacity to show instead; empty when the one shown stays."""
    if facts is None or not facts.capacity:
        return ""
    if claim is not None and _expands(claim):
        return ""
    larger = quantities.to_bytes(facts.capacity) > quantities.to_bytes(shown.get("storage", "0"))
    return facts.capacity if larger else ""


def _expands(claim: objects.Claim) -> bool:
    """Whether a bound claim asks for more than it has."""
    has = claim.status.capacity.get("storage")
    asked = claim.spec.resources.requests.get("storage", "0")
    return has is not None and quantities.to_bytes(asked) > quantities.to_bytes(has)
