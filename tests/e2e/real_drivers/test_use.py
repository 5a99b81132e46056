"""How pods use volumes of real drivers: whose files they are, who may mount, with what secret."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Iterator
from typing import Any, Final

import pytest

from lab import instance, lifecycle, storage
from tests import control_planes
from tests.e2e.real_drivers import storage_lab
from tests.e2e.real_drivers.storage_lab import DRIVERS, Lab

pytestmark = pytest.mark.timeout(600)

CSI_NODES: Final = "/apis/storage.k8s.io/v1/csinodes"
OURS: Final = DRIVERS[0]
SECRETS: Final = f"{storage_lab.DEFAULT}/secrets"
SECRET: Final = "loop-shared"
PASSWORD: Final = "open-sesame"  # in the driver's manifests
NODE: Final = "rome-1"

Json = dict[str, Any]


@pytest.fixture(scope="package")
def shared_storage(owner: instance.Instance) -> None:
    """The kind of the real driver whose volumes every node reaches, with a secret."""
    asyncio.run(_install_shared(owner))


async def _install_shared(owner: instance.Instance) -> None:
    octet = owner.recorded_octet
    assert octet is not None
    consumer = lifecycle.describe(owner, octet).consumer
    archives = await storage.ensure_images(owner.binaries, print)
    await storage.install(consumer, archives, storage.SHARED)


def virtual_class(name: str, real_class: str, driver: str = DRIVERS[0], **secret: str) -> Json:
    """Return a virtual class over a real one, with the name of a secret if it has one."""
    parameters = {"localClass": real_class}
    for call in ("node-stage", "node-publish") if secret else ():
        parameters[f"csi.storage.k8s.io/{call}-secret-name"] = secret["secret"]
        parameters[f"csi.storage.k8s.io/{call}-secret-namespace"] = "default"
    return storage_lab.storage_class(name, driver, parameters)


def secret(name: str, password: str = PASSWORD) -> Json:
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": name, "namespace": "default"},
        "stringData": {"password": password},
    }


def calls(lab: Lab, kind: str, node: str, method: str, handle: str) -> Iterator[Json]:
    """Yield the requests of a method that a real driver got for a volume and agreed to."""
    file = storage.state_directory(lab.fabric.consumer, kind) / "calls" / f"{node}.jsonl"
    for line in file.read_text().splitlines():
        call = json.loads(line)
        request = call["request"]
        if (call["method"], request.get("volume_id"), call["code"]) == (method, handle, "OK"):
            yield request


@pytest.mark.usefixtures("shared_storage")
async def test_files_belong_to_a_pods_group_where_the_real_drivers_policy_says_so(
    lab: Lab,
) -> None:
    """The policies are File, ReadWriteOnceWithFSType and None, in this order."""
    groups = {"loop-ext4": 2000, "loop-attach-xfs": 2000, "loop-shared": 0}
    objects = [
        secret(SECRET),
        virtual_class("virtual-loop-ext4", "loop-ext4"),
        virtual_class("virtual-loop-attach-xfs", "loop-attach-xfs", DRIVERS[1]),
        virtual_class("virtual-loop-shared", "loop-shared", secret=SECRET),
    ]
    names = {f"{way}{real}": real for real in groups for way in ("", "virtual-")}
    objects += [storage_lab.claim(name, name) for name in names]
    write = "umask 077; echo content > /data/file; echo written"
    look = "stat -c '%n %u:%g %a' /data /data/file"
    before = await lab.snapshot()
    await lab.apply(*objects)

    await lab.run(*(storage_lab.pod(name, name, NODE, write) for name in names))
    said = await lab.run(
        *(storage_lab.pod(name, name, NODE, look, fs_group=2000) for name in names)
    )

    for real, group in groups.items():
        assert said[f"virtual-{real}"] == said[real]
        mode = "660" if group else "600"
        assert said[real].splitlines()[1] == f"/data/file 0:{group} {mode}"

    await lab.end(*names)
    await lab.delete(*objects)
    assert await lab.left_behind(before) == []


@pytest.mark.usefixtures("shared_storage")
async def test_pods_on_two_nodes_share_a_volume_that_both_reach(lab: Lab) -> None:
    objects = [
        secret(SECRET),
        virtual_class("shared", "loop-shared", secret=SECRET),
        storage_lab.claim("shared", "shared", block=True, mode="ReadWriteMany"),
    ]
    before = await lab.snapshot()
    await lab.apply(*objects)

    write = "echo -n one | dd of=/dev/data conv=fsync 2>/dev/null; echo written"
    await lab.run(storage_lab.pod("first", "shared", "rome-1", write, block=True))
    read = "echo $(dd if=/dev/data bs=512 count=1 2>/dev/null | tr -d '\\0')"
    second = storage_lab.pod("second", "shared", "rome-2", read, block=True)
    assert await lab.run(second) == {"second": "one"}
    answer = "echo -n two | dd of=/dev/data bs=4096 seek=1 conv=fsync 2>/dev/null"
    await lab.execute("second", "sh", "-c", answer)
    # Past the first node's cache, as users of a shared disk must.
    look = "dd if=/dev/data bs=4096 skip=1 count=1 iflag=direct 2>/dev/null | tr -d '\\0'"
    assert await lab.execute("first", "sh", "-c", look) == "two"

    handle = (await lab.real_volume_of("shared"))["spec"]["csi"]["volumeHandle"]
    for node in ("rome-1", "rome-2"):
        staged, *_ = calls(lab, storage.SHARED, node, "NodeStageVolume", handle)
        assert staged["volume_capability"]["access_mode"] == {"mode": "MULTI_NODE_MULTI_WRITER"}

    await lab.end("first", "second")
    await lab.delete(*objects)
    assert await lab.left_behind(before) == []


async def test_a_volume_for_one_pod_is_that_to_the_real_driver_and_to_the_scheduler(
    lab: Lab,
) -> None:
    objects = [
        virtual_class("single", "loop-ext4"),
        storage_lab.claim("single", "single", mode="ReadWriteOncePod"),
    ]
    before = await lab.snapshot()
    await lab.apply(*objects)

    await lab.run(storage_lab.pod("single", "single", NODE, "echo started"))
    await lab.apply(storage_lab.pod("refused", "single", NODE, "echo started"))

    def is_refused(found: Json) -> bool:
        said = [item.get("message", "") for item in found["status"].get("conditions", [])]
        return any("ReadWriteOncePod" in message for message in said)

    await lab.wait("refused", is_refused, timeout_seconds=30)
    handle = (await lab.real_volume_of("single"))["spec"]["csi"]["volumeHandle"]
    published, *_ = calls(lab, storage.PLAIN, NODE, "NodePublishVolume", handle)
    mode = published["volume_capability"]["access_mode"]
    assert mode == {"mode": "SINGLE_NODE_SINGLE_WRITER"}

    await lab.end("single", "refused")
    await lab.delete(*objects)
    assert await lab.left_behind(before) == []


@pytest.mark.usefixtures("shared_storage")
async def test_a_secret_goes_from_the_virtual_class_to_the_real_driver_and_nowhere_else(
    lab: Lab,
) -> None:
    own = "guarded"
    objects = [
        secret(own, "a guess"),
        virtual_class("guarded", "loop-shared", secret=own),
        storage_lab.claim("guarded", "guarded"),
    ]
    before = await lab.snapshot()
    await lab.apply(*objects)
    await lab.apply(storage_lab.pod("guarded", "guarded", NODE, "echo started"))

    message = await lab.event("guarded", "secret password is wrong")
    assert "Unauthenticated" in message
    right = base64.b64encode(PASSWORD.encode()).decode()
    await lab.consumer.merge(f"{SECRETS}/{own}", {"data": {"password": right}})
    await lab.wait("guarded", storage_lab.is_running)

    handle = (await lab.real_volume_of("guarded"))["spec"]["csi"]["volumeHandle"]
    for method in ("NodeStageVolume", "NodePublishVolume"):
        request, *_ = calls(lab, storage.SHARED, NODE, method, handle)
        assert request["secrets"] == {"password": "***"}
    assert PASSWORD not in await everything_kept(lab)

    await lab.end("guarded")
    await lab.delete(*objects)
    assert await lab.left_behind(before) == []


async def everything_kept(lab: Lab) -> str:
    """Return what the driver wrote where others read: objects, logs, and the node's journal."""
    kinds = "persistentvolumes,persistentvolumeclaims,volumeattachments,events"
    objects = await lab.kubectl("get", kinds, "--all-namespaces", "--output=yaml")
    ours = ("--namespace=csi-liqo", "--selector=app.kubernetes.io/name=csi-liqo")
    logs = await lab.kubectl("logs", *ours, "--all-containers", "--tail=-1")
    (host,) = (host for host in lab.fabric.consumer.nodes if host.name == NODE)
    journal = sorted((host.directory / "kubelet/plugins/csi.liqo.io/journal").iterdir())
    assert logs
    assert journal
    return "\n".join([objects, logs, *(file.read_text() for file in journal)])


@pytest.mark.usefixtures("shared_storage")
async def test_a_node_takes_as_many_volumes_as_the_real_driver_under_a_virtual_class(
    lab: Lab,
) -> None:
    """kubelet asks again each nodeAllocatableUpdatePeriodSeconds, without a restart of anything."""
    limit = storage.state_directory(lab.fabric.consumer, storage.SHARED) / "max-volumes"
    limited = virtual_class("limited", "loop-shared")
    assert await allocatable(lab, None)
    limit.write_text("7")
    await lab.apply(limited)
    try:
        assert await allocatable(lab, 7)
    finally:
        limit.unlink()
        await lab.delete(limited)
    assert await allocatable(lab, None)


async def allocatable(lab: Lab, limit: int | None) -> bool:
    """Wait until a node's limit of this driver's volumes is so; None stands for no limit."""

    def is_so(found: Json | None) -> bool:
        drivers = ((found or {}).get("spec") or {}).get("drivers") or []
        counts = [one.get("allocatable", {}).get("count") for one in drivers if one["name"] == OURS]
        return counts == [limit]

    # What is read once a minute shows after at most two, when two readers stand in a row.
    found = await control_planes.wait_until(
        lab.consumer, CSI_NODES, NODE, is_so, timeout_seconds=180
    )
    return found is not None
