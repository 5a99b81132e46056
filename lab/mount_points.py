"""Folders that must exist on the host so that a private mount can cover them.

kubelet, containerd and the host-path provisioner have fixed paths. Each node's
(or bare controller manager's) mount namespace has its own folder there, and
the host keeps an empty one as the place to mount on.

NB: removing such a folder on the host takes the mounts away in every other
namespace too (`rmdir` detaches since Linux 3.19). Making-and-mounting and
removing therefore share a lock, and a folder is removed only when no namespace
of the machine has something mounted there.
"""

import contextlib
import fcntl
import pathlib
import re
from collections.abc import Iterable, Iterator

from lab import settings

# A shell function for the script that fills a fresh mount namespace: cover <own folder> <path>.
SHELL = f"""
cover() {{
    mkdir -p "$1" "${{2%/*}}"
    exec 9> {settings.MOUNT_POINT_LOCK}
    flock 9
    mkdir -p "$2"
    mount --bind "$1" "$2"
    exec 9>&-
}}
"""


def remove_unused(paths: Iterable[pathlib.Path]) -> None:
    """Remove the empty folders among `paths` that no mount namespace covers."""
    with _locked():
        covered = mounted_anywhere()
        for path in paths:
            if str(path) not in covered:
                with contextlib.suppress(OSError):  # missing, or somebody's data: both are left
                    path.rmdir()


@contextlib.contextmanager
def _locked() -> Iterator[None]:
    settings.MOUNT_POINT_LOCK.parent.mkdir(parents=True, exist_ok=True)
    with settings.MOUNT_POINT_LOCK.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def mounted_anywhere() -> set[str]:
    """Return the mount points of every mount namespace on the machine."""
    seen: set[str] = set()
    points: set[str] = set()
    for process in pathlib.Path("/proc").iterdir():
        if not process.name.isdecimal():
            continue
        # A process may end at any of these lines; then its namespace does not count.
        with contextlib.suppress(OSError):
            namespace = str((process / "ns" / "mnt").readlink())
            if namespace not in seen:
                points.update(mount_points(process / "mountinfo"))
                seen.add(namespace)
    return points


def mount_points(mountinfo: pathlib.Path) -> list[str]:
    """Return the mount points listed in a `/proc/<pid>/mountinfo`."""
    return [
        # Spaces and the like are octal there.
        re.sub(r"\\(\d{3})", lambda code: chr(int(code[1], 8)), line.split()[4])
        for line in mountinfo.read_text().splitlines()
    ]


def filesystem_of(path: pathlib.Path) -> str:
    """Return the type of the file system that a path is on, as `ext4`."""
    best = ("/", "")
    for line in pathlib.Path("/proc/self/mounts").read_text().splitlines():
        _, point, kind, *_ = line.split()
        if path.is_relative_to(point) and len(point) >= len(best[0]):
            best = (point, kind)
    return best[1]


def allows_overlay(path: pathlib.Path) -> bool:
    """Tell whether an overlay may be made of folders there: overlay on overlay is refused."""
    return filesystem_of(path) not in {"overlay", "overlayfs", "aufs"}
