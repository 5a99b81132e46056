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

from csi_liqo.model import errors, names, objects, teardown
from csi_liqo.service import ports
from csi_liqo.service.controller import description

AGAIN_SECONDS: Final = 60.0
"""The ConfigMap is not watched, so what somebody did to it is undone by writing it again."""
PAUSE_SECONDS: Final = 0.3
"""Between two looks at all volumes, which cost more the more there are; its runner keeps it."""
COUNT_SECONDS: Final = 5.0
"""How long a number may be out of date: the policies go by which there are, and only their
texts have the numbers. A hundred volumes are not a hundred writes."""


class TeardownFacts:
    """Writes one ConfigMap; every key means it."""

    def __init__(
        self,
        volumes: ports.Objects[objects.PersistentVolume],
        config_maps: ports.Objects[objects.ConfigMap],
        *,
        cluster_id: str,
        driver: str,
    ) -> None:
        self._volumes = volumes
        self._config_maps = config_maps
        self._cluster_id = cluster_id
        self._driver = driver
        self._known: dict[str, str] = {}
        self._said: dict[str, str] | None = None
        self._said_at = 0.0

    def doubt(self) -> None:
        """Write again what was said, as after somebody else may have written."""
        self._said = None

    async def reconcile(self, key: tuple[str, str]) -> float | None:
        """Write the facts into the ConfigMap of this namespace and name.

        Raises:
            errors.PreconditionError: there is none; the manifests have it.
            errors.ApiError: it cannot be written.
        """
        now = asyncio.get_running_loop().time()
        wanted = teardown.count(self._homes())
        rest = self._rest(wanted) + self._said_at - now
        if rest > 0:
            return rest
        await self._write(key, wanted)
        if teardown.untrue(self._known, wanted):  # from before this process
            await self._write(key, wanted)
        self._said, self._said_at = wanted, now
        return AGAIN_SECONDS

    def _rest(self, wanted: dict[str, str]) -> float:
        """Return how long after the last write there need be none."""
        if self._said is None:
            return -math.inf
        if wanted == self._said:
            return AGAIN_SECONDS
        return COUNT_SECONDS if wanted.keys() == self._said.keys() else -math.inf

    async def _write(self, key: tuple[str, str], wanted: dict[str, str]) -> None:
        namespace, name = key
        patch = {
            "metadata": {"labels": {names.FACTS_LABEL: names.HOMES_FACTS}},
            "data": teardown.forge_change(self._known, wanted),
        }
        try:
            self._known = (await self._config_maps.patch(namespace, name, patch)).data
        except errors.ApiNotFoundError as error:
            raise errors.PreconditionError(
                f"{error}: apply the manifests again; without it a peering may be taken apart "
                "while volumes live there"
            ) from error

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
