"""What admission policies are told of volumes: counts under keys that they can form."""

from __future__ import annotations

from csi_liqo.model import teardown


def test_a_volume_counts_for_its_cluster_its_namespace_and_both() -> None:
    facts = teardown.count([("milan", "demo"), ("milan", "demo"), ("paris", "demo")])

    assert facts == {
        "cluster.milan": "2",
        "cluster.paris": "1",
        "namespace.demo": "3",
        "offloaded.milan.demo": "2",
        "offloaded.paris.demo": "1",
    }


def test_a_volume_without_a_claim_counts_for_its_cluster_alone() -> None:
    assert teardown.count([("milan", "")]) == {"cluster.milan": "1"}


def test_what_is_no_fact_any_more_is_taken_out_and_what_others_say_stays() -> None:
    known = {"twins": "yes", "cluster.milan": "3", "namespace.gone": "1"}
    wanted = {"cluster.milan": "2"}

    assert teardown.forge_change(known, wanted) == {"cluster.milan": "2", "namespace.gone": None}
    assert teardown.forge_change({"twins": "yes", "cluster.milan": "2"}, wanted) == {}
