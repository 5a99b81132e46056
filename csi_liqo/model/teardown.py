"""Which volumes stand in the way of taking a peering apart, as facts for admission policies.

A policy sees the object that is to be deleted and one ConfigMap, nothing else. So the
ConfigMap says what it must know, under keys that a policy can form from that object.
"""

from __future__ import annotations

import collections
from collections.abc import Iterable, Mapping
from typing import Final

CLUSTER_PREFIX: Final = "cluster."
"""``cluster.<id>``: how many volumes have their home in that provider."""
NAMESPACE_PREFIX: Final = "namespace."
"""``namespace.<name>``: how many volumes of its claims have their home in any provider."""
OFFLOADED_PREFIX: Final = "offloaded."
"""``offloaded.<id>.<name>``: how many of them in that provider."""

_PREFIXES: Final = (CLUSTER_PREFIX, NAMESPACE_PREFIX, OFFLOADED_PREFIX)

Home = tuple[str, str]
"""A volume's home cluster, and the consumer's namespace of its claim."""


def count(homes: Iterable[Home]) -> dict[str, str]:
    """Return the facts of remote volumes; what has none has no key."""
    counted: collections.Counter[str] = collections.Counter()
    for cluster_id, namespace in homes:
        counted[f"{CLUSTER_PREFIX}{cluster_id}"] += 1
        if namespace:
            counted[f"{NAMESPACE_PREFIX}{namespace}"] += 1
            counted[f"{OFFLOADED_PREFIX}{cluster_id}.{namespace}"] += 1
    return {key: str(number) for key, number in sorted(counted.items())}


def forge_change(known: Mapping[str, str], wanted: Mapping[str, str]) -> dict[str, str | None]:
    """Return what of the data must change to leave ``wanted`` and nothing untrue of what is known.

    None takes a fact away; nothing is returned when all is so.
    """
    gone = {key: None for key in known if key.startswith(_PREFIXES) and key not in wanted}
    return {key: text for key, text in wanted.items() if known.get(key) != text} | gone
