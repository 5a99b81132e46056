"""The kubeconfig in a Secret: whoever writes it decides nothing on the controller's machine."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import time
import urllib.parse
import urllib.request
from collections.abc import Collection, Iterator
from typing import Any, Final

import yaml
from kubernetes.aio import client as aio_client
from kubernetes.aio import config as aio_config

from csi_liqo.model import credentials, errors, objects


def read(secret: objects.Secret | None, reference: objects.SecretReference) -> str:
    """Return the kubeconfig that a reference means.

    Raises:
        errors.PreconditionError: it is not there, or no text.
    """
    where = f"Secret {reference.namespace}/{reference.name}"
    if secret is None:
        raise errors.PreconditionError(f"{where} does not exist; create it")
    try:
        return base64.b64decode(secret.data[reference.key]).decode()
    except KeyError:
        raise errors.PreconditionError(f"{where} has no key {reference.key}") from None
    except ValueError:
        raise errors.PreconditionError(f"{where}: key {reference.key} is no text") from None


AGAIN_SECONDS: Final = 5.0
"""How soon a program is asked again, whatever it told."""
SPARE_SECONDS: Final = 60.0
"""How long before its end a token is exchanged."""


async def load(text: str, exec_plugins: Collection[str]) -> aio_client.Configuration:
    """Return what a kubeconfig's current context says; use it within ``complaints``."""
    configuration = aio_client.Configuration()
    document = yaml.safe_load(text)
    _refuse_local_access(document, exec_plugins)
    loader = await aio_config.load_kube_config_from_dict(
        document, client_configuration=configuration
    )
    program = credentials.program_of(text)
    if program:
        if "BearerToken" in configuration.api_key:
            configuration.refresh_api_key_hook = Program(loader)
        elif not configuration.cert_file:  # the client logs why, and goes on without
            raise errors.PreconditionError(
                f"program {program}, which the kubeconfig names, told no credential; see the log"
            )
    return configuration


class Program:
    """The program that tells a token: asked again before that ends, and when it is refused.

    The client asks it once, when the kubeconfig is loaded (kubernetes 37.0.2,
    aio/config/kube_config.py, load_from_exec_plugin), and its tokens may live for minutes.
    """

    def __init__(self, loader: Any) -> None:
        self._loader = loader
        self._asking = asyncio.Lock()
        self._refused = False
        self._asked_at = time.monotonic()

    async def __call__(self, configuration: aio_client.Configuration) -> None:
        """Have a token that may be used; called before each request."""
        async with self._asking:
            if time.monotonic() - self._asked_at < AGAIN_SECONDS or not self._ended():
                return
            self._refused = False
            # Kept would be what it told before, until that ends.
            vars(self._loader).pop("exec_plugin_expiry", None)
            await self._loader.load_from_exec_plugin()
            self._asked_at = time.monotonic()
            configuration.api_key["BearerToken"] = self._loader.token

    def refuse(self) -> None:
        """Hear that its token was refused: another is asked for before the next request."""
        self._refused = True

    def _ended(self) -> bool:
        ends = getattr(self._loader, "exec_plugin_expiry", None)
        return self._refused or (
            ends is not None and ends.timestamp() - time.time() < SPARE_SECONDS
        )


@contextlib.contextmanager
def complaints() -> Iterator[None]:
    """Say of whatever is wrong with a kubeconfig's text that it cannot be read.

    Raises:
        errors.PreconditionError: in place of what the client and its libraries raise.
    """
    try:
        yield
    except aio_config.ConfigException as error:
        raise errors.PreconditionError(f"the kubeconfig cannot be read: {error}") from error
    except (yaml.YAMLError, OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        # NB: what these say may quote the text, and so the token in it.
        what = type(error).__name__
        raise errors.PreconditionError(f"the kubeconfig cannot be read ({what})") from None


def refuse_unusable(configuration: aio_client.Configuration) -> None:
    """Refuse addresses and tokens that the HTTP library would refuse by a defect, or tell of.

    Raises:
        errors.PreconditionError: says which, and not what it is: it may hold a password.
    """
    server = _parse_address("server", configuration.host)
    if server.username is not None or server.password is not None:
        raise errors.PreconditionError(
            "the kubeconfig's server has a user name or password in its address; put the "
            "credential into the user's entry"
        )
    if configuration.proxy:
        _parse_address("proxy-url", configuration.proxy)
    token = configuration.api_key.get("BearerToken", "")
    if not isinstance(token, str) or not token.isprintable():
        raise errors.PreconditionError(
            "the kubeconfig's token has characters that no token has, such as the end of a line"
        )


def settle_surroundings(configuration: aio_client.Configuration) -> None:
    """Find out once what the HTTP library would look up for each request, in a thread each.

    That is the environment's proxy, and a netrc file, which can hold nothing for an API server:
    it takes no passwords. A burst of requests would be a burst of threads, each of which waits
    for the interpreter that is busy with the burst.
    """
    configuration.client_session_kwargs = {"trust_env": False}
    server = urllib.parse.urlsplit(configuration.host)
    if configuration.proxy or urllib.request.proxy_bypass(server.hostname or ""):
        return
    proxy = urllib.request.getproxies().get(server.scheme)
    if proxy:
        configuration.proxy = proxy if "://" in proxy else f"http://{proxy}"


def _parse_address(what: str, address: Any) -> urllib.parse.SplitResult:
    with contextlib.suppress(ValueError):
        parts = urllib.parse.urlsplit(address if isinstance(address, str) else "")
        # The port is read only when it is asked for, and refused only then.
        if parts.scheme in ("http", "https") and parts.hostname and parts.port != 0:
            return parts
    raise errors.PreconditionError(
        f"the kubeconfig's {what} is no address of the form https://host:port"
    )


def _is_allowed(plugin: Any, exec_plugins: Collection[str]) -> bool:
    return plugin.get("command") in exec_plugins and not plugin.get("env")


_LOCAL_ACCESS: Final = ("exec", "auth-provider", "tokenFile", "client-certificate", "client-key")


def _refuse_local_access(document: Any, exec_plugins: Collection[str]) -> None:
    """A kubeconfig from a Secret may neither start programs nor read this machine's files.

    An allowed program gets the Secret's arguments, but not its environment, by which any
    program can be made to run another one.
    """
    users = [user.get("user") or {} for user in document.get("users") or []]
    clusters = [cluster.get("cluster") or {} for cluster in document.get("clusters") or []]
    found = {
        key
        for user in users
        for key in _LOCAL_ACCESS
        if user.get(key) and not (key == "exec" and _is_allowed(user[key], exec_plugins))
    }
    found |= {key for cluster in clusters for key in ("certificate-authority",) if cluster.get(key)}
    if found:
        raise errors.PreconditionError(
            f"the kubeconfig uses {', '.join(sorted(found))}, which would run a program or read a "
            "file of the controller; put the certificate, key or token into it instead"
        )
