"""The node role as a program of its own, which the command line turns into.

It runs on every node, so its memory counts as often as there are nodes. The
library that parses arguments takes 13 MiB and is of no more use once they are
parsed: ``csi-liqo node`` validates and then becomes this program, with the
same process id. The settings come as JSON in one argument.
"""

from __future__ import annotations

import logging
import os
import pathlib
import sys
from typing import Any, NoReturn

import msgspec

from csi_liqo.model import errors, settings

logger = logging.getLogger(__name__)


def become(wanted: settings.NodeSettings, log_level: str) -> NoReturn:
    """Replace this process; return is impossible."""
    given = msgspec.json.encode(wanted, enc_hook=str).decode()
    # No shell, and the program is the running interpreter.
    os.execv(sys.executable, [sys.executable, "-m", __name__, log_level, given])  # noqa: S606


def read(given: str) -> settings.NodeSettings:
    """Return the settings from what ``become`` made of them."""

    def decode(kind: type, value: Any) -> Any:
        assert kind is pathlib.Path
        return kind(value)

    return msgspec.json.decode(given, type=settings.NodeSettings, dec_hook=decode)


def main() -> int:
    """Serve until SIGTERM; return the exit code."""
    import asyncio
    import gc

    from csi_liqo.app import logs, node

    log_level, given = sys.argv[1:]
    logs.to_stderr(log_level)
    # What was imported stays, so that no collection looks through it while a call waits.
    gc.collect()
    gc.freeze()
    try:
        asyncio.run(node.run(read(given)))
    except errors.Error as error:
        logger.critical("%s", error)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
