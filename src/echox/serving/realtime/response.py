"""One response of the realtime protocol: events of the model become the documented sequence of server events.

created -> output_item.added -> conversation.item.added -> content_part.added -> {transcript delta | audio delta}* ->
audio done -> transcript done -> content_part.done -> conversation.item.done -> output_item.done -> done -> rate_limits.
A call of a tool is an item of its own, after what is said: output_item.added -> conversation.item.added -> arguments
delta* -> arguments done -> conversation.item.done -> output_item.done.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Protocol

from echox.serving.protocol.conversation import (
    Content,
    Conversation,
    ConversationItem,
    ItemObject,
    SpokenText,
    tool_call_text,
)
from echox.serving.protocol.events import new_id
from echox.serving.protocol.json_input import JsonObject
from echox.serving.protocol.usage import Usage
from echox.serving.protocol.wire import AudioFormat
from echox.serving.realtime.transport import ContentPlace, Transport
from echox.serving.service.outbox import Outbox
from echox.serving.service.unspoken import unspoken
from echox.streaming.events import AudioChunk, Mark, SpeechFailed, TextDelta, Timings
from echox.tool_calls.tools import ToolCallDelta


class ResponseOptions(Protocol):
    """The options of the session that a response needs."""

    output_modalities: list[str]
    output_format: AudioFormat
    voice: str | JsonObject | None
    max_output_tokens: int | str


class Response:
    """A response from ``response.created`` to ``response.done``; after that it sends no events.

    Args:
        outbox: the events are sent through it.
        transport: what carries its speech.
        conversation: the reply's item is added to it; None: out of band, to no conversation.
        conversation_id: id of the conversation for clients.
        options: options of this response.
        model_rate: sampling rate of the model's speech, Hz.
        metadata: metadata of the client, sent back.
        after: ids of the items that it answers. The reply's item is inserted after the last of these that still
            exists, even if newer items were added meanwhile.
    """

    def __init__(
        self,
        outbox: Outbox,
        transport: Transport,
        conversation: Conversation | None,
        conversation_id: str,
        options: ResponseOptions,
        model_rate: int,
        metadata: dict[str, str] | None,
        after: Sequence[str],
    ) -> None:
        self.id = new_id("resp")
        self.status = "in_progress"
        self.item: ConversationItem | None = None
        self.speech = transport.speech(self.id, model_rate, options.output_format, outbox)
        self.started_s = time.monotonic()
        self.first_audio_s: float | None = None
        self.timings: Timings | None = None  # timings of the model; None: it has not started
        self.failures: list[SpeechFailed] = []  # what could not be spoken
        self._outbox, self._conversation, self._conversation_id = outbox, conversation, conversation_id
        self._modalities = list(options.output_modalities)
        self._format, self._voice = options.output_format, options.voice
        self._max_output_tokens = options.max_output_tokens
        self._metadata, self._after = metadata, after
        self._text = ""
        self._message_ended = False
        self._calls: list[tuple[ConversationItem, ItemObject]] = []  # items of calls, and what they say of the call
        self._open_call: int | None = None  # index of the call that has not ended
        self._waiting_calls: list[ToolCallDelta] = []  # until what is said before them is spoken
        self._details: JsonObject | None = None
        self._put({"type": "response.created", "response": self.to_dict()})

    @property
    def speaks(self) -> bool:
        """Whether the reply is spoken."""
        return self._modalities == ["audio"]

    @property
    def open(self) -> bool:
        """Whether ``response.done`` has not been sent yet."""
        return self.status == "in_progress"

    def to_dict(self) -> JsonObject:
        """The response object in JSON."""
        found: JsonObject = {
            "id": self.id,
            "object": "realtime.response",
            "status": self.status,
            "output": [item.to_dict() for item in self.items],
            "output_modalities": self._modalities,
            "max_output_tokens": self._max_output_tokens,
            "status_details": self._details,
            "metadata": self._metadata,
            "usage": None,
        }
        if self._conversation is not None:
            found["conversation_id"] = self._conversation_id
        if self.speaks:
            found["audio"] = {"output": {"format": self._format.to_dict(), "voice": self._voice}}
        if not self.open:
            found["usage"] = Usage.of_reply(self.timings or Timings()).for_realtime()
        if self.failures:
            found["unspoken"] = unspoken(self.failures)
        return found

    # ------------------------------------------------------------------------------------------ events of the model

    def add_text(self, delta: TextDelta) -> None:
        """Send the next piece of text."""
        item = self._begin_item()
        self._text += delta.text
        item.content[0].text = self._text
        kind = "response.output_audio_transcript.delta" if self.speaks else "response.output_text.delta"
        self._put({"type": kind, **self._place(), "delta": delta.text})

    def add_audio(self, chunk: AudioChunk) -> None:
        """Send the next piece of speech."""
        self._begin_item()
        if self.first_audio_s is None:
            self.first_audio_s = time.monotonic() - self.started_s
        self.speech.add(chunk.waveform, self._place())

    def add_call(self, delta: ToolCallDelta) -> None:
        """Send the next piece of a call, after the speech of what is said before it.

        The end of a call is sent when the next one begins, or with the end of the response: clients answer it at once,
        with a new response.
        """
        if self.item is not None and self.speaks:
            self._waiting_calls.append(delta)
            return
        if self.item is not None and not self._message_ended:
            self._end_item(self.item, "completed")
        self._send_call(delta)

    def _send_call(self, delta: ToolCallDelta) -> None:
        if delta.index == len(self._calls):
            self._end_open_call(complete=True)
            self._begin_call(delta.name)
        item, call = self._calls[delta.index]
        if delta.arguments:
            call["arguments"] += delta.arguments
            kind = "response.function_call_arguments.delta"
            self._put({"type": kind, **self._call_place(item, call), "delta": delta.arguments})
        if delta.done:
            item.status = "completed"

    # ------------------------------------------------------------------------------------------ the end

    def finish(
        self,
        status: str,
        reason: str | None = None,
        error: JsonObject | None = None,
        timeline: Sequence[Mark] = (),
    ) -> None:
        """End the response: send the last events.

        Args:
            status: "completed", "cancelled", "incomplete" or "failed".
            reason: reason of "cancelled" or "incomplete".
            error: error of "failed": ``type``, ``code`` and ``message``.
            timeline: the times of its words, as far as they are spoken.
        """
        if not self.open:
            return
        if self.item is not None and self.speaks:
            self.item.spoken = SpokenText(self._text, tuple(timeline))
        if status == "cancelled":
            self.speech.cut()
            self._cut_text(reason)
        else:
            self.speech.end()
        self.status = status
        if reason is not None or error is not None:
            details: JsonObject = {"type": status, "reason": reason, "error": error}
            self._details = {name: value for name, value in details.items() if value is not None}
        if self.item is not None and not self._message_ended:
            whole = status == "completed" or (status == "incomplete" and self._waiting_calls)
            self._end_item(self.item, "completed" if whole else "incomplete")
        if status in ("completed", "incomplete"):
            for delta in self._waiting_calls:
                self._send_call(delta)
        self._end_open_call(complete=False)
        self._put({"type": "response.done", "response": self.to_dict()})
        self._put({"type": "rate_limits.updated", "rate_limits": []})

    def _cut_text(self, reason: str | None) -> None:
        """Cut the text of a cancelled reply to what was sent, or, if the user interrupted it, to what was heard."""
        if self.item is None or self.item.spoken is None:
            return
        heard_s = self.speech.heard_s(time.monotonic()) if reason == "turn_detected" else self.speech.sent_s
        self.item.content[0].text = self.item.spoken.heard_text(heard_s)

    # ------------------------------------------------------------------------------------------ the sequence of events

    def _begin_item(self) -> ConversationItem:
        if self.item is not None:
            return self.item
        kind = "output_audio" if self.speaks else "output_text"
        item = self.item = ConversationItem(new_id("item"), "assistant", [Content(kind, "")], "in_progress")
        self._add_item(item, {**item.to_dict(), "content": []}, 0)
        self._put({"type": "response.content_part.added", **self._place(), "part": self._part("")})
        return item

    @property
    def items(self) -> list[ConversationItem]:
        """The items of the response, in order."""
        said = [] if self.item is None else [self.item]
        return said + [item for item, _ in self._calls]

    def _add_item(self, item: ConversationItem, shown: JsonObject, index: int) -> None:
        """Send that an item begins, and add it to the conversation."""
        self._put({"type": "response.output_item.added", "response_id": self.id, "output_index": index, "item": shown})
        if self._conversation is not None:
            before = [*self._after, *(one.id for one in self.items if one is not item)]
            previous = self._conversation.add(item, self._conversation.last_present(before))
            self._put({"type": "conversation.item.added", "previous_item_id": previous, "item": shown})
            for old in self._conversation.remove_overflow():
                self._put({"type": "conversation.item.deleted", "item_id": old.id})

    def _begin_call(self, name: str) -> None:
        call: ItemObject = {"type": "function_call", "call_id": new_id("call"), "name": name, "arguments": ""}
        item = ConversationItem(new_id("item"), "assistant", [], "in_progress", call=call)
        self._open_call = len(self._calls)
        self._calls.append((item, call))
        self._add_item(item, {**item.to_dict()}, len(self.items) - 1)

    def _end_open_call(self, complete: bool) -> None:
        """Send that the newest call has ended.

        Args:
            complete: another call follows, so this one is complete.
        """
        if self._open_call is None:
            return
        item, call = self._calls[self._open_call]
        self._open_call = None
        item.content = [Content("output_text", tool_call_text(call["name"], call["arguments"]))]
        if complete or item.status == "completed":
            place = self._call_place(item, call)
            done = {"name": call["name"], "arguments": call["arguments"]}
            self._put({"type": "response.function_call_arguments.done", **place, **done})
        else:  # the model must not read half a call
            item.status, item.forgotten = "incomplete", True
        self._send_item_done(item)

    def _call_place(self, item: ConversationItem, call: ItemObject) -> JsonObject:
        index = self.items.index(item)
        return {"response_id": self.id, "item_id": item.id, "output_index": index, "call_id": call["call_id"]}

    def _end_item(self, item: ConversationItem, status: str) -> None:
        self._message_ended = True
        item.status = status
        text = item.content[0].text or ""
        if self.speaks:
            self._put({"type": "response.output_audio.done", **self._place()})
            self._put({"type": "response.output_audio_transcript.done", **self._place(), "transcript": text})
        else:
            self._put({"type": "response.output_text.done", **self._place(), "text": text})
        self._put({"type": "response.content_part.done", **self._place(), "part": self._part(text)})
        self._send_item_done(item)

    def _send_item_done(self, item: ConversationItem) -> None:
        if self._conversation is not None and item in self._conversation.items:
            previous = self._conversation.previous_id(item)
            self._put({"type": "conversation.item.done", "previous_item_id": previous, "item": item.to_dict()})
        done = {"response_id": self.id, "output_index": self.items.index(item), "item": item.to_dict()}
        self._put({"type": "response.output_item.done", **done})

    def _part(self, text: str) -> dict[str, str]:
        return {"type": "audio", "transcript": text} if self.speaks else {"type": "text", "text": text}

    def _place(self) -> ContentPlace:
        assert self.item is not None
        return {"response_id": self.id, "item_id": self.item.id, "output_index": 0, "content_index": 0}

    def _put(self, event: JsonObject) -> None:
        self._outbox.put(event)
