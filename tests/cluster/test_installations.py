"""Installations of deploy/ side by side: each is removed without what it shares with others.

Covered: what belongs to whom; that removing one leaves the other, the twins and the
RemoteClusters; that what is shared cannot be deleted while an installation is there.
"""

from __future__ import annotations

import asyncio
import json
import subprocess

import pytest
import yaml

from lab import control_plane
from tests.cluster import fabric

Identity = tuple[str, str, str]
"""Kind, namespace and name of an object."""

SHARED = ("-k", str(fabric.ROOT / "deploy/shared"))


def build(name: str) -> dict[Identity, fabric.Json]:
    """Return the objects of a folder of deploy/, the empty name being all of it."""
    command = [str(fabric.BINARIES / "kubectl"), "kustomize", str(fabric.ROOT / "deploy" / name)]
    text = subprocess.run(command, check=True, text=True, stdout=subprocess.PIPE).stdout
    return {identify(item): item for item in yaml.safe_load_all(text)}


def identify(item: fabric.Json) -> Identity:
    metadata = item["metadata"]
    return item["kind"], metadata.get("namespace", ""), metadata["name"]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("base", "attach"),
        ("base", "shared"),
        ("attach", "shared"),
        ("liqo", "attach"),
        ("liqo", "shared"),
    ],
)
def test_no_object_belongs_to_two_installations_or_is_shared_and_owned(
    one: str, other: str
) -> None:
    assert set(build(one)) & set(build(other)) == set()


def test_all_that_is_applied_at_once_is_one_installation_and_what_it_shares() -> None:
    assert set(build("")) == set(build("base")) | set(build("shared"))


@pytest.mark.parametrize(
    ("name", "instance"), [("base", "csi-liqo"), ("liqo", "csi-liqo"), ("attach", "attach")]
)
def test_everything_of_an_installation_says_which_one_it_is_of(name: str, instance: str) -> None:
    for identity, item in build(name).items():
        labels = item["metadata"]["labels"]
        assert labels["app.kubernetes.io/instance"] == instance, identity
        assert labels["app.kubernetes.io/part-of"] == "csi-liqo", identity


@pytest.mark.parametrize(("name", "instance"), [("base", "csi-liqo"), ("attach", "attach")])
def test_an_installation_selects_its_own_pods(name: str, instance: str) -> None:
    selectors = []
    for item in build(name).values():
        if item["kind"] in ("Deployment", "DaemonSet"):
            template = item["spec"]["template"]
            assert template["metadata"]["labels"]["app.kubernetes.io/instance"] == instance
            spread = template["spec"].get("topologySpreadConstraints", [])
            selectors += [item["spec"]["selector"], *(rule["labelSelector"] for rule in spread)]
        if item["kind"] == "PodDisruptionBudget":
            selectors.append(item["spec"]["selector"])
    assert len(selectors) == 4
    for selector in selectors:
        assert selector["matchLabels"]["app.kubernetes.io/instance"] == instance


@pytest.mark.parametrize("name", ["base", "attach"])
def test_the_controller_is_told_which_account_it_acts_as(name: str) -> None:
    deployment = next(item for item in build(name).values() if item["kind"] == "Deployment")

    environment = deployment["spec"]["template"]["spec"]["containers"][0]["env"]
    account = next(entry for entry in environment if entry["name"] == "SERVICE_ACCOUNT")
    assert account["valueFrom"]["fieldRef"]["fieldPath"] == "spec.serviceAccountName"


@pytest.mark.parametrize(
    ("removed", "kept"), [("attach", "base"), ("base", "attach"), ("liqo", "attach")]
)
def test_removing_one_installation_leaves_the_other_and_what_both_share(
    both: control_plane.ControlPlane, removed: str, kept: str
) -> None:
    fabric.kubectl(both, "apply", "-k", str(fabric.ROOT / "deploy" / removed))
    fabric.kubectl(both, "apply", "-f", "-", text=yaml.safe_dump(remote()))
    fabric.kubectl(both, "apply", "-n", fabric.TWINS, "-f", "-", text=yaml.safe_dump(twin()))
    try:
        before = {name: alive(both, name) for name in ("shared", kept)}
        assert all(set(before[name]) == set(build(name)) for name in before)

        fabric.kubectl(both, "delete", "-k", str(fabric.ROOT / "deploy" / removed))

        assert alive(both, removed) == {}
        assert {name: alive(both, name) for name in before} == before
        for there in (("remotecluster", "milan"), ("-n", fabric.TWINS, "pvc", "left-alone")):
            found = json.loads(fabric.kubectl(both, "get", "-o", "json", *there))
            assert "deletionTimestamp" not in found["metadata"]
    finally:
        fabric.forget_remote_cluster(both, "milan")
        fabric.kubectl(both, "delete", "-n", fabric.TWINS, "pvc", "left-alone")
        for name in ("", "attach"):
            fabric.kubectl(both, "apply", "-k", str(fabric.ROOT / "deploy" / name))


async def test_what_installations_share_goes_only_after_the_last_of_them(
    both: control_plane.ControlPlane,
) -> None:
    """Asked of the API server without doing it: other tests need it all."""
    say = ("patch", "configmap", "csi-liqo-fence", "-n", fabric.TWINS, "--type=merge")
    fabric.kubectl(both, *say, '--patch={"data":{"twins":"no"}}')
    try:
        for name in ("attach", "base"):
            refusal = await until_refused(both)
            assert "namespaces csi-liqo is needed by an installation" in refusal
            assert "customresourcedefinitions remoteclusters.csi.liqo.io is needed" in refusal
            fabric.kubectl(both, "delete", "-k", str(fabric.ROOT / "deploy" / name))
        await until_accepted(both)

        fabric.kubectl(both, *say, '--patch={"data":{"twins":"yes"}}')
        assert "holds the data of virtual volumes" in await until_refused(both)
    finally:
        for name in ("", "attach"):
            fabric.kubectl(both, "apply", "-k", str(fabric.ROOT / "deploy" / name))


async def test_who_opens_the_fence_deletes_what_an_installation_needs(
    both: control_plane.ControlPlane,
) -> None:
    await until_refused(both, "namespace", "csi-liqo")
    fabric.kubectl(both, "label", "namespace", "csi-liqo", "csi.liqo.io/fence=open")
    try:
        await until_accepted(both, "namespace", "csi-liqo")
    finally:
        fabric.kubectl(both, "label", "namespace", "csi-liqo", "csi.liqo.io/fence-")


def remote() -> fabric.Json:
    return fabric.remote_cluster({"demo": "demo-rome"})


def twin() -> fabric.Json:
    """Return a claim as it stands for users' data: nobody is there to make its volume."""
    return fabric.claim("left-alone", storage_class="nobody")


def alive(plane: control_plane.ControlPlane, name: str) -> dict[Identity, str]:
    """Return the uids of those objects of a folder that are there and not being deleted."""
    folder = str(fabric.ROOT / "deploy" / name)
    answer = fabric.kubectl(plane, "get", "--ignore-not-found", "-o", "json", "-k", folder)
    found = json.loads(answer)["items"] if answer else []
    return {
        identify(item): item["metadata"]["uid"]
        for item in found
        if "deletionTimestamp" not in item["metadata"]
    }


def attempt_deletion(plane: control_plane.ControlPlane, *what: str) -> str:
    """Ask to delete, and leave it at that; returns what it is refused with."""
    command = [str(fabric.BINARIES / "kubectl"), f"--kubeconfig={plane.kubeconfig}", "delete"]
    command += [*(what or SHARED), "--dry-run=server"]
    answer = subprocess.run(command, capture_output=True, text=True, check=False)
    return answer.stderr if answer.returncode else ""


async def until_refused(plane: control_plane.ControlPlane, *what: str) -> str:
    """Ask until it is refused, and return with what."""
    return await until(plane, what, refused=True)


async def until_accepted(plane: control_plane.ControlPlane, *what: str) -> None:
    await until(plane, what, refused=False)


async def until(plane: control_plane.ControlPlane, what: tuple[str, ...], *, refused: bool) -> str:
    """Ask until that is the answer: admission may be a moment behind, and nothing announces it."""
    async with asyncio.timeout(20):
        while True:
            refusal = attempt_deletion(plane, *what)
            if bool(refusal) is refused:
                return refusal
            await asyncio.sleep(0.2)
