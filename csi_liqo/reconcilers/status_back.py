"""Brings a twin's fate back onto the virtual volume and claim.

A remote claim is answered before its twin has a real volume, so the consumer would know
nothing of what came of it: class, volume, capacity and phase are shown once the twin is
bound, with two writes. Trouble is shown on local ones, too, and told to the claim's owner
by events: once a reason, because a look costs nothing and an event is a write.
"""

from __future__ import annotations

import logging
from typing import Final

from csi_liqo.model import health, names, objects
from csi_liqo.reconcilers import seen
from csi_liqo.reconcilers import twins as twin_reconciler
from csi_liqo.service import ports
from csi_liqo.service.controller import clusters, fate, keeping

logger = logging.getLogger(__name__)

FIRST_QUESTION_SECONDS: Final = 5.0
"""How old a twin is before anybody asks why it is not bound; most are by then."""
LAST_QUESTION_SECONDS: Final = 300.0
"""The longest time between two questions; the time doubles until then."""
PATIENCE_SECONDS: Final = 60.0
"""How long a twin may be unbound before that alone is told, where events cannot be read."""
AGAIN_SECONDS: Final = 300.0
"""How soon trouble that stays is looked at again, so that its event does not expire."""

TWIN_WARNING: Final = "TwinWarning"
"""Reason of the event that passes on what is said against a twin."""
TWIN_PENDING: Final = "TwinPending"
"""Reason of the event on a twin that is not bound and of which nothing can be read."""


class StatusBack:
    """Looks at one virtual volume at a time, by its name."""

    def __init__(
        self,
        consumer: clusters.Consumer,
        everywhere: clusters.Clusters,
        events: ports.Events,
        driver: str,
    ) -> None:
        self._consumer = consumer
        self._clusters = everywhere
        self._events = events
        self._driver = driver

    async def reconcile(self, key: tuple[str, str]) -> float | None:
        """Show and tell how a virtual volume's twin fares; return when to look again."""
        volume = self._consumer.volumes.get(*key)
        source = volume.spec.csi if volume is not None else None
        if volume is None or source is None or source.driver != self._driver:
            return None
        found = await fate.look(self._consumer, self._clusters, volume)
        if found is None:
            return None
        claim = self._claim_of(volume)
        rest = seen.CACHE_LAG_SECONDS - twin_reconciler.age_seconds(volume)
        if claim is not None and not claim.bound and 0 < rest <= seen.CACHE_LAG_SECONDS:
            # A write in the middle of the binding makes the volume controller's own conflict.
            return rest
        await self._show(found, volume, claim)
        if found.health is not health.Health.HEALTHY:
            await self._warn(volume, claim, found.health.value, f"{found}; {_remedy(found)}")
            return AGAIN_SECONDS
        if found.twin is None:
            return None
        again = None
        if not found.cluster.local and claim is not None:
            again = await self._pass_on(found, found.twin, claim)
        # The mark of one that was handed over a moment ago may not be in the cache: two watches.
        age = twin_reconciler.age_seconds(volume)
        if not found.twin.handed_over and 0 <= age < seen.CACHE_LAG_SECONDS:
            again = seen.CACHE_LAG_SECONDS - age
        else:
            await keeping.protect(self._consumer, found.cluster, volume, found.twin)
        await keeping.note(self._consumer, found.cluster, volume, found.twin)
        return again

    def _claim_of(self, volume: objects.PersistentVolume) -> objects.Claim | None:
        """Return the claim that a virtual volume is bound to."""
        reference = volume.spec.claim_ref
        if reference is None:
            return None
        claim = self._consumer.claims.get(reference.namespace, reference.name)
        return claim if claim is not None and claim.uid == reference.uid else None

    async def _show(
        self, found: fate.Fate, volume: objects.PersistentVolume, claim: objects.Claim | None
    ) -> None:
        """Write what differs: the volume first, because what lists volumes reads only it."""
        remote = not found.cluster.local
        facts = health.facts_of(found.twin) if remote and found.twin is not None else None
        shown: health.Health | None = found.health
        if found.health is health.Health.HEALTHY and (facts is None):
            shown = None
        identity = found.cluster.identity
        patch = health.forge_on_volume(volume, claim, shown, facts, identity)
        if patch is not None:
            await self._consumer.volumes.patch("", volume.name, patch)
            await seen.wait(
                self._consumer.volumes,
                volume,
                lambda now: health.forge_on_volume(now, claim, shown, facts, identity) is None,
            )
        if claim is None or not claim.bound:
            return
        patch = health.forge_on_claim(claim, shown, facts)
        if patch is not None:
            await self._consumer.claims.patch(
                claim.namespace, claim.name, patch, subresource="status"
            )
            await seen.wait(
                self._consumer.claims,
                claim,
                lambda now: health.forge_on_claim(now, shown, facts) is None,
            )

    async def _pass_on(
        self, found: fate.Fate, twin: objects.Claim, claim: objects.Claim
    ) -> float | None:
        """Tell the claim's owner what is said against a remote twin; return when to ask again."""
        complaint = _complaint_of(twin)
        again: float | None = None
        if not complaint and not twin.spec.volume_name and not claim.deleting:
            age = twin_reconciler.age_seconds(twin)
            if age < FIRST_QUESTION_SECONDS:
                return FIRST_QUESTION_SECONDS - age
            again = min(age, LAST_QUESTION_SECONDS)
            complaint = await found.cluster.warnings.latest(twin.namespace, twin.uid)
            if not complaint and not found.cluster.warnings.heard(twin.namespace):
                if age > PATIENCE_SECONDS:
                    await self._warn(None, claim, TWIN_PENDING, _unheard(found, twin))
                else:
                    again = min(again, PATIENCE_SECONDS - age + 1)
        if complaint:
            text = f"twin {twin.reference} in cluster {found.cluster.id}: {complaint}"
            await self._warn(None, claim, TWIN_WARNING, text)
        return again

    async def _warn(
        self,
        volume: objects.PersistentVolume | None,
        claim: objects.Claim | None,
        reason: str,
        message: str,
    ) -> None:
        if claim is not None:
            await self._events.warn(claim, reason, message)
        if volume is not None:
            await self._events.warn(volume, reason, message)


def _complaint_of(twin: objects.Claim) -> str:
    """Return what a twin's own conditions say against it; empty when they say nothing."""
    for condition in twin.status.conditions:
        if condition.status == "True" and condition.type.endswith("Error"):
            return f"{condition.type}: {condition.message or condition.reason}"
    return ""


def _unheard(found: fate.Fate, twin: objects.Claim) -> str:
    return (
        f"twin {twin.reference} in cluster {found.cluster.id} has no volume yet, and why cannot "
        f"be read there; grant ClusterRole csi-liqo-consumer-events in namespace {twin.namespace} "
        "of that cluster to be told"
    )


def _remedy(found: fate.Fate) -> str:
    match found.health:
        case health.Health.DELETED:
            return (
                "csi-liqo doctor --repair makes the twin again around the same volume. Delete "
                f"nothing and leave its finalizer {names.TWIN_FINALIZER} alone"
            )
        case health.Health.GONE:
            return "if its real volume was kept, csi-liqo doctor --repair makes the twin again"
        case _:
            return "restore the real volume in that cluster, or the data from a backup"
