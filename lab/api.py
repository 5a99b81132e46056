"""Raw JSON access to an API server, for programs that must not lose fields.

The lab copies and compares objects it knows only in part. The client's models
drop what they do not know, so objects travel here as the JSON the server sent.
Kubeconfigs are read by the official client, so every way to authenticate that
it knows works here.
"""

from __future__ import annotations

import dataclasses
import json
import ssl
from typing import TYPE_CHECKING, Any, Final, Self

import aiohttp
from kubernetes.aio import client, config

from lab import prompt

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Mapping
    from pathlib import Path
    from types import TracebackType

# An object as the API server wrote it.
Json = dict[str, Any]

JSON: Final = "application/json"
MERGE_PATCH: Final = "application/merge-patch+json"
METADATA_LIST: Final = f"{JSON};as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"
APPLY_PATCH: Final = "application/apply-patch+yaml"

REQUEST_TIMEOUT: Final = aiohttp.ClientTimeout(total=30, sock_connect=10)


class ApiError(Exception):
    """The API server refused a request; `status` is the HTTP status."""

    def __init__(self, status: int, reason: str, message: str) -> None:
        super().__init__(f"{status} {reason}: {message}")
        self.status = status
        self.reason = reason
        self.message = message

    @classmethod
    def of(cls, status: int, text: str) -> ApiError:
        """Read the Status object of an answer, or take its text as the message."""
        try:
            body = json.loads(text)
        except ValueError:
            body = None
        if not isinstance(body, dict):
            return cls(status, "", text)
        return cls(status, body.get("reason", ""), body.get("message", ""))


# What a call can raise that time can heal.
FAILURES: Final = (ApiError, aiohttp.ClientError, TimeoutError, OSError)


@dataclasses.dataclass(frozen=True, slots=True)
class Connection:
    """Where an API server is and how to authenticate to it."""

    url: str
    tls: ssl.SSLContext
    headers: Mapping[str, str]


async def load_connection(kubeconfig: Path, *, anonymous: bool = False) -> Connection:
    """Read a kubeconfig's current context; anonymous leaves out who we are."""
    configuration = client.Configuration()
    await config.load_kube_config(
        config_file=str(kubeconfig), client_configuration=configuration, persist_config=False
    )
    tls = ssl.create_default_context(cafile=configuration.ssl_ca_cert)
    if not configuration.verify_ssl:
        tls.check_hostname = False
        tls.verify_mode = ssl.CERT_NONE
    if configuration.cert_file and not anonymous:
        tls.load_cert_chain(configuration.cert_file, configuration.key_file)
    token = await configuration.get_api_key_with_prefix("BearerToken")
    headers = {"Authorization": token} if token and not anonymous else {}
    return Connection(url=configuration.host.rstrip("/"), tls=tls, headers=headers)


class Api:
    """One API server, as JSON in and JSON out. An asynchronous context."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self._session = aiohttp.ClientSession(
            headers=dict(connection.headers),
            # NB: every watch holds a connection for minutes; a limit would starve the calls.
            connector=prompt.PromptConnector(ssl=connection.tls),
            timeout=REQUEST_TIMEOUT,
        )

    @classmethod
    async def of(cls, kubeconfig: Path) -> Self:
        """Make a client for a kubeconfig's current context."""
        return cls(await load_connection(kubeconfig))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close every connection."""
        await self._session.close()

    async def request(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, str] | None = None,
        body: Json | None = None,
        content_type: str = JSON,
        accept: str = JSON,
    ) -> Json:
        """Send one request and return the answered object.

        Raises ApiError for a refusal, aiohttp.ClientError or TimeoutError when
        the outcome is unknown.
        """
        async with self._session.request(
            method,
            self.connection.url + path,
            params=params,
            data=None if body is None else json.dumps(body),
            headers={"Content-Type": content_type, "Accept": accept},
        ) as response:
            text = await response.text()
            if response.status >= 400:
                raise ApiError.of(response.status, text)
            answer: Json = json.loads(text)
            return answer

    async def get(self, path: str, params: Mapping[str, str] | None = None) -> Json:
        """Read an object or a list."""
        return await self.request("GET", path, params=params)

    async def list_metadata(self, path: str) -> Json:
        """Read a list of which only the metadata is of interest."""
        return await self.request("GET", path, accept=METADATA_LIST)

    async def find(self, path: str) -> Json | None:
        """Read an object; None means that the server answered that there is none."""
        try:
            return await self.request("GET", path)
        except ApiError as error:
            if error.status == 404:
                return None
            raise

    async def create(self, path: str, body: Json) -> Json:
        """Create an object in a collection."""
        return await self.request("POST", path, body=body)

    async def merge(self, path: str, body: Json) -> Json:
        """Merge into an object or subresource: lists are replaced, null removes."""
        return await self.request("PATCH", path, body=body, content_type=MERGE_PATCH)

    async def apply(self, path: str, body: Json, *, manager: str) -> Json:
        """Create an object or own some of its fields, leaving those of others alone."""
        params = {"fieldManager": manager, "force": "true"}
        return await self.request("PATCH", path, params=params, body=body, content_type=APPLY_PATCH)

    async def delete(self, path: str, *, uid: str, grace_seconds: int | None = None) -> None:
        """Ask for the deletion of exactly that object; its absence is success."""
        options: Json = {
            "kind": "DeleteOptions",
            "apiVersion": "v1",
            "preconditions": {"uid": uid},
        }
        if grace_seconds is not None:
            options["gracePeriodSeconds"] = grace_seconds
        try:
            await self.request("DELETE", path, body=options)
        except ApiError as error:
            if error.status != 404:
                raise

    async def watch(
        self, path: str, params: Mapping[str, str], *, silence_seconds: float
    ) -> AsyncGenerator[Json]:
        """Yield the events of one watch until the server ends it.

        Raises TimeoutError after `silence_seconds` without a byte: bookmarks come
        every minute, so a longer silence is a dead connection.
        """
        async with self._session.get(
            self.connection.url + path,
            params={**params, "watch": "1", "allowWatchBookmarks": "true"},
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=30, sock_read=silence_seconds),
        ) as response:
            if response.status >= 400:
                raise ApiError.of(response.status, await response.text())
            # NB: a line may be longer than the stream's limit for readline().
            rest = b""
            async for chunk in response.content.iter_any():
                *lines, rest = (rest + chunk).split(b"\n")
                for line in lines:
                    yield json.loads(line)
