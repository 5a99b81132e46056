"""What is said of a connection to a provider, in words that a person can act on."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from csi_liqo.kube import contact, identity, session
from csi_liqo.model import errors, objects

LONGEST_LIST: Final = 5
"""Names in one sentence."""
_CONNECTING: Final = ("Connecting", "the connection is being made")


class KubeconfigForbiddenError(errors.PreconditionError):
    """The Secret with the kubeconfig may not be read."""


@dataclass(frozen=True, slots=True)
class Report:
    """How a provider's connection is: a reason is one CamelCase word, a message a sentence.

    ``gaps`` says what is not granted and what that costs; ``last_contact`` is when the
    provider last answered, as RFC 3339, empty when it never did.
    """

    connected: bool
    reason: str
    message: str
    identity: str = ""
    gaps: tuple[str, ...] = ()
    last_contact: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What a connection knows of itself. ``failing`` is by the name of a watch.

    ``shown`` is whether the services see the provider, which they do once its caches are filled.
    """

    spec: objects.RemoteClusterSpec
    contact: contact.Contact
    identity: str
    session: session.Session | None
    shown: bool
    trouble: errors.Error | None
    failing: Mapping[str, errors.ApiError]
    eventless: frozenset[str]


def make_report(facts: Facts) -> Report:
    """Sum up what is known of a connection; the first trouble is the one that is told."""
    last = facts.contact.last
    told = _trouble(facts)
    connected = told is None
    reason, message = told or ("Connected", _well(facts))
    return Report(
        connected=connected,
        reason=reason,
        message=message,
        identity=facts.identity,
        gaps=tuple(_gaps(facts)) if facts.session is not None else (),
        last_contact=last.strftime("%Y-%m-%dT%H:%M:%SZ") if last else "",
    )


def _well(facts: Facts) -> str:
    well = "the provider answers, and all watches are alive"
    if facts.session is None or facts.session.lines.calls.proves_itself:
        return well
    return (
        f"{well}; but its kubeconfig has no certificate checked (insecure-skip-tls-verify, or an "
        "address that is not https), so whoever answers at its address is believed"
    )


def reason_of(error: errors.Error) -> str:
    """Return the word for a trouble."""
    match error:
        case identity.AnotherClusterError():
            return "IdentityChanged"
        case KubeconfigForbiddenError():
            return "KubeconfigForbidden"
        case errors.ApiForbiddenError():
            return "Forbidden"
        case errors.ApiUntrustedError():
            return "CertificateNotTrusted"
        case errors.ApiUnavailableError(status=401):
            return "Unauthorized"
        case errors.ApiUnavailableError(status=429):
            return "Overloaded"
        case errors.ApiError(status=status) if status >= 500:
            return "Failing"
        case errors.ApiError():
            return "Unreachable"
        case _:
            return "Misconfigured"


def _trouble(facts: Facts) -> tuple[str, str] | None:
    if facts.trouble is not None:
        return _told(facts.trouble)
    if facts.session is None:
        return _CONNECTING
    if facts.contact.state is contact.State.OPEN:
        return _told(facts.contact.trouble)
    for error in facts.failing.values():
        if not isinstance(error, errors.ApiForbiddenError):
            return _told(error)
    if not facts.shown:
        return _CONNECTING
    refused = _refused(facts)
    mapping = facts.spec.namespace_mapping
    others = mapping.template or mapping.default == "SameName"
    targets = set(mapping.explicit.values())
    if targets and not others and targets <= set(refused):
        return (
            "Forbidden",
            f"claims may be listed in none of the mapped namespaces ({_listed(refused)}); bind "
            "ClusterRole csi-liqo-consumer-claims there",
        )
    return None


def _told(error: errors.Error) -> tuple[str, str]:
    reason = reason_of(error)
    remedy = {
        "Unauthorized": "; the credential has expired or was revoked: renew the kubeconfig in its "
        "Secret, which is watched",
        "CertificateNotTrusted": "; renew the provider's certificate, or the authority in the "
        "kubeconfig",
    }
    return reason, f"{error}{remedy.get(reason, '')}"


def _refused(facts: Facts) -> list[str]:
    """Return the namespaces whose claims may not be listed."""
    namespaces = facts.session.namespaces if facts.session is not None else {}
    return [ns for ns, what in namespaces.items() if what in facts.failing]


def _gaps(facts: Facts) -> Iterable[str]:
    assert facts.session is not None
    refused = _refused(facts)
    if refused:
        yield (
            f"claims in {_listed(refused)} may not be listed, so nothing is made there "
            "(ClusterRole csi-liqo-consumer-claims)"
        )
    if not facts.session.grants.classes:
        yield (
            "classes may not be read, so each must be named and counts as one that waits "
            "(csi-liqo-consumer-offered-classes)"
        )
    if not facts.session.grants.volumes:
        yield (
            "volumes may not be read, so a deletion ends with the twin (csi-liqo-consumer-volumes)"
        )
    if not facts.session.grants.capacities:
        yield (
            "capacities may not be read, so a full provider is found out by trying "
            "(csi-liqo-consumer-capacity)"
        )
    if facts.eventless:
        yield (
            f"events in {_listed(sorted(facts.eventless))} may not be read, so why a twin is not "
            "bound is not told (csi-liqo-consumer-events)"
        )
    if not facts.identity:
        yield (
            "nothing that identifies the provider may be read, so another cluster at its address "
            "would not be noticed (csi-liqo-consumer-identity)"
        )


def _listed(namespaces: list[str]) -> str:
    more = len(namespaces) - LONGEST_LIST
    shown = ", ".join(namespaces[:LONGEST_LIST])
    return f"{shown} and {more} more" if more > 0 else shown
