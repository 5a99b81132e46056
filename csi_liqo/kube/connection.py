"""The connection to one provider: its kubeconfig, its caches, and how it fares."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import dataclasses
import logging
import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final

from csi_liqo.kube import api, collection, indexes, resources, spread, store
from csi_liqo.model import errors, names, objects
from csi_liqo.service.controller import clusters

logger = logging.getLogger(__name__)

FIRST_DELAY_SECONDS: Final = 0.5
LAST_DELAY_SECONDS: Final = 30.0


@dataclass(frozen=True, slots=True)
class Report:
    """How a provider's connection is: a reason is one CamelCase word, a message a sentence."""

    connected: bool
    reason: str
    message: str
    identity: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """This cluster as a connection needs it, and who wants to hear of what.

    ``on_report`` hears the name of a RemoteCluster whose report changed, ``on_claim``
    of each change of a twin in a provider. ``namespaces_in_use`` says which of a
    provider's namespaces may hold twins.
    """

    consumer_id: str
    calls: api.Api
    watches: api.Api
    on_report: Callable[[str], None]
    on_claim: store.Listener[objects.Claim]
    namespaces_in_use: Callable[[objects.RemoteClusterSpec], Iterable[str]]


class _ReconnectError(Exception):
    """The connection must be made anew."""


class Connection:
    """One provider, connected to for as long as ``run`` runs."""

    def __init__(self, around: Surroundings, remote: objects.RemoteCluster) -> None:
        self.name = remote.name
        self.spec = remote.spec
        self.cluster: clusters.Cluster | None = None
        self.report = Report(False, "Connecting", "the connection is being made")
        self._known_identity = remote.status.identity
        self._around = around
        self._broken = asyncio.Event()
        self.settled = asyncio.Event()
        """Set once the connection is there, or known not to be."""

    def adopts(self, spec: objects.RemoteClusterSpec) -> bool:
        """Take in a changed spec if the connection may stay; False when it may not."""
        same_id = spec.cluster_id == self.spec.cluster_id
        if not same_id or spec.kubeconfig_secret_ref != self.spec.kubeconfig_secret_ref:
            return False
        self.spec = spec
        if self.cluster is not None:
            self.cluster = dataclasses.replace(self.cluster, spec=spec)
        return True

    async def run(self) -> None:
        """Connect, and connect again whenever the Secret changes or a watch is refused."""
        reference = self.spec.kubeconfig_secret_ref
        secret: collection.Collection[objects.Secret] = collection.Collection(
            self._around.calls,
            self._around.watches,
            resources.SECRETS,
            namespace=reference.namespace,
            field_selector=f"metadata.name={reference.name}",
            on_failure=self._secret_failed,
        )
        secret.store.listen(lambda *_: self._broken.set())
        async with asyncio.TaskGroup() as group:
            group.create_task(secret.keep(), name=f"kubeconfig of provider {self.name}")
            await secret.store.wait_synced()
            delay = FIRST_DELAY_SECONDS
            while True:
                self._broken.clear()
                try:
                    await self._connected(secret.get(reference.namespace, reference.name))
                    delay = FIRST_DELAY_SECONDS
                except errors.Error as error:
                    self._say(Report(False, _reason(error), str(error)))
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(delay * random.uniform(0.5, 1)):  # noqa: S311
                        await self._broken.wait()
                delay = min(delay * 2, LAST_DELAY_SECONDS)

    async def _connected(self, secret: objects.Secret | None) -> None:
        """Be connected as one kubeconfig says; returns when that must be done anew."""
        text = self._kubeconfig(secret)
        if self.spec.cluster_id == self._around.consumer_id:
            raise errors.PreconditionError(
                f"clusterID {self.spec.cluster_id} is this cluster's own; a provider has another"
            )
        calls = await api.Api.from_kubeconfig_text(text)
        watches = await api.Api.from_kubeconfig_text(text)
        async with calls, watches:
            identity = await self._identify(calls)
            grants = await _grants_of(calls)
            used = tuple(self._around.namespaces_in_use(self.spec))
            try:
                async with asyncio.TaskGroup() as group:
                    self.cluster = await self._open(calls, watches, grants, used, group)
                    self._say(Report(True, "Connected", "all watches are alive", identity))
                    logger.info("connected to provider %s", self.name)
                    await self._broken.wait()
                    raise _ReconnectError
            except* _ReconnectError:
                pass
            finally:
                self.cluster = None

    def _kubeconfig(self, secret: objects.Secret | None) -> str:
        reference = self.spec.kubeconfig_secret_ref
        where = f"Secret {reference.namespace}/{reference.name}"
        if secret is None:
            raise errors.PreconditionError(f"{where} does not exist; create it")
        try:
            return base64.b64decode(secret.data[reference.key]).decode()
        except KeyError:
            raise errors.PreconditionError(f"{where} has no key {reference.key}") from None
        except ValueError:
            raise errors.PreconditionError(f"{where}: key {reference.key} is no text") from None

    async def _identify(self, calls: api.Api) -> str:
        """Return the uid of kube-system, empty where it may not be read.

        A cluster that was re-created answers under the same address with other data.

        Raises:
            errors.PreconditionError: it is not the cluster that was there before.
        """
        namespaces = collection.Collection(calls, calls, resources.NAMESPACES)
        try:
            found = await namespaces.read("", "kube-system")
        except errors.ApiForbiddenError:
            return self._known_identity
        identity = found.uid if found is not None else ""
        if self._known_identity and identity != self._known_identity:
            raise errors.PreconditionError(
                f"another cluster answers for {self.spec.cluster_id}: its identity is {identity}, "
                f"it was {self._known_identity}; nothing is written there. If the old one and its "
                f"volumes are gone for good, delete RemoteCluster {self.name} and create it again"
            )
        self._known_identity = identity
        return identity

    async def _open(
        self,
        calls: api.Api,
        watches: api.Api,
        grants: _Grants,
        used: Iterable[str],
        group: asyncio.TaskGroup,
    ) -> clusters.Cluster:
        selector = f"{names.CONSUMER_LABEL}={self._around.consumer_id}"

        def claims_of(namespace: str) -> collection.Collection[objects.Claim]:
            part = collection.Collection(
                calls,
                watches,
                resources.CLAIMS,
                indexes=indexes.CLAIMS,
                namespace=namespace,
                label_selector=selector,
                on_failure=self._part_failed if namespace else self._watch_failed,
            )
            part.store.listen(self._around.on_claim)
            return part

        volumes = None
        if grants.volumes:
            volumes = collection.Collection(
                calls, watches, resources.VOLUMES, indexes=indexes.REMOTE_VOLUMES
            )
            group.create_task(volumes.keep(), name=f"volumes of provider {self.name}")
            await volumes.store.wait_synced()
        classes = None
        if grants.classes:
            classes = collection.Collection(calls, watches, resources.CLASSES)
            group.create_task(classes.keep(), name=f"classes of provider {self.name}")
            await classes.store.wait_synced()
        claims: collection.Collection[objects.Claim] | spread.SpreadClaims
        if grants.claims:
            claims = claims_of("")
            group.create_task(claims.keep(), name=f"claims of provider {self.name}")
            await claims.store.wait_synced()
        else:
            claims = spread.SpreadClaims(group, claims_of)
            await asyncio.gather(*(claims.ready(namespace) for namespace in used))
        return clusters.Cluster(
            id=self.spec.cluster_id,
            claims=claims,
            volumes=volumes,
            classes=classes,
            warnings=collection.EventWarnings(calls),
            spec=self.spec,
        )

    def _secret_failed(self, error: errors.ApiError | None) -> None:
        reference = self.spec.kubeconfig_secret_ref
        if isinstance(error, errors.ApiForbiddenError):
            text = f"Secret {reference.namespace}/{reference.name} cannot be read: {error}"
            self._say(Report(False, "KubeconfigForbidden", text))

    def _part_failed(self, error: errors.ApiError | None) -> None:
        """One namespace that is gone or not granted is no trouble of the others."""
        if not isinstance(error, errors.ApiForbiddenError):
            self._watch_failed(error)

    def _watch_failed(self, error: errors.ApiError | None) -> None:
        """A refusal may mean other rights or another identity; anything else heals by itself."""
        identity = self._known_identity
        if error is None:
            self._say(Report(True, "Connected", "all watches are alive", identity))
        elif isinstance(error, errors.ApiForbiddenError) or error.status == 401:
            self._say(Report(False, _reason(error), str(error), identity))
            self._broken.set()
        else:
            self._say(Report(False, _reason(error), str(error), identity))

    def _say(self, report: Report) -> None:
        self.settled.set()
        if report != self.report:
            self.report = report
            self._around.on_report(self.name)


@dataclass(frozen=True, slots=True)
class _Grants:
    """Which kinds may be listed in a whole provider."""

    claims: bool
    volumes: bool
    classes: bool


async def _grants_of(calls: api.Api) -> _Grants:
    async def granted(path: str) -> bool:
        try:
            await calls.request("GET", path, query={"limit": "1"})
        except errors.ApiForbiddenError:
            return False
        return True

    return _Grants(
        claims=await granted(resources.CLAIMS.path()),
        volumes=await granted(resources.VOLUMES.path()),
        classes=await granted(resources.CLASSES.path()),
    )


def _reason(error: errors.Error) -> str:
    match error:
        case errors.ApiForbiddenError():
            return "Forbidden"
        case errors.ApiUnavailableError() if error.status == 401:
            return "Unauthorized"
        case errors.ApiError():
            return "Unreachable"
        case _:
            return "Misconfigured"
