"""What a twin looks like, and how a virtual volume names its twin."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from csi_liqo.model import errors, ids, labelling, names, objects

TWIN_KEY: Final = "twin"
"""Entry of volume_context that names the twin."""
CONSUMER_KEY: Final = "consumer"
"""Entry of volume_context that names the cluster this driver ran in."""


@dataclass(frozen=True, slots=True)
class TwinRef:
    """Exactly one twin: its name, and the uid that tells it from a successor of that name."""

    namespace: str
    name: str
    uid: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}/{self.uid}"

    @classmethod
    def of(cls, twin: objects.Claim) -> TwinRef:
        """Return the reference to a twin that exists."""
        return cls(twin.namespace, twin.name, twin.uid)

    @classmethod
    def parse(cls, text: str) -> TwinRef:
        """Read a reference from volume_context.

        Raises:
            errors.InvalidRequestError: it is none.
        """
        parts = text.split("/")
        if len(parts) != 3 or not all(parts):
            raise errors.InvalidRequestError(f"volume_context.{TWIN_KEY} is malformed: {text!r}")
        return cls(*parts)


@dataclass(frozen=True, slots=True, kw_only=True)
class TwinSpec:
    """The twin that a virtual volume wants.

    ``selected_node`` is empty where the real class must not be told a node, ``claim``
    None where the volume was asked for without one.
    """

    volume_id: ids.VolumeId
    consumer_id: str
    namespace: str
    name: str
    class_name: str
    access_modes: tuple[str, ...]
    volume_mode: str
    size_bytes: int
    selected_node: str = ""
    claim: objects.Claim | None = None

    @property
    def claim_uid(self) -> str:
        return self.claim.uid if self.claim else ""

    @property
    def reference(self) -> str:
        return f"{self.namespace}/{self.name}"


def forge_twin(spec: TwinSpec, rules: labelling.Rules) -> dict[str, Any]:
    """Return the manifest of a twin, with the labels and annotations that ``rules`` share.

    The finalizer is there from the first moment: Kubernetes protects a claim only
    while a pod names it, and no pod ever names a twin (kubernetes v1.37.2,
    pvcprotection:281-292). Labels of the claim never select a real volume, so its
    selector stays behind.
    """
    labels: dict[str, str] = {}
    annotations: dict[str, str] = {}
    if spec.claim is not None:
        shared = labelling.forge_shared(rules, spec.claim.metadata)
        labels, annotations = shared[labelling.LABELS], shared[labelling.ANNOTATIONS]
        annotations[names.CLAIM_ANNOTATION] = spec.claim.reference
        annotations[names.CLAIM_UID_ANNOTATION] = spec.claim.uid
        annotations[names.VIRTUAL_CLASS_ANNOTATION] = spec.claim.spec.storage_class_name
    if spec.selected_node:
        annotations[names.SELECTED_NODE_ANNOTATION] = spec.selected_node
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {
            "name": spec.name,
            "namespace": spec.namespace,
            "labels": {
                **labels,
                names.VOLUME_LABEL: spec.volume_id,
                names.CONSUMER_LABEL: spec.consumer_id,
            },
            "annotations": annotations,
            "finalizers": [names.TWIN_FINALIZER],
        },
        "spec": {
            "accessModes": list(spec.access_modes),
            "volumeMode": spec.volume_mode,
            "resources": {"requests": {"storage": str(spec.size_bytes)}},
            "storageClassName": spec.class_name,
        },
    }


def forge_handover(twin: objects.Claim) -> dict[str, Any]:
    """Return the patch that marks a twin handed-over; its uid is a precondition."""
    return {"metadata": {"uid": twin.uid, "annotations": {names.HANDED_OVER_ANNOTATION: "true"}}}


def forge_open_fence(twin: objects.Claim) -> dict[str, Any]:
    """Return the patch that lets a person end this one twin in the fenced namespace."""
    labels = {names.FENCE_LABEL: names.FENCE_OPEN}
    return {"metadata": {"uid": twin.uid, "labels": labels}}


def forge_marks(twin: objects.Claim) -> dict[str, Any]:
    """Return the patch that gives exactly this version of a twin back what protects its data."""
    return {
        "metadata": {
            "uid": twin.uid,
            "resourceVersion": twin.metadata.resource_version,
            "annotations": {names.HANDED_OVER_ANNOTATION: "true"},
            "finalizers": sorted({*twin.metadata.finalizers, names.TWIN_FINALIZER}),
        }
    }


def forge_version_test(thing: objects.Object) -> dict[str, Any]:
    """Return the part of a JSON patch by which it is for exactly this version of an object."""
    version = thing.metadata.resource_version
    return {"op": "test", "path": "/metadata/resourceVersion", "value": version}


def forge_release(thing: objects.Object, finalizer: str) -> list[dict[str, Any]]:
    """Return the patch that takes one finalizer off exactly this object, leaving the others."""
    index = thing.metadata.finalizers.index(finalizer)
    return [
        {"op": "test", "path": "/metadata/uid", "value": thing.uid},
        {"op": "test", "path": f"/metadata/finalizers/{index}", "value": finalizer},
        {"op": "remove", "path": f"/metadata/finalizers/{index}"},
    ]
