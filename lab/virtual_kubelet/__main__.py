"""Runs one virtual kubelet: `python -m lab.virtual_kubelet --node milan ...`."""

from __future__ import annotations

import argparse
import asyncio
import logging
import pathlib
import signal
import ssl
import tempfile
from typing import TYPE_CHECKING

from lab import api, certificates
from lab.virtual_kubelet import namespaces, node, pods, server, sync

if TYPE_CHECKING:
    from collections.abc import Mapping

logger = logging.getLogger("lab.virtual_kubelet")

RETRY_SECONDS = 1.0


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m lab.virtual_kubelet", description=__doc__)
    add = parser.add_argument
    add("--consumer-kubeconfig", type=pathlib.Path, required=True)
    add("--provider-kubeconfig", type=pathlib.Path, required=True)
    add("--node", required=True, help="name of the virtual node")
    add("--cluster-id", required=True, help="id of the cluster that the node stands for")
    add("--map", action="append", default=[], metavar="LOCAL=REMOTE", help="a namespace's stand-in")
    add("--namespace-suffix", help="maps every other namespace: kube-* and csi-liqo* excepted")
    add("--listen-address", default="127.0.0.1", help="reached by the consumer's API server")
    add("--port", type=int, default=0, help="0 takes a free port")
    add("--tls-certificate", type=pathlib.Path, help="its own when not given")
    add("--tls-key", type=pathlib.Path)
    add("--client-ca", type=pathlib.Path, help="who may connect; everyone when not given")
    add("--taint", action="append", default=[], metavar="KEY=VALUE:EFFECT")
    add("--cpu", default="16")
    add("--memory", default="64Gi")
    add("--pods", default="110")
    return parser.parse_args(arguments)


def parse_pairs(texts: list[str]) -> dict[str, str]:
    """Read `a=b` texts; raises SystemExit naming the wrong one."""
    pairs = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not (name and equals and value):
            raise SystemExit(f"--map {text}: write it as LOCAL=REMOTE")
        pairs[name] = value
    return pairs


def parse_taint(text: str) -> Mapping[str, str]:
    """Read `key=value:effect`."""
    pair, _, effect = text.rpartition(":")
    key, _, value = pair.partition("=")
    return {"key": key, "value": value, "effect": effect}


def forge_tls(options: argparse.Namespace) -> ssl.SSLContext:
    """Take the certificate given, or make one of an own authority, as kubelet does.

    The API server trusts the latter only without `--kubelet-certificate-authority`.
    """
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    if options.tls_certificate is not None:
        tls.load_cert_chain(options.tls_certificate, options.tls_key)
    else:
        with tempfile.TemporaryDirectory(prefix="virtual-kubelet-") as directory:
            authority = certificates.Authority(pathlib.Path(directory), "virtual-kubelet")
            pair = authority.ensure_server("server", [options.listen_address])
            tls.load_cert_chain(pair.certificate, pair.key)
    if options.client_ca is not None:
        tls.load_verify_locations(options.client_ca)
        tls.verify_mode = ssl.CERT_REQUIRED
    return tls


async def wait_for_identity(consumer: api.Api, provider: api.Api) -> tuple[str, str]:
    """Return the consumer's kube-system uid and the provider's version, once both answer."""
    while True:
        try:
            system = await consumer.get("/api/v1/namespaces/kube-system")
            version = await provider.get("/version")
        except api.FAILURES as error:
            logger.info("waiting for both API servers: %s", error)
            await asyncio.sleep(RETRY_SECONDS)
        else:
            return system["metadata"]["uid"], version["gitVersion"]


async def run(options: argparse.Namespace) -> None:
    """Run until cancelled."""
    async with (
        await api.Api.of(options.consumer_kubeconfig) as consumer,
        await api.Api.of(options.provider_kubeconfig) as provider,
    ):
        uid, version = await wait_for_identity(consumer, provider)
        mapping = namespaces.NamespaceMapping(parse_pairs(options.map), options.namespace_suffix)
        pod_sync = sync.PodSync(
            consumer=consumer,
            provider=provider,
            mapping=mapping,
            origin=pods.Origin(consumer=uid, node=options.node),
            host_address=options.listen_address,
        )
        kubelet = server.KubeletServer(provider=provider.connection, remote_key=pod_sync.remote_key)
        listening = await kubelet.start(
            address=options.listen_address,
            port=options.port,
            tls=forge_tls(options),
        )
        spec = node.NodeSpec(
            name=options.node,
            cluster_id=options.cluster_id,
            address=options.listen_address,
            port=listening.sockets[0].getsockname()[1],
            version=version,
            capacity={"cpu": options.cpu, "memory": options.memory, "pods": options.pods},
            taints=[parse_taint(text) for text in options.taint],
        )
        logger.info("node %s serves on %s:%d", spec.name, spec.address, spec.port)
        keeper = node.NodeKeeper(consumer=consumer, spec=spec)
        mapped = namespaces.Namespaces(consumer=consumer, provider=provider, mapping=mapping)
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(keeper.run(), name="node")
                tasks.create_task(mapped.run(), name="namespaces")
                tasks.create_task(pod_sync.run(), name="pods")
        finally:
            listening.close()


async def main(options: argparse.Namespace) -> None:
    """Run until SIGTERM or SIGINT."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    running = asyncio.create_task(run(options), name="virtual kubelet")
    stopping = asyncio.create_task(stop.wait(), name="stop")
    await asyncio.wait({running, stopping}, return_when=asyncio.FIRST_COMPLETED)
    if not running.done():
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        return
    stopping.cancel()
    running.result()


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    asyncio.run(main(parse_arguments()))
