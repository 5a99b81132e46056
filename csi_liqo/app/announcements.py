"""The part of the controller that tells those who read no API, put together.

Node plugins and admission policies know of the cluster what two ConfigMaps say.
"""

from __future__ import annotations

import contextlib

from csi_liqo.kube import api, collection, resources
from csi_liqo.model import controller_settings, objects
from csi_liqo.reconcilers import fence, real_drivers, runner
from csi_liqo.service.controller import clusters


class Announcements:
    """``runners`` write the ConfigMaps."""

    def __init__(
        self,
        settings: controller_settings.ControllerSettings,
        calls: api.Api,
        watches: api.Api,
        consumer: clusters.Consumer,
        claims: collection.Collection[objects.Claim],
        classes: collection.Collection[objects.StorageClass],
        csi_drivers: collection.Collection[objects.CsiDriver],
    ) -> None:
        self._twins_namespace = settings.twins_namespace
        self._fence_config_map = (settings.twins_namespace, settings.fence_config_map)
        self._drivers_config_map = (settings.namespace, settings.real_drivers_config_map)
        self._claims = claims
        self._classes = classes
        self._csi_drivers = csi_drivers
        written = collection.Collection(calls, watches, resources.CONFIG_MAPS)
        behind = real_drivers.RealDrivers(consumer, written, settings.driver_name)
        self._fence = fence.Fence(claims, written, settings.twins_namespace)
        self._drivers_runner = runner.Runner("real-drivers", behind.reconcile)
        self._fence_runner = runner.Runner("fence", self._fence.reconcile)
        self.runners = (self._drivers_runner, self._fence_runner)

    def listen(self, until_the_end: contextlib.ExitStack) -> None:
        """Have written what changes from now on, and now what is so."""

        def drivers_changed(*_: object) -> None:
            self._drivers_runner.add(self._drivers_config_map)

        def claim_changed(before: objects.Claim | None, after: objects.Claim | None) -> None:
            known = after or before
            assert known is not None
            if known.namespace == self._twins_namespace and None in (before, after):
                self._fence_runner.add(self._fence_config_map)

        for ended in (
            self._classes.store.listen(drivers_changed),
            self._csi_drivers.store.listen(drivers_changed),
            self._claims.store.listen(claim_changed),
        ):
            until_the_end.callback(ended)
        drivers_changed()
        # Another replica may have led meanwhile, and said something else.
        self._fence.doubt()
        self._fence_runner.add(self._fence_config_map)
