"""The program's commands: the only place that parses arguments, prints and sets exit codes.

Each command imports what it needs when it runs: the node role must not pay in
memory for the controller's libraries.
"""

from __future__ import annotations

import pathlib
import sys
from collections.abc import Coroutine
from enum import StrEnum
from typing import Annotated, Any

import typer

from csi_liqo.cli import adopt, dispose, doctor, options, peer, where
from csi_liqo.model import controller_settings, errors, labelling, names, settings

app = typer.Typer(
    name="csi-liqo",
    help="One virtual StorageClass for a federation of Kubernetes clusters.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.add_typer(peer.app)
app.command()(where.where)
app.command()(doctor.doctor)
app.command()(adopt.adopt)
app.command()(dispose.dispose)

FAILED = 1
REFUSED = 2
"""Exit codes: it ended with an error; it was told something that cannot be meant."""


class LogLevel(StrEnum):
    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


def _env(option: str, *others: str) -> str | list[str]:
    """Return the variables that stand for ``--x-y``: CSI_LIQO_X_Y, then the named others."""
    own = f"CSI_LIQO_{option.upper().replace('-', '_')}"
    return [own, *others] if others else own


ClusterId = Annotated[
    str, typer.Option(envvar=_env("cluster-id"), help="This cluster's id, the same in both roles.")
]
DriverName = Annotated[str, typer.Option(envvar=_env("driver-name"), help="The CSI driver's name.")]
HealthAddress = Annotated[
    str, typer.Option(envvar=_env("health-address"), help="Where /healthz is served.")
]
MetricsAddress = Annotated[
    str, typer.Option(envvar=_env("metrics-address"), help="Where /metrics is served.")
]
Level = Annotated[
    LogLevel, typer.Option(envvar=_env("log-level"), help="The least level that is logged.")
]


@app.command()
def controller(
    *,
    cluster_id: ClusterId,
    csi_endpoint: Annotated[
        str, typer.Option(envvar=_env("csi-endpoint"), help="The CSI socket: unix:///a/b.sock.")
    ],
    driver_name: DriverName = names.DEFAULT_DRIVER,
    twins_namespace: Annotated[
        str,
        typer.Option(envvar=_env("twins-namespace"), help="The namespace of local twins."),
    ] = names.DEFAULT_TWINS_NAMESPACE,
    namespace: Annotated[
        str,
        typer.Option(envvar=_env("namespace", "NAMESPACE"), help="The driver's own namespace."),
    ] = names.DRIVER_NAMESPACE,
    service_account: Annotated[
        str,
        typer.Option(
            envvar=_env("service-account", "SERVICE_ACCOUNT"),
            help="What the controller acts as, for commands that grant it something.",
        ),
    ] = names.CONTROLLER_ACCOUNT,
    replica: Annotated[
        str | None,
        typer.Option(
            envvar=_env("replica", "POD_NAME"),
            help="Tells this replica from the others [default: a name made up at each start].",
        ),
    ] = None,
    kubeconfig: Annotated[
        pathlib.Path | None,
        typer.Option(envvar=_env("kubeconfig"), help="Instead of the pod's own service account."),
    ] = None,
    attach: Annotated[
        bool,
        typer.Option(
            envvar=_env("attach"),
            help="Attach real volumes; as attachRequired of this driver's CSIDriver.",
        ),
    ] = False,
    remote_clusters: Annotated[
        controller_settings.RemoteClusterSource,
        typer.Option(
            envvar=_env("remote-clusters"),
            help="What describes them: RemoteCluster objects, an existing Liqo, or both.",
        ),
    ] = controller_settings.RemoteClusterSource.CSI_LIQO,
    real_drivers_config_map: Annotated[
        str,
        typer.Option(
            envvar=_env("real-drivers-config-map"),
            help="The ConfigMap that tells nodes which CSI drivers are behind the virtual classes.",
        ),
    ] = names.REAL_DRIVERS_CONFIG_MAP,
    fence_config_map: Annotated[
        str,
        typer.Option(
            envvar=_env("fence-config-map"),
            help="The ConfigMap beside the twins that says whether there are any.",
        ),
    ] = names.FENCE_CONFIG_MAP,
    homes_config_map: Annotated[
        str,
        typer.Option(
            envvar=_env("homes-config-map"),
            help="The one that says where this installation's volumes have their homes.",
        ),
    ] = names.HOMES_CONFIG_MAP,
    orphan_grace_seconds: Annotated[
        float,
        typer.Option(
            envvar=_env("orphan-grace-seconds"),
            help="How long a twin that was never handed over is left alone.",
        ),
    ] = controller_settings.ORPHAN_GRACE_SECONDS,
    metadata_allow: Annotated[
        str,
        typer.Option(
            envvar=_env("metadata-allow"),
            help="Labels and annotations that a claim and its twin share: patterns, by commas.",
        ),
    ] = "*",
    metadata_deny: Annotated[
        str,
        typer.Option(envvar=_env("metadata-deny"), help="Those that they do not share."),
    ] = ",".join(labelling.DEFAULT_DENY),
    allowed_exec_plugins: Annotated[
        str,
        typer.Option(
            envvar=_env("allowed-exec-plugins"),
            help="Programs that a provider's kubeconfig may start: absolute paths, by commas.",
        ),
    ] = "",
    health_address: HealthAddress = ":9809",
    metrics_address: MetricsAddress = ":9808",
    log_level: Level = LogLevel.INFO,
) -> None:
    """Serve the CSI controller of this cluster."""
    wanted = controller_settings.ControllerSettings(
        cluster_id=cluster_id,
        csi_endpoint=csi_endpoint,
        driver_name=driver_name,
        twins_namespace=twins_namespace,
        namespace=namespace,
        replica=replica or controller_settings.own_name(),
        kubeconfig=kubeconfig,
        attach=attach,
        remote_clusters=remote_clusters,
        real_drivers_config_map=real_drivers_config_map,
        fence_config_map=fence_config_map,
        homes_config_map=homes_config_map,
        service_account=service_account,
        orphan_grace_seconds=orphan_grace_seconds,
        shared_marks=labelling.Rules.parse(allow=metadata_allow, deny=metadata_deny),
        allowed_exec_plugins=tuple(path for path in allowed_exec_plugins.split(",") if path),
        health_address=health_address,
        metrics_address=metrics_address,
    )
    from csi_liqo.app import controller as role

    _serve(role.run(wanted), log_level)


@app.command()
def node(
    *,
    cluster_id: ClusterId,
    node_name: Annotated[
        str,
        typer.Option(envvar=_env("node-name", "NODE_NAME"), help="The Node object's name."),
    ],
    driver_name: DriverName = names.DEFAULT_DRIVER,
    kubelet_dir: Annotated[
        pathlib.Path,
        typer.Option(
            envvar=_env("kubelet-dir"), help="kubelet's --root-dir, at the same path here."
        ),
    ] = pathlib.Path("/var/lib/kubelet"),
    host_root: Annotated[
        pathlib.Path,
        typer.Option(envvar=_env("host-root"), help="Where the host's root folder is mounted."),
    ] = pathlib.Path("/host"),
    csi_endpoint: Annotated[
        str | None,
        typer.Option(
            envvar=_env("csi-endpoint"),
            help="The CSI socket [default: plugins/<driver>/csi.sock in kubelet's folder].",
        ),
    ] = None,
    real_drivers_file: Annotated[
        pathlib.Path,
        typer.Option(
            envvar=_env("real-drivers-file"),
            help="Which real drivers' limits of volumes count here, as the controller tells.",
        ),
    ] = pathlib.Path("/etc/csi-liqo/real-drivers/drivers.json"),
    registration: Annotated[
        bool,
        typer.Option(
            envvar=_env("registration"),
            help="Register with kubelet; not beside a node-driver-registrar.",
        ),
    ] = True,
    health_address: HealthAddress = ":9809",
    metrics_address: MetricsAddress = ":9808",
    drain_seconds: Annotated[
        float,
        typer.Option(envvar=_env("drain-seconds"), help="What running calls have after SIGTERM."),
    ] = 25.0,
    log_level: Level = LogLevel.INFO,
) -> None:
    """Serve the CSI node plugin of one node."""
    from csi_liqo.app import lean_node

    wanted = settings.NodeSettings(
        cluster_id=cluster_id,
        node_name=node_name,
        driver_name=driver_name,
        kubelet_dir=kubelet_dir,
        host_root=host_root,
        endpoint=None if csi_endpoint is None else _socket_of(csi_endpoint),
        real_drivers_file=real_drivers_file,
        registers=registration,
        health_address=health_address,
        metrics_address=metrics_address,
        drain_seconds=drain_seconds,
    )
    lean_node.become(wanted, log_level.value)


def _socket_of(endpoint: str) -> pathlib.Path:
    """Read an endpoint; importing gRPC for it takes as long as all the rest of ``node``."""
    from csi_liqo.rpc import server

    return server.path_of(endpoint)


def _serve(role: Coroutine[Any, Any, None], level: LogLevel) -> None:
    from csi_liqo.app import logs

    logs.to_stderr(level.value)
    options.run(role)


def main() -> None:
    """Run the program; an error with a meaning is one line on standard error."""
    try:
        app()
    except errors.Error as error:
        print(f"csi-liqo: {error}", file=sys.stderr)
        sys.exit(REFUSED if isinstance(error, errors.InvalidRequestError) else FAILED)
