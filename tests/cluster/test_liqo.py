"""Beside Liqo: what its objects describe is a provider like any other, under its rights.

Covered: a claim's whole life under exactly the rights that a Liqo provider gives; the
classes of a VirtualNode; NamespaceMaps that change; renewed and refused credentials; a
proxy before the provider; Liqo installed later; both sources side by side.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest
import yaml

from lab import control_plane
from tests import control_planes
from tests.cluster import fabric, liqo_fabric

Planes = tuple[control_plane.ControlPlane, control_plane.ControlPlane]


@pytest.fixture(scope="module")
def with_liqo(prepared: Planes) -> Iterator[Planes]:
    with liqo_fabric.installed(*prepared):
        yield prepared


@pytest.fixture
async def beside(
    with_liqo: Planes, tmp_path: Path, namespace: str
) -> AsyncIterator[liqo_fabric.Beside]:
    async with liqo_fabric.running(with_liqo, tmp_path, namespace) as running:
        yield running


async def test_a_claim_lives_its_whole_life_under_liqos_rights(
    beside: liqo_fabric.Beside,
) -> None:
    driver = beside.fabric
    await driver.claim_on("data", "milan")
    _, volume = await driver.bound("data")

    twin = await driver.provider.get(f"{driver.remote_claims}/data")
    assert twin["spec"]["storageClassName"] == "hostpath"
    assert twin["metadata"]["labels"]["csi.liqo.io/consumer"] == "rome"
    reflected = {"offloading.liqo.io/origin", "offloading.liqo.io/destination"}
    assert not reflected & set(twin["metadata"]["labels"])  # Liqo deletes what has both
    values = volume["spec"]["nodeAffinity"]["required"]["nodeSelectorTerms"][0]["matchExpressions"]
    assert values == [{"key": fabric.CLUSTER_KEY, "operator": "In", "values": ["milan"]}]

    await driver.drop("data")
    await driver.volume_gone(volume["metadata"]["name"])
    await control_planes.wait_until_gone(driver.provider, driver.remote_claims, "data")


async def test_a_node_says_that_its_provider_is_connected(beside: liqo_fabric.Beside) -> None:
    await beside.tenant.said("Connected", "storage of cluster milan")


async def test_a_class_is_asked_for_by_name_among_those_the_virtual_node_offers(
    beside: liqo_fabric.Beside,
) -> None:
    driver = beside.fabric
    for name, wanted in (("named", "hostpath-wffc"), ("foreign", "static"), ("virtual", "liqo")):
        claim = fabric.claim(name)
        claim["metadata"]["annotations"] = {"liqo.io/remote-storage-class": wanted}
        await driver.consumer.create(driver.claims, claim)
        await driver.consume(name, "milan")

    await driver.bound("named")
    twin = await driver.provider.get(f"{driver.remote_claims}/named")
    assert twin["spec"]["storageClassName"] == "hostpath-wffc"
    offered = "(offered: hostpath, hostpath-wffc)"
    assert offered in await driver.event("foreign", "does not offer class static")
    assert offered in await driver.event("virtual", "does not offer class liqo")


async def test_a_namespace_counts_from_the_moment_it_is_offloaded(
    beside: liqo_fabric.Beside,
) -> None:
    driver, tenant = beside.fabric, beside.tenant
    mapping = {driver.namespace: driver.remote_namespace}
    await tenant.map(mapping, phase="CreationLoopBackOff")
    await driver.claim_on("early", "milan")
    said = await driver.event("early", "is not mapped to one of cluster milan")
    assert f"liqoctl offload namespace {driver.namespace}" in said

    await tenant.map(mapping)
    await driver.bound("early", timeout_seconds=60)


async def test_a_namespace_that_is_no_longer_offloaded_hinders_no_other(
    beside: liqo_fabric.Beside,
) -> None:
    driver, tenant = beside.fabric, beside.tenant
    await driver.claim_on("kept", "milan")
    await driver.bound("kept")
    other = f"{driver.remote_namespace}-2"
    liqo_fabric.lend(driver.milan, other)
    mapping = {driver.namespace: driver.remote_namespace}
    await tenant.map({**mapping, "elsewhere": other})
    await driver.claim_on("again", "milan")
    await driver.bound("again")

    await tenant.map(mapping)
    fabric.kubectl(driver.milan, "delete", "namespace", other)
    for name in ("kept", "again"):
        _, volume = await driver.bound(name)
        await driver.drop(name)
        await driver.volume_gone(volume["metadata"]["name"])


async def test_a_renewed_credential_is_taken_without_a_restart(
    beside: liqo_fabric.Beside,
) -> None:
    driver, tenant = beside.fabric, beside.tenant
    await driver.claim_on("before", "milan")
    await driver.bound("before")

    await tenant.renew(liqo_fabric.bad_kubeconfig(driver.milan))
    await tenant.said("Unauthorized", "storage of cluster milan")
    await tenant.renew(liqo_fabric.liqo_kubeconfig(driver.milan))
    await driver.claim_on("after", "milan")
    await driver.bound("after", timeout_seconds=60)


async def test_another_cluster_under_liqos_id_is_not_written_to_until_a_person_accepts_it(
    beside: liqo_fabric.Beside,
) -> None:
    driver, tenant = beside.fabric, beside.tenant
    await control_planes.wait_until(driver.consumer, fabric.NODES, "milan", identity_is("root-ca:"))
    await driver.controller.end()
    await note_identity(driver, "root-ca:of-the-one-before")
    await driver.controller.start()
    said = await tenant.said("IdentityChanged", "another cluster answers for milan")
    assert "csi.liqo.io/identity-" in said
    await driver.claim_on("data", "milan")
    await driver.event("data", "cluster milan cannot be reached")
    assert await driver.provider.find(f"{driver.remote_claims}/data") is None

    await note_identity(driver, None)
    await driver.bound("data", timeout_seconds=60)
    await control_planes.wait_until(driver.consumer, fabric.NODES, "milan", identity_is("root-ca:"))


async def test_a_virtual_node_that_was_made_anew_is_held_against_what_its_volumes_remember(
    beside: liqo_fabric.Beside,
) -> None:
    driver, tenant = beside.fabric, beside.tenant
    await driver.claim_on("data", "milan")
    _, volume = await driver.bound("data")
    name = volume["metadata"]["name"]
    noted = await control_planes.wait_until(
        driver.consumer, fabric.VOLUMES, name, identity_is("root-ca:")
    )
    assert noted is not None
    milan = noted["metadata"]["annotations"]["csi.liqo.io/identity"]
    await driver.controller.end()
    await note_identity(driver, None)
    before = "root-ca:of-the-one-before"
    annotated = {"metadata": {"annotations": {"csi.liqo.io/identity": before}}}
    await driver.consumer.merge(f"{fabric.VOLUMES}/{name}", annotated)
    await driver.controller.start()

    await tenant.said("IdentityChanged", f"it was {before}")
    await control_planes.wait_until(driver.consumer, fabric.NODES, "milan", identity_is(before))

    await note_identity(driver, None)
    await control_planes.wait_until(driver.consumer, fabric.NODES, "milan", identity_is(milan))
    await control_planes.wait_until(driver.consumer, fabric.VOLUMES, name, identity_is(milan))


def identity_is(prefix: str) -> Callable[[fabric.Json | None], bool]:
    def noted(node: fabric.Json | None) -> bool:
        annotations = (node or {}).get("metadata", {}).get("annotations", {})
        return str(annotations.get("csi.liqo.io/identity", "")).startswith(prefix)

    return noted


async def note_identity(driver: fabric.Fabric, identity: str | None) -> None:
    annotations = {"csi.liqo.io/identity": identity}
    await driver.consumer.merge(f"{fabric.NODES}/milan", {"metadata": {"annotations": annotations}})


async def test_a_kubeconfig_that_may_not_be_read_is_said_with_the_remedy(
    with_liqo: Planes, tmp_path: Path, namespace: str
) -> None:
    async with liqo_fabric.running(with_liqo, tmp_path, namespace, granted=False) as beside:
        said = await beside.tenant.said("KubeconfigForbidden", liqo_fabric.SECRET)
        do_as_said(beside, said)
        await beside.tenant.said("Connected", "storage of cluster milan", timeout_seconds=60)


async def test_the_installation_that_attaches_asks_for_its_own_account(
    with_liqo: Planes, tmp_path: Path, namespace: str
) -> None:
    """The other one was granted the same before."""
    rome = with_liqo[0]
    liqo_fabric.install_attaching(rome)
    try:
        async with liqo_fabric.running(with_liqo, tmp_path, namespace, attach=True) as beside:
            said = await beside.tenant.said("KubeconfigForbidden", liqo_fabric.SECRET)
            assert "--serviceaccount=csi-liqo:csi-liqo-controller-attach" in said
            do_as_said(beside, said)
            await beside.tenant.said("Connected", "storage of cluster milan", timeout_seconds=60)
    finally:
        liqo_fabric.remove_attaching(rome)


def do_as_said(beside: liqo_fabric.Beside, said: str) -> None:
    """Run the commands in a message, as its reader would."""
    commands = re.findall(r"kubectl (-n \S+ create [^&]+)", said)
    assert len(commands) == 2, said
    for command in commands:
        fabric.kubectl(beside.fabric.rome, *command.split())


async def test_a_provider_is_reached_by_the_proxy_that_its_kubeconfig_names(
    with_liqo: Planes, tmp_path: Path, namespace: str
) -> None:
    tunnels: list[str] = []
    async with _connect_proxy(tunnels) as url:
        document = yaml.safe_load(liqo_fabric.liqo_kubeconfig(with_liqo[1]))
        document["clusters"][0]["cluster"]["proxy-url"] = url
        text = yaml.safe_dump(document)
        async with liqo_fabric.running(with_liqo, tmp_path, namespace, kubeconfig=text) as beside:
            await beside.fabric.claim_on("data", "milan")
            await beside.fabric.bound("data")
    assert set(tunnels) == {with_liqo[1].server.removeprefix("https://")}


async def test_liqo_may_be_installed_after_the_driver_and_be_removed(
    with_liqo: Planes, tmp_path: Path, namespace: str
) -> None:
    rome, milan = with_liqo
    liqo_fabric.remove_liqo(rome)
    try:
        async with liqo_fabric.running(with_liqo, tmp_path, namespace, peered=False) as beside:
            driver = beside.fabric
            await driver.claim_on("local", "rome-1")
            await driver.bound("local")

            liqo_fabric.install_liqo(rome)
            mapping = {driver.namespace: driver.remote_namespace}
            await beside.tenant.peer(mapping, liqo_fabric.liqo_kubeconfig(milan))
            await driver.claim_on("remote", "milan")
            await driver.bound("remote", timeout_seconds=60)
    finally:
        liqo_fabric.install_liqo(rome)


async def test_a_remote_cluster_wins_whole_over_liqo_and_gives_way_again(
    beside: liqo_fabric.Beside,
) -> None:
    driver, tenant = beside.fabric, beside.tenant
    await tenant.said("Connected", "storage of cluster milan")
    own = f"own-{driver.remote_namespace}"
    fabric.grant_namespace(driver.milan, own)
    text = driver.milan.kubeconfig_text(fabric.CONSUMER_USER)
    secret = fabric.kubeconfig_secret(text)
    await driver.consumer.create(fabric.SECRETS, secret)
    await driver.consumer.create(
        fabric.REMOTE_CLUSTERS, fabric.remote_cluster({driver.namespace: own})
    )
    try:
        await control_planes.wait_until(
            driver.consumer, fabric.REMOTE_CLUSTERS, "milan", fabric.is_ready
        )
        await driver.claim_on("data", "milan")
        await driver.bound("data")
        assert await driver.provider.find(f"{fabric.claims_in(own)}/data") is not None
        assert await driver.provider.find(f"{driver.remote_claims}/data") is None
        _, volume = await driver.bound("data")
        await driver.drop("data")
        await driver.volume_gone(volume["metadata"]["name"])
    finally:
        fabric.forget_remote_cluster(driver.rome, "milan")
        fabric.kubectl(driver.rome, "-n", "csi-liqo", "delete", "secret", "milan")

    await driver.claim_on("later", "milan")
    await driver.bound("later", timeout_seconds=60)
    assert await driver.provider.find(f"{driver.remote_claims}/later") is not None


async def test_a_virtual_node_that_a_remote_cluster_claims_too_belongs_to_none(
    beside: liqo_fabric.Beside,
) -> None:
    driver, tenant = beside.fabric, beside.tenant
    await tenant.said("Connected", "storage of cluster milan")
    remote = fabric.remote_cluster(
        {}, clusterID="paris", nodeSelector={"liqo.io/type": "virtual-node"}
    )
    remote["metadata"]["name"] = "paris"
    await driver.consumer.create(fabric.REMOTE_CLUSTERS, remote)
    try:
        await tenant.said("Conflict", "RemoteCluster paris claims this node")
        claimed = f"claimed by Liqo's VirtualNode {tenant.namespace}/milan"
        await control_planes.wait_until(
            driver.consumer,
            fabric.REMOTE_CLUSTERS,
            "paris",
            lambda item: claimed in json.dumps((item or {}).get("status", {})),
        )
    finally:
        fabric.forget_remote_cluster(driver.rome, "paris")


async def test_with_liqo_alone_a_remote_cluster_is_left_alone(
    with_liqo: Planes, tmp_path: Path, namespace: str
) -> None:
    async with liqo_fabric.running(with_liqo, tmp_path, namespace, source="liqo") as beside:
        driver = beside.fabric
        remote = fabric.remote_cluster({driver.namespace: "nowhere"})
        await driver.consumer.create(fabric.REMOTE_CLUSTERS, remote)
        try:
            await driver.claim_on("data", "milan")
            await driver.bound("data")
            assert await driver.provider.find(f"{driver.remote_claims}/data") is not None
            found = await driver.consumer.get(f"{fabric.REMOTE_CLUSTERS}/milan")
            assert "status" not in found
        finally:
            fabric.forget_remote_cluster(driver.rome, "milan")


@contextlib.asynccontextmanager
async def _connect_proxy(tunnels: list[str]) -> AsyncIterator[str]:
    """Run an HTTP proxy that only tunnels, and note where to."""

    async def pour(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while chunk := await source.read(65536):
                target.write(chunk)
                await target.drain()
        target.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            request = await reader.readuntil(b"\r\n\r\n")
            _, address, _ = request.split(b"\r\n")[0].decode().split(" ")
            tunnels.append(address)
            host, _, port = address.rpartition(":")
            inner_reader, inner_writer = await asyncio.open_connection(host, int(port))
            writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
            await asyncio.gather(pour(reader, inner_writer), pour(inner_reader, writer))
        writer.close()

    proxy = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{proxy.sockets[0].getsockname()[1]}"
    finally:
        proxy.close()
