"""Renews the tokens by which providers are reached, in the Secrets that say so.

A token is exchanged at half of its life, by the account asking for its own next one:
the provider lets it do that and nothing else with accounts. The connection is made
anew by whoever watches the Secret.
"""

from __future__ import annotations

import base64
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Final

from csi_liqo.model import credentials, errors, names, objects
from csi_liqo.service import ports

logger = logging.getLogger(__name__)

KUBECONFIG_KEY: Final = "kubeconfig"
LONGEST_WAIT_SECONDS: Final = 6 * 3600.0
"""Clocks are set meanwhile: look again."""

Renew = Callable[[str, credentials.Token], Awaitable[str]]
"""Asks, with a kubeconfig's own credential, for the next token after the one in it."""


class Tokens:
    """Looks at one Secret at a time."""

    def __init__(
        self,
        secrets: ports.Objects[objects.Secret],
        renew: Renew,
        now: Callable[[], float] = time.time,
    ) -> None:
        """``now`` tells the time in seconds since 1970."""
        self._secrets = secrets
        self._renew = renew
        self._now = now

    async def reconcile(self, key: tuple[str, str]) -> float | None:
        """Put the next token into a Secret, if it is time for that; return when it is.

        Raises:
            errors.PreconditionError: the token is refused, so it cannot get its successor.
            errors.ApiError: the provider, or this cluster, refused or did not answer.
        """
        secret = self._secrets.get(*key)
        if secret is None or secret.metadata.labels.get(names.RENEW_LABEL) != "true":
            return None
        encoded = secret.data.get(KUBECONFIG_KEY, "")
        kubeconfig = base64.b64decode(encoded).decode(errors="replace")
        token = credentials.token_of(kubeconfig) if kubeconfig else None
        if token is None:
            return None
        rest = token.renew_at - self._now()
        if rest > 0:
            return min(rest, LONGEST_WAIT_SECONDS)
        fresh = await self._ask(secret, kubeconfig, token)
        text = credentials.with_token(kubeconfig, fresh)
        metadata = {"uid": secret.uid, "resourceVersion": secret.metadata.resource_version}
        data = {KUBECONFIG_KEY: base64.b64encode(text.encode()).decode()}
        await self._secrets.patch(
            secret.namespace, secret.name, {"metadata": metadata, "data": data}
        )
        logger.info("renewed the token in Secret %s", secret.reference)
        return None  # the Secret's change is the next look

    async def _ask(self, secret: objects.Secret, kubeconfig: str, token: credentials.Token) -> str:
        try:
            return await self._renew(kubeconfig, token)
        except errors.ApiError as error:
            if error.status not in (401, 403, 404):  # token, right or account are gone
                raise
            raise errors.PreconditionError(
                f"the token in Secret {secret.reference} cannot be renewed by itself ({error}); "
                "run csi-liqo peer add again with the provider's kubeconfig"
            ) from error
