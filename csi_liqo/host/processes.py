"""Starting a program and waiting for it: the only place where the driver does so."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass

from csi_liqo.model import errors


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """A program that ended. ``text`` is what it said, on both streams."""

    code: int
    output: str
    text: str


def run(*arguments: str, timeout_seconds: float | None = 90.0) -> Finished:
    """Run a program by its argument list and return how it ended, whatever its code.

    Raises:
        errors.PreconditionError: the image lacks the program.
        errors.OutcomeUnknownError: it took longer than the timeout, and was killed.
    """
    try:
        done = subprocess.run(
            arguments,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=timeout_seconds,
            check=False,
            env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C"},
        )
    except FileNotFoundError as error:
        raise errors.PreconditionError(
            f"the node plugin's image has no program {arguments[0]}"
        ) from error
    except subprocess.TimeoutExpired as error:
        raise errors.OutcomeUnknownError(
            f"{' '.join(arguments)} took longer than {timeout_seconds} s"
        ) from error
    said = " ".join(f"{done.stdout} {done.stderr}".split())
    return Finished(code=done.returncode, output=done.stdout, text=said[-1000:])
