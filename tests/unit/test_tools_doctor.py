"""Checks of the doctor that need a state which no test cluster gets into by itself."""

from __future__ import annotations

import copy
import datetime
from typing import Any

import pytest

from csi_liqo.model import objects
from csi_liqo.service.tools import ports, told
from csi_liqo.service.tools.doctor import (
    advice,
    facts,
    findings,
    installation,
    providers,
    storage,
)

Json = dict[str, Any]


def seen(**found: list[Json]) -> facts.Facts:
    """Return a cluster that has these objects, by the names in ports."""
    kinds = {getattr(ports, name.upper()): items for name, items in found.items()}
    return facts.Facts(
        version="v1.37.2", given=told.Told(cluster_id="rome"), found=kinds, hidden={}
    )


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


MILAN = thing("milan", spec={"clusterID": "milan"}, status={})
DRIVER = thing("csi.liqo.io", spec={"attachRequired": False})


def lease(renewed: str, *, holder: str = "a-pod") -> Json:
    spec = {"holderIdentity": holder, "leaseDurationSeconds": 3, "renewTime": renewed}
    return thing("csi.liqo.io-controller", spec=spec)


def now() -> str:
    return datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


@pytest.mark.parametrize(
    ("leases", "words", "level"),
    [
        pytest.param(
            [lease("2020-01-01T00:00:00.000000Z")],
            "s ago by a-pod: no reconciler acts",
            findings.Level.ERROR,
            id="old",
        ),
        pytest.param(
            [lease(now(), holder="")], "is held by nobody", findings.Level.WARNING, id="given-back"
        ),
        pytest.param([], "is held by nobody", findings.Level.WARNING, id="never-made"),
    ],
)
def test_a_lease_of_the_controller_that_nobody_renews_is_told(
    leases: list[Json], words: str, level: findings.Level
) -> None:
    sidecar = {**lease(now()), "metadata": {"name": "csi-liqo-io"}}

    [finding] = installation.check_lease(seen(leases=[*leases, sidecar], csi_drivers=[DRIVER]))

    assert finding.level is level
    assert finding.message.startswith("Lease csi.liqo.io-controller ")
    assert words in finding.message


def test_the_lease_of_a_controller_that_acts_is_well_whatever_becomes_of_others() -> None:
    stale = {**lease("2020-01-01T00:00:00Z"), "metadata": {"name": "csi-liqo-io"}}

    assert not list(
        installation.check_lease(seen(leases=[lease(now()), stale], csi_drivers=[DRIVER]))
    )


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
    [finding] = storage.check_volumes(seen(volumes=[volume(forgotten="milan")]))

    assert finding.level is findings.Level.WARNING
    assert "csi-liqo peer add milan" in finding.remedy


def volume(**annotations: str) -> Json:
    made = copy.deepcopy(VOLUME)
    marks = {f"csi.liqo.io/{key}": value for key, value in annotations.items()}
    made["metadata"]["annotations"] = marks
    return made


@pytest.mark.parametrize("retained", [False, True], ids=["abandoned", "retained"])
def test_a_local_twin_without_volume_is_told_unless_its_data_was_to_be_kept(
    *, retained: bool
) -> None:
    marks = {"csi.liqo.io/handed-over": "true", "csi.liqo.io/claim-uid": "gone"}
    if retained:
        marks["csi.liqo.io/retained"] = "{}"
    twin = thing("pvc-9", {"csi.liqo.io/volume": "pvc-9", "csi.liqo.io/consumer": "rome"})
    twin["metadata"] |= {"namespace": "csi-liqo-storage", "annotations": marks}

    said = list(storage.check_local_twins(seen(claims=[twin])))

    assert [finding.level for finding in said] == ([] if retained else [findings.Level.WARNING])
    assert all("csi-liqo adopt rome csi-liqo-storage/pvc-9" in f.remedy for f in said)


@pytest.mark.parametrize(
    ("health", "remedy"),
    [
        ("TwinDeleted", "csi-liqo doctor --repair"),
        ("TwinGone", "csi-liqo doctor --repair"),
        ("TwinLost", "its data is nowhere else"),
    ],
)
def test_what_the_controller_says_of_a_volume_comes_with_a_remedy(health: str, remedy: str) -> None:
    cluster = seen(volumes=[volume(health=health)], remote_clusters=[MILAN])

    [finding] = storage.check_volumes(cluster)

    assert finding.message == f"volume pvc-1 is {health}"
    assert remedy in finding.remedy


def test_a_repair_that_was_begun_is_told() -> None:
    claim = objects.Claim(metadata=objects.Metadata(name="other"))
    [known] = seen(volumes=[volume(restore="{}")]).virtual_volumes

    [finding] = storage.check_twin(known, {("demo-rome", "data"): claim}, "")

    assert "its repair was begun" in finding.message
    assert "csi-liqo doctor --repair" in finding.remedy


@pytest.mark.parametrize(
    ("arguments", "variables", "source", "programs"),
    [
        ([], {}, told.Source.CSI_LIQO, ()),
        (["--remote-clusters=both"], {}, told.Source.BOTH, ()),
        ([], {"CSI_LIQO_REMOTE_CLUSTERS": "liqo"}, told.Source.LIQO, ()),
        (
            ["--remote-clusters=both", "--allowed-exec-plugins=/a,/b"],
            {"CSI_LIQO_REMOTE_CLUSTERS": "liqo"},
            told.Source.BOTH,
            ("/a", "/b"),
        ),
        (["--remote-clusters=nonsense"], {}, told.Source.CSI_LIQO, ()),
    ],
)
def test_what_the_controller_was_told_is_read_from_its_deployment(
    arguments: list[str],
    variables: dict[str, str],
    source: told.Source,
    programs: tuple[str, ...],
) -> None:
    deployment = controller(*arguments)
    container = deployment["spec"]["template"]["spec"]["containers"][0]
    container["env"] = [{"name": key, "value": value} for key, value in variables.items()]
    config = thing("csi-liqo", data={"clusterID": "rome"})

    found = told.read([config], [deployment])

    assert found == told.Told(cluster_id="rome", source=source, exec_plugins=programs)


def test_two_installations_are_summed_up_and_none_says_nothing() -> None:
    both = [controller(), controller("--remote-clusters=liqo")]

    assert told.read([], both).source is told.Source.BOTH
    assert told.read([], []) == told.Told()


def test_what_liqo_describes_is_a_provider_unless_a_remote_cluster_stands_for_it() -> None:
    node = thing("milan", spec={"clusterID": "milan", "kubeconfigSecretRef": {"name": "secret"}})
    node["metadata"]["namespace"] = "liqo-tenant-milan"
    beside = {"liqo_virtual_nodes": [node], "deployments": [controller("--remote-clusters=both")]}

    [described] = seen(**beside).providers
    assert advice.named(described) == "Liqo's VirtualNode liqo-tenant-milan/milan"
    assert "csi-liqo peer" not in advice.for_reason(described, "Unauthorized")
    [own] = seen(remote_clusters=[MILAN], **beside).providers
    assert advice.named(own) == "RemoteCluster milan"
    assert not seen(liqo_virtual_nodes=[node]).providers


def test_what_was_said_last_on_a_node_of_liqos_is_told() -> None:
    node = thing("milan", spec={"clusterID": "milan"})
    node["metadata"]["namespace"] = "liqo-tenant-milan"
    events = [
        {
            "involvedObject": {"kind": "Node", "name": "liqo-milan", "uid": "liqo-milan"},
            "source": {"component": "csi.liqo.io"},
            "type": kind,
            "reason": reason,
            "message": "storage of cluster milan: why",
            "lastTimestamp": f"2026-01-01T00:00:0{second}Z",
        }
        for second, kind, reason in ((1, "Normal", "Connected"), (2, "Warning", "Unreachable"))
    ]
    beside = {
        "nodes": [VIRTUAL_NODE],
        "csi_drivers": [DRIVER],
        "liqo_virtual_nodes": [node],
        "deployments": [controller("--remote-clusters=liqo")],
    }

    [finding] = providers.check_conditions(seen(events=events, **beside))

    text = "virtual node liqo-milan: Unreachable: storage of cluster milan: why"
    assert finding.message == text
    assert not list(providers.check_conditions(seen(events=events[:1], **beside)))
