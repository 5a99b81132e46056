"""How much room there is for new volumes, as the scheduler reads it.

The scheduler takes a node for a new volume of a class only when a CSIStorageCapacity
of that class selects the node and has room for the claim; it compares the claim with
``maximumVolumeSize`` where that is given, and prefers the node whose ``capacity`` the
claim fills least (kubernetes v1.37.2, volumebinding binder.go:980-1060, scorer.go).
So a place of which nothing is known must say a number, too: with none it would get no
volumes, and with a boundless ``capacity`` it would be preferred to every known place.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, Final

import msgspec

from csi_liqo.model import names, objects, quantities

PLENTY_BYTES: Final = 1 << 60
"""What is said where nobody counts: more than anybody asks for."""

MOST_BYTES: Final = (1 << 63) - 1
"""The largest number of CSI."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Room:
    """The room that one class has on the nodes that ``selector`` selects, in bytes.

    ``largest_bytes`` is the largest volume there, None for "as much as is available".
    ``counted`` is whether somebody counts; else ``available_bytes`` is for the order only.
    """

    cluster_id: str
    selector: objects.LabelSelector
    available_bytes: int = 0
    largest_bytes: int | None = None
    counted: bool = True

    @property
    def limit_bytes(self) -> int:
        """The largest claim that the scheduler sends here."""
        return self.available_bytes if self.largest_bytes is None else self.largest_bytes


def select_cluster(cluster_id: str) -> objects.LabelSelector:
    """Return what selects every node of a cluster."""
    return objects.LabelSelector(match_labels={names.CLUSTER_KEY: cluster_id})


def none_in(cluster_id: str) -> Room:
    """Return that a cluster has no room."""
    return Room(cluster_id=cluster_id, selector=select_cluster(cluster_id))


def plenty_in(cluster_id: str) -> Room:
    """Return that nobody counts the room of a cluster."""
    return replace(
        none_in(cluster_id),
        available_bytes=PLENTY_BYTES,
        largest_bytes=PLENTY_BYTES,
        counted=False,
    )


def mirror(known: objects.StorageCapacity, cluster_id: str) -> Room | None:
    """Return the room that a real class says it has on nodes of this cluster.

    None for one that no node can reach. A real driver's selector may be as wide as
    "every node", which must not mean the nodes of other clusters.
    """
    if known.node_topology is None:
        return None
    own = {**known.node_topology.match_labels, names.CLUSTER_KEY: cluster_id}
    return Room(
        cluster_id=cluster_id,
        selector=objects.LabelSelector(
            match_labels=own, match_expressions=known.node_topology.match_expressions
        ),
        available_bytes=known.available_bytes,
        largest_bytes=known.largest_bytes,
    )


def best_of(cluster_id: str, offered: Iterable[Room]) -> Room:
    """Return the room of a whole cluster: the best of its parts, because one must hold it all."""
    parts = tuple(offered)
    if any(not part.counted for part in parts):
        return plenty_in(cluster_id)
    best = max(parts, key=lambda part: part.limit_bytes, default=none_in(cluster_id))
    return replace(best, cluster_id=cluster_id, selector=select_cluster(cluster_id))


def tidy(rooms: Iterable[Room]) -> tuple[Room, ...]:
    """Return one room a selector, none of them preferred for being uncounted.

    Where some places count, one that does not is as good as the best of these.
    """
    best: dict[bytes, Room] = {}
    for room in rooms:
        key = _key(room.selector)
        if key not in best or best[key].limit_bytes < room.limit_bytes:
            best[key] = room
    counted = [room.available_bytes for room in best.values() if room.counted]
    usual = max(counted, default=0) or PLENTY_BYTES
    return tuple(
        room if room.counted else replace(room, available_bytes=usual) for room in best.values()
    )


def total(rooms: Iterable[Room]) -> tuple[int, int]:
    """Return what is available in rooms together, and the largest volume, as CSI's GetCapacity."""
    found = tuple(rooms)
    available = sum(room.available_bytes for room in found)
    largest = max((room.limit_bytes for room in found), default=0)
    return min(available, MOST_BYTES), min(largest, MOST_BYTES)


def object_name(driver: str, class_name: str, selector: objects.LabelSelector) -> str:
    """Return the name of the object for a room; all that is immutable in it is in the name."""
    text = msgspec.json.encode((driver, class_name)) + _key(selector)
    return f"csi-liqo-{hashlib.sha256(text).hexdigest()[:24]}"


def forge(
    room: Room, class_name: str, *, driver: objects.CsiDriver, consumer_id: str, namespace: str
) -> dict[str, Any]:
    """Return the CSIStorageCapacity for a room; the CSIDriver's end is its end, too."""
    return {
        "apiVersion": "storage.k8s.io/v1",
        "kind": "CSIStorageCapacity",
        "metadata": {
            "name": object_name(driver.name, class_name, room.selector),
            "namespace": namespace,
            "labels": {names.CONSUMER_LABEL: consumer_id, names.DRIVER_LABEL: driver.name},
            "ownerReferences": _owners(driver),
        },
        "storageClassName": class_name,
        "nodeTopology": msgspec.to_builtins(room.selector),
        **_amounts(room),
    }


def forge_change(
    known: objects.StorageCapacity, room: Room, driver: objects.CsiDriver
) -> dict[str, Any]:
    """Return the patch that makes an object say what a room is now; empty when it does."""
    owned = any(owner.uid == driver.uid for owner in known.metadata.owner_references)
    said = (known.available_bytes, known.largest_bytes)
    if owned and said == (room.available_bytes, room.largest_bytes):
        return {}
    version = known.metadata.resource_version
    return {
        "metadata": {
            "uid": known.uid,
            "resourceVersion": version,
            "ownerReferences": _owners(driver),
        },
        **_amounts(room),
    }


def _amounts(room: Room) -> dict[str, str | None]:
    largest = room.largest_bytes
    return {
        "capacity": quantities.to_text(room.available_bytes),
        "maximumVolumeSize": None if largest is None else quantities.to_text(largest),
    }


def _owners(driver: objects.CsiDriver) -> list[dict[str, str]]:
    return [
        {
            "apiVersion": "storage.k8s.io/v1",
            "kind": "CSIDriver",
            "name": driver.name,
            "uid": driver.uid,
        }
    ]


def _key(selector: objects.LabelSelector) -> bytes:
    return msgspec.json.encode(selector, order="sorted")
