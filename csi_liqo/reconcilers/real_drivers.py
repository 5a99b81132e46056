"""Tells the node plugins which CSI drivers are behind the virtual classes.

They must know, to take as many volumes as these do, and they read no API. So the names are
written into a ConfigMap that is mounted into their pods.
"""

from __future__ import annotations

import logging
from typing import Final

import msgspec

from csi_liqo.model import names
from csi_liqo.reconcilers import announced
from csi_liqo.service.controller import classes, clusters

logger = logging.getLogger(__name__)

PAUSE_SECONDS: Final = 0.3
"""Between two looks at all classes; a burst of changes is few writes."""


class RealDrivers:
    """Keeps one ConfigMap; every key means it."""

    def __init__(
        self,
        consumer: clusters.Consumer,
        config_map: announced.Announced,
        driver: str,
    ) -> None:
        """``driver`` is the one whose classes count: this installation's."""
        self._consumer = consumer
        self._config_map = config_map
        self._driver = driver

    async def reconcile(self, _: tuple[str, str]) -> float | None:
        """Have the ConfigMap say their names.

        Raises:
            errors.PreconditionError: there is none; the manifests have it.
            errors.ApiError: it cannot be written.
        """
        text = msgspec.json.encode(classes.real_drivers(self._consumer, self._driver)).decode()
        if self._config_map.read().data.get(names.REAL_DRIVERS_KEY) != text:
            await self._config_map.write({"data": {names.REAL_DRIVERS_KEY: text}})
            logger.info("CSI drivers behind the classes of %s: %s", self._driver, text)
        return self._config_map.again_seconds
