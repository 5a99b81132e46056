"""Waiting until a twin has its real volume, and saying what is waited for."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import Final

from csi_liqo.model import errors, objects
from csi_liqo.service.controller import clusters, places, refusals, settling

FIRST_LOOK_SECONDS: Final = 2.0
LAST_LOOK_SECONDS: Final = 16.0
"""How long a twin is waited for before it is asked what its provisioner says; then twice that."""


class Progress:
    """What a call is waiting for, to say so when its time runs out."""

    def __init__(self, doing: str) -> None:
        self.doing = doing
        self._cluster: clusters.Cluster | None = None
        self._twin: objects.Claim | None = None

    def follow(self, cluster: clusters.Cluster, twin: objects.Claim) -> None:
        """From now on, report what is said against this twin."""
        self._cluster, self._twin = cluster, twin

    async def explain(self) -> str:
        """Return what is being done and the newest warning about it."""
        if self._cluster is None or self._twin is None:
            return self.doing
        twin = f"twin {self._twin.reference} in cluster {self._cluster.id}"
        warning = await self._warning()
        if not warning:
            return f"{self.doing}: waiting for {twin}"
        return f"{self.doing}: waiting for {twin}, of which was said: {warning}"

    async def with_warning(self, error: errors.Error) -> errors.Error:
        """Return a refusal of the twin with the newest warning about it in its text."""
        warning = await self._warning()
        return type(error)(f"{error}: {warning}") if warning not in str(error) else error

    async def _warning(self) -> str:
        if self._cluster is None or self._twin is None:
            return ""
        return await self._cluster.warnings.latest(self._twin.namespace, self._twin.uid)


async def bind(place: places.Place, twin: objects.Claim) -> objects.Claim:
    """Return the twin once it is as far as it gets before a pod uses it.

    That is bound, or merely there for a real class that waits for the pod itself.

    Raises:
        errors.PlacementError: the real class gave the chosen node up.
        errors.PreconditionError, errors.CapacityRangeError: its driver refuses the volume.
        errors.ComeBackError: the twin is being taken away.
    """
    cluster = place.cluster
    if place.choice is not None and not twin.bound:
        await place.choice.prebind(twin)
    if not place.binds or twin.bound:
        return twin

    def settled(found: objects.Claim) -> objects.Claim | None:
        if found.deleting:
            raise errors.OperationPendingError(f"twin {twin.reference} is being deleted by others")
        if twin.selected_node and not found.selected_node and not found.spec.volume_name:
            raise errors.PlacementError(
                f"real class {twin.spec.storage_class_name} cannot make the volume on node "
                f"{twin.selected_node}"
            )
        return found if found.bound else None

    bound = await _unless_refused(cluster, twin, settled)
    if cluster.local and cluster.volumes is not None:
        await cluster.volumes.wait("", bound.spec.volume_name, lambda volume: volume)
    return bound


async def _unless_refused(
    cluster: clusters.Cluster,
    twin: objects.Claim,
    settled: Callable[[objects.Claim], objects.Claim | None],
) -> objects.Claim:
    """Wait for a twin, and look now and then whether its provisioner has refused it.

    A refusal changes nothing on the twin: there is an event, and no end of new attempts.
    """
    made = settling.Made(cluster.claims, twin, kind="twin")
    pause = FIRST_LOOK_SECONDS
    while True:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(pause):
                return await made.wait(settled)
        warning = await cluster.warnings.latest(twin.namespace, twin.uid)
        meaning = refusals.meaning_of(warning)
        if meaning is not None:
            raise meaning(f"real class {twin.spec.storage_class_name} refuses this: {warning}")
        pause = min(2 * pause, LAST_LOOK_SECONDS)
