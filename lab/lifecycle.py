"""Bring a lab up, look at it, take it down: each may be repeated, and interrupted.

`up` brings what is missing and leaves what is healthy. `down` needs no record of
what was started: all processes of an instance are in its control group, and
everything else it has (namespaces, mounts, interfaces, routes) ends with them.
"""

import asyncio
import contextlib
import dataclasses
import json
import os
import pathlib
import shutil
from collections.abc import Callable, Sequence

from lab import (
    binaries,
    cluster,
    errors,
    images,
    instance,
    mount_points,
    network,
    node,
    processes,
    requirements,
    settings,
)

Report = Callable[[str], None]


@dataclasses.dataclass(frozen=True, slots=True)
class Status:
    """What there is of an instance.

    Attributes:
        processes: how many of the instance's processes run.
        clusters: cluster -> what is wrong with it; the empty text when it is healthy.
    """

    processes: int
    clusters: dict[str, str]

    @property
    def healthy(self) -> bool:
        """Whether every cluster is."""
        return all(not complaint for complaint in self.clusters.values())


async def up(
    owner: instance.Instance, report: Report, archives: Sequence[images.Archive] | None = None
) -> None:
    """Have every cluster of the instance run with all nodes Ready.

    Args:
        owner: which instance.
        report: called with a line when a step begins.
        archives: images for the nodes beside the small ones.

    Raises:
        LabError: what went wrong and where to look.
    """
    _require_root()
    with owner.locked():
        await requirements.ensure(report)
        await binaries.ensure(owner.binaries, report=report)
        every = [*await images.ensure_small(owner.binaries), *(archives or ())]
        report("connecting the network")
        before = owner.recorded_octet
        wires = network.Network(owner)
        addresses = await wires.ensure()
        if before is not None and before != addresses.octet:
            # Certificates and stored objects hold the old addresses.
            report(f"10.{before}.0.0/16 was taken meanwhile: starting anew")
            await _remove_clusters(owner)
        clusters = [
            cluster.Cluster(name, owner, wires, addresses.octet) for name in settings.CLUSTERS
        ]
        held = await asyncio.gather(*(member.hold() for member in clusters))
        routes = [route for some in held for route in some]
        await wires.route(
            routes, {at: pid for member in clusters for at, pid in member.holders().items()}
        )
        async with asyncio.TaskGroup() as group:
            for member in clusters:
                group.create_task(member.start(every, report), name=member.name)


async def down(owner: instance.Instance, report: Report) -> None:
    """End all of the instance and remove what it kept; built programs stay.

    Raises:
        LabError: something resists; the text names it.
    """
    _require_root()
    with owner.locked():
        report("ending processes")
        await owner.group.kill()
        report("removing what they left")
        await network.Network(owner).remove()
        await _detach_loop_devices(owner)
        await owner.group.remove()
        await _remove_clusters(owner)
        mount_points.remove_unused(node.MOUNT_POINTS)
        owner.forget()
        for name in ("switch.log", "switch.pid"):
            (owner.directory / name).unlink(missing_ok=True)


async def status(owner: instance.Instance) -> Status:
    """Look at the instance without changing it."""
    running = len(owner.group.processes())
    octet = owner.recorded_octet
    if octet is None or not running:
        return Status(running, dict.fromkeys(settings.CLUSTERS, "down"))

    wires = network.Network(owner)
    if not await wires.healthy():
        return Status(running, dict.fromkeys(settings.CLUSTERS, "the network is down"))

    complaints = {}
    for name in settings.CLUSTERS:
        if not (owner.cluster_directory(name) / "kubeconfig").exists():
            complaints[name] = "not made yet"
            continue
        complaints[name] = await _complaint(cluster.Cluster(name, owner, wires, octet))
    return Status(running, complaints)


async def _complaint(member: cluster.Cluster) -> str:
    daemons = [*member.plane.components.values()]
    for host in member.nodes:
        daemons += [host.holder, *host.daemons.values()]
    dead = [daemon.name for daemon in daemons if not daemon.running()]
    if dead:
        return f"not running: {', '.join(dead)}"

    unready = await member.unready_nodes()
    return "; ".join(f"{name}: {complaint}" for name, complaint in unready.items())


async def _remove_clusters(owner: instance.Instance) -> None:
    for name, nodes in settings.CLUSTERS.items():
        for group in (*nodes, *(f"{n}.daemons" for n in nodes), f"{name}.control-plane"):
            await owner.group.child(group).kill()
        await asyncio.to_thread(_remove_folder, owner.cluster_directory(name))


def _remove_folder(folder: pathlib.Path) -> None:
    # NB: the lab mounts nothing outside of its nodes' namespaces. Should something be mounted
    # here all the same, then not to look would be to delete what is mounted.
    inside = [
        point
        for point in mount_points.mount_points(pathlib.Path("/proc/self/mountinfo"))
        if pathlib.Path(point).is_relative_to(folder)
    ]
    if inside:
        raise errors.LabError(f"{inside[0]} is mounted on the machine; unmount it first")

    with contextlib.suppress(FileNotFoundError):
        shutil.rmtree(folder)


async def _detach_loop_devices(owner: instance.Instance) -> None:
    losetup = processes.program("losetup")
    listed = await processes.run(losetup, "--list", "--json", "--output", "NAME,BACK-FILE")
    for device in json.loads(listed or '{"loopdevices": []}')["loopdevices"]:
        if pathlib.Path(device["back-file"] or "/").is_relative_to(owner.directory):
            await processes.run(losetup, "--detach", device["name"])


def _require_root() -> None:
    if os.geteuid() != 0:
        raise errors.LabError("the lab makes namespaces and mounts: run it as root")
