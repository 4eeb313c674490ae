"""Answers for one conversation: one reply at a time, cancellable at once, cut to what was heard."""

from __future__ import annotations

import asyncio
import copy
import logging
import time
from collections.abc import Callable, Sequence
from typing import Any

from echox.errors import QueueFull
from echox.serving.conversation import Content, Conversation, Item, model_messages, read_item, turns_of
from echox.serving.events import EventError, new_id, short, take
from echox.serving.options import (
    SessionOptions,
    audio_format,
    max_output_tokens,
    modalities,
    refuse_tools,
    sampling,
    text_within,
)
from echox.serving.outbox import Outbox, SlowReader
from echox.serving.replies import ReplyFeed
from echox.serving.response import Response
from echox.serving.service import Service
from echox.streaming.events import AudioChunk, ContextDropped, Event, Finished, Heard, Mark, TextDelta
from echox.streaming.messages import Message

log = logging.getLogger("echox.serving")


class Responder:
    """Makes and stops the responses of one client.

    Args:
        service: the model and what all clients share. outbox: where events go.
        conversation: its items. options: of the session. on_heard: told the transcript of a question's sound.
    """

    def __init__(
        self,
        service: Service,
        outbox: Outbox,
        conversation: Conversation,
        options: SessionOptions,
        on_heard: Callable[[Item, Content, str | None], None],
    ) -> None:
        self._service, self._outbox, self._conversation, self._options = service, outbox, conversation, options
        self._on_heard = on_heard
        self._conversation_id = new_id("conv")
        self._model_session = service.model.session()
        self._last: Response | None = None
        self._feed: ReplyFeed | None = None
        self._work: asyncio.Task[None] | None = None
        self.hearing: Content | None = None  # what the running reply will tell the transcript of

    @property
    def active(self) -> Response | None:
        """The response that is being made."""
        return self._last if self._last is not None and self._last.open else None

    def playing(self) -> bool:
        """Whether the client is (as far as can be told from here) still playing a reply."""
        return self._last is not None and self._last.clock.playing(time.monotonic())

    # ------------------------------------------------------------------------------------------ start

    def start(self, request: dict[str, Any] | None = None) -> None:
        """Begin a response.

        Args:
            request: the ``response`` of the client's ``response.create``.

        Raises:
            EventError: one is running, an option is wrong, or there is nothing to answer.
        """
        if self.active is not None:
            message = "expected no active response, found one; cancel it first or wait for response.done"
            raise EventError(message, "conversation_already_has_active_response")
        if self._service.draining:
            raise EventError("the server is shutting down", "server_shutting_down", kind="server_error")
        request = request or {}
        options, settings = self._request_options(request)
        metadata = _metadata(request)
        out_of_band = take(request, "conversation", str, "response", "auto") == "none"
        items = self._input(request)
        turns = turns_of(items)
        messages = model_messages(turns)
        own_words = take(request, "instructions", str, "response", None)
        if not messages or messages[-1].role != "user":
            if not own_words:
                message = "expected something to answer, found no user message after the last reply"
                raise EventError(message, "nothing_to_answer")
            messages.append(Message("user", (own_words,)))  # "greet the user": said to the model, kept nowhere
        refused = refuse_tools(request, "response")
        system = self._conversation.system(options.instructions)
        self._last = Response(
            self._outbox,
            None if out_of_band else self._conversation,
            self._conversation_id,
            options,
            self._model_session.output_sampling_rate,
            metadata,
        )
        hearing = self.hearing = _only_new_sound(turns)
        session = self._service.model.session() if out_of_band or "input" in request else self._model_session
        self._work = asyncio.create_task(
            self._run(self._last, session, system, messages, turns, settings, hearing, self._work), name=self._last.id
        )
        for error in refused:
            raise error

    def _request_options(self, request: dict[str, Any]) -> tuple[SessionOptions, dict[str, Any]]:
        """The session's options with this request's changes, and the settings of the model that follow from them."""
        options = copy.copy(self._options)
        if request.get("output_modalities") is not None:
            options.output_modalities = modalities(request, "response")
        if request.get("instructions") is not None:
            options.instructions = text_within(request, "instructions", "response", self._service.limits)
        if "max_output_tokens" in request:
            options.max_output_tokens = max_output_tokens(request, "response")
        speaking = take(take(request, "audio", dict, "response", {}), "output", dict, "response.audio", {})
        if speaking.get("format") is not None:
            options.output_format = audio_format(speaking, "response.audio.output")
        settings: dict[str, Any] = {**options.sampling, **sampling(request, "response")}
        bounds = [self._service.limits.max_output_tokens, self._model_session.settings.max_new_tokens]
        if options.max_output_tokens != "inf":
            bounds.append(int(options.max_output_tokens))
        settings["max_new_tokens"] = min(bound for bound in bounds if bound is not None)
        settings["speak"] = options.output_modalities == ["audio"]
        return options, settings

    def _input(self, request: dict[str, Any]) -> list[Item]:
        """The items to answer: the conversation's, or those the request brings."""
        given = take(request, "input", list, "response", None)
        if given is None:
            return list(self._conversation.items)
        items = []
        for index, source in enumerate(given[: self._service.limits.max_items]):
            where = f"response.input[{index}]"
            if isinstance(source, dict) and source.get("type") == "item_reference":
                items.append(self._conversation.find(take(source, "id", str, where), f"{where}.id"))
            else:
                rate = self._service.input_rate
                items.append(read_item(source, where, self._options.input_format, rate, self._service.limits))
            if sum(item.sound_s for item in items) > self._service.limits.max_history_s:
                longest_s = self._service.limits.max_history_s
                message = f"{where}: expected at most {longest_s:g} s of audio in all items, found more"
                raise EventError(message, "audio_too_long", where)
        return items

    # ------------------------------------------------------------------------------------------ run

    async def _run(
        self,
        response: Response,
        session: Any,
        system: str | None,
        messages: list[Message],
        turns: list[list[Item]],
        settings: dict[str, Any],
        hearing: Content | None,
        before: asyncio.Task[None] | None,
    ) -> None:
        """Let the model answer, and tell it; a cancelled reply is waited for here, silently."""
        feed = None
        try:
            if before is not None:
                await asyncio.wait([before])
            if not response.open:
                return
            session.system = system
            session.messages = messages[:-1]  # what of it is in the model's memory already is found there
            feed = self._feed = ReplyFeed(session.submit, messages[-1:], **settings)
            async for event in feed.events():
                self._tell(response, event, turns)
        except SlowReader:
            log.debug("%s: nobody reads it", response.id)  # whoever sends has noticed too, and ends the session
        except QueueFull:
            self._fail(response, "server_error", "server_busy", "too many replies are waiting; try again in a moment")
        except ValueError as error:  # what the model refuses, in words for the client
            for item in turns[-1] if turns else []:  # it must not spoil the following turns too
                item.forgotten = True
            self._fail(response, "invalid_request_error", "not_answerable", " ".join(str(error).split()))
        except Exception:
            log.exception("a reply failed")
            self._fail(response, "server_error", "internal_error", "the model failed; see the server's log")
        finally:
            if self._feed is feed:
                self._feed = None
            if self._last is response:
                self.hearing = None
            if hearing is not None and hearing.text is None:
                self._on_heard(_item_of(turns, hearing), hearing, None)

    def _tell(self, response: Response, event: Event, turns: list[list[Item]]) -> None:
        if isinstance(event, Heard):
            if self.hearing is not None:
                self._on_heard(_item_of(turns, self.hearing), self.hearing, event.text)
        elif isinstance(event, ContextDropped):
            for item in (item for turn in turns[: event.messages] for item in turn):
                item.forgotten = True
        elif not response.open:
            return
        elif isinstance(event, TextDelta):
            response.write(event)
        elif isinstance(event, AudioChunk):
            response.speak(event)
        elif isinstance(event, Finished):
            response.output_tokens = event.timings.num_tokens
            length = event.stopped == "length"
            status, reason = ("incomplete", "max_output_tokens") if length else ("completed", None)
            response.finish(status, reason, timeline=event.timeline)
            self._service.metrics.response(response, event.timings.rtf)

    def _fail(self, response: Response, kind: str, code: str, message: str) -> None:
        if response.open:
            response.finish("failed", error={"type": kind, "code": code, "message": message})
            self._service.metrics.response(response, None)

    # ------------------------------------------------------------------------------------------ stop

    def cancel(self, reason: str = "client_cancelled") -> None:
        """Stop the running response: nothing more of it leaves, its item keeps what was said.

        Raises:
            EventError: there is none.
        """
        response = self.active
        if response is None:
            raise EventError("expected an active response, found none to cancel", "response_cancel_not_active")
        timeline: Sequence[Mark] = ()
        if self._feed is not None:
            self._feed.cancel()
            timeline = self._feed.timeline
        response.finish("cancelled", reason, timeline=timeline)
        self._service.metrics.response(response, None)

    def interrupt(self) -> None:
        """Somebody speaks over the reply: stop it, and keep in the history what was heard of it."""
        response = self._last
        if response is None:
            return
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

    async def close(self) -> None:
        """Stop for good and wait until the model is free."""
        if self.active is not None:
            self.cancel()
        if self._work is not None:
            await asyncio.wait([self._work])


def _item_of(turns: list[list[Item]], content: Content) -> Item:
    return next(item for turn in turns for item in turn if any(part is content for part in item.content))


def _only_new_sound(turns: list[list[Item]]) -> Content | None:
    """The sound of the last turn, if it is one recording: what the model says it heard is its transcript."""
    last = turns[-1] if turns and turns[-1][0].role == "user" else []
    sounds = [content for item in last for content in item.content if content.audio is not None and not content.dumb]
    return sounds[0] if len(sounds) == 1 and sounds[0].text is None else None


def _metadata(request: dict[str, Any]) -> dict[str, str] | None:
    found = take(request, "metadata", dict, "response", None)
    if found is None:
        return None
    texts = all(isinstance(value, str) and len(value) <= 512 for value in found.values())
    if not texts or len(found) > 16 or any(len(name) > 64 for name in found):
        message = (
            "response.metadata: expected at most 16 names of at most 64 characters with texts of at most 512, found "
            f"{short(found)}"
        )
        raise EventError(message, "invalid_value", "response.metadata")
    return dict(found)
