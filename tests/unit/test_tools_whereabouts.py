"""What `where` says of claims and volumes, from these alone."""

from __future__ import annotations

from typing import Any

import pytest

from csi_liqo.model import names, objects
from csi_liqo.service.tools import whereabouts


def virtual_volume(
    home: str = "rome", *, node: str = "", phase: str = "Bound", **annotations: str
) -> objects.PersistentVolume:
    rules = [objects.NodeSelectorRequirement(key=names.CLUSTER_KEY, operator="In", values=(home,))]
    if node:
        rule = objects.NodeSelectorRequirement(key=names.NODE_KEY, operator="In", values=(node,))
        rules.append(rule)
    term = objects.NodeSelectorTerm(match_expressions=tuple(rules))
    where = "csi-liqo-storage/pvc-1/u1" if home == "rome" else "demo-rome/data/u1"
    return objects.PersistentVolume(
        metadata=objects.Metadata(
            name="pvc-1",
            annotations={f"csi.liqo.io/{k.replace('_', '-')}": v for k, v in annotations.items()},
        ),
        spec=objects.VolumeSpec(
            capacity={"storage": "1Gi"},
            access_modes=("ReadWriteOnce",),
            storage_class_name="csi-liqo",
            claim_ref=objects.ClaimReference(namespace="demo", name="data", uid="u0"),
            node_affinity=objects.VolumeNodeAffinity(
                required=objects.NodeSelector(node_selector_terms=(term,))
            ),
            csi=objects.CsiSource(
                driver="csi.liqo.io",
                volume_handle="pvc-1",
                volume_attributes={"twin": where, "consumer": "rome"},
            ),
        ),
        status=objects.VolumeStatus(phase=phase),
    )


def claim(
    volume: str = "pvc-1", *, node: str = "", phase: str = "Bound", **more: Any
) -> objects.Claim:
    annotations = {names.SELECTED_NODE_ANNOTATION: node} if node else {}
    return objects.Claim(
        metadata=objects.Metadata(
            name="data", namespace="demo", uid="u0", annotations=annotations, **more
        ),
        spec=objects.ClaimSpec(storage_class_name="csi-liqo", volume_name=volume),
        status=objects.ClaimStatus(phase=phase),
    )


TWIN = objects.Claim(
    metadata=objects.Metadata(
        name="pvc-1",
        namespace="csi-liqo-storage",
        uid="u1",
        labels={names.VOLUME_LABEL: "pvc-1", names.CONSUMER_LABEL: "rome"},
    ),
    spec=objects.ClaimSpec(storage_class_name="hostpath", volume_name="pv-real"),
)


def only(*volumes: objects.PersistentVolume, claims: list[objects.Claim]) -> whereabouts.Row:
    [row] = whereabouts.Whereabouts(volumes, claims).rows()
    return row


def test_a_local_claim_shows_its_node_and_what_its_twin_says() -> None:
    row = only(virtual_volume(node="rome-2"), claims=[claim(node="rome-1"), TWIN])

    assert (row.state, row.home, row.node) == ("Bound", "rome", "rome-2")
    assert (row.twin, row.real_class, row.real_volume) == (
        "csi-liqo-storage/pvc-1",
        "hostpath",
        "pv-real",
    )


def test_a_remote_claim_shows_what_came_back_onto_its_volume() -> None:
    volume = virtual_volume(
        "milan", health="Healthy", real_class="fast", real_capacity="2Gi", real_volume="pv-9"
    )

    row = only(volume, claims=[claim(node="milan")])

    assert (row.state, row.home, row.node, row.twin) == (
        "Bound",
        "milan",
        "milan",
        "demo-rome/data",
    )
    assert (row.real_class, row.capacity, row.real_volume) == ("fast", "2Gi", "pv-9")


@pytest.mark.parametrize(
    ("volume", "state"),
    [
        pytest.param(virtual_volume("milan"), "TwinPending", id="remote-without-facts"),
        pytest.param(virtual_volume(), "Bound", id="local-without-health"),
        pytest.param(virtual_volume("milan", health="TwinGone"), "TwinGone", id="bad-health"),
        pytest.param(
            virtual_volume("milan", forgotten="milan", health="TwinGone"),
            "Forgotten",
            id="forgotten-before-anything-else",
        ),
    ],
)
def test_a_bound_claim_has_one_state(volume: objects.PersistentVolume, state: str) -> None:
    assert only(volume, claims=[claim()]).state == state


def test_a_volume_that_outlived_its_claim_is_shown() -> None:
    row = only(virtual_volume(phase="Released"), claims=[])

    assert (row.namespace, row.claim, row.state) == ("demo", "data", "Released")


@pytest.mark.parametrize(
    ("node", "state"), [("", "WaitsForPod"), ("rome-1", "Provisioning")], ids=["no-pod", "a-pod"]
)
def test_a_claim_without_volume_is_known_by_its_class(node: str, state: str) -> None:
    virtual = objects.StorageClass(
        metadata=objects.Metadata(name="csi-liqo"), provisioner="csi.liqo.io"
    )
    waiting = claim("", node=node, phase="Pending")

    [row] = whereabouts.Whereabouts([], [waiting], [virtual]).rows()

    assert (row.state, row.node, row.home) == (state, node, "")


def test_a_claim_of_another_class_is_none_of_ours() -> None:
    assert whereabouts.Whereabouts([], [claim("", phase="Pending")]).rows() == []
    assert whereabouts.Whereabouts([], [claim("pv-other")]).rows() == []


def test_twins_are_not_claims_of_people() -> None:
    rows = whereabouts.Whereabouts([virtual_volume()], [claim(), TWIN]).rows()

    assert [row.claim for row in rows] == ["data"]
