"""A realtime session: one client's conversation, from its first event to its last.

Everything of it runs in the event loop, one client event at a time; only the model works elsewhere.
"""

from __future__ import annotations

import asyncio
import copy
import logging
import time
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

from echox.errors import QueueFull
from echox.serving.protocol.conversation import Content, Conversation, Item, read_item
from echox.serving.protocol.events import EventError, client_event_id, new_id, read_event, take
from echox.serving.protocol.json_input import aside
from echox.serving.protocol.options import SessionOptions
from echox.serving.protocol.wire import decode_base64
from echox.serving.realtime.listening import Listener
from echox.serving.realtime.responder import Responder
from echox.serving.realtime.response_request import read_input
from echox.serving.service.outbox import Outbox, SlowReader
from echox.serving.service.service import Service
from echox.serving.turn_detection.end_of_turn import WINDOW_S
from echox.serving.turn_detection.turns import Duck, Paused, SpeechStarted, SpeechStopped, TurnEvent, Unduck
from echox.serving.turn_detection.vad import SAMPLING_RATE
from echox.streaming.messages import Audio

log = logging.getLogger("echox.serving")
_MIN_COMMIT_S = 0.1  # the protocol's: shorter audio is no turn
_BYTES_AT_ONCE = 256 * 1024  # of appended audio (5 s of PCM at 24 kHz)
_FRAMES_AT_ONCE = 16  # of detection (half a second of audio), then others get their turn in the loop
_TRANSCRIPT_WAIT_S = 0.1  # a response.create behind a commit tells the transcript anyway


class RealtimeSession:
    """One client.

    Args:
        service: what all clients share.
        send: sends one text to the client.
        options: to begin with, which stay as they are; None: the server's.
    """

    def __init__(
        self, service: Service, send: Callable[[str], Awaitable[None]], options: SessionOptions | None = None
    ) -> None:
        self.id = new_id("sess")
        self._service = service
        limits = service.limits
        self.outbox = Outbox(send, limits.send_s, limits.max_unsent_bytes)
        self.options = service.session_options() if options is None else copy.copy(options)
        self.conversation = Conversation(limits)
        self.listener = Listener(self.options.input_format, self.options.turn_settings, service.new_vad(), limits)
        self.responder = Responder(
            service, self.outbox, self.conversation, self.options, self._tell_transcript, self._speaking
        )
        self._expires_at = int(time.time() + limits.max_session_s)
        self._turn_item_id: str | None = None  # of the turn that is being spoken
        self._tasks: set[asyncio.Task[None]] = set()
        self._asked_about: Paused | None = None
        self._one_judgement = asyncio.Lock()
        self._one_transcript = asyncio.Lock()  # at a time: many recordings must not fill the queue that all share
        self.closing = asyncio.Event()
        self.active_at = time.monotonic()  # when the client last asked for something; pings do not count
        self._handlers: dict[str, Callable[[dict[str, Any]], Coroutine[Any, Any, None]]] = {
            "session.update": self._update,
            "input_audio_buffer.append": self._append,
            "input_audio_buffer.commit": self._commit,
            "input_audio_buffer.clear": self._clear,
            "output_audio_buffer.clear": self._clear_output,
            "conversation.item.create": self._create_item,
            "conversation.item.delete": self._delete_item,
            "conversation.item.retrieve": self._retrieve_item,
            "conversation.item.truncate": self._truncate_item,
            "response.create": self._create_response,
            "response.cancel": self._cancel_response,
            "echox.ping": self._ping,
        }

    @property
    def busy(self) -> bool:
        """Whether a reply is being made, or said."""
        return self.responder.busy or self.outbox.waiting

    def begin(self) -> None:
        """Greet the client."""
        self.outbox.put({"type": "session.created", "session": self._shown()})

    async def receive(self, text: str | bytes) -> None:
        """Do what one message of the client asks; a mistake is answered, and the session goes on."""
        event_id = None
        try:
            event = await aside(read_event, text)
            event_id = event.get("event_id")
            if event["type"] != "echox.ping":
                self.active_at = time.monotonic()
            await self._handlers[event["type"]](event)
        except EventError as error:
            self.tell_error(error, event_id or await aside(client_event_id, text))
        except SlowReader:
            raise
        except Exception:  # a fault of ours: told without its inside, and the session goes on
            log.exception("%s: an event could not be handled", self.id)
            fault = EventError("the server failed; see its log", "internal_error", kind="server_error")
            self.tell_error(fault, event_id)

    def tell_error(self, error: EventError, event_id: str | None = None) -> None:
        """Send an ``error`` event."""
        self._service.metrics.errors.labels(error.code).inc()
        self.outbox.put(error.to_event(event_id))

    def shut_down(self) -> None:
        """The server goes: end the running reply in good order; the connection is closed once that has left."""
        self.responder.cancel_all()
        self.closing.set()

    async def close(self) -> None:
        """The client is gone: stop all work."""
        self.outbox.close()
        for task in list(self._tasks):
            task.cancel()
        await self.responder.close()

    # ------------------------------------------------------------------------------------------ session

    async def _update(self, event: dict[str, Any]) -> None:
        self.options.update(take(event, "session", dict))
        self.listener.configure(self.options.input_format, self.options.turn_settings)
        self.outbox.put({"type": "session.updated", "session": self._shown()})
        self.responder.settle()  # turns by hand now: nobody is in the middle of a detected one any more

    def _shown(self) -> dict[str, Any]:
        return {"id": self.id, "expires_at": self._expires_at, **self.options.to_dict()}

    async def _ping(self, event: dict[str, Any]) -> None:
        """A client asks whether the server still answers (browsers cannot send the WebSocket's own pings)."""
        self.outbox.put({"type": "echox.pong"})

    # ------------------------------------------------------------------------------------------ sound

    async def _append(self, event: dict[str, Any]) -> None:
        text = take(event, "audio", str)
        try:
            data = await aside(decode_base64, text)
        except ValueError as error:
            raise EventError(f"audio: {error}", "invalid_value", "audio") from error
        if not self.listener.room_for(len(data)):
            raise EventError(
                f"audio: expected at most {self._service.limits.max_buffer_s:g} s in the buffer, found more; commit or "
                "clear it",
                "input_audio_buffer_full",
                "audio",
            )
        for start in range(0, len(data), _BYTES_AT_ONCE):
            self.listener.append(data[start : start + _BYTES_AT_ONCE])
            await self._watch()

    async def _watch(self) -> None:
        """Look for turns in what has come; others get their turn in between."""
        count = 0
        while (events := self.listener.watch(self.responder.playing)) is not None:
            for found in events:
                self._turn(found)
            count += 1
            if count % _FRAMES_AT_ONCE == 0:
                await asyncio.sleep(0)
        await asyncio.sleep(0)

    def _turn(self, event: TurnEvent) -> None:
        """The listener has noticed something."""
        if isinstance(event, Duck | Unduck):
            if self.options.duck_events:
                kind = "duck" if isinstance(event, Duck) else "unduck"
                self.outbox.put({"type": f"echox.output_audio.{kind}", "audio_ms": event.at_ms})
        elif isinstance(event, SpeechStarted):
            self._turn_item_id = new_id("item")
            self.outbox.put(
                {
                    "type": "input_audio_buffer.speech_started",
                    "audio_start_ms": event.start_ms,
                    "item_id": self._turn_item_id,
                }
            )
            settings = self.options.turn_settings
            if settings is not None and settings.interrupts:
                self.responder.interrupt()
        elif isinstance(event, SpeechStopped):
            item_id, self._turn_item_id = self._turn_item_id or new_id("item"), None
            self.outbox.put(
                {"type": "input_audio_buffer.speech_stopped", "audio_end_ms": event.end_ms, "item_id": item_id}
            )
            item = self._commit_sound(Audio(self.listener.take(event.start_ms, event.end_ms), SAMPLING_RATE), item_id)
            if self.options.create_response:
                self.responder.answer(item)
            else:
                self.responder.settle()
        elif isinstance(event, Paused):
            self._spawn(self._judge(event))

    def _speaking(self) -> bool:
        """Whether the client is in the middle of a detected turn."""
        return self.listener.turns is not None and self.listener.turns.speaking

    async def _judge(self, pause: Paused) -> None:
        """Ask the end-of-turn model whether the sentence is complete; one question at a time, about the last pause."""
        self._asked_about = pause
        async with self._one_judgement:  # sound that comes faster than it is judged must not pile up
            if self._asked_about is not pause:
                return
            start_ms = max(pause.start_ms, self.listener.watched_ms - 1000 * WINDOW_S)
            complete = await self._service.is_complete(self.listener.recent(start_ms))
        turns = self.listener.turns
        for event in [] if turns is None else turns.judge(pause, complete, self.listener.watched_ms):
            self._turn(event)

    async def _commit(self, event: dict[str, Any]) -> None:
        if self.listener.waiting_s < _MIN_COMMIT_S:
            raise EventError(
                f"expected at least {_MIN_COMMIT_S * 1000:.0f} ms of audio in the buffer, found "
                f"{self.listener.waiting_s * 1000:.0f} ms",
                "input_audio_buffer_commit_empty",
            )
        samples, events = self.listener.take_all()
        for found in events:
            self._turn(found)
        item_id, self._turn_item_id = self._turn_item_id, None
        audio = Audio(samples, SAMPLING_RATE)
        speech = await self._service.holds_speech(audio)
        if self.listener.turns is not None and item_id is None and not speech:
            # What detected turns left over. Without turn detection the client decides what is a turn.
            self.responder.settle()
            raise EventError(
                f"expected speech in the buffer, found {audio.duration_s * 1000:.0f} ms without any; it was cleared",
                "input_audio_buffer_commit_empty",
            )
        self._commit_sound(audio, item_id or new_id("item"))
        self.responder.settle()

    def _commit_sound(self, audio: Audio, item_id: str) -> Item:
        """Make a user item of sound."""
        content = Content("input_audio", audio=audio)
        item = Item(item_id, "user", [content])
        items = self.conversation.items
        self.outbox.put(
            {
                "type": "input_audio_buffer.committed",
                "previous_item_id": items[-1].id if items else None,
                "item_id": item_id,
            }
        )
        self._add_item(item, None)
        self._spawn(self._transcribe_later(item.id, 0))
        return item

    async def _clear(self, event: dict[str, Any]) -> None:
        for found in self.listener.clear():
            self._turn(found)
        self._turn_item_id = None
        self.outbox.put({"type": "input_audio_buffer.cleared"})
        self.responder.settle()

    async def _clear_output(self, event: dict[str, Any]) -> None:
        raise EventError(
            "output_audio_buffer.clear is for WebRTC; over a WebSocket the client owns its playback: use "
            "response.cancel and conversation.item.truncate",
            "unsupported_event",
        )

    # ------------------------------------------------------------------------------------------ transcripts

    def _tell_transcript(self, item: Item, content: Content, text: str | None) -> None:
        """The reply has told what was heard (None: it has not, and never will)."""
        if text is None:
            self._spawn(self._transcribe_later(item.id, item.content.index(content)))
            return
        if content.text is not None:
            return
        content.text = text
        if self.options.transcription is None or content.audio is None:
            return
        self.outbox.put(
            {
                "type": "conversation.item.input_audio_transcription.completed",
                "item_id": item.id,
                "content_index": item.content.index(content),
                "transcript": text,
                "usage": {"type": "duration", "seconds": content.audio.duration_s},
            }
        )

    async def _transcribe_later(self, item_id: str, content_index: int) -> None:
        """The transcript of sound that no reply has told; what the client deletes meanwhile is not kept for it."""
        await asyncio.sleep(_TRANSCRIPT_WAIT_S)
        async with self._one_transcript:
            item = next((one for one in self.conversation.items if one.id == item_id), None)
            if item is not None and self.options.transcription is not None:
                await self._transcribe(item, item.content[content_index])

    async def _transcribe(self, item: Item, content: Content) -> None:
        """Hear sound and tell its transcript, unless a reply does."""
        if content.audio is None or content.text is not None or self.responder.hears(content):
            return
        try:
            text = await self._service.transcribe(content.audio)
        except (ValueError, QueueFull) as error:
            content.dumb = isinstance(error, ValueError)
            self.outbox.put(
                {
                    "type": "conversation.item.input_audio_transcription.failed",
                    "item_id": item.id,
                    "content_index": item.content.index(content),
                    "error": {"type": "invalid_request_error", "code": "not_heard", "message": str(error)},
                }
            )
            return
        self._tell_transcript(item, content, text)

    # ------------------------------------------------------------------------------------------ items

    async def _create_item(self, event: dict[str, Any]) -> None:
        source = take(event, "item", dict)
        audio_format, rate, limits = self.options.input_format, self._service.input_rate, self._service.limits
        item = await asyncio.to_thread(read_item, source, "item", audio_format, rate, limits)  # it may hold much sound
        await self._look_for_speech([item])
        self._add_item(item, take(event, "previous_item_id", str, default=None))

    async def _look_for_speech(self, items: list[Item]) -> None:
        """In all sound of items: here, beside the event loop and the model's thread, and remembered."""
        for sound in (content.audio for item in items for content in item.content if content.audio is not None):
            await self._service.holds_speech(sound)

    def _add_item(self, item: Item, after: str | None) -> None:
        previous = self.conversation.add(item, after)
        shown = item.to_dict()
        self.outbox.put({"type": "conversation.item.added", "previous_item_id": previous, "item": shown})
        self.outbox.put({"type": "conversation.item.done", "previous_item_id": previous, "item": shown})
        for old in self.conversation.overflow():
            self.outbox.put({"type": "conversation.item.deleted", "item_id": old.id})

    async def _delete_item(self, event: dict[str, Any]) -> None:
        item = self.conversation.find(take(event, "item_id", str))
        if self.responder.active is not None and self.responder.active.item is item:
            self.responder.cancel()
        self.conversation.remove(item)
        self.outbox.put({"type": "conversation.item.deleted", "item_id": item.id})

    async def _retrieve_item(self, event: dict[str, Any]) -> None:
        item = self.conversation.find(take(event, "item_id", str))
        shown = await asyncio.to_thread(item.to_dict, self.options.input_format)
        self.outbox.put({"type": "conversation.item.retrieved", "item": shown})

    async def _truncate_item(self, event: dict[str, Any]) -> None:
        item = self.conversation.find(take(event, "item_id", str))
        take(event, "content_index", int, at_least=0, at_most=0)
        audio_end_ms = take(event, "audio_end_ms", int, at_least=0, at_most=2**31 - 1)
        if item.role != "assistant" or item.content[0].type != "output_audio":
            raise EventError("item_id: expected a spoken reply, found another item", "invalid_value", "item_id")
        self.responder.truncate(item, audio_end_ms)

    # ------------------------------------------------------------------------------------------ responses

    async def _create_response(self, event: dict[str, Any]) -> None:
        source = take(event, "response", dict, default={})
        own_items = None
        if source.get("input") is not None:
            known, audio_format = self.conversation.snapshot(), self.options.input_format
            own_items = await asyncio.to_thread(
                read_input, source, audio_format, known, self._service.limits, self._service.input_rate
            )
            await self._look_for_speech(own_items or [])
        self.responder.start(source, own_items)

    async def _cancel_response(self, event: dict[str, Any]) -> None:
        self.responder.cancel(response_id=take(event, "response_id", str, default=None))

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._finished)

    def _finished(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            log.error("%s: work on the side failed", self.id, exc_info=task.exception())
