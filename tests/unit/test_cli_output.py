"""Tables as people see them: names in one piece on any terminal, sentences folded to its width."""

from __future__ import annotations

import json
import os
import pty
import re
import subprocess
import sys
import termios

import pytest

COLUMNS = [("claim", False), ("twin", False), ("finding", True)]
TWIN = "csi-liqo-storage/pvc-85320f6c-2d49-4c0a-9f0d-1b6d5d8a0c11"
SENTENCE = "no StorageClass has provisioner csi.liqo.io: nobody can ask for a volume"
PROGRAM = """
import json, sys
from csi_liqo.cli import output
columns, rows = json.loads(sys.argv[1])
output.print_table([output.Column(t, prose=p) for t, p in columns], rows)
"""


def printed(width: int) -> list[str]:
    """Return what a terminal of that width is sent, without colours."""
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (50, width))
    environment = {k: v for k, v in os.environ.items() if k not in ("COLUMNS", "LINES")}
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM, json.dumps([COLUMNS, [["data", TWIN, SENTENCE]]])],
        stdout=theirs,
        env={**environment, "TERM": "xterm"},
    ) as child:
        os.close(theirs)
        text = b""
        while True:
            try:
                part = os.read(ours, 65536)
            except OSError:  # nobody holds the other end any more
                break
            if not part:
                break
            text += part
        assert child.wait() == 0
    os.close(ours)
    return re.sub(r"\x1b\[[0-9;]*m", "", text.decode()).splitlines()


@pytest.mark.parametrize("width", [40, 80, 110, 200])
def test_a_name_is_never_folded_and_no_line_ends_in_blanks(width: int) -> None:
    header, *lines = printed(width)

    assert header.split() == ["CLAIM", "TWIN", "FINDING"]
    assert TWIN in lines[0]
    assert " ".join(" ".join(lines).replace(TWIN, "").split()) == f"data {SENTENCE}"
    assert all(line == line.rstrip() for line in (header, *lines))


def test_a_sentence_is_folded_to_the_width_of_the_terminal() -> None:
    assert len(printed(200)) == 2
    assert len(printed(110)) > 2
    assert all(len(line) <= 110 for line in printed(110))
