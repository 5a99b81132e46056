"""Volumes of real CSI drivers behind the virtual class, on real kubelets.

A cell is a filesystem or a raw device, of a driver that needs attaching or not, in this
cluster or in the provider. Every cell writes, and finds its data again after its pod was
replaced; then once more after everything that serves it was restarted; then all is
deleted, and nothing is left.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import pathlib
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from typing import Any, Final

import pytest
import yaml

from lab import api, control_plane, instance, leaks, lifecycle, settings
from tests import control_planes

pytestmark = pytest.mark.timeout(1200)

ROOT: Final = pathlib.Path(__file__).resolve().parents[2]
PODS: Final = "/api/v1/namespaces/default/pods"
CLAIMS: Final = "/api/v1/namespaces/default/persistentvolumeclaims"
VOLUMES: Final = ("persistentvolumeclaim", "persistentvolume", "volumeattachment", "loop device")
DRIVERS: Final = ("csi.liqo.io", "csi.liqo.io-attach")

FILES: Final = """
if [ -f /data/marker ]; then echo "found $(cat /data/marker)"
else echo "$CELL" > /data/marker; sync; echo fresh; fi
trap 'exit 0' TERM; while true; do sleep 0.2; done
"""
DEVICE: Final = """
marker=$(dd if=/dev/data bs=64 count=1 2>/dev/null | tr -d '\\0')
if [ -n "$marker" ]; then echo "found $marker"
else echo -n "$CELL" | dd of=/dev/data bs=64 conv=fsync 2>/dev/null; echo fresh; fi
trap 'exit 0' TERM; while true; do sleep 0.2; done
"""

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Cell:
    """One way a volume can be."""

    content: str
    attach: bool
    node: str

    @property
    def name(self) -> str:
        kind = "attached" if self.attach else "plain"
        return f"{self.content}-{kind}-{self.node}"

    @property
    def real_class(self) -> str:
        filesystem = "ext4" if self.content == "block" else self.content
        return f"loop-attach-{filesystem}" if self.attach else f"loop-{filesystem}"

    @property
    def driver(self) -> str:
        """A remote volume is attached by its own cluster, whatever this one installs."""
        return DRIVERS[self.attach and self.node != settings.PROVIDER]

    def objects(self) -> list[Json]:
        """The virtual class and the claim of this cell."""
        virtual = {
            "apiVersion": "storage.k8s.io/v1",
            "kind": "StorageClass",
            "metadata": {"name": self.name},
            "provisioner": self.driver,
            "volumeBindingMode": "WaitForFirstConsumer",
            "parameters": {"localClass": self.real_class, "remoteClass": self.real_class},
        }
        claim = {
            "apiVersion": "v1",
            "kind": "PersistentVolumeClaim",
            "metadata": {"name": self.name, "namespace": "default"},
            "spec": {
                "storageClassName": self.name,
                "accessModes": ["ReadWriteOnce"],
                "volumeMode": "Block" if self.content == "block" else "Filesystem",
                # The smallest that xfs takes.
                "resources": {"requests": {"storage": "320Mi"}},
            },
        }
        return [virtual, claim]

    def pod(self) -> Json:
        """A pod that says whether it finds this cell's data, and writes it if not."""
        block = self.content == "block"
        container: Json = {
            "name": "main",
            "image": settings.BUSYBOX_IMAGE,
            "command": ["sh", "-c", DEVICE if block else FILES],
            "env": [{"name": "CELL", "value": self.name}],
        }
        if block:
            container["volumeDevices"] = [{"name": "data", "devicePath": "/dev/data"}]
        else:
            container["volumeMounts"] = [{"name": "data", "mountPath": "/data"}]
        return {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": self.name, "namespace": "default"},
            "spec": {
                "nodeSelector": {"kubernetes.io/hostname": self.node},
                "containers": [container],
                "volumes": [{"name": "data", "persistentVolumeClaim": {"claimName": self.name}}],
            },
        }


CELLS: Final = tuple(
    Cell(content, attach, node)
    for content, attach, node in itertools.product(
        ("ext4", "xfs", "block"), (False, True), ("rome-1", settings.PROVIDER)
    )
)


@dataclass(frozen=True, slots=True)
class Lab:
    """A running lab with both modes of the driver over both kinds of the loop driver."""

    owner: instance.Instance
    fabric: lifecycle.Fabric
    consumer: api.Api

    async def replace_pods(self) -> dict[str, str]:
        """Start every cell's pod, ending the one before it; return what each says first."""
        async with asyncio.TaskGroup() as group:
            said = {cell.name: group.create_task(self.replace_pod(cell)) for cell in CELLS}
        return {name: task.result() for name, task in said.items()}

    async def replace_pod(self, cell: Cell) -> str:
        await self.end_pod(cell)
        await self.consumer.create(PODS, cell.pod())
        await control_planes.wait_until(
            self.consumer,
            PODS,
            cell.name,
            lambda item: (item or {}).get("status", {}).get("phase") == "Running",
            timeout_seconds=240,
        )
        async with asyncio.timeout(60):
            while not (said := await self._logs(cell)):  # noqa: ASYNC110  # nothing to watch yet
                await asyncio.sleep(0.3)
        return said

    async def _logs(self, cell: Cell) -> str:
        return (await self.fabric.consumer.kubectl("logs", cell.name)).strip()

    async def end_pod(self, cell: Cell) -> None:
        path = f"{PODS}/{cell.name}"
        found = await self.consumer.find(path)
        if found is not None:
            await self.consumer.delete(path, uid=found["metadata"]["uid"])
            await control_planes.wait_until(
                self.consumer, PODS, cell.name, lambda item: item is None, timeout_seconds=120
            )

    async def snapshot(self) -> leaks.Snapshot:
        whole = leaks.Snapshot()
        for driver in DRIVERS:
            whole |= await leaks.snapshot_instance(self.owner.directory, driver=driver)
        return whole


@pytest.fixture(scope="module")
def owner(tmp_path_factory: pytest.TempPathFactory) -> Iterator[instance.Instance]:
    made = instance.Instance(tmp_path_factory.mktemp("lab"))
    try:
        asyncio.run(lifecycle.up(made, print))
        asyncio.run(lifecycle.add_storage(made, print))
        yield made
    finally:
        asyncio.run(lifecycle.down(made, print))


@pytest.fixture
async def lab(owner: instance.Instance) -> AsyncIterator[Lab]:
    octet = owner.recorded_octet
    assert octet is not None
    fabric = lifecycle.describe(owner, octet)
    await fabric.consumer.kubectl("apply", "-k", ROOT / "deploy/attach")
    for workload in ("deployment/csi-liqo-controller-attach", "daemonset/csi-liqo-node-attach"):
        status = ("rollout", "status", workload, "--namespace=csi-liqo", "--timeout=120s")
        await fabric.consumer.kubectl(*status)
    offered = [cell.real_class for cell in CELLS]
    await fabric.provider.kubectl(
        *("label", "--overwrite", "storageclass", *sorted(set(offered))),
        "csi.liqo.io/offered=true",
    )
    async with await api.Api.of(fabric.consumer.plane.kubeconfig) as consumer:
        yield Lab(owner, fabric, consumer)


async def test_every_cell_keeps_its_data_through_every_restart_and_leaves_nothing(
    lab: Lab,
) -> None:
    before = await lab.snapshot()
    objects = [part for cell in CELLS for part in cell.objects()]
    await lab.fabric.consumer.kubectl("apply", "-f", "-", stdin=yaml.safe_dump_all(objects))

    assert await lab.replace_pods() == {cell.name: "fresh" for cell in CELLS}
    found = {cell.name: f"found {cell.name}" for cell in CELLS}
    assert await lab.replace_pods() == found

    await restart_all_that_serves(lab)
    assert await lab.replace_pods() == found

    for cell in CELLS:
        await lab.end_pod(cell)
    claims = [f"persistentvolumeclaim/{cell.name}" for cell in CELLS]
    await lab.fabric.consumer.kubectl("delete", "--timeout=120s", *claims)
    classes = [f"storageclass/{cell.name}" for cell in CELLS]
    await lab.fabric.consumer.kubectl("delete", *classes)
    assert await left_behind(lab, before) == []


async def test_a_local_volume_made_by_hand_is_mounted_where_it_is(
    lab: Lab, tmp_path: pathlib.Path
) -> None:
    """Two nodes see this folder; the volume's own affinity says that it is on one of them."""
    cell = Cell("by-hand", attach=False, node="rome-2")
    made = {
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": {"name": "by-hand"},
        "spec": {
            "capacity": {"storage": "1Gi"},
            "accessModes": ["ReadWriteOnce"],
            "persistentVolumeReclaimPolicy": "Retain",
            "storageClassName": "static",
            "local": {"path": str(tmp_path)},
            "nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": [
                {"key": "kubernetes.io/hostname", "operator": "In", "values": [cell.node]}
            ]}]}},
        },
    }  # fmt: skip
    virtual, claim = cell.objects()
    virtual["parameters"] = {"localClass": "static"}
    wanted = yaml.safe_dump_all([made, virtual, claim])
    before = await lab.snapshot()
    await lab.fabric.consumer.kubectl("apply", "-f", "-", stdin=wanted)

    assert await lab.replace_pod(cell) == "fresh"
    assert (tmp_path / "marker").read_text() == f"{cell.name}\n"
    assert await lab.replace_pod(cell) == f"found {cell.name}"

    await lab.end_pod(cell)
    await lab.fabric.consumer.kubectl("delete", "-f", "-", stdin=wanted)
    assert (tmp_path / "marker").exists()
    assert await left_behind(lab, before) == []


async def restart_all_that_serves(lab: Lab) -> None:
    """Restart node plugins, real drivers and controllers, while the pods go on."""
    consumer = lab.fabric.consumer
    for namespace in ("csi-liqo", "loop", "loop-attach"):
        where = f"--namespace={namespace}"
        await consumer.kubectl("rollout", "restart", "daemonset,deployment", where)
    for namespace in ("csi-liqo", "loop", "loop-attach"):
        where = f"--namespace={namespace}"
        for kind in ("daemonset", "deployment"):
            listed = await consumer.kubectl("get", kind, where, "--output=name")
            for workload in listed.split():
                await consumer.kubectl("rollout", "status", workload, where, "--timeout=180s")
    await consumer.plane.components[control_plane.CONTROLLERS].kill()
    await lifecycle.up(lab.owner, print)


async def left_behind(lab: Lab, before: leaks.Snapshot) -> list[str]:
    """Return what is there that was not, once nothing more goes away."""
    left = leftovers(before, await lab.snapshot())
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(60):
            while left:
                await asyncio.sleep(1)  # of many kinds: no single watch tells
                left = leftovers(before, await lab.snapshot())
    return left


def leftovers(before: leaks.Snapshot, now: leaks.Snapshot) -> list[str]:
    """What names the driver, and any volume or device at all; the rest is kubelet's own."""
    own = "annotation lab.csi.liqo.io/image"  # on every pod that the lab rolled out
    return [
        str(entry)
        for entry in sorted(now.entries - before.entries)
        if (entry.ours or entry.kind in VOLUMES) and own not in entry.name
    ]
