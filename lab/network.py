"""The networks of one instance: a switch, a cable to each node, a cable to the machine.

Each node is a network namespace with one interface. All of them hang on a
bridge in a namespace of its own, so no firewall rule of the machine sees their
traffic. The machine has one interface into it, and routes to the pods. Nothing
here is a file: namespaces live as long as a process in them, interfaces as long
as their namespace, routes as long as their interface.
"""

import asyncio
import contextlib
import dataclasses
import fcntl
import ipaddress
import json
import pathlib
from typing import Any, Final

from lab import errors, instance, processes, settings

# The control group of all that runs in the switch's namespace.
GROUP: Final = "network"
_SWITCH: Final = "switch"
_BRIDGE: Final = "bridge"
_NODE_LINK: Final = "eth0"
_POLL_SECONDS: Final = 0.01


@dataclasses.dataclass(frozen=True, slots=True)
class Addresses:
    """Who has which address in an instance."""

    octet: int

    @property
    def whole(self) -> ipaddress.IPv4Network:
        """Everything that belongs to the instance."""
        return ipaddress.IPv4Network(f"10.{self.octet}.0.0/16")

    @property
    def machine(self) -> str:
        """The machine's own address in the instance; the nodes' gateway."""
        return f"10.{self.octet}.{settings.NODES_THIRD_OCTET}.1"

    @property
    def switch(self) -> str:
        """The switch's own address, where virtual kubelets listen; every node reaches it."""
        return f"10.{self.octet}.{settings.NODES_THIRD_OCTET}.2"

    def node(self, cluster: int, node: int) -> str:
        """Address of a cluster's node; both are counted from 0."""
        return f"10.{self.octet}.{settings.NODES_THIRD_OCTET}.{10 * (cluster + 1) + node + 1}"

    def pods(self, cluster: int) -> str:
        """The range of all of a cluster's pods."""
        return f"10.{self.octet}.{settings.BLOCK_OF_A_CLUSTER * cluster}.0/20"

    def pods_of_node(self, cluster: int, node: int) -> str:
        """The range of the pods of one node."""
        return f"10.{self.octet}.{settings.BLOCK_OF_A_CLUSTER * cluster + node + 1}.0/24"

    def services(self, cluster: int) -> str:
        """The range of a cluster's services."""
        third = settings.SERVICES_THIRD_OCTET + settings.BLOCK_OF_A_CLUSTER * cluster
        return f"10.{self.octet}.{third}.0/20"

    def api_service(self, cluster: int) -> str:
        """The address of a cluster's service `kubernetes`."""
        return str(next(ipaddress.IPv4Network(self.services(cluster)).hosts()))


@dataclasses.dataclass(frozen=True, slots=True)
class Route:
    """A range of pods behind a node."""

    pods: str
    node: str


class Network:
    """The switch of an instance and what hangs on it."""

    def __init__(self, owner: instance.Instance) -> None:
        self._instance = owner
        self._switch = processes.Daemon(
            _SWITCH,
            [processes.program("unshare"), "--net", "--", processes.program("sleep"), "infinity"],
            log=owner.directory / "switch.log",
            pid_file=owner.directory / "switch.pid",
            surroundings=owner.surroundings(GROUP),
        )

    async def ensure(self) -> Addresses:
        """Have the switch and the machine's cable to it; return the addresses to use.

        Raises:
            LabError: no address range is free.
        """
        if self._switch.running() and await self._octet_in_use() is not None:
            return Addresses(self._instance.preferred_octet)

        await self.remove()
        self._instance.group.child(GROUP).ensure_for_daemons()
        self._switch.start()
        switch = await namespace_of(self._switch)
        settings.SUBNET_LOCK.parent.mkdir(parents=True, exist_ok=True)
        with settings.SUBNET_LOCK.open("w") as lock:
            # The address on the interface is the claim; the lock covers looking and taking.
            await asyncio.to_thread(fcntl.flock, lock, fcntl.LOCK_EX)
            addresses = Addresses(await self._choose_octet())
            await self._plug_machine(switch, addresses)
        self._instance.record_octet(addresses.octet)
        return addresses

    async def healthy(self) -> bool:
        """Tell whether the switch and the machine's cable are there."""
        return self._switch.running() and await self._octet_in_use() is not None

    async def holder(self) -> int:
        """Return the id of the process that holds the switch's network namespace."""
        return await namespace_of(self._switch)

    async def plug(self, name: str, holder: int, address: str) -> None:
        """Connect a node's namespace to the switch; what is connected already is kept.

        Args:
            name: of the node, which its end at the switch is called after.
            holder: id of a process in the node's network namespace.
            address: the node's.
        """
        switch = await namespace_of(self._switch)
        note = f"plugged into {self._switch.identity}".replace(" ", "-")
        for link in json.loads(await in_namespace(holder, "ip", "-json", "link")):
            if link["ifname"] == _NODE_LINK:
                if link.get("ifalias") == note:
                    return
                # Half done and interrupted, or of a switch that ended; then it may go by itself.
                with contextlib.suppress(errors.LabError):
                    await ip_batch(holder, f"link delete {_NODE_LINK}")

        port = f"port-{name}"[:15]
        # Of a node that ended: the kernel removes it at its leisure.
        with contextlib.suppress(errors.LabError):
            await ip_batch(switch, f"link delete {port}")
        # One address, one hardware address: others may remember it from before a repair.
        hardware = "02:00:" + ":".join(f"{int(part):02x}" for part in address.split("."))
        end = f"{_NODE_LINK} address {hardware} netns {holder}"
        command = f"link add {end} type veth peer name {port} netns {switch}"
        await processes.run(processes.program("ip"), *command.split())
        await ip_batch(switch, f"link set {port} master {_BRIDGE}", f"link set {port} up")
        machine = Addresses(self._instance.preferred_octet).machine
        await ip_batch(
            holder,
            "link set lo up",
            f"address add {address}/24 dev {_NODE_LINK}",
            f"link set {_NODE_LINK} up",
            f"route add default via {machine}",
        )
        await in_namespace(holder, "sh", "-c", "echo 1 > /proc/sys/net/ipv4/ip_forward")
        await ip_batch(holder, f"link set {_NODE_LINK} alias {note}")

    async def route(self, routes: list[Route], nodes: dict[str, int]) -> None:
        """Let every node, and the machine, reach every pod.

        Args:
            routes: which pods are behind which node's address.
            nodes: address of each node -> id of a process in its network namespace.
        """
        for address, holder in nodes.items():
            others = [route for route in routes if route.node != address]
            await ip_batch(holder, *(f"route replace {r.pods} via {r.node}" for r in others))
        commands = [
            f"route replace {r.pods} via {r.node} dev {self._instance.host_link}" for r in routes
        ]
        await processes.run(
            processes.program("ip"), "-batch", "-", stdin="\n".join(commands) + "\n"
        )

    async def remove(self) -> None:
        """End the switch, and with it every cable; the machine's routes go with its cable."""
        await self._instance.group.child(GROUP).kill()
        if await self._link() is None:
            return
        try:
            await processes.run(processes.program("ip"), "link", "delete", self._instance.host_link)
        except errors.LabError:
            # The kernel takes the cable away with the switch, some time after its last process.
            if await self._link() is not None:
                raise

    async def _plug_machine(self, switch: int, addresses: Addresses) -> None:
        link = self._instance.host_link
        await ip_batch(
            switch,
            "link set lo up",
            f"link add {_BRIDGE} type bridge",
            f"address add {addresses.switch}/24 dev {_BRIDGE}",
            f"link set {_BRIDGE} up",
        )
        commands = [
            f"link add {link} type veth peer name machine netns {switch}",
            f"address add {addresses.machine}/24 dev {link}",
            f"link set {link} up",
        ]
        await processes.run(
            processes.program("ip"), "-batch", "-", stdin="\n".join(commands) + "\n"
        )
        await ip_batch(switch, f"link set machine master {_BRIDGE}", "link set machine up")

    async def _octet_in_use(self) -> int | None:
        link = await self._link()
        if link is None:
            return None

        for address in link.get("addr_info", []):
            if address["family"] == "inet":
                return int(str(address["local"]).split(".")[1])
        return None

    async def _link(self) -> dict[str, Any] | None:
        for link in json.loads(await processes.run(processes.program("ip"), "-json", "address")):
            if link.get("ifname") == self._instance.host_link:
                found: dict[str, Any] = link
                return found
        return None

    async def _choose_octet(self) -> int:
        taken = await _networks_of_the_machine()
        octets = settings.SECOND_OCTETS
        first = octets.index(self._instance.preferred_octet)
        candidates: list[int] = [*octets[first:], *octets[:first]]
        for octet in candidates:
            whole = Addresses(octet).whole
            if not any(whole.overlaps(network) for network in taken):
                return octet
        raise errors.LabError(
            f"every 10.{octets.start}.0.0/16 to 10.{octets.stop - 1}.0.0/16 is in use here"
        )


async def namespace_of(holder: processes.Daemon) -> int:
    """Return the id of a holder once it is in a network namespace of its own.

    Raises:
        ProcessDiedError: it ended instead.
    """
    own = _network_namespace("self")
    try:
        async with asyncio.timeout(settings.STOP_TIMEOUT_SECONDS):
            while True:
                holder.check()
                identity = holder.identity
                assert identity is not None
                if _network_namespace(str(identity.pid)) != own:
                    return identity.pid
                await asyncio.sleep(_POLL_SECONDS)
    except TimeoutError:
        reason = "got no network namespace"
        raise errors.ProcessDiedError(holder.name, holder.log, reason) from None


def _network_namespace(process: str) -> pathlib.Path:
    return pathlib.Path(f"/proc/{process}/ns/net").readlink()


async def in_namespace(holder: int, program: str, *arguments: str, stdin: str | None = None) -> str:
    """Run a program of the system in the network namespace of a process."""
    enter = (processes.program("nsenter"), f"--net=/proc/{holder}/ns/net", "--")
    return await processes.run(*enter, processes.program(program), *arguments, stdin=stdin)


async def ip_batch(holder: int, *commands: str) -> None:
    """Run `ip` commands in the network namespace of a process, stopping at a failure."""
    await in_namespace(holder, "ip", "-batch", "-", stdin="\n".join(commands) + "\n")


async def _networks_of_the_machine() -> list[ipaddress.IPv4Network]:
    ip = processes.program("ip")
    routes = json.loads(await processes.run(ip, "-json", "-4", "route", "show", "table", "all"))
    destinations = [route["dst"] for route in routes if route["dst"] != "default"]
    return [ipaddress.IPv4Network(destination, strict=False) for destination in destinations]
