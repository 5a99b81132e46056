"""What a pod becomes in the provider, and what its status becomes here. Pure.

Everything that ties a pod to the consumer's nodes, accounts and scheduler is left
out; volumes are copied as they are, as Liqo does (its RemotePodSpec), but for the
service account's token, which the consumer's API server added.
"""

from __future__ import annotations

import copy
import dataclasses
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from lab import api

_DOMAIN: Final = "virtual-kubelet.lab"
CONSUMER_LABEL: Final = f"{_DOMAIN}/consumer"
NODE_LABEL: Final = f"{_DOMAIN}/node"
NAMESPACE_LABEL: Final = f"{_DOMAIN}/origin-namespace"
UID_LABEL: Final = f"{_DOMAIN}/origin-uid"
# True once the pod was made in the provider: from then on its absence there is its end.
OFFLOADED: Final = f"{_DOMAIN}/Offloaded"

# What only means something in the cluster that scheduled the pod.
_DROPPED: Final = (
    "affinity",
    "ephemeralContainers",
    "nodeName",
    "nodeSelector",
    "overhead",
    "preemptionPolicy",
    "priority",
    "priorityClassName",
    "resourceClaims",
    "runtimeClassName",
    "schedulerName",
    "schedulingGates",
    "serviceAccount",
    "serviceAccountName",
    "tolerations",
    "topologySpreadConstraints",
)
# The name the ServiceAccount admission plugin gives its volume; "serviceaccount/admission.go".
_TOKEN_PREFIX: Final = "kube-api-access-"
_MIRRORED: Final = (
    "phase",
    "message",
    "reason",
    "startTime",
    "podIP",
    "podIPs",
    "initContainerStatuses",
    "containerStatuses",
)
_ENDED: Final = ("Succeeded", "Failed")


@dataclasses.dataclass(frozen=True, slots=True)
class Origin:
    """Who offloads: the consumer cluster, by the uid of its kube-system, and the virtual node."""

    consumer: str
    node: str

    @property
    def selector(self) -> str:
        """The label selector of everything offloaded by this virtual kubelet."""
        return f"{CONSUMER_LABEL}={self.consumer},{NODE_LABEL}={self.node}"


def uid_of(pod: api.Json) -> str:
    """Return a pod's own uid."""
    return str(pod["metadata"]["uid"])


def origin_uid(remote: api.Json) -> str | None:
    """Return the uid of the pod this one is the copy of; None means it is nobody's copy."""
    uid = (remote["metadata"].get("labels") or {}).get(UID_LABEL)
    return None if uid is None else str(uid)


def has_ended(pod: api.Json) -> bool:
    """Tell whether a pod reached a phase that it cannot leave."""
    return (pod.get("status") or {}).get("phase") in _ENDED


def was_offloaded(pod: api.Json) -> bool:
    """Tell whether a pod's status says that it was made in the provider."""
    return any(
        condition["type"] == OFFLOADED and condition["status"] == "True"
        for condition in (pod.get("status") or {}).get("conditions") or []
    )


def forge_copy(pod: api.Json, *, namespace: str, origin: Origin) -> api.Json:
    """Return the pod to create in the provider's `namespace`."""
    metadata = pod["metadata"]
    spec = {name: value for name, value in pod["spec"].items() if name not in _DROPPED}
    spec = copy.deepcopy(spec)
    _drop_token(spec)
    spec["automountServiceAccountToken"] = False
    spec["enableServiceLinks"] = False
    labels = {
        **(metadata.get("labels") or {}),
        CONSUMER_LABEL: origin.consumer,
        NODE_LABEL: origin.node,
        NAMESPACE_LABEL: metadata["namespace"],
        UID_LABEL: metadata["uid"],
    }
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": metadata["name"],
            "namespace": namespace,
            "labels": labels,
            "annotations": dict(metadata.get("annotations") or {}),
        },
        "spec": spec,
    }


def _drop_token(spec: api.Json) -> None:
    volumes = spec.get("volumes") or []
    tokens = {
        volume["name"]
        for volume in volumes
        if "projected" in volume and volume["name"].startswith(_TOKEN_PREFIX)
    }
    if not tokens:
        return
    spec["volumes"] = [volume for volume in volumes if volume["name"] not in tokens]
    for kind in ("initContainers", "containers"):
        for container in spec.get(kind) or []:
            container["volumeMounts"] = [
                mount
                for mount in container.get("volumeMounts") or []
                if mount["name"] not in tokens
            ]


def status_of(local: api.Json, remote: api.Json, *, host_address: str) -> api.Json:
    """Return the status of the pod here, told by its copy in the provider."""
    theirs = remote.get("status") or {}
    status = {name: copy.deepcopy(theirs[name]) for name in _MIRRORED if theirs.get(name)}
    status.setdefault("phase", "Pending")
    conditions = [_without_generation(item) for item in theirs.get("conditions") or []]
    scheduled = next((item for item in conditions if item["type"] == "PodScheduled"), None)
    waiting = scheduled is not None and scheduled["status"] != "True"
    status["conditions"] = [
        # The scheduler here did its work; what the provider's says belongs beside it.
        *_own_conditions(local),
        *(item for item in conditions if item["type"] != "PodScheduled"),
        offloaded_condition(
            True,
            reason="WaitingInProvider" if waiting else "Offloaded",
            message=(scheduled or {}).get("message", "") if waiting else "",
        ),
    ]
    if theirs.get("startTime"):
        status["hostIP"] = host_address
        status["hostIPs"] = [{"ip": host_address}]
    return status


def status_of_refused(local: api.Json, *, reason: str, message: str) -> api.Json:
    """Return the status of a pod that the provider does not take, or not yet."""
    return {
        "phase": "Pending",
        "reason": reason,
        "message": message,
        "conditions": [
            *_own_conditions(local),
            offloaded_condition(False, reason=reason, message=message),
        ],
    }


def status_of_vanished(local: api.Json) -> api.Json:
    """Return the status of a pod whose copy went away without being asked to from here."""
    status = copy.deepcopy(local.get("status") or {})
    for kind in ("initContainerStatuses", "containerStatuses"):
        for container in status.get(kind) or []:
            container["ready"] = False
            container["started"] = False
            if "terminated" not in (container.get("state") or {}):
                # As kubelet reports a container it lost sight of.
                container["state"] = {
                    "terminated": {"exitCode": 137, "reason": "ContainerStatusUnknown"}
                }
    for condition in status.get("conditions") or []:
        if condition["type"] in ("Ready", "ContainersReady"):
            condition["status"] = "False"
            condition["reason"] = "PodFailed"
    mirrored = {name: status[name] for name in _MIRRORED if name in status}
    return {
        **mirrored,
        "phase": "Failed",
        "reason": "ProviderPodGone",
        "message": "the pod was deleted in the provider cluster",
        "conditions": status.get("conditions") or [],
    }


def forge_status_patch(local: api.Json, status: api.Json) -> api.Json | None:
    """Return the merge patch that makes `status` the pod's; None when it already is.

    The uid makes the API server refuse it for a later pod of the same name.
    """
    current = local.get("status") or {}
    gone: dict[str, Any] = {
        name: None for name in _MIRRORED if name in current and name not in status
    }
    wanted = {**status, **gone}
    if all(_same(current.get(name), value) for name, value in wanted.items()):
        return None
    return {"metadata": {"uid": uid_of(local)}, "status": wanted}


def offloaded_condition(value: bool, *, reason: str, message: str) -> api.Json:
    """Return the condition that says whether the pod exists in the provider."""
    condition = {"type": OFFLOADED, "status": "True" if value else "False", "reason": reason}
    return {**condition, "message": message} if message else condition


def _own_conditions(local: api.Json) -> list[api.Json]:
    conditions = (local.get("status") or {}).get("conditions") or []
    return [item for item in conditions if item["type"] == "PodScheduled"]


def _without_generation(condition: api.Json) -> api.Json:
    # It counts the copy's changes, not this pod's.
    return {name: value for name, value in condition.items() if name != "observedGeneration"}


def _same(current: object, wanted: object) -> bool:
    """Compare without the nulls that the API server writes out (lastProbeTime) or leaves out."""
    match current, wanted:
        case dict(), dict():
            names = current.keys() | wanted.keys()
            return all(_same(current.get(name), wanted.get(name)) for name in names)
        case list(), list():
            return len(current) == len(wanted) and all(
                _same(one, other) for one, other in zip(current, wanted, strict=True)
            )
        case _:
            return current == wanted
