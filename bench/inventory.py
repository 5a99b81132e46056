"""What the controller takes to know many volumes: memory, processor time, start.

The volumes are objects in three clusters, written as they would be after pods have used
them; no controller of Kubernetes runs that could have an opinion of them.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import itertools
import time
from collections.abc import AsyncIterator, Callable, Iterable
from typing import Any, Final

from bench import bursts, fabric, figures, manifests, process_facts, programs, provisioning
from csi_liqo.model import source
from lab import api, control_plane, instance, mirror, processes

Report = Callable[[str], None]
Json = dict[str, Any]

GROUP: Final = "controller"
SIZES: Final = (1_000, 5_000, 10_000)
NAMESPACES: Final = 200
PROVIDERS: Final = ("milan", "naples")
TWINS: Final = "csi-liqo-storage"
IDLE_SECONDS: Final = 10.0
SETTLED_SHARE: Final = 0.03
"""Of a processor, in one second: below it the controller has done what a start brings."""
SETTLE_SECONDS: Final = 120.0

_WITHOUT: Final = frozenset({control_plane.CONTROLLERS, control_plane.SCHEDULER})


@dataclasses.dataclass(frozen=True, slots=True)
class Start:
    """What one start of the controller showed."""

    ready_seconds: float
    memory: process_facts.Memory
    idle_percent: float


@dataclasses.dataclass(frozen=True, slots=True)
class Clusters:
    """A consumer and its providers, each an API server and nothing else."""

    planes: dict[str, control_plane.ControlPlane]
    servers: dict[str, api.Api]


async def measure(
    owner: instance.Instance, effort: provisioning.Effort, report: Report
) -> list[figures.Figure]:
    """Start the controller over more and more volumes."""
    found: dict[int, list[Start]] = {}
    async with _running(owner, report) as clusters:
        made = 0
        for whole in SIZES:
            size = effort.size(whole)
            report(f"controller: writing {size - made} volumes")
            await bursts.at_once(_write(clusters, number) for number in range(made, size))
            made = size
            found[whole] = []
            for run in range(effort.bursts):
                report(f"controller over {size} volumes: start {run + 1}")
                found[whole].append(await _start(owner, clusters, f"{size}-{run}"))
    return figures_of({effort.size(size): starts for size, starts in found.items()})


@contextlib.asynccontextmanager
async def _running(owner: instance.Instance, report: Report) -> AsyncIterator[Clusters]:
    async with contextlib.AsyncExitStack() as stack:
        report("starting three API servers")
        planes = {
            name: await stack.enter_async_context(fabric.started(owner, name, without=_WITHOUT))
            for name in (manifests.CONSUMER, *PROVIDERS)
        }
        servers = {
            name: await stack.enter_async_context(await api.Api.of(plane.kubeconfig))
            for name, plane in planes.items()
        }
        report("preparing the clusters")
        rome = planes[manifests.CONSUMER]
        await fabric.prepare_consumer(rome, owner.binaries)
        await fabric.kubectl(rome, owner.binaries, objects=[manifests.virtual_node("naples")])
        namespaces = [f"team-{number}" for number in range(NAMESPACES)]
        await _make_namespaces(servers[manifests.CONSUMER], namespaces)
        mapping = {name: f"{name}-rome" for name in namespaces}
        for name in PROVIDERS:
            await fabric.prepare_provider(planes[name], owner.binaries, ())
            await _make_namespaces(servers[name], mapping.values())
            await bursts.at_once(
                servers[name].create(
                    f"/apis/rbac.authorization.k8s.io/v1/namespaces/{target}/rolebindings",
                    fabric.binding(grant, target),
                )
                for target, grant in itertools.product(mapping.values(), fabric.NAMESPACED_GRANTS)
            )
            await fabric.introduce(rome, planes[name], owner.binaries, mapping)
        yield Clusters(planes, servers)


async def _make_namespaces(server: api.Api, names: Iterable[str]) -> None:
    await bursts.at_once(
        server.create("/api/v1/namespaces", manifests.namespace(name)) for name in names
    )


async def _write(clusters: Clusters, number: int) -> None:
    """Write one virtual volume whole: claim, volume, twin and real volume, each bound."""
    home = (manifests.CONSUMER, *PROVIDERS)[number % 3]
    local = home == manifests.CONSUMER
    consumer = clusters.servers[manifests.CONSUMER]
    namespace, name = f"team-{number % NAMESPACES}", f"data-{number}"
    claims = f"/api/v1/namespaces/{namespace}/persistentvolumeclaims"
    claim = manifests.claim(name, "virtual-hostpath")
    made = await consumer.create(claims, claim)
    volume = f"pvc-{made['metadata']['uid']}"
    where = TWINS if local else f"{namespace}-rome"
    twin = _twin(volume, made, volume if local else name, f"real-{number}")
    at_home = clusters.servers[home]
    twins = f"/api/v1/namespaces/{where}/persistentvolumeclaims"
    real = await at_home.create(twins, twin)
    await at_home.create(fabric.VOLUMES, _real_volume(f"real-{number}", real))
    await _bind(at_home, twins, real, f"real-{number}")
    reference = f"{where}/{real['metadata']['name']}/{real['metadata']['uid']}"
    await consumer.create(fabric.VOLUMES, _virtual_volume(volume, made, home, reference))
    await consumer.merge(f"{claims}/{name}", {"spec": {"volumeName": volume}})
    await _bind(consumer, claims, made, volume)


async def _bind(server: api.Api, claims: str, claim: Json, volume: str) -> None:
    capacity = {"accessModes": ["ReadWriteOnce"], "capacity": {"storage": manifests.SIZE}}
    status = {"status": {"phase": "Bound", **capacity}}
    await server.merge(f"{claims}/{claim['metadata']['name']}/status", status)
    await server.merge(f"{fabric.VOLUMES}/{volume}/status", {"status": {"phase": "Bound"}})


def _twin(volume: str, claim: Json, name: str, real: str) -> Json:
    metadata = claim["metadata"]
    made = manifests.claim(name, "hostpath" if name == volume else "hostpath-now")
    made["metadata"] |= {
        "labels": {"csi.liqo.io/volume": volume, "csi.liqo.io/consumer": manifests.CONSUMER},
        "annotations": {
            "csi.liqo.io/claim": f"{metadata['namespace']}/{metadata['name']}",
            "csi.liqo.io/claim-uid": metadata["uid"],
            "csi.liqo.io/handed-over": "true",
            "volume.kubernetes.io/selected-node": manifests.NODE,
        },
        "finalizers": ["csi.liqo.io/twin", "kubernetes.io/pvc-protection"],
    }
    made["spec"]["volumeName"] = real
    return made


def _real_volume(name: str, twin: Json) -> Json:
    return _volume(name, twin, {"hostPath": {"path": f"/tmp/hostpath_pv/{name}"}})


def _virtual_volume(name: str, claim: Json, home: str, twin: str) -> Json:
    local = home == manifests.CONSUMER
    kind = source.Kind.HOST_PATH if local else source.Kind.REMOTE
    found = source.Source(kind=kind, path=f"/tmp/hostpath_pv/{name}" if local else "")
    attributes = {"twin": twin, "consumer": manifests.CONSUMER, **source.to_context(found)}
    csi = {"driver": manifests.DRIVER, "volumeHandle": name, "volumeAttributes": attributes}
    pins = {manifests.CLUSTER_KEY: home} | ({manifests.NODE_KEY: manifests.NODE} if local else {})
    rules = [{"key": key, "operator": "In", "values": [value]} for key, value in pins.items()]
    affinity = {"required": {"nodeSelectorTerms": [{"matchExpressions": rules}]}}
    return _volume(name, claim, {"csi": {**csi, "fsType": "ext4"}, "nodeAffinity": affinity})


def _volume(name: str, claim: Json, what: Json) -> Json:
    metadata = claim["metadata"]
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": {"name": name},
        "spec": {
            "capacity": {"storage": manifests.SIZE},
            "accessModes": ["ReadWriteOnce"],
            "persistentVolumeReclaimPolicy": "Delete",
            "storageClassName": claim["spec"]["storageClassName"],
            "claimRef": {
                "apiVersion": "v1",
                "kind": "PersistentVolumeClaim",
                **{key: metadata[key] for key in ("namespace", "name", "uid")},
            },
            **what,
        },
    }


async def _start(owner: instance.Instance, clusters: Clusters, name: str) -> Start:
    directory = owner.directory / "programs" / name
    socket = directory / "csi.sock"
    program = programs.controller(directory, clusters.planes[manifests.CONSUMER], socket)
    started = time.monotonic()
    program.start()
    try:
        await programs.wait_until_ready(program, socket)
        ready = time.monotonic() - started
        server = clusters.servers[manifests.CONSUMER]
        for provider in PROVIDERS:
            await mirror.wait_until(
                server,
                fabric.REMOTE_CLUSTERS,
                provider,
                fabric.is_ready,
                timeout_seconds=fabric.READY_SECONDS,
            )
        identity = program.identity
        assert identity is not None
        await _settled(program, identity.pid)
        before = process_facts.processor_seconds(identity.pid)
        await asyncio.sleep(IDLE_SECONDS)
        used = process_facts.processor_seconds(identity.pid) - before
        memory = process_facts.memory(identity.pid)
        return Start(ready, memory, 100 * used / IDLE_SECONDS)
    finally:
        await program.stop()


async def _settled(program: processes.Daemon, pid: int) -> None:
    async with asyncio.timeout(SETTLE_SECONDS):
        while True:
            before = process_facts.processor_seconds(pid)
            await asyncio.sleep(1)
            program.check()
            if process_facts.processor_seconds(pid) - before < SETTLED_SHARE:
                return


def figures_of(found: dict[int, list[Start]]) -> list[figures.Figure]:
    """Return the figures of the starts over each number of volumes, three of them."""
    made: list[figures.Figure] = []
    limits = dict(zip(found, (120.0, None, 250.0), strict=True))
    for size, starts in found.items():
        for what, unit, target, samples in (
            ("resident", "MiB", limits[size], [s.memory.resident_mib for s in starts]),
            ("start to ready", "s", 10.0, [s.ready_seconds for s in starts]),
            ("idle", "% of a core", 1.0, [s.idle_percent for s in starts]),
        ):
            name = f"controller over {size} volumes: {what}"
            made.append(
                figures.Figure(group=GROUP, name=name, unit=unit, target=target, samples=samples)
            )
    made.append(_growth(found))
    return made


def _growth(found: dict[int, list[Start]]) -> figures.Figure:
    """Compare what a volume takes among many with what one takes among few."""
    small, middle, large = found
    runs = zip(*found.values(), strict=True)
    few, many = [], []
    for one, two, three in runs:
        step = two.memory.resident_mib - one.memory.resident_mib
        few.append(1024 * step / (middle - small))
        step = three.memory.resident_mib - two.memory.resident_mib
        many.append(1024 * step / (large - middle))
    return figures.Figure(
        group=GROUP,
        name="controller: growth of memory a volume, late against early",
        unit="x",
        target=1.2,
        samples=[late / early for early, late in zip(few, many, strict=True)],
        parts={"early, KiB a volume": few, "late, KiB a volume": many},
        note="1 is linear",
    )
