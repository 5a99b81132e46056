"""A lab with real CSI drivers in it, and what its pods do and say."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import yaml

from lab import api, instance, leaks, lifecycle, settings
from tests import control_planes

DEFAULT: Final = "/api/v1/namespaces/default"
PODS: Final = f"{DEFAULT}/pods"
DRIVERS: Final = ("csi.liqo.io", "csi.liqo.io-attach")
# Left behind when any of one came, whosever it is.
_VOLUMES: Final = ("persistentvolumeclaim", "persistentvolume", "volumeattachment", "loop device")

IDLE: Final = "trap 'exit 0' TERM; while true; do sleep 0.2; done"
"""The end of a pod's script: it lives until it is asked to end, and then ends at once."""

Json = dict[str, Any]


def storage_class(
    name: str, provisioner: str, parameters: dict[str, str] | None = None, **more: object
) -> Json:
    """Return a class that waits for its first consumer."""
    return {
        "apiVersion": "storage.k8s.io/v1",
        "kind": "StorageClass",
        "metadata": {"name": name},
        "provisioner": provisioner,
        "volumeBindingMode": "WaitForFirstConsumer",
        "parameters": parameters or {},
        **more,
    }


def claim(name: str, class_name: str, *, block: bool = False, mode: str = "ReadWriteOnce") -> Json:
    """Return a claim of the smallest size that xfs takes."""
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {
            "storageClassName": class_name,
            "accessModes": [mode],
            "volumeMode": "Block" if block else "Filesystem",
            "resources": {"requests": {"storage": "320Mi"}},
        },
    }


def pod(
    name: str,
    claim_name: str,
    node: str,
    script: str,
    *,
    block: bool = False,
    fs_group: int | None = None,
) -> Json:
    """Return a pod with a claim's volume at /data, or its device at /dev/data."""
    container: Json = {
        "name": "main",
        "image": settings.BUSYBOX_IMAGE,
        "command": ["sh", "-c", f"{script}\n{IDLE}"],
        "volumeMounts": [{"name": "data", "mountPath": "/data"}],
    }
    if block:
        del container["volumeMounts"]
        container["volumeDevices"] = [{"name": "data", "devicePath": "/dev/data"}]
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {
            "nodeSelector": {"kubernetes.io/hostname": node},
            "containers": [container],
            "volumes": [{"name": "data", "persistentVolumeClaim": {"claimName": claim_name}}],
            "securityContext": {} if fs_group is None else {"fsGroup": fs_group},
        },
    }


@dataclass(frozen=True, slots=True)
class Lab:
    """A running lab with both modes of the driver over the kinds of the loop driver."""

    owner: instance.Instance
    fabric: lifecycle.Fabric
    consumer: api.Api

    async def kubectl(self, *arguments: str, objects: Sequence[Json] = ()) -> str:
        """Run kubectl in the consumer cluster, with objects to read."""
        given = ("-f", "-") if objects else ()
        text = yaml.safe_dump_all(objects) if objects else None
        return await self.fabric.consumer.kubectl(*arguments, *given, stdin=text)

    async def apply(self, *objects: Json) -> None:
        await self.kubectl("apply", objects=objects)

    async def delete(self, *objects: Json) -> None:
        """Delete objects, those given last first, and wait until they are gone."""
        await self.kubectl("delete", "--timeout=120s", objects=objects[::-1])

    async def run(self, *pods: Json) -> dict[str, str]:
        """Start pods, ending those of their names before; return what each says first."""
        async with asyncio.TaskGroup() as group:
            said = {made["metadata"]["name"]: group.create_task(self._run(made)) for made in pods}
        return {name: task.result() for name, task in said.items()}

    async def _run(self, made: Json) -> str:
        name = made["metadata"]["name"]
        await self.end(name)
        await self.consumer.create(PODS, made)
        await self.wait(name, is_running, timeout_seconds=240)
        return await self.said(name)

    async def wait(
        self, name: str, condition: Callable[[Json], bool], *, timeout_seconds: float = 120
    ) -> Json:
        """Wait until a pod is as described."""
        found = await control_planes.wait_until(
            self.consumer,
            PODS,
            name,
            lambda item: item is not None and condition(item),
            timeout_seconds=timeout_seconds,
        )
        assert found is not None
        return found

    async def said(self, name: str) -> str:
        """Return what a pod's newest container says, once it says something."""
        async with asyncio.timeout(60):
            while not (text := await self.kubectl("logs", name)).strip():  # noqa: ASYNC110  # nothing to watch
                await asyncio.sleep(0.3)
        return text.strip()

    async def end(self, *names: str) -> None:
        """Delete pods and wait until they are gone; one that is not there is."""
        async with asyncio.TaskGroup() as group:
            for name in names:
                group.create_task(self._end(name))

    async def _end(self, name: str) -> None:
        found = await self.consumer.find(f"{PODS}/{name}")
        if found is not None:
            await self.consumer.delete(f"{PODS}/{name}", uid=found["metadata"]["uid"])
            await control_planes.wait_until(
                self.consumer, PODS, name, lambda item: item is None, timeout_seconds=120
            )

    async def execute(self, name: str, *command: str) -> str:
        """Run a command in a pod; return what it printed."""
        return (await self.kubectl("exec", name, "--", *command)).strip()

    async def event(self, name: str, text: str, *, timeout_seconds: float = 60) -> str:
        """Wait until an event on a pod contains a text; return its whole message."""
        query = {"fieldSelector": f"involvedObject.name={name},involvedObject.kind=Pod"}
        path = f"{DEFAULT}/events"
        async with asyncio.timeout(timeout_seconds):
            while True:  # a message may also be a change of an event that was there
                for item in (await self.consumer.get(path, query))["items"]:
                    if text in (message := str(item["message"])):
                        return message
                await asyncio.sleep(0.5)

    async def containers(self, *names: str) -> dict[str, str]:
        """Return the id of each pod's container."""
        return {name: container_id(await self.consumer.get(f"{PODS}/{name}")) for name in names}

    async def volume_of(self, claim_name: str) -> Json:
        """Return the PersistentVolume of a bound claim."""
        found = await self.consumer.get(f"{DEFAULT}/persistentvolumeclaims/{claim_name}")
        return await self.consumer.get(f"/api/v1/persistentvolumes/{found['spec']['volumeName']}")

    async def real_volume_of(self, claim_name: str) -> Json:
        """Return the real volume behind a claim: behind its twin when it is a virtual one."""
        volume = await self.volume_of(claim_name)
        twin = volume["spec"]["csi"]["volumeAttributes"].get("twin")
        if twin is None:
            return volume
        namespace, name, _ = twin.split("/")
        path = f"/api/v1/namespaces/{namespace}/persistentvolumeclaims/{name}"
        bound = (await self.consumer.get(path))["spec"]["volumeName"]
        return await self.consumer.get(f"/api/v1/persistentvolumes/{bound}")

    async def snapshot(self) -> leaks.Snapshot:
        """Account for all that is in both clusters, on every node and of the machine's devices."""
        whole = leaks.Snapshot()
        for driver in DRIVERS:
            whole |= await leaks.snapshot_instance(self.owner.directory, driver=driver)
        return whole

    async def left_behind(self, before: leaks.Snapshot) -> list[str]:
        """Return what is there that was not, once nothing more goes away."""
        left = leftovers(before, await self.snapshot())
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(60):
                while left:
                    await asyncio.sleep(1)  # of many kinds: no single watch tells
                    left = leftovers(before, await self.snapshot())
        return left


def is_running(found: Json) -> bool:
    """Tell whether a pod runs."""
    return bool(found["status"].get("phase") == "Running")


def container_id(found: Json) -> str:
    """Return the id of a pod's running container, the empty text when it has none."""
    for status in found["status"].get("containerStatuses") or []:
        if "running" in status["state"]:
            return str(status["containerID"])
    return ""


def leftovers(before: leaks.Snapshot, now: leaks.Snapshot) -> list[str]:
    """What names the driver, and any volume or device at all; the rest is kubelet's own."""
    own = "annotation lab.csi.liqo.io/image"  # on every pod that the lab rolled out
    return [
        str(entry)
        for entry in sorted(now.entries - before.entries)
        if (entry.ours or entry.kind in _VOLUMES) and own not in entry.name
    ]
