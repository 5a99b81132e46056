"""Says where an admission policy can see it whether this cluster holds twins.

A policy of the API server keeps the twins' namespace from being deleted while it holds
data, and can read nothing but the object at hand and one more, a ConfigMap.
"""

from __future__ import annotations

import logging
from typing import Final

from csi_liqo.model import names, objects
from csi_liqo.reconcilers import announced
from csi_liqo.service import ports

logger = logging.getLogger(__name__)

PAUSE_SECONDS: Final = 0.3
"""Between two looks: two installations that see a twin at different times write by turns."""


class Fence:
    """Keeps one ConfigMap; every key means it."""

    def __init__(
        self,
        claims: ports.Objects[objects.Claim],
        config_map: announced.Announced,
        twins_namespace: str,
    ) -> None:
        self._claims = claims
        self._config_map = config_map
        self._twins_namespace = twins_namespace

    async def reconcile(self, _: tuple[str, str]) -> float | None:
        """Have the ConfigMap say whether there are twins.

        Raises:
            errors.PreconditionError: there is none; the manifests have it.
            errors.ApiError: it cannot be written.
        """
        twins = any(claim.namespace == self._twins_namespace for claim in self._claims.all())
        if not twins and not self._claims.synced:
            return announced.UNSEEN_SECONDS
        wanted = "yes" if twins else "no"
        if self._config_map.read().data.get(names.FENCE_KEY) != wanted:
            await self._config_map.write({"data": {names.FENCE_KEY: wanted}})
            logger.info("namespace %s holds twins: %s", self._twins_namespace, wanted)
        return self._config_map.again_seconds
