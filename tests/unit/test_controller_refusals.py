"""What a real provisioner's warning means, and which modes a volume allows."""

from __future__ import annotations

import pytest

from csi_liqo.model import errors, volumes
from csi_liqo.service.controller import access_modes, refusals

Mode = volumes.AccessMode


def warning(code: str) -> str:
    return (
        'ProvisioningFailed: failed to provision volume with StorageClass "fast": '
        f"rpc error: code = {code} desc = no"
    )


@pytest.mark.parametrize(
    ("text", "meaning"),
    [
        pytest.param(warning("InvalidArgument"), errors.PreconditionError, id="invalid"),
        pytest.param(warning("OutOfRange"), errors.CapacityRangeError, id="size"),
        pytest.param(warning("ResourceExhausted"), errors.PlacementError, id="room"),
        pytest.param(warning("Internal"), None, id="may-heal"),
        pytest.param(warning("DeadlineExceeded"), None, id="something-may-exist"),
        pytest.param(warning("Unavailable"), None, id="away"),
        pytest.param("ProvisioningFailed: no topology key found", None, id="no-status"),
        pytest.param(
            warning("InvalidArgument").replace("ProvisioningFailed", "VolumeResizeFailed"),
            None,
            id="of-something-else",
        ),
        pytest.param("", None, id="nothing-said"),
    ],
)
def test_only_a_status_that_promises_that_nothing_is_left_ends_the_wait(
    text: str, meaning: type[errors.Error] | None
) -> None:
    assert refusals.meaning_of(text) is meaning


@pytest.mark.parametrize(
    ("given", "mode", "allowed"),
    [
        pytest.param(["ReadWriteOnce"], Mode.SINGLE_NODE_WRITER, True, id="writer"),
        pytest.param(["ReadWriteOncePod"], Mode.SINGLE_NODE_WRITER, True, id="writer-of-a-pod"),
        pytest.param(["ReadWriteOnce"], Mode.MULTI_NODE_READER_ONLY, False, id="no-readers"),
        pytest.param(["ReadWriteMany"], Mode.MULTI_NODE_READER_ONLY, True, id="readers-too"),
        pytest.param(["ReadOnlyMany"], Mode.MULTI_NODE_MULTI_WRITER, False, id="readers-only"),
    ],
)
def test_a_mode_for_many_nodes_must_have_been_claimed(
    given: list[str], mode: Mode, allowed: bool
) -> None:
    assert access_modes.allows(given, mode) is allowed
