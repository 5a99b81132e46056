"""Writes onto each RemoteCluster how its connection is, so that a person can act on it."""

from __future__ import annotations

import datetime
from collections.abc import Callable
from typing import Any, Protocol

from csi_liqo.model import objects
from csi_liqo.service import ports


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


class RemoteClusters:
    """Keeps the status of the RemoteCluster objects true."""

    def __init__(
        self,
        remote_clusters: ports.Objects[objects.RemoteCluster],
        report_of: Callable[[str], Report | None],
    ) -> None:
        self._remote_clusters = remote_clusters
        self._report_of = report_of

    async def reconcile(self, key: tuple[str, str]) -> float | None:
        """Write one status, if it says anything else than the last one."""
        remote = self._remote_clusters.get(*key)
        report = self._report_of(key[1])
        if remote is None or report is None:
            return None
        ready = next((c for c in remote.status.conditions if c.type == "Ready"), None)
        wanted = ("True" if report.connected else "False", report.reason, report.message)
        told = ready and (ready.status, ready.reason, ready.message)
        identity = report.identity or remote.status.identity
        if wanted == told and identity == remote.status.identity:
            return None
        now = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        same = ready is not None and ready.status == wanted[0]
        condition = {
            "type": "Ready",
            "status": wanted[0],
            "reason": wanted[1],
            "message": wanted[2],
            "lastTransitionTime": ready.last_transition_time if ready and same else now,
        }
        status: dict[str, Any] = {"conditions": [condition], "identity": identity}
        if report.connected:
            status["lastContact"] = now
        patch = {"metadata": {"uid": remote.uid}, "status": status}
        await self._remote_clusters.patch("", remote.name, patch, subresource="status")
        return None
