"""Tells the node plugins which CSI drivers are behind the virtual classes.

They must know, to take as many volumes as these do, and they read no API. So the names are
written into a ConfigMap that is mounted into their pods.
"""

from __future__ import annotations

import logging
from typing import Final

import msgspec

from csi_liqo.model import errors, names, objects
from csi_liqo.service import ports
from csi_liqo.service.controller import classes, clusters

logger = logging.getLogger(__name__)

AGAIN_SECONDS: Final = 600.0
"""The ConfigMap is not watched, so what somebody did to it is undone by writing it again."""


class RealDrivers:
    """Keeps one ConfigMap; every key means it."""

    def __init__(
        self,
        consumer: clusters.Consumer,
        config_maps: ports.Objects[objects.ConfigMap],
        driver: str,
    ) -> None:
        """``driver`` is the one whose classes count: this installation's."""
        self._consumer = consumer
        self._config_maps = config_maps
        self._driver = driver
        self._written = ""

    async def reconcile(self, key: tuple[str, str]) -> float | None:
        """Write the names into the ConfigMap of this namespace and name.

        Raises:
            errors.PreconditionError: there is none; the manifests have it.
            errors.ApiError: it cannot be written.
        """
        namespace, name = key
        wanted = classes.real_drivers(self._consumer, self._driver)
        text = msgspec.json.encode(wanted).decode()
        try:
            # Patched without a look at it: the same content is no change to the API server.
            await self._config_maps.patch(namespace, name, {"data": {names.REAL_DRIVERS_KEY: text}})
        except errors.ApiNotFoundError as error:
            raise errors.PreconditionError(
                f"{error}: apply the manifests again; without it nodes take any number of volumes"
            ) from error
        if text != self._written:
            logger.info("CSI drivers behind the classes of %s: %s", self._driver, text)
        self._written = text
        return AGAIN_SECONDS
