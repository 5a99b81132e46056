"""What the controller does for its providers' sake, put together: status, finalizer, marks."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass

from csi_liqo.kube import collection, sources
from csi_liqo.model import attempts as model_attempts
from csi_liqo.model import labelling, objects
from csi_liqo.reconcilers import attempts as attempts_reconciler
from csi_liqo.reconcilers import labelling as labelling_reconciler
from csi_liqo.reconcilers import remote_clusters, runner
from csi_liqo.service.controller import attempts, clusters, description


@dataclass(frozen=True, slots=True, kw_only=True)
class Watched:
    """The caches of this cluster whose changes matter here."""

    claims: collection.Collection[objects.Claim]
    notes: collection.Collection[objects.ConfigMap]
    volumes: collection.Collection[objects.PersistentVolume]
    nodes: collection.Collection[objects.Node]
    remote_clusters: collection.Collection[objects.RemoteCluster]
    described: sources.Sources


class Remotes:
    """The reconcilers of RemoteClusters, and of what a claim and its remote twin share."""

    def __init__(
        self,
        watched: Watched,
        consumer: clusters.Consumer,
        providers: clusters.Providers,
        everywhere: clusters.Clusters,
        report_of: Callable[[str], remote_clusters.Report | None],
        noted: attempts.Attempts,
        *,
        driver: str,
        rules: labelling.Rules,
    ) -> None:
        self._watched = watched
        self._own_id = consumer.cluster_id
        self._status = runner.Runner(
            "remote-clusters",
            remote_clusters.RemoteClusters(
                *(watched.remote_clusters, watched.described, consumer, providers, report_of),
                *(noted, driver),
            ).reconcile,
            pause_seconds=remote_clusters.PAUSE_SECONDS,
        )
        self._marks = runner.Runner(
            "labelling",
            labelling_reconciler.Labelling(consumer, everywhere, rules).reconcile,
        )
        self._noted = noted
        self._ended_attempts = attempts_reconciler.EndedAttempts(noted, consumer.claims)
        self._ended = runner.Runner(
            "ended-attempts",
            self._ended_attempts.reconcile,
            workers=1,
            pause_seconds=attempts_reconciler.PAUSE_SECONDS,
        )
        self.runners = (self._status, self._marks, self._ended)

    def listen(self, until_the_end: contextlib.ExitStack) -> None:
        """Have what changes looked at from now on, and now all there is."""
        for ended in (
            self._watched.remote_clusters.store.listen(self._remote_changed),
            self._watched.described.store.listen(self._description_changed),
            self._watched.nodes.store.listen(self._node_changed),
            self._watched.volumes.store.listen(self._volume_changed),
            self._watched.claims.store.listen(self._claim_changed),
            self._watched.notes.store.listen(self._attempted),
        ):
            until_the_end.callback(ended)

    def reported(self, name: str) -> None:
        """How a connection is has changed."""
        self._status.add(("", name))

    def twin_changed(self, twin: objects.Claim) -> None:
        """A twin is another one than it was."""
        if twin.handed_over and twin.volume_id:
            self._marks.add(("", twin.volume_id))

    def _remote_changed(
        self, _: objects.RemoteCluster | None, remote: objects.RemoteCluster | None
    ) -> None:
        if remote is not None:
            self._status.add(("", remote.name))

    def _description_changed(
        self, before: objects.RemoteCluster | None, after: objects.RemoteCluster | None
    ) -> None:
        """What Liqo describes may be in the way of any RemoteCluster, and no longer be."""
        known = after or before
        assert known is not None
        if known.spec.offers is not None and (before is None or after is None):
            for remote in self._watched.remote_clusters.all():
                self._status.add(("", remote.name))

    def _node_changed(self, before: objects.Node | None, after: objects.Node | None) -> None:
        """Two RemoteClusters may claim one virtual node by its labels."""
        known = after or before
        assert known is not None
        if before is None or after is None or before.metadata.labels != after.metadata.labels:
            for remote in self._watched.remote_clusters.all() if known.virtual else ():
                self._status.add(("", remote.name))

    def _volume_changed(
        self,
        before: objects.PersistentVolume | None,
        after: objects.PersistentVolume | None,
    ) -> None:
        """The volumes that have their home in a provider are counted."""
        homes = {description.home_of(known) for known in (before, after) if known is not None}
        if before is None or after is None or len(homes) > 1:
            for home in homes:
                self._count(home)

    def _claim_changed(self, before: objects.Claim | None, after: objects.Claim | None) -> None:
        """A claim that came to its end needs no provider; a bound one shares its marks."""
        if before is not None and (after is None or after.spec.volume_name):
            attempt = self._noted.of(before.uid)
            if attempt is not None:
                if after is None:
                    self._ended_attempts.gone(before.uid)
                self._count(attempt.cluster_id)
                self._ended.add(attempts_reconciler.KEY)
        if after is not None and after.spec.volume_name:
            bound = self._watched.volumes.get("", after.spec.volume_name)
            remote = bound is not None and description.home_of(bound) not in ("", self._own_id)
            if bound is not None and bound.spec.csi is not None and remote:
                self._marks.add(("", bound.spec.csi.volume_handle))

    def _attempted(self, before: objects.ConfigMap | None, after: objects.ConfigMap | None) -> None:
        """A provider that may hold something of a claim is needed; the notes may be old."""
        changed = (before.data if before else {}).items() ^ (after.data if after else {}).items()
        for cluster_id in {one.cluster_id for one in model_attempts.read(dict(changed)).values()}:
            self._count(cluster_id)
        self._ended.add(attempts_reconciler.KEY)

    def _count(self, cluster_id: str) -> None:
        if cluster_id:
            for remote in self._watched.remote_clusters.all():
                if remote.spec.cluster_id == cluster_id:
                    self._status.add(("", remote.name))
