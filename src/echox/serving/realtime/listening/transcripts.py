"""Transcripts of what the user has said: provided by replies, or made alone; each turn has one, or an error."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine

from echox.errors import QueueFull
from echox.serving.protocol.conversation import Content, Conversation, ConversationItem
from echox.serving.protocol.events import FailureCode, refusal_code
from echox.serving.protocol.options import SessionOptions
from echox.serving.protocol.usage import Usage
from echox.serving.realtime.listening.stable_words import rest_of
from echox.serving.service.outbox import Outbox
from echox.serving.service.service import Service
from echox.streaming.events import Heard
from echox.streaming.prompt.messages import Audio

log = logging.getLogger("echox.serving")
WAIT_S = 0.1
"""A ``response.create`` right after a commit provides the transcript without extra work."""
BUSY_WAITS_S = (0.5, 1.0, 2.0, 4.0, 8.0)
"""Before a transcript is tried again, for which the model had no time."""
_EVENT = "conversation.item.input_audio_transcription"


class Transcripts:
    """The transcripts of one session.

    Args:
        service: transcribes.
        outbox: the events are sent through it.
        conversation: the conversation.
        options: options of the session; nothing is sent without ``transcription``.
        is_provided: whether a reply that is being made will provide the transcript of this audio.
        spawn: starts a task that ends with the session.
    """

    def __init__(
        self,
        service: Service,
        outbox: Outbox,
        conversation: Conversation,
        options: SessionOptions,
        is_provided: Callable[[Content], bool],
        spawn: Callable[[Coroutine[object, object, None]], asyncio.Task[None]],
    ) -> None:
        self._service, self._outbox, self._conversation, self._options = service, outbox, conversation, options
        self._is_provided, self._spawn = is_provided, spawn
        self._lock = asyncio.Lock()  # one at a time: many recordings must not fill the shared queue

    def send_words(self, item_id: str, delta: str, content_index: int = 0) -> None:
        """Send the next words of a transcript."""
        self._outbox.put(
            {"type": f"{_EVENT}.delta", "item_id": item_id, "content_index": content_index, "delta": delta}
        )

    def provide(self, item: ConversationItem, content: Content, heard: Heard | None) -> None:
        """Keep and send the transcript of an item; None: no reply has provided it, so transcribe the audio."""
        if heard is None:
            self.make_later(item.id, item.content.index(content))
            return
        if content.text is not None:
            return
        content.text = heard.text
        if self._options.transcription is None or content.audio is None:
            return
        rest = rest_of(content.sent_text, heard.text)
        if rest:
            self.send_words(item.id, rest, item.content.index(content))
        usage = Usage.of_transcript(heard).for_transcription()
        self._put("completed", item, content, transcript=heard.text, usage=usage)

    def make_later(self, item_id: str, content_index: int) -> None:
        """Transcribe audio, unless a reply does. It does not refer to the item, so a deleted item is freed at once."""
        self._spawn(self._make_later(item_id, content_index))

    async def _make_later(self, item_id: str, content_index: int) -> None:
        await asyncio.sleep(WAIT_S)
        async with self._lock:
            item = next((one for one in self._conversation.items if one.id == item_id), None)
            if item is not None and self._options.transcription is not None:
                await self._make(item, item.content[content_index])

    async def _make(self, item: ConversationItem, content: Content) -> None:
        if content.audio is None or content.text is not None or self._is_provided(content):
            return
        try:
            heard = await self._transcript_of(content.audio)
        except QueueFull as error:
            self._send_failure(item, content, "server_busy", str(error))
        except ValueError as error:
            self._send_failure(item, content, refusal_code(error), str(error))
        except Exception:
            log.exception("a turn could not be transcribed")
            self._send_failure(item, content, "internal_error", "the server failed; see its log")
        else:
            content.inaudible = not heard.text
            self.provide(item, content, heard)

    async def _transcript_of(self, audio: Audio) -> Heard:
        """The transcript of audio; while the model has too much other work, it is asked again.

        Raises:
            ValueError: audio that the model cannot read.
            QueueFull: it had too much work every time.
        """
        for wait_s in BUSY_WAITS_S:
            try:
                return await self._service.transcribe(audio)
            except QueueFull:
                await asyncio.sleep(wait_s)
        return await self._service.transcribe(audio)

    def _send_failure(self, item: ConversationItem, content: Content, code: FailureCode, message: str) -> None:
        kind = "server_error" if code in ("server_busy", "internal_error") else "invalid_request_error"
        self._put("failed", item, content, error={"type": kind, "code": code, "message": message})

    def _put(self, what: str, item: ConversationItem, content: Content, **fields: object) -> None:
        place = {"item_id": item.id, "content_index": item.content.index(content)}
        self._outbox.put({"type": f"{_EVENT}.{what}", **place, **fields})
