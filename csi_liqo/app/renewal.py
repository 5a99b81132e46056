"""What keeps the tokens of providers alive, put together."""

from __future__ import annotations

import contextlib

from csi_liqo.kube import api, collection, resources, server
from csi_liqo.model import names, objects
from csi_liqo.reconcilers import runner, tokens


class Renewal:
    """Watches the Secrets that ask for it, and renews the token in each in time."""

    def __init__(self, namespace: str, calls: api.Api, watches: api.Api) -> None:
        """``namespace``: the driver's own."""
        self._secrets: collection.Collection[objects.Secret] = collection.Collection(
            calls,
            watches,
            resources.SECRETS,
            namespace=namespace,
            label_selector=f"{names.RENEW_LABEL}=true",
        )
        self.runner = runner.Runner("tokens", tokens.Tokens(self._secrets, server.renew).reconcile)

    async def keep(self) -> None:
        """Keep the cache up; ends only by being cancelled."""
        await self._secrets.keep()

    def listen(self, until_the_end: contextlib.ExitStack) -> None:
        """Have each Secret looked at, now and when it changes."""
        until_the_end.callback(self._secrets.store.listen(self._changed))

    def _changed(self, _: objects.Secret | None, secret: objects.Secret | None) -> None:
        if secret is not None:
            self.runner.add((secret.namespace, secret.name))
