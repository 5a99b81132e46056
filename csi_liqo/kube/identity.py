"""Which cluster answers: what tells a provider from any other at the same address.

The uid of kube-system is as old as its cluster. Where it may not be read, the root
certificate does, which Kubernetes publishes in every namespace
(kubernetes v1.37.2, pkg/controller/certificates/rootcacertpublisher).
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from typing import Final, TypeVar

import msgspec

from csi_liqo.kube import api, resources
from csi_liqo.model import errors, objects

T = TypeVar("T", bound=objects.Object)

ROOT_PREFIX: Final = "root-ca:"
ROOT_CONFIG_MAP: Final = "kube-root-ca.crt"
NAMESPACES_TRIED: Final = 3

_CERTIFICATE: Final = re.compile(r"-----BEGIN CERTIFICATE-----.*?-----END CERTIFICATE-----", re.S)


class AnotherClusterError(errors.PreconditionError):
    """Another cluster answers than the one that is known."""


async def identify(server: api.Api, known: str, namespaces: Iterable[str]) -> str:
    """Return the identity of whoever answers; ``known`` when nothing of it may be read.

    ``known`` is empty at the first contact. ``namespaces`` are those that may be readable.
    Only what is of one kind can be compared: a uid that is known and may not be read any
    more is believed.

    Raises:
        AnotherClusterError: it is not the one that is known.
        errors.ApiError: it does not answer, or not as an API server.
    """
    uid = await _uid(server)
    if uid and known and not known.startswith(ROOT_PREFIX) and uid != known:
        raise AnotherClusterError(f"its identity is {uid}, it was {known}")
    if uid and not known.startswith(ROOT_PREFIX):
        return uid
    if known and not known.startswith(ROOT_PREFIX):
        return known
    roots = await _roots(server, namespaces)
    if known and roots and not roots & _roots_of(known):
        found = _name_of(roots)
        raise AnotherClusterError(f"its identity is {found}, it was {known}")
    # A root certificate is replaced by way of a time in which both are published.
    return uid or (_name_of(roots) if roots else known)


async def _uid(server: api.Api) -> str:
    try:
        answer = await server.request("GET", resources.NAMESPACES.path("", "kube-system"))
    except errors.ApiForbiddenError:
        return ""
    return _decode(answer, objects.Namespace).uid


async def _roots(server: api.Api, namespaces: Iterable[str]) -> frozenset[str]:
    """Return hashes of the root certificates; none when they may not be read."""
    for namespace in sorted(namespaces)[:NAMESPACES_TRIED]:
        path = resources.CONFIG_MAPS.path(namespace, ROOT_CONFIG_MAP)
        try:
            answer = await server.request("GET", path)
        except (errors.ApiForbiddenError, errors.ApiNotFoundError):
            continue
        text = _decode(answer, objects.ConfigMap).data.get("ca.crt", "")
        return frozenset(_hash(certificate) for certificate in _CERTIFICATE.findall(text))
    return frozenset()


def _decode(answer: bytes, kind: type[T]) -> T:
    try:
        return msgspec.json.decode(answer, type=kind)
    except msgspec.DecodeError as error:
        raise errors.ApiUnavailableError(f"no API server answers: {error}") from error


def _hash(certificate: str) -> str:
    return hashlib.sha256("".join(certificate.split()).encode()).hexdigest()[:24]


def _name_of(roots: frozenset[str]) -> str:
    return ROOT_PREFIX + "+".join(sorted(roots))


def _roots_of(known: str) -> frozenset[str]:
    return frozenset(known.removeprefix(ROOT_PREFIX).split("+"))
