"""What the figures were measured with and on: versions and the machine."""

from __future__ import annotations

import importlib.metadata
import os
import pathlib
import platform
from typing import Any, Final

import csi_liqo
from lab import processes, settings

_PACKAGES: Final = ("grpcio", "kubernetes", "aiohttp", "msgspec", "protobuf")


async def describe(options: dict[str, int]) -> dict[str, Any]:
    """Return versions, machine and the options of this run, for the results."""
    return {
        "versions": {
            "csi-liqo": f"{csi_liqo.__version__} ({await _commit()})",
            "kubernetes": settings.KUBERNETES_VERSION,
            "csi-provisioner": settings.PROVISIONER_IMAGE.rpartition(":")[2],
            "python": platform.python_version(),
            **{
                f"{package} of Python": importlib.metadata.version(package) for package in _PACKAGES
            },
        },
        "machine": {
            "processors": os.cpu_count(),
            "model": _model(),
            "memory_gib": round(_memory_bytes() / (1 << 30), 1),
            "kernel": platform.release(),
            "load_at_start": round(os.getloadavg()[0], 2),
        },
        "options": options,
    }


async def _commit() -> str:
    told = await processes.run(
        processes.program("git"),
        *("-C", settings.REPOSITORY, "describe", "--always", "--dirty", "--exclude=*"),
    )
    return told.strip()


def _model() -> str:
    for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _memory_bytes() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
