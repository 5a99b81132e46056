"""Volumes with a running operation.

A courtesy to the caller, not what correctness stands on: that is deterministic
names and preconditions, which hold across replicas and restarts too.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Final

from csi_liqo.model import errors


class InFlight:
    """Refuses a second operation on a volume; one key space for names and ids."""

    def __init__(self) -> None:
        self._keys: set[str] = set()

    @contextlib.contextmanager
    def claim(self, key: str) -> Iterator[None]:
        """Hold a volume for the time of an operation.

        Raises:
            errors.OperationPendingError: another operation holds it.
        """
        if key in self._keys:
            raise errors.OperationPendingError(f"an operation on volume {key} is still running")
        self._keys.add(key)
        try:
            yield
        finally:
            self._keys.discard(key)


FINAL: Final = (
    errors.PlacementError,
    errors.PreconditionError,
    errors.IncompatibleVolumeError,
    errors.CapacityRangeError,
    errors.InvalidRequestError,
)
"""What says "nothing is left": honest before the first write, or after undoing it."""


@contextlib.contextmanager
def outcome_unknown_on_failure(
    volume_id: str, *, honest: tuple[type[errors.Error], ...] = ()
) -> Iterator[None]:
    """From the first write on, a surprise must not read as "nothing was created".

    To the provisioner every code but ABORTED, UNAVAILABLE, DEADLINE_EXCEEDED and
    CANCELLED says that nothing is left (external-provisioner v6.3.0,
    controller.go:2035-2070). ``honest`` errors pass: what runs inside raises them
    only where they are true.

    Raises:
        errors.OutcomeUnknownError: in place of whatever was not a ComeBackError.
    """
    try:
        yield
    except errors.ComeBackError:
        raise
    except Exception as error:
        if isinstance(error, honest):
            raise
        raise errors.OutcomeUnknownError(f"volume {volume_id} may exist: {error}") from error
