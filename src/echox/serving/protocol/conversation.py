"""A realtime conversation: its items as clients see them, and as the model reads them."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from echox.audio import resample
from echox.serving.protocol.events import MAX_ID_CHARS, EventError, new_id, short, take
from echox.serving.protocol.limits import Limits
from echox.serving.protocol.options import text_within
from echox.serving.protocol.wire import AudioFormat, WireReader, decode_base64
from echox.streaming.events import Mark, heard_text
from echox.streaming.messages import Audio, Message, Part

# content type -> roles it may come with
_CONTENT_ROLES = {
    "input_text": ("user", "system"),
    "input_audio": ("user",),
    "output_text": ("assistant",),
    "output_audio": ("assistant",),
    "text": ("user", "system", "assistant"),  # as the beta protocol wrote it
    "audio": ("assistant",),
}
_MAX_PARTS = 64


@dataclass
class Content:
    """One part of an item.

    Attributes:
        type: as the protocol names it. text: of a text part; of an audio part its transcript, once it is known.
        audio: a question's sound. dumb: nothing could be heard in it, so that the model is spared it.
    """

    type: str
    text: str | None = None
    audio: Audio | None = None
    dumb: bool = False

    @property
    def audible(self) -> bool:
        """Whether it is sound in which, as far as is known, something can be heard."""
        return self.audio is not None and not self.dumb and not self.audio.known_without_speech

    @property
    def sound_s(self) -> float:
        """Length of its sound."""
        return 0.0 if self.audio is None else self.audio.duration_s

    def to_dict(self, audio_format: AudioFormat | None = None) -> dict[str, Any]:
        """As the protocol writes it; the sound only where a format for it is given."""
        if self.type not in ("input_audio", "output_audio"):
            return {"type": self.type, "text": self.text or ""}
        # Present though it is null: the schemas of @openai/agents want it so in sound that was not written down yet.
        found: dict[str, Any] = {"type": self.type, "transcript": self.text}
        if self.audio is not None and audio_format is not None:
            samples = resample(self.audio.waveform, self.audio.sampling_rate, audio_format.rate)
            found["audio"] = base64.b64encode(audio_format.encode(samples)).decode("ascii")
        return found


@dataclass(frozen=True)
class Spoken:
    """The whole text of a spoken reply, and when which part of it is heard."""

    text: str
    timeline: tuple[Mark, ...]

    def heard_text(self, audio_s: float) -> str:
        """What of the text was heard after so many seconds of the speech."""
        return heard_text(self.text, self.timeline, audio_s)


@dataclass
class Item:
    """A message of the conversation, a call of a tool, or what a tool gave back.

    Attributes:
        call: of a call or its output: what the protocol shows of it besides id and status, with its ``type``.
        spoken: of a spoken reply, for cutting it to what was heard.
        forgotten: the model's memory had no room for it any more.
    """

    id: str
    role: str
    content: list[Content]
    status: str = "completed"
    spoken: Spoken | None = None
    forgotten: bool = False
    call: dict[str, str] | None = None

    def to_dict(self, audio_format: AudioFormat | None = None) -> dict[str, Any]:
        """As the protocol writes it."""
        if self.call is not None:
            return {"id": self.id, "object": "realtime.item", "status": self.status, **self.call}
        return {
            "id": self.id,
            "object": "realtime.item",
            "type": "message",
            "status": self.status,
            "role": self.role,
            "content": [part.to_dict(audio_format) for part in self.content],
        }

    @property
    def sound_s(self) -> float:
        """Length of its sound."""
        return sum(part.sound_s for part in self.content)

    @property
    def num_chars(self) -> int:
        """Length of its text."""
        return sum(len(part.text or "") for part in self.content)

    @property
    def model_parts(self) -> tuple[Part, ...]:
        """What the model reads of it."""
        parts: list[Part] = []
        for part in self.content:
            if part.audio is not None and part.audible:
                parts.append(part.audio)
            elif part.audio is None and part.text and part.text.strip():
                parts.append(part.text)
        return tuple(parts)


class Conversation:
    """Items in order.

    Args:
        limits: how many, how long.
    """

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self.items: list[Item] = []

    def snapshot(self) -> Conversation:
        """The same items in a list of their own, for another thread."""
        found = Conversation(self._limits)
        found.items = list(self.items)
        return found

    def find(self, item_id: str, param: str = "item_id") -> Item:
        """An item by its id.

        Raises:
            EventError: there is none.
        """
        for item in self.items:
            if item.id == item_id:
                return item
        message = f"{param}: expected an item of this conversation, found {short(item_id)}"
        raise EventError(message, "item_not_found", param)

    def add(self, item: Item, previous_item_id: str | None = None) -> str | None:
        """Put an item after another ("root": at the start; None: at the end); return the id of the one before it.

        Raises:
            EventError: its id is taken, or there is no such other item.
        """
        if any(other.id == item.id for other in self.items):
            raise EventError(f"item.id: expected a new id, found {short(item.id)} again", "item_id_taken", "item.id")
        place = len(self.items)
        if previous_item_id == "root":
            place = 0
        elif previous_item_id is not None:
            place = self.items.index(self.find(previous_item_id, "previous_item_id")) + 1
        self.items.insert(place, item)
        return self.items[place - 1].id if place else None

    def remove(self, item: Item) -> None:
        """Take an item out."""
        self.items.remove(item)

    def overflow(self) -> list[Item]:
        """The oldest items, where there are more than may be kept; they are taken out."""
        many = max(0, len(self.items) - self._limits.max_items)
        sound_s = sum(item.sound_s for item in self.items[many:])
        chars = sum(item.num_chars for item in self.items[many:])
        while many < len(self.items) - 1 and (
            sound_s > self._limits.max_history_s or chars > self._limits.max_history_chars
        ):
            sound_s -= self.items[many].sound_s
            chars -= self.items[many].num_chars
            many += 1
        gone, self.items = self.items[:many], self.items[many:]
        return gone

    def last_of(self, item_ids: Sequence[str]) -> str:
        """The last of these items that is still there; "root" if none is: where what answers them belongs."""
        known = {item.id for item in self.items}
        return next((item_id for item_id in reversed(item_ids) if item_id in known), "root")

    def previous_id(self, item: Item) -> str | None:
        """The id of the item before this one."""
        place = self.items.index(item)
        return self.items[place - 1].id if place else None

    def system(self, instructions: str) -> str | None:
        """Instructions and system items as one system prompt (models are taught one, at the start)."""
        texts = [instructions, *(part for item in self.items if item.role == "system" for part in item.model_parts)]
        return "\n".join(text for text in texts if isinstance(text, str) and text.strip()) or None


def turns_of(items: list[Item]) -> list[list[Item]]:
    """Items as turns: neighbours of one role are one turn; what is empty or forgotten is left out."""
    turns: list[list[Item]] = []
    for item in items:
        if item.role == "system" or item.forgotten or not item.model_parts:
            continue
        if turns and turns[-1][0].role == item.role:
            turns[-1].append(item)
        else:
            turns.append([item])
    return turns


def model_messages(turns: list[list[Item]]) -> list[Message]:
    """Turns as the model reads them."""
    messages = []
    for turn in turns:
        parts: list[Part] = []
        for item in turn:
            if parts and isinstance(parts[-1], str) and isinstance(item.model_parts[0], str):
                parts.append("\n")
            parts.extend(item.model_parts)
        messages.append(Message(turn[0].role, tuple(parts)))
    return messages


def read_item(source: Any, where: str, audio_format: AudioFormat, to_rate: int, limits: Limits) -> Item:
    """Check an item that a client writes.

    Args:
        source: the JSON object.
        where: its place, for messages.
        audio_format: of its sound.
        to_rate: of the model, Hz.
        limits: of texts and sound.

    Raises:
        EventError: an unknown kind of item, a part that does not belong to its role, bad audio, or too much of it.
    """
    if not isinstance(source, dict):
        raise EventError(f"{where}: expected an object", "invalid_type", where)
    kind = take(source, "type", str, where, "message")
    if kind not in ("message", "function_call", "function_call_output"):
        message = f"{where}.type: expected message, function_call or function_call_output, found {short(kind)}"
        raise EventError(message, "unsupported_item_type", f"{where}.type")
    item_id = take(source, "id", str, where, None)
    if item_id is not None and not 0 < len(item_id) <= MAX_ID_CHARS:
        raise EventError(f"{where}.id: expected 1 to {MAX_ID_CHARS} characters", "invalid_value", f"{where}.id")
    item_id = item_id or new_id("item")
    if kind == "function_call":
        name, arguments = (text_within(source, one, where, limits.max_text_chars) for one in ("name", "arguments"))
        call_id = take(source, "call_id", str, where, new_id("call"))[:MAX_ID_CHARS]
        call = {"type": kind, "call_id": call_id, "name": name, "arguments": arguments}
        return Item(item_id, "assistant", [Content("output_text", tool_call_text(name, arguments))], call=call)
    if kind == "function_call_output":
        call_id = take(source, "call_id", str, where)[:MAX_ID_CHARS]
        output = text_within(source, "output", where, limits.max_text_chars)
        call = {"type": kind, "call_id": call_id, "output": output}
        return Item(item_id, "user", [Content("input_text", output)], call=call)
    role = take(source, "role", str, where, choices=("user", "assistant", "system"))
    parts = take(source, "content", list, where)
    if not parts or len(parts) > _MAX_PARTS:
        message = f"{where}.content: expected 1 to {_MAX_PARTS} parts, found {len(parts)}"
        raise EventError(message, "invalid_value", f"{where}.content")
    content: list[Content] = []
    for index, part in enumerate(parts):
        place = f"{where}.content[{index}]"
        content.append(_read_content(part, place, role, audio_format, to_rate, limits))
        if sum(len(one.text or "") for one in content) > limits.max_text_chars:
            message = f"{place}: expected at most {limits.max_text_chars} characters in all parts, found more"
            raise EventError(message, "string_too_long", place)
        if sum(one.sound_s for one in content) > limits.max_buffer_s:
            message = f"{place}: expected at most {limits.max_buffer_s:g} s of audio in all parts, found more"
            raise EventError(message, "audio_too_long", place)
    return Item(item_id, role, content)


def tool_call_text(name: str, arguments: str) -> str:
    """A call of a tool in a conversation, as the model reads it: it knows texts only."""
    return f"{name}({arguments})"


def _read_content(part: Any, where: str, role: str, audio_format: AudioFormat, to_rate: int, limits: Limits) -> Content:
    if not isinstance(part, dict):
        raise EventError(f"{where}: expected an object", "invalid_type", where)
    kind = take(part, "type", str, where)
    if role not in _CONTENT_ROLES.get(kind, ()):
        allowed = [name for name, roles in _CONTENT_ROLES.items() if role in roles]
        message = f"{where}.type: expected one of {', '.join(allowed)} for role {role}, found {short(kind)}"
        raise EventError(message, "unsupported_content", f"{where}.type")
    name = "transcript" if kind in ("input_audio", "output_audio", "audio") else "text"
    text = take(part, name, str, where, None if name == "transcript" else "")
    if text is not None and len(text) > limits.max_text_chars:
        message = f"{where}.{name}: expected at most {limits.max_text_chars} characters, found {len(text)}"
        raise EventError(message, "string_too_long", f"{where}.{name}")
    kind = {"audio": "output_audio", "text": "output_text" if role == "assistant" else "input_text"}.get(kind, kind)
    if kind != "input_audio":
        return Content(kind, text)
    written = take(part, "audio", str, where)
    try:
        data = decode_base64(written)
    except ValueError as error:
        raise EventError(f"{where}.audio: {error}", "invalid_value", f"{where}.audio") from error
    return Content(kind, text, read_sound(data, f"{where}.audio", audio_format, to_rate, limits))


def read_sound(data: bytes, where: str, audio_format: AudioFormat, to_rate: int, limits: Limits) -> Audio:
    """Whole audio that came in one piece.

    Raises:
        EventError: none, half a sample too much, or too long.
    """
    if not data or len(data) % audio_format.sample_bytes:
        message = f"{where}: expected whole samples of {audio_format.sample_bytes} bytes, found {len(data)} bytes"
        raise EventError(message, "invalid_value", where)
    duration_s = len(data) / audio_format.sample_bytes / audio_format.rate
    if duration_s > limits.max_buffer_s:
        message = f"{where}: expected at most {limits.max_buffer_s:g} s, found {duration_s:.1f} s"
        raise EventError(message, "audio_too_long", where)
    reader = WireReader(audio_format, to_rate)
    return Audio(np.concatenate([reader.read(data), reader.flush()]), to_rate)
