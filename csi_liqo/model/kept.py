"""What is remembered, on a twin, of a virtual volume that may be deleted while its data stays.

A twin says most of what its virtual volume was: source, home, size, mode. The rest is
kept here from the moment the volume is released under reclaim policy Retain. Nothing that
decides where bytes are is in it: who may write a provider's claims could forge it, and
must not thereby make a volume of this cluster's own files.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from csi_liqo.model import errors, names, objects

_SECRETS: Final = (
    "controllerPublishSecretRef",
    "nodeStageSecretRef",
    "nodePublishSecretRef",
    "controllerExpandSecretRef",
    "nodeExpandSecretRef",
)
_MARKS: Final = (
    "pv.kubernetes.io/provisioned-by",
    "volume.kubernetes.io/provisioner-deletion-secret-name",
    "volume.kubernetes.io/provisioner-deletion-secret-namespace",
)
"""Annotations of a provisioned volume by which its provisioner deletes it."""


class Kept(objects.Struct, frozen=True, omit_defaults=True):
    """Of a virtual volume, what its twin does not say. ``secrets`` are names only."""

    name: str
    storage_class_name: str = ""
    persistent_volume_reclaim_policy: str = ""
    access_modes: tuple[str, ...] = ()
    mount_options: tuple[str, ...] = ()
    fs_type: str = ""
    secrets: dict[str, dict[str, str]] = msgspec.field(default_factory=dict)
    labels: dict[str, str] = msgspec.field(default_factory=dict)
    annotations: dict[str, str] = msgspec.field(default_factory=dict)


def remember(volume: dict[str, Any]) -> Kept:
    """Return what to remember of a virtual volume, given as the API server has it."""
    metadata, spec = volume["metadata"], volume["spec"]
    source = spec.get("csi", {})
    annotations = metadata.get("annotations", {})
    return Kept(
        name=metadata["name"],
        storage_class_name=spec.get("storageClassName", ""),
        persistent_volume_reclaim_policy=spec.get("persistentVolumeReclaimPolicy", ""),
        access_modes=tuple(spec.get("accessModes", ())),
        mount_options=tuple(spec.get("mountOptions", ())),
        fs_type=source.get("fsType", ""),
        secrets={key: source[key] for key in _SECRETS if key in source},
        labels=metadata.get("labels", {}),
        annotations={key: annotations[key] for key in _MARKS if key in annotations},
    )


def kept_of(twin: objects.Claim) -> Kept | None:
    """Return what a twin remembers; None when it remembers nothing.

    Raises:
        errors.PreconditionError: somebody wrote something else there.
    """
    text = twin.metadata.annotations.get(names.RETAINED_ANNOTATION)
    if text is None:
        return None
    try:
        return msgspec.json.decode(text, type=Kept)
    except msgspec.DecodeError as error:
        raise errors.PreconditionError(
            f"annotation {names.RETAINED_ANNOTATION} of twin {twin.reference} is malformed "
            f"({error}); remove it, and name what it said yourself"
        ) from error


def forge_kept(twin: objects.Claim, kept: Kept | None) -> dict[str, Any]:
    """Return the patch that writes this onto a twin, or takes it off."""
    text = msgspec.json.encode(kept).decode() if kept is not None else None
    return {"metadata": {"uid": twin.uid, "annotations": {names.RETAINED_ANNOTATION: text}}}


def forge_owner(twin: objects.Claim, claim: objects.Claim) -> dict[str, Any]:
    """Return the patch that says which claim a twin, adopted under another one, now serves."""
    annotations = {
        names.CLAIM_ANNOTATION: claim.reference,
        names.CLAIM_UID_ANNOTATION: claim.uid,
        names.RETAINED_ANNOTATION: None,
    }
    return {"metadata": {"uid": twin.uid, "annotations": annotations}}
