"""Bring a lab up, look at it, take it down: each may be repeated, and interrupted.

`up` brings what is missing and leaves what is healthy. `down` needs no record of
what was started: all processes of an instance are in its control group, and
everything else it has (namespaces, mounts, interfaces, routes) ends with them.
"""

import asyncio
import contextlib
import dataclasses
import hashlib
import os
import pathlib
import shutil
from collections.abc import Callable, Sequence

from lab import (
    binaries,
    cluster,
    deploy,
    driver_image,
    errors,
    image_store,
    images,
    instance,
    loop_devices,
    mount_points,
    network,
    node,
    peering,
    processes,
    requirements,
    settings,
    storage,
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


async def up(owner: instance.Instance, report: Report, *, driver: bool = True) -> None:
    """Have every cluster of the instance run, with all nodes and the driver Ready.

    Args:
        owner: which instance.
        report: called with a line when a step begins.
        driver: whether the driver is installed, and told of the provider.

    Raises:
        LabError: what went wrong and where to look.
    """
    _require_root()
    with owner.locked():
        await requirements.ensure(report)
        archives = await _prepare(owner, report, driver=driver)
        installed = [*map(str, archives), await asyncio.to_thread(_manifests)]
        if owner.installed == installed and (await status(owner)).healthy:
            return

        owner.installed = []
        fabric = await _connect(owner, report)
        every = [fabric.consumer, fabric.provider]
        template = None
        if not all(member.has_stores() for member in every):
            template = await image_store.ensure_template(archives, owner.binaries, report)
        async with asyncio.TaskGroup() as group:
            for member in every:
                group.create_task(member.start(archives, template, report), name=member.name)
        await fabric.peering.start_virtual_kubelet()
        if driver:
            report("installing the driver")
            await _install(fabric, archives[-1])
        await _wait_for_virtual_node(fabric)
        owner.installed = installed


@dataclasses.dataclass(frozen=True, slots=True)
class Fabric:
    """The clusters of an instance and what is between them."""

    consumer: cluster.Cluster
    provider: cluster.Cluster
    peering: peering.Peering


def describe(owner: instance.Instance, octet: int) -> Fabric:
    """Return the clusters of an instance at their addresses; nothing is started."""
    wires = network.Network(owner)
    consumer, provider = (
        cluster.Cluster(name, owner, wires, octet)
        for name in (settings.CONSUMER, settings.PROVIDER)
    )
    between = peering.Peering(owner, wires, consumer, provider, network.Addresses(octet))
    return Fabric(consumer, provider, between)


async def lend(owner: instance.Instance, namespaces: Sequence[str]) -> None:
    """Let the consumer make claims in the provider's stand-ins of these namespaces.

    Raises:
        LabError: the lab is down.
    """
    octet = owner.recorded_octet
    if octet is None:
        raise errors.LabError(f"no lab runs in {owner.directory}")

    await describe(owner, octet).peering.lend(namespaces)


async def add_storage(owner: instance.Instance, report: Report) -> None:
    """Have the loop driver, as real storage that is CSI itself, in every cluster of a running lab.

    Raises:
        LabError: the lab is down, or the driver does not become ready.
    """
    _require_root()
    octet = owner.recorded_octet
    if octet is None:
        raise errors.LabError(f"no lab runs in {owner.directory}")

    fabric = describe(owner, octet)
    await storage.install_everywhere((fabric.consumer, fabric.provider), owner.binaries, report)


async def _prepare(
    owner: instance.Instance, report: Report, *, driver: bool
) -> list[images.Archive]:
    """Build what is missing; the driver's image comes last."""
    async with asyncio.TaskGroup() as group:
        group.create_task(binaries.ensure(owner.binaries, report=report))
        image = group.create_task(driver_image.ensure(report)) if driver else None
    small = await images.ensure_small(owner.binaries)
    return small if image is None else [*small, image.result()]


async def _connect(owner: instance.Instance, report: Report) -> Fabric:
    """Have the namespaces of all nodes, connected to each other."""
    report("connecting the network")
    before = owner.recorded_octet
    wires = network.Network(owner)
    addresses = await wires.ensure()
    if before is not None and before != addresses.octet:
        # Certificates and stored objects hold the old addresses.
        report(f"10.{before}.0.0/16 was taken meanwhile: starting anew")
        await _remove_clusters(owner)
    fabric = describe(owner, addresses.octet)
    every = (fabric.consumer, fabric.provider)
    routes = [
        route for held in await asyncio.gather(*(one.hold() for one in every)) for route in held
    ]
    await wires.route(routes, fabric.consumer.holders() | fabric.provider.holders())
    return fabric


def _manifests() -> str:
    """Return a digest of every manifest that is applied."""
    digest = hashlib.sha256()
    for folder in (settings.MANIFESTS, settings.REPOSITORY / "deploy"):
        for path in sorted(folder.rglob("*.yaml")):
            digest.update(path.read_bytes())
    return digest.hexdigest()


async def _install(fabric: Fabric, image: images.Archive) -> None:
    async with asyncio.TaskGroup() as group:
        group.create_task(fabric.peering.introduce(), name="rights in the provider")
        group.create_task(deploy.install(fabric.consumer, image), name="the driver")
    await fabric.peering.register()
    await deploy.wait_until_ready(fabric.consumer)


async def _wait_for_virtual_node(fabric: Fabric) -> None:
    daemon = fabric.peering.virtual_kubelet()
    node_name = f"node/{settings.PROVIDER}"
    timeout = f"--timeout={settings.NODE_TIMEOUT_SECONDS:.0f}s"
    try:
        await fabric.consumer.kubectl("wait", "--for=create", node_name, timeout)
        await fabric.consumer.kubectl("wait", "--for=condition=Ready", node_name, timeout)
    except errors.LabError:
        daemon.check()
        raise errors.ProcessDiedError(daemon.name, daemon.log, "made no Ready node") from None


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
        await loop_devices.detach(storage.images_of(owner.directory))
        await owner.group.remove()
        await _remove_clusters(owner)
        mount_points.remove_unused(node.MOUNT_POINTS)
        owner.forget()
        for name in ("switch.log", "switch.pid"):
            (owner.directory / name).unlink(missing_ok=True)


async def status(owner: instance.Instance) -> Status:
    """Look at the instance without changing it.

    Raises:
        LabError: by another user than root.
    """
    _require_root()
    running = len(owner.group.processes())
    octet = owner.recorded_octet
    if octet is None or not running:
        return Status(running, dict.fromkeys(settings.CLUSTERS, "down"))

    if not await network.Network(owner).healthy():
        return Status(running, dict.fromkeys(settings.CLUSTERS, "the network is down"))

    if not all(
        (owner.cluster_directory(name) / "kubeconfig").exists() for name in settings.CLUSTERS
    ):
        return Status(running, dict.fromkeys(settings.CLUSTERS, "half made: run up again"))

    fabric = describe(owner, octet)
    kubelet = fabric.peering.virtual_kubelet()
    return Status(
        running,
        {
            fabric.consumer.name: await _complaint(fabric.consumer, kubelet),
            fabric.provider.name: await _complaint(fabric.provider),
        },
    )


async def _complaint(member: cluster.Cluster, *others: processes.Daemon) -> str:
    daemons = [*member.plane.components.values(), *others]
    for host in member.nodes:
        daemons += [host.holder, *host.daemons.values()]
    dead = [daemon.name for daemon in daemons if not daemon.running()]
    if dead:
        return f"not running: {', '.join(dead)}"

    silent = await member.silent_components()
    if silent:
        return f"not answering: {', '.join(silent)}"

    unready = await member.unready_nodes()
    if unready:
        return "; ".join(f"{name}: {complaint}" for name, complaint in unready.items())

    return await deploy.find_complaint(member)


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


def _require_root() -> None:
    if os.geteuid() != 0:
        raise errors.LabError("the lab makes namespaces and mounts: run it as root")
