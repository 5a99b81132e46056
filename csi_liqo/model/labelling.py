"""Which labels and annotations a claim and its twin share, and who wrote each.

Both sides are written by others: the claim by its user, the twin by what runs in its
cluster. So each copy is noted down on the side that got it, as a hash of the value.
What is changed on one side reaches the other, what is taken away there is taken away
here, and what the other side wrote itself is never overwritten with an older value.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any, Final

from csi_liqo.model import names

if TYPE_CHECKING:  # for the command line of the node role, which imports this, too much
    from csi_liqo.model import objects

LARGEST_BYTES: Final = 64 << 10
"""Of all that is copied of one object; the API takes 256 KiB of annotations."""

NEVER: Final = (
    "csi.liqo.io/*",
    "liqo.io/*",
    "*.liqo.io/*",
    "kubectl.kubernetes.io/*",
    "pv.kubernetes.io/*",
    "volume.kubernetes.io/*",
    "volume.beta.kubernetes.io/*",
    "storage.kubernetes.io/*",
)
"""What no setting lets through: our own marks, Liqo's, and those that bind volumes."""

DEFAULT_DENY: Final = (
    "kubernetes.io/*",
    "*.kubernetes.io/*",
    "k8s.io/*",
    "*.k8s.io/*",
    # By these, tools find what they made, and delete what should not be there.
    "argocd.argoproj.io/*",
    "*.fluxcd.io/*",
    "meta.helm.sh/*",
    "*.cattle.io/*",
)

LABELS: Final = "labels"
ANNOTATIONS: Final = "annotations"

Marks = dict[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """Keys that are shared: those that ``allow`` matches and ``deny`` does not.

    Patterns are of the shell's kind: ``*`` stands for anything, also for slashes.
    """

    allow: tuple[str, ...] = ("*",)
    deny: tuple[str, ...] = DEFAULT_DENY

    @classmethod
    def parse(cls, *, allow: str, deny: str) -> Rules:
        """Read patterns separated by commas; none allowed means that nothing is shared."""
        return cls(allow=_patterns(allow), deny=_patterns(deny))

    def shares(self, key: str) -> bool:
        """Tell whether a label or annotation of this key is copied."""
        return (not any(fnmatchcase(key, pattern) for pattern in (*NEVER, *self.deny))) and any(
            fnmatchcase(key, pattern) for pattern in self.allow
        )


def forge_shared(rules: Rules, claim: objects.Metadata) -> dict[str, Marks]:
    """Return the labels and annotations that a new twin gets from its claim."""
    own = _own(rules, claim, names.FROM_TWIN_ANNOTATION)
    annotations = dict(own[ANNOTATIONS])
    if any(own.values()):
        annotations[names.FROM_CLAIM_ANNOTATION] = _record(own)
    return {LABELS: own[LABELS], ANNOTATIONS: annotations}


def forge_to_twin(
    rules: Rules, claim: objects.Metadata, twin: objects.Metadata
) -> dict[str, Any] | None:
    """Return the patch that brings what changed on a claim to its twin; None for nothing."""
    own = _own(rules, claim, names.FROM_TWIN_ANNOTATION)
    return _forge(own, twin, names.FROM_CLAIM_ANNOTATION)


def forge_to_claim(
    rules: Rules, claim: objects.Metadata, twin: objects.Metadata
) -> dict[str, Any] | None:
    """Return the patch that brings what a twin's cluster wrote to its claim; None for nothing.

    What the claim's user wrote stays, also under a key that the twin has, too.
    """
    users = _own(rules, claim, names.FROM_TWIN_ANNOTATION)
    theirs = _own(rules, twin, names.FROM_CLAIM_ANNOTATION)
    own = {
        part: {key: value for key, value in theirs[part].items() if key not in users[part]}
        for part in (LABELS, ANNOTATIONS)
    }
    return _forge(own, claim, names.FROM_TWIN_ANNOTATION)


def _patterns(text: str) -> tuple[str, ...]:
    return tuple(pattern.strip() for pattern in text.split(",") if pattern.strip())


def _forge(
    wanted: Mapping[str, Marks], target: objects.Metadata, noted_in: str
) -> dict[str, Any] | None:
    """Return the patch of an object's metadata by which it gets the other side's marks."""
    noted = _read(target, noted_in)
    there = {LABELS: target.labels, ANNOTATIONS: target.annotations}
    changes: dict[str, dict[str, str | None]] = {LABELS: {}, ANNOTATIONS: {}}
    for part, marks in wanted.items():
        for key, value in marks.items():
            copied_before = noted[part].get(key) == _hash(value)
            if not copied_before and there[part].get(key) != value:
                changes[part][key] = value
        for key, known in noted[part].items():
            value_there = there[part].get(key)
            if key not in marks and value_there is not None and _hash(value_there) == known:
                changes[part][key] = None
    record = _record(wanted) if any(wanted.values()) else None
    if target.annotations.get(noted_in) != record:
        changes[ANNOTATIONS][noted_in] = record
    changes = {part: marks for part, marks in changes.items() if marks}
    if not changes:
        return None
    version = {"uid": target.uid, "resourceVersion": target.resource_version}
    return {"metadata": {**version, **changes}}


def _own(rules: Rules, about: objects.Metadata, noted_in: str) -> dict[str, Marks]:
    """Return an object's marks that may be shared and are no copies of the other side's."""
    noted = _read(about, noted_in)
    rest = LARGEST_BYTES
    own: dict[str, Marks] = {LABELS: {}, ANNOTATIONS: {}}
    for part, marks in ((LABELS, about.labels), (ANNOTATIONS, about.annotations)):
        for key, value in sorted(marks.items()):
            size = len(key) + len(value.encode())
            copy = noted[part].get(key) == _hash(value)
            if rules.shares(key) and not copy and size <= rest:
                own[part][key] = value
                rest -= size
    return own


def _read(about: objects.Metadata, noted_in: str) -> dict[str, Marks]:
    """Return what was noted down of copies; one that was tampered with counts as none."""
    empty: dict[str, Marks] = {LABELS: {}, ANNOTATIONS: {}}
    try:
        record = json.loads(about.annotations.get(noted_in, "{}"))
        return {
            part: {str(key): str(value) for key, value in record.get(part, {}).items()}
            for part in empty
        }
    except (ValueError, AttributeError):
        return empty


def _record(marks: Mapping[str, Marks]) -> str:
    hashes = {
        part: {key: _hash(value) for key, value in sorted(known.items())}
        for part, known in marks.items()
        if known
    }
    return json.dumps(hashes, separators=(",", ":"))


def _hash(value: str) -> str:
    return hashlib.sha256(value.encode()).hexdigest()[:12]
