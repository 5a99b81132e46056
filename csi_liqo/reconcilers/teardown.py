"""Keeps the facts by which admission policies refuse to take a peering apart.

Deleting a RemoteCluster, a VirtualNode, an offloading or an offloaded namespace ends
in the deletion of namespaces that hold volumes (deploy/base/teardown.yaml). The facts are
those of the virtual volumes, also of the retained ones: they say where data is.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Any, Final

from csi_liqo.model import names, objects, teardown
from csi_liqo.service import ports
from csi_liqo.service.controller import description

logger = logging.getLogger(__name__)

KEY: Final = ("", "facts")
"""The only key: all facts are in one object."""

RETRY_SECONDS: Final = 10.0
"""Until the next look when the ConfigMap cannot be seen."""


def facts_name(driver: str) -> str:
    """Return the name of the ConfigMap with one installation's facts."""
    return f"{driver}-volumes"


class TeardownFacts:
    """Writes one ConfigMap in the driver's own namespace."""

    def __init__(
        self,
        volumes: ports.Objects[objects.PersistentVolume],
        config_maps: ports.Objects[objects.ConfigMap],
        *,
        cluster_id: str,
        driver: str,
        namespace: str,
    ) -> None:
        self._volumes = volumes
        self._config_maps = config_maps
        self._cluster_id = cluster_id
        self._driver = driver
        self._namespace = namespace

    async def reconcile(self, key: tuple[str, str]) -> float | None:
        """Write what changed; a ConfigMap that somebody deleted is made again."""
        if not await self._config_maps.ready(self._namespace):
            return RETRY_SECONDS
        name = facts_name(self._driver)
        known = self._config_maps.get(self._namespace, name)
        wanted = teardown.count(self._homes())
        if known is None:
            await self._config_maps.create(self._namespace, self._forge(name, wanted))
            return None
        change = teardown.forge_change(known.data, wanted)
        if change:
            patch = {"metadata": {"uid": known.uid}, "data": change}
            await self._config_maps.patch(self._namespace, name, patch)
        return None

    def _homes(self) -> Iterable[teardown.Home]:
        for volume in self._volumes.all():
            source = volume.spec.csi
            if source is None or source.driver != self._driver:
                continue
            home = description.home_of(volume)
            if home and home != self._cluster_id:
                claim = volume.spec.claim_ref
                yield home, claim.namespace if claim is not None else ""

    def _forge(self, name: str, data: dict[str, str]) -> dict[str, Any]:
        return {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": name, "labels": {names.FACTS_LABEL: names.HOMES_FACTS}},
            "data": data,
        }
