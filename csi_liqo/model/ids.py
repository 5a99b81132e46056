"""Volume ids: location-free, and at the same time the name of a local twin."""

from __future__ import annotations

import hashlib
import re
from typing import Final, NewType

VolumeId = NewType("VolumeId", str)
"""Identifies a volume wherever it is, also after a move; a DNS-1123 label.

It has no ``^``, which kubelet splits on when it detaches (kubernetes v1.37.2,
csi_attacher.go:431-436), and ends far below CSI's 128 bytes.
"""

_DNS_LABEL: Final = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
_TRAILING_UID: Final = re.compile(
    r".*?([0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12})"
)


def volume_id(name: str) -> VolumeId:
    """Return the id of the volume that CreateVolume asks for by this name."""
    if _DNS_LABEL.fullmatch(name):
        return VolumeId(name)
    return VolumeId(f"v-{hashlib.sha256(name.encode()).hexdigest()[:40]}")


def claim_uid_of(volume_name: str) -> str:
    """Return the uid of the claim that a volume's name ends with; empty when it ends otherwise.

    The provisioner names volumes ``<prefix>-<uid of the claim>``, and passes
    the claim's uid in no other way (external-provisioner v6.3.0, controller.go:483-498).
    """
    match = _TRAILING_UID.fullmatch(volume_name)
    return match.group(1) if match else ""
