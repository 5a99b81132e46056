"""Memory for compilers to work in, where a machine has plenty of it.

A cold build writes and reads gigabytes that nobody wants afterwards, and linkers
read them in no order: on a slow disk that takes longer than to compile. The memory
is a file system of a mount namespace of its own, so that it is given back when its
holder ends, however that comes.
"""

import asyncio
import contextlib
import dataclasses
import os
import pathlib
import re
import tempfile
from collections.abc import AsyncIterator, Mapping
from typing import Final

from lab import errors, processes, settings

_HOLD: Final = """
mount -t tmpfs -o "size=$1" tmpfs "$2" && mkdir "$2/cache" "$2/tmp" && echo held && read -r _
"""


@dataclasses.dataclass(frozen=True, slots=True)
class Workshop:
    """Where a build runs.

    Attributes:
        prefix: what its command begins with.
        environment: what is added to its environment.
    """

    prefix: tuple[str, ...] = ()
    environment: Mapping[str, str] = dataclasses.field(default_factory=dict)


@contextlib.asynccontextmanager
async def opened() -> AsyncIterator[Workshop]:
    """Offer a workshop in memory; on a small machine, or by another user than root, a plain one.

    Raises:
        LabError: the memory cannot be mounted.
    """
    if os.geteuid() != 0 or _available_bytes() < settings.WORKSHOP_NEEDS_BYTES:
        yield Workshop()
        return

    with tempfile.TemporaryDirectory(prefix="csi-liqo-workshop-") as folder:
        apart = (processes.program("unshare"), "--mount", "--propagation", "private", "--")
        script = (processes.program("sh"), "-c", _HOLD, "sh", str(settings.WORKSHOP_BYTES), folder)
        holder = await asyncio.create_subprocess_exec(
            *(*processes.tie(), *apart, *script),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        assert holder.stdout is not None
        try:
            if await holder.stdout.readline() != b"held\n":
                raise errors.LabError(f"no memory could be mounted on {folder} to build in")
            enter = (processes.program("nsenter"), f"--mount=/proc/{holder.pid}/ns/mnt", "--")
            yield Workshop(enter, {"GOCACHE": f"{folder}/cache", "GOTMPDIR": f"{folder}/tmp"})
        finally:
            with contextlib.suppress(ProcessLookupError):
                holder.kill()
            await holder.wait()


def _available_bytes() -> int:
    memory = pathlib.Path("/proc/meminfo").read_text()
    found = re.search(r"^MemAvailable: +(\d+) kB$", memory, re.MULTILINE)
    return int(found[1]) * 1024 if found else 0
