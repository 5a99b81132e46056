"""Checks of the driver itself: what it was told, and whether it runs."""

from __future__ import annotations

import datetime
import re
from collections.abc import Iterator
from typing import Final

from csi_liqo.model import names, objects, twins
from csi_liqo.service.tools import ports
from csi_liqo.service.tools.doctor import facts, findings
from csi_liqo.service.tools.doctor.findings import Finding, Level

OLDEST_MINOR: Final = 30
GATED_MINOR: Final = 37
"""From here on the scheduler keeps pods off nodes that lack the driver."""
_CHECKED: Final = "installation"


def check_version(seen: facts.Facts) -> Iterator[Finding]:
    """Check that this version of Kubernetes has what the driver relies on."""
    match = re.match(r"v?1\.(\d+)", seen.version)
    minor = int(match.group(1)) if match else 0
    if minor < OLDEST_MINOR:
        yield _warn(
            f"the API server is {seen.version}; 1.{OLDEST_MINOR} is the oldest supported",
            "upgrade the cluster",
        )
    elif minor < GATED_MINOR:
        yield _warn(
            f"the API server is {seen.version}: before 1.{GATED_MINOR} a pod may be given to a "
            "node whose driver is not registered yet, and its claim waits for it",
            "nothing; or upgrade",
        )


def check_installed(seen: facts.Facts) -> Iterator[Finding]:
    """Check that the driver is there, was told its cluster's id, and runs."""
    if seen.sees(ports.CSI_DRIVERS) and not seen.drivers:
        yield _err(f"CSIDriver {names.DEFAULT_DRIVER} does not exist", "kubectl apply -k deploy")
    if ports.REMOTE_CLUSTERS in seen.hidden and "has no" in seen.hidden[ports.REMOTE_CLUSTERS]:
        yield _err(
            "CustomResourceDefinition remoteclusters.csi.liqo.io does not exist",
            "kubectl apply -k deploy",
        )
    if seen.sees(ports.CONFIG_MAPS) and not seen.installed.cluster_id:
        yield _err(
            "ConfigMap csi-liqo/csi-liqo has no clusterID, and the driver's pods wait for it",
            "kubectl -n csi-liqo create configmap csi-liqo --from-literal=clusterID=ID",
        )
    yield from _running(seen)


def _running(seen: facts.Facts) -> Iterator[Finding]:
    deployments = _ours(seen, ports.DEPLOYMENTS)
    daemons = _ours(seen, ports.DAEMON_SETS)
    for kind, found in ((ports.DEPLOYMENTS, deployments), (ports.DAEMON_SETS, daemons)):
        if seen.sees(kind) and not found:
            yield _err(
                f"no {kind.name} of the driver in namespace {names.DRIVER_NAMESPACE}",
                "kubectl apply -k deploy",
            )
    for item in deployments:
        name, status = item["metadata"]["name"], item.get("status") or {}
        wanted = item["spec"].get("replicas", 1)
        ready = status.get("readyReplicas", 0)
        if ready < wanted:
            yield findings.Finding(
                level=Level.ERROR if ready == 0 else Level.WARNING,
                check=_CHECKED,
                message=f"Deployment {name} has {ready} of {wanted} replicas ready",
                remedy=f"kubectl -n {names.DRIVER_NAMESPACE} describe pods, and their logs",
            )
    for item in daemons:
        name, status = item["metadata"]["name"], item.get("status") or {}
        wanted = status.get("desiredNumberScheduled", 0)
        ready = status.get("numberReady", 0)
        if ready < wanted:
            yield _err(
                f"DaemonSet {name} is ready on {ready} of {wanted} nodes",
                f"kubectl -n {names.DRIVER_NAMESPACE} get pods -o wide, and their logs",
            )


def check_lease(seen: facts.Facts) -> Iterator[Finding]:
    """Check that of each installation a controller leads: the Lease says who does."""
    if not seen.sees(ports.LEASES):
        return
    leases = {item["metadata"]["name"]: item for item in seen.manifests(ports.LEASES)}
    remedy = f"see why no controller runs: kubectl -n {names.DRIVER_NAMESPACE} get pods"
    for driver in seen.drivers:
        name = f"{driver}{names.LEASE_SUFFIX}"
        spec = leases.get(name, {}).get("spec") or {}
        renewed = spec.get("renewTime")
        if not spec.get("holderIdentity") or not renewed:
            yield _warn(f"Lease {name} is held by nobody: no reconciler acts", remedy)
            continue
        age = datetime.datetime.now(datetime.UTC) - datetime.datetime.fromisoformat(renewed)
        if age.total_seconds() > _STALE_FACTOR * spec.get("leaseDurationSeconds", 15):
            yield _err(
                f"Lease {name} was renewed {age.total_seconds():.0f} s ago by "
                f"{spec['holderIdentity']}: no reconciler acts",
                remedy,
            )


_STALE_FACTOR: Final = 5  # clocks of two machines differ


def check_cluster_id(seen: facts.Facts) -> Iterator[Finding]:
    """Check that nodes and volumes carry the id that the installation was told."""
    own = seen.cluster_id
    if not own:
        return
    remedy = "set the id back to the one that the volumes carry; volumes are pinned to it"
    for node in seen.nodes:
        other = node.metadata.labels.get(names.CLUSTER_KEY, own)
        if not node.virtual and other != own:
            yield _error_id(f"node {node.name} has label {names.CLUSTER_KEY}={other}", own, remedy)
    for volume in seen.virtual_volumes:
        source = volume.spec.csi
        other = source.volume_attributes[twins.CONSUMER_KEY] if source else own
        if other != own:
            yield _error_id(f"volume {volume.name} was made for cluster id {other}", own, remedy)


def _error_id(what: str, own: str, remedy: str) -> Finding:
    return Finding(
        level=Level.ERROR,
        check="cluster id",
        message=f"{what}, and the installation was told {own}",
        remedy=remedy,
    )


def check_nodes(seen: facts.Facts) -> Iterator[Finding]:
    """Check that each node that takes pods can have volumes."""
    taking = [node for node in seen.nodes if node.name in seen.schedulable]
    for driver in seen.drivers:
        entered = facts.entries(seen.csi_nodes, driver)
        for node in taking:
            claimed = _claimants(seen, node) if node.virtual else ["this cluster"]
            if node.virtual and len(claimed) != 1:
                continue  # told once, below
            if node.name not in entered:
                yield _bad_node(
                    f"{_kind_of(node)} {node.name} has no entry of driver {driver} in its CSINode",
                    "the controller makes it: see its log"
                    if node.virtual
                    else f"see the driver's pod there: kubectl -n {names.DRIVER_NAMESPACE} get "
                    f"pods --field-selector spec.nodeName={node.name}",
                )
    for node in taking:
        if node.virtual and len(_claimants(seen, node)) != 1:
            yield _claims_of(node, _claimants(seen, node))
        elif {names.CLUSTER_KEY, names.NODE_KEY} - node.metadata.labels.keys():
            yield _bad_node(
                f"{_kind_of(node)} {node.name} lacks label {names.CLUSTER_KEY} or {names.NODE_KEY}",
                "kubelet sets them when the driver registers, the controller on virtual nodes",
            )


def _claims_of(node: objects.Node, claimed: list[str]) -> Finding:
    if claimed:
        return _bad_node(
            f"virtual node {node.name} is claimed by RemoteClusters {', '.join(claimed)}, so it "
            "belongs to none",
            "make their spec.nodeSelector differ",
        )
    return Finding(
        level=Level.WARNING,
        check="nodes",
        message=f"virtual node {node.name} stands for no RemoteCluster: no volumes there",
        remedy="csi-liqo peer add makes one; if there is one, mend its spec.nodeSelector",
    )


def _claimants(seen: facts.Facts, node: objects.Node) -> list[str]:
    """Return who says which provider a virtual node stands for; a RemoteCluster outdoes Liqo."""
    found = []
    for remote in seen.remote_clusters:
        label = {names.REMOTE_CLUSTER_ID_LABEL: remote.spec.cluster_id}
        wanted = remote.spec.node_selector or label
        if wanted.items() <= node.metadata.labels.items():
            found.append(remote.name)
    if not found and node.metadata.labels.get(names.REMOTE_CLUSTER_ID_LABEL) in seen.liqo_clusters:
        return ["Liqo"]
    return found


def _kind_of(node: objects.Node) -> str:
    return "virtual node" if node.virtual else "node"


def _ours(seen: facts.Facts, kind: ports.Kind) -> list[ports.Manifest]:
    return [
        item
        for item in seen.manifests(kind)
        if ports.labels_of(item).get("app.kubernetes.io/name") == "csi-liqo"
    ]


def _bad_node(message: str, remedy: str) -> Finding:
    return Finding(level=Level.ERROR, check="nodes", message=message, remedy=remedy)


def _err(message: str, remedy: str) -> Finding:
    return Finding(level=Level.ERROR, check=_CHECKED, message=message, remedy=remedy)


def _warn(message: str, remedy: str) -> Finding:
    return Finding(level=Level.WARNING, check=_CHECKED, message=message, remedy=remedy)
