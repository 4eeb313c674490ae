"""A realtime session: handles the events of one client, from the first to the last.

It runs in the event loop and handles one client event at a time. Only the model runs in another thread.
"""

from __future__ import annotations

import asyncio
import copy
import logging
import time
from collections.abc import Callable, Coroutine

import numpy as np

from echox.serving.protocol.conversation import Content, Conversation, ConversationItem, read_item
from echox.serving.protocol.events import OBJECT, EventError, client_event_id, new_id, read_event, take
from echox.serving.protocol.json_input import JsonObject, read_off_loop
from echox.serving.protocol.long_events import LongEvent
from echox.serving.protocol.options import SessionOptions
from echox.serving.protocol.wire import decode_base64
from echox.serving.realtime.listening.input_audio import InputAudioBuffer
from echox.serving.realtime.listening.live_transcript import LiveTranscript
from echox.serving.realtime.listening.transcripts import Transcripts
from echox.serving.realtime.responder import Responder
from echox.serving.realtime.response_request import read_input
from echox.serving.realtime.speculation import Speculator
from echox.serving.realtime.transport import Transport
from echox.serving.realtime.turn_judges import TurnJudges
from echox.serving.service.outbox import Outbox, SlowReader, answered_event
from echox.serving.service.service import Service
from echox.serving.turn_detection.turns import Duck, SpeechStarted, SpeechStopped, TurnEvent, Unduck
from echox.serving.turn_detection.vad import SAMPLING_RATE
from echox.streaming.prompt.messages import Audio

log = logging.getLogger("echox.serving")
_MIN_COMMIT_S = 0.1  # minimum of the protocol for a turn
_BYTES_AT_ONCE = 256 * 1024  # of appended audio, handled at once (5 s of PCM at 24 kHz)
_FRAMES_AT_ONCE = 16  # frames (half a second of audio) searched for speech, before other tasks of the event loop run


class RealtimeSession:
    """The session of one client.

    Args:
        service: everything that all clients share.
        transport: what carries it to the client.
        options: options to start with (a copy is made); None: the defaults of the server.
    """

    def __init__(self, service: Service, transport: Transport, options: SessionOptions | None = None) -> None:
        self.id = new_id("sess")
        self._service, self._transport = service, transport
        limits = service.limits
        self.outbox = Outbox(
            transport.send, limits.send_s, limits.max_unsent_bytes, transport.max_event_bytes, limits.min_bytes_per_s
        )
        self.options = service.session_options() if options is None else copy.copy(options)
        self.conversation = Conversation(limits)
        self.input_audio = InputAudioBuffer(
            self.options.input_format, self.options.turn_settings, service.new_vad(), limits
        )
        self._transcripts = Transcripts(
            service,
            self.outbox,
            self.conversation,
            self.options,
            lambda content: self.responder.will_transcribe(content),
            self._spawn,
        )
        self.responder = Responder(
            service,
            self.outbox,
            transport,
            self.conversation,
            self.options,
            self._transcripts.provide,
            self._user_speaking,
        )
        self._speculator = Speculator(
            service, self.input_audio, self.responder.suppose, self._spawn, self._tell_speculation
        )
        self.responder.speculator = self._speculator
        self._turn_judges = TurnJudges(
            service, self.input_audio, self.options, self._speculator, self._handle_turn, self._spawn
        )
        self._live = LiveTranscript(service, self.input_audio, self._transcripts.send_words, self._spawn)
        self._expires_at = int(time.time() + limits.max_session_s)
        self._turn_item_id: str | None = None  # item of the turn that the user is speaking
        self._long_event = LongEvent(limits.max_message_bytes)
        self._told_duck = False  # and not yet that it is over
        self._tasks: set[asyncio.Task[None]] = set()
        self.closing = asyncio.Event()
        self.active_at = time.monotonic()  # time of the last event that is not a ping, or of speech
        self._handlers: dict[str, Callable[[JsonObject], Coroutine[object, object, None]]] = {
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
            "echox.event.part": self._take_part,
            "echox.ping": self._ping,
        }

    @property
    def busy(self) -> bool:
        """Whether a reply is being made, sent or, if the server plays it, played."""
        return (
            self.responder.busy
            or self.outbox.waiting
            or (self._transport.plays and self.responder.heard_ms() is not None)
        )

    def start(self) -> None:
        """Send ``session.created``."""
        self.outbox.put({"type": "session.created", "session": self._session_object()})

    async def receive(self, text: str | bytes) -> None:
        """Handle one message of the client. An error is sent to the client, and the session continues."""
        event_id = None
        try:
            event = await read_off_loop(read_event, text)
            event_id = event.event_id
            answered_event.set(event_id)
            if event.type != "echox.ping":
                self.active_at = time.monotonic()
            await self._handlers[event.type](event.fields)
        except EventError as error:
            self.send_error(error, event_id or await read_off_loop(client_event_id, text))
        except SlowReader:
            raise
        except Exception:  # an error of the server: its details are only logged
            log.exception("%s: an event could not be handled", self.id)
            self._send_fault(event_id)
        finally:
            answered_event.set(None)

    async def hear(self, samples: np.ndarray) -> None:
        """Handle samples float32 (S,) at 16 kHz of a microphone that is always on. Old ones make room for new ones."""
        try:
            self.input_audio.append_samples(samples)
            await self._detect_turns()
            self._transcribe_live()
            if self._user_speaking() or self.busy:
                self.active_at = time.monotonic()
        except SlowReader:
            raise
        except Exception:
            log.exception("%s: sound could not be handled", self.id)
            self._send_fault(None)

    def _send_fault(self, event_id: str | None) -> None:
        fault = EventError("the server failed; see its log", "internal_error", kind="server_error")
        self.send_error(fault, event_id)

    def send_error(self, error: EventError, event_id: str | None = None) -> None:
        """Send an ``error`` event."""
        self._service.metrics.errors.labels(error.code).inc()
        self.outbox.put(error.to_event(event_id))

    def shut_down(self) -> None:
        """The server stops: cancel running replies. The connection is closed after the last events are sent."""
        self.responder.cancel_all()
        self.closing.set()

    async def close(self) -> None:
        """The client has disconnected: stop all work."""
        self.outbox.close()
        for task in list(self._tasks):
            task.cancel()
        await self.responder.close()

    # ------------------------------------------------------------------------------------------ session

    async def _update(self, event: JsonObject) -> None:
        change = take(event, "session", OBJECT)
        if change.get("type") == "transcription" and not self.options.makes_no_responses and self.responder.busy:
            message = "session.type: expected no response when it changes to transcription, found one; cancel it first"
            raise EventError(message, "conversation_already_has_active_response", "session.type")
        changed = self.options.changed(change)
        await self._service.prepare_tools(changed.tools.use, "session.tools")
        self.options.become(changed)
        detected = self.input_audio.turns is not None
        for found in self.input_audio.configure(self.options.input_format, self.options.turn_settings):
            self._handle_turn(found)
        self._speculator.discard()  # it was begun with the old options
        if self.options.transcription is None:
            self._live.end()
        if self.input_audio.turns is not None and not detected:  # until now, all audio was one turn
            self._live.end()
            self._turn_item_id = None
        self.outbox.put({"type": "session.updated", "session": self._session_object()})
        self.responder.answer_waiting_turn()  # without turn detection, no detected turn is open any more

    def _session_object(self) -> JsonObject:
        return {"id": self.id, "expires_at": self._expires_at, **self.options.to_dict()}

    async def _ping(self, event: JsonObject) -> None:
        """Answer a ping (browsers cannot send the pings of WebSocket itself)."""
        self.outbox.put({"type": "echox.pong"})

    async def _take_part(self, event: JsonObject) -> None:
        """Take a part of an event; after the last one handle the event."""
        whole = self._long_event.add(event)
        self.outbox.put({"type": "echox.event.taken", "index": event["index"]})
        if whole is not None:
            await self.receive(whole)

    # ------------------------------------------------------------------------------------------ audio

    async def _append(self, event: JsonObject) -> None:
        text = take(event, "audio", str)
        try:
            data = await read_off_loop(decode_base64, text)
        except ValueError as error:
            raise EventError(f"audio: {error}", "invalid_value", "audio") from error
        if not self.input_audio.has_room_for(len(data)):
            raise EventError(
                f"audio: expected at most {self._service.limits.max_buffer_s:g} s in the buffer, found more; commit or "
                "clear it",
                "input_audio_buffer_full",
                "audio",
            )
        for start in range(0, len(data), _BYTES_AT_ONCE):
            self.input_audio.append(data[start : start + _BYTES_AT_ONCE])
            await self._detect_turns()
        self._transcribe_live()

    async def _detect_turns(self) -> None:
        """Detect turns in the new audio. Other tasks of the event loop run in between."""
        count = 0
        while (events := self.input_audio.detect_next(self.responder.heard_ms)) is not None:
            for found in events:
                self._handle_turn(found)
            self._speculator.follow(self.options.create_response)
            count += 1
            if count % _FRAMES_AT_ONCE == 0:
                await asyncio.sleep(0)
        await asyncio.sleep(0)

    def _tell_speculation(self, what: str) -> bool:
        """Tell a client that wants to know that a reply is begun in a pause; or that one it knows of is discarded."""
        told = what == "discarded" or self.options.speculation_events
        if told:
            self.outbox.put({"type": f"echox.speculation.{what}"})
        return told

    def _handle_turn(self, event: TurnEvent) -> None:
        """Handle an event of turn detection."""
        if isinstance(event, Duck | Unduck):
            ducks = isinstance(event, Duck)
            # What was told has an end, whatever has changed since.
            if self.options.duck_events if ducks else self._told_duck:
                self._told_duck = ducks
                kind = "duck" if ducks else "unduck"
                self.outbox.put({"type": f"echox.output_audio.{kind}", "audio_ms": event.at_ms})
        elif isinstance(event, SpeechStarted):
            self._turn_item_id = new_id("item")
            self._speculator.begin_turn()
            if self.options.transcription is not None:
                self._live.begin(self._turn_item_id, event.start_ms)
            self.outbox.put(
                {
                    "type": "input_audio_buffer.speech_started",
                    "audio_start_ms": event.start_ms,
                    "item_id": self._turn_item_id,
                    **({"continues": True} if event.unnoticed else {}),
                }
            )
            settings = self.options.turn_settings
            if settings is not None and settings.interrupts:
                self.responder.interrupt(event.unnoticed)
        elif isinstance(event, SpeechStopped):
            item_id, self._turn_item_id = self._turn_item_id or new_id("item"), None
            self.outbox.put(
                {
                    "type": "input_audio_buffer.speech_stopped",
                    "audio_end_ms": event.end_ms,
                    "voice_end_ms": event.voice_end_ms,  # an extension: the silence after it varies
                    "item_id": item_id,
                }
            )
            samples = self.input_audio.take_turn(event.start_ms, event.end_ms)
            item = self._commit_audio(Audio(samples, SAMPLING_RATE), item_id, event.only_interrupts)
            if self.options.create_response and not event.only_interrupts:
                self.responder.answer_turn(item)
            else:
                self.responder.answer_waiting_turn()
            self._speculator.discard()  # unless it was taken
        else:
            self._turn_judges.ask(event)

    def _user_speaking(self) -> bool:
        """Whether the user is in the middle of a detected turn."""
        return self.input_audio.turns is not None and self.input_audio.turns.speaking

    async def _commit(self, event: JsonObject) -> None:
        if self.input_audio.pending_s < _MIN_COMMIT_S:
            raise EventError(
                f"expected at least {_MIN_COMMIT_S * 1000:.0f} ms of audio in the buffer, found "
                f"{self.input_audio.pending_s * 1000:.0f} ms",
                "input_audio_buffer_commit_empty",
            )
        self._speculator.discard()
        samples, events = self.input_audio.take_all()
        for found in events:
            self._handle_turn(found)
        item_id, self._turn_item_id = self._turn_item_id, None
        audio = Audio(samples, SAMPLING_RATE)
        speech = await self._service.contains_speech(audio)
        if self.input_audio.turns is not None and item_id is None and not speech:
            # The rest after the detected turns. Without turn detection the client decides what is a turn.
            self.responder.answer_waiting_turn()
            raise EventError(
                f"expected speech in the buffer, found {audio.duration_s * 1000:.0f} ms without any; it was cleared",
                "input_audio_buffer_commit_empty",
            )
        self._commit_audio(audio, item_id or new_id("item"))
        self.responder.answer_waiting_turn()

    def _commit_audio(self, audio: Audio, item_id: str, only_interrupts: bool = False) -> ConversationItem:
        """Add audio to the conversation as an item of the user.

        Args:
            audio: the turn.
            item_id: id of the item.
            only_interrupts: it was understood as "stop", which wants silence and belongs to no later question.
        """
        content = Content("input_audio", audio=audio, sent_text=self._live.end())
        item = ConversationItem(item_id, "user", [content], forgotten=only_interrupts)
        items = self.conversation.items
        self.outbox.put(
            {
                "type": "input_audio_buffer.committed",
                "previous_item_id": items[-1].id if items else None,
                "item_id": item_id,
                **({"interjection": "stop"} if only_interrupts else {}),  # an extension: no response will follow
            }
        )
        self._add_item(item, None)
        self._transcripts.make_later(item.id, 0)
        return item

    async def _clear(self, event: JsonObject) -> None:
        self._speculator.discard()
        for found in self.input_audio.clear():
            self._handle_turn(found)
        self._turn_item_id = None
        self._live.end()
        self.outbox.put({"type": "input_audio_buffer.cleared"})
        self.responder.answer_waiting_turn()

    async def _clear_output(self, event: JsonObject) -> None:
        if not self._transport.plays:
            raise EventError(
                "output_audio_buffer.clear is for WebRTC; over a WebSocket the client owns its playback: use "
                "response.cancel and conversation.item.truncate",
                "unsupported_event",
            )
        self.responder.silence()

    # ------------------------------------------------------------------------------------------ transcripts

    def _transcribe_live(self) -> None:
        """Transcribe what was said so far of the turn that is being spoken."""
        if self.options.transcription is None:
            return
        if self.input_audio.turns is None and self._turn_item_id is None and self.input_audio.pending_s:
            self._turn_item_id = new_id("item")  # the client marks the end of turns: all audio is one
            self._live.begin(self._turn_item_id, self.input_audio.begin_ms)
        self._live.advance()

    # ------------------------------------------------------------------------------------------ items

    async def _create_item(self, event: JsonObject) -> None:
        source = take(event, "item", OBJECT)
        audio_format, rate, limits = self.options.input_format, self._service.input_rate, self._service.limits
        # In a thread, because it may contain much audio.
        item = await asyncio.to_thread(read_item, source, "item", audio_format, rate, limits)
        await self._detect_speech([item])
        self._add_item(item, take(event, "previous_item_id", str, default=None))

    async def _detect_speech(self, items: list[ConversationItem]) -> None:
        """Search the audio of items for speech, in another thread; the results are kept in the audio."""
        for audio in (content.audio for item in items for content in item.content if content.audio is not None):
            await self._service.contains_speech(audio)

    def _add_item(self, item: ConversationItem, after: str | None) -> None:
        previous = self.conversation.add(item, after)
        shown = item.to_dict()
        self.outbox.put({"type": "conversation.item.added", "previous_item_id": previous, "item": shown})
        self.outbox.put({"type": "conversation.item.done", "previous_item_id": previous, "item": shown})
        for old in self.conversation.remove_overflow():
            self.outbox.put({"type": "conversation.item.deleted", "item_id": old.id})

    async def _delete_item(self, event: JsonObject) -> None:
        self.responder.delete(self.conversation.find(take(event, "item_id", str)))

    async def _retrieve_item(self, event: JsonObject) -> None:
        item = self.conversation.find(take(event, "item_id", str))
        shown = await asyncio.to_thread(item.to_dict, self.options.input_format)
        kind = "conversation.item.retrieved"
        self.outbox.put({"type": kind, "item": shown}, shorter={"type": kind, "item": item.to_dict()})

    async def _truncate_item(self, event: JsonObject) -> None:
        item = self.conversation.find(take(event, "item_id", str))
        take(event, "content_index", int, at_least=0, at_most=0)
        audio_end_ms = take(event, "audio_end_ms", int, at_least=0, at_most=2**31 - 1)
        if not any(part.type == "output_audio" for part in item.content[:1]):  # a call has no content while it is made
            raise EventError("item_id: expected a spoken reply, found another item", "invalid_value", "item_id")
        self.responder.truncate(item, audio_end_ms)

    # ------------------------------------------------------------------------------------------ responses

    async def _create_response(self, event: JsonObject) -> None:
        if self.options.makes_no_responses:
            message = "type: expected response.create in a session of type realtime only, found in one that transcribes"
            raise EventError(message, "unsupported_event", "type")
        source = take(event, "response", OBJECT, default={})
        own_items = None
        changed = copy.copy(self.options)
        changed.update_tools(source, "response")
        await self._service.prepare_tools(changed.tools.use, "response.tools")
        if source.get("input") is not None:
            snapshot, audio_format = self.conversation.snapshot(), self.options.input_format
            limits, rate = self._service.limits, self._service.input_rate
            own_items = await asyncio.to_thread(read_input, source, audio_format, snapshot, limits, rate)
            await self._detect_speech(own_items)
        self.responder.start(source, own_items)

    async def _cancel_response(self, event: JsonObject) -> None:
        self.responder.cancel(response_id=take(event, "response_id", str, default=None))

    def _spawn(self, work: Coroutine[object, object, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._on_finished)
        return task

    def _on_finished(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            log.error("%s: a background task failed", self.id, exc_info=task.exception())
