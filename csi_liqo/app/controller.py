"""The controller role, put together."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
from collections.abc import Iterable
from typing import Any, Final

import csi_liqo
from csi_liqo.app import (
    announcements,
    capacities,
    health,
    http,
    metrics,
    remotes,
    renewal,
    stopping,
    teardown,
    twin_metrics,
    volume_health,
)
from csi_liqo.kube import (
    api,
    collection,
    connection,
    events,
    indexes,
    leases,
    liqo,
    providers,
    resources,
    sources,
)
from csi_liqo.model import controller_settings, errors, names, objects, twins
from csi_liqo.model import liqo as liqo_model
from csi_liqo.reconcilers import attachments as attachment_reconciler
from csi_liqo.reconcilers import liqo as liqo_reconciler
from csi_liqo.reconcilers import runner, virtual_nodes
from csi_liqo.reconcilers import twins as twin_reconciler
from csi_liqo.rpc import controller as rpc_controller
from csi_liqo.rpc import identity, interceptors, server
from csi_liqo.rpc.pb import csi_pb2, csi_pb2_grpc
from csi_liqo.service.controller import (
    attaching,
    clusters,
    description,
    inventory,
    negotiation,
    places,
    volumes,
)
from csi_liqo.service.controller import twins as twin_service

logger = logging.getLogger(__name__)

PLUGIN_CAPABILITIES: Final = (
    csi_pb2.PluginCapability.Service.CONTROLLER_SERVICE,
    csi_pb2.PluginCapability.Service.VOLUME_ACCESSIBILITY_CONSTRAINTS,
)


class Controller:
    """Everything the controller runs, wired; ``run`` keeps it going.

    Two connections to this cluster's API server: one for calls, one for watches. The
    election has a third of its own: calls that wait for an answer must not keep it from
    renewing.
    """

    def __init__(
        self,
        settings: controller_settings.ControllerSettings,
        calls: api.Api,
        watches: api.Api,
        election: leases.Election,
    ) -> None:
        self._settings = settings
        self._election = election
        driver = settings.driver_name
        volume_indexes = indexes.local_volumes(driver)
        self._claims = collection.Collection(
            calls, watches, resources.CLAIMS, indexes=indexes.CLAIMS
        )
        self._volumes = collection.Collection(
            calls, watches, resources.VOLUMES, indexes=volume_indexes
        )
        self._classes = collection.Collection(calls, watches, resources.CLASSES)
        self._nodes = collection.Collection(calls, watches, resources.NODES, indexes=indexes.NODES)
        self._csi_nodes = collection.Collection(calls, watches, resources.CSI_NODES)
        self._csi_drivers = collection.Collection(calls, watches, resources.CSI_DRIVERS)
        self._remote_clusters = collection.Collection(calls, watches, resources.REMOTE_CLUSTERS)
        chosen = settings.remote_clusters
        self._liqo = liqo.LiqoClusters(calls, watches, self._nodes) if chosen.of_liqo else None
        self._sources = sources.Sources(
            self._remote_clusters if chosen.of_our_own else None, self._liqo
        )
        self._capacities = collection.Collection(
            calls, watches, resources.CAPACITIES, indexes=indexes.CAPACITIES
        )
        self._filled = False
        self._attachments = collection.Collection(
            calls, watches, resources.ATTACHMENTS, indexes=indexes.ATTACHMENTS
        )
        self._local: tuple[collection.Collection[Any], ...] = (
            self._claims,
            self._volumes,
            self._classes,
            self._nodes,
            self._csi_nodes,
            self._csi_drivers,
            self._remote_clusters,
            self._capacities,
        )
        if settings.attach:
            self._local = (*self._local, self._attachments)
        consumer = clusters.Consumer(
            cluster_id=settings.cluster_id,
            claims=self._claims,
            volumes=self._volumes,
            classes=self._classes,
            nodes=self._nodes,
            csi_nodes=self._csi_nodes,
            csi_drivers=self._csi_drivers,
            warnings=collection.EventWarnings(calls),
        )
        around = connection.Surroundings(
            consumer_id=settings.cluster_id,
            calls=calls,
            watches=watches,
            on_report=self._reported,
            on_claim=self._twin_changed,
            namespaces_in_use=self._namespaces_in_use,
            exec_plugins=settings.allowed_exec_plugins,
        )
        self._providers = providers.Providers(around, self._sources)
        everywhere = clusters.Clusters(consumer, self._providers)
        made = twin_service.Twins(consumer, settings.shared_marks)
        where = places.Places(
            consumer,
            everywhere,
            driver=driver,
            twins_namespace=settings.twins_namespace,
            attaches=settings.attach,
        )
        self.use_cases = volumes.Volumes(consumer, everywhere, where, made)
        self.capacity = capacities.Capacities(
            *(settings, consumer, everywhere, where),
            capacities.Watched(
                claims=self._claims,
                volumes=self._volumes,
                classes=self._classes,
                nodes=self._nodes,
                csi_drivers=self._csi_drivers,
                capacities=self._capacities,
            ),
        )
        self.attaching = (
            attaching.Attaching(consumer, self._attachments, driver) if settings.attach else None
        )
        self._volume_health = volume_health.VolumeHealth(
            consumer,
            everywhere,
            events.EventTeller(collection.Collection(calls, watches, resources.EVENTS), driver),
            driver,
        )
        self.gauges = twin_metrics.TwinGauges(
            consumer, everywhere, inventory.Inventory(consumer, everywhere)
        )
        self._node_runner = runner.Runner(
            "virtual-nodes",
            virtual_nodes.VirtualNodes(
                self._nodes, self._csi_nodes, self._sources, driver
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
            attachment_reconciler.OrphanAttachments(consumer, self._attachments, driver).reconcile,
        )
        self._remotes = remotes.Remotes(
            remotes.Watched(
                claims=self._claims,
                volumes=self._volumes,
                nodes=self._nodes,
                remote_clusters=self._remote_clusters,
                described=self._sources,
            ),
            *(consumer, self._providers, everywhere, self._providers.report),
            driver=driver,
            rules=settings.shared_marks,
        )
        self._liqo_runner = runner.Runner(
            "liqo-providers",
            liqo_reconciler.LiqoProviders(
                self._nodes,
                collection.Collection(calls, watches, resources.EVENTS),
                self._sources,
                self._providers.report,
                driver,
            ).reconcile,
        )
        self._teardown = teardown.Teardown(
            *(settings, calls, watches, self._volumes, self._providers, self._namespaces_in_use)
        )
        self._announcements = announcements.Announcements(
            *(settings, calls, watches, consumer, self._claims, self._classes, self._csi_drivers)
        )
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
            self.capacity.runner,
        )

    @property
    def ready(self) -> bool:
        """Whether the local caches have been filled; no provider has a say in it.

        It stays true when the API server goes away: calls then answer UNAVAILABLE, which
        is more than a restart would do.
        """
        return self._filled

    async def run(self) -> None:
        """Keep caches and connections going until cancelled, and the reconcilers while leading.

        Raises:
            errors.PreconditionError: this cluster was served under another cluster id before.
        """
        async with asyncio.TaskGroup() as group:
            for part in self._local:
                group.create_task(part.keep(), name="cache of this cluster")
            for part in self._local:
                await part.store.wait_synced()
            self._refuse_another_id()
            self._filled = True
            self._sources.follow()
            if self._liqo is not None:
                group.create_task(self._liqo.keep(), name="providers that Liqo describes")
            group.create_task(self._providers.run(), name="providers")
            group.create_task(self._renewal.keep(), name="kubeconfigs whose tokens are renewed")
            group.create_task(self._election.run(self._reconcile), name="election")

    async def _reconcile(self) -> None:
        """Run the reconcilers until cancelled: what exactly one replica does at a time."""
        async with asyncio.TaskGroup() as group:
            for running in self._runners:
                group.create_task(running.run(), name="reconciler")
            with contextlib.ExitStack() as until_the_end:
                self._listen(until_the_end)
                await asyncio.Future()  # until cancelled

    def _refuse_another_id(self) -> None:
        """A changed cluster id would make every volume's home another cluster than it is."""
        own = self._settings.cluster_id
        remedy = f"set the cluster id back to it, or remove these first; it is {own} now"
        for node in self._nodes.all():
            other = node.metadata.labels.get(names.CLUSTER_KEY, own)
            if not node.virtual and other != own:
                raise errors.PreconditionError(
                    f"node {node.name} has label {names.CLUSTER_KEY}={other}: {remedy}"
                )
        for volume in self._volumes.all():
            source = volume.spec.csi
            if source is None or source.driver != self._settings.driver_name:
                continue
            other = source.volume_attributes.get(twins.CONSUMER_KEY, own)
            if other != own:
                raise errors.PreconditionError(
                    f"PersistentVolume {volume.name} was made for cluster id {other}: {remedy}"
                )

    def _listen(self, until_the_end: contextlib.ExitStack) -> None:
        """Tell the reconcilers of changes from now on, and now of all there is."""

        def node_changed(_: objects.Node | None, node: objects.Node | None) -> None:
            if node is not None and node.virtual:
                self._node_runner.add(("", node.name))

        def csi_node_changed(before: objects.CsiNode | None, after: objects.CsiNode | None) -> None:
            known = after or before
            assert known is not None
            self._node_runner.add(("", known.name))

        def remote_changed(
            _: objects.RemoteCluster | None, remote: objects.RemoteCluster | None
        ) -> None:
            for node in self._nodes.all():
                node_changed(None, node)

        def described(
            _: objects.RemoteCluster | None, remote: objects.RemoteCluster | None
        ) -> None:
            remote_changed(None, None)
            if remote is not None:
                self._reported(remote.name)

        def attachment_changed(
            before: objects.VolumeAttachment | None, after: objects.VolumeAttachment | None
        ) -> None:
            known = after or before
            assert known is not None
            for attachment in self._attachments.all() if after is None else (known,):
                if attachment.spec.node_name == known.spec.node_name:
                    self._attachment_runner.add(("", attachment.name))

        for ended in (
            self._attachments.store.listen(attachment_changed),
            self._nodes.store.listen(node_changed),
            self._csi_nodes.store.listen(csi_node_changed),
            self._remote_clusters.store.listen(remote_changed),
            self._sources.store.listen(described),
            self._claims.store.listen(self._twin_changed),
        ):
            until_the_end.callback(ended)
        self._remotes.listen(until_the_end)
        self._volume_health.listen(self._volumes, self._claims, until_the_end)
        self.capacity.listen(until_the_end)
        self._renewal.listen(until_the_end)
        self._teardown.listen(until_the_end)
        self._announcements.listen(until_the_end)
        for provider in self._providers.all():
            for twin in provider.claims.all():
                self._twin_changed(None, twin)

    def _reported(self, name: str) -> None:
        """How a provider's connection is goes to where people look for it."""
        of_liqo = name.startswith(liqo_model.NAME_PREFIX)
        if of_liqo:
            self._liqo_runner.add(("", name))
        else:
            self._remotes.reported(name)
        self._teardown.twins_changed()
        self.capacity.changed()
        self._look_again(name)

    def _look_again(self, name: str) -> None:
        """What a provider lost, or was left with, while it was out of sight is news now.

        Its twins are told of while it is being connected to, when no reconciler sees it yet.
        """
        remote = self._sources.get(name)
        provider = self._providers.get(remote.spec.cluster_id) if remote is not None else None
        if provider is None:
            return
        self._volume_health.provider_changed(provider.id)
        for twin in provider.claims.all():
            if not twin.handed_over:
                self._orphan_runner.add(("", twin.volume_id))

    def _twin_changed(self, before: objects.Claim | None, after: objects.Claim | None) -> None:
        """A twin that is not handed over may be an orphan; so may one whose claim changed."""
        known = after or before
        assert known is not None
        self._volume_health.twin_changed(before, after)
        if known.consumer == self._settings.cluster_id and known.volume_id:
            self._teardown.twins_changed()
            if after is not None:
                self._remotes.twin_changed(after)
            if after is not None and not after.handed_over:
                self._orphan_runner.add(("", known.volume_id))
        elif after is None or after.spec.volume_name:
            self._orphan_runner.add(("", f"pvc-{known.uid}"))

    def _namespaces_in_use(self, spec: objects.RemoteClusterSpec) -> Iterable[str]:
        """Return the namespaces of a provider that may hold twins of this cluster."""
        used = set(spec.namespace_mapping.explicit.values())
        for volume in self._volumes.select(clusters.BY_HOME, spec.cluster_id):
            with contextlib.suppress(errors.InvalidRequestError):  # made by hand, of no use
                used.add(description.twin_of(volume).namespace)
        for claim in self._claims.select(clusters.BY_ATTEMPT, spec.cluster_id):
            used.add(negotiation.map_namespace(spec, self._settings.cluster_id, claim.namespace))
        return used - {""}


async def run(settings: controller_settings.ControllerSettings) -> None:
    """Serve the controller until SIGTERM.

    Raises:
        errors.Error: a setting or this cluster's state forbids to start.
    """
    async with stopping.stop_signals() as stop, contextlib.AsyncExitStack() as stack:
        calls = await stack.enter_async_context(await _connect(settings))
        watches = await stack.enter_async_context(await _connect(settings))
        election = leases.Election(
            await stack.enter_async_context(await _connect(settings)),
            namespace=settings.namespace,
            name=f"{settings.driver_name}-controller",
            identity=settings.replica,
        )
        controller = Controller(settings, calls, watches, election)
        services = [
            functools.partial(
                csi_pb2_grpc.add_IdentityServicer_to_server,
                identity.IdentityServicer(
                    name=settings.driver_name,
                    version=csi_liqo.__version__,
                    is_ready=lambda: controller.ready,
                    capabilities=PLUGIN_CAPABILITIES,
                ),
            ),
            functools.partial(
                csi_pb2_grpc.add_ControllerServicer_to_server,
                rpc_controller.ControllerServicer(
                    controller.use_cases, controller.attaching, controller.capacity.rooms
                ),
            ),
        ]
        counted = metrics.Metrics()
        counted.registry.register(controller.gauges)
        counted.watch_leading(lambda: election.leading)
        guard = interceptors.ErrorsToStatus(counted.observe)
        path = server.path_of(settings.csi_endpoint)
        alive = health.Health(path)
        for address, name, page in (
            (settings.metrics_address, "/metrics", counted.page),
            (settings.health_address, "/healthz", alive.page),
        ):
            await stack.enter_async_context(http.serving(address, {name: page}))
        await stack.enter_async_context(server.serving(path, services, interceptors=[guard]))
        logger.info("serving cluster %s on %s", settings.cluster_id, path)
        await stopping.run_until(stop, controller.run())


async def _connect(settings: controller_settings.ControllerSettings) -> api.Api:
    if settings.kubeconfig is not None:
        return await api.Api.from_kubeconfig(settings.kubeconfig)
    return await api.Api.in_cluster()
