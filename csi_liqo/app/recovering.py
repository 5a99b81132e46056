"""The commands that bring lost twins and volumes together again, put together."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Collection
from dataclasses import dataclass

from csi_liqo.app import observing, tools
from csi_liqo.model import objects
from csi_liqo.service.controller import adoption, disposal, inventory
from csi_liqo.service.controller import twins as twin_service
from csi_liqo.service.tools import mending, told


@contextlib.asynccontextmanager
async def _sight(
    where: tools.Where, given: told.Told, driver: str
) -> AsyncIterator[observing.Sight]:
    """Look at all clusters, with the installation's settings where the person says none.

    But which programs may be started is for the person to say: it is another machine.
    """
    async with tools.connected(where) as consumer:
        own = await tools.consumer_id(consumer, given.cluster_id)
        source = given.source or (await told.ask(consumer)).source or told.Source.CSI_LIQO
    known = told.Told(cluster_id=own, source=source, exec_plugins=given.exec_plugins)
    async with observing.observing(where.kubeconfig, where.context, known, driver) as sight:
        yield sight


async def adopt(
    where: tools.Where, given: told.Told, driver: str, wish: adoption.Wish
) -> objects.PersistentVolume:
    """Make a virtual volume again for a twin that kept its data; see ``Adoption.adopt``."""
    async with _sight(where, given, driver) as sight:
        return await sight.adoption.adopt(wish)


async def dispose(
    where: tools.Where,
    given: told.Told,
    driver: str,
    wish: adoption.Wish,
    agreed: Callable[[Left], bool],
) -> bool:
    """Delete a twin that nobody uses, if the person agrees to what is shown of it.

    Returns whether the person did. Raises as ``Disposal.delete``, and
    errors.VolumeNotFoundError when there is no such twin.
    """
    async with _sight(where, given, driver) as sight:
        cluster, twin = await sight.adoption.find(wish)
        entry = sight.inventory.entry(cluster, twin)
        if not await asyncio.to_thread(agreed, _left(entry)):
            return False
        made = twin_service.Twins(sight.consumer)
        ending = disposal.Disposal(sight.consumer, sight.adoption, sight.inventory, made)
        await ending.delete(wish, uid=twin.uid)
        return True


async def twins_left(
    where: tools.Where, given: told.Told, driver: str, states: Collection[str]
) -> tuple[list[Left], tuple[str, ...]]:
    """Return the twins in some states, and which clusters or namespaces could not be seen."""
    async with _sight(where, given, driver) as sight:
        listed = sight.inventory.list()
        found = [_left(entry) for entry in listed.entries if entry.state.value in states]
        hidden = sight.out_of_sight
        more = [
            f"namespace {namespace} of cluster {cluster}" if namespace else f"cluster {cluster}"
            for cluster, namespace in listed.out_of_sight
            if not any(text.startswith(f"cluster {cluster} ") for text in hidden)
        ]
        return found, (*hidden, *more)


async def mend(
    where: tools.Where, given: told.Told, driver: str
) -> tuple[list[mending.Mended], tuple[str, ...]]:
    """Repair every twin that somebody deleted; see ``mending.mend``.

    Returns what was done, and which clusters could not be looked at.
    """
    async with _sight(where, given, driver) as sight:
        done = await mending.mend(sight.consumer, sight.everywhere, sight.repair)
        return done, sight.out_of_sight


@dataclass(frozen=True, slots=True, kw_only=True)
class Left:
    """A twin that nobody uses, as the commands show it."""

    cluster: str
    twin: str
    state: str
    claim: str
    real_class: str
    capacity: str
    volume: str
    real_volume: str
    created: str


def _left(entry: inventory.Entry) -> Left:
    twin = entry.twin
    return Left(
        cluster=entry.cluster.id,
        twin=twin.reference,
        state=entry.state.value,
        claim=entry.claim,
        real_class=twin.spec.storage_class_name,
        capacity=twin.status.capacity.get("storage")
        or twin.spec.resources.requests.get("storage", ""),
        volume=entry.volume.name if entry.volume else "",
        real_volume=twin.spec.volume_name,
        created=twin.metadata.creation_timestamp,
    )
