"""The controller role, put together."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
from collections.abc import Iterable
from typing import Any, Final

import csi_liqo
from csi_liqo.app import health, http, metrics, stopping
from csi_liqo.kube import api, collection, connection, indexes, providers, resources
from csi_liqo.model import controller_settings, errors, names, objects, twins
from csi_liqo.reconcilers import attachments as attachment_reconciler
from csi_liqo.reconcilers import fence as fence_reconciler
from csi_liqo.reconcilers import real_drivers as real_driver_reconciler
from csi_liqo.reconcilers import remote_clusters as remote_cluster_reconciler
from csi_liqo.reconcilers import runner, virtual_nodes
from csi_liqo.reconcilers import twins as twin_reconciler
from csi_liqo.rpc import controller as rpc_controller
from csi_liqo.rpc import identity, interceptors, server
from csi_liqo.rpc.pb import csi_pb2, csi_pb2_grpc
from csi_liqo.service.controller import (
    attaching,
    clusters,
    description,
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

    Two connections to this cluster's API server: one for calls, one for watches.
    """

    def __init__(
        self,
        settings: controller_settings.ControllerSettings,
        calls: api.Api,
        watches: api.Api,
    ) -> None:
        self._settings = settings
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
            on_report=lambda name: self._status_runner.add(("", name)),
            on_claim=self._twin_changed,
            namespaces_in_use=self._namespaces_in_use,
        )
        self._providers = providers.Providers(around, self._remote_clusters)
        everywhere = clusters.Clusters(consumer, self._providers)
        made = twin_service.Twins(consumer)
        self.use_cases = volumes.Volumes(
            consumer,
            everywhere,
            places.Places(
                consumer,
                everywhere,
                driver=driver,
                twins_namespace=settings.twins_namespace,
                attaches=settings.attach,
            ),
            made,
        )
        self.attaching = (
            attaching.Attaching(consumer, self._attachments, driver) if settings.attach else None
        )
        self._node_runner = runner.Runner(
            "virtual-nodes",
            virtual_nodes.VirtualNodes(
                self._nodes, self._csi_nodes, self._remote_clusters, driver
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
        config_maps = collection.Collection(calls, watches, resources.CONFIG_MAPS)  # written only
        self._real_driver_runner = runner.Runner(
            "real-drivers",
            real_driver_reconciler.RealDrivers(consumer, config_maps, driver).reconcile,
        )
        self._fence_runner = runner.Runner(
            "fence",
            fence_reconciler.Fence(self._claims, config_maps, settings.twins_namespace).reconcile,
        )
        self._status_runner = runner.Runner(
            "remote-clusters",
            remote_cluster_reconciler.RemoteClusters(
                self._remote_clusters, self._providers.report
            ).reconcile,
        )

    @property
    def ready(self) -> bool:
        """Whether the local caches have been filled; no provider has a say in it.

        It stays true when the API server goes away: calls then answer UNAVAILABLE, which
        is more than a restart would do.
        """
        return self._filled

    async def run(self) -> None:
        """Keep caches, connections and reconcilers going until cancelled.

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
            self._listen()
            group.create_task(self._providers.run(), name="providers")
            for running in (
                self._node_runner,
                self._orphan_runner,
                self._attachment_runner,
                self._real_driver_runner,
                self._fence_runner,
                self._status_runner,
            ):
                group.create_task(running.run(), name="reconciler")

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

    def _listen(self) -> None:
        """Tell the reconcilers of changes, and now of all there is."""

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
            if remote is not None:
                self._status_runner.add(("", remote.name))

        def attachment_changed(
            before: objects.VolumeAttachment | None, after: objects.VolumeAttachment | None
        ) -> None:
            known = after or before
            assert known is not None
            for attachment in self._attachments.all() if after is None else (known,):
                if attachment.spec.node_name == known.spec.node_name:
                    self._attachment_runner.add(("", attachment.name))

        def real_drivers_changed(*_: object) -> None:
            settings = self._settings
            self._real_driver_runner.add((settings.namespace, settings.real_drivers_config_map))

        self._attachments.store.listen(attachment_changed)
        real_drivers_changed()
        self._classes.store.listen(real_drivers_changed)
        self._csi_drivers.store.listen(real_drivers_changed)
        self._nodes.store.listen(node_changed)
        self._csi_nodes.store.listen(csi_node_changed)
        self._remote_clusters.store.listen(remote_changed)
        self._claims.store.listen(self._twin_changed)
        self._look_at_fence()

    def _look_at_fence(self) -> None:
        settings = self._settings
        self._fence_runner.add((settings.twins_namespace, settings.fence_config_map))

    def _twin_changed(self, before: objects.Claim | None, after: objects.Claim | None) -> None:
        """A twin that is not handed over may be an orphan; so may one whose claim changed."""
        known = after or before
        assert known is not None
        if known.namespace == self._settings.twins_namespace and None in (before, after):
            self._look_at_fence()
        if known.consumer == self._settings.cluster_id and known.volume_id:
            if after is not None and not after.handed_over:
                self._orphan_runner.add(("", known.volume_id))
        elif after is None or after.spec.volume_name:
            self._orphan_runner.add(("", f"pvc-{known.uid}"))

    def _namespaces_in_use(self, spec: objects.RemoteClusterSpec) -> Iterable[str]:
        """Return the namespaces of a provider that may hold twins of this cluster."""
        used = set(spec.namespace_mapping.explicit.values())
        for volume in self._volumes.all():
            source = volume.spec.csi
            if source is None or source.driver != self._settings.driver_name:
                continue
            if description.home_of(volume) == spec.cluster_id:
                with contextlib.suppress(errors.InvalidRequestError):  # made by hand, of no use
                    used.add(description.twin_of(volume).namespace)
        for claim in self._claims.all():
            if claim.metadata.annotations.get(names.ATTEMPT_ANNOTATION) == spec.cluster_id:
                target = negotiation.map_namespace(spec, self._settings.cluster_id, claim.namespace)
                used.add(target)
        return used - {""}


async def run(settings: controller_settings.ControllerSettings) -> None:
    """Serve the controller until SIGTERM.

    Raises:
        errors.Error: a setting or this cluster's state forbids to start.
    """
    async with stopping.stop_signals() as stop, contextlib.AsyncExitStack() as stack:
        calls = await stack.enter_async_context(await _connect(settings))
        watches = await stack.enter_async_context(await _connect(settings))
        controller = Controller(settings, calls, watches)
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
                rpc_controller.ControllerServicer(controller.use_cases, controller.attaching),
            ),
        ]
        counted = metrics.Metrics()
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
