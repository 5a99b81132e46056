"""Accounts for everything that a storage driver can leave behind.

A test takes a snapshot before and one after, and their difference has to be
empty: of a cluster its objects and marks on objects, of a node its mounts, loop
devices, directories and journal files. What cannot be read is an error, never
"there is nothing".
"""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import json
import pathlib
import re
import sys
from typing import TYPE_CHECKING, Final

from lab import api, errors, processes

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

DRIVER: Final = "csi.liqo.io"
KUBELET_DIRECTORY: Final = pathlib.Path("/var/lib/kubelet")

_STORAGE: Final = "/apis/storage.k8s.io/v1"
# Lists of these are accounted for object by object, of everything else only what marks it as ours.
_OBJECTS: Final = {
    "/api/v1/persistentvolumeclaims": "persistentvolumeclaim",
    "/api/v1/persistentvolumes": "persistentvolume",
    "/api/v1/namespaces": "namespace",
    f"{_STORAGE}/volumeattachments": "volumeattachment",
    f"{_STORAGE}/csistoragecapacities": "csistoragecapacity",
}
_CSI_NODES: Final = f"{_STORAGE}/csinodes"
_CLASSES: Final = f"{_STORAGE}/storageclasses"
_CAPACITIES: Final = f"{_STORAGE}/csistoragecapacities"
# They expire by themselves, and copy the metadata of nobody.
_UNACCOUNTED: Final = ("events",)
# Where kubelet keeps CSI volumes of pods and staged ones, below its directory.
_KUBELET_PATTERNS: Final = (
    "pods/*/volumes/kubernetes.io~csi/*",
    "pods/*/volumeDevices/kubernetes.io~csi/*",
    "plugins/kubernetes.io/csi/*/*",
)


@dataclasses.dataclass(frozen=True, slots=True, order=True)
class Entry:
    """One thing that exists; `ours` tells that it names the driver."""

    where: str
    kind: str
    name: str
    ours: bool = dataclasses.field(default=False, compare=False)

    def __str__(self) -> str:
        return f"{self.where}: {self.kind} {self.name}"


@dataclasses.dataclass(frozen=True, slots=True)
class Snapshot:
    """What existed at a moment, in one place or in several joined by `|`."""

    entries: frozenset[Entry] = frozenset()

    def __or__(self, other: Snapshot) -> Snapshot:
        return Snapshot(self.entries | other.entries)

    @property
    def ours(self) -> list[Entry]:
        """What names the driver, in order."""
        return sorted(entry for entry in self.entries if entry.ours)


def difference(before: Snapshot, after: Snapshot) -> list[str]:
    """Return a line for each thing that came (`+`) or went (`-`); none when nothing did."""
    came = [f"+ {entry}" for entry in sorted(after.entries - before.entries)]
    went = [f"- {entry}" for entry in sorted(before.entries - after.entries)]
    return came + went


# --- clusters -------------------------------------------------------------------------------------


async def snapshot_cluster(
    name: str,
    kubeconfig: pathlib.Path,
    *,
    hostpath: pathlib.Path | None = None,
    driver: str = DRIVER,
) -> Snapshot:
    """Account for a cluster, and for the directories of its hostPath volumes when given.

    Raises ApiError, aiohttp.ClientError or TimeoutError when it cannot be read.
    """
    async with await api.Api.of(kubeconfig) as server:
        lists = {path: await server.get(path) for path in _OBJECTS}
        standing = _standing(lists[_CAPACITIES], await server.get(_CLASSES))
        lists[_CAPACITIES]["items"] = [
            item for item in lists[_CAPACITIES]["items"] or [] if _name_of(item) not in standing
        ]
        objects = [_objects(name, kind, lists[path], driver) for path, kind in _OBJECTS.items()]
        drivers = _registered(name, await server.get(_CSI_NODES), driver)
        paths = await _collections(server)
        async with asyncio.TaskGroup() as tasks:
            names = {path: tasks.create_task(server.list_metadata(path)) for path in paths}
    names_of_capacities = names[_CAPACITIES].result()
    names_of_capacities["items"] = [
        item for item in names_of_capacities["items"] or [] if _name_of(item) not in standing
    ]
    marks = [_marked(name, path, task.result(), driver) for path, task in names.items()]
    entries = {entry for group in (*objects, drivers, *marks) for entry in group}
    if hostpath is not None:
        entries |= set(_hostpaths(name, hostpath))
    return Snapshot(frozenset(entries))


def _standing(capacities: api.Json, classes: api.Json) -> set[str]:
    """Return what says how much room a class has that exists: a fact, and nothing left behind."""
    known = {item["metadata"]["name"] for item in classes["items"] or []}
    return {
        _name_of(item)
        for item in capacities["items"] or []
        if item.get("storageClassName") in known
    }


def _hostpaths(where: str, directory: pathlib.Path) -> Iterator[Entry]:
    # NB: the name says which volume, not whose; so it never counts as ours.
    for path in directory.iterdir() if directory.exists() else ():
        yield Entry(where, "hostpath directory", path.name)


async def _collections(server: api.Api) -> list[str]:
    """Return the path of every resource that can be listed."""
    groups = (await server.get("/apis"))["groups"]
    roots = ["/api/v1", *(f"/apis/{group['preferredVersion']['groupVersion']}" for group in groups)]
    paths = []
    for root in roots:
        for resource in (await server.get(root))["resources"]:
            name = resource["name"]
            if "/" not in name and "list" in resource["verbs"] and name not in _UNACCOUNTED:
                paths.append(f"{root}/{name}")
    return paths


def _objects(where: str, kind: str, answer: api.Json, driver: str) -> Iterator[Entry]:
    for item in answer.get("items") or []:
        # A claim names the driver in its provisioner's annotation, a volume in its source.
        ours = f'"{driver}"' in json.dumps([item["metadata"].get("annotations"), item.get("spec")])
        yield Entry(where, kind, _name_of(item), ours or any(_marks_of(item, driver)))


def _registered(where: str, answer: api.Json, driver: str) -> Iterator[Entry]:
    for item in answer.get("items") or []:
        for entry in item["spec"].get("drivers") or []:
            name = f"{entry['name']} on {item['metadata']['name']}"
            yield Entry(where, "csinode driver", name, entry["name"] == driver)


def _marked(where: str, path: str, answer: api.Json, driver: str) -> Iterator[Entry]:
    kind = path.rpartition("/")[2]
    for item in answer.get("items") or []:
        for mark in _marks_of(item, driver):
            yield Entry(where, kind, f"{_name_of(item)}: {mark}", ours=True)
        if path.startswith(f"/apis/{driver}/"):
            yield Entry(where, kind, _name_of(item), ours=True)


def _marks_of(item: api.Json, driver: str) -> Iterator[str]:
    metadata = item["metadata"]
    for word, names in (
        ("finalizer", metadata.get("finalizers") or []),
        ("label", metadata.get("labels") or {}),
        ("annotation", metadata.get("annotations") or {}),
    ):
        for name in names:
            domain = name.partition("/")[0]
            # What a provider offers is said by its administrator, not left behind.
            if name != f"{driver}/offered" and (domain == driver or domain.endswith(f".{driver}")):
                yield f"{word} {name}"


def _name_of(item: api.Json) -> str:
    metadata = item["metadata"]
    namespace = metadata.get("namespace")
    return f"{namespace}/{metadata['name']}" if namespace else str(metadata["name"])


# --- nodes ----------------------------------------------------------------------------------------


def snapshot_node(
    name: str,
    pid: int,
    *,
    kubelet_directory: pathlib.Path = KUBELET_DIRECTORY,
    driver: str = DRIVER,
) -> Snapshot:
    """Account for the node whose mount namespace the process `pid` is in.

    Raises OSError when the process is gone.
    """
    mounts = pathlib.Path(f"/proc/{pid}/mountinfo").read_text()
    # The node's own view of its files, wherever this program runs.
    root = pathlib.Path(f"/proc/{pid}/root") / kubelet_directory.relative_to("/")
    found = [
        *_mounts(name, mounts, kubelet_directory, root, driver),
        *_directories(name, root, driver),
        *_journal(name, root, driver),
    ]
    return Snapshot(frozenset(found))


def snapshot_loop_devices(where: str = "host") -> Snapshot:
    """Account for the machine's loop devices in use, by backing file: all nodes share them."""
    files = pathlib.Path("/sys/block").glob("loop*/loop/backing_file")
    return Snapshot(frozenset(Entry(where, "loop device", text) for text in _texts(files)))


def _texts(files: Iterable[pathlib.Path]) -> Iterator[str]:
    for file in files:
        try:
            yield file.read_text().strip()
        except OSError:  # freed between listing and reading: not in use
            continue


def _mounts(
    where: str, mountinfo: str, kubelet: pathlib.Path, root: pathlib.Path, driver: str
) -> Iterator[Entry]:
    for line in mountinfo.splitlines():
        # Field 5 is the mount point, with blanks as octal escapes (proc_pid_mountinfo(5)).
        point = re.sub(r"\\([0-7]{3})", lambda octal: chr(int(octal[1], 8)), line.split()[4])
        path = pathlib.PurePosixPath(point)
        if not path.is_relative_to(kubelet):
            continue
        below = path.relative_to(kubelet)
        if re.search(r"(^|/)kubernetes\.io[~/]csi/", str(below)) or driver in below.parts:
            yield Entry(where, "mount", point, _belongs(root / below, root, driver))


def _directories(where: str, root: pathlib.Path, driver: str) -> Iterator[Entry]:
    for pattern in _KUBELET_PATTERNS:
        for path in root.glob(pattern):
            name = str(path.relative_to(root))
            yield Entry(where, "kubelet directory", name, _belongs(path, root, driver))


def _journal(where: str, root: pathlib.Path, driver: str) -> Iterator[Entry]:
    for path in root.glob("plugins/*/journal/*"):
        name = str(path.relative_to(root / "plugins"))
        yield Entry(where, "journal file", name, driver in path.parts)


def _belongs(path: pathlib.Path, root: pathlib.Path, driver: str) -> bool:
    """Tell whose volume a path of kubelet is part of: named in it, or in the data beside it."""
    if driver in path.relative_to(root).parts:
        return True
    for directory in (path, *path.parents):
        if directory == root:
            break
        try:
            data = json.loads((directory / "vol_data.json").read_text())
        except (FileNotFoundError, NotADirectoryError):
            continue
        return bool(data.get("driverName") == driver)
    return False


# --- the command ----------------------------------------------------------------------------------


async def snapshot_instance(instance: pathlib.Path, *, driver: str = DRIVER) -> Snapshot:
    """Account for every cluster and every node of a lab's instance, and the loop devices.

    Raises what the parts raise, and LabError when a node does not run.
    """
    whole = snapshot_loop_devices()
    for cluster in _directories_with(instance, "kubeconfig"):
        whole |= await snapshot_cluster(
            cluster.name, cluster / "kubeconfig", hostpath=cluster / "hostpath_pv", driver=driver
        )
        for node in _directories_with(cluster, "holder.pid"):
            holder = processes.read_identity(node / "holder.pid")
            if holder is None or not holder.alive():
                raise errors.LabError(f"node {node.name} does not run")
            whole |= snapshot_node(node.name, holder.pid, driver=driver)
    return whole


def _directories_with(parent: pathlib.Path, name: str) -> list[pathlib.Path]:
    return [file.parent for file in sorted(parent.glob(f"*/{name}"))]


def main() -> int:
    """Print what is left of the driver; the exit code is 1 when anything is."""
    parser = argparse.ArgumentParser(prog="python -m lab.leaks", description=main.__doc__)
    parser.add_argument("--instance", type=pathlib.Path, required=True)
    parser.add_argument("--driver", default=DRIVER)
    options = parser.parse_args()
    whole = asyncio.run(snapshot_instance(options.instance, driver=options.driver))
    for entry in whole.ours:
        print(entry)
    return 1 if whole.ours else 0


if __name__ == "__main__":
    sys.exit(main())
