"""How a volume may be used: what real classes can keep to, and what they cannot.

Little of it is in the API. The in-tree hostPath provisioner gives its volumes whatever
modes the claim has, and no node affinity: to each node such a volume is another folder. A
CSI driver knows its own modes and says no by itself. ReadWriteOncePod is the scheduler's to
keep and works with all of them.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Final

from csi_liqo.model import errors, names, objects, topology, volumes

_BY_ANY_NODE: Final = frozenset({"ReadOnlyMany", "ReadWriteMany"})

_CLAIM_MODES: Final = {
    volumes.AccessMode.SINGLE_NODE_SINGLE_WRITER: "ReadWriteOncePod",
    volumes.AccessMode.MULTI_NODE_READER_ONLY: "ReadOnlyMany",
    volumes.AccessMode.MULTI_NODE_SINGLE_WRITER: "ReadWriteMany",
    volumes.AccessMode.MULTI_NODE_MULTI_WRITER: "ReadWriteMany",
}


def as_claimed(mode: volumes.AccessMode) -> str:
    """Return a CSI access mode as a claim says it."""
    return _CLAIM_MODES.get(mode, "ReadWriteOnce")


def allows(given: Collection[str], mode: volumes.AccessMode) -> bool:
    """Tell whether a volume claimed with some modes may be used in this one."""
    wanted = as_claimed(mode)
    if wanted not in _BY_ANY_NODE:
        return True
    return wanted in given or "ReadWriteMany" in given


def refuse_beforehand(
    real: objects.StorageClass, modes: Iterable[str], volume_mode: str, cluster_id: str
) -> None:
    """Refuse what a real class is known to be unable to make; return for all others.

    Raises:
        errors.PreconditionError: says what it makes, and what to do.
    """
    if real.provisioner != names.HOST_PATH_PROVISIONER:
        return
    what = f"real class {real.name} of cluster {cluster_id} (provisioner {real.provisioner})"
    if volume_mode != "Filesystem":
        raise errors.PreconditionError(
            f"{what} makes directories and no block devices; set the claim's volumeMode to "
            "Filesystem, or use a virtual class over another real one"
        )
    _refuse_many(what, modes)


def refuse_pinned(twin: objects.Claim, pins: Iterable[topology.Segment]) -> None:
    """Refuse a volume for many nodes that came out as a directory of one.

    A CSI volume is where its driver says. A directory without node affinity is pinned by us
    to the node it was made for, which the modes it was given deny.

    Raises:
        errors.PreconditionError: says what was made, and what to do.
    """
    if any(names.NODE_KEY in segment for segment in pins):
        _refuse_many(f"real class {twin.spec.storage_class_name}", twin.spec.access_modes)


def _refuse_many(what: str, modes: Iterable[str]) -> None:
    many = next((mode for mode in modes if mode in _BY_ANY_NODE), None)
    if many is not None:
        raise errors.PreconditionError(
            f"{what} makes a directory of one node, which cannot be {many}; claim ReadWriteOnce or "
            "ReadWriteOncePod, or use a virtual class over another real one"
        )
