"""The part of the controller that says how much room there is, put together.

Room depends on objects of many kinds. Virtual classes are few and one is looked at at
most once a second, so whatever matters to any of them has all of them looked at.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass

from csi_liqo.kube import collection
from csi_liqo.model import controller_settings, names, objects
from csi_liqo.reconcilers import capacity as capacity_reconciler
from csi_liqo.reconcilers import runner
from csi_liqo.service.controller import clusters, places, rooms


@dataclass(frozen=True, slots=True, kw_only=True)
class Watched:
    """The caches of this cluster that room depends on."""

    claims: collection.Collection[objects.Claim]
    volumes: collection.Collection[objects.PersistentVolume]
    classes: collection.Collection[objects.StorageClass]
    nodes: collection.Collection[objects.Node]
    csi_drivers: collection.Collection[objects.CsiDriver]
    capacities: collection.Collection[objects.StorageCapacity]


class Capacities:
    """``rooms`` answers GetCapacity; ``runner`` writes the same for the scheduler."""

    def __init__(
        self,
        settings: controller_settings.ControllerSettings,
        consumer: clusters.Consumer,
        everywhere: clusters.Clusters,
        where: places.Places,
        watched: Watched,
    ) -> None:
        self._driver = settings.driver_name
        self._watched = watched
        self.rooms = rooms.Rooms(
            *(consumer, everywhere, where, watched.capacities),
            driver=settings.driver_name,
            namespace=settings.namespace,
        )
        self._reconciler = capacity_reconciler.Capacities(
            *(consumer, watched.capacities, self.rooms.of),
            driver=settings.driver_name,
            namespace=settings.namespace,
        )
        self.runner = runner.Runner(
            "capacity",
            self._reconciler.reconcile,
            workers=1,
            pause_seconds=capacity_reconciler.PAUSE_SECONDS,
        )

    def changed(self) -> None:
        """Have every virtual class looked at."""
        for known in self._watched.classes.all():
            if known.provisioner == self._driver:
                self.runner.add(("", known.name))

    def listen(self, until_the_end: contextlib.ExitStack) -> None:
        """Have looked at what changes from now on, and now at all there is."""
        watched = self._watched
        for ended in (
            watched.capacities.store.listen(self._capacity_changed),
            watched.classes.store.listen(self._class_changed),
            watched.nodes.store.listen(self._node_changed),
            watched.csi_drivers.store.listen(lambda *_: self.changed()),
            watched.volumes.store.listen(self._volume_changed),
            watched.claims.store.listen(self._claim_changed),
        ):
            until_the_end.callback(ended)

    def _capacity_changed(
        self, before: objects.StorageCapacity | None, after: objects.StorageCapacity | None
    ) -> None:
        known = after or before
        assert known is not None
        if self._reconciler.is_ours(known):
            self.runner.add(("", known.storage_class_name))
        else:
            self.changed()

    def _class_changed(
        self, before: objects.StorageClass | None, after: objects.StorageClass | None
    ) -> None:
        if after is None and before is not None and before.provisioner == self._driver:
            self.runner.add(("", before.name))
        self.changed()

    def _node_changed(self, before: objects.Node | None, after: objects.Node | None) -> None:
        """Nodes change all the time; only their labels matter."""
        if before is None or after is None or before.metadata.labels != after.metadata.labels:
            self.changed()

    def _volume_changed(
        self, before: objects.PersistentVolume | None, after: objects.PersistentVolume | None
    ) -> None:
        """Volumes made by hand are room until they are taken."""
        known = after or before
        assert known is not None
        real = self._watched.classes.get("", known.spec.storage_class_name)
        if real is not None and real.provisioner == names.STATIC_PROVISIONER:
            self.changed()

    def _claim_changed(self, before: objects.Claim | None, after: objects.Claim | None) -> None:
        """A waiting claim that names a provider's class may need room of its own."""
        for known in (before, after):
            if known is not None and names.REMOTE_CLASS_ANNOTATION in known.metadata.annotations:
                self.runner.add(("", known.spec.storage_class_name))
