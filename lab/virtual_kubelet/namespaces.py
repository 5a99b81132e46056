"""Which namespace of the provider stands for one of the consumer.

As with Liqo's offloading, the provider's namespace exists as soon as the consumer's
does, before any pod: the driver makes its claims there before a pod is bound. It
outlives the consumer's namespace, because it may hold data.
"""

from __future__ import annotations

import asyncio
import dataclasses
import logging
from typing import TYPE_CHECKING, Final

from lab import api, mirror

if TYPE_CHECKING:
    from collections.abc import Mapping

logger = logging.getLogger(__name__)

PATH: Final = "/api/v1/namespaces"
# What a suffix never maps: the control plane's own, and the driver's.
UNMAPPED_PREFIXES: Final = ("kube-", "csi-liqo")
RETRY_SECONDS: Final = 1.0


@dataclasses.dataclass(frozen=True, slots=True)
class NamespaceMapping:
    """Pairs named one by one, then a suffix for every other namespace, if any."""

    explicit: Mapping[str, str]
    suffix: str | None = None

    def remote(self, namespace: str) -> str | None:
        """Return the provider's namespace; None means that this one is not offloaded."""
        if namespace in self.explicit:
            return self.explicit[namespace]
        if self.suffix is None or namespace.startswith(UNMAPPED_PREFIXES):
            return None
        return namespace + self.suffix


class Namespaces:
    """Makes each mapped namespace in the provider, and makes it again when it is deleted."""

    def __init__(self, *, consumer: api.Api, provider: api.Api, mapping: NamespaceMapping) -> None:
        self.mapping = mapping
        self._provider = provider
        self._changes = asyncio.Event()
        self._local = mirror.Mirror(consumer, PATH, changed=self._wake)
        self._remote = mirror.Mirror(provider, PATH, changed=self._wake)

    async def run(self) -> None:
        """Keep the namespaces until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._local.run(), name="consumer namespaces")
            tasks.create_task(self._remote.run(), name="provider namespaces")
            tasks.create_task(self._create_missing(), name="namespace mapping")

    def _wake(self, _: api.Json) -> None:
        self._changes.set()

    async def _create_missing(self) -> None:
        await self._local.synced.wait()
        await self._remote.synced.wait()
        while True:
            await self._changes.wait()
            self._changes.clear()
            try:
                for local in list(self._local.objects):
                    remote = self.mapping.remote(local.name)
                    if remote is not None and mirror.Key("", remote) not in self._remote.objects:
                        await self._create(remote)
            except api.FAILURES as error:
                logger.info("a namespace was not made, trying again: %s", error)
                await asyncio.sleep(RETRY_SECONDS)
                self._changes.set()

    async def _create(self, name: str) -> None:
        body = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}
        try:
            await self._provider.create(PATH, body)
            logger.info("made namespace %s in the provider", name)
        except api.ApiError as error:
            if error.reason != "AlreadyExists":
                raise
