"""Every failure has a status, and the statuses that promise something keep it."""

from __future__ import annotations

import grpc
import pytest

from csi_liqo.model import errors
from csi_liqo.rpc import status

IN_PROGRESS = {
    grpc.StatusCode.ABORTED,
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.DEADLINE_EXCEEDED,
}


def tree(root: type[errors.Error]) -> list[type[errors.Error]]:
    return [root] + [kind for child in root.__subclasses__() for kind in tree(child)]


@pytest.mark.parametrize(
    "kind",
    [kind for kind in tree(errors.Error) if kind not in (errors.Error, errors.ComeBackError)],
    ids=lambda kind: kind.__name__,
)
def test_every_kind_of_failure_has_a_status_of_its_own(kind: type[errors.Error]) -> None:
    error = kind(5, "x") if kind is errors.RealDriverError else kind("x")
    assert status.status_of(error) is not grpc.StatusCode.INTERNAL


@pytest.mark.parametrize(
    "kind", tree(errors.ComeBackError)[1:] + tree(errors.ApiError), ids=lambda kind: kind.__name__
)
def test_what_may_have_left_something_is_never_final(kind: type[errors.Error]) -> None:
    assert status.status_of(kind("x")) in IN_PROGRESS


def test_only_a_placement_failure_sends_the_pod_elsewhere() -> None:
    exhausted = [
        kind for kind, code in status.STATUS_OF.items() if code.name == "RESOURCE_EXHAUSTED"
    ]
    assert exhausted == [errors.PlacementError]


def test_a_subclass_inherits_its_parents_status() -> None:
    class NarrowError(errors.OperationPendingError):
        pass

    assert status.status_of(NarrowError("x")) is grpc.StatusCode.ABORTED


def test_a_surprise_is_a_defect() -> None:
    assert status.status_of(ZeroDivisionError()) is grpc.StatusCode.INTERNAL


@pytest.mark.parametrize("code", list(grpc.StatusCode), ids=lambda code: code.name)
def test_a_real_drivers_code_passes_through(code: grpc.StatusCode) -> None:
    assert status.status_of(errors.RealDriverError(code.value[0], "x")) is code


def test_a_code_nobody_published_is_unknown() -> None:
    assert status.status_of(errors.RealDriverError(99, "x")) is grpc.StatusCode.UNKNOWN
