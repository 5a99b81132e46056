"""The virtual kubelet between two real API servers.

No kubelet runs in the provider here: what a real one would write into a pod's
status is written by the tests. Logs and exec are tested where kubelets run.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys
from typing import TYPE_CHECKING

import aiohttp
import pytest

from lab import api, control_plane, ports, settings
from tests import control_planes

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

NODES = "/api/v1/nodes"
LOCAL_PODS = "/api/v1/namespaces/default/pods"
REMOTE_PODS = "/api/v1/namespaces/rome-default/pods"
# The volume is what this is all about: a claim's name has to survive.
CLAIM = {"name": "data", "persistentVolumeClaim": {"claimName": "data-0"}}


@pytest.fixture(scope="module")
def rome(tmp_path_factory: pytest.TempPathFactory) -> Iterator[control_plane.ControlPlane]:
    with control_planes.running("rome", tmp_path_factory.mktemp("rome")) as plane:
        yield plane


@pytest.fixture(scope="module")
def milan(tmp_path_factory: pytest.TempPathFactory) -> Iterator[control_plane.ControlPlane]:
    with control_planes.running("milan", tmp_path_factory.mktemp("milan")) as plane:
        yield plane


class Kubelet:
    """The program under test, as a process that can be killed and started again."""

    def __init__(
        self, consumer: control_plane.ControlPlane, provider: control_plane.ControlPlane
    ) -> None:
        # The API server checks whom it asks for logs, and says who asks.
        (self.port,) = ports.take(1)
        pair = consumer.authority.ensure_server("virtual-kubelet", ["127.0.0.1"])
        self._arguments = [
            *("--consumer-kubeconfig", str(consumer.kubeconfig)),
            *("--provider-kubeconfig", str(provider.kubeconfig)),
            *("--node", "milan", "--cluster-id", "milan", "--map", "default=rome-default"),
            *("--tls-certificate", str(pair.certificate), "--tls-key", str(pair.key)),
            *("--client-ca", str(consumer.ca), "--port", str(self.port)),
        ]
        self._process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        self._process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "lab.virtual_kubelet", *self._arguments
        )

    async def stop(self, number: signal.Signals) -> int:
        assert self._process is not None
        if self._process.returncode is None:
            self._process.send_signal(number)
        return await self._process.wait()


@pytest.fixture
async def consumer(rome: control_plane.ControlPlane) -> AsyncIterator[api.Api]:
    async with await api.Api.of(rome.kubeconfig) as server:
        yield server


@pytest.fixture
async def provider(milan: control_plane.ControlPlane) -> AsyncIterator[api.Api]:
    async with await api.Api.of(milan.kubeconfig) as server:
        yield server


@pytest.fixture
async def kubelet(
    rome: control_plane.ControlPlane,
    milan: control_plane.ControlPlane,
    consumer: api.Api,
    provider: api.Api,
) -> AsyncIterator[Kubelet]:
    program = Kubelet(rome, milan)
    await program.start()
    # Where there is no node to run on, a pod has no grace; the real one's name is as good as any.
    with contextlib.suppress(api.ApiError):
        await provider.create(NODES, {"metadata": {"name": "milan-1"}})
    await control_planes.wait_until(
        consumer, NODES, "milan", lambda node: is_ready(node) and port_of(node) == program.port
    )
    await control_planes.wait_until_there(
        consumer, "/api/v1/namespaces/default/serviceaccounts", "default"
    )
    yield program
    with contextlib.suppress(ProcessLookupError):
        assert await program.stop(signal.SIGTERM) in (0, -signal.SIGKILL)


def forge_pod(name: str, namespace: str = "default") -> api.Json:
    container = {
        "name": "app",
        "image": "docker.io/local/busybox:1",
        "volumeMounts": [{"name": "data", "mountPath": "/data"}],
    }
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": namespace, "labels": {"app": "database"}},
        "spec": {
            "nodeName": "milan",
            "containers": [container],
            "volumes": [CLAIM],
            "tolerations": [{"operator": "Exists"}],
            "nodeSelector": {"liqo.io/type": "virtual-node"},
        },
    }


async def bind(provider: api.Api, name: str) -> None:
    """Do the scheduler's part in the provider: only a bound pod is deleted gracefully."""
    target = {"apiVersion": "v1", "kind": "Node", "name": "milan-1"}
    body = {"metadata": {"name": name}, "target": target}
    await provider.create(f"{REMOTE_PODS}/{name}/binding", body)


async def report(provider: api.Api, name: str, status: api.Json) -> None:
    """Do kubelet's part in the provider."""
    await provider.merge(f"{REMOTE_PODS}/{name}/status", {"status": status})


async def finish_deletion(provider: api.Api, name: str) -> None:
    """Do kubelet's last part in the provider: the containers ended."""
    pod = await provider.get(f"{REMOTE_PODS}/{name}")
    await provider.delete(f"{REMOTE_PODS}/{name}", uid=pod["metadata"]["uid"], grace_seconds=0)


async def offload(consumer: api.Api, provider: api.Api, name: str) -> tuple[api.Json, api.Json]:
    """Make a pod and wait until its copy is bound and running; returns both."""
    await consumer.create(LOCAL_PODS, forge_pod(name))
    copy = await control_planes.wait_until_there(provider, REMOTE_PODS, name)
    await bind(provider, name)
    await report(provider, name, {"phase": "Running"})
    local = await control_planes.wait_until(
        consumer, LOCAL_PODS, name, lambda pod: phase_of(pod) == "Running"
    )
    assert local is not None
    return local, copy


def phase_of(pod: api.Json | None) -> str | None:
    return None if pod is None else pod["status"].get("phase")


def port_of(node: api.Json | None) -> int | None:
    endpoints = (node or {}).get("status", {}).get("daemonEndpoints") or {}
    port: int | None = endpoints.get("kubeletEndpoint", {}).get("Port")
    return port


def is_ready(node: api.Json | None) -> bool:
    conditions = (node or {}).get("status", {}).get("conditions") or []
    return ("Ready", "True") in {(item["type"], item["status"]) for item in conditions}


async def test_the_node_says_which_cluster_it_stands_for_and_is_ready(
    kubelet: Kubelet, consumer: api.Api
) -> None:
    node = await control_planes.wait_until(consumer, NODES, "milan", is_ready)

    assert node is not None
    assert node["metadata"]["labels"]["liqo.io/type"] == "virtual-node"
    assert node["metadata"]["labels"]["liqo.io/remote-cluster-id"] == "milan"
    assert node["status"]["addresses"][0] == {"type": "InternalIP", "address": "127.0.0.1"}
    lease = await control_planes.wait_until_there(
        consumer, "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases", "milan"
    )
    assert lease["spec"]["holderIdentity"] == "milan"


async def test_a_deleted_node_comes_back(kubelet: Kubelet, consumer: api.Api) -> None:
    node = await control_planes.wait_until(consumer, NODES, "milan", is_ready)
    assert node is not None
    uid = node["metadata"]["uid"]

    await consumer.delete(f"{NODES}/milan", uid=uid)

    await control_planes.wait_until(
        consumer,
        NODES,
        "milan",
        lambda item: item is not None and item["metadata"]["uid"] != uid and is_ready(item),
    )


async def test_what_others_write_on_the_node_stays(kubelet: Kubelet, consumer: api.Api) -> None:
    topology = {"topology.csi.liqo.io/cluster": "milan"}
    await consumer.merge(f"{NODES}/milan", {"metadata": {"labels": topology}})

    await consumer.merge(f"{NODES}/milan", {"metadata": {"labels": {"liqo.io/type": "wrong"}}})

    node = await control_planes.wait_until(
        consumer,
        NODES,
        "milan",
        lambda item: (
            item is not None and item["metadata"]["labels"]["liqo.io/type"] == "virtual-node"
        ),
    )
    assert node is not None
    assert node["metadata"]["labels"].items() >= topology.items()


async def test_a_pod_runs_in_the_mapped_namespace_with_the_same_claim(
    kubelet: Kubelet, consumer: api.Api, provider: api.Api
) -> None:
    await consumer.create(LOCAL_PODS, forge_pod("database-0"))

    copy = await control_planes.wait_until_there(provider, REMOTE_PODS, "database-0")

    assert copy["spec"]["volumes"] == [CLAIM]
    assert copy["spec"]["containers"][0]["volumeMounts"] == [{"name": "data", "mountPath": "/data"}]
    assert copy["metadata"]["labels"]["app"] == "database"
    assert "nodeName" not in copy["spec"]
    assert "nodeSelector" not in copy["spec"]


async def test_the_status_comes_back(
    kubelet: Kubelet, consumer: api.Api, provider: api.Api
) -> None:
    await consumer.create(LOCAL_PODS, forge_pod("status"))
    await control_planes.wait_until_there(provider, REMOTE_PODS, "status")
    await bind(provider, "status")
    container = {
        "name": "app",
        "image": "docker.io/local/busybox:1",
        "imageID": "sha256:1",
        "containerID": "containerd://1",
        "ready": True,
        "restartCount": 2,
        "state": {"running": {"startedAt": "2026-01-01T00:00:00Z"}},
    }
    await report(
        provider,
        "status",
        {
            "phase": "Running",
            "startTime": "2026-01-01T00:00:00Z",
            "podIP": "10.1.2.3",
            "podIPs": [{"ip": "10.1.2.3"}],
            "hostIP": "10.9.9.9",
            "containerStatuses": [container],
            "conditions": [{"type": "Ready", "status": "True"}],
        },
    )

    pod = await control_planes.wait_until(
        consumer, LOCAL_PODS, "status", lambda item: phase_of(item) == "Running"
    )

    assert pod is not None
    assert pod["status"]["podIP"] == "10.1.2.3"
    assert pod["status"]["hostIP"] == "127.0.0.1"
    assert pod["status"]["containerStatuses"][0]["restartCount"] == 2
    assert is_ready(pod)


async def test_a_deleted_pod_stays_until_its_containers_ended_in_the_provider(
    kubelet: Kubelet, consumer: api.Api, provider: api.Api
) -> None:
    local, _ = await offload(consumer, provider, "deleted")

    await consumer.delete(f"{LOCAL_PODS}/deleted", uid=local["metadata"]["uid"], grace_seconds=17)

    copy = await control_planes.wait_until(
        provider,
        REMOTE_PODS,
        "deleted",
        lambda pod: pod is not None and "deletionTimestamp" in pod["metadata"],
    )
    assert copy is not None
    assert copy["metadata"]["deletionGracePeriodSeconds"] == 17
    assert await consumer.find(f"{LOCAL_PODS}/deleted") is not None
    await finish_deletion(provider, "deleted")
    await control_planes.wait_until_gone(consumer, LOCAL_PODS, "deleted")


async def test_a_pod_whose_copy_goes_by_itself_has_failed(
    kubelet: Kubelet, consumer: api.Api, provider: api.Api
) -> None:
    await offload(consumer, provider, "gone")

    await finish_deletion(provider, "gone")

    pod = await control_planes.wait_until(
        consumer, LOCAL_PODS, "gone", lambda item: phase_of(item) == "Failed"
    )
    assert pod is not None
    assert pod["status"]["reason"] == "ProviderPodGone"
    assert await provider.find(f"{REMOTE_PODS}/gone") is None


async def test_a_later_pod_of_the_same_name_gets_a_copy_of_its_own(
    kubelet: Kubelet, consumer: api.Api, provider: api.Api
) -> None:
    local, copy = await offload(consumer, provider, "again")
    # At once, as when somebody forces it: the copy is still there.
    await consumer.delete(f"{LOCAL_PODS}/again", uid=local["metadata"]["uid"], grace_seconds=0)

    await consumer.create(LOCAL_PODS, forge_pod("again"))

    await control_planes.wait_until(
        provider,
        REMOTE_PODS,
        "again",
        lambda pod: pod is not None and "deletionTimestamp" in pod["metadata"],
    )
    await finish_deletion(provider, "again")
    await control_planes.wait_until(
        provider,
        REMOTE_PODS,
        "again",
        lambda pod: pod is not None and pod["metadata"]["uid"] != copy["metadata"]["uid"],
    )


async def test_a_pod_deleted_while_the_kubelet_was_dead_ends_when_it_is_back(
    kubelet: Kubelet, consumer: api.Api, provider: api.Api
) -> None:
    local, _ = await offload(consumer, provider, "orphan")
    await kubelet.stop(signal.SIGKILL)
    await consumer.delete(f"{LOCAL_PODS}/orphan", uid=local["metadata"]["uid"], grace_seconds=0)

    await kubelet.start()

    await control_planes.wait_until(
        provider,
        REMOTE_PODS,
        "orphan",
        lambda pod: pod is not None and "deletionTimestamp" in pod["metadata"],
    )


async def test_a_foreign_pod_of_the_same_name_is_left_alone_and_named(
    kubelet: Kubelet, consumer: api.Api, provider: api.Api
) -> None:
    foreign = forge_pod("taken", "rome-default")
    del foreign["spec"]["nodeName"]
    await control_planes.wait_until_there(
        provider, "/api/v1/namespaces/rome-default/serviceaccounts", "default"
    )
    created = await provider.create(REMOTE_PODS, foreign)

    await consumer.create(LOCAL_PODS, forge_pod("taken"))

    pod = await control_planes.wait_until(
        consumer,
        LOCAL_PODS,
        "taken",
        lambda item: item is not None and item["status"].get("reason") == "ProviderRefused",
    )
    assert pod is not None
    assert "already exists" in pod["status"]["message"]
    kept = await provider.get(f"{REMOTE_PODS}/taken")
    assert kept["metadata"]["uid"] == created["metadata"]["uid"]


async def test_a_pod_of_an_unmapped_namespace_waits_and_says_why(
    kubelet: Kubelet, consumer: api.Api
) -> None:
    await consumer.create("/api/v1/namespaces", {"metadata": {"name": "private"}})
    pods = "/api/v1/namespaces/private/pods"
    await control_planes.wait_until_there(
        consumer, "/api/v1/namespaces/private/serviceaccounts", "default"
    )

    await consumer.create(pods, forge_pod("secret", "private"))

    await control_planes.wait_until(
        consumer,
        pods,
        "secret",
        lambda pod: pod is not None and pod["status"].get("reason") == "NamespaceNotOffloaded",
    )


@pytest.mark.parametrize(
    "verb",
    [
        pytest.param(("logs", "asked"), id="logs"),
        pytest.param(("exec", "asked", "--", "true"), id="exec"),
    ],
)
async def test_kubectl_reaches_the_provider_through_the_kubelet(
    kubelet: Kubelet,
    consumer: api.Api,
    provider: api.Api,
    rome: control_plane.ControlPlane,
    verb: tuple[str, ...],
) -> None:
    if await consumer.find(f"{LOCAL_PODS}/asked") is None:
        await offload(consumer, provider, "asked")
    process = await asyncio.create_subprocess_exec(
        str(settings.DEFAULT_INSTANCE / "bin" / "kubectl"),
        f"--kubeconfig={rome.kubeconfig}",
        *verb,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )

    output, _ = await process.communicate()

    # The last answer is that of the provider's API server: its node is one in name only.
    assert "no preferred addresses found" in output.decode()


async def test_nobody_but_the_api_server_is_served(kubelet: Kubelet) -> None:
    async with aiohttp.ClientSession() as session:
        with pytest.raises(aiohttp.ClientError):
            await session.get(f"https://127.0.0.1:{kubelet.port}/healthz", ssl=False)


@pytest.mark.parametrize("server", ["rome", "milan"])
async def test_an_api_server_that_restarts_is_found_again(
    kubelet: Kubelet,
    consumer: api.Api,
    provider: api.Api,
    server: str,
    request: pytest.FixtureRequest,
) -> None:
    plane: control_plane.ControlPlane = request.getfixturevalue(server)
    name = f"after-{server}"
    await offload(consumer, provider, f"before-{server}")

    await plane.restart_component(control_plane.API_SERVER)

    await offload(consumer, provider, name)
    await finish_deletion(provider, f"before-{server}")
    await control_planes.wait_until(
        consumer, LOCAL_PODS, f"before-{server}", lambda pod: phase_of(pod) == "Failed"
    )
