"""What a RemoteCluster's status says, and that Ready gives the first reason against it."""

from __future__ import annotations

from typing import Any

import pytest

from csi_liqo.model import objects, remote_conditions

NOW = "2026-01-02T03:04:05Z"


def offered(*names: str, default: str = "") -> tuple[objects.StorageClass, ...]:
    return tuple(
        objects.StorageClass(
            metadata=objects.Metadata(
                name=name,
                annotations={"storageclass.kubernetes.io/is-default-class": "true"}
                if name == default
                else {},
            )
        )
        for name in names
    )


def remote(*, deleting: bool = False, **classes: str) -> objects.RemoteCluster:
    return objects.RemoteCluster(
        metadata=objects.Metadata(
            name="milan", generation=3, deletion_timestamp=NOW if deleting else ""
        ),
        spec=objects.RemoteClusterSpec(
            cluster_id="milan",
            classes=tuple(
                objects.ClassMapping(virtual=virtual, offered=real)
                for virtual, real in classes.items()
            ),
        ),
    )


def facts(**given: Any) -> remote_conditions.Facts:
    usual: dict[str, Any] = {
        "remote": remote(),
        "connected": True,
        "reason": "Connected",
        "message": "well",
        "gaps": (),
        "known": True,
        "offered": offered("fast"),
        "contested": (),
        "volumes": (),
        "claims": (),
    }
    return remote_conditions.Facts(**{**usual, **given})


def told(**given: Any) -> dict[str, tuple[str, str]]:
    """Return status and reason of each condition."""
    made = remote_conditions.make_conditions(facts(**given))
    return {c["type"]: (c["status"], c["reason"]) for c in made}


AWAY: dict[str, Any] = {"connected": False, "known": False, "offered": None}


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        pytest.param({}, {"Ready": ("True", "Ready")}, id="all-is-well"),
        pytest.param(
            {**AWAY, "reason": "Unreachable"},
            {
                "Ready": ("False", "Unreachable"),
                "Connected": ("False", "Unreachable"),
                "Authorized": ("Unknown", "NotConnected"),
                "Negotiated": ("Unknown", "NotConnected"),
            },
            id="away",
        ),
        pytest.param(
            {**AWAY, "reason": "Unauthorized"},
            {
                "Ready": ("False", "Unauthorized"),
                "Connected": ("True", "Answers"),
                "Authorized": ("False", "Unauthorized"),
            },
            id="credential-refused",
        ),
        pytest.param(
            {"gaps": ("classes may not be read",)},
            {"Ready": ("True", "Ready"), "Authorized": ("True", "PartlyAuthorized")},
            id="some-grants-missing",
        ),
        pytest.param(
            {"offered": None}, {"Negotiated": ("True", "Believed")}, id="classes-not-readable"
        ),
        pytest.param(
            {"offered": ()},
            {"Ready": ("False", "NothingOffered"), "Negotiated": ("False", "NothingOffered")},
            id="nothing-offered",
        ),
        pytest.param(
            {"remote": remote(virtual="slow")},
            {"Negotiated": ("False", "ClassNotOffered")},
            id="mapped-to-what-is-not-offered",
        ),
        pytest.param(
            {**AWAY, "reason": "Conflict"},
            {"Ready": ("False", "Conflict"), "Conflict": ("True", "Conflict")},
            id="two-of-one-id",
        ),
        pytest.param(
            {"contested": ("node n is claimed by RemoteCluster turin, too",)},
            {"Ready": ("False", "NodeClaimedTwice"), "Conflict": ("True", "NodeClaimedTwice")},
            id="two-for-one-node",
        ),
        pytest.param(
            {"remote": remote(deleting=True), "volumes": ("pvc-1",)},
            {"Ready": ("False", "VolumesRemain"), "Terminating": ("True", "VolumesRemain")},
            id="deleted-with-volumes",
        ),
        pytest.param(
            {"remote": remote(deleting=True), "claims": ("demo/data",)},
            {"Terminating": ("True", "ClaimsRemain")},
            id="deleted-with-claims-under-way",
        ),
    ],
)
def test_conditions_say_what_is_the_matter(
    given: dict[str, Any], expected: dict[str, tuple[str, str]]
) -> None:
    conditions = told(**given)

    assert {kind: conditions[kind] for kind in expected} == expected


def test_nothing_is_terminating_that_nobody_deletes() -> None:
    assert "Terminating" not in told(volumes=("pvc-1",))


def test_the_volumes_that_hold_a_deletion_are_named_but_not_all_of_thousands() -> None:
    names = tuple(f"pvc-{number}" for number in range(1000))
    made = remote_conditions.make_conditions(facts(remote=remote(deleting=True), volumes=names))

    message = next(c["message"] for c in made if c["type"] == "Terminating")
    assert message.startswith("1000 volumes have their home there (pvc-0, pvc-1,")
    assert "and 990 more" in message


def test_a_status_that_says_the_same_is_recognized() -> None:
    wanted: dict[str, Any] = {
        "conditions": remote_conditions.make_conditions(facts()),
        "volumes": 2,
        "offeredClasses": remote_conditions.list_offered(offered("fast", default="fast")),
    }
    dated = remote_conditions.date(wanted["conditions"], remote(), NOW)
    stored = objects.RemoteClusterStatus(
        conditions=tuple(
            objects.Condition(
                type=c["type"],
                status=c["status"],
                reason=c["reason"],
                message=c["message"],
                last_transition_time=c["lastTransitionTime"],
                observed_generation=c["observedGeneration"],
            )
            for c in dated
        ),
        volumes=2,
        offered_classes=(
            objects.ReportedClass(name="fast", default=True, volume_binding_mode="Immediate"),
        ),
    )

    assert remote_conditions.read_status(stored, wanted) == wanted
    assert {c["lastTransitionTime"] for c in dated} == {NOW}
