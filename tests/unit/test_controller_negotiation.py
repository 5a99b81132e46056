"""What a claim asks of a provider."""

from __future__ import annotations

import msgspec
import pytest

from csi_liqo.model import errors, objects
from csi_liqo.service.controller import negotiation


def claim(wish: str | None) -> objects.Claim:
    annotations = {} if wish is None else {"liqo.io/remote-access-modes": wish}
    given = {
        "metadata": {"name": "data", "namespace": "demo", "uid": "u", "annotations": annotations},
        "spec": {"accessModes": ["ReadWriteOnce"]},
    }
    return msgspec.convert(given, objects.Claim)


@pytest.mark.parametrize(
    ("wish", "modes"),
    [
        (None, ("ReadWriteOnce",)),
        ("", ("ReadWriteOnce",)),
        ("RWX", ("ReadWriteMany",)),
        ("RWO, ROX", ("ReadWriteOnce", "ReadOnlyMany")),
        ("RWOP", ("ReadWriteOncePod",)),
    ],
)
def test_a_remote_twin_has_the_modes_that_its_claim_wishes_for_there(
    wish: str | None, modes: tuple[str, ...]
) -> None:
    assert negotiation.choose_access_modes(claim(wish)) == modes


def test_an_unknown_mode_is_refused_by_its_name() -> None:
    with pytest.raises(errors.PreconditionError, match=r"claim demo/data has 'RWZ'; known are RWO"):
        negotiation.choose_access_modes(claim("RWO,RWZ"))
