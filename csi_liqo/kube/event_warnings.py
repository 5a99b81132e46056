"""What other controllers say against an object, asked for when it is wanted.

Events are many and short-lived, and are wanted only to explain a failure: one request
then beats a watch always. An API server reads all events of a namespace to answer it, so
what is asked of many objects at once is one question: a hundred twins that wait their
turn must not cost the real class the processor that it makes them with.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Mapping
from typing import Final

import msgspec

from csi_liqo.kube import api, resources
from csi_liqo.model import errors, objects

ANSWER_SECONDS: Final = 3.0
PAUSE_SECONDS: Final = 1.0
"""The time between two questions about one namespace; who asks meanwhile is in the second."""
PAGE_SIZE: Final = 500

Said = Mapping[str, str]
"""Uid of an object -> the newest Warning about it."""


class EventWarnings:
    """Implements ports.Warnings over the events of one cluster.

    Without the right to read them there is nothing to tell.
    """

    def __init__(
        self, calls: api.Api, on_change: Callable[[frozenset[str]], None] = lambda _: None
    ) -> None:
        """``on_change`` hears the namespaces whose events may not be read, when these change."""
        self._calls = calls
        self._on_change = on_change
        self._refused: frozenset[str] = frozenset()
        self._decoder = msgspec.json.Decoder(_Page)
        self._asked_at: dict[str, float] = {}
        self._questions: dict[str, _Question] = {}

    def heard(self, namespace: str) -> bool:
        return namespace not in self._refused

    async def latest(self, namespace: str, uid: str) -> str:
        question = self._questions.get(namespace)
        if question is None:
            question = self._questions[namespace] = _Question()
            question.answer = asyncio.create_task(self._ask(namespace, question))
        question.uids.add(uid)
        assert question.answer is not None
        # NB: who asks may be cancelled, and others want the answer, too.
        said = await asyncio.shield(question.answer)
        return said.get(uid, "")

    async def _ask(self, namespace: str, question: _Question) -> Said:
        """Answer a question, which others join until it is sent."""
        loop = asyncio.get_running_loop()
        last = self._asked_at.get(namespace, -PAUSE_SECONDS)
        await asyncio.sleep(last + PAUSE_SECONDS - loop.time())
        self._asked_at[namespace] = loop.time()
        del self._questions[namespace]
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                said = await self._list(namespace, question.uids)
        except errors.ApiForbiddenError:
            self._note(self._refused | {namespace})
            return {}
        except (errors.ApiError, TimeoutError, msgspec.DecodeError):
            return {}
        self._note(self._refused - {namespace})
        return said

    async def _list(self, namespace: str, uids: Collection[str]) -> Said:
        about = "involvedObject.kind=PersistentVolumeClaim"
        if len(uids) == 1:
            about = f"involvedObject.uid={next(iter(uids))}"
        query = {"fieldSelector": f"{about},type=Warning", "limit": str(PAGE_SIZE)}
        newest: dict[str, objects.Event] = {}
        while True:
            answer = await self._calls.request("GET", resources.EVENTS.path(namespace), query=query)
            page = self._decoder.decode(answer)
            for event in page.items:
                uid = event.involved_object.uid
                if uid in uids and (uid not in newest or _time_of(event) > _time_of(newest[uid])):
                    newest[uid] = event
            if not page.metadata.continue_:
                return {uid: f"{event.reason}: {event.message}" for uid, event in newest.items()}
            query["continue"] = page.metadata.continue_

    def _note(self, refused: frozenset[str]) -> None:
        if refused != self._refused:
            self._refused = refused
            self._on_change(refused)


class _Question:
    """What is asked of one namespace: of which objects, and the answer for all of them."""

    def __init__(self) -> None:
        self.uids: set[str] = set()
        self.answer: asyncio.Task[Said] | None = None


class _ListMetadata(objects.Struct, frozen=True):
    continue_: str = msgspec.field(name="continue", default="")


class _Page(objects.Struct, frozen=True):
    metadata: _ListMetadata = _ListMetadata()
    items: tuple[objects.Event, ...] = ()


def _time_of(event: objects.Event) -> str:
    """Kubernetes' times sort as text; each event has one of three."""
    return event.last_timestamp or event.event_time or event.metadata.creation_timestamp
