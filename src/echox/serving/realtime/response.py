"""One response of the realtime protocol: the model's events in, the documented envelope of server events out.

created -> output_item.added -> conversation.item.added -> content_part.added -> {transcript delta | audio delta}* ->
audio done -> transcript done -> content_part.done -> conversation.item.done -> output_item.done -> done -> rate_limits.
"""

from __future__ import annotations

import base64
import time
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

from echox.serving.protocol.conversation import Content, Conversation, Item, Spoken
from echox.serving.protocol.events import new_id
from echox.serving.protocol.wire import AudioFormat, WireWriter
from echox.serving.service.outbox import Outbox
from echox.serving.service.unspoken import unspoken
from echox.serving.turn_detection.turns import PlaybackClock
from echox.streaming.events import AudioChunk, Mark, SpeechFailed, TextDelta, Timings

_DELTA_S = 0.2  # of sound in one event: small enough to be dropped in time, large enough not to flood


def usage_of(timings: Timings, asked: str, answered: str, details: str) -> dict[str, Any]:
    """How many tokens a reply took, under the names of an endpoint.

    Args:
        timings: of the reply.
        asked: "input" or "prompt".
        answered: "output" or "completion".
        details: name of what the tokens of the question are made of.
    """
    heard = timings.num_prompt_audio_tokens
    return {
        f"{asked}_tokens": timings.num_prompt_tokens,
        f"{answered}_tokens": timings.num_tokens,
        "total_tokens": timings.num_prompt_tokens + timings.num_tokens,
        details: {"audio_tokens": heard, "text_tokens": timings.num_prompt_tokens - heard},
    }


class ResponseOptions(Protocol):
    """What of the session a response needs."""

    output_modalities: list[str]
    output_format: AudioFormat
    voice: Any
    max_output_tokens: int | str


class Response:
    """A response from its start to ``response.done``; after that it says nothing more.

    Args:
        outbox: where events go. conversation: where the reply's item goes; None: out of band, nowhere.
        conversation_id: as shown. options: of this response. model_rate: of the model's speech, Hz.
        metadata: the client's, given back.
        after: ids of the items that it answers; its own follows the last of these that is still there, whatever was
            said meanwhile.
    """

    def __init__(
        self,
        outbox: Outbox,
        conversation: Conversation | None,
        conversation_id: str,
        options: ResponseOptions,
        model_rate: int,
        metadata: dict[str, str] | None,
        after: Sequence[str],
    ) -> None:
        self.id = new_id("resp")
        self.status = "in_progress"
        self.item: Item | None = None
        self.clock = PlaybackClock()
        self.started_s = time.monotonic()
        self.first_audio_s: float | None = None
        self.timings: Timings | None = None  # of the model; None: it did nothing
        self.failures: list[SpeechFailed] = []  # what could not be spoken
        self._outbox, self._conversation, self._conversation_id = outbox, conversation, conversation_id
        self._modalities = list(options.output_modalities)
        self._format, self._voice = options.output_format, options.voice
        self._max_output_tokens = options.max_output_tokens
        self._metadata, self._after = metadata, after
        self._writer = WireWriter(model_rate, options.output_format)
        self._text = ""
        self._details: dict[str, Any] | None = None
        self._put({"type": "response.created", "response": self.to_dict()})

    @property
    def speaks(self) -> bool:
        """Whether the reply is spoken, not only written."""
        return self._modalities == ["audio"]

    @property
    def open(self) -> bool:
        """Whether ``response.done`` is still to come."""
        return self.status == "in_progress"

    def to_dict(self) -> dict[str, Any]:
        """The response object."""
        found: dict[str, Any] = {
            "id": self.id,
            "object": "realtime.response",
            "status": self.status,
            "output": [self.item.to_dict()] if self.item is not None else [],
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
            found["usage"] = usage_of(self.timings or Timings(), "input", "output", "input_token_details")
        if self.failures:
            found["unspoken"] = unspoken(self.failures)
        return found

    # ------------------------------------------------------------------------------------------ the model speaks

    def write(self, delta: TextDelta) -> None:
        """The next piece of text."""
        item = self._begin_item()
        self._text += delta.text
        item.content[0].text = self._text
        kind = "response.output_audio_transcript.delta" if self.speaks else "response.output_text.delta"
        self._put({"type": kind, **self._place(), "delta": delta.text})

    def speak(self, chunk: AudioChunk) -> None:
        """The next piece of speech."""
        self._begin_item()
        if self.first_audio_s is None:
            self.first_audio_s = time.monotonic() - self.started_s
        step = max(1, int(_DELTA_S * chunk.sampling_rate))
        for start in range(0, len(chunk.waveform), step):
            self._send_sound(self._writer.write(chunk.waveform[start : start + step]))

    def _send_sound(self, data: bytes) -> None:
        if not data:
            return
        duration_s = len(data) / self._format.sample_bytes / self._format.rate
        self._outbox.put(
            {"type": "response.output_audio.delta", **self._place(), "delta": base64.b64encode(data).decode("ascii")},
            sound_of=self.id,
            sent=lambda: self.clock.add(time.monotonic(), duration_s),
        )

    # ------------------------------------------------------------------------------------------ the end

    def finish(
        self,
        status: str,
        reason: str | None = None,
        error: dict[str, Any] | None = None,
        timeline: Sequence[Mark] = (),
    ) -> None:
        """Close the envelope.

        Args:
            status: "completed", "cancelled", "incomplete" or "failed".
            reason: of a cancelled or incomplete one.
            error: of a failed one: ``type``, ``code`` and ``message``.
            timeline: when which word of it is heard, so far.
        """
        if not self.open:
            return
        if self.item is not None and self.speaks:
            self.item.spoken = Spoken(self._text, tuple(timeline))
        if status in ("completed", "incomplete") and self.speaks and self.item is not None:
            self._send_sound(self._writer.write(np.zeros(0, np.float32), last=True))
        elif status == "cancelled":
            self._outbox.drop_sound(self.id)
            self._keep_what_was_heard(reason)
        self.status = status
        if reason is not None or error is not None:
            details = {"type": status, "reason": reason, "error": error}
            self._details = {name: value for name, value in details.items() if value is not None}
        if self.item is not None:
            self._end_item(self.item)
        self._put({"type": "response.done", "response": self.to_dict()})
        self._put({"type": "rate_limits.updated", "rate_limits": []})

    def _keep_what_was_heard(self, reason: str | None) -> None:
        """A cancelled reply: what can still be heard of it, or was heard until somebody spoke over it."""
        if self.item is None or self.item.spoken is None:
            return
        heard_s = self.clock.heard_s(time.monotonic()) if reason == "turn_detected" else self.clock.sent_s
        self.item.content[0].text = self.item.spoken.heard_text(heard_s)

    # ------------------------------------------------------------------------------------------ the envelope

    def _begin_item(self) -> Item:
        if self.item is not None:
            return self.item
        kind = "output_audio" if self.speaks else "output_text"
        item = self.item = Item(new_id("item"), "assistant", [Content(kind, "")], "in_progress")
        shown = {**item.to_dict(), "content": []}
        self._put({"type": "response.output_item.added", "response_id": self.id, "output_index": 0, "item": shown})
        if self._conversation is not None:
            previous = self._conversation.add(item, self._conversation.last_of(self._after))
            self._put({"type": "conversation.item.added", "previous_item_id": previous, "item": shown})
            for old in self._conversation.overflow():
                self._put({"type": "conversation.item.deleted", "item_id": old.id})
        self._put({"type": "response.content_part.added", **self._place(), "part": self._part("")})
        return item

    def _end_item(self, item: Item) -> None:
        item.status = "completed" if self.status == "completed" else "incomplete"
        text = item.content[0].text or ""
        if self.speaks:
            self._put({"type": "response.output_audio.done", **self._place()})
            self._put({"type": "response.output_audio_transcript.done", **self._place(), "transcript": text})
        else:
            self._put({"type": "response.output_text.done", **self._place(), "text": text})
        self._put({"type": "response.content_part.done", **self._place(), "part": self._part(text)})
        if self._conversation is not None and item in self._conversation.items:
            previous = self._conversation.previous_id(item)
            self._put({"type": "conversation.item.done", "previous_item_id": previous, "item": item.to_dict()})
        done = {"response_id": self.id, "output_index": 0, "item": item.to_dict()}
        self._put({"type": "response.output_item.done", **done})

    def _part(self, text: str) -> dict[str, str]:
        return {"type": "audio", "transcript": text} if self.speaks else {"type": "text", "text": text}

    def _place(self) -> dict[str, Any]:
        assert self.item is not None
        return {"response_id": self.id, "item_id": self.item.id, "output_index": 0, "content_index": 0}

    def _put(self, event: dict[str, Any]) -> None:
        self._outbox.put(event)
