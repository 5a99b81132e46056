"""Waiting for what a RemoteCluster says of its provider."""

from __future__ import annotations

from tests import control_planes
from tests.cluster import fabric


async def reported_away(driver: fabric.Fabric) -> None:
    await control_planes.wait_until(
        driver.consumer,
        fabric.REMOTE_CLUSTERS,
        "milan",
        lambda item: item is not None and not fabric.is_ready(item),
    )


async def reported(driver: fabric.Fabric, kind: str, reason: str, words: str = "") -> None:
    """Wait until a condition of the RemoteCluster is False for a reason."""

    def says(item: fabric.Json | None) -> bool:
        conditions = (item or {}).get("status", {}).get("conditions", [])
        return any(
            (c["type"], c["status"], c["reason"]) == (kind, "False", reason)
            and words in c["message"]
            for c in conditions
        )

    await control_planes.wait_until(
        driver.consumer, fabric.REMOTE_CLUSTERS, "milan", says, timeout_seconds=60
    )


async def reported_back(driver: fabric.Fabric) -> None:
    await control_planes.wait_until(
        driver.consumer, fabric.REMOTE_CLUSTERS, "milan", fabric.is_ready, timeout_seconds=60
    )
