"""The part of the controller that keeps the facts against tearing down, put together.

Admission policies refuse what would take volumes with it, in the consumer and, where
its administrator wants that, in a provider. They know what is counted here.
"""

from __future__ import annotations

import contextlib

from csi_liqo.app import caches
from csi_liqo.kube import providers
from csi_liqo.model import controller_settings, objects
from csi_liqo.reconcilers import announced, lent_namespaces, runner, teardown


class Teardown:
    """``runners`` keep the facts."""

    def __init__(
        self,
        settings: controller_settings.ControllerSettings,
        known: caches.Caches,
        remotes: providers.Providers,
    ) -> None:
        self._known = known
        self._facts = (settings.twins_namespace, settings.homes_config_map)
        facts = announced.Announced(
            *(known.homes, *self._facts),
            "a peering may be taken apart while volumes live there",
        )
        self._counted = teardown.TeardownFacts(
            *(known.volumes, facts),
            cluster_id=settings.cluster_id,
            driver=settings.driver_name,
        )
        self._lent_counts = lent_namespaces.LentNamespaces(
            remotes.all, known.namespaces_in_use, settings.cluster_id
        )
        self._homes = runner.Runner(
            "volumes-by-home",
            self._counted.reconcile,
            workers=1,
            pause_seconds=teardown.PAUSE_SECONDS,
        )
        self._lent = runner.Runner(
            "twins-by-namespace",
            self._lent_counts.reconcile,
            workers=1,
            pause_seconds=lent_namespaces.PAUSE_SECONDS,
        )
        self.runners = (self._homes, self._lent)

    def twins_changed(self) -> None:
        """Have the twins of every provider counted."""
        self._lent.add(lent_namespaces.KEY)

    def listen(self, until_the_end: contextlib.ExitStack) -> None:
        """Have counted what changes from now on, and now what there is."""

        def count(
            before: objects.PersistentVolume | None, after: objects.PersistentVolume | None
        ) -> None:
            if self._counted.home_of(before) != self._counted.home_of(after):
                self._homes.add(self._facts)

        def said(*_: object) -> None:
            self._homes.add(self._facts)

        until_the_end.callback(self._known.volumes.store.listen(count))
        until_the_end.callback(self._known.homes.store.listen(said))
        self._lent_counts.doubt()  # another replica may have led meanwhile
        self._homes.add(self._facts)
        self.twins_changed()
