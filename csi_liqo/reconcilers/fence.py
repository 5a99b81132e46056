"""Says where an admission policy can see it whether this cluster holds twins.

A policy of the API server keeps the twins' namespace from being deleted while it holds
data, and can read nothing but the object at hand and one more, a ConfigMap.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Final

from csi_liqo.model import errors, names, objects
from csi_liqo.service import ports

logger = logging.getLogger(__name__)

AGAIN_SECONDS: Final = 60.0
"""The ConfigMap is not watched, so what somebody did to it is undone by writing it again."""
SECOND_LOOK_SECONDS: Final = 5.0
"""After "no" another look: another replica may have made a twin that was not seen yet."""


class Fence:
    """Keeps one ConfigMap; every key means it."""

    def __init__(
        self,
        claims: ports.Objects[objects.Claim],
        config_maps: ports.Objects[objects.ConfigMap],
        twins_namespace: str,
    ) -> None:
        self._claims = claims
        self._config_maps = config_maps
        self._twins_namespace = twins_namespace
        self._said = ""
        self._said_until = 0.0

    def doubt(self) -> None:
        """Write again what was said, as after somebody else may have written."""
        self._said_until = 0.0

    async def reconcile(self, key: tuple[str, str]) -> float | None:
        """Write whether there are twins into the ConfigMap of this namespace and name.

        Raises:
            errors.PreconditionError: there is none; the manifests have it.
            errors.ApiError: it cannot be written.
        """
        namespace, name = key
        twins = any(claim.namespace == self._twins_namespace for claim in self._claims.all())
        if not twins and not self._claims.synced:
            return SECOND_LOOK_SECONDS
        said = "yes" if twins else "no"
        now = asyncio.get_running_loop().time()
        if said == self._said and now < self._said_until:
            return self._said_until - now
        try:
            await self._config_maps.patch(namespace, name, {"data": {names.FENCE_KEY: said}})
        except errors.ApiNotFoundError as error:
            raise errors.PreconditionError(
                f"{error}: apply the manifests again; without it namespace {namespace} cannot be "
                "deleted"
            ) from error
        if said != self._said:
            logger.info("namespace %s holds twins: %s", self._twins_namespace, said)
        changed_to_no = said == "no" and self._said != said
        self._said = said
        self._said_until = now + (SECOND_LOOK_SECONDS if changed_to_no else AGAIN_SECONDS)
        return self._said_until - now
