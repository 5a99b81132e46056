"""The node's use cases, each call in a process that kills itself at a chosen step.

A step is a call on the machine, the journal's files or a real driver's socket; the
process dies by SIGKILL before or after the nth, as a container does that is out of memory. The
real adapters do the work, nothing is imitated. Orders come on standard input, one
a line; each is carried out by a forked process, which is what makes a thousand of
them cheap, and answered by its number of steps, or by -1 when it died.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import pathlib
import signal
import sys
import traceback
from collections.abc import AsyncIterator, Callable
from typing import Any, cast

import msgspec

from csi_liqo.host import journal as journal_files
from csi_liqo.host import machine, plugin_sockets, real_drivers_file
from csi_liqo.rpc import connections, node, real_drivers
from csi_liqo.rpc.pb import csi_pb2
from csi_liqo.service.node import journal, limits, ports, volumes

FAILED = 255


class Order(msgspec.Struct):
    """What to do, and where to die: before the step when ``before``, else right after it."""

    verb: str
    volume_id: str
    kubelet: str
    host: str
    staging: str
    target: str
    context: dict[str, str]
    block: bool = False
    die_at: int = 0
    before: bool = False


class Steps:
    """Counts the calls on what it wraps, and dies at the chosen one."""

    def __init__(self, order: Order) -> None:
        self.order = order
        self.count = 0

    def around(self, wrapped: object) -> Any:
        steps = self

        class Counted:
            def __getattr__(self, name: str) -> Callable[..., object]:
                inner = getattr(wrapped, name)

                def call(*arguments: object, **named: object) -> object:
                    steps.count += 1
                    here = steps.count == steps.order.die_at
                    if here and steps.order.before:
                        os.kill(os.getpid(), signal.SIGKILL)
                    result = inner(*arguments, **named)
                    if here:
                        os.kill(os.getpid(), signal.SIGKILL)
                    return result

                return call

        return Counted()


class CountedDrivers(real_drivers.RealDrivers):
    """Counts the end of each use of a real driver."""

    steps: Steps

    @contextlib.asynccontextmanager
    async def connected(self, driver: str) -> AsyncIterator[connections.Connection]:
        async with super().connected(driver) as connection:
            yield connection
        self.steps.around(self).done()

    def done(self) -> None:
        """Mark a step."""


class NoDeadline:
    def time_remaining(self) -> None:
        return None


async def run(order: Order, serves: node.NodeServicer) -> None:
    capability = csi_pb2.VolumeCapability(
        access_mode=csi_pb2.VolumeCapability.AccessMode(mode="SINGLE_NODE_WRITER")
    )
    if order.block:
        capability.block.SetInParent()
    else:
        capability.mount.SetInParent()
    context = NoDeadline()
    match order.verb:
        case "stage":
            await serves.NodeStageVolume(
                csi_pb2.NodeStageVolumeRequest(
                    volume_id=order.volume_id,
                    staging_target_path=order.staging,
                    volume_capability=capability,
                    volume_context=order.context,
                ),
                context,
            )
        case "publish":
            await serves.NodePublishVolume(
                csi_pb2.NodePublishVolumeRequest(
                    volume_id=order.volume_id,
                    staging_target_path=order.staging,
                    target_path=order.target,
                    volume_capability=capability,
                    volume_context=order.context,
                ),
                context,
            )
        case "unpublish":
            await serves.NodeUnpublishVolume(
                csi_pb2.NodeUnpublishVolumeRequest(
                    volume_id=order.volume_id, target_path=order.target
                ),
                context,
            )
        case "unstage":
            await serves.NodeUnstageVolume(
                csi_pb2.NodeUnstageVolumeRequest(
                    volume_id=order.volume_id, staging_target_path=order.staging
                ),
                context,
            )


async def carry_out(order: Order) -> int:
    """Return the number of steps."""
    steps = Steps(order)
    kubelet = pathlib.Path(order.kubelet)
    files = journal_files.JournalFiles(kubelet / "plugins/csi.liqo.io/journal")
    here = machine.Machine(host_root=pathlib.Path(order.host), kubelet_dir=kubelet)
    sockets = plugin_sockets.PluginSockets(kubelet)
    drivers = CountedDrivers(cast("ports.PluginSockets", steps.around(sockets)), node_name="rome-1")
    drivers.steps = steps
    use_cases = volumes.Volumes(
        cast("ports.Host", steps.around(here)),
        journal.Journal(cast("ports.JournalFiles", steps.around(files))),
        node_name="rome-1",
        kubelet_dir=order.kubelet,
    )
    told = real_drivers_file.RealDriversFile(kubelet / "absent.json")
    limit = limits.Limits(told, drivers.most_volumes, own_name="csi.liqo.io")
    serves = node.NodeServicer(
        use_cases, drivers, most_volumes=limit.most_volumes, node_name="rome-1", segment={}
    )
    await run(order, serves)
    use_cases.close()
    await drivers.aclose()
    return steps.count


def main() -> None:
    for line in sys.stdin:
        order = msgspec.json.decode(line, type=Order)
        child = os.fork()
        if child == 0:
            try:
                os._exit(asyncio.run(carry_out(order)))
            except BaseException:
                traceback.print_exc()
                os._exit(FAILED)
        _, ended = os.waitpid(child, 0)
        print(-1 if os.WIFSIGNALED(ended) else os.waitstatus_to_exitcode(ended), flush=True)


if __name__ == "__main__":
    main()
