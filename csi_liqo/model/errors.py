"""Every failure the driver can mean, as one tree.

    Error (the root)
    ├── InvalidRequestError          can never work: INVALID_ARGUMENT
    ├── VolumeNotFoundError          no such volume: NOT_FOUND (never on delete)
    ├── NodeNotFoundError            no such node: NOT_FOUND
    ├── IncompatibleVolumeError      the name is taken by another wish: ALREADY_EXISTS
    ├── CapacityRangeError           no size in the wanted range: OUT_OF_RANGE
    ├── PlacementError               not here, nothing is left behind: RESOURCE_EXHAUSTED
    ├── PreconditionError            somebody must change a setting first: FAILED_PRECONDITION
    ├── ComeBackError                call again, something may exist
    │   ├── OperationPendingError    still at work: ABORTED
    │   ├── OutcomeUnknownError      nobody knows yet: UNAVAILABLE
    │   └── OutOfTimeError           the caller's time ran out: DEADLINE_EXCEEDED
    ├── RealDriverError              a real driver's own answer, code and all
    └── ApiError                     what an API server said, before it has a meaning
        ├── ApiNotFoundError         404
        ├── ApiConflictError         a precondition failed: 409, or 422 for some
        ├── ApiAlreadyExistsError    409 on a create
        ├── ApiForbiddenError        403: rights, quota or an admission policy
        ├── ApiInvalidError          400 and 422: the object, or an admission policy
        └── ApiUnavailableError      no answer, or 401, 429, 5xx: the outcome of a write is unknown
            └── ApiUntrustedError    its certificate is not accepted

The status an error becomes is chosen by what may be left behind, not by what
broke: to the provisioner ABORTED, UNAVAILABLE and DEADLINE_EXCEEDED alone mean
"something may exist", and RESOURCE_EXHAUSTED alone sends the pod elsewhere
(external-provisioner v6.3.0, controller.go:2035-2070).
"""

from __future__ import annotations


class Error(Exception):
    """Base of every failure with a meaning; its text names the object and the remedy."""


class InvalidRequestError(Error):
    """The request can never work, whatever the clusters' state."""


class VolumeNotFoundError(Error):
    """No volume has this id, and every place that could hold it was asked."""


class NodeNotFoundError(Error):
    """No node has this id."""


class IncompatibleVolumeError(Error):
    """A volume of this name exists and was asked for differently."""


class CapacityRangeError(Error):
    """No volume of a size between the required and the limit bytes can be had."""


class PlacementError(Error):
    """The chosen cluster or node cannot hold the volume, and nothing of it is left there."""


class PreconditionError(Error):
    """A setting somebody must change stands in the way; nothing of the volume is left."""


class ComeBackError(Error):
    """The same call must come again; something may exist already."""


class OperationPendingError(ComeBackError):
    """Work on this volume is still running."""


class OutcomeUnknownError(ComeBackError):
    """A write may or may not have happened."""


class OutOfTimeError(ComeBackError):
    """The caller's deadline came before the end."""


class RealDriverError(Error):
    """A real driver refused; ``code`` is its own gRPC status code, as a number."""

    def __init__(self, code: int, details: str) -> None:
        super().__init__(details)
        self.code = code


class ApiError(Error):
    """An API server's refusal; ``status`` is its HTTP status, 0 when it gave none."""

    def __init__(self, message: str, *, status: int = 0) -> None:
        super().__init__(message)
        self.status = status


class ApiNotFoundError(ApiError):
    """The object, or the namespace it should be made in, does not exist."""


class ApiConflictError(ApiError):
    """The object is not in the state the write named as its precondition."""


class ApiAlreadyExistsError(ApiError):
    """An object of this name exists already."""


class ApiForbiddenError(ApiError):
    """Rights, a quota or an admission policy forbid it: nothing was written."""


class ApiInvalidError(ApiError):
    """The API server, or an admission policy, rejects the object itself: nothing was written."""


class ApiUnavailableError(ApiError):
    """The API server gave no usable answer; a write may have happened."""


class ApiUntrustedError(ApiUnavailableError):
    """The API server's certificate has expired, or is of nobody that is trusted."""
