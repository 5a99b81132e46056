"""What is refused of a wished-for peering before anybody is asked, and before any write."""

from __future__ import annotations

import pytest

from csi_liqo.model import errors, objects
from csi_liqo.service.controller import negotiation
from csi_liqo.service.tools import wishes

PROVEN = {"server": "https://milan:6443", "certificate-authority-data": "Y2E="}


@pytest.mark.parametrize(
    ("namespaces", "template", "words"),
    [
        ({"a": "kube-system"}, "", "namespace kube-system of the provider belongs to that"),
        ({"kube-public": ""}, "", "kube-public of the provider belongs to"),
        ({"public": ""}, "kube-${namespace}", "kube-public of the provider belongs to"),
        ({"a": "csi-liqo-storage"}, "", "kept for that cluster's own twins"),
        ({"a": "csi-liqo"}, "", "holds that cluster's own driver"),
        ({"a": "csi-liqo-consumers"}, "", "holds that cluster's accounts of its consumers"),
        ({"a": "B_c"}, "", "'B_c' is no name of a namespace, and a is mapped to it"),
        ({"A": "b"}, "", "'A' is no name of a namespace"),
        ({"a": "b" * 64}, "", "is no name of a namespace"),
        ({"a" * 40: ""}, "${namespace}-${namespace}", "is no name of a namespace"),
    ],
)
def test_a_namespace_that_is_never_lent_is_refused(
    namespaces: dict[str, str], template: str, words: str
) -> None:
    wish = wishes.Wish(name="milan", cluster=PROVEN, namespaces=namespaces, template=template)

    with pytest.raises((errors.PreconditionError, errors.InvalidRequestError), match=words):
        wishes.targets_of(wishes.merge_mapping(None, wish), wish, "rome")


def test_what_may_be_lent_is_what_the_mapping_says() -> None:
    wish = wishes.Wish(
        name="milan",
        cluster=PROVEN,
        namespaces={"a": "x", "b": ""},
        template="${namespace}-${consumer}",
    )

    targets = wishes.targets_of(wishes.merge_mapping(None, wish), wish, "rome")

    assert targets == {"x", "b-rome"}


@pytest.mark.parametrize(
    ("cluster", "address", "words"),
    [
        ({**PROVEN, "insecure-skip-tls-verify": True}, "", "says insecure-skip-tls-verify"),
        ({"server": "http://milan"}, "", "its address is not https"),
        (PROVEN, "http://milan:8080", "its address is not https"),
    ],
)
def test_a_provider_that_need_not_prove_who_it_is_must_be_allowed(
    cluster: dict[str, object], address: str, words: str
) -> None:
    wish = wishes.Wish(name="milan", cluster=cluster, address=address)
    allowed = wishes.Wish(name="milan", cluster=cluster, address=address, unproven_allowed=True)

    with pytest.raises(errors.PreconditionError, match=words):
        wishes.refuse_unfit(wish)
    wishes.refuse_unfit(allowed)


@pytest.mark.parametrize(
    ("name", "address"), [("Milan", ""), ("a/b", ""), ("", ""), ("m", "https://u:p@m"), ("m", "m")]
)
def test_what_is_no_name_or_address_is_refused(name: str, address: str) -> None:
    with pytest.raises(errors.InvalidRequestError):
        wishes.refuse_unfit(wishes.Wish(name=name, cluster=PROVEN, address=address))


@pytest.mark.parametrize(
    ("mapping", "any_of_them"),
    [
        (objects.NamespaceMapping(explicit={"a": "kube-system"}), False),
        (objects.NamespaceMapping(explicit={"a": "kube-system", "b": "c"}), True),
        (objects.NamespaceMapping(), False),
    ],
)
def test_what_is_never_a_target_maps_nothing(
    mapping: objects.NamespaceMapping, any_of_them: bool
) -> None:
    spec = objects.RemoteClusterSpec(cluster_id="milan", namespace_mapping=mapping)

    assert negotiation.maps_any(spec) is any_of_them
