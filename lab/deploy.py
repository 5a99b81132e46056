"""The driver in the consumer cluster, installed as `deploy/` says."""

import json
from typing import Any, Final

import yaml

from lab import api, cluster, errors, images, settings

_MANIFESTS: Final = settings.REPOSITORY / "deploy"
_NAMESPACE: Final = "csi-liqo"
_WORKLOADS: Final = ("deployment/csi-liqo-controller", "daemonset/csi-liqo-node")
# Changes when the image does: its name stays the same, and nothing else would roll the pods.
_IMAGE_ANNOTATION: Final = "lab.csi.liqo.io/image"


async def install(consumer: cluster.Cluster, image: images.Archive) -> None:
    """Apply the driver's manifests; `wait_until_ready` tells when it runs.

    Args:
        consumer: the cluster that gets the driver.
        image: what its nodes have imported.
    """
    kubectl = consumer.kubectl
    objects = list(yaml.safe_load_all(await kubectl("kustomize", _MANIFESTS)))
    for item in objects:
        if f"{item['kind'].lower()}/{item['metadata']['name']}" in _WORKLOADS:
            # At once and not by a patch: that would start every pod twice.
            metadata = item["spec"]["template"]["metadata"]
            metadata.setdefault("annotations", {})[_IMAGE_ANNOTATION] = image.path.stem
    objects.append(
        {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": "csi-liqo", "namespace": _NAMESPACE},
            "data": {"clusterID": consumer.name},
        }
    )
    await kubectl(*cluster.APPLY, "--filename=-", stdin=yaml.safe_dump_all(objects))
    await kubectl(
        *("wait", "--for=condition=Established", "--timeout=30s"),
        "customresourcedefinition/remoteclusters.csi.liqo.io",
    )


async def wait_until_ready(consumer: cluster.Cluster) -> None:
    """Wait until every pod of the driver runs the installed version.

    Raises:
        LabError: they do not in time; the text has what the pods say of themselves.
    """
    timeout = f"--timeout={settings.ROLLOUT_TIMEOUT_SECONDS:.0f}s"
    for workload in _WORKLOADS:
        try:
            await consumer.kubectl(
                "rollout", "status", workload, f"--namespace={_NAMESPACE}", timeout
            )
        except errors.LabError as error:
            said = await _explain(consumer)
            raise errors.LabError(f"{workload} is not ready: {said or error}") from error


async def find_complaint(member: cluster.Cluster) -> str:
    """Say what is wrong with the driver in a cluster; the empty text when it is well or absent."""
    workloads = f"/apis/apps/v1/namespaces/{_NAMESPACE}"
    try:
        async with await api.Api.of(member.plane.kubeconfig) as server:
            controller = await server.find(f"{workloads}/deployments/csi-liqo-controller")
            nodes = await server.find(f"{workloads}/daemonsets/csi-liqo-node")
    except api.FAILURES as error:
        return f"the API server: {error}"

    if controller is not None and not controller["status"].get("readyReplicas"):
        return "the driver's controller is not ready"

    if nodes is not None:
        status = nodes["status"]
        if status.get("numberReady", 0) < status["desiredNumberScheduled"]:
            return "the driver is not ready on every node"
    return ""


async def _explain(consumer: cluster.Cluster) -> str:
    listed = await consumer.kubectl("get", "pods", f"--namespace={_NAMESPACE}", "--output=json")
    complaints = []
    for pod in json.loads(listed)["items"]:
        for container in pod["status"].get("containerStatuses", []):
            if not container["ready"]:
                name = pod["metadata"]["name"]
                complaints.append(f"{name}: {_say(container)}")
                complaints.append(await _logs(consumer, name, container["name"]))
    return "\n".join(complaints)


def _say(container: dict[str, Any]) -> str:
    state = container["state"]
    detail = state.get("waiting") or state.get("terminated") or {}
    said = f"{detail.get('reason', 'not ready')} {detail.get('message', '')}".strip()
    return f"container {container['name']}: {said}"


async def _logs(consumer: cluster.Cluster, pod: str, container: str) -> str:
    try:
        return await consumer.kubectl(
            *("logs", pod, f"--container={container}", f"--namespace={_NAMESPACE}"),
            f"--tail={settings.LOG_LINES_IN_ERRORS}",
        )
    except errors.LabError as error:
        return str(error)
