"""Which twins there are, and which of them nobody uses any more.

A twin that was handed over and has neither virtual volume nor claim is abandoned, unless
it remembers that its volume was to be retained. Both hold data, so they are listed and
counted, and leave only by command. One that was never handed over holds none and is
collected by itself.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable
from dataclasses import dataclass

from csi_liqo.model import names, objects
from csi_liqo.service.controller import clusters, description


class State(enum.Enum):
    """What a twin is to this cluster."""

    STARTED = "started"
    """Not handed over: a call is at work on it, or it will be collected."""
    IN_USE = "in-use"
    """Its virtual volume or claim exists."""
    RETAINED = "retained"
    """Its claim is gone, and its data was to be kept."""
    ABANDONED = "abandoned"
    """Neither volume nor claim exists, and nobody said that its data was to be kept."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A twin, where it is and what it is; ``volume`` is its virtual volume if there is one."""

    cluster: clusters.Cluster
    twin: objects.Claim
    state: State
    volume: objects.PersistentVolume | None

    @property
    def claim(self) -> str:
        """``namespace/name`` of the claim that it was made for, or serves now."""
        return claim_name(self.twin)


@dataclass(frozen=True, slots=True)
class Listing:
    """All that can be seen; ``out_of_sight`` has cluster and namespace, "" for any, of the rest."""

    entries: tuple[Entry, ...]
    out_of_sight: tuple[tuple[str, str], ...]

    def of(self, *states: State) -> tuple[Entry, ...]:
        """Return the entries in any of these states."""
        return tuple(entry for entry in self.entries if entry.state in states)


class Inventory:
    """Lists the twins of this consumer, from the caches."""

    def __init__(self, consumer: clusters.Consumer, everywhere: clusters.Clusters) -> None:
        self._consumer = consumer
        self._clusters = everywhere

    def list(self) -> Listing:
        """Return every twin in sight, by cluster, namespace and name.

        Where rights are granted a namespace at a time, the namespaces in sight are those that
        a mapping names or a virtual volume is in.
        """
        entries: list[Entry] = []
        hidden: list[tuple[str, str]] = []
        for cluster in self._clusters:
            hidden += ((cluster.id, namespace) for namespace in cluster.claims.gaps)
            entries += (self.entry(cluster, twin) for twin in self._twins_of(cluster))
        entries.sort(key=lambda e: (e.cluster.id, e.twin.namespace, e.twin.name))
        return Listing(tuple(entries), tuple(hidden))

    def _twins_of(self, cluster: clusters.Cluster) -> Iterable[objects.Claim]:
        own = self._consumer.cluster_id
        return (
            claim for claim in cluster.claims.all() if claim.consumer == own and claim.volume_id
        )

    def entry(self, cluster: clusters.Cluster, twin: objects.Claim) -> Entry:
        """Say what one twin is."""
        volume = self._volume_of(cluster, twin)
        if not twin.handed_over:
            return Entry(cluster, twin, State.STARTED, volume)
        if volume is not None:
            kept = volume.spec.persistent_volume_reclaim_policy == "Retain"
            free = volume.status.phase in ("Released", "Available")
            return Entry(cluster, twin, State.RETAINED if kept and free else State.IN_USE, volume)
        if self._claim_waits(cluster, twin):
            return Entry(cluster, twin, State.IN_USE, None)
        retained = names.RETAINED_ANNOTATION in twin.metadata.annotations
        return Entry(cluster, twin, State.RETAINED if retained else State.ABANDONED, None)

    def _volume_of(
        self, cluster: clusters.Cluster, twin: objects.Claim
    ) -> objects.PersistentVolume | None:
        """Return the virtual volume that names this very twin, or the twin it was before.

        Two installations share a cluster's twins; a volume of the other one, which the index
        does not have, has the twin's id as its name.
        """
        named = self._consumer.volumes.get("", twin.volume_id)
        ours = self._consumer.volumes.select(clusters.BY_HANDLE, twin.volume_id)
        for volume in ours if named is None else (*ours, named):
            if description.names_twin(volume, cluster, twin):
                return volume
        return None

    def _claim_waits(self, cluster: clusters.Cluster, twin: objects.Claim) -> bool:
        """Whether the claim of a twin is there and not bound to another volume."""
        namespace, _, name = claim_name(twin).partition("/")
        claim = self._consumer.claims.get(namespace, name)
        if claim is None or claim.uid != twin.claim_uid:
            return False
        bound_to = claim.spec.volume_name
        return not bound_to or any(
            volume.name == bound_to and _may_be_at(cluster, volume)
            for volume in self._consumer.volumes.select(clusters.BY_HANDLE, twin.volume_id)
        )


def _may_be_at(cluster: clusters.Cluster, volume: objects.PersistentVolume) -> bool:
    return description.home_of(volume) in ("", cluster.id)


def claim_name(twin: objects.Claim) -> str:
    """Return ``namespace/name`` of the claim that a twin was made for, or serves now."""
    return twin.metadata.annotations.get(names.CLAIM_ANNOTATION, "")
