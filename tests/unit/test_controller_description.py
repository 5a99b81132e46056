"""What virtual volumes say of themselves."""

from __future__ import annotations

from typing import Final

import msgspec
import pytest

from csi_liqo.model import objects
from csi_liqo.service.controller import description

CLUSTER: Final = "topology.csi.liqo.io/cluster"


def volume(home: str, identity: str, *, virtual: bool = True) -> objects.PersistentVolume:
    rule = {"key": CLUSTER, "operator": "In", "values": [home]}
    attributes = {"twin": "n/c/u", "consumer": "rome"} if virtual else {}
    manifest = {
        "metadata": {
            "name": f"{home}-{identity}",
            "annotations": {"csi.liqo.io/identity": identity} if identity else {},
        },
        "spec": {
            "csi": {"driver": "d", "volumeHandle": "h", "volumeAttributes": attributes},
            "nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": [rule]}]}},
        },
    }
    return msgspec.convert(manifest, objects.PersistentVolume)


@pytest.mark.parametrize(
    ("volumes", "known"),
    [
        pytest.param([], "", id="no-volume"),
        pytest.param([volume("milan", "")], "", id="none-that-says"),
        pytest.param(
            [volume("milan", "a"), volume("milan", ""), volume("milan", "a")], "a", id="a"
        ),
        pytest.param([volume("turin", "b"), volume("milan", "a")], "a", id="not-of-another-home"),
        pytest.param([volume("milan", "a", virtual=False)], "", id="not-of-another-driver"),
        pytest.param([volume("milan", "b"), volume("milan", "a")], "a, b", id="nobody-is-both"),
    ],
)
def test_a_provider_is_known_by_what_its_volumes_remember(
    volumes: list[objects.PersistentVolume], known: str
) -> None:
    assert description.remembered_identity(volumes, "milan") == known
