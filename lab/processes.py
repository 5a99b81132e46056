"""Processes that are found again: by a later command, and after a crash.

A lab's processes outlive the command that started them, a test's must not
outlive the test. Both are started here, without a Python object that would
kill its child when it is collected, and both are recorded with their start time
and boot, because a process id alone may long belong to somebody else.
"""

import asyncio
import contextlib
import dataclasses
import functools
import json
import os
import pathlib
import shutil
import signal
import subprocess
from collections.abc import Mapping, Sequence

from lab import errors, settings


@functools.cache
def _boot_id() -> str:
    return pathlib.Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def program(name: str) -> str:
    """Return the absolute path of a program of the system.

    Raises:
        LabError: it is not installed.
    """
    path = f"{os.environ.get('PATH', '')}:{settings.PROGRAM_PATH}"
    found = shutil.which(name, path=path)
    if found is None:
        raise errors.LabError(f"program {name} is missing; `python -m lab build` installs it")

    return found


def start_time(pid: int) -> int | None:
    """Return when `pid` was started, in clock ticks since boot; None when it is no more.

    A zombie counts as no more: it runs no code and holds no file. That is not yet so while
    threads of it are left, which may still hold a port open.
    """
    try:
        stat = pathlib.Path(f"/proc/{pid}/stat").read_text()
        # NB: the second field is the program's name in parentheses, and may hold anything.
        fields = stat.rpartition(")")[2].split()
        if fields[0] in "ZX" and len(os.listdir(f"/proc/{pid}/task")) <= 1:
            return None
    except (FileNotFoundError, ProcessLookupError):
        return None

    return int(fields[19])


@dataclasses.dataclass(frozen=True, slots=True)
class Identity:
    """One process for good, not whoever has its number next."""

    pid: int
    started: int
    boot: str

    def alive(self) -> bool:
        """Tell whether this very process still runs."""
        return self.boot == _boot_id() and start_time(self.pid) == self.started

    def signal(self, number: signal.Signals) -> None:
        """Send a signal; a process that is gone is left in peace."""
        if self.alive():
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    async def gone(self) -> None:
        """Wait until the process and all of its threads have ended."""
        try:
            descriptor = os.pidfd_open(self.pid)
        except ProcessLookupError:
            return

        loop = asyncio.get_running_loop()
        ended = asyncio.Event()
        loop.add_reader(descriptor, ended.set)
        try:
            if self.alive():  # else the descriptor is of somebody who took the number since
                await ended.wait()
        finally:
            loop.remove_reader(descriptor)
            os.close(descriptor)


@dataclasses.dataclass(frozen=True, slots=True)
class Surroundings:
    """Where a process runs.

    Attributes:
        tied: the process is killed when its parent thread ends (a test's), instead of living on.
        namespaces_of: id of a process whose network and mount namespaces are entered.
        cgroups: `cgroup.procs` files of the control groups that the process joins.
        environment: the whole environment; None means the caller's.
    """

    tied: bool = True
    namespaces_of: int | None = None
    cgroups: tuple[pathlib.Path, ...] = ()
    environment: Mapping[str, str] | None = None

    def wrap(self, argv: Sequence[str]) -> list[str]:
        """Prefix a command with what brings it here; every step replaces itself by the next."""
        prefix: list[str] = []
        if self.cgroups:
            # Before the namespaces: the files are named as this process sees them.
            joins = " && ".join('echo 0 > "$1" && shift' for _ in self.cgroups)
            prefix += [program("sh"), "-c", f'{joins} && exec "$@"', "sh"]
            prefix += map(str, self.cgroups)
        if self.namespaces_of is not None:
            # NB: not `ip netns exec`, which mounts another /sys, where kubelet finds no cgroups.
            space = f"/proc/{self.namespaces_of}/ns"
            prefix += [program("nsenter"), f"--net={space}/net", f"--mount={space}/mnt", "--"]
        if self.tied:
            prefix += tie()
        return [*prefix, *argv]


def tie() -> list[str]:
    """Return what a command is prefixed with to be killed when this process is."""
    # NB: the signal follows the end of the parent *thread*; start from a lasting one. A parent
    # that ended before the signal was asked for sends none: so the shell looks who it is by then.
    unless_orphaned = 'test "$PPID" = "$0" && exec "$@"'
    asked = [program("setpriv"), "--pdeathsig", "KILL", "--"]
    return [*asked, program("sh"), "-c", unless_orphaned, str(os.getpid())]


class Daemon:
    """A long-running process, known by a file that holds its identity."""

    def __init__(
        self,
        name: str,
        argv: Sequence[str],
        *,
        log: pathlib.Path,
        pid_file: pathlib.Path,
        surroundings: Surroundings,
    ) -> None:
        self.name = name
        self.argv = list(argv)
        self.log = log
        self.pid_file = pid_file
        self.surroundings = surroundings

    @property
    def identity(self) -> Identity | None:
        """The recorded process, alive or not; None when none was ever started."""
        return read_identity(self.pid_file)

    def running(self) -> bool:
        """Tell whether the recorded process is alive (stopped by SIGSTOP counts as alive)."""
        identity = self.identity
        return identity is not None and identity.alive()

    def start(self) -> None:
        """Start the process unless it runs; its output is appended to the log."""
        if self.running():
            return

        self.pid_file.parent.mkdir(parents=True, exist_ok=True)
        self.log.parent.mkdir(parents=True, exist_ok=True)
        argv = self.surroundings.wrap(self.argv)
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
        environment = self.surroundings.environment
        # NB: neither `subprocess` nor asyncio: their objects kill, or complain of, a child that
        # is still running when they are collected. posix_spawn leaves nothing behind.
        pid = os.posix_spawn(
            argv[0],
            argv,
            os.environ if environment is None else environment,
            file_actions=[
                (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
                (os.POSIX_SPAWN_OPEN, 1, str(self.log), flags, 0o644),
                (os.POSIX_SPAWN_DUP2, 1, 2),
            ],
            setsid=True,
            setsigmask=(),
            setsigdef=(signal.SIGPIPE, signal.SIGINT),
        )
        started = start_time(pid)
        if started is None:
            self._reap(pid)
            raise errors.ProcessDiedError(self.name, self.log, "could not be started")

        write_identity(self.pid_file, Identity(pid, started, _boot_id()))

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the process, if it lives."""
        identity = self.identity
        if identity is not None:
            identity.signal(number)

    def pause(self) -> None:
        """Freeze the process: its sockets stay open and nobody answers."""
        self.signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let a paused process go on."""
        self.signal(signal.SIGCONT)

    async def kill(self) -> None:
        """End the process without a chance to clean up, and wait until it is gone."""
        self.signal(signal.SIGKILL)
        await self.wait_until_gone(settings.STOP_TIMEOUT_SECONDS)

    async def stop(self, timeout_seconds: float = settings.STOP_TIMEOUT_SECONDS) -> None:
        """Ask the process to end, and kill it when it does not within the time."""
        self.resume()
        self.signal(signal.SIGTERM)
        try:
            await self.wait_until_gone(timeout_seconds)
        except TimeoutError:
            await self.kill()

    async def wait_until_gone(self, timeout_seconds: float) -> None:
        """Wait for the end of the process; its record is removed then.

        Raises:
            TimeoutError: it still lives after the time.
        """
        identity = self.identity
        if identity is None:
            return

        async with asyncio.timeout(timeout_seconds):
            await identity.gone()
        self._reap(identity.pid)
        self.pid_file.unlink(missing_ok=True)

    def check(self) -> None:
        """Raise when the process is not there any more.

        Raises:
            ProcessDiedError: with the end of its log.
        """
        if not self.running():
            identity = self.identity
            if identity is not None:
                self._reap(identity.pid)
            raise errors.ProcessDiedError(self.name, self.log)

    @staticmethod
    def _reap(pid: int) -> None:
        # Only a child can be reaped; one started by an earlier command is init's.
        with contextlib.suppress(ChildProcessError):
            os.waitpid(pid, os.WNOHANG)


def read_identity(pid_file: pathlib.Path) -> Identity | None:
    """Read the record of a process; None when there is none."""
    try:
        record = json.loads(pid_file.read_text())
    except (FileNotFoundError, json.JSONDecodeError):  # or a machine that lost its power
        return None

    return Identity(pid=record["pid"], started=record["started"], boot=record["boot"])


def write_identity(pid_file: pathlib.Path, identity: Identity) -> None:
    """Record a process atomically: a reader sees all of it or none."""
    partial = pid_file.with_suffix(".partial")
    partial.write_text(json.dumps(dataclasses.asdict(identity)) + "\n")
    partial.replace(pid_file)


async def run(
    *argv: str | pathlib.Path,
    stdin: str | bytes | None = None,
    environment: Mapping[str, str] | None = None,
    directory: pathlib.Path | None = None,
) -> str:
    """Run a command to its end and return what it printed; it ends with this process, too.

    Raises:
        LabError: it could not be run or failed; the text has the command and its last words.
    """
    command = [str(part) for part in argv]
    child = await asyncio.create_subprocess_exec(
        *(*tie(), *command),
        stdin=asyncio.subprocess.DEVNULL if stdin is None else asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=environment,
        cwd=directory,
    )
    given = stdin.encode() if isinstance(stdin, str) else stdin
    try:
        output, complaint = await child.communicate(given)
    except BaseException:
        with contextlib.suppress(ProcessLookupError):
            child.kill()
        await child.wait()
        raise

    if child.returncode != 0:
        said = (complaint or output).decode(errors="replace").strip()[-2000:]
        raise errors.LabError(f"`{' '.join(command)}` failed ({child.returncode}): {said}")

    return output.decode(errors="replace")


def run_now(name: str, *arguments: str) -> None:
    """Run a program of the system to its end, blocking; for use in a thread.

    Raises:
        LabError: it failed.
    """
    done = subprocess.run([program(name), *arguments], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise errors.LabError(f"`{name} {' '.join(arguments)}` failed: {done.stderr.strip()}")
