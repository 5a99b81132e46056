"""``csi-liqo dispose``: delete data that was kept and that nobody uses any more."""

from __future__ import annotations

from typing import Annotated

import typer

from csi_liqo.cli import options


def dispose(
    cluster: Annotated[str, typer.Argument(help="The home cluster's id.", metavar="CLUSTER")],
    twin: Annotated[
        str, typer.Argument(help="The twin, as `where` lists it.", metavar="NAMESPACE/TWIN")
    ],
    *,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    driver_name: options.DriverName = options.DEFAULT_DRIVER,
    consumer_id: options.ConsumerId = "",
    remote_clusters: options.RemoteClusters = None,
    allowed_exec_plugins: options.ExecPlugins = "",
    kubeconfig: options.Kubeconfig = None,
    context: options.Context = None,
) -> None:
    """Delete a twin that nobody uses, and by its class's reclaim policy its data.

    `csi-liqo where --retained` and `--orphans` list such twins; one that a volume or a claim
    still names is refused.
    """
    from csi_liqo.app import recovering
    from csi_liqo.service.controller import adoption

    def agreed(left: recovering.Left) -> bool:
        data = f"{left.real_volume} ({left.capacity})" if left.real_volume else "none"
        print(f"{left.state} twin {left.twin} in cluster {left.cluster}, made {left.created}")
        print(f"claim {left.claim}, real class {left.real_class}, real volume {data}")
        return yes or typer.confirm("Delete it for good?")

    given = options.given(consumer_id, remote_clusters, allowed_exec_plugins)
    wish = adoption.Wish.of(cluster, twin)
    where = options.where(kubeconfig, context)
    if options.run(recovering.dispose(where, given, driver_name, wish, agreed)):
        print(f"twin {twin} in cluster {cluster} is gone")
    else:
        print("nothing was done")
