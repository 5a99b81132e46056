"""What the answer of an API server means, and what it means that there is none.

The one place where HTTP becomes an error of the model, and the one that knows whether a
request can have changed anything.
"""

from __future__ import annotations

import ssl
from typing import Final

import aiohttp
import msgspec

from csi_liqo.model import errors

CONNECTION_ERRORS: Final = (TimeoutError, OSError, aiohttp.ClientError)
"""What a connection can raise instead of an answer."""


_PATCH_FAILED: Final = "the server rejected our request due to an error in our request"
"""What is said of a JSON patch that does not fit the object, whatever does not
(kubernetes v1.37.2, apiserver/pkg/endpoints/handlers/patch.go:414)."""


class _Cause(msgspec.Struct):
    field: str = ""


class _Details(msgspec.Struct):
    causes: tuple[_Cause, ...] = ()


class _Status(msgspec.Struct):
    message: str = ""
    reason: str = ""
    details: _Details | None = None

    @property
    def of_precondition(self) -> bool:
        """Whether the object is not as the write took it to be; anything else is refused anew."""
        causes = self.details.causes if self.details is not None else ()
        return self.message.startswith(_PATCH_FAILED) or any(
            cause.field == "metadata.uid" for cause in causes
        )


def no_answer(method: str, path: str, error: BaseException) -> errors.ApiUnavailableError:
    """Say that there is none, and why.

    NB: raise it from None: a trace of the cause would show what the reason leaves out.
    """
    untrusted = isinstance(error, (aiohttp.ClientConnectorCertificateError, ssl.SSLError))
    kind = errors.ApiUntrustedError if untrusted else errors.ApiUnavailableError
    return kind(f"{method} {path}: no answer: {reason(error)}")


def reason(error: BaseException) -> str:
    """Say why there is no answer, without anything that may be a credential.

    The texts of some errors have a URL in them, as of a proxy with its password, or headers
    (aiohttp 3.14.5: ClientResponseError, InvalidURL, ServerDisconnectedError, and what
    connector.py says of TLS in TLS). Only those are passed on that have at most a host's name
    and the system's own words.
    """
    match error:
        case aiohttp.ClientResponseError():  # a proxy's answer
            return f"{error.status} {error.message}"
        case aiohttp.ServerDisconnectedError():
            return "the server disconnected"
        case aiohttp.ServerTimeoutError():
            return "it took too long"
        case OSError() if str(error):
            return str(error)
        case TimeoutError():
            return "it took too long"
        case _:
            return type(error).__name__


async def refusal(method: str, path: str, response: aiohttp.ClientResponse) -> errors.ApiError:
    """Read what the API server says against a request."""
    try:
        status = msgspec.json.decode(await response.read(), type=_Status)
    except (msgspec.DecodeError, *CONNECTION_ERRORS):
        status = _Status()
    message = status.message or f"{method} {path}: HTTP status {response.status}"
    match response.status:
        case 404 if not status.reason and path.startswith("/api/v1/"):
            # Every API server serves that group: something before it has answered instead.
            kind: type[errors.ApiError] = errors.ApiUnavailableError
        case 404 | 410:
            kind = errors.ApiNotFoundError
        case 409 if status.reason == "AlreadyExists":
            kind = errors.ApiAlreadyExistsError
        case 409:
            kind = errors.ApiConflictError
        case 403:
            kind = errors.ApiForbiddenError
        case 422 if status.of_precondition:
            kind = errors.ApiConflictError
        case 400 | 413 | 415 | 422:
            kind = errors.ApiInvalidError
        case _:
            kind = errors.ApiUnavailableError
    return kind(message, status=response.status)
