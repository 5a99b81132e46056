"""Where volumes may be: segments, what a request asks for, what an answer pins.

A node is known by two keys, its cluster and its name. Kubernetes label values
end at 63 characters while node names may have 253, so a longer name is hashed.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Final

from csi_liqo.model import names

LABEL_VALUE_MAX: Final = 63

Segment = dict[str, str]
"""One topology segment: label key to value, as CSI's ``Topology.segments``."""


def node_value(node_name: str) -> str:
    """Return the label value that stands for a node's name: itself, or a hash if too long."""
    if len(node_name) <= LABEL_VALUE_MAX:
        return node_name
    digest = hashlib.sha256(node_name.encode()).hexdigest()[:16]
    return f"{node_name[: LABEL_VALUE_MAX - 17].rstrip('-.')}-{digest}"


def node_segment(cluster_id: str, node_name: str) -> Segment:
    """Return the segment of one node of one cluster."""
    return {names.CLUSTER_KEY: cluster_id, names.NODE_KEY: node_value(node_name)}


@dataclass(frozen=True, slots=True)
class Requirement:
    """CSI's TopologyRequirement: where a volume must, and where it had best, be reachable."""

    requisite: tuple[Segment, ...] = ()
    preferred: tuple[Segment, ...] = ()

    def candidates(self) -> tuple[Segment, ...]:
        """Return the segments to try, best first, without repeats; empty when none is asked for."""
        ordered: list[Segment] = []
        for segment in (*self.preferred, *self.requisite):
            if segment not in ordered:
                ordered.append(segment)
        return tuple(ordered)
