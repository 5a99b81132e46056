"""The kubeconfig by which a consumer reaches a provider, and the token in it.

The token is one that the provider's API server issued for a service account, bound
to a Secret there: once that Secret is deleted, every token bound to it is refused.
What a token says of itself is read here without checking its signature, so it
decides only when to ask for the next one, never what anybody may do.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec
import yaml

from csi_liqo.model import errors


class _Named(msgspec.Struct, frozen=True):
    name: str = ""
    uid: str = ""


class _Kubernetes(msgspec.Struct, frozen=True):
    namespace: str = ""
    serviceaccount: _Named = _Named()
    secret: _Named = _Named()


class _Claims(msgspec.Struct, frozen=True):
    exp: float = 0
    iat: float = 0
    kubernetes: _Kubernetes = msgspec.field(name="kubernetes.io", default=_Kubernetes())


@dataclass(frozen=True, slots=True, kw_only=True)
class Token:
    """What a service account's token says of itself; times in seconds since 1970.

    ``secret`` is the Secret it is bound to, empty when to none. The text itself is kept
    out of every representation.
    """

    text: str = field(repr=False)
    namespace: str
    account: str
    account_uid: str
    secret: str
    secret_uid: str
    issued_at: float
    expires_at: float

    @property
    def lifetime_seconds(self) -> float:
        return self.expires_at - self.issued_at

    @property
    def renew_at(self) -> float:
        """Half of its life: as long as that a provider may be away without harm."""
        return self.issued_at + self.lifetime_seconds / 2


def read_token(text: str) -> Token | None:
    """Return what a token says of itself; None when it is no service account's, or endless."""
    parts = text.split(".")
    if len(parts) != 3:
        return None
    try:
        payload = base64.urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4))
        claims = msgspec.json.decode(payload, type=_Claims)
    except (binascii.Error, msgspec.DecodeError, ValueError):
        return None
    account = claims.kubernetes.serviceaccount
    if not account.name or not claims.exp:
        return None
    return Token(
        text=text,
        namespace=claims.kubernetes.namespace,
        account=account.name,
        account_uid=account.uid,
        secret=claims.kubernetes.secret.name,
        secret_uid=claims.kubernetes.secret.uid,
        issued_at=claims.iat,
        expires_at=claims.exp,
    )


def token_of(kubeconfig: str) -> Token | None:
    """Return the token of a kubeconfig's current user; None when it has none that ends."""
    user = _current(_parse(kubeconfig), "user")
    token = user.get("token")
    return read_token(token) if isinstance(token, str) else None


def program_of(kubeconfig: str) -> str:
    """Return the program that a kubeconfig's current user starts, empty when it starts none."""
    plugin = _current(_parse(kubeconfig), "user").get("exec")
    command = plugin.get("command") if isinstance(plugin, dict) else None
    return command if isinstance(command, str) else ""


def server_of(kubeconfig: str) -> str:
    """Return the address of a kubeconfig's current cluster, empty when it has none."""
    return str(_current(_parse(kubeconfig), "cluster").get("server", ""))


def with_token(kubeconfig: str, token: str) -> str:
    """Return a kubeconfig with another token for its current user; all else stays."""
    document = _parse(kubeconfig)
    _current(document, "user")["token"] = token
    return yaml.safe_dump(document, sort_keys=False)


def forge_kubeconfig(cluster: Mapping[str, Any], *, name: str, user: str, token: str) -> str:
    """Return a kubeconfig for a token, reaching a cluster as the given entry says."""
    document = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": name, "cluster": dict(cluster)}],
        "users": [{"name": user, "user": {"token": token}}],
        "contexts": [{"name": name, "context": {"cluster": name, "user": user}}],
        "current-context": name,
    }
    return yaml.safe_dump(document, sort_keys=False)


def cluster_of(kubeconfig: str) -> dict[str, Any]:
    """Return a copy of the current context's cluster entry.

    Raises:
        errors.PreconditionError: there is none.
    """
    cluster = dict(_current(_parse(kubeconfig), "cluster"))
    if not cluster.get("server"):
        raise errors.PreconditionError("the kubeconfig's current context names no server")
    return cluster


def _parse(kubeconfig: str) -> dict[str, Any]:
    try:
        document = yaml.safe_load(kubeconfig)
    except yaml.YAMLError:
        # NB: the parser's own message quotes the text, which holds the token.
        raise errors.PreconditionError("the kubeconfig is no YAML") from None
    if not isinstance(document, dict):
        raise errors.PreconditionError("the kubeconfig is no mapping")
    return document


def _current(document: dict[str, Any], part: str) -> dict[str, Any]:
    """Return the ``user`` or ``cluster`` that the current context names; empty when none."""

    def entry(plural: str, singular: str, name: object) -> dict[str, Any]:
        for item in document.get(plural) or ():
            if isinstance(item, dict) and item.get("name") == name:
                found = item.get(singular)
                return found if isinstance(found, dict) else {}
        return {}

    context = entry("contexts", "context", document.get("current-context"))
    return entry(f"{part}s", part, context.get(part))
