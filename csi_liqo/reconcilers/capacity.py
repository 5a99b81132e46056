"""Writes how much room there is for new volumes, for the scheduler to read.

``csi-provisioner --enable-capacity`` would ask GetCapacity each minute for each node;
this follows the watches instead, writes only differences, and looks at one class at
most once a second, however much changes.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from typing import Final

from csi_liqo.model import capacity, names, objects
from csi_liqo.service import ports
from csi_liqo.service.controller import clusters

logger = logging.getLogger(__name__)

PAUSE_SECONDS: Final = 1.0
"""Between two looks at one class; its runner keeps it."""


class Capacities:
    """Keeps the CSIStorageCapacity objects of one virtual class at a time true."""

    def __init__(
        self,
        consumer: clusters.Consumer,
        capacities: ports.Objects[objects.StorageCapacity],
        rooms_of: Callable[[objects.StorageClass], Iterable[capacity.Room]],
        *,
        driver: str,
        namespace: str,
    ) -> None:
        self._consumer = consumer
        self._capacities = capacities
        self._rooms_of = rooms_of
        self._driver = driver
        self._namespace = namespace

    def is_ours(self, known: objects.StorageCapacity) -> bool:
        """Tell whether this installation wrote an object."""
        ours = known.metadata.labels.get(names.DRIVER_LABEL) == self._driver
        return ours and known.namespace == self._namespace

    async def reconcile(self, key: tuple[str, str]) -> None:
        """Bring the objects of one class up to date."""
        _, class_name = key
        driver = self._consumer.csi_drivers.get("", self._driver)
        if driver is not None and not driver.deleting:  # or what is there goes with it
            await self._write(class_name, driver)

    async def _write(self, class_name: str, driver: objects.CsiDriver) -> None:
        known = {
            said.name: said
            for said in self._capacities.select(clusters.BY_CLASS, class_name)
            if self.is_ours(said)
        }
        for room in self._wanted(class_name):
            name = capacity.object_name(driver.name, class_name, room.selector)
            said = known.pop(name, None)
            if said is None:
                manifest = capacity.forge(
                    room,
                    class_name,
                    driver=driver,
                    consumer_id=self._consumer.cluster_id,
                    namespace=self._namespace,
                )
                await self._capacities.create(self._namespace, manifest)
                logger.info(
                    "class %s has %d bytes in cluster %s",
                    *(class_name, room.limit_bytes, room.cluster_id),
                )
            elif patch := capacity.forge_change(said, room, driver):
                await self._capacities.patch(self._namespace, name, patch)
                logger.debug("class %s: %s now %d bytes", class_name, name, room.limit_bytes)
        for said in known.values():
            await self._capacities.delete(self._namespace, said.name, uid=said.uid)

    def _wanted(self, class_name: str) -> Iterable[capacity.Room]:
        """The scheduler asks only for classes that wait for their first consumer."""
        virtual = self._consumer.classes.get("", class_name)
        if virtual is None or virtual.provisioner != self._driver or not virtual.waits:
            return ()
        return self._rooms_of(virtual)
