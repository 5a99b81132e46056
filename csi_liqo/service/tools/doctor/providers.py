"""Checks of each provider: what the controller says of it, and what its credential may do."""

from __future__ import annotations

import base64
import contextlib
import time
from collections.abc import AsyncIterator, Iterable, Iterator
from typing import Final

from csi_liqo.model import credentials, errors, names, objects, twins
from csi_liqo.service.controller import description, negotiation
from csi_liqo.service.tools import peers, ports, provider, virtual
from csi_liqo.service.tools.doctor import facts
from csi_liqo.service.tools.doctor.findings import Finding, Level

_REMEDIES: Final = {
    "Unauthorized": "csi-liqo peer rotate {name} --provider-kubeconfig FILE",
    "Forbidden": "csi-liqo peer add {name} --provider-kubeconfig FILE grants what is missing",
    "Unreachable": "see network, address and certificate in Secret {secret}",
    "Conflict": "delete one of the two RemoteClusters, or change its spec.nodeSelector",
    "Misconfigured": "do what the message says, in RemoteCluster {name} or Secret {secret}",
    "IdentityChanged": "lead Secret {secret} to the right cluster, or do what the message says",
    "CertificateNotTrusted": "renew the provider's certificate, or the authority in {secret}",
    "Overloaded": "see the provider's API server",
    "Failing": "see the provider's API server",
    "NothingOffered": "label a StorageClass there csi.liqo.io/offered=true",
    "ClassNotOffered": "label it there csi.liqo.io/offered=true, or name another in spec.classes",
    "KubeconfigForbidden": "keep the Secret in namespace csi-liqo, or give a Role for its own",
}
_SOON: Final = 0.2
"""A token with less than this part of its life left should have been renewed long ago."""


def check_conditions(seen: facts.Facts) -> Iterator[Finding]:
    """Check what the controller says of each RemoteCluster."""
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
                _remedy(remote, told.reason),
            )


async def check_credentials(
    seen: facts.Facts, server: ports.Server, connect: ports.Connect
) -> AsyncIterator[Finding]:
    """Check, with each provider's own credential, what it may do and what is there."""
    for remote in seen.remote_clusters:
        reference = remote.spec.kubeconfig_secret_ref
        where = f"Secret {reference.namespace}/{reference.name}"
        try:
            secret = await server.find(ports.SECRETS, reference.name, reference.namespace)
        except errors.ApiForbiddenError:
            yield _unseen(f"{where} of RemoteCluster {remote.name}", f"get secrets in {where}")
            continue
        encoded = ((secret or {}).get("data") or {}).get(reference.key, "")
        if secret is None or not encoded:
            yield _err(
                f"{where} of RemoteCluster {remote.name} has no key {reference.key}",
                f"csi-liqo peer add {remote.name} --provider-kubeconfig FILE",
            )
            continue
        kubeconfig = base64.b64decode(encoded).decode(errors="replace")
        renewed = ports.labels_of(secret).get(names.RENEW_LABEL) == "true"
        try:
            for finding in _token(remote, credentials.token_of(kubeconfig), renewed=renewed):
                yield finding
            async with connect(kubeconfig) as account:
                for finding in await _rights(seen, remote, account, renewed=renewed):
                    yield finding
                for finding in await _twins(seen, remote, account):
                    yield finding
        except errors.ApiForbiddenError as error:
            yield _err(f"RemoteCluster {remote.name}: {error}", _remedy(remote, "Forbidden"))
        except errors.ApiError as error:
            reason = "Unauthorized" if error.status == 401 else "Unreachable"
            yield _err(f"RemoteCluster {remote.name}: {error}", _remedy(remote, reason))
        except errors.PreconditionError as error:
            yield _err(f"RemoteCluster {remote.name}: {error}", _remedy(remote, "Misconfigured"))


def _token(
    remote: objects.RemoteCluster, token: credentials.Token | None, *, renewed: bool
) -> Iterator[Finding]:
    if token is None:
        return
    left = token.expires_at - time.time()
    remedy = f"csi-liqo peer rotate {remote.name} --provider-kubeconfig FILE"
    if left <= 0:
        yield _err(f"the token of RemoteCluster {remote.name} has ended", remedy)
    elif left < _SOON * token.lifetime_seconds:
        yield _warn(
            f"the token of RemoteCluster {remote.name} ends in {left / 3600:.1f} h"
            + (", and should have been renewed; see the controller's log" if renewed else ""),
            remedy,
        )


async def _rights(
    seen: facts.Facts, remote: objects.RemoteCluster, account: ports.Server, *, renewed: bool
) -> list[Finding]:
    namespaces = namespaces_of(seen, remote)
    found = []
    for checked in await provider.check(account, seen.cluster_id, namespaces):
        if checked.granted or (checked.grant == "token" and not renewed):
            continue
        needed = checked.grant == "claims"
        found.append(
            Finding(
                level=Level.ERROR if needed else Level.WARNING,
                check="permissions",
                message=f"RemoteCluster {remote.name} does not grant {checked.grant} "
                f"({', '.join(checked.missing)}) in {checked.where}: {checked.cost}",
                remedy=f"csi-liqo peer add {remote.name} --provider-kubeconfig FILE"
                + ("" if needed else f" --grant {checked.grant}"),
            )
        )
    if not namespaces:
        found.append(
            _warn(
                f"RemoteCluster {remote.name} maps no namespace that is known here",
                f"csi-liqo peer add {remote.name} --namespace NAME --provider-kubeconfig FILE",
            )
        )
    return found


async def _twins(
    seen: facts.Facts, remote: objects.RemoteCluster, account: ports.Server
) -> list[Finding]:
    """Compare the virtual volumes at home there with the twins that are there."""
    selector = f"{names.CONSUMER_LABEL}={seen.cluster_id}"
    there: dict[tuple[str, str], str] = {}
    visible = set()
    for namespace in namespaces_of(seen, remote):
        try:
            listed = await account.list(ports.CLAIMS, namespace, labels=selector)
        except errors.ApiForbiddenError:
            continue  # told with the permissions
        visible.add(namespace)
        for item in listed:
            about = item["metadata"]
            there[about["namespace"], about["name"]] = about["uid"]
    return [
        Finding(
            level=Level.ERROR,
            check="volumes",
            message=f"volume {volume.name}: its twin {twin.namespace}/{twin.name} in cluster "
            f"{remote.spec.cluster_id} is gone",
            remedy="its data is lost unless the provider kept the real volume (Retain); ask its "
            "administrator, then delete the claim",
        )
        for volume, twin in _homed(seen, remote.spec.cluster_id)
        if twin.namespace in visible and there.get((twin.namespace, twin.name)) != twin.uid
    ]


def namespaces_of(seen: facts.Facts, remote: objects.RemoteCluster) -> set[str]:
    """Return the provider's namespaces that hold, or may be asked for, twins."""
    return used_namespaces(remote.spec, seen.cluster_id, seen.virtual_volumes, seen.claims)


def used_namespaces(
    spec: objects.RemoteClusterSpec,
    consumer_id: str,
    volumes: Iterable[objects.PersistentVolume],
    claims: Iterable[objects.Claim],
) -> set[str]:
    """Return the provider's namespaces that a mapping names, or that volumes or claims use."""
    used = set(spec.namespace_mapping.explicit.values())
    for volume in volumes:
        if virtual.is_virtual(volume) and description.home_of(volume) == spec.cluster_id:
            with contextlib.suppress(errors.InvalidRequestError):  # made by hand, of no use
                used.add(description.twin_of(volume).namespace)
    for claim in claims:
        if claim.metadata.annotations.get(names.ATTEMPT_ANNOTATION) == spec.cluster_id:
            used.add(negotiation.map_namespace(spec, consumer_id, claim.namespace))
    return used - {""}


def _homed(
    seen: facts.Facts, cluster_id: str
) -> Iterator[tuple[objects.PersistentVolume, twins.TwinRef]]:
    for volume in seen.virtual_volumes:
        if description.home_of(volume) == cluster_id and not virtual.forgotten(volume):
            try:
                yield volume, description.twin_of(volume)
            except errors.InvalidRequestError:
                continue


def _remedy(remote: objects.RemoteCluster, reason: str) -> str:
    reference = remote.spec.kubeconfig_secret_ref
    secret = f"{reference.namespace}/{reference.name}"
    text = _REMEDIES.get(reason, "kubectl describe remotecluster {name}")
    return text.format(name=remote.name, secret=secret)


def _unseen(what: str, right: str) -> Finding:
    return Finding(
        level=Level.UNSEEN,
        check="permissions",
        message=f"{what} cannot be read, so what it may do was not checked",
        remedy=f"run as somebody who may {right}",
    )


def _err(message: str, remedy: str) -> Finding:
    return Finding(level=Level.ERROR, check="remote clusters", message=message, remedy=remedy)


def _warn(message: str, remedy: str) -> Finding:
    return Finding(level=Level.WARNING, check="remote clusters", message=message, remedy=remedy)
