"""How much room each cluster has for new volumes of a virtual class.

What is read here is what creating a volume would go by: the same real class in this
cluster, the same negotiation with a provider. A provider that is out of sight keeps
what was last said of it; its caches outlive an outage, and the objects a restart.

A cluster whose own settings are wrong (no real class, no default) is said to have
plenty: its claims must get as far as to be told what is wrong, and the scheduler's
"not enough free storage" would not tell.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

from csi_liqo.model import affinity, capacity, errors, names, objects, quantities, topology
from csi_liqo.service import ports
from csi_liqo.service.controller import clusters, negotiation, parameters, places

_OF_SIDECARS: Final = "csi.storage.k8s.io/"
"""Parameters of a class that are for the sidecars; CreateVolume is called without them."""

_SELECTABLE: Final = frozenset({"In", "NotIn", "Exists", "DoesNotExist"})
"""What a label selector can say of what a node affinity can."""


class Rooms:
    """The room of all clusters, by virtual class."""

    def __init__(
        self,
        consumer: clusters.Consumer,
        everywhere: clusters.Clusters,
        where: places.Places,
        capacities: ports.Objects[objects.StorageCapacity],
        *,
        driver: str,
        namespace: str,
    ) -> None:
        """``namespace`` is where this driver's own capacity objects are."""
        self._consumer = consumer
        self._clusters = everywhere
        self._places = where
        self._capacities = capacities
        self._driver = driver
        self._namespace = namespace

    def of(self, virtual: objects.StorageClass) -> tuple[capacity.Room, ...]:
        """Return the room for volumes of a virtual class; each cluster has at least one entry."""
        rooms = list(self._local(virtual))
        rooms += [self._remote(virtual, cluster_id) for cluster_id in self._remote_ids()]
        return capacity.tidy(rooms)

    def available(
        self, given: Mapping[str, str], segment: topology.Segment | None
    ) -> tuple[int, int]:
        """Return the bytes available to classes of these parameters, and the largest volume.

        ``segment`` None means everywhere.

        Raises:
            errors.InvalidRequestError: a parameter is unknown or malformed.
            errors.OutcomeUnknownError: this cluster's own objects are out of sight.
        """
        parameters.parse({k: v for k, v in given.items() if not k.startswith(_OF_SIDECARS)})
        if not (self._capacities.synced and self._consumer.classes.synced):
            raise errors.OutcomeUnknownError("this cluster's API server is out of reach")
        virtual = [
            known
            for known in self._consumer.classes.all()
            if known.provisioner == self._driver and known.parameters == given
        ] or [objects.StorageClass(metadata=objects.Metadata(), parameters=dict(given))]
        sums = [
            capacity.total(room for room in self.of(known) if self._reaches(room, segment))
            for known in virtual
        ]
        return max(sums)

    def _reaches(self, room: capacity.Room, segment: topology.Segment | None) -> bool:
        if segment is None:
            return True
        value = segment.get(names.NODE_KEY, "")
        nodes = self._consumer.nodes.select(clusters.BY_NODE_KEY, value) if value else ()
        if nodes:
            labels = {**nodes[0].metadata.labels, **segment}
            return affinity.selects(room.selector, labels)
        own = {names.CLUSTER_KEY: room.cluster_id}
        return not value and all(own.get(key) == text for key, text in segment.items())

    def _local(self, virtual: objects.StorageClass) -> Iterable[capacity.Room]:
        own = self._consumer.cluster_id
        try:
            real = self._places.real_class(virtual.parameters.get(parameters.LOCAL_CLASS, ""))
        except errors.PreconditionError:
            return (capacity.plenty_in(own),)
        if real.provisioner == names.STATIC_PROVISIONER:
            return (capacity.none_in(own), *self._by_hand(real))
        said = self._capacities.select(clusters.BY_CLASS, real.name)
        if not _counts(real, self._consumer.csi_drivers, said):
            return (capacity.plenty_in(own),)
        mirrored = (capacity.mirror(known, own) for known in said)
        return (capacity.none_in(own), *(room for room in mirrored if room is not None))

    def _by_hand(self, real: objects.StorageClass) -> Iterable[capacity.Room]:
        """Return where free volumes are that were made by hand; each claim takes one whole."""
        own = self._consumer.cluster_id
        for volume in self._consumer.volumes.select(clusters.BY_CLASS, real.name):
            taken = volume.spec.claim_ref is not None or volume.status.phase != "Available"
            if taken or volume.deleting:
                continue
            size = quantities.to_bytes(volume.spec.capacity.get("storage", "0"))
            for selector in self._selectors(volume):
                yield capacity.Room(
                    cluster_id=own, selector=selector, available_bytes=size, largest_bytes=size
                )

    def _selectors(self, volume: objects.PersistentVolume) -> Iterable[objects.LabelSelector]:
        own = {names.CLUSTER_KEY: self._consumer.cluster_id}
        for term in volume.terms:
            rules = term.match_expressions
            if rules and not term.match_fields and {r.operator for r in rules} <= _SELECTABLE:
                yield objects.LabelSelector(match_labels=own, match_expressions=rules)
                continue
            for node in self._consumer.nodes.all():
                if not node.virtual and affinity.matches_term(term, node):
                    segment = topology.node_segment(self._consumer.cluster_id, node.name)
                    yield objects.LabelSelector(match_labels=segment)

    def _remote_ids(self) -> Iterable[str]:
        """Return every provider that is described, and every one that a node stands for."""
        labelled = {
            node.metadata.labels.get(names.CLUSTER_KEY, "")
            for node in self._consumer.nodes.all()
            if node.virtual
        }
        found = labelled | (self._clusters.described() or set())
        return sorted(found - {"", self._consumer.cluster_id})

    def _remote(self, virtual: objects.StorageClass, cluster_id: str) -> capacity.Room:
        described = self._clusters.described()
        if described is not None and cluster_id not in described:
            return capacity.none_in(cluster_id)
        cluster = self._clusters.get(cluster_id)
        if cluster is None or cluster.spec is None:
            return self._last_known(virtual, cluster_id)
        if cluster.closing or not negotiation.maps_any(cluster.spec):
            return capacity.none_in(cluster_id)
        wanted = self._negotiated(cluster, virtual)
        return capacity.best_of(cluster_id, (_offered(cluster, real) for real in wanted))

    def _negotiated(
        self, cluster: clusters.Cluster, virtual: objects.StorageClass
    ) -> Iterable[tuple[str, bool]]:
        """Return the classes that claims of a virtual class get in a provider, as of now.

        That is the one of an ordinary claim, and those that waiting claims name themselves.
        """
        spec = objects.ClaimSpec(storage_class_name=virtual.name)
        ordinary = objects.Claim(metadata=objects.Metadata(), spec=spec)
        found: set[tuple[str, bool]] = set()
        for claim in (
            ordinary,
            *self._consumer.claims.select(clusters.BY_WISH, virtual.name),
        ):
            wanted = virtual.parameters.get(parameters.REMOTE_CLASS, "")
            try:
                found.add(negotiation.choose_class(cluster, claim, wanted, self._driver))
            except errors.PlacementError:
                continue
        return found

    def _last_known(self, virtual: objects.StorageClass, cluster_id: str) -> capacity.Room:
        nothing = capacity.none_in(cluster_id)
        name = capacity.object_name(self._driver, virtual.name, nothing.selector)
        known = self._capacities.get(self._namespace, name)
        if known is None:
            return nothing
        return capacity.Room(
            cluster_id=cluster_id,
            selector=nothing.selector,
            available_bytes=known.available_bytes,
            largest_bytes=known.largest_bytes,
            counted=known.largest_bytes != capacity.PLENTY_BYTES,
        )


def _offered(cluster: clusters.Cluster, chosen: tuple[str, bool]) -> capacity.Room:
    """Return the room of a provider's class, as far as the provider lets it be read."""
    class_name, waits = chosen
    if cluster.capacities is None:
        return capacity.plenty_in(cluster.id)
    known = None if cluster.classes is None else cluster.classes.get("", class_name)
    real = known or objects.StorageClass(
        metadata=objects.Metadata(name=class_name),
        volume_binding_mode="WaitForFirstConsumer" if waits else "Immediate",
    )
    said = cluster.capacities.select(clusters.BY_CLASS, class_name)
    if not _counts(real, cluster.csi_drivers, said):
        return capacity.plenty_in(cluster.id)
    rooms = (capacity.mirror(one, cluster.id) for one in said)
    return capacity.best_of(cluster.id, (room for room in rooms if room is not None))


def _counts(
    real: objects.StorageClass,
    drivers: ports.Objects[objects.CsiDriver] | None,
    said: tuple[objects.StorageCapacity, ...],
) -> bool:
    """Tell whether a real class's room is counted.

    The driver says so in its CSIDriver, and even then usually not for classes that bind
    at once (external-provisioner: --capacity-for-immediate-binding). Where CSIDrivers
    may not be read, what is said is believed.
    """
    if drivers is not None and real.provisioner:
        driver = drivers.get("", real.provisioner)
        if driver is None or not driver.spec.storage_capacity:
            return False
        return bool(said) or real.waits
    return bool(said)
