"""Checks of the doctor that need a state which no test cluster gets into by itself."""

from __future__ import annotations

from typing import Any

import pytest

from csi_liqo.service.tools import ports
from csi_liqo.service.tools.doctor import facts, findings, installation, providers, storage

Json = dict[str, Any]


def seen(**found: list[Json]) -> facts.Facts:
    """Return a cluster that has these objects, by the names in ports."""
    kinds = {getattr(ports, name.upper()): items for name, items in found.items()}
    return facts.Facts(version="v1.37.2", given_id="rome", found=kinds, hidden={})


def thing(name: str, labels: dict[str, str] | None = None, **more: Any) -> Json:
    return {"metadata": {"name": name, "uid": name, "labels": labels or {}}, **more}


VIRTUAL_NODE = thing(
    "liqo-milan", {"liqo.io/type": "virtual-node", "liqo.io/remote-cluster-id": "milan"}, spec={}
)
VOLUME = thing(
    "pvc-1",
    spec={
        "csi": {
            "driver": "csi.liqo.io",
            "volumeHandle": "pvc-1",
            "volumeAttributes": {"twin": "demo-rome/data/u1", "consumer": "rome"},
        },
        "nodeAffinity": {
            "required": {
                "nodeSelectorTerms": [
                    {
                        "matchExpressions": [
                            {
                                "key": "topology.csi.liqo.io/cluster",
                                "operator": "In",
                                "values": ["milan"],
                            }
                        ]
                    }
                ]
            }
        },
    },
)


def controller(*arguments: str) -> Json:
    container = {"name": "csi-liqo", "args": ["controller", *arguments]}
    return thing("csi-liqo-controller", spec={"template": {"spec": {"containers": [container]}}})


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        pytest.param((), ["volume pvc-1: no RemoteCluster stands for its home milan"], id="alone"),
        pytest.param(("--remote-clusters=both",), [], id="beside-liqo"),
    ],
)
def test_a_home_is_known_from_a_remote_cluster_or_from_liqo(
    arguments: tuple[str, ...], expected: list[str]
) -> None:
    cluster = seen(volumes=[VOLUME], nodes=[VIRTUAL_NODE], deployments=[controller(*arguments)])

    assert [finding.message for finding in storage.check_volumes(cluster)] == expected


def test_a_lease_that_nobody_renews_is_told() -> None:
    spec = {
        "holderIdentity": "a-pod",
        "leaseDurationSeconds": 3,
        "renewTime": "2020-01-01T00:00:00.000000Z",
    }

    [finding] = installation.check_lease(seen(leases=[thing("csi-liqo-controller", spec=spec)]))

    assert finding.level is findings.Level.ERROR
    assert "no reconciler acts" in finding.message


@pytest.mark.parametrize(
    ("selector", "missing"),
    [
        pytest.param({"matchLabels": {"zone": "a"}}, "n2", id="by-labels"),
        pytest.param(
            {"matchExpressions": [{"key": "zone", "operator": "In", "values": ["b"]}]},
            "n1",
            id="by-rules",
        ),
        pytest.param({}, "", id="all-nodes"),
        pytest.param(None, "n1, n2", id="no-node"),
    ],
)
def test_a_node_without_capacity_object_is_told(selector: Json | None, missing: str) -> None:
    cluster = seen(
        csi_drivers=[thing("csi.liqo.io", spec={"storageCapacity": True})],
        classes=[thing("csi-liqo", provisioner="csi.liqo.io")],
        nodes=[thing("n1", {"zone": "a"}, spec={}), thing("n2", {"zone": "b"}, spec={})],
        capacities=[{"storageClassName": "csi-liqo", "nodeTopology": selector}],
    )

    said = [finding.message for finding in storage.check_capacity(cluster)]

    assert len(said) == (1 if missing else 0)
    assert all(f"selects {missing}:" in text for text in said)


def test_conditions_that_are_not_well_come_with_a_remedy_and_ready_is_their_sum() -> None:
    conditions = [
        {"type": kind, "status": status, "reason": reason, "message": "m"}
        for kind, status, reason in (
            ("Connected", "True", "Answers"),
            ("Authorized", "False", "Unauthorized"),
            ("Negotiated", "Unknown", "NotConnected"),
            ("Conflict", "False", "NoConflict"),
            ("Ready", "False", "Unauthorized"),
        )
    ]
    remote = thing("milan", spec={"clusterID": "milan"}, status={"conditions": conditions})

    [finding] = providers.check_conditions(seen(remote_clusters=[remote]))

    assert finding.message == "RemoteCluster milan: Authorized=False (Unauthorized): m"
    assert finding.remedy == "csi-liqo peer rotate milan --provider-kubeconfig FILE"


def test_what_was_forgotten_is_told_and_no_error() -> None:
    volume = {**VOLUME, "metadata": {**VOLUME["metadata"]}}
    volume["metadata"]["annotations"] = {"csi.liqo.io/forgotten": "milan"}

    [finding] = storage.check_volumes(seen(volumes=[volume]))

    assert finding.level is findings.Level.WARNING
    assert "csi-liqo peer add milan" in finding.remedy
