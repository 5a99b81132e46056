"""The providers that an existing Liqo describes, in the form of RemoteClusters.

Liqo may be installed later, or be removed: its kinds are watched for, and its objects
only while their kinds exist. Nothing of Liqo's is ever written.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import Iterable
from typing import Any, Final, Generic, TypeVar

from csi_liqo.kube import api, collection, resources, store
from csi_liqo.model import errors, liqo, names, objects

logger = logging.getLogger(__name__)

T = TypeVar("T", bound=objects.Object)


class LiqoClusters:
    """Liqo's description of each provider, in ``store``, for as long as ``keep`` runs."""

    def __init__(
        self, calls: api.Api, watches: api.Api, nodes: collection.Collection[objects.Node]
    ) -> None:
        self.store: store.Store[objects.RemoteCluster] = store.Store()
        self._nodes = nodes
        self._virtual_nodes: _Kind[liqo.VirtualNode] = _Kind(
            calls, watches, resources.LIQO_VIRTUAL_NODES
        )
        self._maps: _Kind[liqo.NamespaceMap] = _Kind(calls, watches, resources.LIQO_NAMESPACE_MAPS)
        self._kinds: Final[tuple[_Kind[Any], ...]] = (self._virtual_nodes, self._maps)
        self._versions = itertools.count(1)
        self.filled = asyncio.Event()
        """Set once all that Liqo says has been taken in."""

    async def keep(self) -> None:
        """Keep the descriptions up; ends only by being cancelled."""
        async with asyncio.TaskGroup() as group:
            for kind in self._kinds:
                group.create_task(kind.keep(), name=f"Liqo's {kind.name}")
            for kind in self._kinds:
                await kind.wait_filled()
            # Only now: a provider without its namespaces would be half a description.
            self._virtual_nodes.objects.store.listen(self._virtual_node_changed)
            self._maps.objects.store.listen(self._map_changed)
            self._nodes.store.listen(self._node_changed)
            self.filled.set()

    async def settle(self) -> None:
        """Wait until all that Liqo says has been taken in, or reading it was refused."""
        for kind in self._kinds:
            await kind.settle()
        if not self.complaint:
            await self.filled.wait()

    @property
    def complaint(self) -> str:
        """What is refused; empty when nothing is."""
        return "; ".join(kind.complaint for kind in self._kinds if kind.complaint)

    @property
    def synced(self) -> bool:
        """Whether all that Liqo says is known. Where it is not installed, that is nothing."""
        return self.filled.is_set() and all(kind.synced for kind in self._kinds)

    def _virtual_node_changed(
        self, before: liqo.VirtualNode | None, after: liqo.VirtualNode | None
    ) -> None:
        self._refresh({known.spec.cluster_id for known in (before, after) if known is not None})

    def _map_changed(
        self, before: liqo.NamespaceMap | None, after: liqo.NamespaceMap | None
    ) -> None:
        self._refresh({known.cluster_id for known in (before, after) if known is not None})

    def _node_changed(self, before: objects.Node | None, after: objects.Node | None) -> None:
        if after is None or (before is not None and identity_of(before) == identity_of(after)):
            return
        # Only a person takes it off a node that stays; another node of the name had none yet.
        forgotten = before is not None and before.uid == after.uid and not identity_of(after)
        cluster_id = after.metadata.labels.get(names.REMOTE_CLUSTER_ID_LABEL, "")
        if cluster_id and after.virtual:
            self._describe(cluster_id, forgotten=forgotten)

    def _refresh(self, cluster_ids: Iterable[str]) -> None:
        for cluster_id in filter(None, cluster_ids):
            self._describe(cluster_id)

    def _describe(self, cluster_id: str, *, forgotten: bool = False) -> None:
        known = self.store.get("", liqo.name_of(cluster_id))
        identity = self._identity(cluster_id)
        if known is not None and not forgotten:
            identity = identity or known.status.identity
        found = liqo.describe(
            cluster_id,
            self._virtual_nodes.objects.all(),
            self._maps.objects.all(),
            identity=identity,
            version=str(next(self._versions)),
        )
        if found is None:
            if known is not None:
                logger.info("Liqo no longer describes provider %s", cluster_id)
                self.store.remove("", known.name)
        elif known is None or (known.spec, known.status) != (found.spec, found.status):
            if known is None:
                logger.info("Liqo describes provider %s", cluster_id)
            self.store.put(found)

    def _identity(self, cluster_id: str) -> str:
        """Return the provider's identity as noted on any of its nodes, empty when on none."""
        for node in self._nodes.all():
            of_it = node.metadata.labels.get(names.REMOTE_CLUSTER_ID_LABEL) == cluster_id
            if node.virtual and of_it and identity_of(node):
                return identity_of(node)
        return ""


def identity_of(node: objects.Node) -> str:
    """Return the identity of the provider a virtual node stood for when it was last seen."""
    return node.metadata.annotations.get(names.IDENTITY_ANNOTATION, "")


class _Kind(Generic[T]):
    """The objects of a kind that may not be installed."""

    def __init__(self, calls: api.Api, watches: api.Api, resource: resources.Resource[T]) -> None:
        self.name = f"{resource.plural}.{resource.prefix.split('/')[2]}"
        self._definitions = collection.Collection(
            calls,
            watches,
            resources.DEFINITIONS,
            field_selector=f"metadata.name={self.name}",
            on_failure=self._failed,
        )
        self.objects = collection.Collection(calls, watches, resource, on_failure=self._failed)
        self.complaint = ""
        """What the API server says against reading them; empty when it lets them be read."""
        self._refused = asyncio.Event()

    @property
    def synced(self) -> bool:
        if not self._definitions.synced:
            return False
        return self.objects.synced or not _established(self._definitions.get("", self.name))

    async def wait_filled(self) -> None:
        """Wait until all objects are known, or that there can be none."""
        await self._definitions.store.wait_synced()
        if _established(self._definitions.get("", self.name)):
            await self.objects.store.wait_synced()

    async def settle(self) -> None:
        """Wait until what there is to be read is known, or that it may not be read."""
        ways = (self.wait_filled(), self._refused.wait())
        waiting = [asyncio.ensure_future(way) for way in ways]
        try:
            await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in waiting:
                task.cancel()
            await asyncio.gather(*waiting, return_exceptions=True)

    async def keep(self) -> None:
        """Keep the objects up whenever their kind exists; ends only by being cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._definitions.keep(), name=f"definition of {self.name}")
            await self._definitions.store.wait_synced()
            while True:
                if not _established(self._definitions.get("", self.name)):
                    logger.info("%s is not installed here; waiting for it", self.name)
                await self._definitions.wait("", self.name, _established)
                keeping = group.create_task(self.objects.keep(), name=self.name)
                await self._definitions.wait("", self.name, lambda found: found is None or None)
                keeping.cancel()
                await asyncio.wait([keeping])
                self.objects.store.set_synced(False)
                self.objects.store.replace(())

    def _failed(self, error: errors.ApiError | None) -> None:
        """Say once what is refused; the rest heals by itself."""
        complaint = str(error) if isinstance(error, errors.ApiForbiddenError) else ""
        if complaint and complaint != self.complaint:
            logger.warning(
                "%s may not be read: %s; apply deploy/liqo, or set --remote-clusters=csi-liqo",
                *(self.name, complaint),
            )
        self.complaint = complaint
        if complaint:
            self._refused.set()


def _established(definition: objects.Definition | None) -> bool | None:
    """Whether objects of a kind can be asked for; None, so that it can be waited for, if not."""
    if definition is None or definition.deleting:
        return None
    return (
        any(c.type == "Established" and c.status == "True" for c in definition.conditions) or None
    )
