"""The whole lab, with kubelets: for what only a running pod can show."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import datetime
import pathlib
import time
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any, Final

import yaml

from bench import manifests
from lab import api, images, instance, lifecycle, mirror, requirements, settings, storage, templates

Report = Callable[[str], None]
Json = dict[str, Any]

PODS: Final = "/api/v1/namespaces/default/pods"
ATTACHMENTS: Final = "/apis/storage.k8s.io/v1/volumeattachments"
NODE: Final = manifests.NODE
SIZE: Final = "320Mi"
"""The smallest that every file system takes."""

# The pod lives until it is asked to end, and then ends at once.
SCRIPT: Final = "echo started; trap 'exit 0' TERM; while true; do sleep 0.2; done"


@dataclasses.dataclass(frozen=True, slots=True)
class Way:
    """A class of the lab whose volumes pods are started with.

    Attributes:
        name: of the class, the claim and the pod.
        provisioner: of the class.
        local_class: the real class behind a virtual one.
        block: volumes are devices.
    """

    name: str
    provisioner: str
    local_class: str = ""
    block: bool = False

    def storage_class(self) -> Json:
        """Return the class."""
        if self.local_class:
            parameters = {"localClass": self.local_class}
        elif self.provisioner == manifests.HOST_PATH:
            parameters = {}
        else:
            parameters = {"csi.storage.k8s.io/fstype": "ext4"}
        return manifests.storage_class(self.name, self.provisioner, parameters)

    def claim(self) -> Json:
        """Return the claim."""
        return manifests.claim(self.name, self.name, block=self.block, size=SIZE)

    def pod(self, image: str) -> Json:
        """Return the pod, which says something as soon as it runs."""
        container: Json = {"name": "main", "image": image, "command": ["sh", "-c", SCRIPT]}
        if self.block:
            container["volumeDevices"] = [{"name": "v", "devicePath": "/dev/data"}]
        else:
            container["volumeMounts"] = [{"name": "v", "mountPath": "/data"}]
        made = templates.pod(self.name, NODE)
        made["spec"]["containers"] = [container]
        return made


@dataclasses.dataclass(frozen=True, slots=True)
class Lab:
    """A running lab with both modes of the driver over the kinds of the loop driver."""

    clusters: lifecycle.Fabric
    consumer: api.Api

    async def kubectl(self, *arguments: str | pathlib.Path, objects: Sequence[Json] = ()) -> str:
        """Run kubectl in the consumer, with objects to read."""
        given = ("--filename=-",) if objects else ()
        text = yaml.safe_dump_all(objects) if objects else None
        return await self.clusters.consumer.kubectl(*arguments, *given, stdin=text)

    async def start(self, way: Way, image: str = settings.BUSYBOX_IMAGE) -> float:
        """Start a way's pod; return the seconds from its creation to the first it says.

        The container runtime notes when that was: what kubelet tells the API server of a
        container is up to a second old.
        """
        began = time.time()
        await self.consumer.create(PODS, way.pod(image))
        await mirror.wait_until(self.consumer, PODS, way.name, _is_running, timeout_seconds=180)
        async with asyncio.timeout(30):
            # There is nothing to watch.
            while not (line := await self.kubectl("logs", "--timestamps", way.name)):  # noqa: ASYNC110
                await asyncio.sleep(0.2)
        said = datetime.datetime.fromisoformat(_microseconds(line.split()[0]))
        return said.timestamp() - began

    async def end(self, way: Way) -> None:
        """End a way's pod and wait until its volume is where no node has it."""
        found = await self.consumer.find(f"{PODS}/{way.name}")
        if found is not None:
            await self.consumer.delete(f"{PODS}/{way.name}", uid=found["metadata"]["uid"])
            await mirror.wait_until(self.consumer, PODS, way.name, _is_absent, timeout_seconds=180)
        for item in (await self.consumer.get(ATTACHMENTS))["items"]:
            await mirror.wait_until(
                self.consumer,
                ATTACHMENTS,
                item["metadata"]["name"],
                _is_absent,
                timeout_seconds=180,
            )

    @contextlib.asynccontextmanager
    async def volumes(self, ways: Sequence[Way]) -> AsyncIterator[None]:
        """Have a bound claim for each way, all made by pods on the same node."""
        objects = [part for way in ways for part in (way.storage_class(), way.claim())]
        await self.kubectl("apply", objects=objects)
        for way in ways:
            await self.start(way)
            await self.end(way)
        yield
        await self.kubectl("delete", "--timeout=120s", objects=objects[::-1])


@contextlib.asynccontextmanager
async def running(owner: instance.Instance, report: Report) -> AsyncIterator[Lab]:
    """Have the lab with everything run for the time of the block."""
    await lifecycle.down(owner, report)  # of a run that was cut off
    try:
        await lifecycle.up(owner, report)
        await lifecycle.add_storage(owner, report)
        octet = owner.recorded_octet
        assert octet is not None
        clusters = lifecycle.describe(owner, octet)
        report("installing the mode that attaches")
        kubectl = clusters.consumer.kubectl
        await kubectl("apply", "-k", settings.REPOSITORY / "deploy" / "attach")
        for workload in ("deployment/csi-liqo-controller-attach", "daemonset/csi-liqo-node-attach"):
            await kubectl(
                *("rollout", "status", workload, "--namespace=csi-liqo", "--timeout=120s")
            )
        await _import_fio(clusters, report)
        async with await api.Api.of(clusters.consumer.plane.kubeconfig) as consumer:
            yield Lab(clusters, consumer)
    finally:
        await lifecycle.down(owner, report)


async def _import_fio(clusters: lifecycle.Fabric, report: Report) -> None:
    await requirements.ensure_packages(settings.MEASURING_PACKAGES, report)
    files = await images.with_libraries(["fio"]) | {"bin/busybox": pathlib.Path("/bin/busybox")}
    fio = await images.ensure(settings.FIO_IMAGE, files, [], command=["sh"], applets=True)
    (host,) = (host for host in clusters.consumer.nodes if host.name == NODE)
    await images.ensure_imported(host, [fio])


def ways(real: str, provisioner: str, *, attach: bool = False, block: bool = False) -> list[Way]:
    """Return a real class and the virtual one over it."""
    driver = f"{manifests.DRIVER}-attach" if attach else manifests.DRIVER
    return [
        Way(f"real-{real}", provisioner, block=block),
        Way(f"virtual-{real}", driver, f"real-{real}", block=block),
    ]


HOST_PATH: Final = ways("hostpath", manifests.HOST_PATH)
LOOP: Final = ways("loop", storage.DRIVERS[storage.PLAIN])
LOOP_BLOCK: Final = ways("loop-block", storage.DRIVERS[storage.PLAIN], block=True)
LOOP_ATTACHING: Final = ways("loop-attach", storage.DRIVERS[storage.ATTACHING], attach=True)


def _microseconds(stamp: str) -> str:
    """Cut the nanoseconds off a timestamp, which Python does not read."""
    whole, _, rest = stamp.partition(".")
    digits = rest.rstrip("Z").split("+")[0]
    return f"{whole}.{digits[:6]:0<6}+00:00"


def _is_running(found: Json | None) -> bool:
    return bool((found or {}).get("status", {}).get("phase") == "Running")


def _is_absent(found: Json | None) -> bool:
    return found is None
