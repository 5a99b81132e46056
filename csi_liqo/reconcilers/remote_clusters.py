"""Writes onto each RemoteCluster how it is, and keeps it while volumes need it.

Two installations of the driver (one that attaches, one that does not) may look after
the same objects. What is counted is the same for both; where their views differ, each
writes when its own changes, and else no more than once a minute.
"""

from __future__ import annotations

import asyncio
import datetime
from collections.abc import Callable, Iterable
from typing import Any, Final, Protocol

from csi_liqo.model import names, objects, remote_conditions, twins
from csi_liqo.reconcilers import virtual_nodes
from csi_liqo.service import ports
from csi_liqo.service.controller import attempts, clusters, negotiation

CONNECTING: Final = "Connecting"
"""Reason of a connection of which nothing is known yet."""
INSIST_SECONDS: Final = 60.0
"""How long a status that others wrote differently is left alone."""
PAUSE_SECONDS: Final = 0.3
"""Between two looks at one object, which cost more the more volumes there are; its runner
keeps it."""
COUNT_SECONDS: Final = 5.0
"""How long a count may be out of date: a hundred claims are not a hundred writes."""


class Report(Protocol):
    """How a provider's connection is."""

    @property
    def connected(self) -> bool: ...
    @property
    def reason(self) -> str: ...
    @property
    def message(self) -> str: ...
    @property
    def identity(self) -> str: ...
    @property
    def gaps(self) -> tuple[str, ...]: ...
    @property
    def last_contact(self) -> str: ...


class RemoteClusters:
    """Keeps status and finalizer of the RemoteCluster objects true."""

    def __init__(
        self,
        remote_clusters: ports.Objects[objects.RemoteCluster],
        described: virtual_nodes.RemoteClusters,
        consumer: clusters.Consumer,
        providers: clusters.Providers,
        report_of: Callable[[str], Report | None],
        noted: attempts.Attempts,
        driver: str,
    ) -> None:
        """``described`` are the remote clusters of every source."""
        self._remote_clusters = remote_clusters
        self._described = described
        self._consumer = consumer
        self._providers = providers
        self._report_of = report_of
        self._noted = noted
        self._driver = driver
        self._written: dict[str, tuple[dict[str, Any], float]] = {}

    async def reconcile(self, key: tuple[str, str]) -> float | None:
        """Bring one RemoteCluster to its wanted state; returns when to look again."""
        remote = self._remote_clusters.get(*key)
        if remote is None:
            self._written.pop(key[1], None)
            return None
        if not (self._consumer.volumes.synced and self._consumer.claims.synced):
            return COUNT_SECONDS
        volumes = self._consumer.volumes.select(clusters.BY_HOME, remote.spec.cluster_id)
        claims = self._begun(remote.spec.cluster_id)
        left_behind = remote.metadata.labels.get(names.FENCE_LABEL) == names.FENCE_OPEN
        needed = bool(volumes or claims) and not (remote.deleting and left_behind)
        if await self._protect(remote, needed=needed):
            return None
        report = self._report_of(remote.name)
        if report is None or (report.reason == CONNECTING and remote.status.conditions):
            return None  # a start of this program is no news of the provider
        return await self._write(remote, self._status(remote, report, volumes, claims))

    def _begun(self, cluster_id: str) -> tuple[objects.Claim, ...]:
        """Return the claims without a volume of which something may be in a provider."""
        cached = (
            (uid, self._consumer.claims.get(one.namespace, one.name))
            for uid, one in self._noted.all().items()
            if one.cluster_id == cluster_id
        )
        return tuple(
            claim
            for uid, claim in cached
            if claim is not None and claim.uid == uid and not claim.spec.volume_name
        )

    async def _protect(self, remote: objects.RemoteCluster, *, needed: bool) -> bool:
        """Put the finalizer on or take it off; True when the object may be gone by that."""
        finalizer = names.REMOTE_CLUSTER_FINALIZER
        there = finalizer in remote.metadata.finalizers
        if needed and not there and not remote.deleting:
            metadata = {
                "uid": remote.uid,
                "resourceVersion": remote.metadata.resource_version,
                "finalizers": [*remote.metadata.finalizers, finalizer],
            }
            await self._remote_clusters.patch("", remote.name, {"metadata": metadata})
        elif there and not needed:
            patch = twins.forge_release(remote, finalizer)
            await self._remote_clusters.patch("", remote.name, patch)
            return remote.deleting
        return False

    def _status(
        self,
        remote: objects.RemoteCluster,
        report: Report,
        volumes: tuple[objects.PersistentVolume, ...],
        claims: tuple[objects.Claim, ...],
    ) -> dict[str, Any]:
        """Return the whole status as it should read, conditions without their times."""
        cluster = self._providers.get(remote.spec.cluster_id) if report.connected else None
        offered = None if cluster is None else negotiation.offered_classes(cluster, self._driver)
        facts = remote_conditions.Facts(
            remote=remote,
            connected=report.connected,
            reason=report.reason,
            message=report.message,
            gaps=report.gaps,
            known=cluster is not None,
            offered=None if offered is None else tuple(offered.values()),
            contested=tuple(self._contested(remote)),
            volumes=tuple(volume.name for volume in volumes),
            claims=tuple(claim.reference for claim in claims),
        )
        status: dict[str, Any] = {
            "conditions": remote_conditions.make_conditions(facts),
            "volumes": len(volumes),
        }
        if report.identity:
            status["identity"] = report.identity
        if cluster is not None:
            status["offeredClasses"] = remote_conditions.list_offered(facts.offered or ())
        if report.last_contact:
            status["lastContact"] = report.last_contact
        return status

    def _contested(self, remote: objects.RemoteCluster) -> Iterable[str]:
        """Say which virtual nodes another RemoteCluster, or Liqo, claims, too."""
        others = [
            other
            for other in self._described.all()
            if other.spec.cluster_id != remote.spec.cluster_id
        ]
        for node in self._consumer.nodes.all():
            if node.virtual and virtual_nodes.selects(remote, node):
                for other in others:
                    if virtual_nodes.selects(other, node):
                        own = self._remote_clusters.get("", other.name) is not None
                        who = f"RemoteCluster {other.name}" if own else other.spec.described_by
                        yield f"node {node.name} is claimed by {who}, too"

    async def _write(self, remote: objects.RemoteCluster, status: dict[str, Any]) -> float | None:
        """Write a status, if it says anything else than the one that is there."""
        # When the provider was last heard of is worth a write only with something else.
        wanted = {key: value for key, value in status.items() if key != "lastContact"}
        stored = remote_conditions.read_status(remote.status, wanted)
        if wanted == stored:
            return None
        now = asyncio.get_running_loop().time()
        before, written_at = self._written.get(remote.name, ({}, now - INSIST_SECONDS))
        rest = 0.0
        if wanted == before:
            rest = written_at + INSIST_SECONDS - now
        elif remote_conditions.is_count_only(wanted, before):
            rest = written_at + COUNT_SECONDS - now
        if rest > 0:
            return rest
        moment = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        dated = remote_conditions.date(status["conditions"], remote, moment)
        told = {**status, "conditions": dated}
        if told.get("identity") == remote.status.identity:
            del told["identity"]  # an administrator may have emptied it a moment ago
        patch = {"metadata": {"uid": remote.uid}, "status": told}
        await self._remote_clusters.patch("", remote.name, patch, subresource="status")
        self._written[remote.name] = (wanted, now)
        return None
