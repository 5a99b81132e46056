"""The connection to one provider: its kubeconfig, and how it fares."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from csi_liqo.kube import (
    api,
    backoff,
    collection,
    contact,
    identity,
    kubeconfigs,
    reports,
    resources,
    session,
    store,
)
from csi_liqo.model import errors, objects
from csi_liqo.service.controller import clusters

logger = logging.getLogger(__name__)

FIRST_DELAY_SECONDS: Final = 0.5
LAST_DELAY_SECONDS: Final = 30.0
FIRST_REGRANT_SECONDS: Final = 2.0
REGRANT_SECONDS: Final = 60.0
"""How soon at the latest it is found out that something is granted which was not; at first, when
a refusal may have been no more than a moment's, much sooner."""

Report = reports.Report


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """This cluster as a connection needs it, and who wants to hear of what.

    ``on_report`` hears the name of a RemoteCluster whose report changed, ``on_claim``
    of each change of a twin in a provider. ``namespaces_in_use`` says which of a
    provider's namespaces may hold twins, ``mapped_namespaces`` which others a mapping leads
    to, where it names none. ``exec_plugins`` are the programs that a
    kubeconfig may start. ``patience_seconds`` is how long a call waits for a connection that
    is being made, as after a start. ``remembered`` is the identity by which the volumes of a
    cluster id know it, empty when none does: its description, which else remembers it, can be
    deleted and made again with another cluster behind it.
    """

    consumer_id: str
    calls: api.Api
    watches: api.Api
    on_report: Callable[[str], None]
    on_claim: store.Listener[objects.Claim]
    namespaces_in_use: Callable[[objects.RemoteClusterSpec], Iterable[str]]
    mapped_namespaces: Callable[[objects.RemoteClusterSpec], Awaitable[Iterable[str]]]
    exec_plugins: Collection[str] = ()
    patience_seconds: float = 5.0
    remembered: Callable[[str], str] = lambda _: ""


class Connection:
    """One provider, connected to for as long as ``run`` runs.

    Whatever happens to it (a renewed credential, an outage, other rights), its caches
    stay while they can, so that a call that waits on one is not lost.
    """

    def __init__(self, around: Surroundings, remote: objects.RemoteCluster) -> None:
        self.name = remote.name
        self.spec = remote.spec
        self.cluster: clusters.Cluster | None = None
        """What the services see of the provider, from the first connection on."""
        self._closing = remote.deleting
        self._uid = remote.uid
        self._identity = remote.status.identity or around.remembered(remote.spec.cluster_id)
        self._around = around
        self._session: session.Session | None = None
        self._kubeconfig_text = ""
        """What the session's lines were made from."""
        self._running: asyncio.Task[None] | None = None
        self._contact = contact.Contact(remote.spec.cluster_id, self._contact_changed)
        self._trouble: errors.Error | None = None
        """Why the kubeconfig, as it is now, leads to no connection."""
        self._secret_refused: errors.Error | None = None
        self._failing: dict[str, errors.ApiError] = {}
        self._eventless: frozenset[str] = frozenset()
        self._regrants = backoff.Backoff(FIRST_REGRANT_SECONDS, REGRANT_SECONDS)
        self._stale = asyncio.Event()
        """Set when kubeconfig, rights or identity must be looked at anew."""
        self._settled = asyncio.Event()
        """Set once the connection is there, or known not to be."""

    def adopts(self, remote: objects.RemoteCluster) -> bool:
        """Take in a changed description if the connection may stay; False when it may not."""
        spec = remote.spec
        same = remote.uid == self._uid and spec.cluster_id == self.spec.cluster_id
        if not same or spec.kubeconfig_secret_ref != self.spec.kubeconfig_secret_ref:
            return False
        self.spec, self._closing = spec, remote.deleting
        self._show()
        return True

    def forget_identity(self) -> None:
        """Take whoever answers next for the provider: an administrator says so.

        What the caches show is of the one before, so nobody sees them any more.
        """
        self._identity = self._kubeconfig_text = ""
        self._session = self.cluster = None
        self._stale.set()

    async def ready(self, seconds: float) -> bool:
        """Tell whether the provider may be spoken to, giving what is under way a moment."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._settled.wait()
        return (
            self.cluster is not None
            and self._trouble is None
            and await self._contact.settle(seconds)
        )

    @property
    def report(self) -> Report:
        """How the connection is now."""
        return reports.make_report(
            reports.Facts(
                spec=self.spec,
                contact=self._contact,
                identity=self._identity,
                session=self._session,
                shown=self.cluster is not None,
                trouble=self._secret_refused or self._trouble,
                failing=self._failing,
                eventless=self._eventless,
            )
        )

    async def run(self) -> None:
        """Connect, and look again whenever the Secret changes or something is refused."""
        reference = self.spec.kubeconfig_secret_ref
        secret: collection.Collection[objects.Secret] = collection.Collection(
            self._around.calls,
            self._around.watches,
            resources.SECRETS,
            namespace=reference.namespace,
            field_selector=f"metadata.name={reference.name}",
            on_failure=self._secret_failed,
        )
        secret.store.listen(lambda *_: self._stale.set())
        delays = backoff.Backoff(FIRST_DELAY_SECONDS, LAST_DELAY_SECONDS)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(secret.keep(), name=f"kubeconfig of provider {self.name}")
            await secret.store.wait_synced()
            while True:
                self._stale.clear()
                known = secret.get(reference.namespace, reference.name)
                connected = await self._connect(known, tasks)
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(self._patience(delays, connected=connected)):
                        await self._stale.wait()
                if connected:
                    delays.reset()
                    await asyncio.sleep(delays.next_seconds())  # many watches fail together

    def _patience(self, delays: backoff.Backoff, *, connected: bool) -> float | None:
        """Return how long to wait for something to change; None means for ever.

        That something is granted which was not is told by nobody.
        """
        if not connected:
            return delays.next_seconds()
        known = self._session
        if known is None or known.grants.complete:
            return None
        return self._regrants.next_seconds()

    async def _connect(self, secret: objects.Secret | None, tasks: asyncio.TaskGroup) -> bool:
        """Be connected as a kubeconfig says; False when that must be tried again."""
        text = ""
        try:
            text = self._kubeconfig(secret)
            await self._begin_or_renew(text, tasks)
        except errors.Error as error:
            logger.info("provider %s: %s", self.name, error)
            connected, self._trouble = False, error
            unavailable = isinstance(error, errors.ApiUnavailableError)
            if unavailable and self._session is not None and text == self._kubeconfig_text:
                self._trouble = None  # the circuit tells of it, and closes by itself
                self._contact.doubt(error)
        else:
            connected, self._trouble = True, None
        self._settled.set()
        self._say()
        return connected

    async def _begin_or_renew(self, text: str, tasks: asyncio.TaskGroup) -> None:
        """Have a session with this kubeconfig: the one that is, or one in its place."""
        async with contextlib.AsyncExitStack() as unused:
            lines = await session.Lines.of(text, self._around.exec_plugins)
            unused.push_async_callback(lines.close)
            found = await self._identify(lines)
            grants = await session.find_grants(lines.probe)
            known = self._session
            if known is None or known.grants != grants or not self._kubeconfig_text:
                unused.pop_all()
                await self._begin(lines, grants, tasks)
            elif text != self._kubeconfig_text:
                unused.pop_all()
                await known.lines.exchange(lines)
                self._contact.renew()
                logger.info("provider %s: credential renewed", self.name)
        self._identity, self._kubeconfig_text = found, text
        self._show()

    async def _begin(
        self, lines: session.Lines, grants: session.Grants, tasks: asyncio.TaskGroup
    ) -> None:
        await self._end()
        ears = session.Ears(
            on_claim=self._around.on_claim,
            on_offer=self._say,
            on_watch=self._watched,
            on_silence=self._silenced,
        )
        begun = session.Session(
            *(lines, grants, self._contact, ears),
            name=self.name,
            consumer_id=self._around.consumer_id,
            mapped=lambda: self._around.mapped_namespaces(self.spec),
        )
        self._session = begun
        self._regrants.reset()
        self._contact.renew()
        self._running = tasks.create_task(self._keep(begun), name=f"provider {self.name}")
        try:
            await begun.filled(self._around.namespaces_in_use(self.spec))
        except errors.Error:
            await self._end()
            raise
        logger.info("connected to provider %s", self.name)

    async def _end(self) -> None:
        running, self._running = self._running, None
        self._session, self.cluster = None, None
        self._failing.clear()
        if running is not None:
            running.cancel()
            await asyncio.wait([running])

    async def _keep(self, begun: session.Session) -> None:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(begun.keep(), name=f"caches of provider {self.name}")
            tasks.create_task(
                self._contact.keep(lambda: self._probe(begun)), name=f"probe of {self.name}"
            )

    def _kubeconfig(self, secret: objects.Secret | None) -> str:
        if self.spec.cluster_id == self._around.consumer_id:
            raise errors.PreconditionError(
                f"clusterID {self.spec.cluster_id} is this cluster's own; a provider has another"
            )
        return kubeconfigs.read(secret, self.spec.kubeconfig_secret_ref)

    async def _probe(self, begun: session.Session) -> None:
        """Ask who answers; what is raised closes the way for all calls."""
        found = await self._identify(begun.lines)
        if found != self._identity:
            self._identity = found  # the same cluster, known by more than before
            self._show()
            self._say()

    async def _identify(self, lines: session.Lines) -> str:
        def readable() -> Iterator[str]:
            yield from self._around.namespaces_in_use(self.spec)

        try:
            async with asyncio.timeout(contact.PROBE_SECONDS):
                return await identity.identify(lines.probe, self._identity, readable())
        except identity.AnotherClusterError as error:
            raise identity.AnotherClusterError(
                f"another cluster answers for {self.spec.cluster_id}: {error}; nothing is written "
                "there. If the old one and its volumes are gone for good, or it was restored under "
                f"a new identity, {self.spec.how_to_accept(self.name)}"
            ) from error
        except TimeoutError:
            raise errors.ApiUnavailableError(
                f"no answer in {contact.PROBE_SECONDS:.0f} s"
            ) from None

    def _secret_failed(self, error: errors.ApiError | None) -> None:
        reference = self.spec.kubeconfig_secret_ref
        refused = None
        if isinstance(error, errors.ApiForbiddenError):
            where = f"Secret {reference.namespace}/{reference.name}"
            refused = reports.KubeconfigForbiddenError(f"{where} cannot be read: {error}")
            self._settled.set()
        self._secret_refused = refused
        self._say()

    def _watched(self, what: str, error: errors.ApiError | None) -> None:
        """Hear how a watch fares; a refusal of a whole kind means other rights than before."""
        before = self._failing.pop(what, None)
        if error is not None:
            self._failing[what] = error
        known = self._session
        whole = known is not None and what not in known.namespaces.values()
        granted = error is None and isinstance(before, errors.ApiForbiddenError)
        if granted or (whole and isinstance(error, errors.ApiForbiddenError)):
            self._stale.set()
        self._say()

    def _silenced(self, namespaces: frozenset[str]) -> None:
        self._eventless = namespaces
        self._say()

    def _contact_changed(self) -> None:
        known = self._session
        if known is not None and self._contact.state is contact.State.OPEN:
            if not self._contact.answers:
                known.lines.watches.cut()  # what they show is from before
        elif self._contact.state is contact.State.GOOD and self._trouble is not None:
            self._stale.set()
        self._say()

    def _show(self) -> None:
        """Let the services see the provider as it is described now."""
        if self._session is not None:
            self.cluster = self._session.cluster(
                self.spec, identity=self._identity, closing=self._closing
            )

    def _say(self) -> None:
        self._around.on_report(self.name)
