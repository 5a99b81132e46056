"""What is on a block device, and making and mounting a filesystem on it.

The rule of kubelet's FormatAndMount (kubernetes v1.37.2, mount-utils
mount_linux.go) is to format what blkid finds nothing on. blkid's exit code 2
means "nothing found" and "could not read" alike, and a database's raw device
has no signature it knows. So two more must agree before anything is written:
wipefs sees no signature either, and the device's start can be read and is zero.
"""

from __future__ import annotations

import errno
import logging
import os
from typing import Final

from csi_liqo.host import processes
from csi_liqo.model import errors

logger = logging.getLogger(__name__)

_BLKID_NOTHING: Final = 2
_FSCK_UNCORRECTED: Final = 4
_MKFS: Final = {
    # As kubelet: no blocks kept back for root, and no question on a whole disk.
    "ext4": ("mkfs.ext4", "-F", "-m0"),
    "ext3": ("mkfs.ext3", "-F", "-m0"),
    "xfs": ("mkfs.xfs", "-f"),
}
_PROBED_BYTES: Final = 65536
"""From the start; filesystems, partition tables and volume managers leave their marks there."""
_REMEDY: Final = (
    "if its data is not needed, run: wipefs -a {0}; dd if=/dev/zero of={0} bs=1M count=1"
)


def filesystem_of(device: str, name: str) -> str:
    """Return the type of the filesystem on a device, empty only when it is blank.

    ``name`` is what people call the device.

    Raises:
        errors.PreconditionError: it holds something else, a partition table say.
        OSError: it cannot be read.
    """
    found = processes.run("blkid", "-p", "-s", "TYPE", "-s", "PTTYPE", "-o", "export", device)
    if found.code == _BLKID_NOTHING:
        _check_blank(device, name)
        return ""
    if found.code != 0:
        raise errors.PreconditionError(
            f"cannot tell what is on {name} (blkid: {found.code} {found.text}); "
            + _REMEDY.format(name)
        )
    facts = dict(line.split("=", 1) for line in found.output.splitlines() if "=" in line)
    if "PTTYPE" in facts or not facts.get("TYPE"):
        raise errors.PreconditionError(
            f"{name} holds a {facts.get('PTTYPE', 'unknown')} partition table, not a filesystem: "
            "name a partition in the PersistentVolume; or " + _REMEDY.format(name)
        )
    return facts["TYPE"]


def make_filesystem(device: str, fs_type: str) -> None:
    """Format a device.

    Raises:
        errors.OutcomeUnknownError: the program failed; the device may be half formatted.
    """
    logger.info("formatting %s with %s", device, fs_type)
    # No timeout: a large disk takes its time, and a killed mkfs leaves a ruin.
    done = processes.run(*_MKFS[fs_type], device, timeout_seconds=None)
    if done.code != 0:
        raise errors.OutcomeUnknownError(f"formatting {device} with {fs_type} failed: {done.text}")


def check_filesystem(device: str) -> None:
    """Repair what can be repaired safely, before a mount that writes; as kubelet does.

    Raises:
        errors.OutcomeUnknownError: there are errors that need a person.
    """
    done = processes.run("fsck", "-a", device, timeout_seconds=None)
    if done.code:
        logger.warning("fsck on %s ended with %s: %s", device, done.code, done.text)
    if done.code & _FSCK_UNCORRECTED:
        raise errors.OutcomeUnknownError(
            f"the filesystem on {device} has errors that fsck -a cannot repair; run fsck by hand: "
            f"{done.text}"
        )


def mount_filesystem(device: str, path: str, fs_type: str, options: tuple[str, ...]) -> None:
    """Mount a device.

    Raises:
        errors.OutcomeUnknownError: mount(8) refused; its words are in the text.
    """
    arguments = ["mount", "-t", fs_type, *(("-o", ",".join(options)) if options else ())]
    done = processes.run(*arguments, device, path)
    if done.code != 0:
        raise errors.OutcomeUnknownError(f"mounting {device} at {path} failed: {done.text}")


def size_of(path: str) -> int:
    """Return a block device's size in bytes."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.lseek(descriptor, 0, os.SEEK_END)
    finally:
        os.close(descriptor)


def _check_blank(device: str, name: str) -> None:
    """Agree with blkid that there is nothing, or raise."""
    try:
        # O_EXCL on a block device: refused while it is mounted or part of another one.
        descriptor = os.open(device, os.O_RDONLY | os.O_EXCL | os.O_CLOEXEC)
    except OSError as error:
        if error.errno != errno.EBUSY:
            raise
        raise errors.PreconditionError(f"{name} is used by something else on this node") from None
    try:
        start = os.read(descriptor, _PROBED_BYTES)
    finally:
        os.close(descriptor)
    signatures = processes.run("wipefs", "--no-act", "--noheadings", device)
    if signatures.code != 0 or signatures.output.strip() or any(start):
        raise errors.PreconditionError(
            f"{name} is not blank, but holds no known filesystem ({signatures.text}); "
            + _REMEDY.format(name)
        )
