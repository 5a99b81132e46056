"""Keeps the facts by which admission policies refuse to take a peering apart.

Deleting a RemoteCluster, a VirtualNode, an offloading or an offloaded namespace ends
in the deletion of namespaces that hold volumes (deploy/base/teardown.yaml). The facts are
those of the virtual volumes, also of the retained ones: they say where data is.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Iterable
from typing import Final

from csi_liqo.model import names, objects, teardown
from csi_liqo.reconcilers import announced
from csi_liqo.service import ports
from csi_liqo.service.controller import description

PAUSE_SECONDS: Final = 0.3
"""Between two looks at all volumes, which cost more the more there are; its runner keeps it."""
COUNT_SECONDS: Final = 5.0
"""How long a number may be out of date: the policies go by which there are, and only their
texts have the numbers. A hundred volumes are not a hundred writes."""


class TeardownFacts:
    """Keeps one ConfigMap; every key means it."""

    def __init__(
        self,
        volumes: ports.Objects[objects.PersistentVolume],
        config_map: announced.Announced,
        *,
        cluster_id: str,
        driver: str,
    ) -> None:
        self._volumes = volumes
        self._config_map = config_map
        self._cluster_id = cluster_id
        self._driver = driver
        self._written_at = -math.inf

    async def reconcile(self, _: tuple[str, str]) -> float | None:
        """Have the ConfigMap say the facts; a number alone may wait.

        Raises:
            errors.PreconditionError: there is none; the manifests have it.
            errors.ApiError: it cannot be written.
        """
        known = self._config_map.read()
        wanted = teardown.count(self._homes())
        change = teardown.forge_change(known.data, wanted)
        marked = known.metadata.labels.get(names.FACTS_LABEL) == names.HOMES_FACTS
        if marked and not change:
            return self._config_map.again_seconds
        rest = self._written_at + COUNT_SECONDS - asyncio.get_running_loop().time()
        if marked and rest > 0 and change.keys() <= known.data.keys() & wanted.keys():
            return rest
        labels = {names.FACTS_LABEL: names.HOMES_FACTS}
        await self._config_map.write({"metadata": {"labels": labels}, "data": change})
        self._written_at = asyncio.get_running_loop().time()
        return self._config_map.again_seconds

    def _homes(self) -> Iterable[teardown.Home]:
        return filter(None, map(self.home_of, self._volumes.all()))

    def home_of(self, volume: objects.PersistentVolume | None) -> teardown.Home | None:
        """Return the place of a volume that is counted; None when it is not."""
        source = volume.spec.csi if volume is not None else None
        if volume is None or source is None or source.driver != self._driver:
            return None
        if names.FORGOTTEN_ANNOTATION in volume.metadata.annotations:
            return None
        home = description.home_of(volume)
        if not home or home == self._cluster_id:
            return None
        claim = volume.spec.claim_ref
        return home, claim.namespace if claim is not None else ""
