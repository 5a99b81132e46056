"""Switching nodes off as machines are: nothing is told, nothing cleans up.

With the last process of a node go its mounts and its network. Loop devices are the whole
machine's and would stay, where those of a machine that lost its power are gone.
"""

from collections.abc import Collection

from lab import errors, instance, lifecycle, loop_devices, storage


async def switch_off(owner: instance.Instance, nodes: Collection[str]) -> None:
    """End nodes of a running lab; `lifecycle.up()` boots them again, with what is on their disks.

    A cluster's first node takes the control plane with it.

    Raises:
        LabError: the lab is down, has no such node, or something resists.
    """
    octet = owner.recorded_octet
    if octet is None:
        raise errors.LabError(f"no lab runs in {owner.directory}")

    fabric = lifecycle.describe(owner, octet)
    known = {
        host.name: (member, host)
        for member in (fabric.consumer, fabric.provider)
        for host in member.nodes
    }
    unknown = sorted(set(nodes) - set(known))
    if unknown:
        raise errors.LabError(f"there is no node {unknown[0]}; there are {', '.join(known)}")

    for name in nodes:
        member, host = known[name]
        await member.switch_off(host)
        await loop_devices.detach(storage.staged_on(member, name))
