"""What the node plugin costs: each call between kubelet and a real driver, memory, start.

The real driver is the one that does nothing, so that nothing else is in the figures.
Beside our node plugin stands an empty proxy, which any program in its place would be.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import pathlib
import statistics
import time
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Final

import grpc
import grpc.aio

from bench import figures, manifests, node_calls, process_facts, programs, provisioning
from csi_liqo.rpc.pb import (
    csi_pb2_grpc,
    pluginregistration_pb2,
    pluginregistration_pb2_grpc,
)
from lab import instance, processes

Report = Callable[[str], None]

CYCLES: Final = 1000
WARM: Final = 100
HALF: Final = CYCLES // 2
"""Until then an allocator still finds out how much it needs."""
OVERHEAD: Final = "node-overhead"
PLUGIN: Final = "node-plugin"
_DIRECT: Final = "the real driver itself"
_PROXY: Final = "empty proxy"
_OURS: Final = "node plugin"


@dataclasses.dataclass(frozen=True, slots=True)
class Node:
    """A kubelet's folder with the do-nothing driver registered in it."""

    directory: pathlib.Path
    binaries: pathlib.Path
    noop: processes.Daemon

    @property
    def kubelet(self) -> pathlib.Path:
        return self.directory / "kubelet"

    @property
    def registry(self) -> pathlib.Path:
        return self.kubelet / "plugins_registry"

    @property
    def registration(self) -> pathlib.Path:
        return self.registry / f"{manifests.DRIVER}-reg.sock"

    @property
    def real_socket(self) -> pathlib.Path:
        return self.kubelet / "plugins" / manifests.NOOP / "csi.sock"

    @property
    def socket(self) -> pathlib.Path:
        return self.kubelet / "plugins" / manifests.DRIVER / "csi.sock"

    def plugin(self) -> processes.Daemon:
        """Describe our node plugin, in a mount namespace of its own as in a container."""
        command = programs.python_program(
            "csi_liqo.cli",
            *("node", f"--cluster-id={manifests.CONSUMER}", f"--node-name={manifests.NODE}"),
            *(f"--kubelet-dir={self.kubelet}", "--host-root=/"),
            *("--health-address=127.0.0.1:0", "--metrics-address=127.0.0.1:0"),
        )
        unshare = [processes.program("unshare"), "--mount", "--propagation=private"]
        return programs.daemon(self.directory, "csi-liqo-node", [*unshare, *command])


@contextlib.asynccontextmanager
async def running(owner: instance.Instance) -> AsyncIterator[Node]:
    """Have the do-nothing driver run and registered for the time of the block."""
    directory = owner.directory
    real = directory / "kubelet" / "plugins" / manifests.NOOP
    real.mkdir(parents=True)
    registry = directory / "kubelet" / "plugins_registry"
    registry.mkdir()
    command = [
        *(str((owner.binaries / "noopdriver").resolve()), f"--socket={real / 'csi.sock'}"),
        *(f"--driver-name={manifests.NOOP}", f"--node-name={manifests.NODE}"),
        f"--registry={registry}",
    ]
    noop = programs.daemon(directory, "noopdriver", command)
    noop.start()
    try:
        await programs.wait_until_ready(noop, real / "csi.sock")
        yield Node(directory, owner.binaries, noop)
    finally:
        await noop.stop()


async def overhead(node: Node, effort: provisioning.Effort, report: Report) -> list[figures.Figure]:
    """Measure the four calls by turns: straight, through an empty proxy, and through ours."""
    socket = node.directory / "proxy.sock"
    command = programs.python_program("bench.proxy", str(socket), str(node.real_socket))
    proxy, plugin = programs.daemon(node.directory, "proxy", command), node.plugin()
    proxy.start()
    plugin.start()
    try:
        await programs.wait_until_ready(proxy, socket)
        await programs.wait_until_ready(plugin, node.socket)
        report(f"node overhead: {CYCLES} volumes, three ways by turns")
        async with contextlib.AsyncExitStack() as stack:
            ways = {
                name: node_calls.Volumes(
                    node.kubelet, await _stub(stack, path), virtual=name == _OURS
                )
                for name, path in (
                    (_DIRECT, node.real_socket),
                    (_PROXY, socket),
                    (_OURS, node.socket),
                )
            }
            await node_calls.by_turns(ways, WARM)
            count = CYCLES // effort.runs
            rounds, used = [], []
            for _ in range(effort.runs):
                before = _processor_ms(proxy, plugin)
                rounds.append(await node_calls.by_turns(ways, count))
                after = _processor_ms(proxy, plugin)
                used.append({name: (after[name] - before[name]) / count for name in after})
            return _overhead_figures(rounds, used)
    finally:
        await plugin.stop()
        await proxy.stop()


async def _stub(stack: contextlib.AsyncExitStack, path: pathlib.Path) -> csi_pb2_grpc.NodeStub:
    channel = await stack.enter_async_context(grpc.aio.insecure_channel(f"unix:{path}"))
    return csi_pb2_grpc.NodeStub(channel)


def _processor_ms(proxy: processes.Daemon, plugin: processes.Daemon) -> dict[str, float]:
    used = {}
    for name, program in ((_PROXY, proxy), (_OURS, plugin)):
        assert program.identity is not None
        used[name] = 1000 * process_facts.processor_seconds(program.identity.pid)
    return used


def _overhead_figures(
    rounds: Sequence[dict[str, list[float]]], used: Sequence[dict[str, float]]
) -> list[figures.Figure]:
    medians = {
        name: [statistics.median(times[name]) for times in rounds]
        for name in (_DIRECT, _PROXY, _OURS)
    }
    slowest = {
        name: [figures.percentile(times[name], 0.99) for times in rounds] for name in medians
    }
    count = len(rounds[0][_OURS])
    return [
        figures.Figure(
            group=OVERHEAD,
            name="stage, publish, unpublish, unstage: beyond an empty proxy",
            unit="ms",
            target=1.5,
            samples=[
                ours - proxy for ours, proxy in zip(medians[_OURS], medians[_PROXY], strict=True)
            ],
            parts={
                **{f"{name}, ms": values for name, values in medians.items()},
                **{f"{name}, processor ms": [a[name] for a in used] for name in (_PROXY, _OURS)},
            },
            note=f"difference of the medians of {count} volumes, the four calls together",
        ),
        figures.Figure(
            group=OVERHEAD,
            name="stage, publish, unpublish, unstage: 99th percentile",
            unit="ms",
            target=10.0,
            samples=slowest[_OURS],
            parts={f"{name}, ms": values for name, values in slowest.items()},
        ),
    ]


async def plugin(node: Node, effort: provisioning.Effort, report: Report) -> list[figures.Figure]:
    """Measure the start of the node plugin, and its memory before and after many volumes."""
    starts: list[float] = []
    idle: list[process_facts.Memory] = []
    half: list[process_facts.Memory] = []
    used: list[process_facts.Memory] = []
    for run in range(effort.runs):
        report(f"node plugin: start and memory, run {run + 1}")
        node.registration.unlink(missing_ok=True)
        program = node.plugin()
        started = time.perf_counter()
        program.start()
        try:
            await _registration(node, program)
            starts.append(time.perf_counter() - started)
            await programs.wait_until_ready(program, node.socket)
            identity = program.identity
            assert identity is not None
            idle.append(process_facts.memory(identity.pid))
            if run >= effort.bursts:
                continue
            async with contextlib.AsyncExitStack() as stack:
                ways = {
                    _OURS: node_calls.Volumes(
                        node.kubelet, await _stub(stack, node.socket), virtual=True
                    )
                }
                await node_calls.by_turns(ways, HALF)
                half.append(process_facts.memory(identity.pid))
                await node_calls.by_turns(ways, CYCLES - HALF)
                used.append(process_facts.memory(identity.pid))
        finally:
            await program.stop()
    return _plugin_figures(starts, idle, half, used)


def _plugin_figures(
    starts: list[float],
    idle: list[process_facts.Memory],
    half: list[process_facts.Memory],
    used: list[process_facts.Memory],
) -> list[figures.Figure]:
    def figure(name: str, target: float, samples: list[float], unit: str = "MiB") -> figures.Figure:
        return figures.Figure(
            group=PLUGIN, name=f"node plugin: {name}", unit=unit, target=target, samples=samples
        )

    after = f"after {CYCLES} volumes"
    return [
        figure("start to GetInfo answered", 0.6, starts, "s"),
        figure("resident, idle", 48, [memory.resident_mib for memory in idle]),
        figure("anonymous, idle", 26, [memory.anonymous_mib for memory in idle]),
        figure(f"resident, {after}", 48, [memory.resident_mib for memory in used]),
        figure(f"anonymous, {after}", 26, [memory.anonymous_mib for memory in used]),
        figure(
            f"growth from {HALF} to {CYCLES} volumes",
            0.5,
            [
                late.anonymous_mib - early.anonymous_mib
                for early, late in zip(half, used, strict=True)
            ],
        ),
    ]


async def _registration(node: Node, program: processes.Daemon) -> None:
    """Ask as kubelet does, as soon as there is a socket to ask."""
    path = node.registration
    async with asyncio.timeout(programs.START_SECONDS):
        while True:
            if path.exists():
                async with grpc.aio.insecure_channel(f"unix:{path}") as channel:
                    stub = pluginregistration_pb2_grpc.RegistrationStub(channel)
                    with contextlib.suppress(grpc.aio.AioRpcError):
                        await stub.GetInfo(pluginregistration_pb2.InfoRequest(), timeout=1)
                        return
            program.check()
            await asyncio.sleep(0.002)
