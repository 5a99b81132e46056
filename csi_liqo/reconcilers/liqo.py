"""Says on the virtual nodes that Liqo made how their providers' connections are.

What Liqo describes has no object of ours to write conditions on, and Liqo's own are
not ours to write. An Event on the Node is where a person looks who wonders about it.
The Node also keeps, as an annotation, which cluster it stood for when that was last
seen, as a RemoteCluster does in its status.
"""

from __future__ import annotations

import datetime
import logging
import time
from collections.abc import Callable, Iterable
from typing import Any, Final, Protocol

from csi_liqo.model import names, objects
from csi_liqo.reconcilers import remote_clusters, virtual_nodes
from csi_liqo.service import ports

logger = logging.getLogger(__name__)

REPEAT_SECONDS: Final = 60.0
"""How long other words for the same reason are held back: a broken connection has many."""

CONFLICT: Final = "Conflict"
CONNECTING: Final = "Connecting"
KUBECONFIG_FORBIDDEN: Final = "KubeconfigForbidden"


class Described(Protocol):
    """What describes the remote clusters, of every source."""

    def get(self, name: str) -> objects.RemoteCluster | None: ...
    def all(self) -> Iterable[objects.RemoteCluster]: ...


class LiqoProviders:
    """Looks at one of Liqo's descriptions at a time, by its name."""

    def __init__(
        self,
        nodes: ports.Objects[objects.Node],
        events: ports.Objects[objects.Event],
        described: Described,
        report_of: Callable[[str], remote_clusters.Report | None],
        driver: str,
        account: tuple[str, str],
    ) -> None:
        """``account``: namespace and name of the service account that reads the kubeconfigs."""
        self._nodes = nodes
        self._events = events
        self._described = described
        self._report_of = report_of
        self._driver = driver
        self._account = account
        self._told: dict[str, tuple[str, str, float]] = {}
        """What was last said on a Node, by its uid: reason, message and when, in seconds."""

    async def reconcile(self, key: tuple[str, str]) -> float | None:
        """Say once on each node of a provider what changed; return when to look again."""
        remote = self._described.get(key[1])
        if remote is None:
            return None
        report = self._report_of(remote.name)
        if report is None or report.reason == CONNECTING:
            return None
        again: list[float] = []
        for node in self._nodes.all():
            if node.virtual and not node.deleting and virtual_nodes.selects(remote, node):
                rest = await self._say(node, *self._judge(node, remote, report))
                again += [rest] if rest else []
                await self._remember(node, report)
        return min(again, default=None)

    def _judge(
        self, node: objects.Node, remote: objects.RemoteCluster, report: remote_clusters.Report
    ) -> tuple[str, str, str]:
        """Return type, reason and message of what there is to say."""
        others = sorted(
            other.name
            for other in self._described.all()
            if other.spec.cluster_id != remote.spec.cluster_id
            and virtual_nodes.selects(other, node)
        )
        if others:
            return (
                "Warning",
                CONFLICT,
                f"RemoteCluster {', '.join(others)} claims this node of Liqo's cluster "
                f"{remote.spec.cluster_id}, so it belongs to neither; narrow its nodeSelector",
            )
        what = f"storage of cluster {remote.spec.cluster_id}: {report.message}"
        if report.reason == KUBECONFIG_FORBIDDEN:
            what += f"; {_how_to_grant(remote.spec.kubeconfig_secret_ref, *self._account)}"
        return ("Normal" if report.connected else "Warning", report.reason, what)

    async def _say(self, node: objects.Node, kind: str, reason: str, message: str) -> float | None:
        before, words, when = self._told.get(node.uid, ("", "", 0.0))
        if (before, words) == (reason, message):
            return None
        rest = when + REPEAT_SECONDS - time.monotonic()
        if before == reason and rest > 0:
            return rest
        level = logging.INFO if kind == "Normal" else logging.WARNING
        logger.log(level, "node %s: %s: %s", node.name, reason, message)
        await self._events.create("default", _forge(node, kind, reason, message, self._driver))
        self._told[node.uid] = (reason, message, time.monotonic())
        return None

    async def _remember(self, node: objects.Node, report: remote_clusters.Report) -> None:
        """Note whom a node stands for; also what its volumes remember, to be taken off there."""
        known = node.metadata.annotations.get(names.IDENTITY_ANNOTATION, "")
        if report.identity not in ("", known) and (report.connected or not known):
            annotations = {names.IDENTITY_ANNOTATION: report.identity}
            patch = {"metadata": {"uid": node.uid, "annotations": annotations}}
            await self._nodes.patch("", node.name, patch)


def _how_to_grant(secret: objects.SecretReference, namespace: str, account: str) -> str:
    """Return the commands that let one installation read one peering's kubeconfig.

    Each has names of its own: the other installation may have been granted it before.
    """
    create, name = f"kubectl -n {secret.namespace} create", f"{account}-kubeconfig"
    return (
        f"{create} role {name} --verb=list,watch --resource=secrets "
        f"--resource-name={secret.name} && {create} rolebinding {name} "
        f"--role={name} --serviceaccount={namespace}:{account}"
    )


def _forge(node: objects.Node, kind: str, reason: str, message: str, driver: str) -> dict[str, Any]:
    """Events of cluster-scoped objects live in namespace default."""
    now = datetime.datetime.now(datetime.UTC)
    stamp = now.strftime("%Y-%m-%dT%H:%M:%SZ")
    return {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"name": f"{node.name}.{time.time_ns():x}", "namespace": "default"},
        "involvedObject": {"apiVersion": "v1", "kind": "Node", "name": node.name, "uid": node.uid},
        "type": kind,
        "reason": reason,
        "message": message[:1024],
        "firstTimestamp": stamp,
        "lastTimestamp": stamp,
        "count": 1,
        "source": {"component": driver},
        "reportingComponent": driver,
        "reportingInstance": driver,
    }
