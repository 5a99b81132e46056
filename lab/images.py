"""Container images without a registry.

Small images are put together here: one layer, from programs that are on the
machine anyway, in the archive format that every container tool reads. They get
the names that manifests written for the real ones use, so those run unchanged.
"""

import asyncio
import dataclasses
import hashlib
import io
import json
import pathlib
import re
import subprocess
import tarfile
from collections.abc import Iterable, Mapping, Sequence
from typing import Final, Protocol

from lab import binaries, processes, settings

# In a node's folder: the images it has.
_IMPORTED: Final = "images.json"
_DEBIAN_BUSYBOX: Final = pathlib.Path("/bin/busybox")
_ACCOUNTS: Final = {
    "etc/passwd": b"root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n",
    "etc/group": b"root:x:0:\nnogroup:x:65534:\n",
}


@dataclasses.dataclass(frozen=True, slots=True)
class Archive:
    """An image in a file.

    Attributes:
        reference: the name under which manifests ask for it.
        path: the file, in the format of `docker save`; another content has another path.
    """

    reference: str
    path: pathlib.Path


class Runtime(Protocol):
    """What an image is imported into: a node."""

    directory: pathlib.Path

    async def ctr(self, *arguments: str | pathlib.Path) -> str:
        """Run `ctr` with these arguments."""


async def ensure_small(programs: pathlib.Path) -> list[Archive]:
    """Have the images that need no build: pause, busybox and csi-provisioner.

    Args:
        programs: folder of the built programs.
    """
    busybox = {"bin/busybox": _DEBIAN_BUSYBOX}
    provisioner = {"csi-provisioner": (programs / "csi-provisioner").resolve()}
    return [
        # Its only task is to hold a pod's namespaces.
        await ensure(settings.PAUSE_IMAGE, busybox, ["/bin/busybox", "sleep", "2147483647"]),
        await ensure(settings.BUSYBOX_IMAGE, busybox, [], command=["sh"], applets=True),
        await ensure(settings.PROVISIONER_IMAGE, provisioner, ["/csi-provisioner"]),
    ]


async def with_libraries(programs: Iterable[str]) -> dict[str, pathlib.Path]:
    """Return the files of an image that has these programs of the machine.

    Libraries are under the paths where the programs' loader looks.

    Raises:
        LabError: a program is not installed.
    """
    paths = {processes.program(name) for name in programs}
    for program in tuple(paths):
        listed = await processes.run(processes.program("ldd"), program)
        paths.update(re.findall(r"(/\S+) \(0x", listed))
    return {path.lstrip("/"): pathlib.Path(path) for path in sorted(paths)}


async def ensure_imported(runtime: Runtime, archives: Sequence[Archive]) -> None:
    """Have images in a node; only those whose content changed are imported.

    Raises:
        LabError: containerd refuses one.
    """
    imported = read_imported(runtime.directory)
    missing = [archive for archive in archives if archive not in imported]
    for archive in missing:
        # NB: "--local" is the way of importing that needs no further containerd plugin.
        await runtime.ctr("images", "import", "--local", archive.path)
    if missing:
        replaced = {archive.reference for archive in archives}
        kept = [archive for archive in imported if archive.reference not in replaced]
        write_imported(runtime.directory, [*kept, *archives])


def write_imported(directory: pathlib.Path, archives: Sequence[Archive]) -> None:
    """Note in a node's folder which images it has."""
    listed = [{"reference": a.reference, "path": str(a.path)} for a in archives]
    (directory / _IMPORTED).write_text(json.dumps(listed))


def read_imported(directory: pathlib.Path) -> list[Archive]:
    """Return which images a node has, as its folder says."""
    try:
        listed = json.loads((directory / _IMPORTED).read_text())
    except FileNotFoundError:
        return []

    return [Archive(item["reference"], pathlib.Path(item["path"])) for item in listed]


async def ensure(
    reference: str,
    files: Mapping[str, pathlib.Path],
    entrypoint: Sequence[str],
    *,
    command: Sequence[str] = (),
    applets: bool = False,
) -> Archive:
    """Have an image of one layer.

    Args:
        reference: its name.
        files: path in the image, without the leading slash -> the file it is a copy of.
        entrypoint: what a container of it starts.
        command: the arguments of that.
        applets: whether busybox, which is among the files, gets links for its commands.
    """
    key = hashlib.sha256(repr((reference, entrypoint, command, applets, _FORMAT)).encode())
    for path in files.values():
        status = path.stat()
        key.update(f"{path}\0{status.st_size}\0{status.st_mtime_ns}".encode())
    name = reference.rpartition("/")[2].replace(":", "-")
    target = settings.cache_directory() / "images" / f"{name}-{key.hexdigest()[:16]}.tar"
    async with binaries.locked(target):
        if not target.exists():
            layer = await asyncio.to_thread(_layer, files, applets=applets)
            config = {"Entrypoint": list(entrypoint), "Cmd": list(command), "Env": [_PATH]}
            await asyncio.to_thread(_write_archive, target, reference, layer, config)
    return Archive(reference, target)


_FORMAT: Final = 1  # raise it when the code below makes other images from the same files
_PATH: Final = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def _layer(files: Mapping[str, pathlib.Path], *, applets: bool) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as layer:
        for name, mode in (("tmp", 0o1777), ("root", 0o700), ("var", 0o755), ("etc", 0o755)):
            folder = tarfile.TarInfo(name)
            folder.type, folder.mode = tarfile.DIRTYPE, mode
            layer.addfile(folder)
        for name, content in _ACCOUNTS.items():
            _add(layer, name, content, 0o644)
        for name, path in files.items():
            _add(layer, name, path.read_bytes(), 0o755)
        if applets:
            for applet in _applets():
                link = tarfile.TarInfo(applet)
                link.type, link.linkname = tarfile.SYMTYPE, "/bin/busybox"
                layer.addfile(link)
    return stream.getvalue()


def _applets() -> list[str]:
    listed = subprocess.run(
        [_DEBIAN_BUSYBOX, "--list-full"], capture_output=True, text=True, check=True
    )
    return [applet for applet in listed.stdout.split() if applet != "bin/busybox"]


def _write_archive(
    target: pathlib.Path, reference: str, layer: bytes, config: Mapping[str, object]
) -> None:
    digest = hashlib.sha256(layer).hexdigest()
    image = {
        "architecture": settings.ARCHITECTURE,
        "os": "linux",
        "config": config,
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{digest}"]},
        "history": [{"created_by": "csi-liqo lab"}],
    }
    content = json.dumps(image).encode()
    name = f"{hashlib.sha256(content).hexdigest()}.json"
    manifest = [{"Config": name, "RepoTags": [reference], "Layers": [f"{digest}.tar"]}]
    partial = target.with_suffix(".partial")
    with tarfile.open(partial, mode="w") as archive:
        _add(archive, f"{digest}.tar", layer, 0o644)
        _add(archive, name, content, 0o644)
        _add(archive, "manifest.json", json.dumps(manifest).encode(), 0o644)
    partial.rename(target)


def _add(archive: tarfile.TarFile, name: str, content: bytes, mode: int) -> None:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode = len(content), mode
    archive.addfile(entry, io.BytesIO(content))
