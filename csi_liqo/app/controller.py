"""The controller role, put together."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
from typing import Final

import csi_liqo
from csi_liqo.app import (
    caches,
    capacities,
    health,
    http,
    metrics,
    reconciling,
    stopping,
    twin_metrics,
)
from csi_liqo.kube import api, connection, leases, providers
from csi_liqo.model import controller_settings, names, objects
from csi_liqo.rpc import controller as rpc_controller
from csi_liqo.rpc import identity, interceptors, server
from csi_liqo.rpc.pb import csi_pb2, csi_pb2_grpc
from csi_liqo.service.controller import (
    attaching,
    clusters,
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
        self._election = election
        driver = settings.driver_name
        self._own_id = settings.cluster_id
        self._known = known = caches.Caches(settings, calls, watches)
        consumer = known.consumer()
        around = connection.Surroundings(
            consumer_id=settings.cluster_id,
            calls=calls,
            watches=watches,
            on_report=self._reported,
            on_claim=self._twin_changed,
            namespaces_in_use=known.namespaces_in_use,
            mapped_namespaces=known.mapped_namespaces,
            exec_plugins=settings.allowed_exec_plugins,
            remembered=known.remembered_identity,
        )
        self._providers = providers.Providers(around, known.sources)
        known.notes.store.listen(self._attempted)
        everywhere = clusters.Clusters(consumer, self._providers)
        made = twin_service.Twins(consumer, settings.shared_marks)
        where = places.Places(
            consumer,
            everywhere,
            known.attempts,
            driver=driver,
            twins_namespace=settings.twins_namespace,
            attaches=settings.attach,
        )
        self.use_cases = volumes.Volumes(consumer, everywhere, where, made, known.attempts)
        self.capacity = capacities.Capacities(
            *(settings, consumer, everywhere, where),
            capacities.Watched(
                claims=known.claims,
                volumes=known.volumes,
                classes=known.classes,
                nodes=known.nodes,
                csi_drivers=known.csi_drivers,
                capacities=known.capacities,
            ),
        )
        self.attaching = (
            attaching.Attaching(consumer, known.attachments, driver) if settings.attach else None
        )
        self.gauges = twin_metrics.TwinGauges(
            consumer, everywhere, inventory.Inventory(consumer, everywhere)
        )
        self._reconciling = reconciling.Reconciling(
            *(settings, calls, watches, known, consumer, self._providers, everywhere),
            *(made, self.capacity),
        )

    @property
    def ready(self) -> bool:
        """Whether the local caches have been filled; no provider has a say in it.

        It stays true when the API server goes away: calls then answer UNAVAILABLE, which
        is more than a restart would do.
        """
        return self._known.filled

    async def run(self) -> None:
        """Keep caches and connections going until cancelled, and the reconcilers while leading.

        Raises:
            errors.PreconditionError: this cluster was served under another cluster id before.
        """
        async with asyncio.TaskGroup() as group:
            await self._known.fill(group)
            group.create_task(self._providers.run(), name="providers")
            group.create_task(self._reconciling.keep(), name="kubeconfigs whose tokens are renewed")
            group.create_task(self._election.run(self._reconciling.run), name="election")

    def _attempted(self, *_: objects.ConfigMap | None) -> None:
        """Watch where something of a claim may be, whichever replica is about to send it there.

        A provider may grant its namespaces one by one, and this replica may lead later.
        """
        begun = self._known.attempts.all().values()
        for cluster_id, namespace in {(one.cluster_id, one.namespace) for one in begun}:
            provider = self._providers.get(cluster_id)
            if provider is not None and provider.spec is not None:
                target = negotiation.map_namespace(provider.spec, self._own_id, namespace)
                if target:
                    provider.claims.covers(target)

    def _reported(self, name: str) -> None:
        self._reconciling.reported(name)

    def _twin_changed(self, before: objects.Claim | None, after: objects.Claim | None) -> None:
        self._reconciling.twin_changed(before, after)


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
            name=f"{settings.driver_name}{names.LEASE_SUFFIX}",
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
        for address, pages in (
            (settings.metrics_address, {"/metrics": counted.page}),
            (settings.health_address, {"/healthz": alive.page, "/readyz": alive.ready_page}),
        ):
            await stack.enter_async_context(http.serving(address, pages))
        await stack.enter_async_context(server.serving(path, services, around=guard.around))
        logger.info("serving cluster %s on %s", settings.cluster_id, path)
        await stopping.run_until(stop, controller.run())


async def _connect(settings: controller_settings.ControllerSettings) -> api.Api:
    if settings.kubeconfig is not None:
        return await api.Api.from_kubeconfig(settings.kubeconfig)
    return await api.Api.in_cluster()
