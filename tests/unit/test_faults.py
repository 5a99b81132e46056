"""What the fault proxy reads out of a request, and which rules it meets."""

from __future__ import annotations

import pytest

from lab.faults import requests, rules

CLAIMS = "/api/v1/namespaces/default/persistentvolumeclaims"


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        pytest.param("/api/v1/nodes/a", ("", "nodes", "", "a", ""), id="cluster-object"),
        pytest.param(
            f"{CLAIMS}/data-0/status",
            ("", "persistentvolumeclaims", "default", "data-0", "status"),
            id="subresource",
        ),
        pytest.param(
            "/apis/storage.k8s.io/v1/storageclasses",
            ("storage.k8s.io", "storageclasses", "", "", ""),
            id="collection-of-a-group",
        ),
        pytest.param(
            "/api/v1/namespaces/default", ("", "namespaces", "", "default", ""), id="namespace"
        ),
        pytest.param(
            "/api/v1/namespaces/default/finalize",
            ("", "namespaces", "", "default", "finalize"),
            id="subresource-of-a-namespace",
        ),
        pytest.param(
            "/api/v1/namespaces/default/pods", ("", "pods", "default", "", ""), id="namespaced"
        ),
        pytest.param("/readyz", ("", "", "", "", ""), id="no-resource"),
    ],
)
def test_a_path_names_its_object(path: str, expected: tuple[str, ...]) -> None:
    assert requests.Target.parse(path) == requests.Target(*expected)


@pytest.mark.parametrize(
    ("method", "path", "query", "is_write"),
    [
        pytest.param("POST", CLAIMS, {}, True, id="create"),
        pytest.param("GET", CLAIMS, {}, False, id="list"),
        pytest.param("PATCH", CLAIMS, {"dryRun": "All"}, False, id="dry-run"),
        pytest.param(
            "POST", "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", {}, False, id="review"
        ),
        pytest.param("POST", "/api/v1/namespaces/a/serviceaccounts/b/token", {}, False, id="token"),
    ],
)
def test_a_write_is_what_may_leave_something_behind(
    method: str, path: str, query: dict[str, str], is_write: bool
) -> None:
    assert requests.Recorded.of(method, path, query).is_write is is_write


def test_a_rule_befalls_the_nth_matching_request_and_as_many_as_it_says() -> None:
    claims = rules.Match(resource="persistentvolumeclaims", method="POST")
    rule = rules.Rule(claims, rules.Cut(), when=rules.When.BEFORE, nth=2, times=2)
    create = requests.Recorded.of("POST", CLAIMS, {})
    other = requests.Recorded.of("POST", "/api/v1/namespaces/default/pods", {})

    taken = [rule.takes(item) for item in (create, other, create, create, create)]

    assert taken == [False, False, True, True, False]


def test_changes_leave_out_what_the_clock_writes() -> None:
    lease = requests.Recorded.of("PUT", "/apis/coordination.k8s.io/v1/namespaces/a/leases/b", {})
    claim = requests.Recorded.of("PUT", f"{CLAIMS}/data-0", {})

    assert not rules.CHANGES.accepts(lease)
    assert rules.CHANGES.accepts(claim)
