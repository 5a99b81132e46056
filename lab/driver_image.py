"""The driver's image from the repository's Dockerfile, without a registry or a daemon.

Three layers of caching, each under a key made of what goes into it: a base of
Debian packages, the Python wheels, and the image. Whoever changes a source file
waits for the last layer only.
"""

import asyncio
import hashlib
import os
import pathlib
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterable
from typing import Final

from lab import binaries, images, mount_points, processes, settings

Report = Callable[[str], None]

_SOURCES: Final = (
    "csi_liqo",
    "pyproject.toml",
    "README.md",
    "Dockerfile",
    "requirements/driver.txt",
)
_POLICY: Final = '{"default": [{"type": "insecureAcceptAnything"}]}\n'  # nothing is fetched


async def ensure(report: Report) -> images.Archive:
    """Have the image of this tree's driver in a file.

    Raises:
        LabError: a step failed; the text has its last words.
    """
    cache = settings.cache_directory() / "images"
    cache.mkdir(parents=True, exist_ok=True)
    base = cache / f"base-{_base_key()}.tar"
    wheels = cache / f"wheels-{_wheels_key()}"
    with tempfile.TemporaryDirectory(prefix="csi-liqo-image-", dir=cache) as scratch:
        # A copy, so that what is built has the key of what was there at one moment.
        context = pathlib.Path(scratch) / "context"
        sources = await asyncio.to_thread(_copy_sources, context)
        target = cache / f"csi-liqo-{_key(base.name, wheels.name, sources)}.tar"
        async with binaries.locked(target):
            if not target.exists():
                await _ensure_base(base, report)
                await _ensure_wheels(wheels, report)
                report("building the driver's image")
                packages = context / "build" / "wheels"
                await asyncio.to_thread(shutil.copytree, wheels, packages, copy_function=os.link)
                await _build(target, base, context, (wheels.name, sources))
                await asyncio.to_thread(_remove_older, cache, target)
    return images.Archive(settings.DRIVER_IMAGE, target)


async def _ensure_base(base: pathlib.Path, report: Report) -> None:
    async with binaries.locked(base):
        if _there(base):
            return

        report("making a base image of Debian packages")
        excluded = (f"--dpkgopt=path-exclude={pattern}" for pattern in settings.BASE_EXCLUDED)
        mirror = os.environ.get("CSI_LIQO_LAB_MIRROR")
        with tempfile.TemporaryDirectory(prefix="csi-liqo-base-", dir=base.parent) as scratch:
            made = pathlib.Path(scratch) / "base.tar"
            await _run_unseen(
                *("mmdebstrap", "--quiet", "--mode=root", "--variant=essential"),
                f"--include={','.join(settings.BASE_PACKAGES)}",
                *excluded,
                settings.BASE_SUITE,
                made,
                *([mirror] if mirror else []),
                TMPDIR=scratch,
            )
            made.rename(base)


async def _ensure_wheels(wheels: pathlib.Path, report: Report) -> None:
    async with binaries.locked(wheels):
        if _there(wheels):
            return

        report("fetching the driver's Python packages")
        platforms = [f"--platform={name}" for name in settings.WHEEL_PLATFORMS]
        download = (
            *(sys.executable, "-m", "pip", "--quiet", "download", "--no-deps"),
            *("--only-binary=:all:", f"--python-version={settings.BASE_PYTHON}", *platforms),
        )
        requirements = settings.REPOSITORY / "requirements" / "driver.txt"
        with binaries.staged(wheels) as partial:
            # Apart, because pip wants a hash for all or none.
            await processes.run(*download, f"--dest={partial}", f"--requirement={requirements}")
            await processes.run(*download, f"--dest={partial}", *settings.BUILD_REQUIREMENTS)


async def _build(
    target: pathlib.Path, base: pathlib.Path, context: pathlib.Path, keys: tuple[str, str]
) -> None:
    store = settings.cache_directory() / "buildah"
    policy = store / "policy.json"
    requirements, sources = keys
    async with binaries.locked(store):  # what is built on a layer must not be pruned meanwhile
        store.mkdir(parents=True, exist_ok=True)
        policy.write_text(_POLICY)
        base_image = f"localhost/{base.stem}"
        if not await _exists(store, base_image):
            await _import_base(store, base, base_image)
        await _buildah(
            *(store, "bud", "--quiet", "--isolation=chroot", "--layers", "--pull-never"),
            f"--signature-policy={policy}",
            f"--build-arg=BASE_IMAGE={base_image}",
            f"--build-arg=REQUIREMENTS={requirements}",
            f"--build-arg=SOURCES={sources}",
            *("--tag", settings.DRIVER_IMAGE, context),
        )
        made = context.parent / "image.tar"
        await _buildah(
            *(store, "push", "--quiet", f"--signature-policy={policy}"),
            *(settings.DRIVER_IMAGE, f"docker-archive:{made}:{settings.DRIVER_IMAGE}"),
        )
        made.rename(target)
        # The image this one replaces has no name any more.
        await _buildah(store, "rmi", "--prune")


async def _exists(store: pathlib.Path, name: str) -> bool:
    listed = await _buildah(store, "images", "--format={{.Name}}")
    return name in listed.split()


async def _import_base(store: pathlib.Path, base: pathlib.Path, name: str) -> None:
    with tempfile.TemporaryDirectory(prefix="csi-liqo-base-", dir=base.parent) as scratch:
        context = pathlib.Path(scratch)
        (context / "base.tar").hardlink_to(base)
        (context / "Dockerfile").write_text("FROM scratch\nADD base.tar /\n")
        policy = f"--signature-policy={store / 'policy.json'}"
        await _buildah(
            store, "bud", "--quiet", policy, "--isolation=chroot", "--tag", name, context
        )


async def _buildah(store: pathlib.Path, *arguments: str | pathlib.Path) -> str:
    driver = "overlay" if mount_points.allows_overlay(store) else "vfs"
    return await _run_unseen(
        *("buildah", f"--root={store}/{driver}", f"--runroot={store}/{driver}-run"),
        *(f"--storage-driver={driver}", *arguments),
        TMPDIR=str(store),
    )


async def _run_unseen(name: str, *arguments: str | pathlib.Path, **environment: str) -> str:
    """Run a program whose mounts end with it, however it ends."""
    apart = (processes.program("unshare"), "--mount", "--propagation=private", "--")
    path = f"{os.environ.get('PATH', '')}:{settings.PROGRAM_PATH}"
    return await processes.run(
        *(*apart, processes.program(name), *arguments),
        environment={**os.environ, "PATH": path, **environment},
    )


def _copy_sources(context: pathlib.Path) -> str:
    """Copy every file that the image is made of, and return a key of their content."""
    contents = []
    for path in _files():
        name = path.relative_to(settings.REPOSITORY)
        content = path.read_bytes()
        copy = context / name
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(content)
        contents.append(f"{name} {hashlib.sha256(content).hexdigest()}")
    return _key(*contents)


def _files() -> Iterable[pathlib.Path]:
    for name in _SOURCES:
        path = settings.REPOSITORY / name
        found = sorted(path.rglob("*")) if path.is_dir() else [path]
        yield from (file for file in found if file.is_file() and "__pycache__" not in file.parts)


def _there(made: pathlib.Path) -> bool:
    return made.exists()


def _base_key() -> str:
    return _key(
        settings.BASE_SUITE, settings.ARCHITECTURE, *settings.BASE_PACKAGES, *settings.BASE_EXCLUDED
    )


def _wheels_key() -> str:
    requirements = (settings.REPOSITORY / "requirements" / "driver.txt").read_text()
    return _key(
        settings.BASE_PYTHON, *settings.WHEEL_PLATFORMS, *settings.BUILD_REQUIREMENTS, requirements
    )


def _key(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


def _remove_older(cache: pathlib.Path, newest: pathlib.Path) -> None:
    kept = sorted(cache.glob("csi-liqo-*.tar"), key=lambda path: path.stat().st_mtime)
    for path in kept[: -settings.DRIVER_IMAGES_KEPT]:
        if path != newest:
            path.unlink(missing_ok=True)
            path.with_name(f"{path.name}.lock").unlink(missing_ok=True)
