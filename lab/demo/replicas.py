"""Where each replica's data is, as both clusters' own objects say.

Nothing here asks the driver: the virtual volume names its home and its twin, and
the twin is looked up in that cluster with that cluster's own credentials.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Final, Protocol

from lab.demo import view

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from lab import api

CLUSTER_KEY: Final = "topology.csi.liqo.io/cluster"
NODE_KEY: Final = "topology.csi.liqo.io/node"
VOLUME_LABEL: Final = "csi.liqo.io/volume"
CLAIM_PREFIX: Final = "data"


class Objects(Protocol):
    """What a cluster holds."""

    def get(self, kind: str, name: str, namespace: str = "") -> api.Json | None:
        """Return an object; None when there is none."""

    def all(self, kind: str, namespace: str | None = None) -> Iterable[api.Json]:
        """Return the objects of one kind."""


@dataclasses.dataclass(frozen=True, slots=True)
class Replica:
    """One replica of the StatefulSet with all that stands behind its volume."""

    pod: str
    pod_uid: str
    node: str
    claim: str
    volume: str
    home: str
    twin_namespace: str
    twin: str
    real_class: str
    real_volume: str
    path: str

    @property
    def twin_reference(self) -> str:
        """The twin as a person names it."""
        return f"{self.twin_namespace}/{self.twin}"


def find(views: Mapping[str, Objects], consumer: str, namespace: str, pod: str) -> Replica:
    """Follow a ready pod's claim to the twin and the real volume.

    Raises:
        DemoError: a link of that chain is missing or contradicts another.
    """
    here = views[consumer]
    running = _require(here.get("pods", pod, namespace), f"pod {pod} in {consumer}")
    claim_name = f"{CLAIM_PREFIX}-{pod}"
    claim = _require(here.get("claims", claim_name, namespace), f"claim {claim_name}")
    volume_name = claim["spec"].get("volumeName", "")
    volume = _require(here.get("volumes", volume_name), f"volume {volume_name!r} of {claim_name}")
    home = _home_of(volume)
    node = _require(here.get("nodes", running["spec"]["nodeName"]), f"node of {pod}")
    runs_in = node["metadata"].get("labels", {}).get(CLUSTER_KEY)
    if runs_in != home:
        raise view.DemoError(f"{pod} runs in cluster {runs_in}, but its volume's home is {home}")

    twin_namespace, twin_name, uid = volume["spec"]["csi"]["volumeAttributes"]["twin"].split("/")
    there = views[home]
    twin = _require(
        there.get("claims", twin_name, twin_namespace),
        f"twin {twin_namespace}/{twin_name} in {home}",
    )
    if twin["metadata"]["uid"] != uid:
        raise view.DemoError(f"twin {twin_namespace}/{twin_name} in {home} is not the one made")
    _refuse_copies(views, home, volume["spec"]["csi"]["volumeHandle"])
    real_name = twin["spec"].get("volumeName", "")
    real = _require(there.get("volumes", real_name), f"real volume {real_name!r} in {home}")
    return Replica(
        pod=pod,
        pod_uid=running["metadata"]["uid"],
        node=running["spec"]["nodeName"],
        claim=claim_name,
        volume=volume_name,
        home=home,
        twin_namespace=twin_namespace,
        twin=twin_name,
        real_class=twin["spec"]["storageClassName"],
        real_volume=real_name,
        path=real["spec"].get("hostPath", {}).get("path", ""),
    )


def _home_of(volume: api.Json) -> str:
    homes = {
        value
        for term in volume["spec"]["nodeAffinity"]["required"]["nodeSelectorTerms"]
        for expression in term["matchExpressions"]
        if expression["key"] == CLUSTER_KEY
        for value in expression["values"]
    }
    if len(homes) != 1:
        raise view.DemoError(
            f"volume {volume['metadata']['name']} is pinned to {sorted(homes)}, not to one cluster"
        )
    return str(homes.pop())


def _refuse_copies(views: Mapping[str, Objects], home: str, volume_id: str) -> None:
    for name, cluster in views.items():
        found = [
            claim
            for claim in cluster.all("claims")
            if (claim["metadata"].get("labels") or {}).get(VOLUME_LABEL) == volume_id
        ]
        if len(found) != (name == home):
            raise view.DemoError(f"cluster {name} has {len(found)} twins of {volume_id}")


def _require(thing: api.Json | None, what: str) -> api.Json:
    if thing is None:
        raise view.DemoError(f"{what} does not exist")
    return thing
