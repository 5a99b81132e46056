"""`csi-liqo peer`: what it writes into two real clusters, what it says, what it never shows.

Covered: the rights of the account it makes, exactly; repetition, also after a kill at
any write; what is refused and why; new tokens, and that old ones are refused.
"""

from __future__ import annotations

import asyncio
import os
import pathlib

import pytest
import yaml

from csi_liqo.service.tools import grants
from lab import api
from lab.faults import proxy, rules
from tests import control_planes
from tests.cli import conftest
from tests.cluster import fabric, test_manifests

CHANGES = rules.Match(is_write=True, other_than=frozenset({"selfsubjectaccessreviews"}))
ACCOUNT = "system:serviceaccount:csi-liqo-consumers:rome"


async def test_a_provider_is_introduced_with_the_rights_that_are_needed(
    desk: conftest.Desk,
) -> None:
    remote = f"rome-{desk.namespace}"

    done = await desk.add(f"--namespace={desk.namespace}={remote}")

    assert done.code == 0, done.err
    assert f"wrote RoleBinding {remote}/csi-liqo-consumer-claims-rome" in done.out
    assert "wrote Secret csi-liqo/peer-milan" in done.out
    assert "without events in" in done.out
    assert "a claim that waits does not say for what" in done.out
    cluster = await desk.consumer.get(f"{fabric.REMOTE_CLUSTERS}/milan")
    assert cluster["spec"]["clusterID"] == "milan"
    assert cluster["spec"]["namespaceMapping"]["explicit"] == {desk.namespace: remote}
    for verb in ("get", "list", "watch", "create", "patch", "delete"):
        assert can(desk, verb, "persistentvolumeclaims", remote)
    for verb, kind, namespace in (
        ("update", "persistentvolumeclaims", remote),
        ("list", "persistentvolumeclaims", "default"),
        ("list", "persistentvolumes", ""),
        ("list", "storageclasses.storage.k8s.io", ""),
        ("list", "events", remote),
        ("get", "secrets", remote),
        ("create", "secrets", "csi-liqo-consumers"),
        ("create", "pods", remote),
        ("get", "namespaces", ""),
    ):
        assert not can(desk, verb, kind, namespace), (verb, kind)


async def test_each_further_grant_is_given_by_its_name_alone(desk: conftest.Desk) -> None:
    remote = f"rome-{desk.namespace}"
    first = await desk.add(f"--namespace={desk.namespace}={remote}")
    for grant in grants.OPTIONAL.values():
        where = "*" if grant.everywhere else remote
        assert f"without {grant.name} in {where}: {grant.cost}" in first.out

    named: set[str] = set()
    for name in grants.OPTIONAL:
        done = await desk.add(f"--grant={name}", "--output=json")
        named.add(name)
        rights = {item["grant"]: item["granted"] for item in done.document["rights"]}
        assert {given for given, granted in rights.items() if granted} == {
            *("claims", "identity", "token"),
            *named,
        }
        assert all(item["cost"] for item in done.document["rights"] if not item["granted"])

    last = await desk.add()
    assert "\nwithout " not in last.out
    for verb, kind, namespace in (
        ("list", "persistentvolumes", ""),
        ("patch", "persistentvolumes", ""),
        ("watch", "csistoragecapacities.storage.k8s.io", ""),
        ("list", "storageclasses.storage.k8s.io", ""),
        ("list", "events", remote),
        ("patch", "configmaps", remote),
    ):
        assert can(desk, verb, kind, namespace), (verb, kind)
    for verb, kind, namespace in (
        ("delete", "persistentvolumes", ""),
        ("get", "configmaps", remote),
        ("create", "configmaps", "default"),
        ("list", "events", "default"),
        ("get", "secrets", "csi-liqo-consumers"),
    ):
        assert not can(desk, verb, kind, namespace), (verb, kind)


async def test_several_grants_are_given_at_once(desk: conftest.Desk) -> None:
    remote = f"rome-{desk.namespace}"

    done = await desk.add(
        f"--namespace={desk.namespace}={remote}",
        "--grant=offered-classes,volumes",
        "--grant=events,capacity,repair,teardown",
        "--output=json",
    )

    rights = {(item["grant"], item["where"]): item["granted"] for item in done.document["rights"]}
    assert rights == {
        ("claims", remote): True,
        ("events", remote): True,
        ("identity", "*"): True,
        ("offered-classes", "*"): True,
        ("volumes", "*"): True,
        ("capacity", "*"): True,
        ("teardown", remote): True,
        ("repair", "*"): True,
        ("token", "csi-liqo-consumers"): True,
    }


async def test_to_add_a_provider_again_writes_nothing(desk: conftest.Desk) -> None:
    first = await desk.add("--template=${namespace}-${consumer}", "--namespace=a", "--class=x=y")
    token = await desk.token_of()

    again = await desk.add()

    assert first.code == again.code == 0
    assert "wrote" not in again.out
    assert await desk.token_of() == token
    cluster = await desk.consumer.get(f"{fabric.REMOTE_CLUSTERS}/milan")
    assert cluster["spec"]["classes"] == [{"virtual": "x", "offered": "y"}]
    assert cluster["spec"]["namespaceMapping"] == {
        "default": "None",
        "template": "${namespace}-${consumer}",
    }
    assert can(desk, "create", "persistentvolumeclaims", "a-rome")


async def test_no_token_is_ever_shown(desk: conftest.Desk) -> None:
    said = [
        await desk.add("-o", form, "--namespace=a") for form in ("table", "wide", "json", "yaml")
    ]
    tokens = [await desk.token_of()]
    said += [await desk("peer", "list", "-o", form) for form in ("table", "wide", "json", "yaml")]
    said.append(await rotate(desk))
    tokens.append(await desk.token_of())

    assert all(done.code == 0 for done in said)
    for token in tokens:
        signature = token.rpartition(".")[2]
        assert len(signature) > 20
        assert not any(signature in done.out + done.err for done in said)


async def test_what_belongs_to_somebody_else_is_left_alone(desk: conftest.Desk) -> None:
    secret = fabric.kubeconfig_secret("")
    secret["metadata"]["name"] = "peer-milan"
    await desk.consumer.create(fabric.SECRETS, secret)
    try:
        done = await desk.add("--namespace=a")
    finally:
        fabric.kubectl(desk.rome, "-n", "csi-liqo", "delete", "secret", "peer-milan")

    assert done.code == 1
    assert done.err.startswith("csi-liqo: Secret csi-liqo/peer-milan exists and was made by")
    assert done.err.count("\n") == 1
    assert await everything_of_rome(desk) == []


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--cluster-id=rome"], 1, "rome is this cluster's own id"),
        (["--cluster-id=No_Id"], 1, "spec.clusterID"),
        (["--namespace=a=csi-liqo-storage"], 1, "is kept for that cluster's own twins"),
        (["--namespace=a=kube-system"], 1, "namespace kube-system of the provider belongs to"),
        (["--namespace=kube-public"], 1, "namespace kube-public of the provider belongs to"),
        (["--namespace=a", "--template=kube-${namespace}"], 1, "namespace kube-a of the provider"),
        (["--namespace=a=csi-liqo-consumers"], 1, "accounts of its consumers; map a to another"),
        (["--namespace=a=No_Name"], 2, "'No_Name' is no name of a namespace"),
        (["--namespace=a", "--grant=everything"], 2, "--grant everything is unknown; known are"),
        (["--namespace=a", "--class=x"], 2, "--class 'x' is not of the form a=b"),
        (["--namespace=a", "--class=x=No_Class"], 1, "spec.classes"),
        (["--namespace=a", "--template=all"], 1, "must contain ${namespace}"),
        (["--namespace=a", "--server=milan:6443"], 2, "--server is no address of the form"),
    ],
    ids=lambda value: value[-1] if isinstance(value, list) else "",
)
async def test_what_cannot_be_meant_is_refused_in_one_line_before_anything_is_written(
    desk: conftest.Desk, arguments: list[str], code: int, words: str
) -> None:
    before = await everything_of_rome(desk), namespaces_of(desk)

    done = await desk.add(*arguments)

    assert done.code == code
    assert words in done.err
    assert done.err.startswith("csi-liqo: ")
    assert (await everything_of_rome(desk), namespaces_of(desk)) == before


def namespaces_of(desk: conftest.Desk) -> list[str]:
    return fabric.kubectl(desk.milan, "get", "namespaces", "-o", "name").split()


async def test_a_provider_that_need_not_prove_who_it_is_is_refused_or_told_of(
    driver: fabric.Fabric, desk: conftest.Desk, tmp_path: pathlib.Path
) -> None:
    document = yaml.safe_load(desk.milan.kubeconfig.read_text())
    cluster = document["clusters"][0]["cluster"]
    del cluster["certificate-authority-data"]
    cluster["insecure-skip-tls-verify"] = True
    kubeconfig = tmp_path / "kubeconfig"
    kubeconfig.write_text(yaml.safe_dump(document))
    add = ("peer", "add", "milan", f"--provider-kubeconfig={kubeconfig}", "--consumer-id=rome")
    before = await desk.kubeconfig_of()

    refused = await desk(*add)

    assert refused.code == 1
    assert "its kubeconfig says insecure-skip-tls-verify" in refused.err
    assert "--allow-insecure-skip-tls-verify" in refused.err
    assert await desk.kubeconfig_of() == before

    allowed = await desk(*add, "--allow-insecure-skip-tls-verify")

    assert allowed.code == 0, allowed.err
    assert "need not prove that it is milan" in allowed.err
    told = await control_planes.wait_until(
        desk.consumer, fabric.REMOTE_CLUSTERS, "milan", is_unproven
    )
    assert fabric.is_ready(told)
    found = (await desk("doctor", "-o", "json")).document
    assert any("need not prove who it is" in item["finding"] for item in found)

    again = await desk.add("-o", "json")  # with the good kubeconfig

    assert again.document["serverUnproven"] is None
    await control_planes.wait_until(
        desk.consumer, fabric.REMOTE_CLUSTERS, "milan", lambda remote: not is_unproven(remote)
    )


def is_unproven(remote: fabric.Json | None) -> bool:
    conditions = (remote or {})["status"]["conditions"]
    return any("insecure-skip-tls-verify" in item["message"] for item in conditions)


async def test_two_names_for_one_cluster_are_refused(desk: conftest.Desk) -> None:
    await desk.add("--namespace=a")

    done = await desk.add("--cluster-id=milan", name="other")

    assert done.code == 1
    assert "cluster milan is known as RemoteCluster milan already; use that name" in done.err


async def test_a_kubeconfig_that_is_not_there_is_named(desk: conftest.Desk) -> None:
    done = await desk("peer", "add", "milan", "--provider-kubeconfig=/nowhere", "--consumer-id=r")

    assert done.code == 1
    assert "kubeconfig /nowhere" in done.err


async def test_a_rotated_token_replaces_one_that_is_refused_from_then_on(
    desk: conftest.Desk,
) -> None:
    await desk.add("--namespace=a")
    old = await desk.token_of()
    assert await accepted(desk, old)

    done = await rotate(desk)

    assert done.code == 0, done.err
    assert "the old token is refused from now on" in done.out
    assert await accepted(desk, await desk.token_of())
    await wait_until_refused(desk, old)


async def test_without_the_provider_an_account_asks_for_its_own_next_token(
    desk: conftest.Desk,
) -> None:
    await desk.add("--namespace=a")
    old = await desk.token_of()

    done = await desk("peer", "rotate", "milan", "--consumer-id=rome")

    assert done.code == 0, done.err
    assert "the old token stays good until" in done.out
    assert await desk.token_of() != old
    assert await accepted(desk, await desk.token_of())


async def test_peers_are_listed_with_what_a_person_asks_first(desk: conftest.Desk) -> None:
    await desk.add(f"--namespace={desk.namespace}=b")

    row = next(row for row in (await desk("peer", "list")).rows if row["name"] == "milan")
    document = (await desk("peer", "list", "-o", "json")).document
    text = yaml.safe_load((await desk("peer", "list", "-o", "yaml")).out)

    assert row["cluster"] == "milan"
    assert row["volumes"] == "0"
    assert row["token ends"].startswith("in 6d23h")
    assert document == text
    assert document[0]["namespaceMapping"]["explicit"] == {desk.namespace: "b"}


async def test_a_removed_peer_leaves_nothing_but_the_namespace(desk: conftest.Desk) -> None:
    before = await everything_of_rome(desk)
    await desk.add("--namespace=kept-there", "--grant=volumes,events")
    token = await desk.token_of()

    done = await desk(
        *("peer", "remove", "milan", "--consumer-id=rome"),
        f"--provider-kubeconfig={desk.milan.kubeconfig}",
    )

    assert done.code == 0, done.err
    assert "removed RemoteCluster milan" in done.out
    assert "removed ServiceAccount csi-liqo-consumers/rome in the provider" in done.out
    assert await everything_of_rome(desk) == before
    assert await desk.provider.find("/api/v1/namespaces/kept-there") is not None
    await wait_until_refused(desk, token)


async def test_to_remove_what_is_not_there_is_an_error(desk: conftest.Desk) -> None:
    done = await desk("peer", "remove", "nobody", "--consumer-id=rome")

    assert done.code == 1
    assert "there is no RemoteCluster nobody" in done.err


async def everything_of_rome(desk: conftest.Desk) -> list[str]:
    """Return what carries the consumer's label in either cluster."""
    kinds = "serviceaccounts,secrets,roles,rolebindings,clusterrolebindings"
    found = []
    for plane, more in ((desk.rome, ",remoteclusters"), (desk.milan, "")):
        selector = ("-A", "-l", "csi.liqo.io/consumer=rome,app.kubernetes.io/part-of=csi-liqo")
        listed = fabric.kubectl(plane, "get", kinds + more, *selector, "-o", "name")
        found += sorted(listed.split())
    return found


async def rotate(desk: conftest.Desk) -> conftest.Done:
    return await desk(
        *("peer", "rotate", "milan", "--consumer-id=rome"),
        f"--provider-kubeconfig={desk.milan.kubeconfig}",
    )


async def accepted(desk: conftest.Desk, token: str) -> bool:
    """Whether milan's API server still takes a token."""
    connection = await api.load_connection(desk.milan.kubeconfig, anonymous=True)
    headers = {"Authorization": f"Bearer {token}"}
    async with api.Api(api.Connection(connection.url, connection.tls, headers)) as server:
        try:
            await server.get("/api/v1/namespaces/kube-system")
        except api.ApiError as error:
            return error.status != 401  # forbidden is what an account may be told
        return True


async def wait_until_refused(desk: conftest.Desk, token: str) -> None:
    """The API server remembers for ten seconds that it accepted a token."""
    async with asyncio.timeout(30):
        taken = True
        while taken:
            await asyncio.sleep(0.5)  # nothing tells of it but the next request
            taken = await accepted(desk, token)


def can(desk: conftest.Desk, verb: str, kind: str, namespace: str) -> bool:
    """Ask milan whether the account of rome has a right."""
    return test_manifests.can(desk.milan, ACCOUNT, verb, kind, namespace)


def test_the_roles_are_those_of_the_manifests() -> None:
    texts = [path.read_text() for path in (fabric.ROOT / "deploy/provider").rglob("*.yaml")]
    roles = {
        item["metadata"]["name"]: item["rules"]
        for text in texts
        for item in yaml.safe_load_all(text)
        if item["kind"] == "ClusterRole"
    }
    # In place of the identity, where kube-system may not be read: not what `add` chooses.
    del roles["csi-liqo-consumer-root-ca"]

    assert {g.role: [rule.forge() for rule in g.rules] for g in grants.ALL} == roles


async def test_an_introduction_that_is_killed_after_each_of_its_writes_is_finished_by_the_next(
    desk: conftest.Desk, tmp_path: pathlib.Path
) -> None:
    (tmp_path / "rome").mkdir()
    (tmp_path / "milan").mkdir()
    async with (
        proxy.FaultProxy(desk.rome.kubeconfig, tmp_path / "rome") as rome,
        proxy.FaultProxy(
            desk.milan.kubeconfig, tmp_path / "milan", pass_authorization=True
        ) as milan,
    ):
        command = (
            *("peer", "add", "milan", "--consumer-id=rome", "--namespace=killed"),
            f"--provider-kubeconfig={milan.kubeconfig}",
        )
        for side, writes in ((milan, 10), (rome, 4)):
            number = 1
            while await kill_at(side.pause_at(number, rules.When.AFTER, CHANGES), rome, *command):
                number += 1
            assert number > writes, "it makes fewer writes than it did: see what is tested here"

        done = await conftest.run(*command, kubeconfig=rome.kubeconfig)

    assert done.code == 0, done.err
    assert "wrote" not in done.out
    selector = ("-l", "csi.liqo.io/token-of=rome", "-o", "name")
    left = fabric.kubectl(desk.milan, "-n", "csi-liqo-consumers", "get", "secrets", *selector)
    assert len(left.split()) == 1
    assert await accepted(desk, await desk.token_of())


async def kill_at(pause: rules.Pause, rome: proxy.FaultProxy, *command: str) -> bool:
    """Run a command and kill it when it reaches the pause; False when it ended before."""
    process = await asyncio.create_subprocess_exec(
        *fabric.PROGRAM,
        *command,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
        env={**os.environ, "KUBECONFIG": str(rome.kubeconfig)},
    )
    ending = asyncio.create_task(process.communicate())
    reached = asyncio.create_task(pause.wait_until_reached(60))
    await asyncio.wait({ending, reached}, return_when=asyncio.FIRST_COMPLETED)
    if not reached.done():
        reached.cancel()
        pause.release()
        assert process.returncode == 0, (await ending)[1]
        return False
    process.kill()
    await ending
    pause.drop()
    return True


async def test_a_provider_that_holds_volumes_is_kept_or_forgotten_and_found_again(
    driver: fabric.Fabric, desk: conftest.Desk
) -> None:
    await driver.claim_on("data", "milan")
    _, volume = await driver.bound("data")
    name = volume["metadata"]["name"]
    remove = (
        *("peer", "remove", "milan", "--consumer-id=rome"),
        f"--provider-kubeconfig={desk.milan.kubeconfig}",
    )

    refused = await desk(*remove)

    assert refused.code == 1
    assert "RemoteCluster milan is the home of 1 volumes" in refused.err
    assert f"claim {desk.namespace}/data" in refused.err
    assert "--forget" in refused.err

    forgotten = await desk(*remove, "--forget")

    assert forgotten.code == 0, forgotten.err
    assert f"forgot volume {name}: its data stays in the provider" in forgotten.out
    assert f"kept twin {driver.remote_namespace}/data in the provider" in forgotten.out
    twin = await desk.provider.get(f"{driver.remote_claims}/data")
    assert "deletionTimestamp" not in twin["metadata"]
    assert twin["status"]["phase"] == "Bound"
    real = await desk.provider.get(f"{fabric.VOLUMES}/{twin['spec']['volumeName']}")
    folder = pathlib.Path(real["spec"]["hostPath"]["path"]).name
    assert (desk.milan.hostpath_directory / folder).is_dir()
    kept = await desk.consumer.get(f"{fabric.VOLUMES}/{name}")
    assert kept["metadata"]["annotations"]["csi.liqo.io/forgotten"] == "milan"
    told = (await desk("doctor", "--consumer-id=rome", "-o", "json")).document
    said = [
        item for item in told if f"volume {name}: its home milan was removed" in item["finding"]
    ]
    assert [item["level"] for item in said] == ["warning"]
    rows = (await desk("where", "-n", desk.namespace)).rows
    assert [row["state"] for row in rows] == ["Forgotten"]

    again = await desk.add(f"--namespace={desk.namespace}={driver.remote_namespace}")

    assert again.code == 0, again.err
    found = await desk.consumer.get(f"{fabric.VOLUMES}/{name}")
    assert "csi.liqo.io/forgotten" not in found["metadata"]["annotations"]
    rows = (await desk("where", "-n", desk.namespace)).rows
    assert [row["state"] for row in rows] != ["Forgotten"]
    await control_planes.wait_until(desk.consumer, fabric.REMOTE_CLUSTERS, "milan", fabric.is_ready)
