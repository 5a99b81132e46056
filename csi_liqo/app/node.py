"""The node role, put together.

It holds no API credential and imports no Kubernetes client: kubelet tells it
all it must know. The order of the way down is the reverse of the way up, so
kubelet stops knowing the driver before the driver stops answering.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging

import csi_liqo
from csi_liqo.app import health, http, metrics, stopping
from csi_liqo.host import journal as journal_files
from csi_liqo.host import machine, plugin_sockets, real_drivers_file
from csi_liqo.model import settings, topology
from csi_liqo.rpc import identity, interceptors, node, real_drivers, registration, server
from csi_liqo.rpc.pb import csi_pb2, csi_pb2_grpc, pluginregistration_pb2_grpc
from csi_liqo.service.node import journal, limits, volumes

logger = logging.getLogger(__name__)

PLUGIN_CAPABILITIES = (csi_pb2.PluginCapability.Service.VOLUME_ACCESSIBILITY_CONSTRAINTS,)


async def run(wanted: settings.NodeSettings) -> None:
    """Serve the node until SIGTERM, then drain.

    Raises:
        errors.Error: a socket or port that cannot be had.
    """
    async with stopping.stop_signals() as stop, contextlib.AsyncExitStack() as stack:
        use_cases = volumes.Volumes(
            machine.Machine(host_root=wanted.host_root, kubelet_dir=wanted.kubelet_dir),
            journal.Journal(journal_files.JournalFiles(wanted.journal_dir)),
            node_name=wanted.node_name,
            kubelet_dir=str(wanted.kubelet_dir),
        )
        stack.callback(use_cases.close)
        drivers = await stack.enter_async_context(
            contextlib.aclosing(
                real_drivers.RealDrivers(
                    plugin_sockets.PluginSockets(wanted.kubelet_dir), node_name=wanted.node_name
                )
            )
        )
        counted = metrics.Metrics()
        around = interceptors.ErrorsToStatus(counted.observe).around
        registered = registration.RegistrationServicer(
            driver_name=wanted.driver_name, endpoint=wanted.socket
        )
        problem = (lambda: registered.problem) if wanted.registers else (lambda: "")
        alive = health.Health(wanted.socket, problem=problem)
        for address, path, page in (
            (wanted.metrics_address, "/metrics", counted.page),
            (wanted.health_address, "/healthz", alive.page),
        ):
            await stack.enter_async_context(http.serving(address, {path: page}))
        await stack.enter_async_context(
            server.serving(
                wanted.socket,
                _services(wanted, use_cases, drivers),
                around=around,
                grace_seconds=wanted.drain_seconds,
            )
        )
        if wanted.registers:
            add = functools.partial(
                pluginregistration_pb2_grpc.add_RegistrationServicer_to_server, registered
            )
            await stack.enter_async_context(
                server.serving(wanted.registration_socket, [add], around=around)
            )
        logger.info("serving node %s on %s", wanted.node_name, wanted.socket)
        await _wait(stop)


async def _wait(stop: asyncio.Event) -> None:
    await stop.wait()
    logger.info("told to stop: no new calls, running ones may end")


def _services(
    wanted: settings.NodeSettings, use_cases: volumes.Volumes, drivers: real_drivers.RealDrivers
) -> list[server.Registration]:
    who = identity.IdentityServicer(
        name=wanted.driver_name,
        version=csi_liqo.__version__,
        is_ready=lambda: True,
        capabilities=PLUGIN_CAPABILITIES,
    )
    limit = limits.Limits(
        real_drivers_file.RealDriversFile(wanted.real_drivers_file),
        drivers.most_volumes,
        own_name=wanted.driver_name,
    )
    serves = node.NodeServicer(
        use_cases,
        drivers,
        most_volumes=limit.most_volumes,
        node_name=wanted.node_name,
        segment=topology.node_segment(wanted.cluster_id, wanted.node_name),
    )
    return [
        functools.partial(csi_pb2_grpc.add_IdentityServicer_to_server, who),
        functools.partial(csi_pb2_grpc.add_NodeServicer_to_server, serves),
    ]
