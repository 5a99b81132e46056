"""The caches of one provider, and the lines they are kept up by.

A session outlives outages and renewed credentials: its caches stay, so that a call
that waits on one goes on waiting for the right thing. It ends when other kinds may
be read than before, or another cluster is meant.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeVar

import msgspec

from csi_liqo.kube import (
    api,
    backoff,
    collection,
    contact,
    event_warnings,
    indexes,
    resources,
    spread,
    store,
)
from csi_liqo.model import errors, names, objects
from csi_liqo.service.controller import clusters

logger = logging.getLogger(__name__)

T = TypeVar("T", bound=objects.Object)

SYNC_SECONDS: Final = 60.0
"""How long the first lists of a provider may take."""
EXPLORE_SECONDS: Final = 3.0
"""How long a new session waits until every namespace with twins is known; claims wait for it."""
FIRST_DELAY_SECONDS: Final = 1.0
LAST_DELAY_SECONDS: Final = 60.0


@dataclass(frozen=True, slots=True)
class Grants:
    """Which kinds may be listed in a whole provider."""

    claims: bool
    volumes: bool
    classes: bool
    capacities: bool
    csi_drivers: bool

    @property
    def complete(self) -> bool:
        """Whether all is granted that is of use; claims are as well granted by namespace."""
        return self.volumes and self.classes and self.capacities and self.csi_drivers


@dataclass(frozen=True, slots=True)
class Lines:
    """Three ways to one API server, by one credential.

    Watches hold their connections for minutes and must not starve the calls; the probe
    has one of its own, because it is what tells that the others hang.
    """

    calls: api.Api
    watches: api.Api
    probe: api.Api

    @classmethod
    async def of(cls, kubeconfig: str, exec_plugins: Collection[str] = ()) -> Lines:
        """Make them from a kubeconfig's text; nothing is sent yet.

        Raises:
            errors.PreconditionError: see ``Api.from_kubeconfig_text``.
        """
        lines = [await api.Api.from_kubeconfig_text(kubeconfig, exec_plugins) for _ in range(3)]
        return cls(*lines)

    async def close(self) -> None:
        """Close every connection."""
        for line in (self.calls, self.watches, self.probe):
            await line.close()

    async def exchange(self, fresh: Lines) -> None:
        """Go on with another credential, which is used up by that."""
        await self.calls.exchange(fresh.calls)
        await self.watches.exchange(fresh.watches)
        await self.probe.exchange(fresh.probe)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ears:
    """Who hears of what in a provider.

    ``on_offer`` hears that classes, drivers or their capacity changed.
    ``on_watch`` hears the name of a watch and its failure, None when it is well;
    ``on_silence`` in which namespaces events may not be read.
    """

    on_claim: store.Listener[objects.Claim]
    on_offer: Callable[[], None]
    on_watch: Callable[[str, errors.ApiError | None], None]
    on_silence: Callable[[frozenset[str]], None]


class Session:
    """What is kept of one provider while ``keep`` runs."""

    def __init__(
        self,
        lines: Lines,
        grants: Grants,
        circuit: contact.Contact,
        ears: Ears,
        *,
        name: str,
        consumer_id: str,
        mapped: Callable[[], Awaitable[Iterable[str]]],
    ) -> None:
        """``mapped`` names the namespaces that a mapping leads to, used or not."""
        self.lines = lines
        self.grants = grants
        self._ears = ears
        self._name = name
        self.namespaces: dict[str, str] = {}
        """The namespaces that are watched one by one, and the name of each one's watch."""
        self._selector = f"{names.CONSUMER_LABEL}={consumer_id}"
        self._tasks: asyncio.TaskGroup | None = None
        self._to_begin: list[spread.Keep] = []
        self._ended = False
        lines.calls.gate = circuit.call
        lines.watches.gate = circuit.opening
        lines.watches.on_break = circuit.broke
        self._warnings = event_warnings.EventWarnings(lines.calls, ears.on_silence)
        self._config_maps = collection.Collection(lines.calls, lines.watches, resources.CONFIG_MAPS)
        self._optional: list[collection.Collection[Any]] = []
        self._volumes = self._granted(
            grants.volumes, resources.VOLUMES, "volumes", indexes.REMOTE_VOLUMES
        )
        self._classes = self._granted(grants.classes, resources.CLASSES, "classes")
        self._capacities = self._granted(
            grants.capacities, resources.CAPACITIES, "capacities", indexes.CAPACITIES
        )
        self._csi_drivers = self._granted(grants.csi_drivers, resources.CSI_DRIVERS, "drivers")
        for part in (self._classes, self._capacities, self._csi_drivers):
            if part is not None:
                part.store.listen(lambda *_: ears.on_offer())
        self._mapped = mapped
        self._claims: collection.Collection[objects.Claim] | spread.SpreadClaims
        if grants.claims:
            self._claims = self._watch_claims("")
        else:
            self._claims = known = spread.SpreadClaims(self._begin, self._watch_claims)
            self._begin(lambda: self._explore(known))

    async def keep(self) -> None:
        """Keep the caches up, and those that are named later; ends only by being cancelled."""
        try:
            async with asyncio.TaskGroup() as self._tasks:
                for part in self._optional:
                    self._begin(part.keep)
                if not isinstance(self._claims, spread.SpreadClaims):
                    self._begin(self._claims.keep)
                for keeping in self._to_begin:
                    self._begin(keeping)
                await asyncio.Future()  # until cancelled
        finally:
            self._ended = True
            gone = errors.ApiUnavailableError(f"the connection to {self._name} was given up")
            for cache in self._stores():
                cache.end(gone)
            await self.lines.close()

    async def filled(self, namespaces: Iterable[str]) -> None:
        """Wait for the first lists; a namespace that cannot be listed is waited for shortly.

        Raises:
            errors.ApiUnavailableError: they did not come in time.
        """
        parts = list(self._optional)
        if not isinstance(self._claims, spread.SpreadClaims):
            parts.append(self._claims)
        try:
            async with asyncio.timeout(SYNC_SECONDS):
                for part in parts:
                    await part.store.wait_synced()
        except TimeoutError:
            raise errors.ApiUnavailableError(
                f"the first lists did not come in {SYNC_SECONDS:.0f} s"
            ) from None
        await asyncio.gather(*(self._claims.ready(namespace) for namespace in namespaces))
        if isinstance(self._claims, spread.SpreadClaims):
            await self._claims.wait_explored(EXPLORE_SECONDS)

    def cluster(
        self, spec: objects.RemoteClusterSpec, *, identity: str, closing: bool
    ) -> clusters.Cluster:
        """Return what the services see of the provider."""
        return clusters.Cluster(
            id=spec.cluster_id,
            claims=self._claims,
            volumes=self._volumes,
            classes=self._classes,
            capacities=self._capacities,
            csi_drivers=self._csi_drivers,
            warnings=self._warnings,
            config_maps=self._config_maps,
            spec=spec,
            closing=closing,
            identity=identity,
        )

    async def _explore(self, claims: spread.SpreadClaims) -> None:
        delays = backoff.Backoff(FIRST_DELAY_SECONDS, LAST_DELAY_SECONDS)
        while not claims.explored:
            try:
                await claims.explore(await self._mapped(), self._holds_twins)
            except (errors.ApiError, msgspec.DecodeError) as error:
                logger.debug("namespaces of provider %s: %s", self._name, error)
                await asyncio.sleep(delays.next_seconds())

    async def _holds_twins(self, namespace: str) -> bool:
        query = {"labelSelector": self._selector, "limit": "1"}
        try:
            answer = await self.lines.calls.request(
                "GET", resources.CLAIMS.path(namespace), query=query
            )
        except (errors.ApiForbiddenError, errors.ApiNotFoundError):
            return False
        return bool(msgspec.json.decode(answer, type=_Some).items)

    def _stores(self) -> Iterable[store.Store[Any]]:
        yield from (part.store for part in self._optional)
        if isinstance(self._claims, spread.SpreadClaims):
            yield from self._claims.stores()
        else:
            yield self._claims.store

    def _granted(
        self,
        granted: bool,
        resource: resources.Resource[T],
        what: str,
        found_by: Mapping[str, store.Index[T]] | None = None,
    ) -> collection.Collection[T] | None:
        if not granted:
            return None
        part = self._watch(resource, what, indexes=found_by)
        self._optional.append(part)
        return part

    def _watch_claims(self, namespace: str) -> collection.Collection[objects.Claim]:
        what = "claims"
        if namespace:
            what = self.namespaces[namespace] = f"claims in namespace {namespace}"
        part = self._watch(
            resources.CLAIMS,
            what,
            indexes=indexes.CLAIMS,
            namespace=namespace,
            label_selector=self._selector,
        )
        part.store.listen(self._ears.on_claim)
        return part

    def _watch(
        self,
        resource: resources.Resource[T],
        what: str,
        *,
        indexes: Mapping[str, store.Index[T]] | None = None,
        namespace: str = "",
        label_selector: str = "",
    ) -> collection.Collection[T]:
        return collection.Collection(
            self.lines.calls,
            self.lines.watches,
            resource,
            indexes=indexes,
            namespace=namespace,
            label_selector=label_selector,
            on_failure=lambda error: self._ears.on_watch(what, error),
        )

    def _begin(self, keep: spread.Keep) -> None:
        """Start a cache; after the end there is nobody left who reads it."""
        if self._tasks is None:
            self._to_begin.append(keep)
        elif not self._ended:
            self._tasks.create_task(keep(), name=f"cache of provider {self._name}")


class _Some(objects.Struct, frozen=True):
    items: tuple[msgspec.Raw, ...] = ()


async def find_grants(server: api.Api) -> Grants:
    """Find out what may be listed in a whole provider, by asking for it."""

    async def granted(path: str) -> bool:
        try:
            await server.request("GET", path, query={"limit": "1"})
        except errors.ApiForbiddenError:
            return False
        return True

    return Grants(
        claims=await granted(resources.CLAIMS.path()),
        volumes=await granted(resources.VOLUMES.path()),
        classes=await granted(resources.CLASSES.path()),
        capacities=await granted(resources.CAPACITIES.path()),
        csi_drivers=await granted(resources.CSI_DRIVERS.path()),
    )
