"""The one table from failures to gRPC status codes.

A status is chosen by what may be left behind, not by what broke. To the
provisioner ABORTED, UNAVAILABLE and DEADLINE_EXCEEDED mean "call again,
something may exist"; RESOURCE_EXHAUSTED alone means "nothing exists, schedule
elsewhere"; every other code means "finished, nothing is left"
(external-provisioner v6.3.0, controller.go:2035-2070). To kubelet the same
three, CANCELLED and RESOURCE_EXHAUSTED mean "something may be mounted, clean
up", every other code "nothing is mounted": it removes the folder and never
unpublishes (kubernetes v1.37.2, csi_client.go:899-920).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import grpc

from csi_liqo.model import errors

STATUS_OF: Final[Mapping[type[BaseException], grpc.StatusCode]] = {
    errors.InvalidRequestError: grpc.StatusCode.INVALID_ARGUMENT,
    errors.VolumeNotFoundError: grpc.StatusCode.NOT_FOUND,
    errors.NodeNotFoundError: grpc.StatusCode.NOT_FOUND,
    errors.IncompatibleVolumeError: grpc.StatusCode.ALREADY_EXISTS,
    errors.CapacityRangeError: grpc.StatusCode.OUT_OF_RANGE,
    errors.PlacementError: grpc.StatusCode.RESOURCE_EXHAUSTED,  # nothing left: schedule elsewhere
    errors.PreconditionError: grpc.StatusCode.FAILED_PRECONDITION,
    errors.OperationPendingError: grpc.StatusCode.ABORTED,
    errors.OutcomeUnknownError: grpc.StatusCode.UNAVAILABLE,
    errors.OutOfTimeError: grpc.StatusCode.DEADLINE_EXCEEDED,
    # No use case gave it a meaning: a write may have happened, so never a final code.
    errors.ApiError: grpc.StatusCode.UNAVAILABLE,
    NotImplementedError: grpc.StatusCode.UNIMPLEMENTED,  # what generated base methods raise
}

_BY_NUMBER: Final = {code.value[0]: code for code in grpc.StatusCode}


def status_of(error: BaseException) -> grpc.StatusCode:
    """Return a failure's status; a subclass inherits its parent's, a surprise is INTERNAL."""
    if isinstance(error, errors.RealDriverError):
        return _BY_NUMBER.get(error.code, grpc.StatusCode.UNKNOWN)
    kinds = type(error).__mro__
    return next((STATUS_OF[kind] for kind in kinds if kind in STATUS_OF), grpc.StatusCode.INTERNAL)
