"""Where the data of each virtual claim is, as its claim and its volume tell.

Nothing else is asked: who may read claims and volumes may know where they are. The
controller keeps on them what a person wants to know of the twin.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass

from csi_liqo.model import errors, names, objects, twins
from csi_liqo.service.controller import description
from csi_liqo.service.tools import virtual

PROVISIONER_ANNOTATION = "volume.kubernetes.io/storage-provisioner"
"""On a claim that was scheduled: who is to make its volume."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One virtual claim, or a virtual volume that outlived its claim.

    What is not known is empty. ``twin`` is namespace and name in the home cluster;
    ``node`` is where the claim was made for, or where its data can be reached only.
    """

    namespace: str
    claim: str
    state: str
    home: str
    node: str
    virtual_class: str
    real_class: str
    capacity: str
    twin: str
    volume: str
    real_volume: str
    access_modes: tuple[str, ...]
    reclaim_policy: str
    health: str
    created: str

    @property
    def key(self) -> tuple[str, str, str]:
        """What tells this row from every other; a claim's row keeps it while it is bound."""
        return self.namespace, self.claim, "" if self.state != "Released" else self.volume


class Whereabouts:
    """Puts claims and volumes together; ``drivers`` are the names of our installations."""

    def __init__(
        self,
        volumes: Iterable[objects.PersistentVolume],
        claims: Iterable[objects.Claim],
        classes: Iterable[objects.StorageClass] = (),
    ) -> None:
        """Take in what could be read; without classes, those of the volumes are known."""
        self._volumes = {v.name: v for v in volumes if virtual.is_virtual(v)}
        self._claims = {(c.namespace, c.name): c for c in claims}
        drivers = {names.DEFAULT_DRIVER}
        drivers |= {v.spec.csi.driver for v in self._volumes.values() if v.spec.csi}
        self._drivers = drivers
        self._classes = {v.spec.storage_class_name for v in self._volumes.values()} | {
            known.name for known in classes if is_ours(known.provisioner, drivers)
        }

    def rows(self, namespace: str = "") -> list[Row]:
        """Return what there is, by namespace and claim; of one namespace if one is named."""
        found = [row for row in self._all() if namespace in ("", row.namespace)]
        return sorted(found, key=lambda row: row.key)

    def _all(self) -> Iterator[Row]:
        shown = set()
        for claim in self._claims.values():
            if claim.consumer:
                continue  # a twin
            volume = self._volumes.get(claim.spec.volume_name)
            if volume is not None:
                shown.add(volume.name)
                yield self._bound(claim, volume)
            elif self._wants(claim):
                yield _waiting(claim)
        for volume in self._volumes.values():
            if volume.name not in shown:
                yield self._bound(None, volume)

    def _wants(self, claim: objects.Claim) -> bool:
        """Whether a claim without volume is to get one of ours."""
        provisioner = claim.metadata.annotations.get(PROVISIONER_ANNOTATION)
        if provisioner:
            return provisioner in self._drivers
        return claim.spec.storage_class_name in self._classes

    def _bound(self, claim: objects.Claim | None, volume: objects.PersistentVolume) -> Row:
        told = volume.metadata.annotations
        reference = volume.spec.claim_ref
        twin = _twin_of(volume)
        local = self._claims.get((twin.namespace, twin.name)) if twin else None
        real = local if local is not None and twin and local.uid == twin.uid else None
        health = told.get(names.HEALTH_ANNOTATION, "")
        return Row(
            namespace=reference.namespace if reference else "",
            claim=reference.name if reference else "",
            state=_state(claim, volume, health),
            home=description.home_of(volume),
            node=",".join(_nodes_of(volume)) or (claim.selected_node if claim else ""),
            virtual_class=volume.spec.storage_class_name,
            real_class=told.get(names.REAL_CLASS_ANNOTATION)
            or (real.spec.storage_class_name if real else ""),
            capacity=_capacity(claim, volume),
            twin=f"{twin.namespace}/{twin.name}" if twin else "",
            volume=volume.name,
            real_volume=told.get(names.REAL_VOLUME_ANNOTATION)
            or (real.spec.volume_name if real else ""),
            access_modes=volume.spec.access_modes,
            reclaim_policy=volume.spec.persistent_volume_reclaim_policy,
            health=health,
            created=(claim or volume).metadata.creation_timestamp,
        )


def is_ours(provisioner: str, drivers: Collection[str]) -> bool:
    """Whether a provisioner is an installation of this driver, by its name."""
    return provisioner in drivers or provisioner.startswith(f"{names.DEFAULT_DRIVER}-")


def _waiting(claim: objects.Claim) -> Row:
    return Row(
        namespace=claim.namespace,
        claim=claim.name,
        state=_state_without_volume(claim),
        home="",
        node=claim.selected_node,
        virtual_class=claim.spec.storage_class_name,
        real_class="",
        capacity=claim.spec.resources.requests.get("storage", ""),
        twin="",
        volume="",
        real_volume="",
        access_modes=claim.spec.access_modes,
        reclaim_policy="",
        health="",
        created=claim.metadata.creation_timestamp,
    )


def _state_without_volume(claim: objects.Claim) -> str:
    if claim.deleting:
        return "Deleting"
    if claim.status.phase == "Lost":
        return "Lost"
    return "Provisioning" if claim.selected_node else "WaitsForPod"


def _state(claim: objects.Claim | None, volume: objects.PersistentVolume, health: str) -> str:
    """Return one word; the first that somebody must act on wins."""
    if virtual.forgotten(volume):
        return "Forgotten"
    if health and health != "Healthy":
        return health
    if claim is None:
        return "Deleting" if volume.deleting else volume.status.phase or "Unbound"
    if claim.deleting:
        return "Deleting"
    if not claim.bound:
        return claim.status.phase
    # A remote twin may wait for its first pod; then it has no health yet.
    return "Bound" if health or virtual.is_local(volume) else "TwinPending"


def _capacity(claim: objects.Claim | None, volume: objects.PersistentVolume) -> str:
    told = volume.metadata.annotations.get(names.REAL_CAPACITY_ANNOTATION)
    return (
        told
        or (claim.status.capacity.get("storage", "") if claim else "")
        or volume.spec.capacity.get("storage", "")
    )


def _nodes_of(volume: objects.PersistentVolume) -> list[str]:
    """Return the nodes that a volume is pinned to; none when it is to its cluster only."""
    found = [
        value
        for term in volume.terms
        for rule in term.match_expressions
        if rule.key == names.NODE_KEY and rule.operator == "In"
        for value in rule.values
    ]
    return list(dict.fromkeys(found))


def _twin_of(volume: objects.PersistentVolume) -> twins.TwinRef | None:
    try:
        return description.twin_of(volume)
    except errors.InvalidRequestError:
        return None
