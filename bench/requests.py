"""How many requests the driver sends for a volume, as the API servers count them.

Their metrics know no users, but count by flow schema: the driver's requests come
under schemas of its own, one a verb and kind of object, which change no priority.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable
from typing import Final

from prometheus_client import parser

from bench import bursts, fabric, figures, manifests, programs, provisioning
from lab import api, control_plane, templates

Report = Callable[[str], None]

FLOW_SCHEMAS: Final = "/apis/flowcontrol.apiserver.k8s.io/v1/flowschemas"
DISPATCHED: Final = "apiserver_flowcontrol_dispatched_requests"
WRITES: Final = ("create", "update", "patch", "delete")
READS: Final = ("get", "list")
WATCHES: Final = ("watch",)
"""Begun by time: each ends after some minutes."""
LEASES: Final = "leases"
"""Kept up by time and not by volumes."""
_OF_VOLUMES: Final = {
    "claims": "persistentvolumeclaims",
    "statuses": "persistentvolumeclaims/status",
    "volumes": "persistentvolumes",
}
_RESOURCES: Final = {**_OF_VOLUMES, LEASES: "leases"}
_OTHERS: Final = "others"
IDLE_SECONDS: Final = 30.0
MOST_HEARTBEATS: Final = 0.2
"""Requests a second: each provider is asked every 7 to 10 s whether it answers, and three
ConfigMaps that are not watched are written once a minute."""
GROUP: Final = "requests"

Counts = Counter[str]
"""`<verb> <kind of object>` -> requests."""


async def measure(
    clusters: fabric.Fabric, effort: provisioning.Effort, report: Report
) -> list[figures.Figure]:
    """Count what making and deleting volumes of each kind costs both API servers."""
    planes = (clusters.rome, clusters.milan)
    await asyncio.gather(*(_install(server) for server in (clusters.consumer, clusters.provider)))
    made = bursts.Bursts(clusters)
    await _anchor(clusters.consumer)
    await _settled(clusters, made)
    found = [await _idle(planes, report)]
    count = effort.size(50)
    for way, writes in (
        (bursts.VIRTUAL_HOST_PATH, 2.0),
        (bursts.VIRTUAL_STATIC, 3.0),
        (bursts.REMOTE_NOW, 6.0),
        (bursts.REMOTE_WAITS, 6.0),
    ):
        report(f"requests of {count} volumes, {way.name}")
        names = made.names(count)
        if way is bursts.VIRTUAL_STATIC:
            await _make_by_hand(clusters.consumer, names)
        before = await _count(planes)
        await made.provision(way, names)
        between = await _count(planes)
        if way is bursts.VIRTUAL_STATIC:
            await _clear_by_hand(clusters, made, way, names)
        else:
            await made.clear(way)
        after = await _count(planes)
        found += _figures(f"create, {way.name}", between - before, count, writes)
        found += _figures(f"delete, {way.name}", after - between, count, 2.0)
    return found


def _figures(
    what: str, counts: Counts, volumes: int, most_writes: float
) -> Iterable[figures.Figure]:
    parts = {
        f"{kind}, requests": [number / volumes] for kind, number in sorted(counts.items()) if number
    }
    for unit, verbs, target in (("writes", WRITES, most_writes), ("reads", READS, 0.0)):
        yield figures.Figure(
            group=GROUP,
            name=f"{unit} a volume: {what}",
            unit="requests",
            target=target,
            samples=[_total(counts, verbs, _OF_VOLUMES) / volumes],
            parts=parts,
            note=f"of claims and volumes, mean of {volumes}; both API servers' metrics, added",
        )
    yield figures.Figure(
        group=GROUP,
        name=f"requests for all {volumes} volumes together: {what}",
        unit="requests",
        target=None,
        samples=[_total(counts, (*WRITES, *READS), {_OTHERS})],
        parts=parts,
        note="of other objects: notes and counts in ConfigMaps, statuses, the heartbeat",
    )


async def _idle(planes: Iterable[control_plane.ControlPlane], report: Report) -> figures.Figure:
    report(f"requests while idle, {IDLE_SECONDS:.0f} s")
    before, start = await _count(planes), time.monotonic()
    await asyncio.sleep(IDLE_SECONDS)
    counts, seconds = await _count(planes) - before, time.monotonic() - start
    return figures.Figure(
        group=GROUP,
        name="requests while idle",
        unit="requests/s",
        target=MOST_HEARTBEATS,
        samples=[_total(counts, (*WRITES, *READS), {*_OF_VOLUMES, _OTHERS}) / seconds],
        parts={f"{kind}, requests": [number] for kind, number in sorted(counts.items()) if number},
        note="but for leases, and for watches, which their servers end after minutes",
    )


def _total(counts: Counts, verbs: Collection[str], kinds: Collection[str]) -> int:
    return sum(
        count
        for (verb, kind), count in ((what.split(), count) for what, count in counts.items())
        if verb in verbs and kind in kinds
    )


def schema_name(verb: str, kind: str) -> str:
    """Return the name of the flow schema that a verb on a kind of object comes under."""
    return f"bench-{verb}-{kind}"


async def _install(server: api.Api) -> None:
    for precedence, kinds in ((100, _RESOURCES), (200, {_OTHERS: "*"})):
        for kind, resource in kinds.items():
            for verb in (*WRITES, *READS, *WATCHES):
                schema = manifests.counting_schema(
                    schema_name(verb, kind), verb, resource, programs.COUNTED_GROUP, precedence
                )
                await server.create(FLOW_SCHEMAS, schema)


async def _anchor(server: api.Api) -> None:
    """Have a twin that stays: the first and the last of all change what the fence goes by."""
    twin = manifests.claim("anchor", "nobody")
    twin["metadata"] |= {
        "labels": {
            "csi.liqo.io/volume": "anchor",
            "csi.liqo.io/consumer": manifests.CONSUMER,
            "csi.liqo.io/fence": "open",
        },
        "annotations": {"csi.liqo.io/handed-over": "true"},
    }
    await server.create(manifests.TWINS, twin)


async def _settled(clusters: fabric.Fabric, made: bursts.Bursts) -> None:
    """Wait until both API servers go by the new schemas."""
    planes = (clusters.rome, clusters.milan)
    async with asyncio.timeout(60):
        while True:
            before = await _count(planes)
            names = made.names(1)
            await made.provision(bursts.REMOTE_NOW, names)
            await made.clear(bursts.REMOTE_NOW)
            counts = await _count(planes) - before
            # The twin is made and marked there, and its facts are shown on the volume here.
            if counts["patch claims"] >= 1 and counts["patch volumes"] >= 1:
                return


async def _count(planes: Iterable[control_plane.ControlPlane]) -> Counts:
    counts: Counts = Counter()
    for plane in planes:
        counts += counted(await programs.scrape(plane))
    return counts


def counted(metrics: str) -> Counts:
    """Return the driver's requests in the metrics of an API server."""
    counts: Counts = Counter()
    for family in parser.text_string_to_metric_families(metrics):
        if family.name != DISPATCHED:
            continue
        for sample in family.samples:
            named = re.fullmatch(r"bench-(\w+)-(\w+)", sample.labels.get("flow_schema", ""))
            if named and sample.name.endswith("_total"):
                counts[" ".join(named.groups())] += int(sample.value)
    return counts


async def _make_by_hand(server: api.Api, names: Iterable[str]) -> None:
    for name in names:
        made = templates.local_volume(f"by-hand-{name}", manifests.NODE, size=manifests.SIZE)
        await server.create(fabric.VOLUMES, made)


async def _clear_by_hand(
    clusters: fabric.Fabric, made: bursts.Bursts, way: bursts.Way, names: list[str]
) -> None:
    """Take claims away and then the real volumes, which their class retains."""
    server = clusters.consumer
    async with bursts.watching(server, fabric.VOLUMES, bursts.gone) as watched:
        volumes = (await server.get(fabric.VOLUMES))["items"]
        virtual = [v["metadata"]["name"] for v in volumes if v["spec"].get("csi")]
        await made.clear_claims(way)
        await watched.all_of(virtual)
        for name in names:
            await server.request("DELETE", f"{fabric.VOLUMES}/by-hand-{name}")
        await watched.all_of([f"by-hand-{name}" for name in names])
