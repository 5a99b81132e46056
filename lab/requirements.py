"""What the lab needs on the machine, and bringing it there."""

import os
import pathlib
import shutil
from collections.abc import Callable, Mapping

from lab import errors, processes, settings


def missing_packages(packages: Mapping[str, str] = settings.DEBIAN_PACKAGES) -> list[str]:
    """Return the Debian packages whose proof of presence is not found."""
    path = f"{os.environ.get('PATH', '')}:{settings.PROGRAM_PATH}"
    return [
        package
        for package, proof in packages.items()
        if not (pathlib.Path(proof).exists() if "/" in proof else shutil.which(proof, path=path))
    ]


async def ensure(report: Callable[[str], None]) -> None:
    """Have every program the lab calls, and room for its processes.

    Raises:
        LabError: something is missing and this is no Debian, or apt-get fails.
    """
    await ensure_packages(settings.DEBIAN_PACKAGES, report)
    _raise_inotify_limit(report)


async def ensure_packages(packages: Mapping[str, str], report: Callable[[str], None]) -> None:
    """Have Debian packages, each named with a file or program that proves it is there.

    Raises:
        LabError: one is missing and this is no Debian, or apt-get fails.
    """
    missing = missing_packages(packages)
    if not missing:
        return

    if shutil.which("apt-get") is None:
        raise errors.LabError(
            f"this machine lacks {', '.join(missing)} (names of Debian packages): install them"
        )
    report(f"installing {', '.join(missing)}")
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    await processes.run("apt-get", "update", "--quiet", environment=environment)
    await processes.run(
        *("apt-get", "install", "--yes", "--quiet", "--no-install-recommends", *missing),
        environment=environment,
    )


def _raise_inotify_limit(report: Callable[[str], None]) -> None:
    limit = settings.INOTIFY_LIMIT
    if int(limit.read_text()) < settings.INOTIFY_INSTANCES:
        report(f"raising {limit} from {limit.read_text().strip()} to {settings.INOTIFY_INSTANCES}")
        try:
            limit.write_text(str(settings.INOTIFY_INSTANCES))
        except OSError as error:
            raise errors.LabError(f"cannot write {limit}: {error}") from error
