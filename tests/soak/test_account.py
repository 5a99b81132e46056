"""The account of a soak finds each thing that can be wrong, and a plan is its seed's alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from lab import leaks
from tests.soak import account, plan, record

Json = dict[str, Any]
NOTHING = account.Wanted()
LONG_AGO, LATER = "2026-01-01T00:00:00Z", "2026-01-01T00:00:05Z"


def claim(*, bound: bool = True) -> Json:
    spec = {"volumeName": "pvc-1"} if bound else {}
    return {
        "metadata": {"name": "data", "namespace": "soak", "uid": "claim"},
        "spec": spec,
        "status": {"phase": "Bound" if bound else "Pending"},
    }


def twin(*, uid: str = "twin", handed_over: bool = True) -> Json:
    annotations = {record.CLAIM_UID: "claim"}
    if handed_over:
        annotations[record.HANDED_OVER] = "true"
    return {
        "metadata": {
            "name": "data",
            "namespace": "rome-soak",
            "uid": uid,
            "annotations": annotations,
            "labels": {account.CONSUMER_LABEL: "rome"},
            "finalizers": [account.TWIN_FINALIZER],
        },
        "spec": {},
    }


def virtual_volume(*, of: str = "claim", home: str = "milan") -> Json:
    rule = {"key": account.CLUSTER_KEY, "operator": "In", "values": [home]}
    return {
        "metadata": {"name": "pvc-1", "uid": "volume"},
        "spec": {
            "claimRef": {"uid": of},
            "csi": {
                "driver": record.DRIVER,
                "volumeAttributes": {"twin": "rome-soak/data/twin"},
            },
            "nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": [rule]}]}},
        },
    }


def real_volume(*, of: str = "twin") -> Json:
    return {
        "metadata": {"name": "pvc-twin", "uid": "real"},
        "spec": {"claimRef": {"uid": of}, "hostPath": {"path": "/tmp/hostpath_pv/directory"}},
    }


def deleted(item: Json, at: str) -> Json:
    item["metadata"]["deletionTimestamp"] = at
    return item


def whole() -> record.Record:
    """A claim that is bound to a twin in milan."""
    seen = record.Record("soak", "rome-soak")
    seen.take("rome", record.CLAIMS, claim(), alive=True)
    seen.take("rome", record.VOLUMES, virtual_volume(), alive=True)
    seen.take("milan", record.CLAIMS, twin(), alive=True)
    seen.take("milan", record.VOLUMES, real_volume(), alive=True)
    return seen


Change = Callable[[record.Record], None]


def claims(cluster: str, item: Json, *, alive: bool = True) -> Change:
    return lambda seen: seen.take(cluster, record.CLAIMS, item, alive=alive)


def volumes(cluster: str, item: Json, *, alive: bool = True) -> Change:
    return lambda seen: seen.take(cluster, record.VOLUMES, item, alive=alive)


def pods(node: str) -> Change:
    item = {
        "metadata": {"name": "data", "namespace": "soak", "uid": "pod"},
        "spec": {"nodeName": node},
    }
    return lambda seen: seen.take("rome", record.PODS, item, alive=True)


def warned(seen: record.Record) -> None:
    item = {"type": "Warning", "involvedObject": {"uid": "claim"}, "message": "no such class"}
    seen.take("rome", record.EVENTS, item, alive=True)


def without(part: str) -> Json:
    item = twin()
    del item["metadata"][part]
    return item


def test_what_is_as_it_has_to_be_gives_no_line() -> None:
    assert account.differences(whole(), NOTHING) == []


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        pytest.param(
            [claims("rome", deleted(claim(), LATER))], "claim does not go", id="stuck-claim"
        ),
        pytest.param(
            [volumes("rome", virtual_volume(), alive=False)],
            "bound to a volume that is not there",
            id="lost-volume",
        ),
        pytest.param([claims("rome", claim(bound=False))], "could be bound", id="unbound-claim"),
        pytest.param(
            [claims("rome", claim(bound=False)), warned], "no such class", id="refused-claim"
        ),
        pytest.param([pods("")], "pod is on no node", id="waiting-pod"),
        pytest.param(
            [claims("rome", claim(), alive=False)],
            "volume of a claim that is gone",
            id="forgotten-volume",
        ),
        pytest.param(
            [claims("milan", twin(), alive=False)], "volume without its twin", id="lost-twin"
        ),
        pytest.param(
            [volumes("rome", virtual_volume(home="turin"))], "home is not where", id="wrong-home"
        ),
        pytest.param(
            [claims("milan", deleted(twin(), LATER))], "twin does not go", id="stuck-twin"
        ),
        pytest.param(
            [claims("milan", without("finalizers"))], "lost its finalizer", id="no-finalizer"
        ),
        pytest.param([claims("milan", without("labels"))], "whose it is", id="no-label"),
        pytest.param(
            [claims("turin", twin(uid="other", handed_over=False))],
            "twin beside the one",
            id="second-twin",
        ),
        pytest.param(
            [
                claims("rome", claim(), alive=False),
                volumes("rome", virtual_volume(), alive=False),
                claims("milan", twin(), alive=False),
                claims("turin", twin(uid="other", handed_over=False)),
            ],
            "never handed over outlives its claim",
            id="uncollected-twin",
        ),
        pytest.param(
            [
                claims("rome", claim(bound=False)),
                volumes("rome", virtual_volume(), alive=False),
            ],
            "no volume names it",
            id="unanswered-twin",
        ),
        pytest.param([volumes("milan", real_volume(of="x"))], "of no claim", id="real-volume"),
        pytest.param(
            [claims("milan", deleted(twin(), LATER), alive=False)],
            "handed-over twin of a claim that is there was deleted",
            id="data-lost",
        ),
        pytest.param(
            [
                claims("rome", deleted(claim(), LATER), alive=False),
                volumes("rome", virtual_volume(), alive=False),
                claims("milan", deleted(twin(), LONG_AGO), alive=False),
            ],
            "deleted before its claim",
            id="data-lost-early",
        ),
    ],
)
def test_what_is_wrong_gives_a_line(changes: list[Change], line: str) -> None:
    seen = whole()
    for change in changes:
        change(seen)
    assert any(line in found for found in account.differences(seen, NOTHING))


def test_an_unbound_claim_that_asks_for_what_nobody_gives_is_right_once_that_is_said() -> None:
    seen = record.Record("soak", "rome-soak")
    seen.take("rome", record.CLAIMS, claim(bound=False), alive=True)
    seen.take("milan", record.CLAIMS, twin(handed_over=False), alive=True)
    wanted = account.Wanted(refusals={"data": "no such class"})
    assert "why is not said" in account.differences(seen, wanted)[0]
    warned(seen)
    assert account.differences(seen, wanted) == []
    assert account.differences(seen, account.Wanted(refusals={"data": "something else"}))


def test_a_claim_is_bound_where_its_pod_can_run_and_not_when_nobody_gives_what_it_asks() -> None:
    assert account.differences(whole(), account.Wanted(homes={"data": "milan"})) == []
    (line,) = account.differences(whole(), account.Wanted(homes={"data": "turin"}))
    assert "where its pod cannot run" in line
    (line,) = account.differences(whole(), account.Wanted(refusals={"data": "no such class"}))
    assert "asks for what nobody gives, and is bound" in line


def test_each_claim_and_twin_is_counted_once() -> None:
    seen = whole()
    assert account.sums(seen, NOTHING) == [
        "claims: 1 were made: 1 bound",
        "twins: 1 were made: 1 handed over and in use",
    ]
    seen.take("rome", record.CLAIMS, claim(), alive=False)
    seen.take("rome", record.VOLUMES, virtual_volume(), alive=False)
    seen.take("turin", record.CLAIMS, twin(uid="other", handed_over=False), alive=False)
    seen.take("turin", record.CLAIMS, twin(uid="third"), alive=False)
    assert account.sums(seen, NOTHING) == [
        "claims: 1 were made: 1 deleted",
        "twins: 3 were made: 1 abandoned and listed, 1 collected, 1 deleted with their volume",
    ]


def test_an_abandoned_twin_is_right_when_it_is_listed_and_explains_what_is_left() -> None:
    seen = whole()
    seen.take("rome", record.CLAIMS, deleted(claim(), LATER), alive=False)
    seen.take("rome", record.VOLUMES, virtual_volume(), alive=False)
    assert account.differences(seen, NOTHING) == []
    row = {"cluster": "milan", "twin": "rome-soak/data", "state": "abandoned"}
    assert account.unlisted(seen, [row]) == []
    assert account.unlisted(seen, []) == ["not listed as abandoned: milan: rome-soak/data"]
    other = {**row, "cluster": "turin"}
    assert "listed and is not abandoned: turin: rome-soak/data" in account.unlisted(
        seen, [row, other]
    )

    explained = [
        leaks.Entry("milan", "persistentvolumeclaim", "rome-soak/data"),
        leaks.Entry("milan", "persistentvolumeclaims", "rome-soak/data: finalizer x"),
        leaks.Entry("milan", "persistentvolume", "pvc-twin"),
        leaks.Entry("milan", "hostpath directory", "directory"),
    ]
    more = leaks.Entry("turin", "persistentvolume", "pvc-twin")
    after = leaks.Snapshot(frozenset({*explained, more}))
    assert account.left_over(seen, leaks.Snapshot(), after) == [f"+ {more}"]


def test_a_seed_gives_one_sequence_and_another_seed_another() -> None:
    assert plan.draw(1, 60) == plan.draw(1, 60)
    assert plan.draw(1, 60) != plan.draw(2, 60)
    whats = {step.what for seed in range(5) for step in plan.draw(seed, 120)}
    assert whats == {*plan.Verb, *plan.Outage, *plan.Kill}


def test_every_outage_ends_within_the_time_and_before_the_next_of_its_provider() -> None:
    steps = plan.draw(3, 600)
    for actor in (*plan.PROVIDERS, *plan.REPLICAS):
        until = 0.0
        for step in (step for step in steps if step.actor == actor):
            assert step.at_seconds >= until
            until = step.at_seconds + step.lasts_seconds
        assert until < 600
