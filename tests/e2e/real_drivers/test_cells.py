"""Volumes of real CSI drivers behind the virtual class, on real kubelets.

A cell is a filesystem or a raw device, of a driver that needs attaching or not, in this
cluster or in the provider. Every cell counts the starts of its pods on its volume, and must
go on counting after each thing that can happen to what is below it; then all is deleted,
and nothing is left.
"""

from __future__ import annotations

import asyncio
import itertools
import pathlib
from dataclasses import dataclass
from typing import Any, Final

import pytest

from lab import control_plane, lifecycle, node, power, settings, templates
from tests.e2e.real_drivers import storage_lab
from tests.e2e.real_drivers.storage_lab import DRIVERS, Lab

pytestmark = pytest.mark.timeout(1200)

# Worker of the consumer: its control plane lives on when it is switched off. The provider's
# only node takes its control plane with it.
LOCAL_NODE: Final = "rome-2"
REMOTE_NODE: Final = "milan-1"

COUNT: Final = """
set -- $(dd if=$PLACE bs=64 count=1 2>/dev/null | tr -d '\\0')
echo -n "${1:-$CELL} $((${2:-0} + 1))" | dd of=$PLACE bs=64 conv=fsync 2>/dev/null
echo "$(dd if=$PLACE bs=64 count=1 2>/dev/null | tr -d '\\0')"
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
    def block(self) -> bool:
        return self.content == "block"

    @property
    def real_class(self) -> str:
        filesystem = "ext4" if self.block else self.content
        return f"loop-attach-{filesystem}" if self.attach else f"loop-{filesystem}"

    @property
    def driver(self) -> str:
        """A remote volume is attached by its own cluster, whatever this one installs."""
        return DRIVERS[self.attach and self.node != settings.PROVIDER]

    def storage_class(self) -> Json:
        parameters = {"localClass": self.real_class, "remoteClass": self.real_class}
        return storage_lab.storage_class(self.name, self.driver, parameters)

    def claim(self) -> Json:
        return storage_lab.claim(self.name, self.name, block=self.block)

    def pod(self) -> Json:
        """A pod that counts its start on the volume and says the volume's name and count."""
        place = "/dev/data" if self.block else "/data/record"
        script = f"CELL={self.name}; PLACE={place}\n{COUNT}"
        return storage_lab.pod(self.name, self.name, self.node, script, block=self.block)


CELLS: Final = tuple(
    Cell(content, attach, node_name)
    for content, attach, node_name in itertools.product(
        ("ext4", "xfs", "block"), (False, True), (LOCAL_NODE, settings.PROVIDER)
    )
)
NAMES: Final = tuple(cell.name for cell in CELLS)


def counted(starts: int) -> dict[str, str]:
    """Return what every cell says after so many starts."""
    return {name: f"{name} {starts}" for name in NAMES}


async def test_every_cell_keeps_its_data_through_every_restart_and_leaves_nothing(
    lab: Lab,
) -> None:
    before = await lab.snapshot()
    classes = [cell.storage_class() for cell in CELLS]
    claims = [cell.claim() for cell in CELLS]
    pods = [cell.pod() for cell in CELLS]
    await lab.apply(*classes, *claims)

    assert await lab.run(*pods) == counted(1)
    assert await lab.run(*pods) == counted(2)

    containers = await lab.containers(*NAMES)
    await restart_all_that_serves(lab)
    assert await lab.containers(*NAMES) == containers
    assert await lab.run(*pods) == counted(3)

    assert await reboot(lab, LOCAL_NODE, REMOTE_NODE) == counted(4)
    assert await lab.run(*pods) == counted(5)

    await lab.end(*NAMES)
    await lab.delete(*classes, *claims)
    assert await lab.left_behind(before) == []


async def restart_all_that_serves(lab: Lab) -> None:
    """Restart node plugins, real drivers, controllers and kubelets, while the pods go on."""
    for namespace in ("csi-liqo", "loop", "loop-attach"):
        where = f"--namespace={namespace}"
        await lab.kubectl("rollout", "restart", "daemonset,deployment", where)
    for namespace in ("csi-liqo", "loop", "loop-attach"):
        where = f"--namespace={namespace}"
        for kind in ("daemonset", "deployment"):
            listed = await lab.kubectl("get", kind, where, "--output=name")
            for workload in listed.split():
                await lab.kubectl("rollout", "status", workload, where, "--timeout=180s")
    await lab.fabric.consumer.plane.components[control_plane.CONTROLLERS].kill()
    for member in (lab.fabric.consumer, lab.fabric.provider):
        for host in member.nodes:
            await host.daemons[node.KUBELET].kill()
    await lifecycle.up(lab.owner, print)


async def reboot(lab: Lab, *nodes: str) -> dict[str, str]:
    """Switch nodes off and on; return what every cell says once it has started again."""
    containers = await lab.containers(*NAMES)
    await power.switch_off(lab.owner, nodes)
    await lifecycle.up(lab.owner, print)

    async def say(name: str) -> str:
        def is_new(found: Json) -> bool:
            return storage_lab.container_id(found) not in ("", containers[name])

        await lab.wait(name, is_new, timeout_seconds=240)
        return await lab.said(name)

    return dict(zip(NAMES, await asyncio.gather(*map(say, NAMES)), strict=True))


async def test_a_local_volume_made_by_hand_is_mounted_where_it_is(
    lab: Lab, tmp_path: pathlib.Path
) -> None:
    """Two nodes see this folder; the volume's own affinity says that it is on one of them."""
    cell = Cell("by-hand", attach=False, node="rome-2")
    made = templates.local_volume("by-hand", cell.node, size="1Gi", path=str(tmp_path))
    virtual = cell.storage_class() | {"parameters": {"localClass": "static"}}
    wanted = (made, virtual, cell.claim())
    before = await lab.snapshot()
    await lab.apply(*wanted)

    assert await lab.run(cell.pod()) == {cell.name: f"{cell.name} 1"}
    assert (tmp_path / "record").read_text() == f"{cell.name} 1"
    assert await lab.run(cell.pod()) == {cell.name: f"{cell.name} 2"}

    await lab.end(cell.name)
    await lab.delete(*wanted)
    assert (tmp_path / "record").exists()
    assert await lab.left_behind(before) == []
