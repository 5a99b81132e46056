"""What a provider holds for one consumer: its account, its rights, its tokens."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from csi_liqo.model import credentials, errors, names
from csi_liqo.service.tools import ensuring, grants, ports

LIQO_ID_LABEL: Final = "app.kubernetes.io/name=clusterid-configmap"
"""On the ConfigMap by which Liqo tells a cluster's id."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Checked:
    """A grant as the consumer's account has it, in one place.

    ``where`` is a namespace, or ``*``; ``missing`` the verbs that are refused.
    """

    grant: str
    where: str
    missing: tuple[str, ...]
    purpose: str
    cost: str

    @property
    def granted(self) -> bool:
        return not self.missing


class Provider:
    """The provider's side, as its administrator sees it."""

    def __init__(self, server: ports.Server, consumer_id: str) -> None:
        self._server = server
        self._id = consumer_id
        self.account = consumer_id
        self.account_uid = ""
        self.written: list[str] = []

    async def liqo_id(self) -> str:
        """Return the cluster id that Liqo gave this cluster; empty when it gave none."""
        found = await self._server.list(ports.CONFIG_MAPS, labels=LIQO_ID_LABEL)
        return str((found[0].get("data") or {}).get("CLUSTER_ID", "")) if found else ""

    async def admit(self) -> None:
        """Make the consumer's account, and its right to the next token for itself."""
        await self._ensure_namespace(grants.CONSUMERS_NAMESPACE)
        here = {"namespace": grants.CONSUMERS_NAMESPACE}
        account = {"metadata": self._named(self.account, **here)}
        made = await self._ensure(ports.ACCOUNTS, account)
        self.account_uid = str(made["metadata"]["uid"])
        own = grants.renewal(self.account)
        name = f"csi-liqo-{own.name}-{self._id}"
        role = {"metadata": self._named(name, **here), "rules": [r.forge() for r in own.rules]}
        await self._ensure(ports.ROLES, role)
        await self._bind(ports.ROLE_BINDINGS, name, ("Role", name), grants.CONSUMERS_NAMESPACE)

    async def grant(self, wanted: Iterable[grants.Grant], namespaces: Iterable[str]) -> None:
        """Make the roles of grants, and bind them; a namespace that is missing is made."""
        everywhere = tuple(namespaces)
        for namespace in everywhere:
            await self._ensure_namespace(namespace)
        for grant in wanted:
            await self._ensure(
                ports.CLUSTER_ROLES,
                {
                    "metadata": {"name": grant.role, "labels": _PART_OF},
                    "rules": [rule.forge() for rule in grant.rules],
                },
                mark="app.kubernetes.io/part-of",
            )
            name = f"{grant.role}-{self._id}"
            to = ("ClusterRole", grant.role)
            if grant.everywhere:
                await self._bind(ports.CLUSTER_ROLE_BINDINGS, name, to)
                continue
            for namespace in everywhere:
                await self._bind(ports.ROLE_BINDINGS, name, to, namespace)

    async def granted(self) -> tuple[set[str], set[str]]:
        """Return the names of the grants that are bound, and the namespaces they are bound in."""
        found = [
            *await self._server.list(ports.ROLE_BINDINGS, labels=self._selector),
            *await self._server.list(ports.CLUSTER_ROLE_BINDINGS, labels=self._selector),
        ]
        known = {grant.role: grant.name for grant in grants.ALL}
        ours = [item for item in found if item["roleRef"]["name"] in known]
        namespaces = {item["metadata"].get("namespace", "") for item in ours}
        return {known[item["roleRef"]["name"]] for item in ours}, namespaces - {""}

    async def issue(self, seconds: int) -> str:
        """Return a new token, bound to a new Secret; the older ones stay valid."""
        metadata = self._named("", namespace=grants.CONSUMERS_NAMESPACE)
        metadata["labels"] |= {names.TOKEN_LABEL: self._id}
        metadata = {key: value for key, value in metadata.items() if value}
        secret = await self._server.create(
            ports.SECRETS,
            {
                "apiVersion": "v1",
                "kind": "Secret",
                "metadata": metadata | {"generateName": f"{self.account}-token-"},
                "immutable": True,
            },
        )
        return await self._server.issue_token(
            grants.CONSUMERS_NAMESPACE, self.account, secret=secret, seconds=seconds
        )

    async def accepts(self, token: credentials.Token) -> bool:
        """Tell whether a token is of the account that ``admit`` found, and not revoked."""
        if token.account_uid != self.account_uid:
            return False
        found = await self._server.find(ports.SECRETS, token.secret, grants.CONSUMERS_NAMESPACE)
        return found is not None and found["metadata"]["uid"] == token.secret_uid

    async def revoke_others(self, kept: str) -> int:
        """Have every token refused but those bound to one Secret; returns how many Secrets."""
        selector = f"{names.TOKEN_LABEL}={self._id}"
        found = await self._server.list(ports.SECRETS, grants.CONSUMERS_NAMESPACE, labels=selector)
        others = [item for item in found if item["metadata"]["name"] != kept]
        for secret in others:
            await ensuring.remove(self._server, ports.SECRETS, secret)
        return len(others)

    async def expel(self) -> list[str]:
        """Remove all that was made for the consumer but namespaces and twins; say what.

        The account goes first: with it every token of it is refused.
        """
        here = grants.CONSUMERS_NAMESPACE
        labels = ensuring.marks(self._id)
        gone = [
            await ensuring.remove_marked(self._server, ports.ACCOUNTS, self.account, here, labels)
        ]
        for kind, namespace in (
            (ports.SECRETS, here),
            (ports.ROLE_BINDINGS, ""),
            (ports.CLUSTER_ROLE_BINDINGS, ""),
            (ports.ROLES, here),
        ):
            found = await self._server.list(kind, namespace, labels=self._selector)
            gone += [await ensuring.remove(self._server, kind, item) for item in found]
        return [name for name in gone if name]

    async def twins(self) -> Sequence[ports.Manifest]:
        """Return the claims that were made for the consumer and are still there."""
        return await self._server.list(
            ports.CLAIMS, labels=f"{names.CONSUMER_LABEL}={self._id},{names.VOLUME_LABEL}"
        )

    @property
    def _selector(self) -> str:
        return ",".join(f"{key}={value}" for key, value in ensuring.marks(self._id).items())

    def _named(self, name: str, **more: str) -> dict[str, Any]:
        return {"name": name, "labels": ensuring.marks(self._id), **more}

    async def _ensure(
        self, kind: ports.Kind, manifest: ports.Manifest, mark: str = names.CONSUMER_LABEL
    ) -> ports.Manifest:
        made, written = await ensuring.ensure(self._server, kind, manifest, mark=mark)
        if written:
            self.written.append(ports.named(made))
        return made

    async def _bind(
        self, kind: ports.Kind, name: str, to: tuple[str, str], namespace: str = ""
    ) -> None:
        where = {"namespace": namespace} if namespace else {}
        binding = {
            "metadata": self._named(name, **where),
            "roleRef": {"apiGroup": ports.RBAC, "kind": to[0], "name": to[1]},
            "subjects": ports.subjects((grants.CONSUMERS_NAMESPACE, self.account)),
        }
        await self._ensure(kind, binding)

    async def _ensure_namespace(self, name: str) -> None:
        manifest = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}
        try:
            await self._server.create(ports.NAMESPACES, manifest)
        except errors.ApiAlreadyExistsError:
            return
        except errors.ApiForbiddenError:
            # Who may not make namespaces is told so also of one that exists.
            if await self._server.find(ports.NAMESPACES, name) is None:
                raise
            return
        self.written.append(f"Namespace {name}")


_PART_OF: Final = {"app.kubernetes.io/part-of": "csi-liqo"}


async def check(
    account: ports.Server, consumer_id: str, namespaces: Iterable[str]
) -> list[Checked]:
    """Ask the provider, as the account itself, for each right that there is a use for."""
    mapped = sorted(namespaces)
    questions = [
        (grant, where) for grant in grants.ALL for where in (("*",) if grant.everywhere else mapped)
    ]
    questions.append((grants.renewal(consumer_id), grants.CONSUMERS_NAMESPACE))

    async def ask(grant: grants.Grant, where: str) -> Checked:
        rights = tuple(grant.rights(where))
        answers = await asyncio.gather(*(account.may(right) for right in rights))
        refused = [right.verb for right, may in zip(rights, answers, strict=True) if not may]
        return Checked(
            grant=grant.name,
            where=where,
            missing=tuple(dict.fromkeys(refused)),
            purpose=grant.purpose,
            cost=grant.cost,
        )

    return list(await asyncio.gather(*(ask(grant, where) for grant, where in questions)))
