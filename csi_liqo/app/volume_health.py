"""How virtual volumes are kept showing their twins: what is wired to what."""

from __future__ import annotations

import contextlib
from typing import Final

from csi_liqo.kube import collection
from csi_liqo.model import objects
from csi_liqo.reconcilers import runner, status_back
from csi_liqo.service import ports
from csi_liqo.service.controller import clusters

WORKERS: Final = 8


class VolumeHealth:
    """The reconciler that looks at virtual volumes, and what makes it look.

    ``runner`` is to be run, ``listen`` called, and then each change of a twin and of a
    provider's connection told.
    """

    def __init__(
        self,
        consumer: clusters.Consumer,
        everywhere: clusters.Clusters,
        events: ports.Events,
        driver: str,
    ) -> None:
        self._consumer = consumer
        self._driver = driver
        shown = status_back.StatusBack(consumer, everywhere, events, driver)
        self.runner: Final = runner.Runner("status-back", shown.reconcile, workers=WORKERS)

    def listen(
        self,
        volumes: collection.Collection[objects.PersistentVolume],
        claims: collection.Collection[objects.Claim],
        until_the_end: contextlib.ExitStack,
    ) -> None:
        """Follow the virtual volumes and claims from now on, beginning with all there are."""

        def volume_changed(
            _: objects.PersistentVolume | None, volume: objects.PersistentVolume | None
        ) -> None:
            self._look(volume)

        def claim_changed(_: objects.Claim | None, claim: objects.Claim | None) -> None:
            if claim is not None and not claim.consumer and claim.spec.volume_name:
                self._look(self._consumer.volumes.get("", claim.spec.volume_name))

        for ended in (volumes.store.listen(volume_changed), claims.store.listen(claim_changed)):
            until_the_end.callback(ended)

    def twin_changed(self, before: objects.Claim | None, after: objects.Claim | None) -> None:
        """Take note of a twin that came, went or changed."""
        twin = after or before
        if twin is None or not twin.volume_id or twin.consumer != self._consumer.cluster_id:
            return
        for volume in self._consumer.volumes.select(clusters.BY_HANDLE, twin.volume_id):
            self._look(volume)

    def provider_changed(self, cluster_id: str) -> None:
        """Take note of a provider that may be in sight again: what it lost meanwhile is news."""
        for volume in self._consumer.volumes.select(clusters.BY_HOME, cluster_id):
            self._look(volume)

    def _look(self, volume: objects.PersistentVolume | None) -> None:
        source = volume.spec.csi if volume is not None else None
        if volume is None or source is None or source.driver != self._driver:
            return
        self.runner.add(("", volume.name))
