"""The demo fails when what it shows is not so.

Its good end is tested where clusters run; here, each link from a pod to its data is
broken, one at a time.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import pytest

from lab.demo import replicas, story, view

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

Json = dict[str, Any]

CLUSTER = "topology.csi.liqo.io/cluster"
TWIN = "demo-rome/data-ledger-1/twin-uid"


class Held:
    """Objects by kind, as a cluster would hold them."""

    def __init__(self, **objects: list[Json]) -> None:
        self.objects = objects

    def get(self, kind: str, name: str, namespace: str = "") -> Json | None:
        metadata = (item for item in self.all(kind, namespace) if item["metadata"]["name"] == name)
        return next(metadata, None)

    def all(self, kind: str, namespace: str | None = None) -> Iterable[Json]:
        for item in self.objects.get(kind, []):
            if namespace in (None, item["metadata"].get("namespace", "")):
                yield item


def forge(name: str, namespace: str = "", **rest: Any) -> Json:
    metadata = {"name": name, "namespace": namespace} if namespace else {"name": name}
    metadata |= rest.pop("metadata", {})
    return {"metadata": metadata, **rest}


def forge_twin(namespace: str) -> Json:
    labels = {"csi.liqo.io/volume": "pvc-1"}
    spec = {"volumeName": "real", "storageClassName": "hostpath"}
    metadata = {"uid": "twin-uid", "labels": labels}
    return forge("data-ledger-1", namespace, metadata=metadata, spec=spec)


@pytest.fixture
def clusters() -> dict[str, Held]:
    """A remote replica as it must be."""
    affinity = {"matchExpressions": [{"key": CLUSTER, "operator": "In", "values": ["milan"]}]}
    volume = {
        "nodeAffinity": {"required": {"nodeSelectorTerms": [affinity]}},
        "csi": {"volumeHandle": "pvc-1", "volumeAttributes": {"twin": TWIN}},
    }
    rome = Held(
        pods=[forge("ledger-1", "demo", metadata={"uid": "pod-uid"}, spec={"nodeName": "milan"})],
        nodes=[forge("milan", metadata={"labels": {CLUSTER: "milan"}})],
        claims=[forge("data-ledger-1", "demo", spec={"volumeName": "virtual"})],
        volumes=[forge("virtual", spec=volume)],
    )
    real = forge("real", spec={"hostPath": {"path": "/tmp/hostpath_pv/1"}})
    return {"rome": rome, "milan": Held(claims=[forge_twin("demo-rome")], volumes=[real])}


def find(clusters: dict[str, Held]) -> replicas.Replica:
    return replicas.find(clusters, "rome", "demo", "ledger-1")


def test_a_replica_is_followed_to_its_real_volume(clusters: dict[str, Held]) -> None:
    found = find(clusters)

    assert found.home == "milan"
    assert found.twin_reference == "demo-rome/data-ledger-1"
    assert (found.real_class, found.path) == ("hostpath", "/tmp/hostpath_pv/1")


def _run_elsewhere(clusters: dict[str, Held]) -> None:
    clusters["rome"].objects["nodes"][0]["metadata"]["labels"][CLUSTER] = "rome"


def _lose_the_twin(clusters: dict[str, Held]) -> None:
    clusters["milan"].objects["claims"].clear()


def _replace_the_twin(clusters: dict[str, Held]) -> None:
    clusters["milan"].objects["claims"][0]["metadata"]["uid"] = "another"


def _copy_the_twin(clusters: dict[str, Held]) -> None:
    clusters["rome"].objects["claims"].append(forge_twin("csi-liqo-storage"))


def _pin_to_both(clusters: dict[str, Held]) -> None:
    spec = clusters["rome"].objects["volumes"][0]["spec"]
    terms = spec["nodeAffinity"]["required"]["nodeSelectorTerms"]
    terms.append(copy.deepcopy(terms[0]))
    terms[1]["matchExpressions"][0]["values"] = ["rome"]


def _lose_the_real_volume(clusters: dict[str, Held]) -> None:
    clusters["milan"].objects["volumes"].clear()


@pytest.mark.parametrize(
    ("breaking", "complaint"),
    [
        pytest.param(_run_elsewhere, "runs in cluster rome", id="pod-in-another-cluster"),
        pytest.param(_lose_the_twin, "does not exist", id="no-twin"),
        pytest.param(_replace_the_twin, "not the one made", id="another-twin-of-that-name"),
        pytest.param(_copy_the_twin, "cluster rome has 1 twins", id="a-second-twin"),
        pytest.param(_pin_to_both, "not to one cluster", id="pinned-to-two-clusters"),
        pytest.param(_lose_the_real_volume, "real volume 'real'", id="no-real-volume"),
    ],
)
def test_a_broken_link_fails_the_demo(
    clusters: dict[str, Held], breaking: Callable[[dict[str, Held]], None], complaint: str
) -> None:
    breaking(clusters)

    with pytest.raises(view.DemoError, match=complaint):
        find(clusters)


@pytest.mark.parametrize(
    ("message", "nodes"),
    [
        pytest.param(
            "0/3 nodes are available: 1 node(s) were unschedulable, 2 node(s) didn't match "
            "PersistentVolume's node affinity. preemption: 0/3 nodes are available: 3 Preemption "
            "is not helpful for scheduling.",
            2,
            id="held-by-the-volume",
        ),
        pytest.param(
            "0/3 nodes are available: 1 node(s) were unschedulable, 2 Insufficient cpu.",
            0,
            id="held-by-something-else",
        ),
    ],
)
def test_the_scheduler_says_how_many_nodes_lack_only_the_data(message: str, nodes: int) -> None:
    assert story.nodes_without_data(message) == nodes
