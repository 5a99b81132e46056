"""The demo's steps. Each shows something, checks it, and fails when it is not so."""

from __future__ import annotations

import asyncio
import contextlib
import re
import secrets
import time
from typing import TYPE_CHECKING, Final

from lab import settings
from lab.demo import replicas, view

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from rich.console import Console

    from lab import api

CONSUMER: Final = "rome"
PROVIDER: Final = "milan"
DRIVER: Final = "csi.liqo.io"
NAMESPACE: Final = "demo"
EXAMPLE: Final = settings.REPOSITORY / "examples" / "stateful.yaml"
SET: Final = "ledger"
PODS: Final = (f"{SET}-0", f"{SET}-1")
CONTAINER: Final = "ledger"
MARKER: Final = "/data/marker"
SETTLE_SECONDS: Final = 10.0
# kube-scheduler v1.37.2, plugins/volumebinding/binder.go and nodeunschedulable.
AFFINITY: Final = re.compile(r"(\d+) node\(s\) didn't match PersistentVolume's node affinity")
UNSCHEDULABLE: Final = "node(s) were unschedulable"


class Story:
    """One run of the demo against a lab that is up."""

    def __init__(self, console: Console, views: Mapping[str, view.View]) -> None:
        self._console = console
        self._views = views
        self._here = views[CONSUMER]

    @contextlib.contextmanager
    def step(self, text: str) -> Iterator[None]:
        """Announce a step, and say how long it took; after a failure say nothing."""
        self._console.print(f"[bold]=>[/] {text} ...", highlight=False)
        began = time.monotonic()
        yield
        self._console.print(f"   [green]ok[/] ({time.monotonic() - began:.1f} s)", highlight=False)

    async def wait_until_ready(self) -> None:
        """Wait for nodes that are ready and carry the driver, the virtual one included."""
        await self._here.wait(
            "every node is ready and has the driver",
            self._all_nodes_ready,
            explain=self._explain_nodes,
        )

    def _all_nodes_ready(self) -> bool | None:
        nodes = list(self._here.all("nodes"))
        virtual = [node for node in nodes if _is_virtual(node)]
        ready = all(view.is_ready(node) and self._has_driver(node) for node in nodes)
        return True if ready and virtual and len(nodes) > len(virtual) else None

    def _has_driver(self, node: api.Json) -> bool:
        entry = self._here.get("csi_nodes", node["metadata"]["name"])
        drivers = [] if entry is None else entry["spec"].get("drivers") or []
        return any(driver["name"] == DRIVER for driver in drivers)

    def _explain_nodes(self) -> str:
        return ", ".join(
            f"{node['metadata']['name']}: {'ready' if view.is_ready(node) else 'not ready'}, "
            f"{'with' if self._has_driver(node) else 'without'} the driver"
            for node in self._here.all("nodes")
        )

    async def clean_up(self) -> None:
        """Take away what an earlier run left: its example, its cordon."""
        for node in self._here.all("nodes"):
            if node["spec"].get("unschedulable"):
                await self._here.kubectl("uncordon", node["metadata"]["name"])
        await self.remove_example()

    async def remove_example(self) -> None:
        """Delete the StatefulSet and its claims; return when pods, claims and volumes are gone."""
        kubectl = self._here.kubectl
        await kubectl("-n", NAMESPACE, "delete", "--ignore-not-found", "--wait=false", f"sts/{SET}")
        await kubectl("-n", NAMESPACE, "delete", "--ignore-not-found", f"service/{SET}")
        claims = [f"pvc/{replicas.CLAIM_PREFIX}-{pod}" for pod in PODS]
        await kubectl("-n", NAMESPACE, "delete", "--ignore-not-found", "--wait=false", *claims)
        await self._here.wait(
            "the example's pods, claims and volumes are gone",
            self._nothing_left,
            explain=lambda: self._here.warnings(NAMESPACE),
        )

    def _nothing_left(self) -> bool | None:
        names = {f"{replicas.CLAIM_PREFIX}-{pod}" for pod in PODS}
        left = [pod for pod in PODS if self._here.get("pods", pod, NAMESPACE)]
        left += [name for name in names if self._here.get("claims", name, NAMESPACE)]
        for volume in self._here.all("volumes"):
            claim = volume["spec"].get("claimRef") or {}
            if claim.get("namespace") == NAMESPACE and claim.get("name") in names:
                left.append(volume["metadata"]["name"])
        return None if left else True

    async def make_namespace(self) -> None:
        """Have the namespace here, and wait for its stand-in in the provider."""
        if self._here.get("namespaces", NAMESPACE) is None:
            await self._here.kubectl("create", "namespace", NAMESPACE)
        remote = await self._mapped_namespace()
        there = self._views[PROVIDER]
        await there.wait(
            f"namespace {remote} exists in {PROVIDER}", lambda: there.get("namespaces", remote)
        )

    async def _mapped_namespace(self) -> str:
        path = "/apis/csi.liqo.io/v1alpha1/remoteclusters"
        found = await self._here.server.get(path)
        spec = next(
            (item["spec"] for item in found["items"] if item["spec"]["clusterID"] == PROVIDER), None
        )
        if spec is None:
            raise view.DemoError(f"no RemoteCluster in {CONSUMER} describes {PROVIDER}")
        mapping = spec.get("namespaceMapping") or {}
        if NAMESPACE in (mapping.get("explicit") or {}):
            return str(mapping["explicit"][NAMESPACE])
        template = str(mapping.get("template") or "")
        if not template and mapping.get("default") == "SameName":
            return NAMESPACE
        if not template:
            raise view.DemoError(f"namespace {NAMESPACE} is not mapped to one of {PROVIDER}")
        return template.replace("${namespace}", NAMESPACE).replace("${consumer}", CONSUMER)

    async def apply_example(self) -> None:
        """Apply the example and wait until both replicas run."""
        await self._here.kubectl("-n", NAMESPACE, "apply", "-f", str(EXAMPLE))
        for pod in PODS:
            await self._wait_until_running(pod)

    async def _wait_until_running(self, pod: str, *, other_than: str = "") -> None:
        def running() -> api.Json | None:
            found = self._here.get("pods", pod, NAMESPACE)
            if found is None or found["metadata"]["uid"] == other_than:
                return None
            return found if view.is_ready(found) else None

        await self._here.wait(f"pod {pod} is ready", running, explain=lambda: self._explain(pod))

    def _explain(self, pod: str) -> str:
        found = self._here.get("pods", pod, NAMESPACE)
        if found is None:
            return f"there is no pod {pod}"
        scheduled = view.condition(found, "PodScheduled") or {}
        said = scheduled.get("message", "")
        return f"it is {found['status'].get('phase')}. {said} {self._here.warnings(NAMESPACE)}"

    async def follow(self) -> list[replicas.Replica]:
        """Return both replicas with what stands behind them, spread over both clusters.

        Raises:
            DemoError: they are not spread, or something behind one of them is not right.
        """
        # Watches of two clusters, and of two kinds, do not keep step: what the pods' own
        # tell may be ahead of what the others tell, for a moment.
        ended = asyncio.get_running_loop().time() + SETTLE_SECONDS
        while True:
            try:
                return self._follow_now()
            except view.DemoError:
                if asyncio.get_running_loop().time() > ended:
                    raise
            changes = [asyncio.ensure_future(each.changed()) for each in self._views.values()]
            await asyncio.wait(changes, timeout=1, return_when=asyncio.FIRST_COMPLETED)
            for change in changes:
                change.cancel()

    def _follow_now(self) -> list[replicas.Replica]:
        found = [replicas.find(self._views, CONSUMER, NAMESPACE, pod) for pod in PODS]
        homes = {replica.home for replica in found}
        if homes != {CONSUMER, PROVIDER}:
            raise view.DemoError(
                f"both replicas are in {', '.join(homes)}, not one in each cluster"
            )
        return found

    async def read(self, replica: replicas.Replica, path: str) -> str:
        """Read a file of a replica's volume, through the node that runs its pod."""
        return await self._exec(CONSUMER, NAMESPACE, replica.pod, "cat", path)

    async def _exec(self, cluster: str, namespace: str, pod: str, *command: str) -> str:
        kubectl = self._views[cluster].kubectl
        return await kubectl("-n", namespace, "exec", pod, "-c", CONTAINER, "--", *command)

    async def write_markers(self, found: Sequence[replicas.Replica]) -> dict[str, str]:
        """Write a marker of its own into each volume, and return them by pod."""
        markers = {}
        for replica in found:
            marker = f"{replica.pod} {secrets.token_hex(8)}"
            script = 'echo "$1" > "$2" && sync "$2"'
            command = ("sh", "-c", script, "sh", marker, MARKER)
            await self._exec(CONSUMER, NAMESPACE, replica.pod, *command)
            markers[replica.pod] = marker
        return markers

    async def show_gravity(self, found: Sequence[replicas.Replica]) -> str:
        """Cordon the node of the remote replica, delete both pods, see one held by its data.

        Returns:
            What the scheduler says of the pod that waits.
        """
        held = next(replica for replica in found if replica.home == PROVIDER)
        free = next(replica for replica in found if replica.home == CONSUMER)
        # Before the deletion: the StatefulSet makes new pods at once.
        await self._here.kubectl("cordon", held.node)
        await self._here.kubectl("-n", NAMESPACE, "delete", "--wait=false", "pod", *PODS)
        await self._wait_until_running(free.pod, other_than=free.pod_uid)
        return await self._here.wait(
            f"pod {held.pod} is Pending because of its volume's node affinity",
            lambda: self._held_by_its_volume(held),
            explain=lambda: self._explain(held.pod),
        )

    def _held_by_its_volume(self, held: replicas.Replica) -> str | None:
        pod = self._here.get("pods", held.pod, NAMESPACE)
        if pod is None or pod["metadata"]["uid"] == held.pod_uid:
            return None
        scheduled = view.condition(pod, "PodScheduled") or {}
        said = str(scheduled.get("message", ""))
        others = [
            node
            for node in self._here.all("nodes")
            if view.is_ready(node) and not node["spec"].get("unschedulable")
        ]
        refused = scheduled.get("status") == "False" and UNSCHEDULABLE in said
        return said if others and refused and nodes_without_data(said) == len(others) else None

    async def come_back(
        self, found: Sequence[replicas.Replica], markers: Mapping[str, str]
    ) -> list[replicas.Replica]:
        """Uncordon, and see both replicas run where their data is, with their markers."""
        for replica in found:
            await self._here.kubectl("uncordon", replica.node)
        for replica in found:
            await self._wait_until_running(replica.pod, other_than=replica.pod_uid)
        again = await self.follow()
        for before, after in zip(found, again, strict=True):
            same = ("home", "twin_namespace", "twin", "real_volume", "volume")
            changed = [name for name in same if getattr(before, name) != getattr(after, name)]
            if changed:
                raise view.DemoError(f"{after.pod} came back with another {', '.join(changed)}")
            if after.pod_uid == before.pod_uid:
                raise view.DemoError(f"{after.pod} was never deleted")
            marker = (await self.read(after, MARKER)).strip()
            if marker != markers[after.pod]:
                raise view.DemoError(f"{after.pod} came back with marker {marker!r}")
        return again


def nodes_without_data(message: str) -> int:
    """Return on how many nodes only a volume's node affinity is in the way.

    A node counts there only after it passed the scheduler's filter for free resources,
    which comes before that for volumes: such a node has room and lacks only the data.
    """
    match = AFFINITY.search(message)
    return int(match[1]) if match else 0


def _is_virtual(node: api.Json) -> bool:
    labels = node["metadata"].get("labels") or {}
    return bool(labels.get("liqo.io/type") == "virtual-node")
