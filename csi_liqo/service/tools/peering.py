"""Making, listing, renewing and ending the peering of this cluster with a provider.

Each write is one that may be repeated, in an order in which an interruption leaves
nothing that works by half: first the rights in the provider, then the Secret here,
last the RemoteCluster that makes the controller use both.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any, Final

from csi_liqo.model import credentials, errors, names
from csi_liqo.service.tools import ensuring, grants, peer_secret, ports, provider, wishes


@dataclass(frozen=True, slots=True, kw_only=True)
class Added:
    """What a peering is after it was added; ``written`` is empty when it was so before.

    ``unproven`` says why its server need not prove who it is, empty when it must.
    """

    name: str
    cluster_id: str
    server: str
    unproven: str
    token_expires_at: float
    written: tuple[str, ...]
    rights: tuple[provider.Checked, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rotated:
    """``revoked``: whether the old token is refused now; else it works until ``old_until``."""

    name: str
    token_expires_at: float
    revoked: bool
    old_until: float


class Peering:
    """The peerings of this cluster; ``consumer_id`` is its own cluster id."""

    def __init__(self, server: ports.Server, consumer_id: str, connect: ports.Connect) -> None:
        self._server = server
        self._id = consumer_id
        self._connect = connect

    async def add(self, wish: wishes.Wish, remote: ports.Server) -> Added:
        """Make a peering be as asked for. What it had before and is not asked for stays.

        Raises:
            errors.InvalidRequestError: a name that is asked for is none.
            errors.PreconditionError: something of another owner is in the way; or what is
                asked for is never granted. Nothing was written then.
            errors.ApiError: one of the two API servers refused, or did not answer.
        """
        wishes.refuse_unfit(wish)
        known = await self._known(wish)
        lender = provider.Provider(remote, self._id)
        cluster_id = wish.cluster_id or wishes.id_of(known) or await lender.liqo_id() or wish.name
        await self._refuse_twice(wish.name, cluster_id, known)
        mapping = wishes.merge_mapping(known, wish)
        targets = wishes.targets_of(mapping, wish, self._id)
        manifest = self._forge(wish, known, cluster_id, mapping)
        # Whatever its schema refuses is refused before the first right is given.
        await self._ensure_cluster(manifest, dry_run=True)
        had, had_in = await lender.granted()
        namespaces = had_in | targets
        wanted = [g for g in grants.ALL if not g.optional or g.name in {*had, *wish.grants}]
        await lender.admit()
        await lender.grant(wanted, sorted(namespaces))
        kubeconfig, written = await self._credential(wish, lender)
        made, fresh = await self._ensure_cluster(manifest)
        token = credentials.token_of(kubeconfig)
        assert token is not None
        await lender.revoke_others(token.secret)
        await self._remember(cluster_id)
        here = credentials.forge_kubeconfig(
            wish.cluster, name=wish.name, user=self._id, token=token.text
        )
        async with self._connect(here) as account:
            rights = await provider.check(account, self._id, namespaces)
        return Added(
            name=wish.name,
            cluster_id=cluster_id,
            server=credentials.server_of(kubeconfig),
            unproven=wishes.why_unproven(wish.reach),
            token_expires_at=token.expires_at,
            written=(*lender.written, *written, *([ports.named(made)] if fresh else [])),
            rights=tuple(rights),
        )

    def _forge(
        self,
        wish: wishes.Wish,
        known: ports.Manifest | None,
        cluster_id: str,
        mapping: dict[str, Any],
    ) -> ports.Manifest:
        spec: dict[str, Any] = {
            "clusterID": cluster_id,
            "kubeconfigSecretRef": peer_secret.reference(wish.name),
            "namespaceMapping": mapping,
        }
        classes = wishes.merge_classes(known, wish.classes)
        if classes:
            spec["classes"] = classes
        return {"metadata": self._named(wish.name), "spec": spec}

    async def _ensure_cluster(
        self, manifest: ports.Manifest, *, dry_run: bool = False
    ) -> tuple[ports.Manifest, bool]:
        return await ensuring.ensure(
            self._server,
            ports.REMOTE_CLUSTERS,
            manifest,
            mark=names.CONSUMER_LABEL,
            dry_run=dry_run,
        )

    async def rotate(self, name: str, remote: ports.Server | None) -> Rotated:
        """Put a new token into a peering's Secret.

        ``remote`` is the provider as its administrator; the old token is refused then.
        With None the account asks for its own next token, and the old one ends by itself.

        Raises:
            errors.PreconditionError: `add` did not make this peering.
            errors.ApiError: one of the two API servers refused, or did not answer.
        """
        what, where = peer_secret.name_of(name), names.DRIVER_NAMESPACE
        secret = await self._server.find(ports.SECRETS, what, where)
        old = peer_secret.kubeconfig_in(secret)
        token = credentials.token_of(old) if old else None
        if secret is None or token is None:
            raise errors.PreconditionError(
                f"peer {name} has no Secret {where}/{what} with a token in it; run csi-liqo peer "
                "add again"
            )
        seconds = max(int(token.lifetime_seconds), _SHORTEST_SECONDS)
        if remote is None:
            async with self._connect(old) as account:
                fresh = await renew(account, token, seconds)
        else:
            fresh = await provider.Provider(remote, self._id).issue(seconds)
        data = peer_secret.encoded(credentials.with_token(old, fresh))
        patch = peer_secret.forge_patch(secret, data)
        await self._server.merge(ports.SECRETS, what, where, patch)
        new = credentials.read_token(fresh)
        assert new is not None
        if remote is not None:
            await provider.Provider(remote, self._id).revoke_others(new.secret)
        return Rotated(
            name=name,
            token_expires_at=new.expires_at,
            revoked=remote is not None,
            old_until=token.expires_at,
        )

    async def _known(self, wish: wishes.Wish) -> ports.Manifest | None:
        """Return the RemoteCluster as it is, once this cluster is known to be prepared."""
        driver = names.DRIVER_NAMESPACE
        if await self._server.find(ports.NAMESPACES, driver) is None:
            raise errors.PreconditionError(
                f"namespace {driver} does not exist here; install the driver first "
                "(kubectl apply -k deploy)"
            )
        secret = await self._server.find(ports.SECRETS, peer_secret.name_of(wish.name), driver)
        if secret is not None:
            ensuring.refuse_foreign(secret, names.CONSUMER_LABEL, self._id)
        return await self._server.find(ports.REMOTE_CLUSTERS, wish.name)

    async def _refuse_twice(self, name: str, cluster_id: str, known: ports.Manifest | None) -> None:
        """Two names for one cluster, or one for two, would make volumes unreachable."""
        if cluster_id == self._id:
            raise errors.PreconditionError(
                f"{cluster_id} is this cluster's own id; name the provider's with --cluster-id"
            )
        if known is not None and wishes.id_of(known) != cluster_id:
            raise errors.PreconditionError(
                f"RemoteCluster {name} stands for cluster {wishes.id_of(known)}, not {cluster_id}; "
                "choose another name"
            )
        try:
            everyone = await self._server.list(ports.REMOTE_CLUSTERS)
        except errors.ApiNotFoundError as error:
            raise errors.PreconditionError(
                "this cluster knows no RemoteClusters; install the driver first "
                "(kubectl apply -k deploy)"
            ) from error
        for other in everyone:
            if wishes.id_of(other) == cluster_id and other["metadata"]["name"] != name:
                raise errors.PreconditionError(
                    f"cluster {cluster_id} is known as RemoteCluster "
                    f"{other['metadata']['name']} already; use that name"
                )

    async def _credential(
        self, wish: wishes.Wish, lender: provider.Provider
    ) -> tuple[str, list[str]]:
        """Return a kubeconfig that works, and what had to be written for it."""
        where = names.DRIVER_NAMESPACE
        secret = await self._server.find(ports.SECRETS, peer_secret.name_of(wish.name), where)
        text = peer_secret.kubeconfig_in(secret)
        if not await self._usable(text, wish, lender):
            text = credentials.forge_kubeconfig(
                wish.reach,
                name=wish.name,
                user=self._id,
                token=await lender.issue(wish.token_seconds),
            )
        metadata = self._named(peer_secret.name_of(wish.name), namespace=where)
        metadata["labels"] |= {names.RENEW_LABEL: "true"}
        written = []
        for kind, manifest in (
            (ports.SECRETS, {"metadata": metadata, "data": peer_secret.encoded(text)}),
            *peer_secret.renewal_rights(wish.name, ensuring.marks(self._id)),
        ):
            made, fresh = await ensuring.ensure(
                self._server, kind, manifest, mark=names.CONSUMER_LABEL
            )
            if fresh:
                written.append(ports.named(made))
        return text, written

    async def _usable(self, text: str, wish: wishes.Wish, lender: provider.Provider) -> bool:
        token = credentials.token_of(text) if text else None
        return (
            token is not None
            and token.renew_at > time.time()
            and credentials.cluster_of(text) == wish.reach
            and await lender.accepts(token)
        )

    async def _remember(self, cluster_id: str) -> None:
        """Volumes that were forgotten with this cluster are within reach again."""
        for volume in await self._server.list(ports.VOLUMES):
            if ports.annotations_of(volume).get(names.FORGOTTEN_ANNOTATION) == cluster_id:
                patch = _annotate(volume, names.FORGOTTEN_ANNOTATION, None)
                await self._server.merge(ports.VOLUMES, volume["metadata"]["name"], "", patch)

    def _named(self, name: str, **more: str) -> dict[str, Any]:
        return {"name": name, "labels": ensuring.marks(self._id), **more}


_SHORTEST_SECONDS: Final = 600  # the least that an API server issues a token for


async def renew(account: ports.Server, token: credentials.Token, seconds: int) -> str:
    """Return the next token of the account that asks, bound as the one it has."""
    about = {"name": token.secret, "uid": token.secret_uid}
    secret = {"metadata": about} if token.secret else None
    return await account.issue_token(token.namespace, token.account, secret=secret, seconds=seconds)


def _annotate(thing: ports.Manifest, key: str, value: str | None) -> ports.Manifest:
    return {"metadata": {"uid": thing["metadata"]["uid"], "annotations": {key: value}}}
