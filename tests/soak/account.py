"""The exact account at the end of a soak: a line for whatever should not be as it is.

Everything here is decided from the record alone, so that tests can show each line appear.
"""

from __future__ import annotations

import collections
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

from lab import leaks
from tests.soak import record

Life = record.Life
Record = record.Record

TWIN_FINALIZER: Final = "csi.liqo.io/twin"
CONSUMER_LABEL: Final = "csi.liqo.io/consumer"
CLUSTER_KEY: Final = "topology.csi.liqo.io/cluster"


KEPT: Final = "is kept by the retained data of volume"
"""What is said of a claim whose name an abandoned twin has, until somebody decides."""


@dataclass(slots=True)
class Wanted:
    """What is to become of the users' claims, by name.

    `refusals`: what has to be said of one that asks for what nobody gives. `homes`: the
    cluster that one has to be in, because its pod can run nowhere else.
    """

    refusals: dict[str, str] = field(default_factory=dict)
    homes: dict[str, str] = field(default_factory=dict)

    def forget(self, name: str) -> None:
        """A claim is deleted."""
        self.refusals.pop(name, None)
        self.homes.pop(name, None)


def differences(seen: Record, wanted: Wanted) -> list[str]:
    """Return a line for each claim, volume and twin that is not as it has to be in the end.

    Each claim has to be bound, and its pod on a node, but for those of which it is wanted,
    or with an abandoned twin unavoidable, that they are refused: then that has to be said.
    """
    return [
        *_claims(seen, wanted),
        *_pods(seen),
        *_virtual_volumes(seen),
        *_twins(seen),
        *_real_volumes(seen),
        *lost(seen),
    ]


def _claims(seen: Record, wanted: Wanted) -> Iterator[str]:
    volumes = {
        volume.last["spec"]["claimRef"]["uid"]: volume
        for volume in seen.virtual_volumes
        if volume.there and "claimRef" in volume.last["spec"]
    }
    taken = {twin.last["metadata"]["name"] for twin in abandoned(seen)}
    for claim in seen.virtual_claims:
        if not claim.alive:
            continue
        name = claim.last["metadata"]["name"]
        expected = [wanted.refusals[name]] if name in wanted.refusals else []
        expected += [KEPT] if name in taken else []
        if claim.deleted_at:
            yield f"claim does not go: {claim}"
        elif bound(claim):
            volume = volumes.get(claim.uid)
            if volume is None or volume.name != claim.last["spec"].get("volumeName"):
                yield f"claim is bound to a volume that is not there: {claim}"
            elif name in wanted.refusals:
                yield f"claim asks for what nobody gives, and is bound: {claim}: {volume}"
            elif wanted.homes.get(name, _home(volume)) != _home(volume):
                yield f"claim is bound where its pod cannot run: {claim}: {volume}"
        else:
            said = seen.warned.get(claim.uid, [])
            if not expected:
                yield f"claim could be bound and is not: {claim}: {said[-1:]}"
            elif not any(words in message for words in expected for message in said):
                yield f"claim is not bound, and why is not said: {claim}: {expected}, {said}"


def _pods(seen: Record) -> Iterator[str]:
    claims = {claim.name: claim for claim in seen.virtual_claims if claim.alive}
    for pod in seen.pods.values():
        claim = claims.get(pod.name)  # each pod has its claim's name
        waits = pod.there and not pod.last["spec"].get("nodeName")
        if waits and claim is not None and bound(claim):
            yield f"pod is on no node, though its claim is bound: {pod}: {claim}"


def _virtual_volumes(seen: Record) -> Iterator[str]:
    for volume in seen.virtual_volumes:
        if not volume.alive:
            continue
        owner = volume.last["spec"].get("claimRef", {}).get("uid", "")
        twin = seen.claims.get(twin_uid(volume))
        if owner not in seen.claims or not seen.claims[owner].alive:
            yield f"volume of a claim that is gone: {volume}"
        elif twin is None or not twin.there:
            yield f"volume without its twin: {volume}: {twin}"
        elif twin.cluster != _home(volume):
            yield f"volume's home is not where its twin is: {volume}: {twin}"
        elif not twin.handed_over:
            yield f"volume of a twin that was not handed over: {volume}: {twin}"


def _twins(seen: Record) -> Iterator[str]:
    named = {twin_uid(volume) for volume in seen.virtual_volumes if volume.alive}
    left = {twin.uid for twin in abandoned(seen)}
    for twin in seen.twins:
        if not twin.alive:
            continue
        metadata = twin.last["metadata"]
        claim = seen.claims.get(twin.annotation(record.CLAIM_UID))
        if twin.deleted_at:
            yield f"twin does not go: {twin}"
        elif TWIN_FINALIZER not in metadata.get("finalizers", ()):
            yield f"twin has lost its finalizer: {twin}"
        elif metadata.get("labels", {}).get(CONSUMER_LABEL) != record.CONSUMER:
            yield f"twin does not say whose it is: {twin}"
        elif twin.uid in named or twin.uid in left:
            continue
        elif claim is None or not claim.alive:
            yield f"twin that was never handed over outlives its claim: {twin}"
        elif claim.last["spec"].get("volumeName"):
            yield f"twin beside the one that its claim is bound to: {twin}: {claim}"
        elif twin.handed_over:
            yield f"twin was handed over, and no volume names it: {twin}: {claim}"


def _real_volumes(seen: Record) -> Iterator[str]:
    for volume in seen.real_volumes:
        if not volume.alive:
            continue
        owner = seen.claims.get(volume.last["spec"].get("claimRef", {}).get("uid", ""))
        if owner is None or not owner.alive or owner.cluster != volume.cluster:
            yield f"real volume of no claim: {volume}"


def lost(seen: Record) -> Iterator[str]:
    """Tell which twins were deleted though they may have held data that somebody wanted.

    A handed-over twin goes when its virtual volume is deleted, which is when its claim is.
    """
    named = {twin_uid(volume) for volume in seen.virtual_volumes}
    for twin in seen.twins:
        if twin.there or not twin.handed_over:
            continue
        claim = seen.claims.get(twin.annotation(record.CLAIM_UID))
        if claim is None:
            yield f"handed-over twin of an unknown claim was deleted: {twin}"
        elif claim.there:
            yield f"handed-over twin of a claim that is there was deleted: {twin}: {claim}"
        elif twin.deleted_at and claim.deleted_at > twin.deleted_at:
            yield f"handed-over twin was deleted before its claim: {twin}: {claim}"
        elif twin.uid not in named:
            yield f"handed-over twin was deleted that no volume ever named: {twin}"


def abandoned(seen: Record) -> list[Life]:
    """Return the twins that have to be listed: handed over, and nobody's any more."""
    named = {twin_uid(volume) for volume in seen.virtual_volumes if volume.alive}
    left = []
    for twin in seen.twins:
        claim = seen.claims.get(twin.annotation(record.CLAIM_UID))
        wanted = claim is not None and claim.alive and not claim.last["spec"].get("volumeName")
        if twin.there and twin.handed_over and twin.uid not in named and not wanted:
            left.append(twin)
    return left


def begun(seen: Record) -> list[Life]:
    """Return the twins that nobody was told of yet, because their claims are still refused."""
    return [twin for twin in seen.twins if twin.there and not twin.handed_over]


def unlisted(seen: Record, listed: Iterable[Mapping[str, str]]) -> list[str]:
    """Compare what has to be listed as abandoned or begun with what the program lists."""
    wanted = {f"abandoned: {twin.cluster}: {twin.name}" for twin in abandoned(seen)}
    wanted |= {f"started: {twin.cluster}: {twin.name}" for twin in begun(seen)}
    found = {f"{row['state']}: {row['cluster']}: {row['twin']}" for row in listed}
    return [
        *(f"not listed as {name}" for name in sorted(wanted - found)),
        *(f"listed and is not {name}" for name in sorted(found - wanted)),
    ]


def sums(seen: Record, wanted: Wanted) -> list[str]:
    """Say in how many ways claims and twins came to be as they are; each is counted once."""
    named = {twin_uid(volume) for volume in seen.virtual_volumes if volume.there}
    left = {twin.uid for twin in abandoned(seen)}
    claims = collections.Counter(_state_of_claim(claim, wanted) for claim in seen.virtual_claims)
    twins = collections.Counter(_state_of_twin(twin, named, left) for twin in seen.twins)
    return [
        f"{what}: {counted.total()} were made: "
        + ", ".join(f"{number} {state}" for state, number in sorted(counted.items()))
        for what, counted in (("claims", claims), ("twins", twins))
    ]


def _state_of_claim(claim: Life, wanted: Wanted) -> str:
    if not claim.alive:
        return "deleted"
    if bound(claim):
        return "bound"
    hopeless = claim.last["metadata"]["name"] in wanted.refusals
    return "refused with the reason" if hopeless else "not bound"


def _state_of_twin(twin: Life, named: set[str], left: set[str]) -> str:
    if not twin.alive:
        return "deleted with their volume" if twin.handed_over else "collected"
    if twin.uid in left:
        return "abandoned and listed"
    if twin.uid in named:
        return "handed over and in use"
    return "going" if twin.deleted_at else "begun for a claim that waits"


def left_over(seen: Record, before: leaks.Snapshot, after: leaks.Snapshot) -> list[str]:
    """Return what came or went in any cluster, but for what belongs to abandoned twins."""
    explained: set[tuple[str, str]] = set()
    for twin in abandoned(seen):
        explained.add((twin.cluster, twin.name))
        for volume in seen.real_volumes:
            if volume.last["spec"].get("claimRef", {}).get("uid") == twin.uid:
                path = volume.last["spec"].get("hostPath", {}).get("path", "")
                explained.add((volume.cluster, volume.name))
                explained.add((volume.cluster, path.rpartition("/")[2]))
    kept = {
        entry for entry in after.entries if (entry.where, entry.name.partition(":")[0]) in explained
    }
    return leaks.difference(before, leaks.Snapshot(after.entries - kept))


def bound(claim: Life) -> bool:
    """Tell whether a claim has its volume."""
    return bool(claim.last.get("status", {}).get("phase") == "Bound")


def twin_uid(volume: Life) -> str:
    """Return the uid of the twin that a virtual volume names."""
    text = volume.last["spec"]["csi"].get("volumeAttributes", {}).get("twin", "")
    return str(text).rpartition("/")[2]


def _home(volume: Life) -> str:
    affinity = volume.last["spec"].get("nodeAffinity", {}).get("required", {})
    homes = {
        value
        for term in affinity.get("nodeSelectorTerms", ())
        for rule in term.get("matchExpressions", ())
        if rule["key"] == CLUSTER_KEY
        for value in rule["values"]
    }
    return homes.pop() if len(homes) == 1 else ""
