"""Repairing, on command, every twin that somebody deleted."""

from __future__ import annotations

from dataclasses import dataclass

from csi_liqo.model import errors, health, names
from csi_liqo.service.controller import clusters, fate, repair
from csi_liqo.service.tools import virtual

_REPAIRABLE = (health.Health.DELETED, health.Health.GONE)


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
            done.append(Mended(volume=volume.name, twin=twin.reference))
    return done
