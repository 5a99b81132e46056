"""What a virtual StorageClass may say, and what the provisioner adds about the claim."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from csi_liqo.model import errors, ids, objects
from csi_liqo.service import ports

LOCAL_CLASS: Final = "localClass"
REMOTE_CLASS: Final = "remoteClass"
_CLAIM_NAME: Final = "csi.storage.k8s.io/pvc/name"
_CLAIM_NAMESPACE: Final = "csi.storage.k8s.io/pvc/namespace"
_VOLUME_NAME: Final = "csi.storage.k8s.io/pv/name"
_KNOWN: Final = (LOCAL_CLASS, REMOTE_CLASS, _CLAIM_NAME, _CLAIM_NAMESPACE, _VOLUME_NAME)

CACHE_LAG_SECONDS: Final = 2.0
"""How long a claim that the provisioner knows may take to reach our cache."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Parameters:
    """The parameters of one CreateVolume.

    ``local_class`` and ``remote_class`` are empty when the class leaves them to the
    clusters' defaults, ``claim_name`` when nobody said for which claim this is.
    """

    local_class: str
    remote_class: str
    claim_namespace: str
    claim_name: str


def parse(given: Mapping[str, str]) -> Parameters:
    """Read a StorageClass's parameters.

    Raises:
        errors.InvalidRequestError: one is unknown or malformed.
    """
    unknown = sorted(set(given) - set(_KNOWN))
    if unknown:
        raise errors.InvalidRequestError(
            f"the StorageClass has unknown parameters: {', '.join(unknown)}; "
            f"known are {LOCAL_CLASS} and {REMOTE_CLASS}"
        )
    for key in (LOCAL_CLASS, REMOTE_CLASS):
        if key in given and not objects.is_object_name(given[key]):
            raise errors.InvalidRequestError(
                f"parameter {key} of the StorageClass is no class name: {given[key]!r}"
            )
    return Parameters(
        local_class=given.get(LOCAL_CLASS, ""),
        remote_class=given.get(REMOTE_CLASS, ""),
        claim_namespace=given.get(_CLAIM_NAMESPACE, ""),
        claim_name=given.get(_CLAIM_NAME, ""),
    )


class ClaimGoneError(errors.PreconditionError):
    """The claim that a volume was asked for does not exist any more."""


async def find_claim(
    claims: ports.Objects[objects.Claim], parameters: Parameters, volume_name: str
) -> objects.Claim | None:
    """Return the virtual claim a volume is for, None when the request names none.

    Raises:
        ClaimGoneError: it was deleted, or another one has its name now.
        errors.OutcomeUnknownError: the API server cannot tell.
    """
    namespace, name = parameters.claim_namespace, parameters.claim_name
    if not name:
        return None
    uid = ids.claim_uid_of(volume_name)

    def right(claim: objects.Claim | None) -> objects.Claim | None:
        return claim if claim is not None and uid in ("", claim.uid) else None

    try:
        async with asyncio.timeout(CACHE_LAG_SECONDS):
            return await claims.wait(namespace, name, right)
    except TimeoutError:
        pass
    try:
        claim = right(await claims.read(namespace, name))
    except errors.ApiError as error:
        raise errors.OutcomeUnknownError(f"claim {namespace}/{name}: {error}") from error
    if claim is None:
        raise ClaimGoneError(f"claim {namespace}/{name} was deleted before its volume was made")
    return claim
