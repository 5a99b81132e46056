"""Gives each virtual node what kubelet's plugin registration gives a real one.

No kubelet runs there, so nobody else labels the Node and enters the driver into a
CSINode, and without both the provisioner fails a claim for ever instead of having
it scheduled elsewhere (external-provisioner v6.3.0, topology.go:197-213). Labels come
first, then the entry: in the other order there is a moment of just that failure.

Nothing is taken away again: the labels are what the volumes' affinity means, for
as long as there are volumes.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Any, Protocol

from csi_liqo.model import errors, names, objects, topology
from csi_liqo.service import ports

logger = logging.getLogger(__name__)


class RemoteClusters(Protocol):
    """What describes the remote clusters, of every source."""

    def all(self) -> Iterable[objects.RemoteCluster]: ...


class VirtualNodes:
    """Keeps labels and CSINode of the virtual nodes as they must be."""

    def __init__(
        self,
        nodes: ports.Objects[objects.Node],
        csi_nodes: ports.Objects[objects.CsiNode],
        remote_clusters: RemoteClusters,
        driver: str,
    ) -> None:
        self._nodes = nodes
        self._csi_nodes = csi_nodes
        self._remote_clusters = remote_clusters
        self._driver = driver

    async def reconcile(self, key: tuple[str, str]) -> float | None:
        """Bring one node to its wanted state; a real or unclaimed one is left alone."""
        node = self._nodes.get(*key)
        if node is None or node.deleting:
            return None
        cluster_id = self._cluster_of(node)
        if not cluster_id:
            return None
        await self._label(node, topology.node_segment(cluster_id, node.name))
        await self._enter(node)
        return None

    def _cluster_of(self, node: objects.Node) -> str:
        """Return the provider a virtual node stands for; empty when none or several claim it."""
        if not node.virtual:
            return ""
        claiming = {
            remote.spec.cluster_id
            for remote in self._remote_clusters.all()
            if selects(remote, node)
        }
        if len(claiming) > 1:
            logger.warning(
                "virtual node %s is claimed by clusters %s; it belongs to none until one "
                "RemoteCluster's nodeSelector lets it go",
                *(node.name, ", ".join(sorted(claiming))),
            )
        return claiming.pop() if len(claiming) == 1 else ""

    async def _label(self, node: objects.Node, segment: topology.Segment) -> None:
        if all(node.metadata.labels.get(key) == value for key, value in segment.items()):
            return
        patch = {"metadata": {"uid": node.uid, "labels": segment}}
        await self._nodes.patch("", node.name, patch)
        logger.info("labelled virtual node %s with %s", node.name, segment)

    async def _enter(self, node: objects.Node) -> None:
        entry = {
            "name": self._driver,
            "nodeID": node.name,
            "topologyKeys": [names.CLUSTER_KEY, names.NODE_KEY],
        }
        csi_node = self._csi_nodes.get("", node.name)
        if csi_node is None:
            csi_node = await self._create(node, entry)
        if csi_node is None:
            return
        if all(owner.uid != node.uid for owner in csi_node.metadata.owner_references):
            # It belongs to a Node of this name that is gone, and will be collected at any
            # moment: make room for this one's.
            await self._csi_nodes.delete("", csi_node.name, uid=csi_node.uid)
            raise errors.OperationPendingError(f"CSINode {csi_node.name} is of an earlier node")
        ours = [driver for driver in csi_node.drivers if driver.name == self._driver]
        if (
            ours
            and ours[0].node_id == node.name
            and set(ours[0].topology_keys or ())
            == {
                names.CLUSTER_KEY,
                names.NODE_KEY,
            }
        ):
            return
        await self._csi_nodes.patch("", node.name, _forge_entry(csi_node, self._driver, entry))
        logger.info("entered driver %s for virtual node %s", self._driver, node.name)

    async def _create(self, node: objects.Node, entry: dict[str, Any]) -> objects.CsiNode | None:
        try:
            csi_node = await self._csi_nodes.create("", _forge_csi_node(node, entry))
        except errors.ApiAlreadyExistsError:
            return await self._csi_nodes.read("", node.name)
        logger.info("created CSINode of virtual node %s", node.name)
        return csi_node


def selects(remote: objects.RemoteCluster, node: objects.Node) -> bool:
    """Tell whether a RemoteCluster claims a virtual node.

    By its nodeSelector, or where it has none by the label that Liqo gives its nodes.
    """
    wanted = remote.spec.node_selector or {names.REMOTE_CLUSTER_ID_LABEL: remote.spec.cluster_id}
    return all(node.metadata.labels.get(key) == value for key, value in wanted.items())


def _forge_csi_node(node: objects.Node, entry: dict[str, Any]) -> dict[str, Any]:
    """Owned by the Node, as kubelet does it (kubernetes v1.37.2, nodeinfomanager.go:509-536)."""
    return {
        "apiVersion": "storage.k8s.io/v1",
        "kind": "CSINode",
        "metadata": {
            "name": node.name,
            "ownerReferences": [
                {"apiVersion": "v1", "kind": "Node", "name": node.name, "uid": node.uid}
            ],
        },
        "spec": {"drivers": [entry]},
    }


def _forge_entry(
    csi_node: objects.CsiNode, driver: str, entry: dict[str, Any]
) -> list[dict[str, Any]]:
    """An entry is immutable (storage validation.go:280-306): a wrong one is taken out first."""
    version = csi_node.metadata.resource_version
    patch: list[dict[str, Any]] = [
        {"op": "test", "path": "/metadata/resourceVersion", "value": version}
    ]
    for index, known in enumerate(csi_node.drivers):
        if known.name == driver:
            patch.append({"op": "remove", "path": f"/spec/drivers/{index}"})
            return patch
    if csi_node.drivers:
        patch.append({"op": "add", "path": "/spec/drivers/-", "value": entry})
    else:  # null: there is no list to append to
        patch.append({"op": "add", "path": "/spec/drivers", "value": [entry]})
    return patch
