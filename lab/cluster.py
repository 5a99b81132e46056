"""One cluster of an instance: a control plane in its first node, and its nodes."""

import asyncio
import datetime
import pathlib
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from lab import (
    api,
    components,
    control_plane,
    errors,
    image_store,
    images,
    instance,
    network,
    node,
    node_configuration,
    processes,
    settings,
)

_POLL_SECONDS: Final = 0.1
# Merges, however often; what is said here wins over what others said.
APPLY: Final = ("apply", "--server-side", "--force-conflicts", "--field-manager=csi-liqo-lab")
Report = Callable[[str], None]


class Cluster:
    """A cluster by its name; every method may be called again after an interruption."""

    def __init__(
        self, name: str, owner: instance.Instance, wires: network.Network, octet: int
    ) -> None:
        self.name = name
        self.index = list(settings.CLUSTERS).index(name)
        self.directory = owner.cluster_directory(name)
        self._instance = owner
        self._network = wires
        self._addresses = network.Addresses(octet)
        self.plane = self._make_plane()
        self.nodes = [
            node.Node(node_name, owner, self.plane, self._plan(node_name, position))
            for position, node_name in enumerate(settings.CLUSTERS[name])
        ]

    async def hold(self) -> list[network.Route]:
        """Have the namespaces and cables of all nodes; return the routes to their pods."""
        self.directory.mkdir(parents=True, exist_ok=True)
        self.plane.hostpath_directory.mkdir(parents=True, exist_ok=True)
        await asyncio.gather(*(self._hold_node(member) for member in self.nodes))
        return [network.Route(member.plan.pods, member.plan.address) for member in self.nodes]

    def has_stores(self) -> bool:
        """Tell whether every node has images already."""
        return all((member.directory / "containerd").exists() for member in self.nodes)

    async def start(
        self, archives: Sequence[images.Archive], template: pathlib.Path | None, report: Report
    ) -> None:
        """Start everything in the held nodes and return when every node is Ready.

        Args:
            archives: images that every node shall have.
            template: an image store that new nodes begin with.
            report: called with a line when a step begins.

        Raises:
            ProcessDiedError: a process ended; the error has the end of its log.
            LabError: a node is not Ready in time; the text has what it says of itself.
        """
        async with asyncio.TaskGroup() as group:
            group.create_task(self._start_plane(report), name=f"{self.name}: control plane")
            for member in self.nodes:
                group.create_task(self._start_runtime(member, archives, template), name=member.name)
        report(f"{self.name}: waiting for the nodes")
        fresh = [member.name for member in self.nodes if member.start_kubelet()]
        await self._wait_until_ready(dict.fromkeys(fresh, time.time()))

    async def switch_off(self, member: node.Node) -> None:
        """End a node as a machine that loses its power; `hold()` and `start()` boot it again.

        The first node takes the control plane with it. What is on disk stays.
        """
        if member is self.nodes[0]:
            await self._instance.group.child(self._plane_group).kill()
        await member.kill()
        # kubelet would look for a container in each group that is left, for seconds.
        await self._instance.group.child(member.name).remove()

    def holders(self) -> dict[str, int]:
        """Return the address of each node -> id of a process in its namespaces."""
        return {
            member.plan.address: identity.pid
            for member in self.nodes
            if (identity := member.holder.identity) is not None
        }

    async def silent_components(self) -> list[str]:
        """Return the components of the control plane that do not answer."""
        components = list(self.plane.components)
        answers = await asyncio.gather(*map(self.plane.healthy, components))
        return [name for name, well in zip(components, answers, strict=True) if not well]

    async def unready_nodes(self, since: Mapping[str, float] | None = None) -> dict[str, str]:
        """Return the nodes that are not Ready, each with what it says about that.

        Args:
            since: node -> the time before which it said nothing that counts.
        """
        try:
            async with await api.Api.of(self.plane.kubeconfig) as server:
                listed = (await server.get("/api/v1/nodes"))["items"]
        except api.FAILURES as error:
            return dict.fromkeys(settings.CLUSTERS[self.name], f"the API server: {error}")

        oldest = time.time() - settings.NODE_SILENCE_SECONDS
        known = {
            (name := item["metadata"]["name"]): _readiness(item, (since or {}).get(name, oldest))
            for item in listed
        }
        complaints = {
            name: known.get(name, "not registered") for name in settings.CLUSTERS[self.name]
        }
        return {name: complaint for name, complaint in complaints.items() if complaint}

    async def kubectl(self, *arguments: str | pathlib.Path, stdin: str | None = None) -> str:
        """Run kubectl as the cluster's administrator and return what it prints.

        Raises:
            LabError: it failed; the text has what it said.
        """
        kubectl = self._instance.binaries / "kubectl"
        return await processes.run(
            kubectl, "--kubeconfig", self.plane.kubeconfig, *arguments, stdin=stdin
        )

    async def exists(self, reference: str, namespace: str) -> bool:
        """Tell whether an object such as `secret/milan` is there."""
        found = await self.kubectl(
            *("get", reference, f"--namespace={namespace}", "--ignore-not-found", "--output=name")
        )
        return bool(found.strip())

    @property
    def _plane_group(self) -> str:
        return f"{self.name}.control-plane"

    def _plan(self, name: str, position: int) -> node_configuration.Plan:
        return node_configuration.Plan(
            name=name,
            address=self._addresses.node(self.index, position),
            pods=self._addresses.pods_of_node(self.index, position),
            cluster_pods=self._addresses.pods(self.index),
            cgroup=self._instance.group.child(name).path,
        )

    def _make_plane(self, holder: int | None = None) -> control_plane.ControlPlane:
        address = self._addresses.node(self.index, 0)
        site = components.Site(
            host=address,
            bind="0.0.0.0",
            ports=components.Ports(),
            service_range=self._addresses.services(self.index),
            service_address=self._addresses.api_service(self.index),
            surroundings=self._instance.surroundings(self._plane_group, holder),
            own_mounts=False,
            advertise=True,
            extra_names=(self.name, settings.CLUSTERS[self.name][0]),
        )
        return control_plane.ControlPlane(
            self.name, self.directory, self._instance.binaries, site=site
        )

    async def _hold_node(self, member: node.Node) -> None:
        if member is self.nodes[0] and not member.holder.running():
            # It runs in the namespaces that ended with their holder.
            await self._instance.group.child(self._plane_group).kill()
        holder = await member.hold()
        await self._network.plug(member.name, holder, member.plan.address)

    async def _start_plane(self, report: Report) -> None:
        report(f"{self.name}: starting the control plane")
        holder = await network.namespace_of(self.nodes[0].holder)
        self._instance.group.child(self._plane_group).ensure_for_daemons()
        self.plane = self._make_plane(holder)
        await self.plane.up()
        await self.kubectl(*APPLY, f"--filename={settings.MANIFESTS / self.name}")

    async def _start_runtime(
        self,
        member: node.Node,
        archives: Sequence[images.Archive],
        template: pathlib.Path | None,
    ) -> None:
        if template is not None:
            await asyncio.to_thread(image_store.seed, member.directory, template)
        await member.start_containerd()
        await images.ensure_imported(member, archives)

    async def _wait_until_ready(self, since: Mapping[str, float]) -> None:
        complaints: dict[str, str] = {}
        try:
            async with asyncio.timeout(settings.NODE_TIMEOUT_SECONDS):
                while complaints := await self.unready_nodes(since):
                    for member in self.nodes:
                        member.check()
                    await asyncio.sleep(_POLL_SECONDS)
        except TimeoutError:
            text = "; ".join(f"{name}: {complaint}" for name, complaint in complaints.items())
            raise errors.LabError(
                f"not Ready after {settings.NODE_TIMEOUT_SECONDS:.0f} s: {text};"
                f" see the logs in {self.directory}"
            ) from None


def _readiness(item: dict[str, Any], since: float) -> str:
    """Return why a node is not Ready; the empty text when it said that it is, since a time."""
    for condition in item["status"].get("conditions", []):
        if condition["type"] == "Ready":
            if condition["status"] != "True":
                return str(condition["message"])

            said = datetime.datetime.fromisoformat(condition["lastHeartbeatTime"]).timestamp()
            return "" if said >= int(since) else "kubelet is silent"
    return "no status yet"
