"""What a real provisioner's word on a twin means.

A CSI driver that refuses a volume answers its provisioner with a status; that writes an
event on the twin and tries again, for ever. The event's text is all that gets out, and
names the code as gRPC for Go prints it (google.golang.org/grpc, status.Error.String).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from csi_liqo.model import errors

_FAILED: Final = "ProvisioningFailed: "
"""The event's reason (external-provisioner library v13, controller.go:1500,1588)."""
_STATUS: Final = re.compile(r"rpc error: code = (\w+) desc = ")

# Codes that promise that nothing is left behind and that no new attempt makes good. Others
# may heal (Internal, Unknown), or something may exist (Unavailable, Aborted, Canceled,
# DeadlineExceeded).
_MEANINGS: Final[Mapping[str, type[errors.Error]]] = {
    "InvalidArgument": errors.PreconditionError,
    "FailedPrecondition": errors.PreconditionError,
    "NotFound": errors.PreconditionError,
    "AlreadyExists": errors.PreconditionError,
    "PermissionDenied": errors.PreconditionError,
    "Unauthenticated": errors.PreconditionError,
    "Unimplemented": errors.PreconditionError,
    "OutOfRange": errors.CapacityRangeError,
    "ResourceExhausted": errors.PlacementError,
}


def meaning_of(warning: str) -> type[errors.Error] | None:
    """Return what a warning about a twin is to its volume; None when its end is still open."""
    if not warning.startswith(_FAILED):
        return None
    status = _STATUS.search(warning)
    return _MEANINGS.get(status[1]) if status else None
