"""Which nodes a volume's node affinity means, and how it reads as topology segments.

CSI can only say "any of these; each: all of these keys, each with one value"
(external-provisioner v6.3.0, topology.go:53-82), while a PersistentVolume may say
NotIn, Exists, Gt or name a field. What cannot be said in segments is resolved
to the nodes that match now.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping
from typing import Final

from csi_liqo.model import errors, names, objects, topology

MOST_SEGMENTS: Final = 64


def matches(volume: objects.PersistentVolume, node: objects.Node) -> bool:
    """Tell whether a node may use a volume; one without affinity may be used everywhere."""
    return not volume.terms or any(matches_term(term, node) for term in volume.terms)


def selects(selector: objects.LabelSelector, labels: Mapping[str, str]) -> bool:
    """Tell whether a label selector selects what has these labels."""
    return all(labels.get(key) == value for key, value in selector.match_labels.items()) and all(
        _holds(rule, labels) for rule in selector.match_expressions
    )


def pin(
    volume: objects.PersistentVolume, cluster_id: str, nodes: Iterable[objects.Node]
) -> tuple[topology.Segment, ...]:
    """Return the segments that say where a local real volume is reachable from.

    Each term becomes the cluster and its own keys, as they are: these foreign
    keys are the real driver's labels, which stay true when its nodes change.
    Empty when the volume has no affinity.

    Raises:
        errors.PlacementError: no node matches a term that must be resolved to nodes.
        errors.PreconditionError: more segments would be needed than a PV should carry.
    """
    known = tuple(nodes)
    segments: list[topology.Segment] = []
    for term in volume.terms:
        for segment in _segments_of(term, cluster_id, known):
            if segment not in segments:
                segments.append(segment)
    if volume.terms and not segments:
        raise errors.PlacementError(
            f"no node of cluster {cluster_id} matches the node affinity of real volume "
            f"{volume.name}"
        )
    if len(segments) > MOST_SEGMENTS:
        raise errors.PreconditionError(
            f"the node affinity of real volume {volume.name} means {len(segments)} topology "
            f"segments, more than {MOST_SEGMENTS}; use a real class with a simpler affinity"
        )
    return tuple(segments)


def _segments_of(
    term: objects.NodeSelectorTerm, cluster_id: str, nodes: Iterable[objects.Node]
) -> Iterable[topology.Segment]:
    plain = not term.match_fields and all(
        expression.operator == "In" for expression in term.match_expressions
    )
    if plain and term.match_expressions:
        keys = [expression.key for expression in term.match_expressions]
        choices = [expression.values for expression in term.match_expressions]
        for values in itertools.islice(itertools.product(*choices), MOST_SEGMENTS + 1):
            yield {names.CLUSTER_KEY: cluster_id, **dict(zip(keys, values, strict=True))}
        return
    for node in nodes:
        if matches_term(term, node):
            yield topology.node_segment(cluster_id, node.name)


def matches_term(term: objects.NodeSelectorTerm, node: objects.Node) -> bool:
    """Tell whether a term selects a node.

    An empty term matches nothing (kubernetes v1.37.2, component-helpers nodeaffinity).
    """
    if not term.match_expressions and not term.match_fields:
        return False
    fields = {"metadata.name": node.name}
    return all(_holds(rule, node.metadata.labels) for rule in term.match_expressions) and all(
        _holds(rule, fields) for rule in term.match_fields
    )


def _holds(rule: objects.NodeSelectorRequirement, values: Mapping[str, str]) -> bool:
    value = values.get(rule.key)
    match rule.operator:
        case "In":
            return value in rule.values
        case "NotIn":
            return value not in rule.values
        case "Exists":
            return value is not None
        case "DoesNotExist":
            return value is None
        case "Gt" | "Lt":
            return _compares(rule, value)
        case _:
            return False


def _compares(rule: objects.NodeSelectorRequirement, value: str | None) -> bool:
    try:
        have, bound = int(value or ""), int(rule.values[0])
    except (ValueError, IndexError):
        return False
    return have > bound if rule.operator == "Gt" else have < bound
