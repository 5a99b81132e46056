"""Making a twin again around the real volume that it had.

A twin's deletion cannot be taken back, so it is made again under its name. All that this
needs is noted on the virtual volume first, where no provider can forge it: an interrupted
repair goes on from what is noted and what is there.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from csi_liqo.model import errors, ids, names, objects, twins

_OF_THE_BINDING: Final = (
    "pv.kubernetes.io/bind-completed",
    "pv.kubernetes.io/bound-by-controller",
    "kubectl.kubernetes.io/last-applied-configuration",
)
"""Annotations of the twin that is gone which would be untrue, or useless, on its successor."""


class Restore(objects.Struct, frozen=True):
    """A repair under way.

    ``twin`` is the manifest to create, ``old_uid`` the twin that goes. ``real_volume`` is
    empty when that twin never had one; ``reclaim_policy`` is that volume's own.
    """

    old_uid: str
    twin: dict[str, Any]
    real_volume: str = ""
    reclaim_policy: str = ""

    @property
    def namespace(self) -> str:
        return str(self.twin["metadata"]["namespace"])

    @property
    def name(self) -> str:
        return str(self.twin["metadata"]["name"])

    @property
    def reference(self) -> str:
        return f"{self.namespace}/{self.name}"


def restore_of(volume: objects.PersistentVolume) -> Restore | None:
    """Return the repair that is under way for a virtual volume; None when none is.

    Raises:
        errors.PreconditionError: somebody wrote something else there.
    """
    text = volume.metadata.annotations.get(names.RESTORE_ANNOTATION)
    if text is None:
        return None
    try:
        return msgspec.json.decode(text, type=Restore)
    except msgspec.DecodeError as error:
        raise errors.PreconditionError(
            f"annotation {names.RESTORE_ANNOTATION} of PersistentVolume {volume.name} is "
            f"malformed: {error}"
        ) from error


def forge_note(volume: objects.PersistentVolume, restore: Restore | None) -> dict[str, Any]:
    """Return the patch that notes a repair on a virtual volume, or takes the note off."""
    text = msgspec.json.encode(restore).decode() if restore is not None else None
    return {"metadata": {"uid": volume.uid, "annotations": {names.RESTORE_ANNOTATION: text}}}


def forge_pointer(volume: objects.PersistentVolume, twin: objects.Claim) -> dict[str, Any]:
    """Return the patch that has a virtual volume name its new twin."""
    annotations = {names.TWIN_ANNOTATION: str(twins.TwinRef.of(twin))}
    return {"metadata": {"uid": volume.uid, "annotations": annotations}}


def forge_successor(twin: dict[str, Any]) -> dict[str, Any]:
    """Return the manifest of a twin that follows one, given as the API server has it.

    Bound to its real volume by name from the first moment, so no provisioner makes another.
    """
    metadata = twin["metadata"]
    annotations = {
        key: value
        for key, value in metadata.get("annotations", {}).items()
        if key not in _OF_THE_BINDING
    }
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {
            "name": metadata["name"],
            "namespace": metadata["namespace"],
            "labels": metadata.get("labels", {}),
            "annotations": annotations,
            "finalizers": [names.TWIN_FINALIZER],
        },
        "spec": twin["spec"],
    }


def forge_lost(
    volume: objects.PersistentVolume,
    reference: twins.TwinRef,
    consumer_id: str,
    real: objects.PersistentVolume,
) -> dict[str, Any]:
    """Return the manifest of a twin that is gone, from the volumes on both sides of it."""
    assert volume.spec.csi is not None
    size = real.spec.capacity.get("storage") or volume.spec.capacity.get("storage", "0")
    annotations = {names.HANDED_OVER_ANNOTATION: "true"}
    owner = volume.spec.claim_ref
    if owner is not None:
        annotations[names.CLAIM_ANNOTATION] = f"{owner.namespace}/{owner.name}"
        annotations[names.CLAIM_UID_ANNOTATION] = owner.uid
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {
            "name": reference.name,
            "namespace": reference.namespace,
            "labels": {
                names.VOLUME_LABEL: ids.VolumeId(volume.spec.csi.volume_handle),
                names.CONSUMER_LABEL: consumer_id,
            },
            "annotations": annotations,
            "finalizers": [names.TWIN_FINALIZER],
        },
        "spec": {
            "accessModes": list(real.spec.access_modes),
            "volumeMode": real.spec.volume_mode,
            "resources": {"requests": {"storage": size}},
            "storageClassName": real.spec.storage_class_name,
            "volumeName": real.name,
        },
    }


def forge_policy(real: objects.PersistentVolume, policy: str) -> list[dict[str, Any]]:
    """Return the patch that gives a real volume a reclaim policy, if it is bound as it is now."""
    path = "/spec/persistentVolumeReclaimPolicy"
    return [*_bound_as_now(real), {"op": "replace", "path": path, "value": policy}]


def forge_reservation(
    real: objects.PersistentVolume, namespace: str, name: str
) -> list[dict[str, Any]]:
    """Return the patch that reserves a released real volume for the claim of a name."""
    reference = {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "namespace": namespace,
        "name": name,
    }
    return [*_bound_as_now(real), {"op": "replace", "path": "/spec/claimRef", "value": reference}]


def _bound_as_now(volume: objects.PersistentVolume) -> list[dict[str, Any]]:
    reference = volume.spec.claim_ref
    assert reference is not None
    return [
        {"op": "test", "path": "/metadata/uid", "value": volume.uid},
        {"op": "test", "path": "/spec/claimRef/uid", "value": reference.uid},
    ]
