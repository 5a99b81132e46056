"""Ten thousand objects that say the same hold it once."""

from __future__ import annotations

import json
from typing import Any

import msgspec

from csi_liqo.model import objects, sharing


def volume(number: int, *, node: str = "rome-1") -> objects.PersistentVolume:
    rule = {"key": "kubernetes.io/hostname", "operator": "In", "values": [node]}
    manifest: dict[str, Any] = {
        "metadata": {
            "name": f"pvc-{number}",
            "uid": f"uid-{number}",
            "finalizers": ["kubernetes.io/pv-protection"],
            "managedFields": [{"manager": "kubectl", "fieldsV1": {"f:spec": {}}}],
        },
        "spec": {
            "capacity": {"storage": "1Gi"},
            "accessModes": ["ReadWriteOnce"],
            "storageClassName": "virtual",
            "nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": [rule]}]}},
        },
    }
    return msgspec.json.decode(json.dumps(manifest), type=objects.PersistentVolume)


def test_what_two_objects_say_alike_is_there_once() -> None:
    one, other = volume(1), volume(2)
    assert one.spec.node_affinity is other.spec.node_affinity
    assert one.spec.capacity is other.spec.capacity
    assert one.spec.storage_class_name is other.spec.storage_class_name
    assert one.metadata.finalizers is other.metadata.finalizers


def test_what_they_say_each_for_itself_stays_its_own() -> None:
    one, other = volume(1), volume(2, node="rome-2")
    assert (one.uid, other.uid) == ("uid-1", "uid-2")
    assert [v.terms[0].match_expressions[0].values for v in (one, other)] == [
        ("rome-1",),
        ("rome-2",),
    ]


def test_a_value_that_was_forgotten_is_still_right() -> None:
    early = volume(1, node="node-0")
    for number in range(sharing.MOST + 1):
        volume(number, node=f"node-{number + 1}")
    late = volume(1, node="node-0")
    assert late == early
    assert late.spec.node_affinity is not early.spec.node_affinity
