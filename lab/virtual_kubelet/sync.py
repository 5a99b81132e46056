"""Keeps each pod bound to the virtual node and its copy in the provider in step.

All it knows is in the two clusters: the copy's labels name its origin, and a
condition of the pod says that the copy was made. So it may be killed at any
moment and goes on where it was.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Final

from lab import api, mirror
from lab.virtual_kubelet import pods, work

if TYPE_CHECKING:
    from lab.virtual_kubelet import namespaces

logger = logging.getLogger(__name__)

PATH: Final = "/api/v1/pods"


def path_of(key: mirror.Key) -> str:
    """Return a pod's own path."""
    return f"/api/v1/namespaces/{key.namespace}/pods/{key.name}"


class PodSync:
    """The pods of one virtual node."""

    def __init__(
        self,
        *,
        consumer: api.Api,
        provider: api.Api,
        mapping: namespaces.NamespaceMapping,
        origin: pods.Origin,
        host_address: str,
    ) -> None:
        self._consumer = consumer
        self._provider = provider
        self._mapping = mapping
        self._origin = origin
        self._host_address = host_address
        self._work = work.KeyedWork(self._reconcile)
        self._local = mirror.Mirror(
            consumer,
            PATH,
            selectors={"fieldSelector": f"spec.nodeName={origin.node}"},
            changed=lambda pod: self._work.add(mirror.key_of(pod)),
        )
        self._remote = mirror.Mirror(
            provider,
            PATH,
            selectors={"labelSelector": origin.selector},
            changed=lambda pod: self._work.add(_origin_key(pod)),
        )

    async def run(self) -> None:
        """Keep the pods in step until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._local.run(), name="consumer pods")
            tasks.create_task(self._remote.run(), name="provider pods")
            # NB: without both lists, a pod that was not read yet would look deleted.
            await self._local.synced.wait()
            await self._remote.synced.wait()
            tasks.create_task(self._work.run(), name="pods")

    def remote_key(self, key: mirror.Key) -> mirror.Key | None:
        """Return where a pod of this node runs; None when the node has no such pod."""
        namespace = self._mapping.remote(key.namespace)
        if namespace is None or key not in self._local.objects:
            return None
        return mirror.Key(namespace, key.name)

    async def _reconcile(self, key: mirror.Key) -> None:
        local = self._local.objects.get(key)
        namespace = self._mapping.remote(key.namespace)
        if namespace is None:
            if local is not None:
                await self._refuse_unmapped(local)
            return
        remote_key = mirror.Key(namespace, key.name)
        remote = await self._find_remote(remote_key)
        if remote is not None and (local is None or pods.origin_uid(remote) != pods.uid_of(local)):
            # The copy of a pod that is gone. A later pod of its name waits until it is gone too.
            await self._delete_remote(remote)
        elif local is not None and "deletionTimestamp" in local["metadata"]:
            await self._end(local, remote)
        elif local is not None and remote is not None:
            await self._mirror_status(local, remote)
        elif local is not None and not pods.has_ended(local):
            await self._begin(local, remote_key)

    async def _find_remote(self, key: mirror.Key) -> api.Json | None:
        """Look into the mirror, then ask: the mirror may lag behind what was made just now."""
        known = self._remote.objects.get(key)
        if known is not None:
            return known
        found = await self._provider.find(path_of(key))
        return found if found is not None and self._is_ours(found) else None

    def _is_ours(self, remote: api.Json) -> bool:
        labels = remote["metadata"].get("labels") or {}
        return (labels.get(pods.CONSUMER_LABEL), labels.get(pods.NODE_LABEL)) == (
            self._origin.consumer,
            self._origin.node,
        )

    async def _begin(self, local: api.Json, remote_key: mirror.Key) -> None:
        if pods.was_offloaded(local):
            logger.info("pod %s vanished from the provider", mirror.key_of(local))
            await self._write_status(local, pods.status_of_vanished(local))
            return
        body = pods.forge_copy(local, namespace=remote_key.namespace, origin=self._origin)
        path = f"/api/v1/namespaces/{remote_key.namespace}/pods"
        try:
            await self._provider.create(path, body)
        except api.ApiError as error:
            # Quota, a missing service account, a foreign pod of that name: shown, and tried again.
            refused = pods.status_of_refused(
                local, reason="ProviderRefused", message=f"{error.reason}: {error.message}"
            )
            await self._write_status(local, refused)
            raise
        logger.info("pod %s runs as %s in the provider", mirror.key_of(local), remote_key)

    async def _end(self, local: api.Json, remote: api.Json | None) -> None:
        metadata = local["metadata"]
        if remote is not None:
            await self._mirror_status(local, remote)
            # NB: 0 would drop the copy while its containers still write; as kubelet, at least 1.
            grace_seconds = max(metadata.get("deletionGracePeriodSeconds") or 0, 1)
            await self._delete_remote(remote, grace_seconds)
        elif metadata.get("deletionGracePeriodSeconds") != 0:
            await self._consumer.delete(
                path_of(mirror.key_of(local)), uid=pods.uid_of(local), grace_seconds=0
            )

    async def _delete_remote(self, remote: api.Json, grace_seconds: int | None = None) -> None:
        metadata = remote["metadata"]
        granted = metadata.get("deletionGracePeriodSeconds")
        if "deletionTimestamp" in metadata and (
            grace_seconds is None or granted is None or granted <= grace_seconds
        ):
            return
        await self._provider.delete(
            path_of(mirror.key_of(remote)), uid=pods.uid_of(remote), grace_seconds=grace_seconds
        )

    async def _mirror_status(self, local: api.Json, remote: api.Json) -> None:
        status = pods.status_of(local, remote, host_address=self._host_address)
        await self._write_status(local, status)

    async def _refuse_unmapped(self, local: api.Json) -> None:
        if "deletionTimestamp" in local["metadata"]:
            await self._end(local, None)
        elif not pods.has_ended(local):
            status = pods.status_of_refused(
                local,
                reason="NamespaceNotOffloaded",
                message="this pod's namespace is not mapped to one of the provider cluster",
            )
            await self._write_status(local, status)

    async def _write_status(self, local: api.Json, status: api.Json) -> None:
        patch = pods.forge_status_patch(local, status)
        if patch is None:
            return
        try:
            await self._consumer.merge(path_of(mirror.key_of(local)) + "/status", patch)
        except api.ApiError as error:
            if error.status != 404:
                raise


def _origin_key(remote: api.Json) -> mirror.Key:
    metadata = remote["metadata"]
    return mirror.Key(metadata["labels"].get(pods.NAMESPACE_LABEL, ""), metadata["name"])
