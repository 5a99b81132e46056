"""Ids, quantities, segments and references: small values that everything stands on."""

from __future__ import annotations

import pytest

from csi_liqo.model import errors, ids, names, quantities, topology, twins

UID = "0f9e8d7c-1234-4abc-8def-0123456789ab"


@pytest.mark.parametrize(
    "name", ["pvc-" + UID, "a", "x" * 63], ids=["provisioner", "shortest", "longest"]
)
def test_a_name_that_is_a_dns_label_is_the_volumes_id(name: str) -> None:
    assert ids.volume_id(name) == name


@pytest.mark.parametrize("name", ["x" * 64, "Upper", "a_b", "-a", "a^b", "ü"])
def test_any_other_name_becomes_a_dns_label_always_the_same(name: str) -> None:
    made = ids.volume_id(name)
    assert made == ids.volume_id(name) != name
    assert ids.volume_id(made) == made


def test_the_claims_uid_is_read_from_the_volumes_name() -> None:
    assert ids.claim_uid_of(f"pvc-{UID}") == UID
    assert ids.claim_uid_of(f"other-prefix-{UID}") == UID
    assert ids.claim_uid_of("sanity-controller-volume") == ""


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("0", 0),
        ("1", 1),
        ("64Mi", 64 << 20),
        ("1.5Gi", 3 << 29),
        ("1k", 1000),
        ("2E", 2 * 10**18),
        ("1e3", 1000),
        ("1500m", 2),
        ("100n", 1),
    ],
)
def test_a_quantity_is_read_as_kubernetes_reads_it(text: str, size: int) -> None:
    assert quantities.to_bytes(text) == size


@pytest.mark.parametrize("text", ["", "Gi", "1GiB", "1 Gi", "one", "1.2.3", "mi"])
def test_what_is_no_quantity_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is no quantity"):
        quantities.to_bytes(text)


def test_a_nodes_name_that_fits_a_label_is_its_own_value() -> None:
    assert topology.node_value("rome-1.example.com") == "rome-1.example.com"


def test_longer_nodes_names_stay_apart_within_a_label() -> None:
    first, second = (topology.node_value("n" * 100 + end) for end in ("a", "b"))
    assert first != second
    assert max(len(first), len(second)) <= topology.LABEL_VALUE_MAX


def test_candidates_are_the_preferred_segments_then_the_others_without_repeats() -> None:
    milan, rome = {names.CLUSTER_KEY: "milan"}, {names.CLUSTER_KEY: "rome"}
    requirement = topology.Requirement(requisite=(rome, milan), preferred=(milan,))
    assert requirement.candidates() == (milan, rome)
    assert topology.Requirement().candidates() == ()


def test_a_reference_to_a_twin_survives_its_text() -> None:
    reference = twins.TwinRef("csi-liqo-storage", f"pvc-{UID}", UID)
    assert twins.TwinRef.parse(str(reference)) == reference


@pytest.mark.parametrize("text", ["", "a/b", "a/b/c/d", "a//c"])
def test_a_malformed_reference_is_refused(text: str) -> None:
    with pytest.raises(errors.InvalidRequestError, match="is malformed"):
        twins.TwinRef.parse(text)
