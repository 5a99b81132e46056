"""Loop devices that nobody would detach any more.

A node of the lab that ends takes its mounts with it, as a machine that is switched off
does, but loop devices are the whole machine's: a mounted one goes with its last mount,
one that a pod had as a raw block device stays. Such a device also carries another one,
with which kubelet holds on to it.
"""

import json
import os
import pathlib
from collections.abc import Iterable
from typing import Any

from lab import errors, processes


async def detach(images: Iterable[pathlib.Path]) -> list[str]:
    """Detach every loop device on these files, and those on such devices; return their names.

    Raises:
        LabError: losetup refuses one.
    """
    losetup = processes.program("losetup")
    output = "NAME,BACK-INO,BACK-MAJ:MIN"
    listed = await processes.run(losetup, "--list", "--json", "--output", output)
    devices = json.loads(listed or '{"loopdevices": []}')["loopdevices"]
    found = _upon(devices, {_identity(image.stat()) for image in images})
    for name in reversed(found):  # the upper ones first
        try:
            await processes.run(losetup, "--detach", name)
        except errors.LabError:
            if _is_bound(name):
                raise
            # Else its last mount has gone since.
    return found


def _upon(devices: list[dict[str, Any]], lower: set[tuple[int, int, int]]) -> list[str]:
    # By inode: the path of a backing file is told as a mount namespace saw it that is gone.
    found: list[str] = []
    while lower:
        upper = [str(one["name"]) for one in devices if _backing(one) in lower]
        found += upper
        lower = {_identity(pathlib.Path(name).stat()) for name in upper}
    return found


def _is_bound(name: str) -> bool:
    return pathlib.Path("/sys/block", name.rpartition("/")[2], "loop", "backing_file").exists()


def _backing(device: dict[str, Any]) -> tuple[int, int, int]:
    major, minor = str(device["back-maj:min"]).split(":")
    return int(major), int(minor), int(device["back-ino"])


def _identity(status: os.stat_result) -> tuple[int, int, int]:
    return os.major(status.st_dev), os.minor(status.st_dev), status.st_ino
