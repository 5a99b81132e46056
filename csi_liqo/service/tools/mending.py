"""Repairing, on command, every twin that somebody deleted."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass
from typing import Final

from csi_liqo.model import errors, health, names, objects
from csi_liqo.service.controller import clusters, fate, repair
from csi_liqo.service.tools import virtual

_REPAIRABLE = (health.Health.DELETED, health.Health.GONE)
SEEN_SECONDS: Final = 5.0
"""How long the controller may take to say on a volume that it is well again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Mended:
    """One volume: its twin's name now, or why it could not be repaired."""

    volume: str
    twin: str = ""
    trouble: str = ""


async def mend(
    consumer: clusters.Consumer, everywhere: clusters.Clusters, repairing: repair.Repair
) -> list[Mended]:
    """Repair what can be, and go on with what was begun; one that fails stops no other."""
    done = []
    for volume in sorted(consumer.volumes.all(), key=lambda known: known.name):
        if not virtual.is_virtual(volume) or virtual.forgotten(volume):
            continue
        try:
            begun = names.RESTORE_ANNOTATION in volume.metadata.annotations
            seen = None if begun else await fate.look(consumer, everywhere, volume)
            if not begun and (seen is None or seen.health not in _REPAIRABLE):
                continue
            twin = await repairing.repair(volume.name)
        except errors.Error as error:
            done.append(Mended(volume=volume.name, trouble=str(error)))
        else:
            await _seen(consumer, volume.name)
            done.append(Mended(volume=volume.name, twin=twin.reference))
    return done


async def _seen(consumer: clusters.Consumer, name: str) -> None:
    """Give the controller a moment: what it said before would be told as if it still were."""
    bad = {one.value for one in _REPAIRABLE}

    def well(volume: objects.PersistentVolume | None) -> bool | None:
        said = "" if volume is None else volume.metadata.annotations.get(names.HEALTH_ANNOTATION)
        return None if said in bad else True

    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(SEEN_SECONDS):
            await consumer.volumes.wait("", name, well)
