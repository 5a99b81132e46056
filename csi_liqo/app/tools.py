"""The commands for people, put together: connections, then one use case each."""

from __future__ import annotations

import base64
import contextlib
import functools
import pathlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from csi_liqo.app import watching
from csi_liqo.kube import server
from csi_liqo.model import credentials, errors, names, objects
from csi_liqo.service.tools import parting, peering, peers, ports, told, whereabouts, wishes
from csi_liqo.service.tools.doctor import examination, findings

_REACH: Final = (
    "server",
    "certificate-authority-data",
    wishes.SKIP_VERIFY,
    "tls-server-name",
    "proxy-url",
)
"""What of a kubeconfig's cluster entry says how to reach it; the rest stays with its owner."""


@dataclass(frozen=True, slots=True)
class Where:
    """How a person reaches a cluster; without a kubeconfig as kubectl would."""

    kubeconfig: pathlib.Path | None = None
    context: str | None = None


@contextlib.asynccontextmanager
async def connected(where: Where) -> AsyncIterator[server.Server]:
    """Speak to a cluster's API server.

    Raises:
        errors.PreconditionError: the kubeconfig cannot be used.
    """
    async with await server.of_person(where.kubeconfig, where.context) as calls:
        yield server.Server(calls)


async def consumer_id(consumer: ports.Server, given: str) -> str:
    """Return this cluster's id: the given one, else what the installation was told.

    Raises:
        errors.PreconditionError: neither is there.
    """
    if given:
        return given
    found = await consumer.find(ports.CONFIG_MAPS, told.CONFIG, names.DRIVER_NAMESPACE)
    own_id = str(((found or {}).get("data") or {}).get("clusterID", ""))
    if not own_id:
        raise errors.PreconditionError(
            f"ConfigMap {names.DRIVER_NAMESPACE}/{told.CONFIG} with this cluster's id does not "
            "exist; install the driver first, or name the id with --consumer-id"
        )
    return own_id


def reach(kubeconfig: pathlib.Path) -> dict[str, Any]:
    """Return how a kubeconfig's cluster is reached, to be written into another kubeconfig.

    Raises:
        errors.PreconditionError: the file cannot be read, or names no server.
    """
    try:
        cluster = credentials.cluster_of(kubeconfig.read_text())
        authority = cluster.get("certificate-authority")
        if authority:
            content = (kubeconfig.parent / authority).read_bytes()
            cluster["certificate-authority-data"] = base64.b64encode(content).decode()
    except (OSError, UnicodeDecodeError) as error:
        raise errors.PreconditionError(f"kubeconfig {kubeconfig}: {error}") from error
    return {key: cluster[key] for key in _REACH if cluster.get(key)}


async def add_peer(
    where: Where, provider: Where, given_id: str, wish: wishes.Wish
) -> peering.Added:
    """Introduce a provider; see ``Peering.add``."""
    async with connected(where) as consumer, connected(provider) as remote:
        own = await consumer_id(consumer, given_id)
        return await peering.Peering(consumer, own, server.connect).add(wish, remote)


async def list_peers(where: Where) -> list[peers.Peer]:
    """Return the providers this cluster knows."""
    async with connected(where) as consumer:
        return await peers.peers(consumer)


async def rotate_peer(
    where: Where, provider: Where | None, given_id: str, name: str
) -> peering.Rotated:
    """Exchange a token; see ``Peering.rotate``."""
    async with connected(where) as consumer, _connected_if(provider) as remote:
        own = await consumer_id(consumer, given_id)
        return await peering.Peering(consumer, own, server.connect).rotate(name, remote)


async def remove_peer(
    where: Where, provider: Where | None, given_id: str, name: str, *, forget: bool
) -> parting.Removed:
    """Part from a provider; see ``Parting.remove``."""
    async with connected(where) as consumer, _connected_if(provider) as remote:
        own = await consumer_id(consumer, given_id)
        return await parting.Parting(consumer, own).remove(name, remote, forget=forget)


@contextlib.asynccontextmanager
async def _connected_if(where: Where | None) -> AsyncIterator[server.Server | None]:
    if where is None:
        yield None
        return
    async with connected(where) as found:
        yield found


async def whereabouts_of(where: Where, namespace: str) -> list[whereabouts.Row]:
    """Return where each virtual claim's data is.

    Raises:
        errors.ApiForbiddenError: claims or volumes may not be read.
    """
    async with connected(where) as consumer:
        volumes = await consumer.list(ports.VOLUMES)
        claims = await _claims_of(consumer, namespace)
        found = whereabouts.Whereabouts(
            msgspec.convert(volumes, list[objects.PersistentVolume]),
            msgspec.convert(claims, list[objects.Claim]),
            await _classes_of(consumer),
        )
    return found.rows(namespace)


async def watch_whereabouts(
    where: Where, namespace: str, show: Callable[[list[whereabouts.Row]], None]
) -> None:
    """Call ``show`` with where each virtual claim's data is, now and after each change.

    Ends by being cancelled.

    Raises:
        errors.ApiForbiddenError: claims or volumes may not be watched.
    """
    async with await server.of_person(where.kubeconfig, where.context) as calls:
        classes = await _classes_of(server.Server(calls))
        await watching.Watching(calls, namespace, classes).run(show)


async def _claims_of(consumer: ports.Server, namespace: str) -> list[ports.Manifest]:
    """Return the claims of a namespace, and the local twins where they may be read."""
    claims = await consumer.list(ports.CLAIMS, namespace)
    if namespace:
        with contextlib.suppress(errors.ApiForbiddenError):
            claims += await consumer.list(ports.CLAIMS, names.DEFAULT_TWINS_NAMESPACE)
    return claims


async def _classes_of(consumer: ports.Server) -> list[objects.StorageClass]:
    """Return the classes where they may be read: of use for claims that wait for a pod."""
    try:
        found = await consumer.list(ports.CLASSES)
    except errors.ApiForbiddenError:
        return []
    return msgspec.convert(found, list[objects.StorageClass])


async def examine(where: Where, given: told.Told) -> list[findings.Finding]:
    """Look at all that an operator would."""
    connect = functools.partial(server.connect, exec_plugins=given.exec_plugins)
    async with connected(where) as consumer:
        return await examination.examine(consumer, connect, given)
