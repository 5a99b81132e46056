from __future__ import annotations

import pytest

from csi_liqo.model import affinity, errors, names, objects

NODES = tuple(
    objects.Node(
        metadata=objects.Metadata(
            name=name, labels={"zone": zone, "size": size, "kubernetes.io/hostname": name}
        )
    )
    for name, zone, size in (("rome-1", "a", "1"), ("rome-2", "b", "2"), ("rome-3", "b", "9"))
)


def rule(key: str, operator: str, *values: str) -> objects.NodeSelectorRequirement:
    return objects.NodeSelectorRequirement(key=key, operator=operator, values=values)


def term(*rules: objects.NodeSelectorRequirement) -> objects.NodeSelectorTerm:
    return objects.NodeSelectorTerm(match_expressions=rules)


def volume(*terms: objects.NodeSelectorTerm) -> objects.PersistentVolume:
    required = objects.NodeSelector(node_selector_terms=terms)
    return objects.PersistentVolume(
        metadata=objects.Metadata(name="real"),
        spec=objects.VolumeSpec(node_affinity=objects.VolumeNodeAffinity(required=required)),
    )


@pytest.mark.parametrize(
    ("wanted", "matching"),
    [
        pytest.param(term(rule("zone", "In", "a")), ["rome-1"], id="In"),
        pytest.param(term(rule("zone", "NotIn", "a")), ["rome-2", "rome-3"], id="NotIn"),
        pytest.param(term(rule("zone", "Exists")), ["rome-1", "rome-2", "rome-3"], id="Exists"),
        pytest.param(term(rule("zone", "DoesNotExist")), [], id="DoesNotExist"),
        pytest.param(term(rule("size", "Gt", "1")), ["rome-2", "rome-3"], id="Gt"),
        pytest.param(term(rule("size", "Lt", "2")), ["rome-1"], id="Lt"),
        pytest.param(term(rule("size", "Gt", "much")), [], id="Gt-without-a-number"),
        pytest.param(term(rule("zone", "Near", "a")), [], id="unknown-operator"),
        pytest.param(term(), [], id="an-empty-term-matches-nothing"),
        pytest.param(
            objects.NodeSelectorTerm(match_fields=(rule("metadata.name", "In", "rome-2"),)),
            ["rome-2"],
            id="field",
        ),
        pytest.param(
            term(rule("zone", "In", "b"), rule("size", "Gt", "2")), ["rome-3"], id="all-must-hold"
        ),
    ],
)
def test_a_volume_matches_the_nodes_kubernetes_would_match(
    wanted: objects.NodeSelectorTerm, matching: list[str]
) -> None:
    real = volume(wanted)
    assert [node.name for node in NODES if affinity.matches(real, node)] == matching


def test_a_volume_without_affinity_matches_every_node() -> None:
    real = objects.PersistentVolume(metadata=objects.Metadata(name="real"))
    assert all(affinity.matches(real, node) for node in NODES)
    assert affinity.pin(real, "rome", NODES) == ()


def test_values_become_a_segment_each_with_the_keys_the_real_driver_used() -> None:
    real = volume(term(rule("zone", "In", "a", "b"), rule("rack", "In", "7")))
    assert affinity.pin(real, "rome", NODES) == (
        {names.CLUSTER_KEY: "rome", "zone": "a", "rack": "7"},
        {names.CLUSTER_KEY: "rome", "zone": "b", "rack": "7"},
    )


def test_what_segments_cannot_say_becomes_the_nodes_that_match_now() -> None:
    real = volume(term(rule("zone", "NotIn", "a")))
    assert affinity.pin(real, "rome", NODES) == (
        {names.CLUSTER_KEY: "rome", names.NODE_KEY: "rome-2"},
        {names.CLUSTER_KEY: "rome", names.NODE_KEY: "rome-3"},
    )


def test_terms_that_mean_the_same_are_said_once() -> None:
    same = term(rule("zone", "In", "a"))
    assert len(affinity.pin(volume(same, same), "rome", NODES)) == 1


def test_an_affinity_that_no_node_matches_cannot_be_pinned() -> None:
    with pytest.raises(errors.PlacementError, match="no node of cluster rome matches"):
        affinity.pin(volume(term(rule("zone", "DoesNotExist"))), "rome", NODES)


def test_an_affinity_of_too_many_segments_is_refused_by_name() -> None:
    many = [str(number) for number in range(9)]
    real = volume(term(rule("x", "In", *many), rule("y", "In", *many)))
    with pytest.raises(errors.PreconditionError, match="real volume real means"):
        affinity.pin(real, "rome", NODES)
