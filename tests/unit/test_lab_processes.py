"""What the lab starts for a moment ends with the command that started it."""

import asyncio
import os
import pathlib
import sys

import pytest

from lab import errors, processes, settings

RUN = "import asyncio, sys; from lab import processes; asyncio.run(processes.run(*sys.argv[1:]))"


async def test_a_command_ends_when_the_process_that_runs_it_is_killed(
    tmp_path: pathlib.Path,
) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    command = ["sh", "-c", f"echo $$ > {fifo}; exec sleep 1000"]
    running = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", RUN, *command), cwd=settings.REPOSITORY
    )
    try:
        async with asyncio.timeout(20):
            pid = int(await asyncio.to_thread(fifo.read_text))
        descriptor = os.pidfd_open(pid)
    finally:
        running.kill()
        await running.wait()

    ended = asyncio.Event()
    asyncio.get_running_loop().add_reader(descriptor, ended.set)
    try:
        async with asyncio.timeout(20):
            await ended.wait()
    finally:
        asyncio.get_running_loop().remove_reader(descriptor)
        os.close(descriptor)


async def test_a_command_that_fails_says_its_own_last_words() -> None:
    with pytest.raises(errors.LabError, match=r"`sh -c .*` failed \(3\): it is too late"):
        await processes.run("sh", "-c", "echo it is too late >&2; exit 3")
