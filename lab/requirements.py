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
    """Have every program the lab calls.

    Raises:
        LabError: something is missing and this is no Debian, or apt-get fails.
    """
    missing = missing_packages()
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
