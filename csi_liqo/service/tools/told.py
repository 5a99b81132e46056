"""What the installation was told: the settings that the commands must share with it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from csi_liqo.model import controller_settings, errors, names
from csi_liqo.service.tools import ports

Source = controller_settings.RemoteClusterSource

CONFIG: Final = "csi-liqo"
"""The ConfigMap that tells the installation its cluster's id."""

_SOURCES: Final = {source.value: source for source in Source}


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """Settings of the controller; what is empty, or None, nobody said.

    ``exec_plugins`` are the programs that a provider's kubeconfig may start.
    """

    cluster_id: str = ""
    source: Source | None = None
    exec_plugins: tuple[str, ...] = ()


def read(config_maps: Iterable[ports.Manifest], deployments: Iterable[ports.Manifest]) -> Told:
    """Return what these objects of the driver's namespace say; two installations are summed up."""
    ids = [
        str((item.get("data") or {}).get("clusterID", ""))
        for item in config_maps
        if item["metadata"]["name"] == CONFIG
    ]
    said = [dict(_options(item)) for item in deployments if _is_controller(item)]
    chosen = {_SOURCES.get(found.get("remote-clusters", ""), Source.CSI_LIQO) for found in said}
    programs = [path for found in said for path in found.get("allowed-exec-plugins", "").split(",")]
    return Told(
        cluster_id=next(iter(ids), ""),
        source=chosen.pop() if len(chosen) == 1 else Source.BOTH if chosen else None,
        exec_plugins=tuple(dict.fromkeys(filter(None, programs))),
    )


async def ask(server: ports.Server) -> Told:
    """Return what the installation was told, as far as it may be read.

    Raises:
        errors.ApiError: the API server does not answer.
    """
    found: dict[ports.Kind, list[ports.Manifest]] = {}
    for kind in (ports.CONFIG_MAPS, ports.DEPLOYMENTS):
        with contextlib.suppress(errors.ApiForbiddenError, errors.ApiNotFoundError):
            found[kind] = await server.list(kind, names.DRIVER_NAMESPACE)
    return read(found.get(ports.CONFIG_MAPS, ()), found.get(ports.DEPLOYMENTS, ()))


def _is_controller(deployment: ports.Manifest) -> bool:
    return any(
        "controller" in (container.get("args") or ()) for container in _containers(deployment)
    )


def _containers(deployment: ports.Manifest) -> list[ports.Manifest]:
    found: list[ports.Manifest] = deployment["spec"]["template"]["spec"]["containers"]
    return found


def _options(deployment: ports.Manifest) -> Iterator[tuple[str, str]]:
    """Return what a controller is told; an argument outdoes a variable, so it comes last."""
    for container in _containers(deployment):
        for variable in container.get("env") or ():
            name = variable["name"].removeprefix("CSI_LIQO_").lower().replace("_", "-")
            yield name, str(variable.get("value", ""))
    for container in _containers(deployment):
        for argument in container.get("args") or ():
            name, _, value = argument.partition("=")
            yield name.removeprefix("--"), value
