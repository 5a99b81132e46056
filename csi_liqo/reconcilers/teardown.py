"""Keeps the facts by which admission policies refuse to take a peering apart.

Deleting a RemoteCluster, a VirtualNode, an offloading or an offloaded namespace ends
in the deletion of namespaces that hold volumes (deploy/base/teardown.yaml). The facts are
those of the virtual volumes, also of the retained ones: they say where data is.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Final

from csi_liqo.model import errors, names, objects, teardown
from csi_liqo.service import ports
from csi_liqo.service.controller import description

AGAIN_SECONDS: Final = 60.0
"""The ConfigMap is not watched, so what somebody did to it is undone by writing it again."""


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
        self._said_until = 0.0

    def doubt(self) -> None:
        """Write again what was said, as after somebody else may have written."""
        self._said_until = 0.0

    async def reconcile(self, key: tuple[str, str]) -> float | None:
        """Write the facts into the ConfigMap of this namespace and name.

        Raises:
            errors.PreconditionError: there is none; the manifests have it.
            errors.ApiError: it cannot be written.
        """
        wanted = teardown.count(self._homes())
        now = asyncio.get_running_loop().time()
        if wanted == self._said and now < self._said_until:
            return self._said_until - now
        await self._write(key, wanted)
        if teardown.untrue(self._known, wanted):  # from before this process
            await self._write(key, wanted)
        self._said, self._said_until = wanted, now + AGAIN_SECONDS
        return AGAIN_SECONDS

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
        for volume in self._volumes.all():
            source = volume.spec.csi
            if source is None or source.driver != self._driver:
                continue
            if names.FORGOTTEN_ANNOTATION in volume.metadata.annotations:
                continue
            home = description.home_of(volume)
            if home and home != self._cluster_id:
                claim = volume.spec.claim_ref
                yield home, claim.namespace if claim is not None else ""
