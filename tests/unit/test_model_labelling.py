"""Which labels and annotations a claim and its twin share, and that they come to rest."""

from __future__ import annotations

from typing import Any

import pytest

from csi_liqo.model import labelling, objects

RULES = labelling.Rules()


def marked(labels: dict[str, str], annotations: dict[str, str] | None = None) -> objects.Metadata:
    return objects.Metadata(
        name="data", uid="u", resource_version="1", labels=labels, annotations=annotations or {}
    )


def patched(about: objects.Metadata, patch: dict[str, Any] | None) -> objects.Metadata:
    """Apply a merge patch as an API server would."""
    changes = (patch or {}).get("metadata", {})
    parts = []
    for known, change in (
        (about.labels, changes.get("labels", {})),
        (about.annotations, changes.get("annotations", {})),
    ):
        merged = {**known, **change}
        parts.append({key: value for key, value in merged.items() if value is not None})
    return marked(*parts)


def made(claim: objects.Metadata) -> objects.Metadata:
    """Return a twin as it is made for a claim."""
    shared = labelling.forge_shared(RULES, claim)
    return marked(shared["labels"], shared["annotations"])


def settled(
    claim: objects.Metadata, twin: objects.Metadata
) -> tuple[objects.Metadata, objects.Metadata]:
    """Let both sides be reconciled until neither changes; they must not fight."""
    for _ in range(4):
        forward = labelling.forge_to_twin(RULES, claim, twin)
        back = labelling.forge_to_claim(RULES, claim, twin)
        if forward is None and back is None:
            return claim, twin
        claim, twin = patched(claim, back), patched(twin, forward)
    raise AssertionError(f"{claim} and {twin} do not come to rest")


@pytest.mark.parametrize(
    ("key", "shared"),
    [
        pytest.param("app", True, id="plain"),
        pytest.param("team.example.com/owner", True, id="of-a-domain"),
        pytest.param("csi.liqo.io/consumer", False, id="our-own"),
        pytest.param("liqo.io/remote-storage-class", False, id="of-liqo"),
        pytest.param("offloading.liqo.io/origin", False, id="what-makes-liqo-delete-a-twin"),
        pytest.param("kubernetes.io/anything", False, id="of-kubernetes"),
        pytest.param("volume.kubernetes.io/selected-node", False, id="that-binds"),
        pytest.param("volume.beta.kubernetes.io/storage-class", False, id="that-names-a-class"),
        pytest.param("kubectl.kubernetes.io/last-applied-configuration", False, id="of-kubectl"),
        pytest.param("snapshot.storage.k8s.io/x", False, id="of-k8s"),
        pytest.param("argocd.argoproj.io/tracking-id", False, id="by-which-a-tool-prunes"),
    ],
)
def test_keys_are_shared_by_default_unless_somebody_acts_on_them(key: str, shared: bool) -> None:
    assert RULES.shares(key) is shared


def test_a_setting_lets_no_mark_through_that_binds_or_is_ours() -> None:
    rules = labelling.Rules.parse(allow="*", deny="")

    assert rules.shares("app.kubernetes.io/name")
    assert not rules.shares("csi.liqo.io/volume")
    assert not rules.shares("pv.kubernetes.io/bind-completed")
    assert not rules.shares("liqo.io/type")


def test_only_what_is_allowed_is_shared() -> None:
    rules = labelling.Rules.parse(allow="team.example.com/*, backup", deny="*/secret")

    assert [k for k in ("backup", "team.example.com/a", "app") if rules.shares(k)] == [
        "backup",
        "team.example.com/a",
    ]
    assert not rules.shares("team.example.com/secret")


def test_a_new_twin_is_at_rest() -> None:
    claim = marked({"app": "ledger"}, {"note": "a", "csi.liqo.io/attempt": "milan"})
    twin = made(claim)

    assert twin.labels == {"app": "ledger"}
    assert set(twin.annotations) == {"note", "csi.liqo.io/from-claim"}
    assert settled(claim, twin) == (claim, twin)


def test_a_claim_without_marks_leaves_none() -> None:
    assert labelling.forge_shared(RULES, marked({})) == {"labels": {}, "annotations": {}}


def test_changes_of_the_claim_reach_the_twin() -> None:
    claim = marked({"app": "ledger", "tier": "gold"})
    twin = made(claim)

    _, twin = settled(marked({"app": "books"}), twin)

    assert twin.labels == {"app": "books"}


def test_what_the_provider_writes_comes_back_and_goes_with_it() -> None:
    claim = marked({"app": "ledger"})
    twin = made(claim)

    claim, twin = settled(claim, marked({**twin.labels, "backup": "daily"}, twin.annotations))
    assert claim.labels == {"app": "ledger", "backup": "daily"}

    claim, twin = settled(claim, marked({"app": "ledger"}, twin.annotations))
    assert claim.labels == {"app": "ledger"}
    assert claim.annotations == {}


def test_what_the_user_wrote_is_never_overwritten_from_the_provider() -> None:
    claim = marked({"app": "ledger"})
    twin = made(claim)

    claim, twin = settled(claim, marked({"app": "stolen"}, twin.annotations))

    assert claim.labels == {"app": "ledger"}
    assert twin.labels == {"app": "stolen"}, "what runs there has its reasons: no fight"


def test_a_user_may_take_over_what_came_back() -> None:
    claim, twin = settled(marked({}), marked({"backup": "daily"}))
    claim, twin = settled(marked({"backup": "never"}, claim.annotations), twin)

    assert (claim.labels, twin.labels) == ({"backup": "never"}, {"backup": "never"})


def test_a_record_that_was_tampered_with_does_no_harm() -> None:
    claim = marked({"app": "ledger"}, {"csi.liqo.io/from-twin": "[1]"})
    twin = marked({"app": "ledger", "x": "y"}, {"csi.liqo.io/from-claim": '{"labels": 3}'})

    claim, twin = settled(claim, twin)

    assert claim.labels == {"app": "ledger", "x": "y"}


def test_what_is_copied_has_an_end() -> None:
    claim = marked({}, {f"note-{number}": "x" * 10_000 for number in range(20)})

    shared = labelling.forge_shared(RULES, claim)["annotations"]

    assert sum(len(value) for value in shared.values()) < labelling.LARGEST_BYTES + 2000
