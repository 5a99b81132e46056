"""Kubeconfigs and the tokens in them, read without believing them more than needed."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
import yaml

from csi_liqo.model import credentials, errors


def forge_token(**claims: Any) -> str:
    """Return a token as an API server issues it, but for the signature."""
    parts = [{"alg": "RS256"}, claims]
    encoded = [base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=") for part in parts]
    return ".".join([*(part.decode() for part in encoded), "signature"])


ABOUT = {
    "namespace": "csi-liqo-consumers",
    "serviceaccount": {"name": "rome", "uid": "u1"},
    "secret": {"name": "rome-token-x", "uid": "u2"},
}
TOKEN = forge_token(exp=3000, iat=1000, **{"kubernetes.io": ABOUT})
CLUSTER = {"server": "https://milan:6443", "certificate-authority-data": "QUJD"}


def test_a_token_tells_whose_it_is_and_when_it_is_to_be_renewed() -> None:
    token = credentials.read_token(TOKEN)

    assert token is not None
    assert (token.namespace, token.account, token.account_uid) == (
        "csi-liqo-consumers",
        "rome",
        "u1",
    )
    assert (token.secret, token.secret_uid) == ("rome-token-x", "u2")
    assert token.lifetime_seconds == 2000
    assert token.renew_at == 2000


def test_the_text_of_a_token_is_in_no_representation_of_it() -> None:
    assert "signature" not in repr(credentials.read_token(TOKEN))


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("", id="none"),
        pytest.param("opaque", id="of-another-kind"),
        pytest.param("a.b.c", id="no-json"),
        pytest.param(forge_token(exp=3000, sub="jane"), id="of-a-person"),
        pytest.param(forge_token(**{"kubernetes.io": ABOUT}), id="without-an-end"),
    ],
)
def test_what_is_no_service_accounts_token_is_none(text: str) -> None:
    assert credentials.read_token(text) is None


def test_a_kubeconfig_keeps_all_but_its_token() -> None:
    text = credentials.forge_kubeconfig(CLUSTER, name="milan", user="rome", token="old")

    changed = credentials.with_token(text, TOKEN)

    assert credentials.cluster_of(changed) == CLUSTER
    assert credentials.server_of(changed) == "https://milan:6443"
    token = credentials.token_of(changed)
    assert token is not None
    assert token.text == TOKEN
    before, after = yaml.safe_load(text), yaml.safe_load(changed)
    after["users"][0]["user"]["token"] = "old"
    assert before == after


@pytest.mark.parametrize("text", ["{", "[]", "token: [secret"])
def test_a_kubeconfig_that_is_none_is_refused_without_quoting_it(text: str) -> None:
    with pytest.raises(errors.PreconditionError, match="the kubeconfig is no") as told:
        credentials.token_of(text)
    assert "secret" not in str(told.value)
    assert told.value.__cause__ is None


def test_a_kubeconfig_without_a_server_is_refused() -> None:
    with pytest.raises(errors.PreconditionError, match="names no server"):
        credentials.cluster_of("apiVersion: v1")
