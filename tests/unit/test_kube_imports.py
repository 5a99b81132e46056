"""What the controller imports: the client that it uses, and not its many relatives."""

from __future__ import annotations

import subprocess
import sys

PROGRAM = """
import sys
import csi_liqo.app.controller
from kubernetes.aio import client, config
import kubernetes.aio.client.models
assert kubernetes.aio.client is client
assert client.V1ObjectMeta(name="x").name == "x"
print(*sorted({"requests", "oauthlib", "websocket", "kubernetes.client"} & set(sys.modules)))
"""


def test_the_controller_has_nothing_of_the_client_that_does_not_know_asyncio() -> None:
    # In a process of its own: the lab, and so this one, may have imported all of it before.
    told = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True
    )
    assert told.stdout.split() == []
