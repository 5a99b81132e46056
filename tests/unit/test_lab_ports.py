"""Programs that start at the same time do not take each other's ports."""

from __future__ import annotations

import itertools
import subprocess
import sys

from lab import ports

TAKE_OF = """
import sys
from lab import errors, ports, settings

settings.BARE_PORTS = range(int(sys.argv[1]), int(sys.argv[2]))
try:
    print(ports.take(6))
except errors.LabError as error:
    print(error)
"""


def test_no_port_is_given_twice_in_one_process() -> None:
    taken = [ports.take(6) for _ in range(50)]

    assert len(set(itertools.chain(*taken))) == 300


def test_ports_that_are_taken_but_not_listened_on_yet_are_no_other_process_s() -> None:
    taken = ports.take(6)

    bounds = [str(taken.start), str(taken.stop)]
    other = subprocess.run(
        [sys.executable, "-c", TAKE_OF, *bounds], check=True, capture_output=True, text=True
    )

    assert other.stdout.startswith("all ports of range(")
