"""One socket for both roles of the driver, as csi-sanity wants it, and Kubernetes around it.

csi-sanity asks one socket what the driver can do, so that node tests which publish
through the controller need both roles behind it. Calls pass as they came. Where the
driver attaches, what Kubernetes would have written before a call is written before it,
because the driver takes an attachment back that no virtual volume's own asks for.
"""

from __future__ import annotations

import asyncio
import contextlib
import pathlib
import uuid
from collections.abc import AsyncIterator
from typing import Final

import grpc
import grpc.aio

from csi_liqo.rpc.pb import csi_pb2, csi_pb2_grpc
from lab import api
from tests import control_planes
from tests.cluster import fabric

READY_SECONDS: Final = 30.0
ATTACHMENTS: Final = "/apis/storage.k8s.io/v1/volumeattachments"


async def wait_until_ready(socket: pathlib.Path) -> None:
    """Probe a driver until it says that it is ready, as each sidecar does before its first call.

    csi-sanity does not: it would call a driver that is still reading its cluster.

    Raises:
        TimeoutError: it is not ready in time.
    """
    async with (
        asyncio.timeout(READY_SECONDS),
        grpc.aio.insecure_channel(f"unix:{socket}") as channel,
    ):
        stub = csi_pb2_grpc.IdentityStub(channel)
        while not (await stub.Probe(csi_pb2.ProbeRequest(), wait_for_ready=True)).ready.value:  # noqa: ASYNC110
            await asyncio.sleep(0.05)  # nothing to watch


class Kubernetes:
    """The objects of virtual volumes that csi-provisioner and kube-controller-manager make."""

    def __init__(self, server: api.Api, driver: str) -> None:
        self._server = server
        self._driver = driver
        self._volumes: dict[str, csi_pb2.Volume] = {}

    async def created(self, volume: csi_pb2.Volume) -> None:
        """Have the PersistentVolume of a volume; a repeated call finds it."""
        if volume.volume_id not in self._volumes:
            self._volumes[volume.volume_id] = volume
            await self._server.create(fabric.VOLUMES, forge_volume(volume, self._driver))

    async def releasing(self, volume_id: str) -> None:
        """Have the PersistentVolume Released, by which csi-provisioner would call.

        Its claim is one that is gone; kube-controller-manager finds that out.
        """
        if volume_id not in self._volumes:
            return
        claim = {
            "apiVersion": "v1",
            "kind": "PersistentVolumeClaim",
            "namespace": "default",
            "name": volume_id,
            "uid": str(uuid.uuid5(uuid.NAMESPACE_OID, volume_id)),
        }
        await self._server.merge(f"{fabric.VOLUMES}/{volume_id}", {"spec": {"claimRef": claim}})
        await control_planes.wait_until(
            *(self._server, fabric.VOLUMES, volume_id),
            lambda item: item is not None and item["status"].get("phase") == "Released",
        )

    async def deleted(self, volume_id: str) -> None:
        """Have neither the PersistentVolume of a volume nor its attachments."""
        if self._volumes.pop(volume_id, None) is None:
            return
        await self.detached(volume_id)
        found = await self._server.get(f"{fabric.VOLUMES}/{volume_id}")
        uid = found["metadata"]["uid"]
        await self._server.delete(f"{fabric.VOLUMES}/{volume_id}", uid=uid)
        await control_planes.wait_until_gone(self._server, fabric.VOLUMES, volume_id)

    async def attaching(self, volume_id: str, node_name: str) -> None:
        """Have the VolumeAttachment by which the driver's own attacher would call."""
        name = f"{volume_id}-{node_name}"
        if volume_id not in self._volumes or not node_name:
            return
        if await self._server.find(f"{ATTACHMENTS}/{name}") is not None:
            return
        await self._server.create(
            ATTACHMENTS,
            {
                "apiVersion": "storage.k8s.io/v1",
                "kind": "VolumeAttachment",
                "metadata": {"name": name},
                "spec": {
                    "attacher": self._driver,
                    "nodeName": node_name,
                    "source": {"persistentVolumeName": volume_id},
                },
            },
        )

    async def detached(self, volume_id: str) -> None:
        """Have no VolumeAttachment of a volume by the driver."""
        for item in (await self._server.get(ATTACHMENTS))["items"]:
            spec, metadata = item["spec"], item["metadata"]
            if (spec["attacher"], spec["source"]["persistentVolumeName"]) == (
                self._driver,
                volume_id,
            ):
                await self._server.delete(f"{ATTACHMENTS}/{metadata['name']}", uid=metadata["uid"])


def forge_volume(volume: csi_pb2.Volume, driver: str) -> api.Json:
    """Return the manifest that csi-provisioner would write of a volume."""
    terms = [
        {
            "matchExpressions": [
                {"key": key, "operator": "In", "values": [value]}
                for key, value in topology.segments.items()
            ]
        }
        for topology in volume.accessible_topology
    ]
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": {
            "name": volume.volume_id,
            "annotations": {"pv.kubernetes.io/provisioned-by": driver},
        },
        "spec": {
            "accessModes": ["ReadWriteOnce"],
            "capacity": {"storage": str(volume.capacity_bytes)},
            "persistentVolumeReclaimPolicy": "Delete",
            "csi": {
                "driver": driver,
                "volumeHandle": volume.volume_id,
                "volumeAttributes": dict(volume.volume_context),
            },
            "nodeAffinity": {"required": {"nodeSelectorTerms": terms}},
        },
    }


class Front(grpc.GenericRpcHandler):
    """Sends each call to the role that serves it."""

    def __init__(
        self,
        controller: grpc.aio.Channel,
        node: grpc.aio.Channel,
        kubernetes: Kubernetes | None,
    ) -> None:
        """``kubernetes`` None: an installation that does not attach needs no objects."""
        self._controller = controller
        self._node = node
        self._kubernetes = kubernetes

    def service(
        self, handler_call_details: grpc.HandlerCallDetails
    ) -> grpc.RpcMethodHandler[bytes, bytes]:
        path = handler_call_details.method
        channel = self._node if path.startswith("/csi.v1.Node/") else self._controller
        send: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(path)

        async def forward(request: bytes, context: grpc.aio.ServicerContext[bytes, bytes]) -> bytes:
            try:
                await self._before(path, request)
                answer = await send(request, timeout=context.time_remaining())
            except grpc.aio.AioRpcError as error:
                await context.abort(error.code(), error.details() or "")
            await self._after(path, request, answer)
            return answer

        return grpc.unary_unary_rpc_method_handler(forward)

    async def _before(self, path: str, request: bytes) -> None:
        if self._kubernetes is None:
            return
        match path.rpartition("/")[2]:
            case "ControllerPublishVolume":
                publish = csi_pb2.ControllerPublishVolumeRequest.FromString(request)
                await self._kubernetes.attaching(publish.volume_id, publish.node_id)
            case "DeleteVolume":
                delete = csi_pb2.DeleteVolumeRequest.FromString(request)
                await self._kubernetes.releasing(delete.volume_id)

    async def _after(self, path: str, request: bytes, answer: bytes) -> None:
        if self._kubernetes is None:
            return
        match path.rpartition("/")[2]:
            case "CreateVolume":
                created = csi_pb2.CreateVolumeResponse.FromString(answer)
                await self._kubernetes.created(created.volume)
            case "ControllerUnpublishVolume":
                unpublish = csi_pb2.ControllerUnpublishVolumeRequest.FromString(request)
                await self._kubernetes.detached(unpublish.volume_id)
            case "DeleteVolume":
                delete = csi_pb2.DeleteVolumeRequest.FromString(request)
                await self._kubernetes.deleted(delete.volume_id)


@contextlib.asynccontextmanager
async def serving(
    socket: pathlib.Path,
    *,
    controller: pathlib.Path,
    node: pathlib.Path,
    kubernetes: Kubernetes | None = None,
) -> AsyncIterator[None]:
    """Serve both roles on one socket for the time of the block."""
    async with (
        grpc.aio.insecure_channel(f"unix:{controller}") as to_controller,
        grpc.aio.insecure_channel(f"unix:{node}") as to_node,
    ):
        server = grpc.aio.server()
        server.add_generic_rpc_handlers([Front(to_controller, to_node, kubernetes)])
        server.add_insecure_port(f"unix:{socket}")
        await server.start()
        try:
            yield
        finally:
            await server.stop(1)
