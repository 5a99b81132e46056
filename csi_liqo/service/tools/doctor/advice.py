"""What to do about a provider, in its own terms: those of a RemoteCluster, or of Liqo."""

from __future__ import annotations

from typing import Final

from csi_liqo.model import liqo, names, objects
from csi_liqo.service.tools import grants, provider

_ADD: Final = "csi-liqo peer add {name} --provider-kubeconfig FILE"
_REMEDIES: Final = {
    "Unauthorized": "csi-liqo peer rotate {name} --provider-kubeconfig FILE",
    "Forbidden": f"{_ADD} grants what is missing",
    "Unreachable": "see network, address and certificate in Secret {secret}",
    "Conflict": "delete one of the two RemoteClusters, or change its spec.nodeSelector",
    "NodeClaimedTwice": "change the spec.nodeSelector of one of the two RemoteClusters",
    "Misconfigured": "do what the message says, in RemoteCluster {name} or Secret {secret}",
    "IdentityChanged": "lead Secret {secret} to the right cluster, or do what the message says",
    "CertificateNotTrusted": "renew the provider's certificate, or the authority in {secret}",
    "Overloaded": "see the provider's API server",
    "Failing": "see the provider's API server",
    "NothingOffered": f"label a StorageClass there {names.OFFERED_LABEL}=true",
    "ClassNotOffered": f"label it there {names.OFFERED_LABEL}=true, or name another in "
    "spec.classes",
    "KubeconfigForbidden": "keep the Secret in namespace csi-liqo, or give a Role for its own",
    "VolumesRemain": "delete the claims that the message names, or csi-liqo peer remove {name} "
    "--forget",
    "ClaimsRemain": "delete the claims that the message names, or wait until they are bound",
    "NoSecret": _ADD,
    "NoNamespace": f"{_ADD} --namespace NAME",
    "Unproven": f"{_ADD}, with the certificate of its authority in that file",
}
_OF_LIQO: Final = _REMEDIES | {
    "Unauthorized": "Liqo renews it: see the peering (liqoctl info peer {id})",
    "Forbidden": "see Liqo's roles for this cluster there (liqoctl info peer {id})",
    "Misconfigured": "do what the message says, in Secret {secret}, which Liqo writes",
    "Conflict": "narrow the nodeSelector of the RemoteCluster that the message names",
    "KubeconfigForbidden": "do what the message says",
    "NoSecret": "see the peering (liqoctl info peer {id}); Liqo writes that Secret",
    "NoNamespace": "liqoctl offload namespace NAME",
    "Unproven": "see the peering: Liqo writes that Secret",
}


def of_liqo(remote: objects.RemoteCluster) -> bool:
    """Whether Liqo's objects describe this provider."""
    return isinstance(remote.spec, liqo.Description)


def named(remote: objects.RemoteCluster) -> str:
    """Return a provider's name for people: that of the object that describes it."""
    return remote.spec.described_by if of_liqo(remote) else f"RemoteCluster {remote.name}"


def for_reason(remote: objects.RemoteCluster, reason: str) -> str:
    """Return what to do about the reason of a condition, or about something found here."""
    reference = remote.spec.kubeconfig_secret_ref
    other = (
        "do what the message says" if of_liqo(remote) else "kubectl describe remotecluster {name}"
    )
    text = (_OF_LIQO if of_liqo(remote) else _REMEDIES).get(reason, other)
    return text.format(
        name=remote.name,
        id=remote.spec.cluster_id,
        secret=f"{reference.namespace}/{reference.name}",
    )


def for_grant(remote: objects.RemoteCluster, missing: provider.Checked, consumer_id: str) -> str:
    """Return what gives a provider's consumer a right that is missing."""
    if not of_liqo(remote):
        optional = missing.grant in grants.OPTIONAL  # the others are granted unasked
        return _ADD.format(name=remote.name) + (f" --grant {missing.grant}" if optional else "")
    if missing.grant == "claims":
        return for_reason(remote, "Forbidden")
    role = f"csi-liqo-consumer-{missing.grant}"
    kind = "clusterrolebinding" if missing.where == "*" else f"-n {missing.where} rolebinding"
    return (
        f"in the provider, after kubectl apply -k deploy/provider: kubectl create {kind} "
        f"{role}-{consumer_id}-by-liqo --clusterrole={role} --group={consumer_id}"
    )
