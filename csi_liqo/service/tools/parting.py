"""Ending a peering without ending what lives there by accident."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from csi_liqo.model import errors, names, objects
from csi_liqo.service.tools import begun as begun_there
from csi_liqo.service.tools import ensuring, peer_secret, ports, provider, virtual

FINALIZER_SECONDS: Final = 20.0
"""How long the controller may take to let a RemoteCluster go."""
_NAMED: Final = 3
"""How many volumes a refusal names."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Removed:
    """What went, what stays in the provider, and which volumes were forgotten."""

    name: str
    removed: tuple[str, ...]
    kept: tuple[str, ...]
    forgotten: tuple[str, ...]


class Parting:
    """Removes peerings of this cluster; ``consumer_id`` is its own cluster id."""

    def __init__(self, server: ports.Server, consumer_id: str) -> None:
        self._server = server
        self._id = consumer_id

    async def remove(self, name: str, remote: ports.Server | None, *, forget: bool) -> Removed:
        """Remove a peering; with ``forget`` also one whose cluster holds volumes.

        The data stays where it is in any case. ``remote`` is the provider as its
        administrator: with it, what `add` made there is removed, too.

        Raises:
            errors.PreconditionError: volumes live there; or there is no such peering.
            errors.OperationPendingError: the controller has not let go of it yet.
        """
        cluster = await self._server.find(ports.REMOTE_CLUSTERS, name)
        forgotten: list[str] = []
        removed: list[str] = []
        if cluster is not None:
            cluster_id = str(cluster["spec"]["clusterID"])
            living, begun = await self._living(cluster_id), await self._begun(cluster_id)
            if forget:
                await self._forget(cluster, living, begun)
                forgotten += [volume.name for volume in living]
            elif living or begun:
                raise _refusal(name, living, begun)
            removed.append(await self._remove_cluster(cluster))
        removed += await self._remove_secret(name)
        kept: list[str] = []
        if remote is not None:
            lender = provider.Provider(remote, self._id)
            kept = [f"twin {_reference(twin)}" for twin in await lender.twins()]
            removed += [f"{what} in the provider" for what in await lender.expel()]
        if not removed:
            raise errors.PreconditionError(
                f"there is no RemoteCluster {name}, and nothing else of a peer of that name; "
                "csi-liqo peer list shows those there are"
            )
        return Removed(
            name=name, removed=tuple(removed), kept=tuple(kept), forgotten=tuple(forgotten)
        )

    async def _living(self, cluster_id: str) -> list[objects.PersistentVolume]:
        found = await self._server.list(ports.VOLUMES)
        return [v for v in virtual.volumes_at(found, cluster_id) if not virtual.forgotten(v)]

    async def _begun(self, cluster_id: str) -> list[ports.Manifest]:
        """Return the claims of which something may have been written there, and no more."""
        noted = await begun_there.read(self._server)
        return [
            claim
            for claim in await self._server.list(ports.CLAIMS)
            if (attempt := noted.get(claim["metadata"]["uid"]))
            and attempt.cluster_id == cluster_id
            and not claim["spec"].get("volumeName")
        ]

    async def _forget(
        self,
        cluster: ports.Manifest,
        living: list[objects.PersistentVolume],
        begun: list[ports.Manifest],
    ) -> None:
        """Mark what the cluster held, so that neither controller nor API server waits for it.

        What was only begun there holds no data: such claims start anew elsewhere.
        """
        cluster_id = str(cluster["spec"]["clusterID"])
        for volume in living:
            patch = _annotate(volume.uid, names.FORGOTTEN_ANNOTATION, cluster_id)
            await self._server.merge(ports.VOLUMES, volume.name, "", patch)
        if begun:
            await begun_there.end(self._server, (claim["metadata"]["uid"] for claim in begun))
        about = cluster["metadata"]
        opened = {names.FENCE_LABEL: names.FENCE_OPEN}
        patch = {"metadata": {"uid": about["uid"], "labels": opened}}
        await self._server.merge(ports.REMOTE_CLUSTERS, about["name"], "", patch)

    async def _remove_cluster(self, cluster: ports.Manifest) -> str:
        gone = await ensuring.remove(self._server, ports.REMOTE_CLUSTERS, cluster)
        name = cluster["metadata"]["name"]
        if not await self._server.wait_until_gone(
            ports.REMOTE_CLUSTERS, name, seconds=FINALIZER_SECONDS
        ):
            raise errors.OperationPendingError(
                f"RemoteCluster {name} is being deleted, and the controller has not let go of it "
                "yet; see that csi-liqo-controller runs, then repeat this command"
            )
        return gone

    async def _remove_secret(self, name: str) -> list[str]:
        labels = ensuring.marks(self._id)
        role = f"csi-liqo-renew-{name}"
        gone = [
            await ensuring.remove_marked(self._server, kind, what, names.DRIVER_NAMESPACE, labels)
            for kind, what in (
                (ports.SECRETS, peer_secret.name_of(name)),
                (ports.ROLE_BINDINGS, role),
                (ports.ROLES, role),
            )
        ]
        return [what for what in gone if what]


def _refusal(
    name: str, living: list[objects.PersistentVolume], begun: list[ports.Manifest]
) -> errors.Error:
    claims = [_claim_of(volume) for volume in living]
    claims += [f"claim {_reference(claim)}, which is being made there" for claim in begun]
    some = "; ".join(claims[:_NAMED]) + ("; ..." if len(claims) > _NAMED else "")
    return errors.PreconditionError(
        f"RemoteCluster {name} is the home of {len(claims)} volumes ({some}); delete their "
        "claims first, or keep the data there and lose sight of it with --forget"
    )


def _annotate(uid: str, key: str, value: str) -> ports.Manifest:
    return {"metadata": {"uid": uid, "annotations": {key: value}}}


def _claim_of(volume: objects.PersistentVolume) -> str:
    claim = volume.spec.claim_ref
    return f"claim {claim.namespace}/{claim.name}" if claim else f"volume {volume.name}"


def _reference(claim: ports.Manifest) -> str:
    return f"{claim['metadata']['namespace']}/{claim['metadata']['name']}"
