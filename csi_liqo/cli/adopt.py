"""``csi-liqo adopt``: make a virtual volume again for data that was kept."""

from __future__ import annotations

from typing import Annotated

import typer

from csi_liqo.cli import options
from csi_liqo.model import errors


def adopt(
    cluster: Annotated[str, typer.Argument(help="The home cluster's id.", metavar="CLUSTER")],
    twin: Annotated[
        str, typer.Argument(help="The twin, as `where` lists it.", metavar="NAMESPACE/TWIN")
    ],
    *,
    claim: Annotated[
        str,
        typer.Option(
            help="The claim that gets the volume [default: the one it was made for].",
            metavar="NAMESPACE/NAME",
        ),
    ] = "",
    storage_class: Annotated[
        str,
        typer.Option("--class", help="The volume's virtual class [default: the one it had]."),
    ] = "",
    reclaim_policy: Annotated[
        str,
        typer.Option(help="Delete or Retain [default: what it had].", metavar="POLICY"),
    ] = "",
    driver_name: options.DriverName = options.DEFAULT_DRIVER,
    consumer_id: options.ConsumerId = "",
    remote_clusters: options.RemoteClusters = None,
    allowed_exec_plugins: options.ExecPlugins = "",
    kubeconfig: options.Kubeconfig = None,
    context: options.Context = None,
) -> None:
    """Make a virtual volume for a twin that kept its data, reserved for a claim.

    `csi-liqo where --retained` and `--orphans` list such twins.
    """
    from csi_liqo.app import recovering
    from csi_liqo.service.controller import adoption

    if reclaim_policy not in ("", "Delete", "Retain"):
        raise errors.InvalidRequestError(
            f"--reclaim-policy {reclaim_policy} is neither Delete nor Retain"
        )
    wish = adoption.Wish.of(
        cluster, twin, claim=claim, storage_class=storage_class, reclaim_policy=reclaim_policy
    )
    given = options.given(consumer_id, remote_clusters, allowed_exec_plugins)
    made = options.run(
        recovering.adopt(options.where(kubeconfig, context), given, driver_name, wish)
    )
    owner = made.spec.claim_ref
    assert owner is not None
    print(f"PersistentVolume {made.name} has the data of twin {twin} in cluster {cluster}")
    policy = made.spec.persistent_volume_reclaim_policy
    if reclaim_policy not in ("", policy):
        # Changed while it is released, it would be deleted at once.
        patch = f'{{"spec":{{"persistentVolumeReclaimPolicy":"{reclaim_policy}"}}}}'
        print(
            f"it was there and stays {policy}; once it is bound: kubectl patch pv {made.name} "
            f"-p '{patch}'"
        )
    if made.status.phase == "Bound":
        print(f"it is bound to claim {owner.namespace}/{owner.name}")
        return
    size = made.spec.capacity.get("storage", "")
    print(
        f"it is reserved for claim {owner.namespace}/{owner.name}: create that claim with "
        f"storageClassName {made.spec.storage_class_name} and at most {size}"
    )
