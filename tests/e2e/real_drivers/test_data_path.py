"""What a pod has of a volume behind the virtual class, beside one of the real class itself.

Both are made by one real class on one node. The driver is to be nowhere between a pod and
its data: the pod sees the same mount of the same device, and reads and writes as fast.
"""

from __future__ import annotations

import json
import pathlib
import statistics
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any, Final

import pytest

from lab import images, requirements, settings, storage
from tests.e2e.real_drivers import storage_lab
from tests.e2e.real_drivers.storage_lab import Lab

pytestmark = pytest.mark.timeout(600)

NODE: Final = "rome-1"
ROUNDS: Final = 3
SPEED_JOB: Final = (
    *("fio", "--name=speed", "--output-format=json", "--ioengine=psync", "--direct=1"),
    # Over what is written already: to find room in the image is no part of the path.
    *("--rw=randwrite", "--bs=4k", "--size=64M", "--overwrite=1", "--time_based", "--runtime=2"),
)

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Way:
    """A volume's content, and whether it is of the virtual class."""

    content: str
    virtual: bool

    @property
    def name(self) -> str:
        return f"{'virtual' if self.virtual else 'real'}-{self.content}"

    @property
    def block(self) -> bool:
        return self.content == "block"

    def storage_class(self) -> Json:
        if self.virtual:
            parameters = {"localClass": Way(self.content, virtual=False).name}
            return storage_lab.storage_class(self.name, storage_lab.DRIVERS[0], parameters)
        fs_type = {"csi.storage.k8s.io/fstype": "ext4" if self.block else self.content}
        options = {} if self.block else {"mountOptions": ["noatime"]}
        real_driver = storage.DRIVERS[storage.PLAIN]
        return storage_lab.storage_class(self.name, real_driver, fs_type, **options)

    def claim(self) -> Json:
        return storage_lab.claim(self.name, self.name, block=self.block)

    def pod(self) -> Json:
        made = storage_lab.pod(self.name, self.name, NODE, "echo started", block=self.block)
        made["spec"]["containers"][0]["image"] = settings.FIO_IMAGE
        return made


CONTENTS: Final = ("ext4", "xfs", "block")
WAYS: Final = tuple(Way(content, virtual) for content in CONTENTS for virtual in (False, True))


@dataclass(frozen=True, slots=True)
class View:
    """What a pod sees of its volume; of a raw block one there is no mount."""

    root: str = ""
    options: str = ""
    fs_type: str = ""
    super_options: str = ""


@pytest.fixture
async def running(lab: Lab) -> AsyncIterator[Lab]:
    """A pod for each way, on the same node."""
    before = await lab.snapshot()
    await requirements.ensure_packages(settings.MEASURING_PACKAGES, print)
    files = await images.with_libraries(["fio"]) | {"bin/busybox": pathlib.Path("/bin/busybox")}
    fio = await images.ensure(settings.FIO_IMAGE, files, [], command=["sh"], applets=True)
    (host,) = (host for host in lab.fabric.consumer.nodes if host.name == NODE)
    await images.ensure_imported(host, [fio])
    objects = [part for way in WAYS for part in (way.storage_class(), way.claim())]
    await lab.apply(*objects)
    await lab.run(*(way.pod() for way in WAYS))
    yield lab
    await lab.end(*(way.name for way in WAYS))
    await lab.delete(*objects)
    assert await lab.left_behind(before) == []


async def test_a_pod_sees_the_mount_and_the_device_of_the_real_volume_and_is_as_fast(
    running: Lab,
) -> None:
    for content in CONTENTS:
        real, virtual = Way(content, virtual=False), Way(content, virtual=True)
        assert await view(running, real) == await view(running, virtual)
        if not real.block:
            shown = await view(running, virtual)
            assert (shown.root, shown.fs_type) == ("/", content)
            assert "noatime" in shown.options

    for content in CONTENTS:
        rates = await alternate(running, Way(content, virtual=False), Way(content, virtual=True))
        assert min(rates) > 0
        print(f"{content}: {rates[0]:.0f} and {rates[1]:.0f} writes/s, {rates[1] / rates[0]:.2f}")


async def view(lab: Lab, way: Way) -> View:
    """Return what a way's pod sees; its device must be that of its own real volume's image."""
    if way.block:
        numbers = await lab.execute(way.name, "stat", "-c", "%t:%T", "/dev/data")
        device = ":".join(str(int(number, 16)) for number in numbers.split(":"))
        shown = View()
    else:
        table = await lab.execute(way.name, "cat", "/proc/self/mountinfo")
        (line,) = (line for line in table.splitlines() if line.split()[4] == "/data")
        mount, _, filesystem = line.partition(" - ")
        _, _, device, root, _, options, *_ = mount.split()
        fs_type, _, super_options = filesystem.split()
        shown = View(root, options, fs_type, super_options)
    image = pathlib.Path(f"/sys/dev/block/{device}/loop/backing_file").read_text().strip()
    handle = (await lab.real_volume_of(way.name))["spec"]["csi"]["volumeHandle"]
    assert pathlib.PurePath(image).stem == handle
    return shown


async def alternate(lab: Lab, real: Way, virtual: Way) -> tuple[float, float]:
    """Run the same job on both by turns; return the median writes a second of each."""
    rates: dict[Way, list[float]] = {real: [], virtual: []}
    for _ in range(ROUNDS):
        for way in (real, virtual):
            rates[way].append(await measure(lab, way))
    return statistics.median(rates[real]), statistics.median(rates[virtual])


async def measure(lab: Lab, way: Way) -> float:
    place = "/dev/data" if way.block else "/data/fio"
    printed = await lab.execute(way.name, *SPEED_JOB, f"--filename={place}")
    report = json.loads(printed[printed.index("{") :])
    return float(report["jobs"][0]["write"]["iops"])
