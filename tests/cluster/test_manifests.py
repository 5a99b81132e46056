"""What deploy/ installs, as a real API server understands it.

Covered: the schema of RemoteCluster with its rules; the rights of each account,
both what it may and what it may not; that nothing runs on a virtual node.
"""

from __future__ import annotations

import json
import subprocess
from typing import Any

import pytest
import yaml

from lab import control_plane
from tests.cluster import fabric

Planes = tuple[control_plane.ControlPlane, control_plane.ControlPlane]

NODE_USER = "system:serviceaccount:csi-liqo:csi-liqo-node"
SECRET = {"name": "milan"}


def forge_remote(**spec: Any) -> str:
    """Return a RemoteCluster; a test names only what it is about."""
    return yaml.safe_dump(
        {
            "apiVersion": "csi.liqo.io/v1alpha1",
            "kind": "RemoteCluster",
            "metadata": {"name": "schema"},
            "spec": {"clusterID": "paris", "kubeconfigSecretRef": SECRET, **spec},
        }
    )


def dry_run(plane: control_plane.ControlPlane, text: str) -> subprocess.CompletedProcess[str]:
    command = [str(fabric.BINARIES / "kubectl"), f"--kubeconfig={plane.kubeconfig}"]
    command += ["create", "--dry-run=server", "-o", "json", "-f", "-"]
    return subprocess.run(command, input=text, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("spec", "complaint"),
    [
        pytest.param({"clusterID": "Paris"}, "spec.clusterID", id="id-that-is-no-label-value"),
        pytest.param({"clusterID": ""}, "spec.clusterID", id="empty-id"),
        pytest.param({"kubeconfigSecretRef": {}}, "kubeconfigSecretRef.name", id="no-secret"),
        pytest.param({"nodeSelector": {}}, "spec.nodeSelector", id="selector-of-every-node"),
        pytest.param(
            {"namespaceMapping": {"explicit": {"a": "csi-liqo-storage"}}},
            "never the target of a mapping",
            id="target-that-holds-twins",
        ),
        pytest.param(
            {"namespaceMapping": {"template": "all-${consumer}"}},
            "must contain ${namespace}",
            id="template-with-one-target-for-all",
        ),
        pytest.param(
            {"namespaceMapping": {"template": "${name}-${namespace}"}},
            "namespaceMapping.template",
            id="unknown-variable",
        ),
        pytest.param(
            {"namespaceMapping": {"default": "Any"}}, "Unsupported value", id="unknown-default"
        ),
        pytest.param(
            {"namespaceMapping": {"default": "SameName", "template": "${namespace}-x"}},
            "the template maps every namespace already",
            id="default-that-a-template-leaves-no-room-for",
        ),
        pytest.param(
            {"namespaceMapping": {"explicit": {"a": "kube-system"}}},
            "are never a target",
            id="target-of-kubernetes",
        ),
        pytest.param(
            {"namespaceMapping": {"explicit": {"A_b": "a"}}},
            "a key is the name of a namespace",
            id="key-that-is-no-namespace",
        ),
        pytest.param(
            {"classes": [{"virtual": "v", "offered": "Fast Disk"}]},
            "classes[0].offered",
            id="class-name-that-is-none",
        ),
        pytest.param(
            {"nodeSelector": {"zone": "a b"}}, "spec.nodeSelector", id="label-value-that-is-none"
        ),
        pytest.param(
            {"classes": [{"virtual": "v", "offered": "a"}, {"virtual": "v", "offered": "b"}]},
            "Duplicate value",
            id="one-virtual-class-twice",
        ),
    ],
)
def test_a_remote_cluster_that_cannot_be_meant_is_refused(
    prepared: Planes, spec: dict[str, Any], complaint: str
) -> None:
    answer = dry_run(prepared[0], forge_remote(**spec))

    assert answer.returncode != 0
    assert complaint in answer.stderr


def test_what_a_remote_cluster_leaves_out_is_filled_in(prepared: Planes) -> None:
    answer = dry_run(prepared[0], forge_remote())

    spec = json.loads(answer.stdout)["spec"]
    assert spec["kubeconfigSecretRef"] == {
        "namespace": "csi-liqo",
        "name": "milan",
        "key": "kubeconfig",
    }
    assert spec["namespaceMapping"] == {"default": "None"}


def test_a_cluster_id_never_changes(prepared: Planes) -> None:
    rome = prepared[0]
    fabric.kubectl(rome, "apply", "-f", "-", text=forge_remote(clusterID="paris"))
    try:
        with pytest.raises(subprocess.CalledProcessError):
            fabric.kubectl(rome, "apply", "-f", "-", text=forge_remote(clusterID="lyon"))
    finally:
        fabric.kubectl(rome, "delete", "remotecluster", "schema")


CONTROLLER_RIGHTS = [
    ("create", "persistentvolumeclaims", "csi-liqo-storage", True),
    ("delete", "persistentvolumeclaims", "csi-liqo-storage", True),
    ("patch", "persistentvolumeclaims", "default", True),
    ("create", "persistentvolumeclaims", "default", False),
    ("delete", "persistentvolumeclaims", "default", False),
    ("list", "secrets", "csi-liqo", True),
    ("get", "secrets", "default", False),
    ("list", "secrets", "kube-system", False),
    ("create", "secrets", "csi-liqo", False),
    ("patch", "persistentvolumeclaims/status", "default", True),
    ("update", "persistentvolumeclaims/status", "default", False),
    ("create", "events", "default", True),
    ("patch", "events", "default", True),
    ("delete", "events", "default", False),
    ("list", "events", "default", False),
    ("list", "nodes", "", True),
    ("patch", "nodes", "", True),
    ("get", "nodes", "", False),
    ("update", "nodes", "", False),
    ("delete", "nodes", "", False),
    ("get", "persistentvolumes", "", True),
    ("create", "persistentvolumes", "", True),
    ("patch", "persistentvolumes", "", True),
    ("delete", "persistentvolumes", "", True),
    ("update", "persistentvolumes", "", False),
    ("patch", "persistentvolumes/status", "", False),
    ("deletecollection", "persistentvolumes", "", False),
    ("watch", "storageclasses.storage.k8s.io", "", True),
    ("get", "storageclasses.storage.k8s.io", "", False),
    ("create", "storageclasses.storage.k8s.io", "", False),
    ("watch", "csidrivers.storage.k8s.io", "", True),
    ("get", "csidrivers.storage.k8s.io", "", False),
    ("patch", "csidrivers.storage.k8s.io", "", False),
    ("watch", "remoteclusters.csi.liqo.io", "", True),
    ("get", "remoteclusters.csi.liqo.io", "", False),
    ("create", "csinodes.storage.k8s.io", "", True),
    ("patch", "remoteclusters.csi.liqo.io/status", "", True),
    ("create", "remoteclusters.csi.liqo.io", "", False),
    ("patch", "remoteclusters.csi.liqo.io", "", True),
    ("update", "remoteclusters.csi.liqo.io", "", False),
    ("delete", "remoteclusters.csi.liqo.io", "", False),
    ("list", "namespaces", "", True),
    ("get", "namespaces", "", False),
    ("watch", "namespaces", "", False),
    ("create", "pods", "csi-liqo", False),
    ("get", "pods", "default", False),
    ("create", "clusterroles.rbac.authorization.k8s.io", "", False),
    ("get", "configmaps", "csi-liqo", False),
    ("create", "configmaps", "csi-liqo-storage", False),
    ("patch", "configmaps", "csi-liqo-storage", False),
    ("patch", "virtualnodes.offloading.liqo.io", "default", False),
    ("list", "configmaps", "default", False),
    ("list", "csistoragecapacities.storage.k8s.io", "default", True),
    ("create", "csistoragecapacities.storage.k8s.io", "csi-liqo", True),
    ("delete", "csistoragecapacities.storage.k8s.io", "csi-liqo", True),
    ("create", "csistoragecapacities.storage.k8s.io", "default", False),
    ("patch", "csistoragecapacities.storage.k8s.io", "kube-system", False),
    ("update", "leases.coordination.k8s.io", "csi-liqo", True),
    ("delete", "leases.coordination.k8s.io", "csi-liqo", False),
    ("update", "leases.coordination.k8s.io", "kube-system", False),
    ("patch", "configmaps", "csi-liqo", False),
    ("create", "configmaps", "csi-liqo", False),
]


@pytest.mark.parametrize(("verb", "kind", "namespace", "granted"), CONTROLLER_RIGHTS)
@pytest.mark.parametrize("user", [fabric.CONTROLLER_USER, fabric.ATTACHING_USER])
def test_the_controller_may_do_this_and_no_more(
    both: control_plane.ControlPlane,
    user: str,
    verb: str,
    kind: str,
    namespace: str,
    *,
    granted: bool,
) -> None:
    assert can(both, user, verb, kind, namespace) is granted


@pytest.mark.parametrize(
    ("verb", "kind", "granted"),
    [
        ("get", "volumeattachments", True),
        ("list", "volumeattachments", True),
        ("watch", "volumeattachments", True),
        ("create", "volumeattachments", True),
        ("patch", "volumeattachments", True),
        ("delete", "volumeattachments", True),
        ("update", "volumeattachments", False),
        ("deletecollection", "volumeattachments", False),
        ("patch", "volumeattachments/status", True),
        ("update", "volumeattachments/status", False),
    ],
)
def test_only_the_controller_that_attaches_may_touch_attachments(
    both: control_plane.ControlPlane, verb: str, kind: str, *, granted: bool
) -> None:
    name, _, subresource = kind.partition("/")
    kind = f"{name}.storage.k8s.io/{subresource}" if subresource else f"{name}.storage.k8s.io"

    assert can(both, fabric.ATTACHING_USER, verb, kind, "") is granted
    assert not can(both, fabric.CONTROLLER_USER, verb, kind, "")


@pytest.mark.parametrize(
    ("verb", "namespace", "name", "granted"),
    [
        ("patch", "csi-liqo", "csi-liqo-real-drivers", True),
        ("patch", "csi-liqo", "csi-liqo", False),
        ("list", "csi-liqo", "csi-liqo-real-drivers", True),
        ("watch", "csi-liqo", "csi-liqo-real-drivers", True),
        ("get", "csi-liqo", "csi-liqo-real-drivers", False),
        ("delete", "csi-liqo", "csi-liqo-real-drivers", False),
        ("patch", "csi-liqo-storage", "csi-liqo-homes", True),
        ("patch", "csi-liqo-storage", "kube-root-ca.crt", False),
        ("list", "csi-liqo-storage", "csi-liqo-homes", True),
        ("watch", "csi-liqo-storage", "csi-liqo-homes", True),
        ("get", "csi-liqo-storage", "csi-liqo-homes", False),
        ("create", "csi-liqo-storage", "csi-liqo-homes", False),
    ],
)
def test_each_controller_watches_and_writes_config_maps_of_its_own(
    both: control_plane.ControlPlane, verb: str, namespace: str, name: str, *, granted: bool
) -> None:
    for user, own in ((fabric.CONTROLLER_USER, name), (fabric.ATTACHING_USER, f"{name}-attach")):
        assert can(both, user, verb, "configmaps", namespace, own) is granted
    for user, other in ((fabric.CONTROLLER_USER, f"{name}-attach"), (fabric.ATTACHING_USER, name)):
        assert not can(both, user, verb, "configmaps", namespace, other)


@pytest.mark.parametrize(
    ("verb", "granted"),
    [("patch", True), ("list", True), ("watch", True), ("create", False), ("delete", False)],
)
@pytest.mark.parametrize("user", [fabric.CONTROLLER_USER, fabric.ATTACHING_USER])
def test_both_controllers_keep_what_the_fence_knows_and_the_notes_of_what_is_begun(
    both: control_plane.ControlPlane, user: str, verb: str, *, granted: bool
) -> None:
    for name in ("csi-liqo-fence", "csi-liqo-attempts"):
        assert can(both, user, verb, "configmaps", fabric.TWINS, name) is granted
    assert not can(both, user, "list", "configmaps", fabric.TWINS, "kube-root-ca.crt")


@pytest.mark.parametrize(
    "kind",
    ["nodes", "pods", "secrets", "persistentvolumeclaims", "volumeattachments.storage.k8s.io"],
)
@pytest.mark.parametrize("verb", ["get", "list", "patch"])
@pytest.mark.parametrize("user", [NODE_USER, f"{NODE_USER}-attach"])
def test_the_node_role_may_do_nothing(
    both: control_plane.ControlPlane, user: str, verb: str, kind: str
) -> None:
    assert not can(both, user, verb, kind, "csi-liqo")


def test_the_provider_roles_grant_nothing_by_themselves(prepared: Planes) -> None:
    user = "system:serviceaccount:csi-liqo-consumers:somebody-else"

    assert not can(prepared[1], user, "get", "persistentvolumeclaims", "default")
    assert not can(prepared[1], user, "list", "storageclasses.storage.k8s.io", "")


def test_a_consumer_lists_classes_and_gets_none_by_itself(prepared: Planes) -> None:
    assert can(prepared[1], fabric.CONSUMER_USER, "watch", "storageclasses.storage.k8s.io", "")
    assert not can(prepared[1], fabric.CONSUMER_USER, "get", "storageclasses.storage.k8s.io", "")


def test_a_consumer_may_not_repair_without_its_own_grant(prepared: Planes) -> None:
    assert can(prepared[1], fabric.CONSUMER_USER, "list", "persistentvolumes", "")
    assert not can(prepared[1], fabric.CONSUMER_USER, "patch", "persistentvolumes", "")


WORKLOADS = [
    "deployment/csi-liqo-controller",
    "daemonset/csi-liqo-node",
    "deployment/csi-liqo-controller-attach",
    "daemonset/csi-liqo-node-attach",
]


@pytest.mark.parametrize("owner", WORKLOADS)
def test_nothing_of_the_driver_runs_on_a_virtual_node(
    both: control_plane.ControlPlane, owner: str
) -> None:
    found = json.loads(fabric.kubectl(both, "-n", "csi-liqo", "get", owner, "-o", "json"))

    node_affinity = found["spec"]["template"]["spec"]["affinity"]["nodeAffinity"]
    required = node_affinity["requiredDuringSchedulingIgnoredDuringExecution"]
    rule = {"key": "liqo.io/type", "operator": "NotIn", "values": ["virtual-node"]}
    assert all(rule in term["matchExpressions"] for term in required["nodeSelectorTerms"])


@pytest.mark.parametrize("example", sorted((fabric.ROOT / "examples").glob("*.yaml")))
def test_every_example_is_understood(prepared: Planes, example: Any) -> None:
    answer = dry_run(prepared[0], example.read_text())

    assert answer.returncode == 0, answer.stderr


def can(
    plane: control_plane.ControlPlane,
    user: str,
    verb: str,
    kind: str,
    namespace: str,
    name: str = "",
) -> bool:
    """Ask the API server whether a user has a right, on an object where one is named."""
    kind, _, subresource = kind.partition("/")
    kind, _, group = kind.partition(".")
    attributes = {"verb": verb, "resource": kind, "group": group, "subresource": subresource}
    review = {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SubjectAccessReview",
        "spec": {
            "user": user,
            "groups": ["system:serviceaccounts", "system:authenticated"],
            "resourceAttributes": {**attributes, "namespace": namespace, "name": name},
        },
    }
    text = json.dumps(review)
    answer = fabric.kubectl(plane, "create", "-o", "json", "-f", "-", text=text)
    return bool(json.loads(answer)["status"]["allowed"])
