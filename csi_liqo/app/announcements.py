"""The part of the controller that tells those who read no API, put together.

Node plugins and admission policies know of the cluster what two ConfigMaps say.
"""

from __future__ import annotations

import contextlib

from csi_liqo.app import caches
from csi_liqo.model import controller_settings, objects
from csi_liqo.reconcilers import announced, fence, real_drivers, runner
from csi_liqo.service.controller import clusters


class Announcements:
    """``runners`` keep the ConfigMaps."""

    def __init__(
        self,
        settings: controller_settings.ControllerSettings,
        known: caches.Caches,
        consumer: clusters.Consumer,
    ) -> None:
        self._known = known
        self._twins_namespace = settings.twins_namespace
        self._fence_config_map = (settings.twins_namespace, settings.fence_config_map)
        self._drivers_config_map = (settings.namespace, settings.real_drivers_config_map)
        drivers = announced.Announced(
            *(known.real_drivers, *self._drivers_config_map),
            "nodes take any number of volumes",
        )
        fenced = announced.Announced(
            *(known.fence, *self._fence_config_map),
            f"namespace {settings.twins_namespace} cannot be deleted",
        )
        self._drivers_runner = runner.Runner(
            "real-drivers",
            real_drivers.RealDrivers(consumer, drivers, settings.driver_name).reconcile,
            pause_seconds=real_drivers.PAUSE_SECONDS,
        )
        self._fence_runner = runner.Runner(
            "fence",
            fence.Fence(known.claims, fenced, settings.twins_namespace).reconcile,
            pause_seconds=fence.PAUSE_SECONDS,
        )
        self.runners = (self._drivers_runner, self._fence_runner)

    def listen(self, until_the_end: contextlib.ExitStack) -> None:
        """Have the ConfigMaps follow what changes from now on, and now what is so."""

        def drivers_changed(*_: object) -> None:
            self._drivers_runner.add(self._drivers_config_map)

        def twins_changed(*_: object) -> None:
            self._fence_runner.add(self._fence_config_map)

        def claim_changed(before: objects.Claim | None, after: objects.Claim | None) -> None:
            known = after or before
            assert known is not None
            if known.namespace == self._twins_namespace and None in (before, after):
                twins_changed()

        for ended in (
            self._known.classes.store.listen(drivers_changed),
            self._known.csi_drivers.store.listen(drivers_changed),
            self._known.real_drivers.store.listen(drivers_changed),
            self._known.claims.store.listen(claim_changed),
            self._known.fence.store.listen(twins_changed),
        ):
            until_the_end.callback(ended)
        drivers_changed()
        twins_changed()
