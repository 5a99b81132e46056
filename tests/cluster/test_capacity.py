"""The scheduler knows where there is room: nothing is tried where it cannot be.

A consumer and two providers: milan is full and says so, paris maps no namespace. The
scheduler is the real one; that a provider is left alone is seen at a proxy before it.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import grpc.aio
import pytest
import yaml

from csi_liqo.model import capacity, objects
from csi_liqo.rpc.pb import csi_pb2, csi_pb2_grpc
from lab import control_plane, templates
from lab.faults import proxy, rules
from tests import control_planes
from tests.cluster import fabric

Planes = tuple[control_plane.ControlPlane, control_plane.ControlPlane]

STORAGE = "/apis/storage.k8s.io/v1"
CAPACITIES = f"{STORAGE}/namespaces/{{}}/csistoragecapacities"
OURS = CAPACITIES.format("csi-liqo")
COUNTED = "counted.example.com"
HOST_KEY = "kubernetes.io/hostname"
TWINS = rules.Match(resource="persistentvolumeclaims")
CLAIMS = 50


def counted_driver() -> fabric.Json:
    """A CSI driver that counts its room."""
    return {
        "apiVersion": "storage.k8s.io/v1",
        "kind": "CSIDriver",
        "metadata": {"name": COUNTED},
        "spec": {"attachRequired": False, "storageCapacity": True},
    }


def counted_class(name: str = "counted") -> fabric.Json:
    return {
        "apiVersion": "storage.k8s.io/v1",
        "kind": "StorageClass",
        "metadata": {"name": name, "labels": {"csi.liqo.io/offered": "true"}},
        "provisioner": COUNTED,
        "volumeBindingMode": "WaitForFirstConsumer",
    }


def counted_room(name: str, size: str, *, storage_class: str = "counted", **labels: str) -> Any:
    """What a driver's own provisioner writes about its room."""
    return {
        "apiVersion": "storage.k8s.io/v1",
        "kind": "CSIStorageCapacity",
        "metadata": {"name": name, "namespace": "default"},
        "storageClassName": storage_class,
        "nodeTopology": {"matchLabels": labels},
        "capacity": size,
    }


def object_of(storage_class: str, cluster: str, **labels: str) -> str:
    """The name of our object for a class and some nodes of a cluster."""
    selector = capacity.select_cluster(cluster)
    if labels:
        selector = objects.LabelSelector(match_labels={**selector.match_labels, **labels})
    return capacity.object_name("csi.liqo.io", storage_class, selector)


def limit(item: fabric.Json | None) -> str:
    """The largest claim that the scheduler sends there, as the object says it."""
    return str((item or {}).get("maximumVolumeSize") or (item or {}).get("capacity"))


@dataclasses.dataclass
class World:
    """The running driver, with a proxy before each API server that it speaks to."""

    driver: fabric.Fabric
    rome_proxy: proxy.FaultProxy
    milan_proxy: proxy.FaultProxy
    paris_proxy: proxy.FaultProxy

    async def said(
        self, size: str, storage_class: str, cluster: str, **labels: str
    ) -> fabric.Json | None:
        """Wait until our object for a class says a size; "None" is that there is no object."""
        return await self.says(object_of(storage_class, cluster, **labels), size)

    async def says(self, name: str, size: str) -> fabric.Json | None:
        """Wait until one of our objects says a size."""
        return await control_planes.wait_until(
            self.driver.consumer, OURS, name, lambda item: limit(item) == size
        )

    async def apply(self, *parts: fabric.Json) -> None:
        fabric.kubectl(self.driver.rome, "apply", "-f", "-", text=yaml.safe_dump_all(parts))

    async def say_in_milan(self, size: str) -> None:
        """Milan's driver says how much room it has."""
        path = f"{CAPACITIES.format('default')}/pool"
        await self.driver.provider.merge(path, {"capacity": size})


@pytest.fixture(scope="module")
def paris(tmp_path_factory: pytest.TempPathFactory) -> Iterator[control_plane.ControlPlane]:
    """A second provider; nothing is made there, so nobody needs to run there."""
    without = frozenset({control_plane.CONTROLLERS, control_plane.SCHEDULER})
    directory = tmp_path_factory.mktemp("paris")
    with control_planes.running("paris", directory, without=without) as running:
        fabric.prepare_provider(running)
        yield running


@pytest.fixture
async def world(
    prepared: Planes, paris: control_plane.ControlPlane, tmp_path: Path, namespace: str
) -> AsyncIterator[World]:
    rome, milan = prepared
    classes = [{"virtual": name, "offered": "counted"} for name in ("csi-liqo", "csi-liqo-counted")]
    async with (
        _counted_in(milan),
        proxy.FaultProxy(rome.kubeconfig_for(fabric.CONTROLLER_USER), tmp_path / "rome") as before,
        proxy.FaultProxy(milan.kubeconfig_for(fabric.CONSUMER_USER), tmp_path / "milan") as there,
        proxy.FaultProxy(paris.kubeconfig_for(fabric.CONSUMER_USER), tmp_path / "paris") as far,
        fabric.running(
            *(rome, milan, tmp_path, namespace),
            consumer_kubeconfig=before.kubeconfig,
            provider_kubeconfig=there.kubeconfig.read_text(),
            change=lambda remote: remote["spec"].update(classes=classes),
        ) as running,
    ):
        _introduce_paris(rome, far)
        try:
            paris_there = fabric.REMOTE_CLUSTERS, "paris", fabric.is_ready
            await control_planes.wait_until(running.consumer, *paris_there)
            made = World(running, before, there, far)
            await made.said("1Mi", "csi-liqo", "milan")
            await made.said("0", "csi-liqo", "paris")
            yield made
        finally:
            fabric.forget_remote_cluster(rome, "paris")
            fabric.kubectl(rome, "delete", "--namespace=csi-liqo", "secret", "paris")
            fabric.kubectl(rome, "delete", "node", "paris")


@contextlib.asynccontextmanager
async def _counted_in(milan: control_plane.ControlPlane) -> AsyncIterator[None]:
    """Have milan's class count its room for the time of the block."""
    parts = [counted_driver(), counted_class(), counted_room("pool", "1Mi")]
    text = yaml.safe_dump_all(parts)
    fabric.kubectl(milan, "apply", "-f", "-", text=text)
    try:
        yield
    finally:
        fabric.kubectl(milan, "delete", "-f", "-", text=text)


def _introduce_paris(rome: control_plane.ControlPlane, before: proxy.FaultProxy) -> None:
    secret = fabric.kubeconfig_secret(before.kubeconfig.read_text())
    remote = fabric.remote_cluster({}, clusterID="paris", kubeconfigSecretRef={"name": "paris"})
    for part in (secret, remote):
        part["metadata"]["name"] = "paris"
    fabric.kubectl(rome, "apply", "-f", "-", text=yaml.safe_dump_all([secret, remote]))
    fabric.make_virtual_node(rome, "paris")


def anywhere(claim_name: str) -> fabric.Json:
    """A pod that may run on any node, real or virtual."""
    pod = templates.pod(claim_name, "")
    del pod["spec"]["nodeSelector"]
    return pod


@pytest.mark.timeout(300)
async def test_no_claim_is_tried_where_it_cannot_be(world: World) -> None:
    driver = world.driver
    await world.said("1Ei", "csi-liqo", "rome")
    pods = f"/api/v1/namespaces/{driver.namespace}/pods"
    names = [f"data-{number}" for number in range(CLAIMS)]
    for name in names:
        await driver.consumer.create(driver.claims, fabric.claim(name))
        await driver.consumer.create(pods, anywhere(name))

    bound = [await driver.bound(name, timeout_seconds=120) for name in names]

    homes = {json.dumps(volume["spec"]["nodeAffinity"]) for _, volume in bound}
    assert all('"rome"' in home for home in homes)
    for provider in (world.milan_proxy, world.paris_proxy):
        assert provider.writes(TWINS) == []
    noted = rules.Match(is_write=True, resource="configmaps", name="csi-liqo-attempts")
    assert world.rome_proxy.writes(noted) == []
    assert await failures(driver) == []
    await asyncio.gather(*(driver.drop(name) for name in names))


async def test_a_full_provider_takes_claims_again_once_it_has_room(world: World) -> None:
    driver = world.driver
    await driver.claim_on("data", "milan")
    said = await driver.consumer.get(f"{OURS}/{object_of('csi-liqo', 'milan')}")
    assert said["nodeTopology"] == {"matchLabels": {fabric.CLUSTER_KEY: "milan"}}
    await pod_refused(driver, "data", "did not have enough free storage")
    assert world.milan_proxy.writes(TWINS) == []

    await world.say_in_milan("1Gi")

    await driver.bound("data")
    await driver.drop("data")


async def pod_refused(driver: fabric.Fabric, name: str, text: str) -> None:
    """Wait until the scheduler says why a pod fits nowhere."""

    def refused(pod: fabric.Json | None) -> bool:
        conditions = (pod or {}).get("status", {}).get("conditions", [])
        return any(text in condition.get("message", "") for condition in conditions)

    pods = f"/api/v1/namespaces/{driver.namespace}/pods"
    await control_planes.wait_until(driver.consumer, pods, name, refused)


async def test_a_provider_that_counts_nothing_has_plenty(world: World) -> None:
    remote = f"{fabric.REMOTE_CLUSTERS}/milan"
    classes = [{"virtual": "csi-liqo", "offered": "hostpath-wffc"}]
    await world.driver.consumer.merge(remote, {"spec": {"classes": classes}})

    said = await world.said("1Ei", "csi-liqo", "milan")

    assert said is not None
    assert said["capacity"] == "1Ei"


async def test_a_provider_out_of_reach_keeps_what_was_last_said_of_it(world: World) -> None:
    driver = world.driver
    await world.say_in_milan("3Mi")
    await world.said("3Mi", "csi-liqo", "milan")
    path = f"{OURS}/{object_of('csi-liqo', 'milan')}"
    before = await driver.consumer.get(path)
    await world.milan_proxy.go_down()
    await control_planes.wait_until(
        *(driver.consumer, fabric.REMOTE_CLUSTERS, "milan"),
        lambda item: item is not None and not fabric.is_ready(item),
    )
    await driver.controller.end()
    await driver.controller.start()
    await world.apply(fabric.virtual_class("csi-liqo-later", {}))

    # The new class shows that all were looked at, and of it nothing was ever known.
    await world.said("0", "csi-liqo-later", "milan")

    assert await driver.consumer.get(path) == before
    fabric.kubectl(driver.rome, "delete", "storageclass", "csi-liqo-later")
    await world.said("None", "csi-liqo-later", "milan")
    await world.milan_proxy.come_up()


async def test_a_claim_that_names_a_class_itself_finds_the_room_of_that_class(
    world: World,
) -> None:
    driver = world.driver
    claim = fabric.claim("data")
    claim["metadata"]["annotations"] = {"liqo.io/remote-storage-class": "hostpath-wffc"}
    await driver.consumer.create(driver.claims, claim)
    await driver.consume("data", "milan")

    await driver.bound("data")

    twin = await driver.provider.get(f"{driver.remote_claims}/data")
    assert twin["spec"]["storageClassName"] == "hostpath-wffc"
    await world.said("1Mi", "csi-liqo", "milan")
    await driver.drop("data")


@pytest.fixture
async def counted(world: World) -> AsyncIterator[World]:
    """A real class of this cluster that counts its room, and a virtual one over it."""
    driver = world.driver
    await world.apply(
        counted_driver(),
        counted_class(),
        counted_room("small", "10Mi", pool="small"),
        counted_room("large", "2Gi", pool="large"),
        fabric.virtual_class("csi-liqo-counted", {"localClass": "counted"}),
    )
    yield world
    for kind, name in (
        ("storageclass", "csi-liqo-counted"),
        ("storageclass", "counted"),
        ("csidriver", COUNTED),
    ):
        fabric.kubectl(driver.rome, "delete", kind, name)
    fabric.kubectl(driver.rome, "delete", "--namespace=default", "csistoragecapacity", "--all")
    await world.said("None", "csi-liqo-counted", "rome")


async def test_a_real_class_that_counts_is_mirrored_with_its_topology(counted: World) -> None:
    said = await counted.said("10Mi", "csi-liqo-counted", "rome", pool="small")
    await counted.said("2Gi", "csi-liqo-counted", "rome", pool="large")
    await counted.said("0", "csi-liqo-counted", "rome")  # so that each node has an object

    assert said is not None
    assert said["nodeTopology"]["matchLabels"] == {"pool": "small", fabric.CLUSTER_KEY: "rome"}
    assert said["metadata"]["ownerReferences"][0]["kind"] == "CSIDriver"
    path = f"{CAPACITIES.format('default')}/small"
    await counted.driver.consumer.merge(path, {"capacity": "20Mi", "maximumVolumeSize": "5Mi"})
    await counted.said("5Mi", "csi-liqo-counted", "rome", pool="small")
    fabric.kubectl(
        counted.driver.rome, "delete", "--namespace=default", "csistoragecapacity", "small"
    )
    await counted.said("None", "csi-liqo-counted", "rome", pool="small")


async def test_a_busy_driver_makes_no_storm_of_writes(counted: World) -> None:
    await counted.said("0", "csi-liqo-counted", "paris")  # the last one of a look
    ours = rules.Match(resource="csistoragecapacities", namespace="csi-liqo")
    before = len(counted.rome_proxy.writes(ours))
    begun = asyncio.get_running_loop().time()
    path = f"{CAPACITIES.format('default')}/small"
    for size in range(100, 160):
        await counted.driver.consumer.merge(path, {"capacity": f"{size}Mi"})

    await counted.said("159Mi", "csi-liqo-counted", "rome", pool="small")

    seconds = asyncio.get_running_loop().time() - begun
    assert len(counted.rome_proxy.writes(ours)) - before <= seconds + 2


async def test_what_somebody_else_changes_or_deletes_is_put_right(counted: World) -> None:
    consumer = counted.driver.consumer
    said = await counted.said("10Mi", "csi-liqo-counted", "rome", pool="small")
    assert said is not None
    path = f"{OURS}/{said['metadata']['name']}"
    await consumer.merge(path, {"capacity": "7Gi"})
    await counted.said("10Mi", "csi-liqo-counted", "rome", pool="small")

    await consumer.delete(path, uid=said["metadata"]["uid"])

    def made_again(item: fabric.Json | None) -> bool:
        return item is not None and item["metadata"]["uid"] != said["metadata"]["uid"]

    await control_planes.wait_until(consumer, OURS, said["metadata"]["name"], made_again)


async def test_a_node_without_room_is_not_chosen(world: World) -> None:
    """Volumes made by hand are room on their node, one claim each, until they are taken."""
    driver = world.driver
    await world.said("0", "csi-liqo-static", "rome")
    volumes = [
        templates.local_volume(f"{driver.namespace}-{number}", "rome-1") for number in range(8)
    ]
    await world.apply(*volumes)
    await world.says(by_hand_on("rome-1"), "100Mi")
    names = [f"data-{number}" for number in range(len(volumes) + 1)]
    for name in names[:-1]:
        await consume_by_hand(driver, name)

    bound = [await driver.bound(name) for name in names[:-1]]

    assert all('"rome-1"' in json.dumps(volume["spec"]["nodeAffinity"]) for _, volume in bound)
    assert await failures(driver) == []
    await world.says(by_hand_on("rome-1"), "None")
    await consume_by_hand(driver, names[-1])
    await pod_refused(driver, names[-1], "did not have enough free storage")
    await asyncio.gather(*(driver.drop(name) for name in names))
    for _, virtual in bound:
        await driver.volume_gone(virtual["metadata"]["name"])
    fabric.kubectl(driver.rome, "delete", "pv", *(item["metadata"]["name"] for item in volumes))


async def consume_by_hand(driver: fabric.Fabric, name: str) -> None:
    """Make a claim of the class made by hand, and a pod for any real node."""
    await driver.consumer.create(driver.claims, fabric.claim(name, storage_class="csi-liqo-static"))
    pod = templates.pod(name, "")
    pod["spec"]["nodeSelector"] = {fabric.CLUSTER_KEY: "rome"}
    await driver.consumer.create(f"/api/v1/namespaces/{driver.namespace}/pods", pod)


async def failures(driver: fabric.Fabric) -> list[str]:
    """Return what was tried in vain, as the sidecar says it on the claims."""
    events = await driver.consumer.get(f"/api/v1/namespaces/{driver.namespace}/events")
    return [item["message"] for item in events["items"] if item["reason"] == "ProvisioningFailed"]


def by_hand_on(node: str) -> str:
    """The name of our object for the volumes made by hand on a node."""
    rule = objects.NodeSelectorRequirement(key=HOST_KEY, operator="In", values=(node,))
    cluster = capacity.select_cluster("rome").match_labels
    selector = objects.LabelSelector(match_labels=cluster, match_expressions=(rule,))
    return capacity.object_name("csi.liqo.io", "csi-liqo-static", selector)


async def test_the_objects_end_with_the_installation(world: World) -> None:
    """What is left after `kubectl delete -k` is nobody's; the CSIDriver owns them."""
    driver = world.driver
    name = object_of("csi-liqo", "milan")
    before = await driver.consumer.get(f"{OURS}/{name}")
    fabric.kubectl(driver.rome, "delete", "csidriver", "csi.liqo.io")
    await control_planes.wait_until(
        driver.consumer, OURS, name, lambda item: item is None, timeout_seconds=60
    )

    fabric.kubectl(driver.rome, "apply", "-k", str(fabric.ROOT / "deploy/base"))

    made = await world.said("1Mi", "csi-liqo", "milan")
    assert made is not None
    assert made["metadata"]["uid"] != before["metadata"]["uid"]


async def test_get_capacity_answers_the_same_sums(counted: World) -> None:
    await counted.said("2Gi", "csi-liqo-counted", "rome", pool="large")
    await counted.said("1Mi", "csi-liqo-counted", "milan")
    async with grpc.aio.insecure_channel(f"unix:{counted.driver.socket}") as channel:
        stub = csi_pb2_grpc.ControllerStub(channel)

        async def asked(**segments: str) -> tuple[int, int]:
            request = csi_pb2.GetCapacityRequest(parameters={"localClass": "counted"})
            keys = {"cluster": fabric.CLUSTER_KEY, "node": fabric.NODE_KEY}
            for key, value in segments.items():
                request.accessible_topology.segments[keys[key]] = value
            answer = await stub.GetCapacity(request)
            return answer.available_capacity, answer.maximum_volume_size.value

        mebi = 1 << 20
        assert await asked(cluster="rome") == (2058 * mebi, 2048 * mebi)
        assert await asked(cluster="milan") == (mebi, mebi)
        assert await asked(cluster="paris") == (0, 0)
        assert await asked() == (2059 * mebi, 2048 * mebi)
        assert await asked(cluster="rome", node="rome-1") == (0, 0)
        told = await stub.ControllerGetCapabilities(csi_pb2.ControllerGetCapabilitiesRequest())
        kinds = {capability.rpc.type for capability in told.capabilities}
        assert csi_pb2.ControllerServiceCapability.RPC.GET_CAPACITY in kinds
        empty = await stub.GetCapacity(csi_pb2.GetCapacityRequest())
        assert empty.available_capacity > 0
