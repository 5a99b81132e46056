"""``csi-liqo peer``: introduce a provider to this cluster, and part from it."""

from __future__ import annotations

import pathlib
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from csi_liqo.cli import options, output, peer_output
from csi_liqo.model import errors

if TYPE_CHECKING:
    from csi_liqo.service.tools import wishes

app = typer.Typer(
    name="peer",
    help="Introduce provider clusters to this one, and part from them.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

Name = Annotated[str, typer.Argument(help="The RemoteCluster's name.", metavar="NAME")]
ProviderKubeconfig = Annotated[
    pathlib.Path | None,
    typer.Option(help="An administrator's kubeconfig of the provider; nothing of it is kept."),
]


@app.command()
def add(
    name: Name,
    *,
    provider_kubeconfig: Annotated[
        pathlib.Path,
        typer.Option(
            help="An administrator's kubeconfig of the provider; nothing of its user is kept."
        ),
    ],
    cluster_id: Annotated[
        str,
        typer.Option(help="The provider's cluster id [default: Liqo's id of it, else NAME]."),
    ] = "",
    namespace: Annotated[
        list[str] | None,
        typer.Option(
            help="A namespace that may have volumes there, and its counterpart; repeatable.",
            metavar="LOCAL[=REMOTE]",
        ),
    ] = None,
    template: Annotated[
        str,
        typer.Option(help="Names the counterparts: '${namespace}-${consumer}'."),
    ] = "",
    grant: Annotated[
        list[str] | None,
        typer.Option(
            help="More rights, by commas: offered-classes, volumes, events, capacity, "
            "repair, teardown; "
            "without each, something is missing, which the output tells.",
            metavar="GRANT[,GRANT]",
        ),
    ] = None,
    class_: Annotated[
        list[str] | None,
        typer.Option(
            "--class",
            help="Which class there serves a virtual class here; repeatable.",
            metavar="VIRTUAL=OFFERED",
        ),
    ] = None,
    server: Annotated[
        str,
        typer.Option(
            help="The provider's address as seen from this cluster [default: the kubeconfig's].",
            metavar="URL",
        ),
    ] = "",
    unproven: Annotated[
        bool,
        typer.Option(
            "--allow-insecure-skip-tls-verify",
            help="Also if that kubeconfig has the provider's certificate not checked: whoever "
            "answers at its address gets the token, and is believed.",
        ),
    ] = False,
    token_hours: Annotated[
        int, typer.Option(help="A token's life; it is renewed at half of it.", min=1)
    ] = 168,
    consumer_id: options.ConsumerId = "",
    kubeconfig: options.Kubeconfig = None,
    context: options.Context = None,
    form: options.Output = options.Format.TABLE,
) -> None:
    """Introduce a provider to this cluster.

    Makes in the provider an account with the rights that the driver uses and no others, and
    here a Secret and a RemoteCluster. To repeat it is harmless; what is named is added.
    """
    from csi_liqo.app import tools

    wish = _wish(
        name, provider_kubeconfig, server,
        cluster_id=cluster_id, namespaces=namespace or [], template=template,
        grant=grant or [], classes=class_ or [], token_hours=token_hours, unproven=unproven,
    )  # fmt: skip
    made = options.run(
        tools.add_peer(
            options.where(kubeconfig, context),
            tools.Where(provider_kubeconfig),
            consumer_id,
            wish,
        )
    )
    if output.is_document(form):
        output.print_document(peer_output.added_document(made), form)
    else:
        peer_output.print_added(made)


@app.command("list")
def list_(
    *,
    kubeconfig: options.Kubeconfig = None,
    context: options.Context = None,
    form: options.Output = options.Format.TABLE,
) -> None:
    """List the providers that this cluster knows."""
    from csi_liqo.app import tools

    found = options.run(tools.list_peers(options.where(kubeconfig, context)))
    if output.is_document(form):
        output.print_document([peer_output.peer_document(peer) for peer in found], form)
    elif found:
        peer_output.print_peers(found, wide=form is options.Format.WIDE)
    else:
        print("no RemoteClusters; csi-liqo peer add makes one", file=sys.stderr)


@app.command()
def rotate(
    name: Name,
    *,
    provider_kubeconfig: ProviderKubeconfig = None,
    consumer_id: options.ConsumerId = "",
    kubeconfig: options.Kubeconfig = None,
    context: options.Context = None,
) -> None:
    """Exchange the token of a provider's credential for a new one.

    With the provider's kubeconfig the old token is refused from then on. Without it the
    account asks for its own next token, and the old one is good until it ends.
    """
    from csi_liqo.app import tools

    provider = tools.Where(provider_kubeconfig) if provider_kubeconfig else None
    done = options.run(
        tools.rotate_peer(options.where(kubeconfig, context), provider, consumer_id, name)
    )
    print(f"{name}: a new token is in place, good until {output.time_text(done.token_expires_at)}")
    if done.revoked:
        print("the old token is refused from now on (within ten seconds)")
    else:
        print(
            f"the old token stays good until {output.time_text(done.old_until)}; name "
            "--provider-kubeconfig to have it refused at once"
        )


@app.command()
def remove(
    name: Name,
    *,
    provider_kubeconfig: ProviderKubeconfig = None,
    forget: Annotated[
        bool,
        typer.Option(
            "--forget",
            help="Also while volumes live there: their data is kept there, out of sight of here.",
        ),
    ] = False,
    consumer_id: options.ConsumerId = "",
    kubeconfig: options.Kubeconfig = None,
    context: options.Context = None,
) -> None:
    """Part from a provider.

    Refuses while volumes live there. With the provider's kubeconfig the account and the
    rights made there go, too; namespaces and data never do.
    """
    from csi_liqo.app import tools

    provider = tools.Where(provider_kubeconfig) if provider_kubeconfig else None
    done = options.run(
        tools.remove_peer(
            options.where(kubeconfig, context), provider, consumer_id, name, forget=forget
        )
    )
    peer_output.print_removed(done, at_provider=provider is not None)


def _wish(
    name: str,
    provider_kubeconfig: pathlib.Path,
    server: str,
    *,
    cluster_id: str,
    namespaces: list[str],
    template: str,
    grant: list[str],
    classes: list[str],
    token_hours: int,
    unproven: bool,
) -> wishes.Wish:
    from csi_liqo.app import tools
    from csi_liqo.service.tools import grants, wishes

    wanted = tuple(item for part in grant for item in part.split(",") if item)
    unknown = sorted(set(wanted) - set(grants.OPTIONAL))
    if unknown:
        raise errors.InvalidRequestError(
            f"--grant {unknown[0]} is unknown; known are {', '.join(grants.OPTIONAL)}"
        )
    return wishes.Wish(
        name=name,
        cluster=tools.reach(provider_kubeconfig),
        address=server,
        cluster_id=cluster_id,
        namespaces=dict(_pair(item, "--namespace", alone=True) for item in namespaces),
        template=template,
        grants=wanted,
        classes=dict(_pair(item, "--class") for item in classes),
        token_seconds=token_hours * 3600,
        unproven_allowed=unproven,
    )


def _pair(text: str, option: str, *, alone: bool = False) -> tuple[str, str]:
    """Read ``a=b``, or ``a`` where that may stand alone."""
    left, equals, right = text.partition("=")
    if not left or (equals and not right) or (not equals and not alone):
        raise errors.InvalidRequestError(f"{option} {text!r} is not of the form a=b")
    return left, right
