"""What describes the remote clusters, of every source, as one collection.

There are two: RemoteCluster objects, and an existing Liqo. For one cluster id a
RemoteCluster wins whole: mixing two descriptions would use one's credential with
the other's namespaces.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from csi_liqo.kube import collection, liqo, store
from csi_liqo.model import objects

_KINDS: Final = {
    (True, False): "no RemoteCluster",
    (False, True): "no VirtualNode of Liqo",
    (True, True): "neither a RemoteCluster nor a VirtualNode of Liqo",
}


class Sources:
    """Every description by its name; Liqo's names contain a slash."""

    def __init__(
        self,
        remote_clusters: collection.Collection[objects.RemoteCluster] | None,
        liqo_clusters: liqo.LiqoClusters | None,
    ) -> None:
        """Follow one source or both; None is one that is not asked."""
        self._remote_clusters = remote_clusters
        self._liqo = liqo_clusters
        self.store: store.Store[objects.RemoteCluster] = store.Store()
        self._kinds: str = _KINDS[remote_clusters is not None, liqo_clusters is not None]

    def why_unknown(self, cluster_id: str) -> str:
        """Say what was looked for in vain, and what could not be looked at."""
        text = f"{self._kinds} has clusterID {cluster_id}"
        hidden = self._liqo.complaint if self._liqo is not None else ""
        return f"{text}, as far as may be read: {hidden}" if hidden else text

    def follow(self) -> None:
        """Take in what there is and each change; call once, when RemoteClusters are in sync."""
        if self._remote_clusters is not None:
            self._remote_clusters.store.listen(self._own_changed)
        if self._liqo is not None:
            self._liqo.store.listen(self._liqo_changed)

    @property
    def synced(self) -> bool:
        parts = (self._remote_clusters, self._liqo)
        return all(part.synced for part in parts if part is not None)

    def get(self, name: str) -> objects.RemoteCluster | None:
        return self.store.get("", name)

    def all(self) -> Iterable[objects.RemoteCluster]:
        return self.store.all()

    def _own_changed(
        self, before: objects.RemoteCluster | None, after: objects.RemoteCluster | None
    ) -> None:
        if after is not None:
            self.store.put(after)
        elif before is not None:
            self.store.remove("", before.name)
        if self._liqo is not None:
            for known in self._liqo.store.all():
                self._admit(known)

    def _liqo_changed(
        self, before: objects.RemoteCluster | None, after: objects.RemoteCluster | None
    ) -> None:
        if after is not None:
            self._admit(after)
        elif before is not None:
            self.store.remove("", before.name)

    def _admit(self, described: objects.RemoteCluster) -> None:
        """Take in a description of Liqo's, or leave it out in favour of a RemoteCluster."""
        own = () if self._remote_clusters is None else self._remote_clusters.all()
        if any(known.spec.cluster_id == described.spec.cluster_id for known in own):
            self.store.remove("", described.name)
        else:
            self.store.put(described)
