"""The part of the controller that keeps the facts against tearing down, put together.

Admission policies refuse what would take volumes with it, in the consumer and, where
its administrator wants that, in a provider. They know what is counted here.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable

from csi_liqo.kube import api, collection, providers, resources
from csi_liqo.model import controller_settings, objects
from csi_liqo.reconcilers import lent_namespaces, runner, teardown


class Teardown:
    """``runners`` write the facts."""

    def __init__(
        self,
        settings: controller_settings.ControllerSettings,
        calls: api.Api,
        watches: api.Api,
        volumes: collection.Collection[objects.PersistentVolume],
        remotes: providers.Providers,
        namespaces_of: Callable[[objects.RemoteClusterSpec], Iterable[str]],
    ) -> None:
        """``namespaces_of``: which of a provider's namespaces may hold twins."""
        self._volumes = volumes
        self._facts = (settings.twins_namespace, settings.homes_config_map)
        self._counted = teardown.TeardownFacts(
            *(volumes, collection.Collection(calls, watches, resources.CONFIG_MAPS)),
            cluster_id=settings.cluster_id,
            driver=settings.driver_name,
        )
        self._lent_counts = lent_namespaces.LentNamespaces(
            remotes.all, namespaces_of, settings.cluster_id
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

        until_the_end.callback(self._volumes.store.listen(count))
        self._counted.doubt()  # another replica may have led meanwhile
        self._lent_counts.doubt()
        self._homes.add(self._facts)
        self.twins_changed()
