"""One API server for the commands: any kind of object, as plain values."""

from __future__ import annotations

import asyncio
import contextlib
import os
import pathlib
from collections.abc import AsyncIterator, Collection
from typing import Any

import msgspec
import yaml
from kubernetes.aio import client, config

from csi_liqo.kube import api
from csi_liqo.model import credentials, errors
from csi_liqo.service.tools import peering, ports

PAGE_SIZE = 500


class Server:
    """Implements service.tools.ports.Server."""

    def __init__(self, calls: api.Api) -> None:
        self._calls = calls

    async def find(self, kind: ports.Kind, name: str, namespace: str = "") -> ports.Manifest | None:
        try:
            return _object(await self._calls.request("GET", kind.path(namespace, name)))
        except errors.ApiNotFoundError:
            return None

    async def list(
        self, kind: ports.Kind, namespace: str = "", *, labels: str = ""
    ) -> list[ports.Manifest]:
        found: list[ports.Manifest] = []
        query = {"limit": str(PAGE_SIZE)}
        if labels:
            query["labelSelector"] = labels
        while True:
            page = _object(await self._calls.request("GET", kind.path(namespace), query=query))
            # Items of a list leave out what their list says once.
            about = {"apiVersion": kind.api_version, "kind": kind.name}
            found += [about | item for item in page.get("items") or ()]
            token = page["metadata"].get("continue")
            if not token:
                return found
            query["continue"] = token

    async def create(
        self, kind: ports.Kind, manifest: ports.Manifest, *, dry_run: bool = False
    ) -> ports.Manifest:
        path = kind.path(manifest["metadata"].get("namespace", ""))
        query = _dry(dry_run)
        return _object(await self._calls.request("POST", path, query=query, body=manifest))

    async def merge(
        self,
        kind: ports.Kind,
        name: str,
        namespace: str,
        patch: ports.Manifest,
        *,
        dry_run: bool = False,
    ) -> ports.Manifest:
        return _object(
            await self._calls.request(
                "PATCH",
                kind.path(namespace, name),
                query=_dry(dry_run),
                body=patch,
                content_type="application/merge-patch+json",
            )
        )

    async def delete(self, kind: ports.Kind, name: str, namespace: str, *, uid: str) -> None:
        options = {"apiVersion": "v1", "kind": "DeleteOptions", "preconditions": {"uid": uid}}
        with contextlib.suppress(errors.ApiNotFoundError):
            await self._calls.request("DELETE", kind.path(namespace, name), body=options)

    async def may(self, right: ports.Right) -> bool:
        review = {
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SelfSubjectAccessReview",
            "spec": {
                "resourceAttributes": {
                    "verb": right.verb,
                    "group": right.group,
                    "resource": right.resource,
                    "subresource": right.subresource,
                    "namespace": right.namespace,
                    "name": right.name,
                }
            },
        }
        path = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"
        answer = _object(await self._calls.request("POST", path, body=review))
        return bool(answer["status"].get("allowed"))

    async def wait_until_gone(self, kind: ports.Kind, name: str, *, seconds: float) -> bool:
        try:
            async with asyncio.timeout(seconds):
                while True:
                    query = {"fieldSelector": f"metadata.name={name}"}
                    page = _object(await self._calls.request("GET", kind.path(), query=query))
                    if not page.get("items"):
                        return True
                    query["resourceVersion"] = page["metadata"]["resourceVersion"]
                    async for frame in self._watch(kind.path(), query, seconds):
                        if frame["type"] == "DELETED":
                            return True
        except TimeoutError:
            return False

    async def _watch(
        self, path: str, query: dict[str, str], seconds: float
    ) -> AsyncIterator[ports.Manifest]:
        query |= {"watch": "true", "timeoutSeconds": str(int(seconds) + 1)}
        async with self._calls.stream(path, query, silence_seconds=seconds + 1) as lines:
            while line := await lines.readline():
                yield _object(line)

    async def issue_token(
        self, namespace: str, account: str, *, secret: ports.Manifest | None, seconds: int
    ) -> str:
        spec: dict[str, Any] = {"expirationSeconds": seconds}
        if secret is not None:
            about = secret["metadata"]
            reference = {"apiVersion": "v1", "kind": "Secret"}
            spec["boundObjectRef"] = reference | {"name": about["name"], "uid": about["uid"]}
        request = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": spec}
        path = ports.ACCOUNTS.path(namespace, account, "token")
        answer = _object(await self._calls.request("POST", path, body=request))
        return str(answer["status"]["token"])

    async def version(self) -> str:
        return str(_object(await self._calls.request("GET", "/version"))["gitVersion"])


async def of_person(path: pathlib.Path | None, context: str | None) -> api.Api:
    """Connect as kubectl would: a file, else KUBECONFIG, else the home folder's, else the pod's.

    Raises:
        errors.PreconditionError: there is none, or it cannot be used.
    """
    places = [path] if path else _usual_places()
    if not any(place.exists() for place in places):
        if path is None and "KUBERNETES_SERVICE_HOST" in os.environ:
            return await api.Api.in_cluster()
        raise errors.PreconditionError(
            f"no kubeconfig at {', '.join(map(str, places))}; name one with KUBECONFIG or an option"
        )
    configuration = client.Configuration()
    try:
        await config.load_kube_config(
            config_file=str(path) if path else None,
            context=context,
            client_configuration=configuration,
            persist_config=False,
        )
        return api.Api(configuration)
    except (config.ConfigException, OSError, errors.PreconditionError) as error:
        why = str(error)
    except yaml.YAMLError:
        why = "is no YAML"  # NB: its own text quotes the file, which holds credentials
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        why = type(error).__name__  # and so may these
    raise errors.PreconditionError(
        f"kubeconfig {path or places[0]} cannot be used: {why}; name another one"
    )


def _usual_places() -> list[pathlib.Path]:
    named = os.environ.get("KUBECONFIG", "")
    if named:
        return [pathlib.Path(place) for place in named.split(os.pathsep) if place]
    return [pathlib.Path.home() / ".kube" / "config"]


@contextlib.asynccontextmanager
async def connect(kubeconfig: str, exec_plugins: Collection[str] = ()) -> AsyncIterator[Server]:
    """Speak to a server with the credential that a kubeconfig's text holds, or a program tells.

    Raises:
        errors.PreconditionError: see ``Api.from_kubeconfig_text``.
    """
    async with await api.Api.from_kubeconfig_text(kubeconfig, exec_plugins) as calls:
        yield Server(calls)


def _dry(dry_run: bool) -> dict[str, str]:
    return {"dryRun": "All"} if dry_run else {}


def _object(answer: bytes) -> ports.Manifest:
    try:
        found: ports.Manifest = msgspec.json.decode(answer, type=dict[str, Any])
    except msgspec.DecodeError as error:
        raise errors.ApiUnavailableError(f"no API server answers: {error}") from error
    return found


async def renew(kubeconfig: str, token: credentials.Token) -> str:
    """Ask, with a kubeconfig's own credential, for the next token after the one in it.

    It lives as long, and is bound to the same Secret.
    """
    async with connect(kubeconfig) as account:
        return await peering.renew(account, token, int(token.lifetime_seconds))
