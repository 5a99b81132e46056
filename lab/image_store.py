"""Images unpacked once for all nodes.

Every node has a containerd with a store of its own. Unpacking the same images
into each is most of what starting a lab costs, so it is done once into a
template in the cache, and a node's store begins as hard links to that. Blobs
and the files of unpacked layers never change; the databases, which do, are
copied.
"""

import asyncio
import contextlib
import hashlib
import json
import pathlib
import shutil
import signal
import tempfile
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Final

from lab import binaries, errors, images, node_configuration, processes, settings

Report = Callable[[str], None]

_INDEX: Final = "images.json"
_STORE: Final = "containerd"
_POLL_SECONDS: Final = 0.05
# A node's own identity, which it makes anew.
_PERSONAL: Final = "io.containerd.grpc.v1.introspection"


async def ensure_template(
    archives: Sequence[images.Archive], programs: pathlib.Path, report: Report
) -> pathlib.Path:
    """Have a template with these images; it begins as the newest there is.

    Args:
        archives: what nodes shall have.
        programs: folder of the built programs.
        report: called with a line when something slow begins.

    Raises:
        LabError: containerd does not start or refuses an image.
    """
    folder = settings.cache_directory() / "stores"
    parts = [str(archive.path) for archive in archives]
    parts += [str((programs / "containerd").resolve()), _snapshotter(folder)]
    template = folder / hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]
    async with binaries.locked(folder / "all"):  # also while the older ones are removed
        if not template.exists():
            report("unpacking images")
            with binaries.staged(template) as partial:
                await asyncio.to_thread(_begin, partial, _newest(folder))
                await _fill(partial, archives, programs)
        _use(template)
        await asyncio.to_thread(_remove_older, folder)
    return template


def seed(directory: pathlib.Path, template: pathlib.Path) -> None:
    """Give a node that has no store yet the images of a template.

    Args:
        directory: the node's folder.
        template: from `ensure_template()`.
    """
    if not (directory / _STORE).exists():
        partial = directory / f"{_STORE}.partial"
        shutil.rmtree(partial, ignore_errors=True)
        _copy(template / _STORE, partial)
        images.write_imported(directory, _read_index(template))
        partial.rename(directory / _STORE)


def _snapshotter(folder: pathlib.Path) -> str:
    folder.mkdir(parents=True, exist_ok=True)
    return node_configuration.snapshotter(folder)


def _begin(partial: pathlib.Path, newest: pathlib.Path | None) -> None:
    if newest is None:
        (partial / _STORE).mkdir()
        return

    _copy(newest / _STORE, partial / _STORE)
    shutil.copy(newest / _INDEX, partial / _INDEX)


async def _fill(
    partial: pathlib.Path, archives: Sequence[images.Archive], programs: pathlib.Path
) -> None:
    there = _read_index(partial) if (partial / _INDEX).exists() else []
    async with _containerd(partial / _STORE, programs) as socket:
        for archive in archives:
            if archive not in there:
                await processes.run(
                    *(programs / "ctr", "--address", socket, "--namespace", "k8s.io"),
                    *("images", "import", "--local", archive.path),
                )
    shutil.rmtree(partial / _STORE / _PERSONAL, ignore_errors=True)
    index = [{"reference": a.reference, "path": str(a.path)} for a in archives]
    (partial / _INDEX).write_text(json.dumps(index))


@contextlib.asynccontextmanager
async def _containerd(store: pathlib.Path, programs: pathlib.Path) -> AsyncIterator[str]:
    """Run a containerd on a store, without pods, and end it in order; yields its socket."""
    with tempfile.TemporaryDirectory(prefix="csi-liqo-lab-") as scratch:  # short: it holds a socket
        state = pathlib.Path(scratch)
        configuration = state / "containerd.toml"
        configuration.write_text(node_configuration.forge_plain_containerd(store, state))
        apart = (processes.program("unshare"), "--mount", "--propagation=private", "--")
        daemon = processes.Daemon(
            "containerd of the image store",
            [*apart, str((programs / "containerd").resolve()), f"--config={configuration}"],
            log=settings.cache_directory() / "stores" / "containerd.log",
            pid_file=state / "containerd.pid",
            surroundings=processes.Surroundings(),
        )
        daemon.log.unlink(missing_ok=True)
        daemon.start()
        socket = state / "containerd.sock"
        try:
            async with asyncio.timeout(settings.NODE_TIMEOUT_SECONDS):
                while not await _answers(programs, socket):
                    daemon.check()
                    await asyncio.sleep(_POLL_SECONDS)
            yield str(socket)
        finally:
            # In order, so that its databases are whole.
            daemon.signal(signal.SIGTERM)
            await daemon.stop()


async def _answers(programs: pathlib.Path, socket: pathlib.Path) -> bool:
    with contextlib.suppress(errors.LabError):  # also when the socket is not there yet
        await processes.run(programs / "ctr", "--address", socket, "version")
        return True
    return False


def _read_index(template: pathlib.Path) -> list[images.Archive]:
    listed = json.loads((template / _INDEX).read_text())
    return [images.Archive(item["reference"], pathlib.Path(item["path"])) for item in listed]


def _copy(source: pathlib.Path, target: pathlib.Path) -> None:
    """Copy a store by hard links, or wholly where the file system is another."""
    shared = source.stat().st_dev == target.parent.stat().st_dev
    # NB: `cp` and not shutil, which follows no whiteout devices and drops extended attributes.
    option = ["--link"] if shared else []
    processes.run_now("cp", "--archive", *option, str(source), str(target))
    for database in target.rglob("*.db"):
        own = database.with_suffix(".own")
        shutil.copy2(database, own)
        own.replace(database)


def _newest(folder: pathlib.Path) -> pathlib.Path | None:
    found = _templates(folder)
    return found[-1] if found else None


def _templates(folder: pathlib.Path) -> list[pathlib.Path]:
    """Return all templates, the one used last at the end."""
    indexes = sorted(folder.glob(f"*/{_INDEX}"), key=lambda index: index.stat().st_mtime)
    return [index.parent for index in indexes if not index.parent.name.startswith(".")]


def _use(template: pathlib.Path) -> None:
    (template / _INDEX).touch()


def _remove_older(folder: pathlib.Path) -> None:
    for template in _templates(folder)[: -settings.IMAGE_STORES_KEPT]:
        shutil.rmtree(template, ignore_errors=True)
