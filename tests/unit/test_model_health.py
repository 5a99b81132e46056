"""What is written onto a virtual volume and claim, and when nothing is."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from csi_liqo.model import errors, health, objects

BOUND = health.Facts("fast", "real-1", "100Mi", "Bound")
SHOWN = {
    "csi.liqo.io/real-class": "fast",
    "csi.liqo.io/real-volume": "real-1",
    "csi.liqo.io/real-capacity": "100Mi",
    "csi.liqo.io/real-phase": "Bound",
    "csi.liqo.io/health": "Healthy",
}
WELL = health.Health.HEALTHY


def volume(capacity: str, annotations: dict[str, str] | None = None) -> objects.PersistentVolume:
    manifest = {
        "metadata": {
            "name": "v",
            "uid": "u",
            "resourceVersion": "7",
            "annotations": annotations or {},
        },
        "spec": {"capacity": {"storage": capacity}},
    }
    return msgspec.convert(manifest, objects.PersistentVolume)


def claim(asked: str, has: str, **status: Any) -> objects.Claim:
    capacity = {"storage": has} if has else {}
    manifest = {
        "metadata": {"name": "c", "namespace": "n", "uid": "u", "resourceVersion": "7"},
        "spec": {"resources": {"requests": {"storage": asked}}, "volumeName": "real-1"},
        "status": {"phase": "Bound", "capacity": capacity, **status},
    }
    return msgspec.convert(manifest, objects.Claim)


def test_facts_and_a_larger_capacity_are_one_patch_with_its_version() -> None:
    assert health.forge_on_volume(volume("64Mi"), claim("64Mi", "64Mi"), WELL, BOUND) == {
        "metadata": {"uid": "u", "annotations": SHOWN, "resourceVersion": "7"},
        "spec": {"capacity": {"storage": "100Mi"}},
    }


def test_facts_alone_need_no_version() -> None:
    patch = health.forge_on_volume(volume("100Mi"), claim("64Mi", "64Mi"), WELL, BOUND)
    assert patch == {"metadata": {"uid": "u", "annotations": SHOWN}}


def test_what_is_shown_already_is_not_written_again() -> None:
    assert health.forge_on_volume(volume("100Mi", SHOWN), None, WELL, BOUND) is None


@pytest.mark.parametrize(
    ("capacity", "bound_to"),
    [
        pytest.param("128Mi", claim("64Mi", "128Mi"), id="larger-than-the-real-one"),
        pytest.param("104857600", claim("64Mi", "100Mi"), id="the-same-in-other-words"),
        pytest.param("64Mi", claim("100Mi", "64Mi"), id="an-expansion-is-wanted"),
    ],
)
def test_a_capacity_is_left_alone(capacity: str, bound_to: objects.Claim) -> None:
    assert health.forge_on_volume(volume(capacity, SHOWN), bound_to, WELL, BOUND) is None


def test_a_claim_shows_the_same_and_its_capacity_in_its_status() -> None:
    assert health.forge_on_claim(claim("64Mi", "64Mi"), WELL, BOUND) == {
        "metadata": {"uid": "u", "annotations": SHOWN, "resourceVersion": "7"},
        "status": {"capacity": {"storage": "100Mi"}},
    }


def test_a_claim_that_has_no_capacity_yet_gets_none() -> None:
    patch = health.forge_on_claim(claim("64Mi", ""), WELL, BOUND)
    assert patch == {"metadata": {"uid": "u", "annotations": SHOWN}}


def test_a_local_volume_shows_trouble_and_nothing_once_it_is_over() -> None:
    trouble = health.forge_on_volume(volume("64Mi"), None, health.Health.DELETED, None)
    assert trouble == {
        "metadata": {"uid": "u", "annotations": {"csi.liqo.io/health": "TwinDeleted"}}
    }
    shown = volume("64Mi", {"csi.liqo.io/health": "TwinDeleted"})
    over = health.forge_on_volume(shown, None, None, None)
    assert over == {"metadata": {"uid": "u", "annotations": {"csi.liqo.io/health": None}}}
    assert health.forge_on_volume(volume("64Mi"), None, None, None) is None


def test_a_twin_has_no_facts_before_it_is_bound() -> None:
    assert health.facts_of(claim("64Mi", "", phase="Pending")) is None
    found = health.facts_of(claim("64Mi", "100Mi", phase="Lost"))
    assert found == health.Facts("", "real-1", "100Mi", "Lost")


def test_a_capacity_that_is_none_is_refused() -> None:
    with pytest.raises(errors.InvalidRequestError, match="is no quantity"):
        health.facts_of(claim("64Mi", "much"))


def test_whose_cluster_it_is_is_noted_with_the_first_facts_and_kept_up() -> None:
    """Without a real volume there is nothing to lose, and a write less."""
    key = "csi.liqo.io/identity"
    assert health.forge_on_volume(volume("100Mi"), None, None, None, "of-milan") is None
    patch = health.forge_on_volume(volume("100Mi"), None, WELL, BOUND, "of-milan")
    assert patch == {"metadata": {"uid": "u", "annotations": {**SHOWN, key: "of-milan"}}}
    noted = volume("100Mi", {**SHOWN, key: "of-milan"})
    assert health.forge_on_volume(noted, None, WELL, BOUND, "of-milan") is None
    assert health.forge_on_volume(noted, None, WELL, BOUND, "") is None
    accepted = health.forge_on_volume(noted, None, health.Health.GONE, None, "of-turin")
    assert accepted is not None
    assert accepted["metadata"]["annotations"][key] == "of-turin"
