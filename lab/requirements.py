"""What the lab needs on the machine, and bringing it there."""

import os
import pathlib
import shutil
from collections.abc import Callable

from lab import errors, processes, settings


def missing_packages() -> list[str]:
    """Return the Debian packages whose proof of presence is not found."""
    path = f"{os.environ.get('PATH', '')}:{settings.PROGRAM_PATH}"
    return [
        package
        for package, proof in settings.DEBIAN_PACKAGES.items()
        if not (pathlib.Path(proof).exists() if "/" in proof else shutil.which(proof, path=path))
    ]


async def ensure(report: Callable[[str], None]) -> None:
    """Have every program the lab calls, and room for its processes.

    Raises:
        LabError: something is missing and this is no Debian, or apt-get fails.
    """
    await _install_packages(missing_packages(), report)
    _raise_inotify_limit(report)


async def _install_packages(missing: list[str], report: Callable[[str], None]) -> None:
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
