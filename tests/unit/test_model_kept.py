"""What a twin remembers of its volume, and how it is made again."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from csi_liqo.model import errors, kept, objects, restore


def volume() -> dict[str, Any]:
    return {
        "metadata": {
            "name": "pvc-1",
            "uid": "u",
            "labels": {"team": "a"},
            "annotations": {
                "pv.kubernetes.io/provisioned-by": "csi.liqo.io",
                "example.com/other": "x",
            },
        },
        "spec": {
            "storageClassName": "csi-liqo",
            "persistentVolumeReclaimPolicy": "Retain",
            "accessModes": ["ReadWriteOnce"],
            "mountOptions": ["noatime"],
            "csi": {
                "driver": "csi.liqo.io",
                "volumeHandle": "pvc-1",
                "fsType": "xfs",
                "volumeAttributes": {"source": "{}"},
                "nodeStageSecretRef": {"name": "s", "namespace": "n"},
            },
        },
    }


def twin(annotations: dict[str, str]) -> objects.Claim:
    manifest = {"metadata": {"name": "t", "namespace": "n", "annotations": annotations}}
    return msgspec.convert(manifest, objects.Claim)


def test_all_but_what_says_where_the_bytes_are_is_remembered_and_read_back() -> None:
    remembered = kept.remember(volume())

    patch = kept.forge_kept(twin({}), remembered)
    text = patch["metadata"]["annotations"]["csi.liqo.io/retained"]
    assert "volumeAttributes" not in text
    assert "driver" not in text
    assert kept.kept_of(twin({"csi.liqo.io/retained": text})) == remembered
    assert remembered.secrets == {"nodeStageSecretRef": {"name": "s", "namespace": "n"}}
    assert remembered.annotations == {"pv.kubernetes.io/provisioned-by": "csi.liqo.io"}


def test_a_memory_that_somebody_wrote_over_is_refused_with_the_remedy() -> None:
    assert kept.kept_of(twin({})) is None
    with pytest.raises(errors.PreconditionError, match="is malformed"):
        kept.kept_of(twin({"csi.liqo.io/retained": "[]"}))


def test_a_successor_keeps_marks_and_volume_and_nothing_of_the_life_before() -> None:
    before = {
        "metadata": {
            "name": "t",
            "namespace": "n",
            "uid": "old",
            "resourceVersion": "7",
            "deletionTimestamp": "2026-01-01T00:00:00Z",
            "labels": {"csi.liqo.io/fence": "open", "csi.liqo.io/consumer": "another", "a": "b"},
            "annotations": {
                "csi.liqo.io/successor-of": "older",
                "pv.kubernetes.io/bind-completed": "yes",
                "c": "d",
            },
            "finalizers": ["kubernetes.io/pvc-protection", "csi.liqo.io/twin"],
        },
        "spec": {"volumeName": "real", "accessModes": ["ReadWriteOnce"]},
        "status": {"phase": "Bound"},
    }
    virtual = msgspec.convert(volume(), objects.PersistentVolume)
    assert restore.forge_successor(before, virtual, "rome") == {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {
            "name": "t",
            "namespace": "n",
            "labels": {"csi.liqo.io/volume": "pvc-1", "csi.liqo.io/consumer": "rome", "a": "b"},
            "annotations": {"csi.liqo.io/handed-over": "true", "c": "d"},
            "finalizers": ["csi.liqo.io/twin"],
        },
        "spec": {"volumeName": "real", "accessModes": ["ReadWriteOnce"]},
    }


def test_a_repair_under_way_is_read_back_as_it_was_noted() -> None:
    noted = restore.Restore(
        old_uid="old",
        twin={"metadata": {"namespace": "n", "name": "t"}},
        real_volume="real",
        reclaim_policy="Delete",
    )
    virtual = msgspec.convert(volume(), objects.PersistentVolume)
    text = restore.forge_note(virtual, noted)["metadata"]["annotations"]["csi.liqo.io/restore"]
    shown = volume()
    shown["metadata"]["annotations"]["csi.liqo.io/restore"] = text

    assert restore.restore_of(msgspec.convert(shown, objects.PersistentVolume)) == noted
    assert restore.restore_of(virtual) is None
