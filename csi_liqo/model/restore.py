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
    names.SUCCESSOR_ANNOTATION,
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


def is_successor(restore: Restore, claim: objects.Claim) -> bool:
    """Tell whether a claim is the twin that a repair made, and not a foreign one of its name."""
    wanted = restore.twin["metadata"]["labels"]
    same = all(claim.metadata.labels.get(key) == value for key, value in wanted.items())
    return same and restore.real_volume in ("", claim.spec.volume_name)


def outdated(restore: Restore, claim: objects.Claim | None) -> bool:
    """Tell whether a repair must be noted anew, given the claim that has the twin's name.

    The twin that it made was deleted before it came to its end; or the one that goes got its
    real volume only after it was deleted.
    """
    if claim is None or not claim.deleting:
        return False
    if claim.uid == restore.old_uid:
        return claim.spec.volume_name != restore.real_volume
    return is_successor(restore, claim)


def forge_note(volume: objects.PersistentVolume, restore: Restore) -> dict[str, Any]:
    """Return the patch that notes a repair on exactly this version of a virtual volume."""
    metadata = {
        "uid": volume.uid,
        "resourceVersion": volume.metadata.resource_version,
        "annotations": {names.RESTORE_ANNOTATION: msgspec.json.encode(restore).decode()},
    }
    return {"metadata": metadata}


def forge_end(volume: objects.PersistentVolume) -> list[dict[str, Any]]:
    """Return the patch that takes the note off again, if it is still this one."""
    path = f"/metadata/annotations/{names.RESTORE_ANNOTATION.replace('/', '~1')}"
    text = volume.metadata.annotations[names.RESTORE_ANNOTATION]
    return [
        {"op": "test", "path": "/metadata/uid", "value": volume.uid},
        {"op": "test", "path": path, "value": text},
        {"op": "remove", "path": path},
    ]


def forge_pointer(volume: objects.PersistentVolume, twin: objects.Claim) -> dict[str, Any]:
    """Return the patch that has a virtual volume name its new twin."""
    annotations = {names.TWIN_ANNOTATION: str(twins.TwinRef.of(twin))}
    return {"metadata": {"uid": volume.uid, "annotations": annotations}}


def forge_successor(
    twin: dict[str, Any], volume: objects.PersistentVolume, consumer_id: str
) -> dict[str, Any]:
    """Return the manifest of a twin that follows one, given as the API server has it.

    It names its real volume from the first moment, so no provisioner makes another. What
    makes it ours it has again, should somebody have taken that off. Whoever deleted the
    first may have opened its fence: the successor's is closed.
    """
    metadata = twin["metadata"]
    annotations = {
        key: value
        for key, value in metadata.get("annotations", {}).items()
        if key not in _OF_THE_BINDING
    }
    labels = {k: v for k, v in metadata.get("labels", {}).items() if k != names.FENCE_LABEL}
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {
            "name": metadata["name"],
            "namespace": metadata["namespace"],
            "labels": labels | _own_labels(volume, consumer_id),
            "annotations": annotations | {names.HANDED_OVER_ANNOTATION: "true"},
            "finalizers": [names.TWIN_FINALIZER],
        },
        "spec": twin["spec"],
    }


def _own_labels(volume: objects.PersistentVolume, consumer_id: str) -> dict[str, str]:
    assert volume.spec.csi is not None
    return {
        names.VOLUME_LABEL: ids.VolumeId(volume.spec.csi.volume_handle),
        names.CONSUMER_LABEL: consumer_id,
    }


def forge_lost(
    volume: objects.PersistentVolume,
    reference: twins.TwinRef,
    consumer_id: str,
    real: objects.PersistentVolume,
) -> dict[str, Any]:
    """Return the manifest of a twin that is gone, from the volumes on both sides of it."""
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
            "labels": _own_labels(volume, consumer_id),
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


def forge_reservation(real: objects.PersistentVolume, twin: objects.Claim) -> list[dict[str, Any]]:
    """Return the patch that gives a real volume to a twin, if it is nobody else's meanwhile."""
    reference = {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "namespace": twin.namespace,
        "name": twin.name,
        "uid": twin.uid,
    }
    return [*_bound_as_now(real), {"op": "add", "path": "/spec/claimRef", "value": reference}]


def forge_succession(restore: Restore, twin: objects.Claim) -> dict[str, Any]:
    """Return the patch that says on a twin which one it follows."""
    annotations = {names.SUCCESSOR_ANNOTATION: restore.old_uid}
    return {"metadata": {"uid": twin.uid, "annotations": annotations}}


def _bound_as_now(volume: objects.PersistentVolume) -> list[dict[str, Any]]:
    """Whose it is must not have changed; that it is nobody's, only its version can tell."""
    reference = volume.spec.claim_ref
    tests = [{"op": "test", "path": "/metadata/uid", "value": volume.uid}]
    if reference is None or not reference.uid:
        version = volume.metadata.resource_version
        return [*tests, {"op": "test", "path": "/metadata/resourceVersion", "value": version}]
    return [*tests, {"op": "test", "path": "/spec/claimRef/uid", "value": reference.uid}]
