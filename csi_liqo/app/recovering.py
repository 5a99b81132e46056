"""The commands that bring lost twins and volumes together again, put together."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from csi_liqo.app import observing, tools
from csi_liqo.model import objects
from csi_liqo.service.controller import adoption, inventory
from csi_liqo.service.tools import mending


async def _own_id(where: tools.Where, given_id: str) -> str:
    async with tools.connected(where) as consumer:
        return await tools.consumer_id(consumer, given_id)


async def adopt(
    where: tools.Where, given_id: str, driver: str, wish: adoption.Wish
) -> objects.PersistentVolume:
    """Make a virtual volume again for a twin that kept its data; see ``Adoption.adopt``."""
    own = await _own_id(where, given_id)
    async with observing.observing(where.kubeconfig, where.context, own, driver) as sight:
        return await sight.adoption.adopt(wish)


async def twins_left(
    where: tools.Where, given_id: str, driver: str, states: Collection[str]
) -> tuple[list[Left], tuple[str, ...]]:
    """Return the twins in some states, and which clusters could not be looked at."""
    own = await _own_id(where, given_id)
    async with observing.observing(where.kubeconfig, where.context, own, driver) as sight:
        listed = sight.inventory.list()
        found = [_left(entry) for entry in listed.entries if entry.state.value in states]
        told = {text.partition(" ")[0] for text in sight.out_of_sight}
        more = tuple(one for one in listed.out_of_sight if one not in told)
        return found, (*sight.out_of_sight, *more)


async def mend(where: tools.Where, given_id: str, driver: str) -> list[mending.Mended]:
    """Repair every twin that somebody deleted; see ``mending.mend``."""
    own = await _own_id(where, given_id)
    async with observing.observing(where.kubeconfig, where.context, own, driver) as sight:
        return await mending.mend(sight.consumer, sight.everywhere, sight.repair)


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
