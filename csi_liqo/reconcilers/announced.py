"""One ConfigMap of the manifests that says something to those who read no API.

It is watched, so that what somebody else did to it is undone at once, and what it says
already is not written again.
"""

from __future__ import annotations

from typing import Final

import msgspec

from csi_liqo.model import errors, objects
from csi_liqo.reconcilers import seen
from csi_liqo.service import ports

UNSEEN_SECONDS: Final = 5.0
"""Between two looks while the cache may be out of date."""


class Announced:
    """Reads it from a cache that has at least it, and writes parts of it."""

    def __init__(
        self, config_maps: ports.Objects[objects.ConfigMap], namespace: str, name: str, cost: str
    ) -> None:
        """``cost`` says what comes of its absence, after "without it"."""
        self._config_maps = config_maps
        self._place = (namespace, name)
        self._absent = (
            f'configmaps "{name}" not found: apply the manifests again; without it {cost}'
        )

    def read(self) -> objects.ConfigMap:
        """Return what is cached of it, without data while that may be out of date.

        It is written again then: what nobody sees must not be believed to be said.

        Raises:
            errors.PreconditionError: there is none; the manifests have it.
        """
        found = self._config_maps.get(*self._place)
        if found is None:
            raise errors.PreconditionError(self._absent)
        return found if self._config_maps.synced else msgspec.structs.replace(found, data={})

    @property
    def again_seconds(self) -> float | None:
        """How soon to look again though nothing changed; None when the cache will tell."""
        return None if self._config_maps.synced else UNSEEN_SECONDS

    async def write(self, patch: ports.Patch) -> None:
        """Patch it, and give the cache a moment to have that.

        Raises:
            errors.PreconditionError: there is none; the manifests have it.
            errors.ApiError: it cannot be written.
        """
        before = self.read()
        try:
            written = await self._config_maps.patch(*self._place, patch)
        except errors.ApiNotFoundError:
            raise errors.PreconditionError(self._absent) from None
        known = before.metadata.resource_version
        if written.metadata.resource_version != known:
            await seen.wait(
                self._config_maps, before, lambda now: now.metadata.resource_version != known
            )
