"""Where a role's log lines go and what each carries."""

from __future__ import annotations

import logging
import sys

from csi_liqo.rpc import interceptors

FORMAT = "%(asctime)s %(levelname)s %(call_id)s %(name)s: %(message)s"


def to_stderr(level: str = "INFO") -> None:
    """Log to standard error, each line with the id of the call that caused it."""
    # No line says which thread or process it is of, so nobody finds that out for each.
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    handler = logging.StreamHandler(sys.stderr)
    handler.addFilter(interceptors.CallIdFilter())
    logging.basicConfig(level=level.upper(), format=FORMAT, handlers=[handler])
