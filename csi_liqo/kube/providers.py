"""The connections to the remote clusters that RemoteCluster objects, or Liqo's, describe.

Each provider has its own connections, caches and fate: one that hangs is waited for
by nobody else. What a provider does not grant (its classes, its volumes) is found
out when the connection is made, and again after any refusal.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Iterable

from csi_liqo.kube import connection, sources
from csi_liqo.model import objects
from csi_liqo.service.controller import clusters

logger = logging.getLogger(__name__)


class Providers:
    """Implements clusters.Providers, following what describes remote clusters."""

    def __init__(
        self,
        around: connection.Surroundings,
        remote_clusters: sources.Sources,
    ) -> None:
        self._around = around
        self._remote_clusters = remote_clusters
        self._connections: dict[str, connection.Connection] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}

    async def run(self) -> None:
        """Keep the connections up until cancelled."""
        async with asyncio.TaskGroup() as group:
            changes: asyncio.Queue[str] = asyncio.Queue()

            def changed(
                before: objects.RemoteCluster | None, after: objects.RemoteCluster | None
            ) -> None:
                known = after or before
                assert known is not None
                if before is None or after is None or _described(before) != _described(after):
                    # One that was deleted and made again between two lists is another, too.
                    changes.put_nowait(known.name)
                elif before.status.identity and not after.status.identity:
                    with contextlib.suppress(KeyError):
                        self._connections[known.name].forget_identity()

            self._remote_clusters.store.listen(changed)
            while True:
                self._follow(await changes.get(), group)

    def _follow(self, name: str, group: asyncio.TaskGroup) -> None:
        remote = self._remote_clusters.get(name)
        known = self._connections.get(name)
        if known is not None and remote is not None and known.adopts(remote):
            return
        if known is not None:
            self._tasks.pop(name).cancel()
            del self._connections[name]
        if remote is not None:
            made = connection.Connection(self._around, remote)
            self._connections[name] = made
            self._tasks[name] = group.create_task(made.run(), name=f"provider {name}")
        for other in self._connections:
            self._around.on_report(other)  # two of one id are in each other's way

    def get(self, cluster_id: str) -> clusters.Cluster | None:
        claiming = self._claiming(cluster_id)
        return claiming[0].cluster if len(claiming) == 1 else None

    async def ready(self, cluster_id: str) -> clusters.Cluster | None:
        claiming = self._claiming(cluster_id)
        if len(claiming) == 1 and not await claiming[0].ready(self._around.patience_seconds):
            return None
        return self.get(cluster_id)

    def all(self) -> Iterable[clusters.Cluster]:
        connected = (self.get(known.spec.cluster_id) for known in self._all())
        return tuple(cluster for cluster in connected if cluster is not None)

    def trouble(self, cluster_id: str) -> str:
        claiming = self._claiming(cluster_id)
        if not claiming:
            return self._remote_clusters.why_unknown(cluster_id)
        report = self.report(claiming[0].name)
        return "" if report is None or report.connected else report.message

    def complete(self) -> bool:
        # Not only the connections there are: some may not have been begun, and two
        # descriptions of one id keep each other from being used.
        return self._remote_clusters.synced and all(
            self.get(known.spec.cluster_id) is not None for known in self._remote_clusters.all()
        )

    def described(self) -> frozenset[str] | None:
        if not self._remote_clusters.synced:
            return None
        ids = [known.spec.cluster_id for known in self._remote_clusters.all()]
        return frozenset(found for found in ids if ids.count(found) == 1)

    def report(self, name: str) -> connection.Report | None:
        """Return how the connection of a RemoteCluster is; None when there is none."""
        known = self._connections.get(name)
        if known is None:
            return None
        cluster_id = known.spec.cluster_id
        others = [other.name for other in self._claiming(cluster_id) if other is not known]
        if others:
            return connection.Report(
                False,
                "Conflict",
                f"RemoteCluster {', '.join(others)} has clusterID {cluster_id} too; delete one",
            )
        return known.report

    def _all(self) -> Iterable[connection.Connection]:
        return tuple(self._connections.values())

    def _claiming(self, cluster_id: str) -> list[connection.Connection]:
        return [c for c in self._connections.values() if c.spec.cluster_id == cluster_id]


def _described(remote: objects.RemoteCluster) -> tuple[str, objects.RemoteClusterSpec, bool]:
    return remote.uid, remote.spec, remote.deleting
