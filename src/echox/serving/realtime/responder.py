"""Answers for one conversation: one reply at a time in it and others beside it, cancellable, cut to what was heard."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from echox.errors import QueueFull
from echox.serving.protocol.conversation import Content, Conversation, Item
from echox.serving.protocol.events import EventError, new_id
from echox.serving.protocol.options import SessionOptions
from echox.serving.realtime.response import Response
from echox.serving.realtime.response_request import ResponseRequest, read_request
from echox.serving.service.outbox import Outbox, SlowReader
from echox.serving.service.replies import ReplyFeed
from echox.serving.service.service import Service
from echox.streaming.events import AudioChunk, ContextDropped, Event, Finished, Heard, SpeechFailed, TextDelta

log = logging.getLogger("echox.serving")
MAX_OUT_OF_BAND = 4
"""Responses outside the conversation that one client may have at the same time."""


@dataclass
class _Work:
    """A response that is being made.

    Attributes:
        response: its envelope. request: what it answers. hearing: the sound whose transcript it will tell.
        feed: the model's reply, once it has begun. task: does the work.
    """

    response: Response
    request: ResponseRequest
    hearing: Content | None
    feed: ReplyFeed | None = None
    task: asyncio.Task[None] | None = None


class Responder:
    """Makes and stops the responses of one client.

    Args:
        service: the model and what all clients share. outbox: where events go.
        conversation: its items. options: of the session. on_heard: told the transcript of a question's sound.
        speaking: whether the client is in the middle of a turn.
    """

    def __init__(
        self,
        service: Service,
        outbox: Outbox,
        conversation: Conversation,
        options: SessionOptions,
        on_heard: Callable[[Item, Content, str | None], None],
        speaking: Callable[[], bool],
    ) -> None:
        self._service, self._outbox, self._conversation, self._options = service, outbox, conversation, options
        self._on_heard, self._speaking = on_heard, speaking
        self._conversation_id = new_id("conv")
        self._model_session = service.model.session()
        self._main: _Work | None = None  # the newest of the conversation
        self._beside: list[_Work] = []  # out of band
        self._owed: Item | None = None  # a detected turn that is still to be answered

    @property
    def active(self) -> Response | None:
        """The conversation's response that is being made."""
        return self._main.response if self._main is not None and self._main.response.open else None

    @property
    def busy(self) -> bool:
        """Whether any response is being made, or still to be."""
        return self.active is not None or bool(self._beside) or self._owed is not None

    @property
    def _works(self) -> list[_Work]:
        return [*self._beside] if self._main is None else [self._main, *self._beside]

    def hears(self, content: Content) -> bool:
        """Whether a response at work will tell what was heard in this sound."""
        return any(work.hearing is content for work in self._works)

    def playing(self) -> bool:
        """Whether the client is (as far as can be told from here) still playing a reply."""
        return self._main is not None and self._main.response.clock.playing(time.monotonic())

    # ------------------------------------------------------------------------------------------ start

    def start(self, source: dict[str, Any], own_items: list[Item] | None = None) -> None:
        """Begin a response that the client asks for.

        Args:
            source: the ``response`` of the client's ``response.create``.
            own_items: that it brings; see `read_input`.

        Raises:
            EventError: one is running, an option is wrong, or there is nothing to answer.
        """
        request = self._read(source, own_items)
        if self._service.draining:
            raise EventError("the server is shutting down", "server_shutting_down", kind="server_error")
        if request.out_of_band and len(self._beside) >= MAX_OUT_OF_BAND:
            message = f"expected at most {MAX_OUT_OF_BAND} responses outside the conversation, found as many running"
            raise EventError(message, "too_many_responses")
        if not request.out_of_band and self.active is not None:
            message = "expected no active response, found one; cancel it first or wait for response.done"
            raise EventError(message, "conversation_already_has_active_response")
        if not request.answerable and not request.asked_in_vain:
            message = "expected something to answer, found no user message after the last reply"
            raise EventError(message, "nothing_to_answer")
        self._begin(request)

    def answer(self, item: Item) -> None:
        """Answer a detected turn: now, or when the response that is being made has ended."""
        self._owed = item
        self.settle()

    def settle(self) -> None:
        """Answer the detected turn that waits for its answer, if the conversation is free for it.

        Nobody asked for this response, so whatever stands against it makes a failed response, never an error.
        """
        if self._owed is not None and self._owed not in self._conversation.items:
            self._owed = None  # the client has deleted it
        if self._owed is None or self.active is not None or self._speaking():
            return
        self._owed = None
        request = self._read({})
        if self._service.draining:
            work = self._new_work(request)
            self._fail(work, "server_error", "server_shutting_down", "the server is shutting down")
        else:
            self._begin(request)

    def _read(self, source: dict[str, Any], own_items: list[Item] | None = None) -> ResponseRequest:
        return read_request(
            source,
            self._options,
            self._conversation,
            self._service.limits,
            self._model_session.settings.max_new_tokens,
            own_items,
        )

    def _new_work(self, request: ResponseRequest) -> _Work:
        """A response, told to the client as created."""
        response = Response(
            self._outbox,
            None if request.out_of_band else self._conversation,
            self._conversation_id,
            request.options,
            self._model_session.output_sampling_rate,
            request.metadata,
            [item.id for item in self._conversation.items],
        )
        hearing = request.new_sound
        shown = any(part is hearing for item in self._conversation.items for part in item.content)
        return _Work(response, request, hearing if shown else None)

    def _begin(self, request: ResponseRequest) -> None:
        if not request.answerable:
            message = "nothing could be heard in the last turn"
            self._fail(self._new_work(request), "invalid_request_error", "not_answerable", message)
            return
        work = self._new_work(request)
        before = None
        if request.out_of_band:
            self._beside.append(work)
        else:
            before = None if self._main is None else self._main.task
            self._main = work
            if any(item is self._owed for item in request.items):
                self._owed = None
        work.task = asyncio.create_task(self._run(work, before), name=work.response.id)

    # ------------------------------------------------------------------------------------------ run

    async def _run(self, work: _Work, before: asyncio.Task[None] | None) -> None:
        """Let the model answer, and tell it; a cancelled reply is waited for here, silently."""
        request, response = work.request, work.response
        system = self._conversation.system(request.options.instructions)
        own = request.out_of_band or request.own_input
        session = self._service.model.session() if own else self._model_session
        try:
            if before is not None:
                await asyncio.wait([before])
            if not response.open:
                return
            session.system = system
            session.messages = request.messages[:-1]  # what of it is in the model's memory already is found there
            work.feed = ReplyFeed(session.submit, request.messages[-1:], **request.settings)
            async for event in work.feed.events():
                self._tell(work, event)
        except SlowReader:
            log.debug("%s: nobody reads it", response.id)  # whoever sends has noticed too, and ends the session
        except QueueFull:
            self._fail(work, "server_error", "server_busy", "too many replies are waiting; try again in a moment")
        except ValueError as error:  # what the model refuses, in words for the client
            if request.turns and not request.out_of_band:
                for item in request.turns[-1]:  # it must not spoil the following turns too
                    item.forgotten = True
            self._fail(work, "invalid_request_error", "not_answerable", " ".join(str(error).split()))
        except Exception:
            log.exception("a reply failed")
            self._fail(work, "server_error", "internal_error", "the model failed; see the server's log")
        finally:
            hearing, work.hearing = work.hearing, None
            if work in self._beside:
                self._beside.remove(work)
            if hearing is not None and hearing.text is None:
                self._on_heard(_item_of(request.turns, hearing), hearing, None)

    def _tell(self, work: _Work, event: Event) -> None:
        response, turns = work.response, work.request.turns
        if isinstance(event, Heard):
            if work.hearing is not None:
                self._on_heard(_item_of(turns, work.hearing), work.hearing, event.text)
        elif isinstance(event, ContextDropped):
            if not (work.request.own_input or work.request.out_of_band):
                for item in (item for turn in turns[: event.messages] for item in turn):
                    item.forgotten = True
        elif not response.open:
            return
        elif isinstance(event, TextDelta):
            response.write(event)
        elif isinstance(event, AudioChunk):
            response.speak(event)
        elif isinstance(event, SpeechFailed):
            response.failures.append(event)
        elif isinstance(event, Finished):
            length = event.stopped == "length"
            status, reason = ("incomplete", "max_output_tokens") if length else ("completed", None)
            self._finish(work, status, reason)

    def _fail(self, work: _Work, kind: str, code: str, message: str) -> None:
        self._finish(work, "failed", error={"type": kind, "code": code, "message": message})

    def _finish(self, work: _Work, status: str, reason: str | None = None, error: dict[str, Any] | None = None) -> None:
        """End a response, once; what waited for its end goes on."""
        if not work.response.open:
            return
        if work.feed is not None:
            work.response.timings = work.feed.timings
        work.response.finish(status, reason, error, () if work.feed is None else work.feed.timeline)
        timings = work.response.timings
        finished = timings is not None and status in ("completed", "incomplete")
        rtf = timings.rtf if timings is not None and finished else None
        response = work.response
        self._service.metrics.response(response.status, response.clock.underruns, response.first_audio_s, rtf)
        self.settle()

    # ------------------------------------------------------------------------------------------ stop

    def cancel(self, reason: str = "client_cancelled", response_id: str | None = None) -> None:
        """Stop a response: nothing more of it leaves, its item keeps what was said.

        Args:
            reason: as told to the client.
            response_id: which one; None: the conversation's.

        Raises:
            EventError: it is not running.
        """
        works = [work for work in self._works if work.response.open]
        if response_id is None:
            works = [work for work in works if not work.request.out_of_band]
        else:
            works = [work for work in works if work.response.id == response_id]
        if not works:
            found = "none" if response_id is None else "none of that id"
            param = None if response_id is None else "response_id"
            message = f"expected an active response, found {found} to cancel"
            raise EventError(message, "response_cancel_not_active", param)
        for work in works:
            if work.feed is not None:
                work.feed.cancel()
            self._finish(work, "cancelled", reason)

    def interrupt(self) -> None:
        """Somebody speaks over the reply: stop it, and keep in the history what was heard of it."""
        if self._main is None:
            return
        response = self._main.response
        heard_s = response.clock.heard_s(time.monotonic())
        playing = self.playing()
        if response.open or playing:
            self._service.metrics.barge_ins.inc()
        if response.open:
            self.cancel("turn_detected")
        elif playing and response.item is not None and response.item in self._conversation.items:
            self.truncate(response.item, int(heard_s * 1000))
        response.clock.stop(time.monotonic())

    def truncate(self, item: Item, audio_end_ms: int) -> None:
        """Cut a spoken reply to what was heard of it, in the history too."""
        if self.active is not None and self.active.item is item:
            self.cancel()
        if item.spoken is not None:
            item.content[0].text = item.spoken.heard_text(audio_end_ms / 1000)
        self._outbox.put(
            {
                "type": "conversation.item.truncated",
                "item_id": item.id,
                "content_index": 0,
                "audio_end_ms": audio_end_ms,
            }
        )

    def cancel_all(self) -> None:
        """End every response in good order, and owe no more."""
        self._owed = None
        for work in self._works:
            if work.response.open:
                self.cancel(response_id=work.response.id)

    async def close(self) -> None:
        """Stop for good and wait until the model is free."""
        self.cancel_all()
        tasks = [work.task for work in self._works if work.task is not None]
        if tasks:
            await asyncio.wait(tasks)


def _item_of(turns: list[list[Item]], content: Content) -> Item:
    return next(item for turn in turns for item in turn if any(part is content for part in item.content))
