"""Making, listing, renewing and ending the peering of this cluster with a provider.

Each write is one that may be repeated, in an order in which an interruption leaves
nothing that works by half: first the rights in the provider, then the Secret here,
last the RemoteCluster that makes the controller use both.
"""

from __future__ import annotations

import base64
import time
from dataclasses import dataclass
from typing import Any, Final

from csi_liqo.model import credentials, errors, names
from csi_liqo.service.tools import ensuring, grants, ports, provider, wishes

KUBECONFIG_KEY: Final = "kubeconfig"
CONTROLLERS: Final = ("csi-liqo-controller", "csi-liqo-controller-attach")
"""The service accounts of the two installations that may share a peering."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Added:
    """What a peering is after it was added; ``written`` is empty when it was so before."""

    name: str
    cluster_id: str
    server: str
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
            errors.PreconditionError: something of another owner is in the way.
            errors.ApiError: one of the two API servers refused, or did not answer.
        """
        known = await self._known(wish)
        lender = provider.Provider(remote, self._id)
        cluster_id = wish.cluster_id or wishes.id_of(known) or await lender.liqo_id() or wish.name
        await self._refuse_twice(wish.name, cluster_id, known)
        mapping = wishes.merge_mapping(known, wish)
        had, had_in = await lender.granted()
        namespaces = had_in | wishes.targets_of(mapping, wish, self._id)
        wanted = [g for g in grants.ALL if not g.optional or g.name in {*had, *wish.grants}]
        await lender.admit()
        await lender.grant(wanted, sorted(namespaces))
        kubeconfig, written = await self._credential(wish, lender)
        spec: dict[str, Any] = {
            "clusterID": cluster_id,
            "kubeconfigSecretRef": _reference(wish.name),
            "namespaceMapping": mapping,
        }
        classes = wishes.merge_classes(known, wish.classes)
        if classes:
            spec["classes"] = classes
        manifest = {"metadata": self._named(wish.name), "spec": spec}
        made, fresh = await ensuring.ensure(
            self._server, ports.REMOTE_CLUSTERS, manifest, mark=names.CONSUMER_LABEL
        )
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
            token_expires_at=token.expires_at,
            written=(*lender.written, *written, *([ports.named(made)] if fresh else [])),
            rights=tuple(rights),
        )

    async def rotate(self, name: str, remote: ports.Server | None) -> Rotated:
        """Put a new token into a peering's Secret.

        ``remote`` is the provider as its administrator; the old token is refused then.
        With None the account asks for its own next token, and the old one ends by itself.

        Raises:
            errors.PreconditionError: `add` did not make this peering.
            errors.ApiError: one of the two API servers refused, or did not answer.
        """
        secret = await self._server.find(ports.SECRETS, secret_name(name), names.DRIVER_NAMESPACE)
        old = _kubeconfig_in(secret)
        token = credentials.token_of(old) if old else None
        if secret is None or token is None:
            raise errors.PreconditionError(
                f"peer {name} has no Secret {names.DRIVER_NAMESPACE}/{secret_name(name)} with a "
                "token in it; run csi-liqo peer add again"
            )
        seconds = max(int(token.lifetime_seconds), _SHORTEST_SECONDS)
        if remote is None:
            async with self._connect(old) as account:
                fresh = await renew(account, token, seconds)
        else:
            fresh = await provider.Provider(remote, self._id).issue(seconds)
        data = _encoded(credentials.with_token(old, fresh))
        await self._server.merge(
            ports.SECRETS, secret_name(name), names.DRIVER_NAMESPACE, _data_patch(secret, data)
        )
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
        secret = await self._server.find(ports.SECRETS, secret_name(wish.name), where)
        text = _kubeconfig_in(secret)
        if not await self._usable(text, wish, lender):
            text = credentials.forge_kubeconfig(
                wish.reach,
                name=wish.name,
                user=self._id,
                token=await lender.issue(wish.token_seconds),
            )
        metadata = self._named(secret_name(wish.name), namespace=where)
        metadata["labels"] |= {names.RENEW_LABEL: "true"}
        written = []
        for kind, manifest in (
            (ports.SECRETS, {"metadata": metadata, "data": _encoded(text)}),
            *self._renewal_rights(wish.name),
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

    def _renewal_rights(self, name: str) -> list[tuple[ports.Kind, ports.Manifest]]:
        """The controller may write this one Secret, to put the next token into it."""
        about = self._named(f"csi-liqo-renew-{name}", namespace=names.DRIVER_NAMESPACE)
        rule = {"apiGroups": [""], "resources": ["secrets"], "verbs": ["patch"]}
        accounts = [(names.DRIVER_NAMESPACE, account) for account in CONTROLLERS]
        return [
            (
                ports.ROLES,
                {"metadata": about, "rules": [rule | {"resourceNames": [secret_name(name)]}]},
            ),
            (
                ports.ROLE_BINDINGS,
                {
                    "metadata": about,
                    "roleRef": {"apiGroup": ports.RBAC, "kind": "Role", "name": about["name"]},
                    "subjects": ports.subjects(*accounts),
                },
            ),
        ]

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


def secret_name(peer: str) -> str:
    """Return the name of the Secret with a peering's kubeconfig."""
    return f"peer-{peer}"


def _reference(peer: str) -> dict[str, str]:
    return {
        "namespace": names.DRIVER_NAMESPACE,
        "name": secret_name(peer),
        "key": KUBECONFIG_KEY,
    }


def _kubeconfig_in(secret: ports.Manifest | None) -> str:
    encoded = ((secret or {}).get("data") or {}).get(KUBECONFIG_KEY, "")
    return base64.b64decode(encoded).decode(errors="replace")


def _encoded(kubeconfig: str) -> dict[str, str]:
    return {KUBECONFIG_KEY: base64.b64encode(kubeconfig.encode()).decode()}


def _data_patch(secret: ports.Manifest, data: dict[str, str]) -> ports.Manifest:
    about = secret["metadata"]
    return {
        "metadata": {"uid": about["uid"], "resourceVersion": about["resourceVersion"]},
        "data": data,
    }


def _annotate(thing: ports.Manifest, key: str, value: str | None) -> ports.Manifest:
    return {"metadata": {"uid": thing["metadata"]["uid"], "annotations": {key: value}}}
