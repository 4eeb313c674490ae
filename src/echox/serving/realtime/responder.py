"""Responses of one session: one at a time in the conversation and a few out of band; cut when interrupted."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from echox.errors import NotHeard, QueueFull
from echox.serving.protocol.conversation import Content, Conversation, ConversationItem
from echox.serving.protocol.events import EventError, FailureCode, new_id, refusal_code
from echox.serving.protocol.json_input import JsonObject
from echox.serving.protocol.options import SessionOptions
from echox.serving.realtime.reply_input import ReplyInput
from echox.serving.realtime.response import Response
from echox.serving.realtime.response_request import ResponseRequest, read_request
from echox.serving.realtime.speculation import Speculation, Speculator
from echox.serving.realtime.transport import Transport
from echox.serving.service.outbox import Outbox, SlowReader
from echox.serving.service.replies import ReplyFeed
from echox.serving.service.service import Service
from echox.streaming.events import AudioChunk, ContextDropped, Event, Finished, Heard, SpeechFailed, TextDelta
from echox.streaming.prompt.messages import Audio, UnreadableMessage
from echox.streaming.session import Session
from echox.tool_calls.tools import ToolCallDelta

log = logging.getLogger("echox.serving")
MAX_OUT_OF_BAND = 4
"""Out-of-band responses that one client may have at the same time."""


@dataclass
class _RunningResponse:
    """A response that is being made.

    Attributes:
        response: sends its events.
        request: the request that it answers.
        untranscribed: audio whose transcript comes with the reply.
        speculation: a reply that was begun before; it is checked whether it is this one.
        feed: the reply of the model, once it has started.
        task: the task that makes it.
    """

    response: Response
    request: ResponseRequest
    untranscribed: Content | None
    speculation: Speculation | None = None
    feed: ReplyFeed | None = None
    task: asyncio.Task[None] | None = None


class Responder:
    """Makes and stops the responses of one client.

    Args:
        service: the model and everything that all clients share.
        outbox: the events are sent through it.
        transport: what carries the speech.
        conversation: the conversation.
        options: options of the session.
        on_transcript: called with the transcript of a question's audio; with None if the reply has none.
        user_speaking: whether the user is in the middle of a turn.

    Attributes:
        speculator: has begun the reply to a turn, perhaps, when it is asked for; None: no replies are begun early.
    """

    def __init__(
        self,
        service: Service,
        outbox: Outbox,
        transport: Transport,
        conversation: Conversation,
        options: SessionOptions,
        on_transcript: Callable[[ConversationItem, Content, Heard | None], None],
        user_speaking: Callable[[], bool],
    ) -> None:
        self._service, self._outbox, self._conversation, self._options = service, outbox, conversation, options
        self._transport = transport
        self._on_transcript, self._user_speaking = on_transcript, user_speaking
        self._conversation_id = new_id("conv")
        self._model_session = service.model.session()
        self._current: _RunningResponse | None = None  # the newest one in the conversation
        self._out_of_band: list[_RunningResponse] = []
        self._audible: list[Response] = []  # what may be playing: some that have ended, too
        self._answer: list[Response] = []  # to the last turn of the user, without those that `_heard_before_s` counts
        self._heard_before_s = 0.0  # of that answer, of responses that have been played: it may call tools for hours
        self._waiting_turn: ConversationItem | None = None  # a detected turn that is not answered yet
        self._editing = False  # the conversation is being changed
        self.speculator: Speculator | None = None

    @property
    def active(self) -> Response | None:
        """The response in the conversation that is being made; None: there is none."""
        return self._current.response if self._current is not None and self._current.response.open else None

    @property
    def busy(self) -> bool:
        """Whether a response is being made, or a turn waits for one."""
        return self.active is not None or bool(self._out_of_band) or self._waiting_turn is not None

    @property
    def _all(self) -> list[_RunningResponse]:
        return [*self._out_of_band] if self._current is None else [self._current, *self._out_of_band]

    def will_transcribe(self, content: Content) -> bool:
        """Whether a response that is being made will provide the transcript of this audio."""
        return any(one.untranscribed is content for one in self._all)

    def heard_ms(self) -> int | None:
        """How much was heard of the answer that the client is playing, ms; None: it plays none.

        A reply that has begun and not ended plays, even while the client waits for more of it. What was heard before a
        call of a tool belongs to the same answer.
        """
        now_s = time.monotonic()
        playing = [one for one in self._audible if one.speech.playing(now_s) or (one.open and one.speech.sent_s > 0)]
        if not playing:
            return None
        before_s = sum(one.speech.heard_s(now_s) for one in self._answer if one not in playing)
        return round(1000 * (self._heard_before_s + before_s + max(one.speech.heard_s(now_s) for one in playing)))

    # ------------------------------------------------------------------------------------------ start

    def start(self, source: JsonObject, own_items: list[ConversationItem] | None = None) -> None:
        """Start a response that the client requests.

        Args:
            source: the ``response`` object of ``response.create``.
            own_items: the items in it; see `read_input`.

        Raises:
            EventError: a response is running already, an option is wrong, or there is nothing to answer.
        """
        request = self._read(source, own_items)
        if self._service.draining:
            raise EventError("the server is shutting down", "server_shutting_down", kind="server_error")
        if request.out_of_band and len(self._out_of_band) >= MAX_OUT_OF_BAND:
            message = f"expected at most {MAX_OUT_OF_BAND} responses outside the conversation, found as many running"
            raise EventError(message, "too_many_responses")
        if not request.out_of_band and self.active is not None:
            message = "expected no active response, found one; cancel it first or wait for response.done"
            raise EventError(message, "conversation_already_has_active_response")
        if not request.answerable and not request.only_inaudible:
            message = "expected something to answer, found no user message after the last reply"
            raise EventError(message, "nothing_to_answer")
        self._begin(request)

    def answer_turn(self, item: ConversationItem) -> None:
        """Answer a detected turn: now, or after the response that is being made."""
        self._waiting_turn = item
        self.answer_waiting_turn()

    def answer_waiting_turn(self) -> None:
        """Answer the detected turn that is waiting, unless another response is being made or the user is speaking.

        The client did not request this response. So a problem makes it a failed response and is not an error event.
        """
        if self._waiting_turn is not None and self._waiting_turn not in self._conversation.items:
            self._waiting_turn = None  # the client has deleted it
        if self._waiting_turn is None or self.active is not None or self._editing or self._user_speaking():
            return
        self._waiting_turn = None
        request = self._read({})
        if self._service.draining:
            running = self._create(request)
            self._fail(running, "server_error", "server_shutting_down", "the server is shutting down")
        else:
            self._begin(request)

    def suppose(self, audio: Audio) -> tuple[Session, ReplyInput] | None:
        """What the model would get if this audio were the next turn, and a fork of the conversation for its reply.

        None: its reply would have to wait, or there is nothing to answer.
        """
        last = None if self._current is None else self._current.task
        if self._service.draining or self.busy or (last is not None and not last.done()):
            return None
        supposed = self._conversation.snapshot()
        supposed.add(ConversationItem(new_id("item"), "user", [Content("input_audio", audio=audio)]))
        supposed.remove_overflow()
        request = self._read({}, conversation=supposed)
        return (self._model_session.fork(), ReplyInput.of(request)) if request.answerable else None

    def _read(
        self,
        source: JsonObject,
        own_items: list[ConversationItem] | None = None,
        conversation: Conversation | None = None,
    ) -> ResponseRequest:
        return read_request(
            source,
            self._options,
            self._conversation if conversation is None else conversation,
            self._service.limits,
            self._model_session.settings.max_new_tokens,
            own_items,
        )

    def _create(self, request: ResponseRequest) -> _RunningResponse:
        """Create a response; this sends ``response.created``."""
        response = Response(
            self._outbox,
            self._transport,
            None if request.out_of_band else self._conversation,
            self._conversation_id,
            request.options,
            self._model_session.output_sampling_rate,
            request.metadata,
            [item.id for item in self._conversation.items],
        )
        hearing = request.new_audio
        shown = any(part is hearing for item in self._conversation.items for part in item.content)
        return _RunningResponse(response, request, hearing if shown else None)

    def _begin(self, request: ResponseRequest) -> None:
        if not request.answerable:
            heard = not request.only_inaudible  # and something came after it that is no question
            message = "nothing is left to answer" if heard else "no words were heard in the last turn"
            code: FailureCode = "not_answerable" if heard else "not_heard"
            self._fail(self._create(request), "invalid_request_error", code, message)
            return
        running = self._create(request)
        before, now_s = None, time.monotonic()
        self._audible = [response for response in self._audible if response.open or response.speech.playing(now_s)]
        if self._transport.plays or not request.out_of_band:
            self._audible.append(running.response)
        if request.out_of_band:
            self._out_of_band.append(running)
        else:
            before = None if self._current is None else self._current.task
            self._current = running
            if request.messages[-1].role == "user":
                self._answer, self._heard_before_s = [], 0.0
            self._heard_before_s += sum(one.speech.heard_s(now_s) for one in self._answer if one not in self._audible)
            self._answer = [*(one for one in self._answer if one in self._audible), running.response]
            if self.speculator is not None:
                running.speculation = self.speculator.take()
            if any(item is self._waiting_turn for item in request.items):
                self._waiting_turn = None
        running.task = asyncio.create_task(self._run(running, before), name=running.response.id)

    # ------------------------------------------------------------------------------------------ run

    async def _run(self, running: _RunningResponse, before: asyncio.Task[None] | None) -> None:
        """Let the model answer and send its events. First wait until the model has stopped the previous reply."""
        response = running.response
        try:
            if before is not None:
                await asyncio.wait([before])
            while True:
                try:
                    await self._answer_request(running)
                    break
                except NotHeard as error:  # a noise beside the question, perhaps: answer what is left
                    left = running.request.without(error.digests)
                    if left is None:
                        raise
                    running.request = left
        except SlowReader:
            # The task that sends events has noticed it too, and ends the session.
            log.debug("%s: the client does not read it", response.id)
        except QueueFull:
            self._fail(running, "server_error", "server_busy", "too many replies are waiting; try again in a moment")
        except ValueError as error:  # a question that the model refuses, with a message for the client
            request = running.request
            if isinstance(error, UnreadableMessage) and not (request.own_input or request.out_of_band):
                for item in request.unreadable(error):  # so that it does not fail the following turns too
                    item.forgotten = True
            self._fail(running, "invalid_request_error", refusal_code(error), " ".join(str(error).split()))
        except Exception:
            log.exception("a reply failed")
            self._fail(running, "server_error", "internal_error", "the model failed; see the server's log")
        finally:
            audio, running.untranscribed = running.untranscribed, None
            if running in self._out_of_band:
                self._out_of_band.remove(running)
            if audio is not None and audio.text is None:
                self._on_transcript(_item_of(running.request, audio), audio, None)

    async def _answer_request(self, running: _RunningResponse) -> None:
        """Ask the model, unless the reply was begun before, and send its events."""
        request = running.request
        given = ReplyInput.of(request)
        speculation = await self._kept(running, given)
        if not running.response.open:
            return
        if speculation is not None:
            self._model_session, running.feed = speculation.session, speculation.feed
        else:
            separate = request.out_of_band or request.own_input
            running.feed = given.begin(self._service.model.session() if separate else self._model_session)
        async for event in running.feed.events():
            self._forward(running, event)

    async def _kept(self, running: _RunningResponse, given: ReplyInput) -> Speculation | None:
        """The reply that was begun before, if it is the one that is wanted now; None: there is none."""
        speculation, running.speculation = running.speculation, None
        speculator, request = self.speculator, running.request
        if speculation is None or speculator is None:
            return None

        def wanted() -> bool:
            return running.response.open and not request.own_input

        return speculation if await speculator.keep(speculation, given, wanted) else None

    def _forward(self, running: _RunningResponse, event: Event) -> None:
        response, turns = running.response, running.request.turns
        if isinstance(event, Heard):
            if running.untranscribed is not None:
                self._on_transcript(_item_of(running.request, running.untranscribed), running.untranscribed, event)
        elif isinstance(event, ContextDropped):
            if not (running.request.own_input or running.request.out_of_band):
                for item in (item for turn in turns[: event.messages] for item in turn):
                    item.forgotten = True
        elif not response.open:
            return
        elif isinstance(event, TextDelta):
            response.add_text(event)
        elif isinstance(event, AudioChunk):
            response.add_audio(event)
        elif isinstance(event, SpeechFailed):
            response.failures.append(event)
        elif isinstance(event, ToolCallDelta):
            response.add_call(event)
        elif isinstance(event, Finished):
            length = event.stopped == "length"
            status, reason = ("incomplete", "max_output_tokens") if length else ("completed", None)
            self._finish(running, status, reason)

    def _fail(self, running: _RunningResponse, kind: str, code: FailureCode, message: str) -> None:
        self._finish(running, "failed", error={"type": kind, "code": code, "message": message})

    def _finish(
        self, running: _RunningResponse, status: str, reason: str | None = None, error: JsonObject | None = None
    ) -> None:
        """End a response, once. Then answer a turn that was waiting."""
        response, feed = running.response, running.feed
        if not response.open:
            return
        if feed is not None:
            response.timings = feed.timings
        response.finish(status, reason, error, () if feed is None else feed.timeline)
        finished = status in ("completed", "incomplete")
        rtf = response.timings.rtf if response.timings is not None and finished else None
        self._service.metrics.observe_response(response.status, response.speech.underruns, response.first_audio_s, rtf)
        self.answer_waiting_turn()

    # ------------------------------------------------------------------------------------------ stop

    @contextmanager
    def editing(self) -> Iterator[None]:
        """Change the conversation: a waiting turn is not answered before all is changed, whatever is cancelled."""
        within, self._editing = self._editing, True
        try:
            yield
        finally:
            self._editing = within
            self.answer_waiting_turn()

    def cancel(self, reason: str = "client_cancelled", response_id: str | None = None) -> None:
        """Cancel a response: nothing more of it is sent; its item keeps the text that was spoken.

        Args:
            reason: reason for the client.
            response_id: id of the response; None: the one in the conversation.

        Raises:
            EventError: it is not being made.
        """
        found = [one for one in self._all if one.response.open]
        if response_id is None:
            found = [one for one in found if not one.request.out_of_band]
        else:
            found = [one for one in found if one.response.id == response_id]
        if not found:
            seen = "none" if response_id is None else "none of that id"
            param = None if response_id is None else "response_id"
            # OpenAI's first words: LiveKit Agents knows by them that nothing is wrong.
            message = f"Cancellation failed: no active response found; expected one to cancel, found {seen}"
            raise EventError(message, "response_cancel_not_active", param)
        for running in found:
            if running.feed is not None:
                running.feed.cancel()
            self._finish(running, "cancelled", reason)

    def interrupt(self, unnoticed: bool = False) -> None:
        """The user speaks during a reply: stop it, and cut its text to what was heard.

        Args:
            unnoticed: what is said is the rest of the question: the model reads both as one turn, without the reply.
        """
        with self.editing():
            stopped = self._silence("turn_detected")
            for response in stopped if unnoticed else []:
                if response.item is not None:
                    response.item.forgotten = True
        if stopped:
            self._service.metrics.barge_ins.inc()

    def silence(self) -> None:
        """The client wants to hear nothing more: stop all replies, and cut their texts to what was heard."""
        self._silence("client_cancelled")

    def _silence(self, reason: str) -> list[Response]:
        """Stop what is being said or played; return what that was."""
        now_s = time.monotonic()
        found = [response for response in self._audible if response.open or response.speech.playing(now_s)]
        with self.editing():
            for response in found:
                speech, was_open = response.speech, response.open
                heard_s, playing = speech.heard_s(now_s), speech.playing(now_s)
                if was_open:
                    self.cancel(reason, response.id)
                cut = was_open and reason == "turn_detected"
                if playing and not cut and response.item in self._conversation.items:
                    self._cut(response.item, int(heard_s * 1000))
                speech.stop(now_s)
        return found

    def truncate(self, item: ConversationItem, audio_end_ms: int) -> None:
        """The client has stopped playing a spoken reply: cut it to what was heard of it, also for the model."""
        with self.editing():
            if self.active is not None and self.active.item is item:
                self.cancel()
            if not self._transport.plays:
                for response in self._audible:
                    if response.item is item:
                        response.speech.stop(time.monotonic())
            self._cut(item, audio_end_ms)

    def delete(self, item: ConversationItem) -> None:
        """Remove an item from the conversation, and end the response that is making it."""
        with self.editing():
            if self.active is not None and any(one is item for one in self.active.items):
                self.cancel()
            self._conversation.remove(item)
            self._outbox.put({"type": "conversation.item.deleted", "item_id": item.id})

    def _cut(self, item: ConversationItem, audio_end_ms: int) -> None:
        """Cut the text of a spoken reply to what was said until then, and tell the client."""
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
        """Cancel all responses, and answer no waiting turn."""
        self._waiting_turn = None
        for one in self._all:
            if one.response.open:
                self.cancel(response_id=one.response.id)

    async def close(self) -> None:
        """Cancel all responses and wait until the model has stopped."""
        self.cancel_all()
        tasks = [one.task for one in self._all if one.task is not None]
        if tasks:
            await asyncio.wait(tasks)
        if self.speculator is not None:  # a response may have handed its speculation back
            await self.speculator.close()


def _item_of(request: ResponseRequest, content: Content) -> ConversationItem:
    return next(item for item in request.items if any(part is content for part in item.content))
