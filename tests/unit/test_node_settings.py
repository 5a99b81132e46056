"""The node role's settings: where things are by default, and what cannot be meant."""

from __future__ import annotations

import pathlib
from typing import Any

import msgspec
import pytest

from csi_liqo.app import lean_node
from csi_liqo.model import errors, settings

GIVEN: dict[str, Any] = {"cluster_id": "rome", "node_name": "rome-1"}


def test_sockets_and_journal_are_where_kubelet_and_people_look_for_them() -> None:
    found = settings.NodeSettings(**GIVEN)
    assert str(found.socket) == "/var/lib/kubelet/plugins/csi.liqo.io/csi.sock"
    assert str(found.journal_dir) == "/var/lib/kubelet/plugins/csi.liqo.io/journal"
    registry = "/var/lib/kubelet/plugins_registry/csi.liqo.io-reg.sock"
    assert str(found.registration_socket) == registry


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"cluster_id": ""}, "cluster id"),
        ({"cluster_id": "Rome"}, "cluster id"),
        ({"cluster_id": "x" * 64}, "cluster id"),
        ({"node_name": ""}, "--node-name"),
        ({"driver_name": "csi.liqo.io1"}, "--driver-name"),
        ({"driver_name": "a/b"}, "--driver-name"),
        ({"kubelet_dir": pathlib.Path("kubelet")}, "--kubelet-dir"),
        ({"host_root": pathlib.Path("/a/../b")}, "--host-root"),
        ({"real_drivers_file": pathlib.Path("drivers.json")}, "--real-drivers-file"),
    ],
)
def test_what_cannot_be_meant_is_refused_by_name(change: dict[str, Any], told: str) -> None:
    with pytest.raises(errors.InvalidRequestError, match=told):
        settings.NodeSettings(**(GIVEN | change))


def test_settings_survive_the_way_into_the_lean_program() -> None:
    given = settings.NodeSettings(
        **GIVEN, endpoint=pathlib.Path("/x/csi.sock"), registers=False, drain_seconds=2.5
    )
    assert lean_node.read(msgspec.json.encode(given, enc_hook=str).decode()) == given
