"""TCP ports of the loopback for programs that start later, given to one caller only."""

import random
import socket
from typing import Final

from lab import errors, settings

_BLOCK: Final = 8


def take(count: int) -> range:
    """Choose ports that nobody listens on now; they are this process's until it ends.

    Seconds pass between the choice and the listening, and a program that was killed does not
    listen for a while: another process must not choose the same ones meanwhile.

    Args:
        count: how many; at most 8.

    Raises:
        LabError: all are taken.
    """
    blocks = settings.BARE_PORTS[::_BLOCK]
    for first in random.sample(blocks, len(blocks)):
        chosen = range(first, first + _BLOCK)[:count]
        if _hold(first) and all(_is_unused(port) for port in chosen):
            return chosen
    raise errors.LabError(f"all ports of {settings.BARE_PORTS} are taken: end other labs")


def _hold(first: int) -> bool:
    """Take a block; the kernel frees an abstract name when its holder ends, however it ends."""
    holder = socket.socket(socket.AF_UNIX)
    try:
        holder.bind(f"\0csi-liqo-lab-ports-{first}")
    except OSError:
        holder.close()
        return False
    holder.detach()  # open until this process ends
    return True


def _is_unused(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True
