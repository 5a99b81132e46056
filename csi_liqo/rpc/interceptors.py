"""What happens around every call: an id, one log line, and a status for every failure.

Servicers raise meanings and never touch a status. A client that gives up
cancels the handler at its next ``await``; that passes through untouched.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
import secrets
import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Final, Protocol, cast

import grpc
import grpc.aio
from google.protobuf.message import Message

from csi_liqo.model import errors
from csi_liqo.rpc import redaction, status

logger = logging.getLogger(__name__)

call_id: contextvars.ContextVar[str] = contextvars.ContextVar("call_id", default="-")
"""Names the running call in every log line it causes; ``-`` outside of one."""

QUIET: Final = frozenset(
    {"Probe", "NodeGetCapabilities", "GetPluginInfo", "NodeGetInfo", "NodeGetVolumeStats"}
)
"""Asked all the time: an answer is worth a line at debug only, a failure always one."""

_repeated: contextvars.ContextVar[bool] = contextvars.ContextVar("repeated", default=False)


def mark_repeated() -> None:
    """Say of the running call that it asked for nothing new: it is logged as a quiet one."""
    _repeated.set(True)


if TYPE_CHECKING:  # generic in the stubs alone, over messages that an interceptor cannot know
    Handler = grpc.RpcMethodHandler[Any, Any]
    Context = grpc.aio.ServicerContext[Any, Any]


class Observer(Protocol):
    """Counts finished calls; ``code`` is a status code's name."""

    def __call__(self, *, method: str, code: str, seconds: float) -> None: ...


class CallIdFilter(logging.Filter):
    """Give every record the id of the call it belongs to, as ``record.call_id``."""

    def filter(self, record: logging.LogRecord) -> bool:
        record.call_id = call_id.get()
        return True


class ErrorsToStatus:
    """Answer every failure with the status of its kind; log each call once.

    The text of INTERNAL stays in the log: nobody wrote it for a caller to read. Unless a
    real driver did, whose answers are passed on as they are.
    """

    def __init__(self, observe: Observer | None = None) -> None:
        self._observe = observe

    def around(self, method: str, handler: Handler) -> Handler:
        """Return what serves a method instead (``rpc.server.Around``)."""
        if handler.unary_unary is None:
            return handler
        # grpc's stubs give every handler the synchronous shape.
        serve = cast("Callable[[Message, Context], Awaitable[Message]]", handler.unary_unary)

        async def translate(request: Message, context: Context) -> Message:
            call_id.set(secrets.token_hex(4))
            _repeated.set(False)
            started = time.monotonic()
            code, details = grpc.StatusCode.OK, ""
            try:
                return await serve(request, context)
            except asyncio.CancelledError:
                code, details = grpc.StatusCode.CANCELLED, "the caller gave up"
                raise
            except grpc.aio.AbortError:  # NB: an ordinary Exception in grpc.aio
                code = grpc.StatusCode.UNKNOWN
                raise
            except Exception as error:
                code, details = self._answer(method, error)
            finally:
                # After the answer, which need not wait for it; in this call's context all the same.
                seconds = time.monotonic() - started
                loop = asyncio.get_running_loop()
                loop.call_soon(self._record, method, request, code, details, seconds)
            await context.abort(code, details)
            raise AssertionError("abort returned")

        return grpc.unary_unary_rpc_method_handler(
            cast("Any", translate), handler.request_deserializer, handler.response_serializer
        )

    def _answer(self, method: str, error: Exception) -> tuple[grpc.StatusCode, str]:
        code = status.status_of(error)
        if code is grpc.StatusCode.INTERNAL and not isinstance(error, errors.RealDriverError):
            logger.error("%s failed on a defect", method, exc_info=error)
            return code, f"a defect of the driver: its log has the reason under {call_id.get()}"
        # CSI: a failure's message is never empty.
        return code, str(error) or f"{method} is not implemented"

    def _record(
        self, method: str, request: Message, code: grpc.StatusCode, details: str, seconds: float
    ) -> None:
        quiet = (method in QUIET or _repeated.get()) and code is grpc.StatusCode.OK
        level = logging.DEBUG if quiet else logging.INFO
        if logger.isEnabledFor(level):
            arguments = (method, code.name, seconds * 1000, redaction.to_text(request), details)
            logger.log(level, "%s %s in %.1f ms %s %s", *arguments)
        if self._observe is not None:
            self._observe(method=method, code=code.name, seconds=seconds)
