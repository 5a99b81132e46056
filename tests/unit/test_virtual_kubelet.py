"""What a pod and a status become on the way between the clusters."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lab.virtual_kubelet import namespaces, pods

if TYPE_CHECKING:
    from lab import api

ORIGIN = pods.Origin(consumer="1234", node="milan")
TOKEN = {"name": "kube-api-access-x", "projected": {"sources": []}}
CLAIM = {"name": "data", "persistentVolumeClaim": {"claimName": "data-0"}}
SCHEDULED = {"type": "PodScheduled", "status": "True"}


def forge_pod(status: api.Json | None = None) -> api.Json:
    mounts = [
        {"name": "kube-api-access-x", "mountPath": "/var/run/secrets"},
        {"name": "data", "mountPath": "/data"},
    ]
    return {
        "metadata": {
            "name": "database-0",
            "namespace": "default",
            "uid": "u1",
            "labels": {"app": "database"},
            "ownerReferences": [{"kind": "StatefulSet", "name": "database"}],
            "finalizers": ["example.com/wait"],
        },
        "spec": {
            "nodeName": "milan",
            "serviceAccountName": "default",
            "priority": 0,
            "affinity": {},
            "containers": [{"name": "app", "image": "i", "volumeMounts": mounts}],
            "initContainers": [{"name": "init", "image": "i", "volumeMounts": mounts}],
            "volumes": [TOKEN, CLAIM],
            "terminationGracePeriodSeconds": 7,
        },
        "status": status or {"phase": "Pending", "conditions": [SCHEDULED]},
    }


def test_the_copy_keeps_the_claim_and_loses_what_ties_it_to_the_consumer() -> None:
    pod = forge_pod()

    copy = pods.forge_copy(pod, namespace="rome-default", origin=ORIGIN)

    assert copy["metadata"].keys() == {"name", "namespace", "labels", "annotations"}
    assert copy["spec"]["volumes"] == [CLAIM]
    for kind in ("containers", "initContainers"):
        assert copy["spec"][kind][0]["volumeMounts"] == [{"name": "data", "mountPath": "/data"}]
    assert copy["spec"]["terminationGracePeriodSeconds"] == 7
    dropped = {"nodeName", "serviceAccountName", "priority", "affinity"}
    assert not dropped & copy["spec"].keys()
    assert pods.origin_uid(copy) == "u1"
    assert pod["spec"]["volumes"] == [TOKEN, CLAIM]


def test_a_pod_that_waits_for_a_node_in_the_provider_is_scheduled_here_and_says_why_it_waits() -> (
    None
):
    unscheduled = {"type": "PodScheduled", "status": "False", "message": "claim not found"}
    remote = {"status": {"phase": "Pending", "conditions": [unscheduled]}}

    status = pods.status_of(forge_pod(), remote, host_address="10.0.0.1")

    conditions = {item["type"]: item for item in status["conditions"]}
    assert conditions["PodScheduled"] == SCHEDULED
    assert conditions[pods.OFFLOADED]["message"] == "claim not found"


def test_a_status_that_is_already_so_is_not_written_again() -> None:
    remote = {"status": {"phase": "Running", "podIP": "10.1.1.1", "conditions": []}}
    local = forge_pod()
    status = pods.status_of(local, remote, host_address="10.0.0.1")
    # The API server writes out what is empty.
    conditions = [{**item, "lastProbeTime": None} for item in status["conditions"]]

    written = forge_pod({**status, "conditions": conditions})

    assert pods.forge_status_patch(local, status) is not None
    assert pods.forge_status_patch(written, status) is None


def test_what_the_provider_no_longer_says_is_removed() -> None:
    local = forge_pod({"phase": "Pending", "reason": "ProviderRefused", "message": "quota"})

    patch = pods.forge_status_patch(local, {"phase": "Running", "conditions": []})

    assert patch is not None
    assert patch["metadata"] == {"uid": "u1"}
    assert patch["status"] == {
        "phase": "Running",
        "conditions": [],
        "reason": None,
        "message": None,
    }


def test_the_containers_of_a_vanished_pod_are_not_running() -> None:
    running = {"name": "app", "ready": True, "started": True, "state": {"running": {}}}
    local = forge_pod({"phase": "Running", "containerStatuses": [running]})

    status = pods.status_of_vanished(local)

    assert status["phase"] == "Failed"
    assert status["containerStatuses"][0]["state"].keys() == {"terminated"}
    assert not status["containerStatuses"][0]["ready"]


def test_a_suffix_maps_all_but_the_control_planes_and_the_drivers_namespaces() -> None:
    mapping = namespaces.NamespaceMapping({"default": "rome-default"}, "-rome")

    assert mapping.remote("default") == "rome-default"
    assert mapping.remote("shop") == "shop-rome"
    assert mapping.remote("kube-system") is None
    assert mapping.remote("csi-liqo-storage") is None
    assert namespaces.NamespaceMapping({}).remote("shop") is None
