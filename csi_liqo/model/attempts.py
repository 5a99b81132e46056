"""What is noted of a claim before the first write to a provider, as ConfigMap data.

Key: the claim's uid, because what was begun for a claim is not its successor's. Value:
``<cluster id>/<namespace>/<name>``, of the provider and of the claim.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from csi_liqo.model import objects


@dataclass(frozen=True, slots=True)
class Attempt:
    """One claim, and the provider where something of it may have been written."""

    cluster_id: str
    namespace: str
    name: str

    @classmethod
    def of(cls, claim: objects.Claim, cluster_id: str) -> Attempt:
        """Return what to note of a claim."""
        return cls(cluster_id, claim.namespace, claim.name)

    def __str__(self) -> str:
        return f"{self.cluster_id}/{self.namespace}/{self.name}"


def read(data: Mapping[str, str]) -> dict[str, Attempt]:
    """Return the attempts by their claims' uids; what this driver did not write is none."""
    parts = ((uid, text.split("/")) for uid, text in data.items())
    return {uid: Attempt(*part) for uid, part in parts if len(part) == 3 and all(part)}


def forge_notes(attempts: Mapping[str, Attempt]) -> dict[str, dict[str, str]]:
    """Return the merge patch that notes attempts, by their claims' uids."""
    return {"data": {uid: str(attempt) for uid, attempt in attempts.items()}}


def forge_removal(uids: Iterable[str]) -> dict[str, dict[str, None]]:
    """Return the merge patch that ends attempts; one that is not there does no harm."""
    return {"data": dict.fromkeys(uids)}
