"""What exactly one replica of the controller does at a time, put together.

Each reconciler has a runner; which change of which object has which of them look at what
is here, or in the module of its part.
"""

from __future__ import annotations

import asyncio
import contextlib

from csi_liqo.app import (
    announcements,
    caches,
    capacities,
    remotes,
    renewal,
    teardown,
    volume_health,
)
from csi_liqo.kube import api, collection, events, providers, resources
from csi_liqo.model import controller_settings, objects
from csi_liqo.model import liqo as liqo_model
from csi_liqo.reconcilers import attachments as attachment_reconciler
from csi_liqo.reconcilers import liqo as liqo_reconciler
from csi_liqo.reconcilers import runner, virtual_nodes
from csi_liqo.reconcilers import twins as twin_reconciler
from csi_liqo.service.controller import clusters
from csi_liqo.service.controller import twins as twin_service


class Reconciling:
    """The reconcilers and what makes them look; ``run`` while leading."""

    def __init__(
        self,
        settings: controller_settings.ControllerSettings,
        calls: api.Api,
        watches: api.Api,
        known: caches.Caches,
        consumer: clusters.Consumer,
        remote: providers.Providers,
        everywhere: clusters.Clusters,
        made: twin_service.Twins,
        capacity: capacities.Capacities,
    ) -> None:
        driver = settings.driver_name
        self._settings = settings
        self._known = known
        self._providers = remote
        self._capacity = capacity
        self._volume_health = volume_health.VolumeHealth(
            consumer,
            everywhere,
            events.EventTeller(collection.Collection(calls, watches, resources.EVENTS), driver),
            driver,
        )
        self._node_runner = runner.Runner(
            "virtual-nodes",
            virtual_nodes.VirtualNodes(
                known.nodes, known.csi_nodes, known.sources, driver
            ).reconcile,
        )
        self._orphan_runner = runner.Runner(
            "orphan-twins",
            twin_reconciler.OrphanTwins(
                consumer, everywhere, made, settings.orphan_grace_seconds
            ).reconcile,
        )
        self._attachment_runner = runner.Runner(
            "orphan-attachments",
            attachment_reconciler.OrphanAttachments(consumer, known.attachments, driver).reconcile,
        )
        self._remotes = remotes.Remotes(
            remotes.Watched(
                claims=known.claims,
                notes=known.notes,
                volumes=known.volumes,
                nodes=known.nodes,
                remote_clusters=known.remote_clusters,
                described=known.sources,
            ),
            *(consumer, remote, everywhere, remote.report, known.attempts),
            driver=driver,
            rules=settings.shared_marks,
        )
        self._liqo_runner = runner.Runner(
            "liqo-providers",
            liqo_reconciler.LiqoProviders(
                known.nodes,
                collection.Collection(calls, watches, resources.EVENTS),
                known.sources,
                remote.report,
                driver,
                (settings.namespace, settings.service_account),
            ).reconcile,
        )
        self._teardown = teardown.Teardown(settings, known, remote)
        self._announcements = announcements.Announcements(settings, known, consumer)
        self._renewal = renewal.Renewal(settings.namespace, calls, watches)
        self._runners = (
            self._renewal.runner,
            *self._teardown.runners,
            *self._announcements.runners,
            self._node_runner,
            self._orphan_runner,
            self._attachment_runner,
            *self._remotes.runners,
            self._volume_health.runner,
            self._liqo_runner,
            capacity.runner,
        )

    async def keep(self) -> None:
        """Keep current, leading or not, what only reconcilers look at."""
        await self._renewal.keep()

    async def run(self) -> None:
        """Run the reconcilers until cancelled."""
        async with asyncio.TaskGroup() as group:
            for running in self._runners:
                group.create_task(running.run(), name="reconciler")
            with contextlib.ExitStack() as until_the_end:
                self._listen(until_the_end)
                await asyncio.Future()  # until cancelled

    def reported(self, name: str) -> None:
        """How a provider's connection is goes to where people look for it."""
        of_liqo = name.startswith(liqo_model.NAME_PREFIX)
        if of_liqo:
            self._liqo_runner.add(("", name))
        else:
            self._remotes.reported(name)
        self._teardown.twins_changed()
        self._capacity.changed()
        self._look_again(name)

    def twin_changed(self, before: objects.Claim | None, after: objects.Claim | None) -> None:
        """A twin in a provider came, went or changed."""
        self._teardown.twins_changed()
        if after is not None:
            self._remotes.twin_changed(after)
        self._claim_changed(before, after)

    def _claim_changed(self, before: objects.Claim | None, after: objects.Claim | None) -> None:
        """A twin that is not handed over may be an orphan; so may one whose claim changed."""
        known = after or before
        assert known is not None
        self._volume_health.twin_changed(before, after)
        if known.consumer == self._settings.cluster_id and known.volume_id:
            if after is not None and not after.handed_over:
                self._orphan_runner.add(("", known.volume_id))
        elif after is None or after.spec.volume_name:
            self._orphan_runner.add(("", f"pvc-{known.uid}"))

    def _look_again(self, name: str) -> None:
        """What a provider lost, or was left with, while it was out of sight is news now.

        Its twins are told of while it is being connected to, when no reconciler sees it yet.
        """
        remote = self._known.sources.get(name)
        provider = self._providers.get(remote.spec.cluster_id) if remote is not None else None
        if provider is None:
            return
        self._volume_health.provider_changed(provider.id)
        for twin in provider.claims.all():
            if not twin.handed_over:
                self._orphan_runner.add(("", twin.volume_id))

    def _listen(self, until_the_end: contextlib.ExitStack) -> None:
        """Tell the reconcilers of changes from now on, and now of all there is."""
        known = self._known
        for ended in (
            known.attachments.store.listen(self._attachment_changed),
            known.nodes.store.listen(self._node_changed),
            known.csi_nodes.store.listen(self._csi_node_changed),
            known.remote_clusters.store.listen(lambda *_: self._nodes_claimed()),
            known.sources.store.listen(self._description_changed),
            known.claims.store.listen(self._claim_changed),
        ):
            until_the_end.callback(ended)
        self._remotes.listen(until_the_end)
        self._volume_health.listen(known.volumes, known.claims, until_the_end)
        self._capacity.listen(until_the_end)
        self._renewal.listen(until_the_end)
        self._teardown.listen(until_the_end)
        self._announcements.listen(until_the_end)
        for provider in self._providers.all():
            for twin in provider.claims.all():
                self.twin_changed(None, twin)

    def _node_changed(self, _: objects.Node | None, node: objects.Node | None) -> None:
        if node is not None and node.virtual:
            self._node_runner.add(("", node.name))

    def _csi_node_changed(
        self, before: objects.CsiNode | None, after: objects.CsiNode | None
    ) -> None:
        known = after or before
        assert known is not None
        self._node_runner.add(("", known.name))

    def _nodes_claimed(self) -> None:
        """Whose a virtual node is may be another one's now."""
        for node in self._known.nodes.all():
            self._node_changed(None, node)

    def _description_changed(
        self, _: objects.RemoteCluster | None, remote: objects.RemoteCluster | None
    ) -> None:
        self._nodes_claimed()
        if remote is not None:
            self.reported(remote.name)

    def _attachment_changed(
        self, before: objects.VolumeAttachment | None, after: objects.VolumeAttachment | None
    ) -> None:
        known = after or before
        assert known is not None
        for attachment in self._known.attachments.all() if after is None else (known,):
            if attachment.spec.node_name == known.spec.node_name:
                self._attachment_runner.add(("", attachment.name))
