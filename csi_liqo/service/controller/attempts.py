"""Where something of a claim may be that has no volume yet.

It is noted in this cluster before the first write to a provider. Without a note, a provider
out of reach means "schedule elsewhere", with one "call again"; and a RemoteCluster stays
while one names it.

All notes are in one ConfigMap, and one write notes all that wait. On the claims themselves
each would be a write, after which csi-provisioner calls for the claim once more: it looks
at every change of a claim, and does not see its own new volume at once (library v13,
controller.go, enqueueClaim and provisionClaimOperation).
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from csi_liqo.model import attempts as model
from csi_liqo.model import errors, names, objects
from csi_liqo.service import ports


class _Batch:
    """Notes that one write is to make."""

    def __init__(self) -> None:
        self.notes: dict[str, model.Attempt] = {}
        self.written = False
        self.failure: errors.ApiError | None = None


class Attempts:
    """The notes of every installation in this cluster: they share what describes providers."""

    def __init__(self, config_maps: ports.Objects[objects.ConfigMap], namespace: str) -> None:
        """``config_maps`` has at least the one of the notes, in the twins' namespace."""
        self._config_maps = config_maps
        self._place = (namespace, names.ATTEMPTS_CONFIG_MAP)
        self._unseen: dict[str, model.Attempt] = {}
        """Written, and not in the cache yet."""
        self._read_from: objects.ConfigMap | None = None
        self._read: dict[str, model.Attempt] = {}
        self._writing = asyncio.Lock()
        self._next = _Batch()

    def all(self) -> Mapping[str, model.Attempt]:
        """Return every attempt by its claim's uid."""
        return {**self._cached(), **self._unseen}

    def of(self, claim_uid: str) -> model.Attempt | None:
        """Return a claim's attempt; None is proof that nothing of it is in a provider."""
        return self._unseen.get(claim_uid) or self._cached().get(claim_uid)

    def begun(self, claim: objects.Claim, cluster_id: str) -> bool:
        """Tell whether something of a claim may be in a provider."""
        found = self.of(claim.uid)
        return found is not None and found.cluster_id == cluster_id

    def seen(self) -> None:
        """Go by the cache for what is in it now; to be called at each of its changes."""
        cached = self._cached()
        for uid in [uid for uid, noted in self._unseen.items() if cached.get(uid) == noted]:
            del self._unseen[uid]

    async def note(self, claim: objects.Claim, cluster_id: str) -> None:
        """Return once it is noted that something of a claim may be written to a provider.

        Raises:
            errors.OperationPendingError: it is not known to be noted.
        """
        if self.begun(claim, cluster_id):
            return
        batch = self._next
        batch.notes[claim.uid] = model.Attempt.of(claim, cluster_id)
        async with self._writing:
            # Whoever wrote this batch took it for all; one that was cancelled leaves it.
            if not batch.written and batch.failure is None:
                if batch is self._next:
                    self._next = _Batch()
                await self._write(batch)
        if batch.failure is not None:
            raise errors.OperationPendingError(
                f"that claim {claim.reference} goes to cluster {cluster_id} could not be noted: "
                f"{batch.failure}{self._remedy(batch.failure)}"
            ) from batch.failure

    async def _write(self, batch: _Batch) -> None:
        try:
            await self._config_maps.patch(*self._place, model.forge_notes(batch.notes))
        except errors.ApiError as error:
            batch.failure = error
            return
        batch.written = True
        self._unseen.update(batch.notes)
        self.seen()

    def _remedy(self, failure: errors.ApiError) -> str:
        namespace, name = self._place
        if isinstance(failure, errors.ApiNotFoundError):
            return (
                f": ConfigMap {name} of namespace {namespace} is missing; apply the manifests again"
            )
        return ""

    async def end(self, uids: set[str]) -> None:
        """Take notes away that are of no use any more.

        Raises:
            errors.ApiError: they may still be there.
        """
        if not uids:
            return
        await self._config_maps.patch(*self._place, model.forge_removal(sorted(uids)))
        for uid in uids:
            self._unseen.pop(uid, None)

    def _cached(self) -> dict[str, model.Attempt]:
        config_map = self._config_maps.get(*self._place)
        if config_map is not self._read_from:
            self._read_from = config_map
            self._read = model.read(config_map.data) if config_map is not None else {}
        return self._read
