"""The node's use cases, each call in a process that kills itself at a chosen step.

A step is a call on the machine or the journal's files; the process dies by
SIGKILL before or after the nth, as a container does that is out of memory. The
real adapters do the work, nothing is imitated. Orders come on standard input, one
a line; each is carried out by a forked process, which is what makes a thousand of
them cheap, and answered by its number of steps, or by -1 when it died.
"""

from __future__ import annotations

import asyncio
import os
import pathlib
import signal
import sys
import traceback
from collections.abc import Callable
from typing import Any, cast

import msgspec

from csi_liqo.host import journal as journal_files
from csi_liqo.host import machine
from csi_liqo.model import source, volumes
from csi_liqo.service.node import journal, ports, requests
from csi_liqo.service.node import volumes as use_cases

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


async def run(order: Order, node: use_cases.Volumes) -> None:
    mode = source.VolumeMode.BLOCK if order.block else source.VolumeMode.FILESYSTEM
    capability = volumes.VolumeCapability(
        access_mode=volumes.AccessMode.SINGLE_NODE_WRITER, volume_mode=mode
    )
    match order.verb:
        case "stage":
            await node.stage(
                requests.StageRequest(
                    volume_id=order.volume_id,
                    staging_path=order.staging,
                    capability=capability,
                    context=order.context,
                )
            )
        case "publish":
            await node.publish(
                requests.PublishRequest(
                    volume_id=order.volume_id,
                    staging_path=order.staging,
                    target_path=order.target,
                    capability=capability,
                    read_only=False,
                    context=order.context,
                )
            )
        case "unpublish":
            await node.unpublish(order.volume_id, order.target)
        case "unstage":
            await node.unstage(order.volume_id, order.staging)


def carry_out(order: Order) -> int:
    """Return the number of steps."""
    steps = Steps(order)
    kubelet = pathlib.Path(order.kubelet)
    files = journal_files.JournalFiles(kubelet / "plugins/csi.liqo.io/journal")
    here = machine.Machine(host_root=pathlib.Path(order.host), kubelet_dir=kubelet)
    node = use_cases.Volumes(
        cast("ports.Host", steps.around(here)),
        journal.Journal(cast("ports.JournalFiles", steps.around(files))),
        node_name="rome-1",
        kubelet_dir=order.kubelet,
    )
    asyncio.run(run(order, node))
    node.close()
    return steps.count


def main() -> None:
    for line in sys.stdin:
        order = msgspec.json.decode(line, type=Order)
        child = os.fork()
        if child == 0:
            try:
                os._exit(carry_out(order))
            except BaseException:
                traceback.print_exc()
                os._exit(FAILED)
        _, ended = os.waitpid(child, 0)
        print(-1 if os.WIFSIGNALED(ended) else os.waitstatus_to_exitcode(ended), flush=True)


if __name__ == "__main__":
    main()
