"""Real storage that is itself CSI: the loop driver and its sidecars in the lab's clusters.

Not part of every lab, because the demo does not need it. It comes in kinds that live side
by side under different names: one needs no attaching, one does, and one has volumes that
every node reaches, for those who know its secret.
"""

import asyncio
import pathlib
from collections.abc import Callable, Sequence
from typing import Final

import yaml

from lab import binaries, cluster, errors, images, settings

Report = Callable[[str], None]

PLAIN: Final = "plain"
ATTACHING: Final = "attaching"
SHARED: Final = "shared"
# Kind, which is a folder of the manifests -> the namespace that those name.
NAMESPACES: Final = {PLAIN: "loop", ATTACHING: "loop-attach", SHARED: "loop-shared"}
DRIVERS: Final = {
    PLAIN: "loop.csi.example.com",
    ATTACHING: "loop-attach.csi.example.com",
    SHARED: "loop-shared.csi.example.com",
}

_MANIFESTS: Final = settings.MANIFESTS / "loopdriver"
_STATE: Final = "/var/lib/loopdriver"  # in the manifests
_IMAGE_ANNOTATION: Final = "lab.csi.liqo.io/image"
_SNAPSHOT_MODULE: Final = "github.com/kubernetes-csi/external-snapshotter/client/v8"
_WORKLOADS: Final = ("deployment/controller", "daemonset/node")


async def ensure_images(programs: pathlib.Path, report: Report) -> list[images.Archive]:
    """Have the images of the driver and of its sidecars; the driver's comes first.

    Args:
        programs: folder of links to the built programs.
        report: called with one line when something slow begins.

    Raises:
        LabError: a build failed.
    """
    await binaries.ensure(programs, ("provisioner", *settings.STORAGE_PIN_SETS), report)
    archives = [await _driver_image(programs)]
    for reference in (
        settings.PROVISIONER_IMAGE,
        settings.ATTACHER_IMAGE,
        settings.RESIZER_IMAGE,
        settings.SNAPSHOTTER_IMAGE,
        settings.SNAPSHOT_CONTROLLER_IMAGE,
    ):
        name = reference.rpartition("/")[2].partition(":")[0]
        program = {name: (programs / name).resolve()}
        archives.append(await images.ensure(reference, program, [f"/{name}"]))
    return archives


async def _driver_image(programs: pathlib.Path) -> images.Archive:
    files = await images.with_libraries(settings.LOOP_DRIVER_PROGRAMS)
    files |= {path.lstrip("/"): pathlib.Path(path) for path in settings.LOOP_DRIVER_FILES}
    files["loopdriver"] = (programs / "loopdriver").resolve()
    return await images.ensure(settings.LOOP_DRIVER_IMAGE, files, ["/loopdriver"])


def state_directory(member: cluster.Cluster, kind: str) -> pathlib.Path:
    """Where the driver of a cluster keeps its images and notes its calls."""
    # In the instance's folder, by whose path its loop devices are found when the lab goes down.
    return member.directory / "loop" / DRIVERS[kind]


def images_of(instance: pathlib.Path) -> list[pathlib.Path]:
    """Return the images of every volume in an instance's folder."""
    return sorted(instance.glob("*/loop/*/volumes/*.img"))


def staged_on(member: cluster.Cluster, node_name: str) -> list[pathlib.Path]:
    """Return the images that a node has staged; what they have of devices outlives the node.

    A test that ends a node as if its machine were switched off gives them to
    `loop_devices.detach()`.
    """
    return [
        state / "volumes" / f"{record.stem}.img"
        for state in (state_directory(member, kind) for kind in NAMESPACES)
        for record in sorted((state / "staged" / node_name).glob("*.json"))
    ]


async def install(
    member: cluster.Cluster, archives: Sequence[images.Archive], kind: str = PLAIN
) -> None:
    """Have one kind of the driver run in a cluster, registered on every node.

    Args:
        member: a cluster whose nodes are Ready.
        archives: from `ensure_images()`.
        kind: `PLAIN`, `ATTACHING` or `SHARED`.

    Raises:
        LabError: it is not ready in time; the text has what kubectl says.
    """
    for node in member.nodes:
        await images.ensure_imported(node, archives)
    await _install_snapshots(member)
    rendered = await member.kubectl("kustomize", _MANIFESTS / kind)
    objects = list(yaml.safe_load_all(rendered.replace(_STATE, str(member.directory / "loop"))))
    for item in objects:
        if f"{item['kind'].lower()}/{item['metadata']['name']}" in _WORKLOADS:
            # The image's name stays the same when its content changes.
            template = item["spec"]["template"]["metadata"]
            template["annotations"] = {_IMAGE_ANNOTATION: archives[0].path.stem}
    await member.kubectl(*cluster.APPLY, "--filename=-", stdin=yaml.safe_dump_all(objects))
    namespace = f"--namespace={NAMESPACES[kind]}"
    timeout = f"--timeout={settings.ROLLOUT_TIMEOUT_SECONDS:.0f}s"
    for workload in _WORKLOADS:
        try:
            await member.kubectl("rollout", "status", workload, namespace, timeout)
        except errors.LabError as error:
            pods = await member.kubectl("get", "pods", namespace, "--output=wide")
            text = f"{workload} of the loop driver in {member.name}: {error}\n{pods}"
            raise errors.LabError(text) from error


async def _install_snapshots(member: cluster.Cluster) -> None:
    module = await binaries.ensure_module("sidecars", _SNAPSHOT_MODULE)
    kinds = sorted((module / "config" / "crd").glob("snapshot.storage.k8s.io_*.yaml"))
    files = [f"--filename={path}" for path in kinds]
    await member.kubectl(*cluster.APPLY, *files)
    await member.kubectl("wait", "--for=condition=Established", "--timeout=30s", *files)
    await member.kubectl(*cluster.APPLY, "--kustomize", _MANIFESTS / "snapshots")


async def install_everywhere(
    members: Sequence[cluster.Cluster], programs: pathlib.Path, report: Report
) -> None:
    """Have `PLAIN` and `ATTACHING` in every cluster.

    Raises:
        LabError: as `install()`.
    """
    archives = await ensure_images(programs, report)
    report("installing the loop driver")
    async with asyncio.TaskGroup() as group:
        for member in members:
            group.create_task(_install_kinds(member, archives), name=member.name)


async def _install_kinds(member: cluster.Cluster, archives: Sequence[images.Archive]) -> None:
    for kind in (PLAIN, ATTACHING):
        await install(member, archives, kind)
