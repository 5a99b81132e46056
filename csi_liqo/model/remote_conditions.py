"""What the status of a RemoteCluster says, from what is known of the provider.

Ready is the sum: the first of the others that speaks against it gives reason and
message, so that one column tells a person what to do.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from csi_liqo.model import names, objects

CONNECTED: Final = "Connected"
AUTHORIZED: Final = "Authorized"
NEGOTIATED: Final = "Negotiated"
CONFLICT: Final = "Conflict"
TERMINATING: Final = "Terminating"
READY: Final = "Ready"

LONGEST_LIST: Final = 10
"""Names in one message."""

_REFUSALS: Final = ("Unauthorized", "Forbidden")
"""Reasons of a connection that were told by the provider itself: it answers."""

Condition = dict[str, Any]
"""A condition as it is written, without its time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What is known of a RemoteCluster and its provider.

    ``known``: whether the provider's caches can be read; ``offered`` is None when nobody
    says what is. ``contested`` are sentences. ``volumes`` and ``claims`` need it.
    """

    remote: objects.RemoteCluster
    connected: bool
    reason: str
    message: str
    gaps: tuple[str, ...]
    known: bool
    offered: tuple[objects.StorageClass, ...] | None
    contested: tuple[str, ...]
    volumes: tuple[str, ...]
    claims: tuple[str, ...]


def make_conditions(facts: Facts) -> list[Condition]:
    """Return all conditions, Ready first."""
    conflict = _conflict(facts)
    connected = _connected(facts)
    authorized = _authorized(facts)
    negotiated = _negotiated(facts)
    terminating = _terminating(facts)
    against = next(
        (c for c in (conflict, terminating) if c is not None and c["status"] == "True"), None
    ) or next((c for c in (connected, authorized, negotiated) if c["status"] != "True"), None)
    if against is None:
        ready = _condition(READY, "True", "Ready", "the provider can hold volumes")
    else:
        ready = _condition(READY, "False", against["reason"], against["message"])
    rest = (connected, authorized, negotiated, conflict, terminating)
    generation = facts.remote.metadata.generation
    return [
        {**condition, "observedGeneration": generation}
        for condition in (ready, *rest)
        if condition is not None
    ]


def list_offered(offered: Iterable[objects.StorageClass]) -> list[dict[str, Any]]:
    """Return the offered classes as the status has them."""
    return [
        {"name": c.name, "default": c.default, "volumeBindingMode": c.volume_binding_mode}
        for c in sorted(offered, key=lambda c: c.name)
    ]


def date(conditions: list[Condition], remote: objects.RemoteCluster, now: str) -> list[Condition]:
    """Give each condition the time of its last change of status; others' are kept."""
    before = {known.type: known for known in remote.status.conditions}
    dated = []
    for condition in conditions:
        known = before.pop(condition["type"], None)
        same = known is not None and known.status == condition["status"]
        time = known.last_transition_time if known is not None and same else now
        dated.append({**condition, "lastTransitionTime": time})
    own = (CONNECTED, AUTHORIZED, NEGOTIATED, CONFLICT, TERMINATING, READY)
    return dated + [
        {**_told(kept), "lastTransitionTime": kept.last_transition_time}
        for kept in before.values()
        if kept.type not in own
    ]


def read_status(status: objects.RemoteClusterStatus, wanted: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a status says of the things in ``wanted``, in the same form."""
    ours = {condition["type"] for condition in wanted["conditions"]} | {TERMINATING}
    told = {known.type: _told(known) for known in status.conditions if known.type in ours}
    order = [condition["type"] for condition in wanted["conditions"]]
    found: dict[str, Any] = {
        "conditions": [told.pop(kind) for kind in order if kind in told] + list(told.values()),
        "volumes": status.volumes,
        "identity": status.identity,
        "offeredClasses": [
            {"name": c.name, "default": c.default, "volumeBindingMode": c.volume_binding_mode}
            for c in status.offered_classes
        ],
    }
    return {key: value for key, value in found.items() if key in wanted}


def is_count_only(wanted: Mapping[str, Any], before: Mapping[str, Any]) -> bool:
    """Tell whether two statuses differ in how many volumes there are and nothing else."""
    return {**wanted, "volumes": 0} == {**before, "volumes": 0}


def _told(known: objects.Condition) -> Condition:
    return {
        "type": known.type,
        "status": known.status,
        "reason": known.reason,
        "message": known.message,
        "observedGeneration": known.observed_generation,
    }


def _condition(kind: str, status: str, reason: str, message: str) -> Condition:
    return {"type": kind, "status": status, "reason": reason, "message": message}


def _connected(facts: Facts) -> Condition:
    if facts.connected or facts.reason == CONFLICT:
        text = facts.message if facts.connected else "not used because of a conflict"
        return _condition(CONNECTED, "True" if facts.connected else "Unknown", facts.reason, text)
    if facts.reason in _REFUSALS:
        return _condition(CONNECTED, "True", "Answers", "the provider's API server answers")
    return _condition(CONNECTED, "False", facts.reason, facts.message)


def _authorized(facts: Facts) -> Condition:
    if facts.reason in _REFUSALS:
        return _condition(AUTHORIZED, "False", facts.reason, facts.message)
    if not facts.connected:
        return _condition(AUTHORIZED, "Unknown", "NotConnected", "the provider is not spoken to")
    if facts.gaps:
        return _condition(AUTHORIZED, "True", "PartlyAuthorized", "; ".join(facts.gaps))
    return _condition(AUTHORIZED, "True", "Authorized", "everything that is of use is granted")


def _negotiated(facts: Facts) -> Condition:
    if not facts.known:
        return _condition(NEGOTIATED, "Unknown", "NotConnected", "the provider is not spoken to")
    if facts.offered is None:
        text = "classes may not be read; those that are named are believed to be offered"
        return _condition(NEGOTIATED, "True", "Believed", text)
    offered = {c.name: c for c in facts.offered}
    if not offered:
        text = (
            "the provider offers no class: label a StorageClass there "
            f"{names.OFFERED_LABEL}=true (one that is not virtual itself)"
        )
        return _condition(NEGOTIATED, "False", "NothingOffered", text)
    listed = ", ".join(
        f"{name} (default)" if offered[name].default else name for name in sorted(offered)
    )
    missing = [entry for entry in facts.remote.spec.classes if entry.offered not in offered]
    if missing:
        text = (
            f"class {missing[0].offered}, which spec.classes names for {missing[0].virtual}, is "
            f"not offered (offered: {listed}); label it there {names.OFFERED_LABEL}=true, or name "
            "another"
        )
        return _condition(NEGOTIATED, "False", "ClassNotOffered", text)
    text = f"offered: {listed}"
    if len(offered) > 1 and not any(c.default for c in facts.offered):
        text += "; none is the default, so a virtual class must name one (spec.classes)"
    return _condition(NEGOTIATED, "True", "Negotiated", text)


def _conflict(facts: Facts) -> Condition:
    if facts.reason == CONFLICT:
        return _condition(CONFLICT, "True", CONFLICT, facts.message)
    if facts.contested:
        text = f"{'; '.join(facts.contested[:LONGEST_LIST])}; narrow one spec.nodeSelector"
        return _condition(CONFLICT, "True", "NodeClaimedTwice", text)
    return _condition(CONFLICT, "False", "NoConflict", "nobody else claims its id or its nodes")


def _terminating(facts: Facts) -> Condition | None:
    """Say what holds up a deletion; nothing while nobody asked for one."""
    if not facts.remote.deleting:
        return None
    parts = []
    if facts.volumes:
        parts.append(f"{len(facts.volumes)} volumes have their home there ({_some(facts.volumes)})")
    if facts.claims:
        parts.append(f"claims may have a twin there ({_some(facts.claims)})")
    text = f"{'; '.join(parts)}; delete these claims first"
    reason = "VolumesRemain" if facts.volumes else "ClaimsRemain"
    return _condition(TERMINATING, "True", reason, text)


def _some(things: tuple[str, ...]) -> str:
    more = len(things) - LONGEST_LIST
    shown = ", ".join(things[:LONGEST_LIST])
    return f"{shown} and {more} more" if more > 0 else shown
