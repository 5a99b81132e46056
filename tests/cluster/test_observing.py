"""What a command cannot see it says, at once where waiting is of no use, and goes on without."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final

import pytest
import yaml

from csi_liqo.app import observing
from csi_liqo.model import errors
from csi_liqo.service.tools import told
from lab import control_plane
from lab.faults import proxy, rules
from tests.cluster import conditions, fabric

Planes = tuple[control_plane.ControlPlane, control_plane.ControlPlane]

READER: Final = "observer"
READS: Final = {
    "": ("persistentvolumes", "persistentvolumeclaims", "nodes", "namespaces", "secrets"),
    "storage.k8s.io": ("storageclasses", "csinodes", "csidrivers"),
    "csi.liqo.io": ("remoteclusters",),
}
INCOMPLETE: Final = 3


@pytest.fixture
async def driver(
    prepared: Planes, tmp_path: Path, namespace: str, milan_proxy: proxy.FaultProxy
) -> AsyncIterator[fabric.Fabric]:
    text = milan_proxy.kubeconfig.read_text()
    async with fabric.running(
        *(*prepared, tmp_path, namespace), provider_kubeconfig=text
    ) as running:
        yield running


def let_read(rome: control_plane.ControlPlane, but: str = "") -> Path:
    """Return the kubeconfig of somebody who may read what a command needs, but for a kind."""
    user = f"{READER}-without-{but or 'liqo'}"
    role = {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "ClusterRole",
        "metadata": {"name": user},
        "rules": [
            {"apiGroups": [group], "resources": [kind], "verbs": ["get", "list", "watch"]}
            for group, kinds in READS.items()
            for kind in kinds
            if kind != but
        ],
    }
    fabric.kubectl(rome, "apply", "-f", "-", text=yaml.safe_dump(role))
    binding = {
        **role,
        "kind": "ClusterRoleBinding",
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": user},
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": user}],
    }
    del binding["rules"]
    fabric.kubectl(rome, "apply", "-f", "-", text=yaml.safe_dump(binding))
    return rome.kubeconfig_for(user)


async def kept(driver: fabric.Fabric) -> str:
    """Make a twin that was handed over and that no volume names; returns it as it is listed."""
    twin = fabric.claim("kept", storage_class="hostpath")
    twin["metadata"] |= {
        "labels": {"csi.liqo.io/volume": f"pvc-{driver.namespace}", "csi.liqo.io/consumer": "rome"},
        "annotations": {
            "csi.liqo.io/handed-over": "true",
            "csi.liqo.io/retained": '{"name":"pvc-kept"}',
            "csi.liqo.io/claim": f"{driver.namespace}/kept",
        },
    }
    await driver.provider.create(driver.remote_claims, twin)
    return f"{driver.remote_namespace}/kept"


async def listed(driver: fabric.Fabric) -> tuple[int, list[str], str]:
    """Return exit code, twins of this test, and what was complained of."""
    code, out, err = await fabric.program(
        driver.rome, "where", "--retained", "--consumer-id=rome", "--output=json"
    )
    rows = [row["twin"] for row in json.loads(out)] if out else []
    return code, [twin for twin in rows if twin.startswith(f"{driver.remote_namespace}/")], err


async def test_without_the_right_to_read_liqos_objects_the_rest_is_seen_at_once(
    driver: fabric.Fabric,
) -> None:
    known = told.Told(cluster_id="rome", source=told.Source.BOTH)
    kubeconfig = let_read(driver.rome)

    began = time.monotonic()
    async with observing.observing(kubeconfig, None, known, driver.name) as sight:
        took = time.monotonic() - began
        (hidden,) = sight.out_of_sight
        assert hidden.startswith("what only Liqo describes (customresourcedefinitions")
        assert "forbidden" in hidden
        assert sight.everywhere.get("milan") is not None
        assert sight.everywhere.get("florence") is None
        why = sight.everywhere.trouble("florence")
    print(f"seen after {took:.2f} s")
    assert took < observing.CONTACT_SECONDS / 2
    assert "as far as may be read: customresourcedefinitions" in why


async def test_without_the_right_to_read_what_is_needed_that_is_said_at_once(
    driver: fabric.Fabric,
) -> None:
    known = told.Told(cluster_id="rome", source=told.Source.CSI_LIQO)
    kubeconfig = let_read(driver.rome, "remoteclusters")

    began = time.monotonic()
    with pytest.raises(errors.ApiForbiddenError, match="remoteclusters"):
        async with observing.observing(kubeconfig, None, known, driver.name):
            pass
    assert time.monotonic() - began < observing.CONTACT_SECONDS / 2


@pytest.mark.timeout(180)
async def test_a_list_that_lacks_a_cluster_is_never_shown_as_whole(
    driver: fabric.Fabric, milan_proxy: proxy.FaultProxy
) -> None:
    twin = await kept(driver)
    assert await listed(driver) == (0, [twin], "")

    # One namespace of it is not listed in time: all else of that cluster is well.
    claims = rules.Match(
        method="GET", resource="persistentvolumeclaims", namespace=driver.remote_namespace
    )
    hanging = milan_proxy.hang(claims, times=None)
    code, found, said = await listed(driver)
    assert (code, found) == (INCOMPLETE, [])
    assert f"out of sight: namespace {driver.remote_namespace} of cluster milan;" in said
    assert "this list is not whole" in said
    milan_proxy.remove(hanging)

    await milan_proxy.go_down()
    code, found, said = await listed(driver)
    assert (code, found) == (INCOMPLETE, [])
    assert "out of sight: cluster milan (" in said
    await milan_proxy.come_up()
    await conditions.reported_back(driver)
    assert await listed(driver) == (0, [twin], "")
