"""Checks of each provider: what the controller says of it, and what its credential may do."""

from __future__ import annotations

import base64
import contextlib
import time
from collections.abc import AsyncIterator, Iterable, Iterator
from typing import Final

import msgspec

from csi_liqo.model import attempts, credentials, errors, names, objects
from csi_liqo.service.controller import description, negotiation
from csi_liqo.service.tools import peers, ports, provider, virtual, wishes
from csi_liqo.service.tools.doctor import advice, facts, storage
from csi_liqo.service.tools.doctor.findings import Finding, Level

_SOON: Final = 0.2
"""A token with less than this part of its life left should have been renewed long ago."""
_MENDABLE: Final = ("TwinDeleted", "TwinGone")


def check_conditions(seen: facts.Facts) -> Iterator[Finding]:
    """Check what the controller says of each provider."""
    for remote in seen.remote_clusters:
        if not remote.status.conditions:
            yield _warn(
                f"RemoteCluster {remote.name} has no conditions yet",
                "see that the controller runs, and its log",
            )
        bad = [told for told in remote.status.conditions if peers.is_bad(told.type, told.status)]
        for told in [known for known in bad if known.type != "Ready"] or bad:  # Ready is their sum
            yield _err(
                f"RemoteCluster {remote.name}: {told.type}={told.status} ({told.reason}): "
                f"{told.message}",
                advice.for_reason(remote, told.reason),
            )
    for remote in seen.providers:
        if advice.of_liqo(remote):
            yield from _events_of(seen, remote)


def _events_of(seen: facts.Facts, remote: objects.RemoteCluster) -> Iterator[Finding]:
    """Check what was said last on each node of a provider that Liqo describes."""
    label = names.REMOTE_CLUSTER_ID_LABEL
    for node in seen.nodes:
        if not node.virtual or node.metadata.labels.get(label) != remote.spec.cluster_id:
            continue
        said = [
            event
            for event in seen.manifests(ports.EVENTS)
            if (event.get("involvedObject") or {}).get("uid") == node.uid
            and (event.get("source") or {}).get("component") in seen.drivers
        ]
        last = max(said, key=lambda event: str(event.get("lastTimestamp") or ""), default=None)
        if last is not None and last["type"] == "Warning":
            yield _err(
                f"virtual node {node.name}: {last['reason']}: {last['message']}",
                advice.for_reason(remote, last["reason"]),
            )


async def check_credentials(
    seen: facts.Facts, server: ports.Server, connect: ports.Connect
) -> AsyncIterator[Finding]:
    """Check, with each provider's own credential, what it may do and what is there."""
    for remote in seen.providers:
        reference = remote.spec.kubeconfig_secret_ref
        where = f"Secret {reference.namespace}/{reference.name}"
        try:
            secret = await server.find(ports.SECRETS, reference.name, reference.namespace)
        except errors.ApiForbiddenError:
            yield _unseen(
                f"{where} of {advice.named(remote)} cannot be read",
                f"run as somebody who may get secrets in {reference.namespace}",
            )
            continue
        encoded = ((secret or {}).get("data") or {}).get(reference.key, "")
        if secret is None or not encoded:
            yield _err(
                f"{where} of {advice.named(remote)} has no key {reference.key}",
                advice.for_reason(remote, "NoSecret"),
            )
            continue
        kubeconfig = base64.b64decode(encoded).decode(errors="replace")
        renewed = ports.labels_of(secret).get(names.RENEW_LABEL) == "true"
        try:
            async for finding in _with(seen, remote, kubeconfig, connect, renewed=renewed):
                yield finding
        except errors.ApiForbiddenError as error:
            yield _err(f"{advice.named(remote)}: {error}", advice.for_reason(remote, "Forbidden"))
        except errors.ApiError as error:
            reason = "Unauthorized" if error.status == 401 else "Unreachable"
            yield _err(f"{advice.named(remote)}: {error}", advice.for_reason(remote, reason))
        except errors.PreconditionError as error:
            text = f"{advice.named(remote)}: {error}"
            yield _err(text, advice.for_reason(remote, "Misconfigured"))


async def _with(
    seen: facts.Facts,
    remote: objects.RemoteCluster,
    kubeconfig: str,
    connect: ports.Connect,
    *,
    renewed: bool,
) -> AsyncIterator[Finding]:
    """Check one provider with its kubeconfig."""
    for finding in (
        *_token(remote, credentials.token_of(kubeconfig), renewed=renewed),
        *_proof(remote, kubeconfig),
    ):
        yield finding
    program = credentials.program_of(kubeconfig)
    if program in seen.installed.exec_plugins and program not in seen.given.exec_plugins:
        yield _unseen(
            f"the kubeconfig of {advice.named(remote)} starts {program}",
            f"run where that program may be started, with --allowed-exec-plugins={program}",
        )
        return
    async with connect(kubeconfig) as account:
        lost = await _twins(seen, remote, account)
        for finding in (*await _rights(seen, remote, account, lost, renewed=renewed), *lost):
            yield finding


def _token(
    remote: objects.RemoteCluster, token: credentials.Token | None, *, renewed: bool
) -> Iterator[Finding]:
    if token is None:
        return
    left = token.expires_at - time.time()
    remedy = advice.for_reason(remote, "Unauthorized")
    if left <= 0:
        yield _err(f"the token of {advice.named(remote)} has ended", remedy)
    elif left < _SOON * token.lifetime_seconds:
        yield _warn(
            f"the token of {advice.named(remote)} ends in {left / 3600:.1f} h"
            + (", and should have been renewed; see the controller's log" if renewed else ""),
            remedy,
        )


def _proof(remote: objects.RemoteCluster, kubeconfig: str) -> Iterator[Finding]:
    why = wishes.why_unproven(credentials.cluster_of(kubeconfig))
    if why:
        yield _warn(
            f"the server of {advice.named(remote)} need not prove who it is ({why}): whoever "
            "answers at its address is believed",
            advice.for_reason(remote, "Unproven"),
        )


async def _rights(
    seen: facts.Facts,
    remote: objects.RemoteCluster,
    account: ports.Server,
    lost: list[Finding],
    *,
    renewed: bool,
) -> list[Finding]:
    namespaces = namespaces_of(seen, remote)
    # A right for the time of a repair is missed only then.
    unwanted = set() if lost or _in_trouble(seen, remote) else {"repair"}
    unwanted |= set() if renewed else {"token"}
    if advice.of_liqo(remote):
        unwanted |= {"identity"}  # told by its root certificate, which Liqo lets be read
    found = []
    for checked in await provider.check(account, seen.cluster_id, namespaces):
        if checked.granted or checked.grant in unwanted:
            continue
        needed = checked.grant == "claims"
        found.append(
            Finding(
                level=Level.ERROR if needed else Level.WARNING,
                check="permissions",
                message=f"{advice.named(remote)} does not grant {checked.grant} "
                f"({', '.join(checked.missing)}) in {checked.where}: {checked.cost}",
                remedy=advice.for_grant(remote, checked, seen.cluster_id),
            )
        )
    if not namespaces:
        found.append(
            _warn(
                f"{advice.named(remote)} maps no namespace that is known here",
                advice.for_reason(remote, "NoNamespace"),
            )
        )
    return found


def _in_trouble(seen: facts.Facts, remote: objects.RemoteCluster) -> bool:
    return any(
        storage.health_of(volume) in _MENDABLE for volume in _homed(seen, remote.spec.cluster_id)
    )


async def _twins(
    seen: facts.Facts, remote: objects.RemoteCluster, account: ports.Server
) -> list[Finding]:
    """Compare the virtual volumes at home there with the twins that are there.

    Those of which the controller says that they are in trouble are told already.
    """
    selector = f"{names.CONSUMER_LABEL}={seen.cluster_id}"
    there: dict[tuple[str, str], objects.Claim] = {}
    visible = set()
    for namespace in namespaces_of(seen, remote):
        try:
            listed = await account.list(ports.CLAIMS, namespace, labels=selector)
        except errors.ApiForbiddenError:
            continue  # told with the permissions
        visible.add(namespace)
        for twin in msgspec.convert(listed, list[objects.Claim]):
            there[twin.namespace, twin.name] = twin
    found: list[Finding] = []
    for volume in _homed(seen, remote.spec.cluster_id):
        if storage.health_of(volume) == "Healthy" and _place_of(volume) in visible:
            found += storage.check_twin(volume, there, f" in cluster {remote.spec.cluster_id}")
    return found


def _place_of(volume: objects.PersistentVolume) -> str:
    """Return the namespace of a volume's twin, empty when it names none."""
    with contextlib.suppress(errors.InvalidRequestError):
        return description.twin_of(volume).namespace
    return ""


def namespaces_of(seen: facts.Facts, remote: objects.RemoteCluster) -> set[str]:
    """Return the provider's namespaces that hold, or may be asked for, twins."""
    return used_namespaces(remote.spec, seen.cluster_id, seen.virtual_volumes, seen.attempts)


def used_namespaces(
    spec: objects.RemoteClusterSpec,
    consumer_id: str,
    volumes: Iterable[objects.PersistentVolume],
    begun: Iterable[attempts.Attempt],
) -> set[str]:
    """Return the provider's namespaces that a mapping names, or that volumes or claims use."""
    used = set(spec.namespace_mapping.explicit.values())
    for volume in volumes:
        if virtual.is_virtual(volume) and description.home_of(volume) == spec.cluster_id:
            with contextlib.suppress(errors.InvalidRequestError):  # made by hand, of no use
                used.add(description.twin_of(volume).namespace)
    for attempt in begun:
        if attempt.cluster_id == spec.cluster_id:
            used.add(negotiation.map_namespace(spec, consumer_id, attempt.namespace))
    return used - {""}


def _homed(seen: facts.Facts, cluster_id: str) -> Iterator[objects.PersistentVolume]:
    for volume in seen.virtual_volumes:
        if description.home_of(volume) == cluster_id and not virtual.forgotten(volume):
            yield volume


def _unseen(what: str, remedy: str) -> Finding:
    return Finding(
        level=Level.UNSEEN,
        check="permissions",
        message=f"{what}, so what it may do was not checked",
        remedy=remedy,
    )


def _err(message: str, remedy: str) -> Finding:
    return Finding(level=Level.ERROR, check="remote clusters", message=message, remedy=remedy)


def _warn(message: str, remedy: str) -> Finding:
    return Finding(level=Level.WARNING, check="remote clusters", message=message, remedy=remedy)
