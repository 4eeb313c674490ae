"""Items of a realtime conversation: read from clients, sent to clients, and converted to messages for the model."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypedDict

import numpy as np

from echox.audio import resample
from echox.serving.protocol.events import ARRAY, MAX_ID_CHARS, EventError, new_id, shorten, take
from echox.serving.protocol.json_input import parse_json
from echox.serving.protocol.limits import Limits
from echox.serving.protocol.options import read_text
from echox.serving.protocol.wire import AudioFormat, WireReader, decode_base64
from echox.streaming.events import Mark, heard_text
from echox.streaming.prompt.messages import Audio, Message, Part
from echox.tool_calls.tools import ToolCall

# content type -> roles that may have it
_CONTENT_ROLES = {
    "input_text": ("user", "system"),
    "input_audio": ("user",),
    "output_text": ("assistant",),
    "output_audio": ("assistant",),
    "text": ("user", "system", "assistant"),  # name in the beta protocol
    "audio": ("assistant",),
}
MAX_CONTENT_PARTS = 64


class ContentObject(TypedDict, total=False):
    """A part of an item in JSON."""

    type: str
    text: str
    transcript: str | None
    audio: str


class ItemObject(TypedDict, total=False):
    """An item in JSON: a message, a tool call, or the output of one."""

    id: str
    object: str
    type: str
    status: str
    role: str
    content: list[ContentObject]
    call_id: str
    name: str
    arguments: str
    output: str


@dataclass
class Content:
    """One part of an item.

    Attributes:
        type: content type of the protocol.
        text: the text; for audio its transcript, once it is known.
        audio: the audio of a question.
        inaudible: no speech was recognised in the audio, so the model does not get it.
        sent_text: the part of the transcript that was sent while it was spoken.
    """

    type: str
    text: str | None = None
    audio: Audio | None = None
    inaudible: bool = False
    sent_text: str = ""

    @property
    def audible(self) -> bool:
        """Whether it is audio that contains speech, as far as is known."""
        return self.audio is not None and not self.inaudible and not self.audio.known_without_speech

    @property
    def audio_s(self) -> float:
        """Length of its audio."""
        return 0.0 if self.audio is None else self.audio.duration_s

    def to_dict(self, audio_format: AudioFormat | None = None) -> ContentObject:
        """The JSON object; with the audio only if a format for it is given."""
        if self.type not in ("input_audio", "output_audio"):
            return {"type": self.type, "text": self.text or ""}
        # Present even if it is null: the schemas of @openai/agents require it in audio without a transcript.
        found: ContentObject = {"type": self.type, "transcript": self.text}
        if self.audio is not None and audio_format is not None:
            samples = resample(self.audio.waveform, self.audio.sampling_rate, audio_format.rate)
            found["audio"] = base64.b64encode(audio_format.encode(samples)).decode("ascii")
        return found


@dataclass(frozen=True)
class SpokenText:
    """The whole text of a spoken reply, and the time at which each part of it is spoken."""

    text: str
    timeline: tuple[Mark, ...]

    def heard_text(self, audio_s: float) -> str:
        """The part of the text that was spoken in the first seconds of the speech."""
        return heard_text(self.text, self.timeline, audio_s)


@dataclass
class ConversationItem:
    """A message of the conversation, a tool call, or the output of a tool call.

    Attributes:
        id: id in the protocol.
        role: "user", "assistant" or "system".
        content: parts of the item.
        status: "in_progress", "completed" or "incomplete".
        spoken: text and times of a spoken reply, used to cut the text to what was heard.
        forgotten: the model no longer reads it, because its memory is full or because it cannot read it.
        call: fields of a tool call, or of its output, besides id and status.
    """

    id: str
    role: str
    content: list[Content]
    status: str = "completed"
    spoken: SpokenText | None = None
    forgotten: bool = False
    call: ItemObject | None = None

    def to_dict(self, audio_format: AudioFormat | None = None) -> ItemObject:
        """The JSON object; with the audio only if a format for it is given."""
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
    def audio_s(self) -> float:
        """Length of its audio."""
        return sum(part.audio_s for part in self.content)

    @property
    def num_chars(self) -> int:
        """Length of its text."""
        return sum(len(part.text or "") for part in self.content)

    @property
    def tool_call(self) -> ToolCall | None:
        """The tool call that this item is, if its arguments are a JSON object."""
        call = self.call
        if call is None or call["type"] != "function_call":
            return None
        try:
            is_object = isinstance(parse_json(call["arguments"]), dict)
        except ValueError:
            return None
        return ToolCall(call["name"], call["arguments"]) if is_object else None

    @property
    def is_tool_output(self) -> bool:
        """Whether this is the output of a tool."""
        return self.call is not None and self.call["type"] == "function_call_output"

    @property
    def model_parts(self) -> tuple[Part, ...]:
        """The parts of the item that the model reads."""
        parts: list[Part] = []
        for part in self.content:
            if part.audio is not None and part.audible:
                parts.append(part.audio)
            elif part.audio is None and part.text and part.text.strip():
                parts.append(part.text)
        return tuple(parts)

    @property
    def model_text(self) -> str:
        """The text in it that the model reads."""
        return "".join(part for part in self.model_parts if isinstance(part, str))


class Conversation:
    """The items of a conversation, in order.

    Args:
        limits: limits of the server.
    """

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self.items: list[ConversationItem] = []

    def snapshot(self) -> Conversation:
        """A copy with its own list of the same items, for another thread."""
        copied = Conversation(self._limits)
        copied.items = list(self.items)
        return copied

    def find(self, item_id: str, param: str = "item_id") -> ConversationItem:
        """Find an item by its id.

        Raises:
            EventError: there is no such item.
        """
        for item in self.items:
            if item.id == item_id:
                return item
        message = f"{param}: expected an item of this conversation, found {shorten(item_id)}"
        raise EventError(message, "item_not_found", param)

    def add(self, item: ConversationItem, previous_item_id: str | None = None) -> str | None:
        """Insert an item.

        Args:
            item: the new item.
            previous_item_id: insert it after this item; "root": at the start; None: at the end.

        Returns:
            The id of the item before it.

        Raises:
            EventError: its id is in use already, or there is no such previous item.
        """
        if any(other.id == item.id for other in self.items):
            raise EventError(f"item.id: expected a new id, found {shorten(item.id)} again", "item_id_taken", "item.id")
        place = len(self.items)
        if previous_item_id == "root":
            place = 0
        elif previous_item_id is not None:
            place = self.items.index(self.find(previous_item_id, "previous_item_id")) + 1
        self.items.insert(place, item)
        return self.items[place - 1].id if place else None

    def remove(self, item: ConversationItem) -> None:
        """Remove an item."""
        self.items.remove(item)

    def remove_overflow(self) -> list[ConversationItem]:
        """Remove the oldest items if there are more than the limits allow; return them."""
        count = max(0, len(self.items) - self._limits.max_items)
        audio_s = sum(item.audio_s for item in self.items[count:])
        num_chars = sum(item.num_chars for item in self.items[count:])
        while count < len(self.items) - 1 and (
            audio_s > self._limits.max_history_s or num_chars > self._limits.max_history_chars
        ):
            audio_s -= self.items[count].audio_s
            num_chars -= self.items[count].num_chars
            count += 1
        removed, self.items = self.items[:count], self.items[count:]
        return removed

    def last_present(self, item_ids: Sequence[str]) -> str:
        """The id of the last of these items that still exists, or "root". A reply to them belongs after it."""
        known = {item.id for item in self.items}
        return next((item_id for item_id in reversed(item_ids) if item_id in known), "root")

    def previous_id(self, item: ConversationItem) -> str | None:
        """The id of the item before this one."""
        place = self.items.index(item)
        return self.items[place - 1].id if place else None


def check_together(items: Sequence[ConversationItem], where: str, limits: Limits) -> None:
    """Check what all items of a request hold together; `where` is the place of the newest.

    Raises:
        EventError: too much audio, or too many parts.
    """
    if sum(item.audio_s for item in items) > limits.max_history_s:
        message = f"{where}: expected at most {limits.max_history_s:g} s of audio in all items, found more"
        raise EventError(message, "audio_too_long", where)
    if sum(len(item.content) for item in items) > limits.max_parts:
        message = f"{where}: expected at most {limits.max_parts} parts in all items, found more"
        raise EventError(message, "invalid_value", where)


def turns_of(items: list[ConversationItem], calls_tools: bool = False) -> list[list[ConversationItem]]:
    """Group items into turns: neighbours with the same role are one turn. Empty and forgotten items are left out.

    Args:
        items: of a conversation.
        calls_tools: the model reads calls and outputs of tools as such, each output as a turn; else as text.
    """
    turns: list[list[ConversationItem]] = []
    for item in items:
        is_output = calls_tools and item.is_tool_output
        if item.role == "system" or item.forgotten or not (item.model_parts or is_output):
            continue
        after_output = bool(turns) and calls_tools and turns[-1][0].is_tool_output
        if turns and not is_output and not after_output and turns[-1][0].role == item.role:
            turns[-1].append(item)
        else:
            turns.append([item])
    return turns


def system_prompt(instructions: str, items: Sequence[ConversationItem]) -> str | None:
    """Instructions and system items as one system prompt (models are trained with one, at the start)."""
    texts = [instructions, *(part for item in items if item.role == "system" for part in item.model_parts)]
    return "\n".join(text for text in texts if isinstance(text, str) and text.strip()) or None


def model_messages(turns: list[list[ConversationItem]], calls_tools: bool = False) -> list[Message]:
    """Convert turns to messages for the model; `calls_tools` as in `turns_of`."""
    messages = []
    for turn in turns:
        if calls_tools and turn[0].is_tool_output:
            messages.append(Message("tool", turn[0].model_parts or ("",)))
            continue
        parts: list[Part] = []
        calls = [item.tool_call if calls_tools else None for item in turn]
        for item in (item for item, call in zip(turn, calls, strict=True) if call is None):
            if parts and isinstance(parts[-1], str) and isinstance(item.model_parts[0], str):
                parts.append("\n")
            parts.extend(item.model_parts)
        messages.append(Message(turn[0].role, tuple(parts), tuple(call for call in calls if call is not None)))
    return messages


def read_item(source: object, where: str, audio_format: AudioFormat, to_rate: int, limits: Limits) -> ConversationItem:
    """Read an item from a client.

    Args:
        source: the JSON object.
        where: its place in the message, for errors.
        audio_format: format of its audio.
        to_rate: sampling rate of the model, Hz.
        limits: limits of text and audio.

    Raises:
        EventError: an unknown type of item, a part that its role may not have, malformed audio, or too much of it.
    """
    if not isinstance(source, dict):
        raise EventError(f"{where}: expected an object", "invalid_type", where)
    kind = take(source, "type", str, where, default="message")
    if kind not in ("message", "function_call", "function_call_output"):
        message = f"{where}.type: expected message, function_call or function_call_output, found {shorten(kind)}"
        raise EventError(message, "unsupported_item_type", f"{where}.type")
    item_id = take(source, "id", str, where, default=None)
    if item_id is not None and not 0 < len(item_id) <= MAX_ID_CHARS:
        raise EventError(f"{where}.id: expected 1 to {MAX_ID_CHARS} characters", "invalid_value", f"{where}.id")
    item_id = item_id or new_id("item")
    if kind == "function_call":
        name, arguments = (read_text(source, one, where, limits.max_text_chars) for one in ("name", "arguments"))
        call_id = take(source, "call_id", str, where, default=new_id("call"))[:MAX_ID_CHARS]
        call: ItemObject = {"type": kind, "call_id": call_id, "name": name, "arguments": arguments}
        return ConversationItem(
            item_id, "assistant", [Content("output_text", tool_call_text(name, arguments))], call=call
        )
    if kind == "function_call_output":
        call_id = take(source, "call_id", str, where)[:MAX_ID_CHARS]
        output = read_text(source, "output", where, limits.max_text_chars)
        call = {"type": kind, "call_id": call_id, "output": output}
        return ConversationItem(item_id, "user", [Content("input_text", output)], call=call)
    role = take(source, "role", str, where, choices=("user", "assistant", "system"))
    parts = take(source, "content", ARRAY, where)
    if not parts or len(parts) > MAX_CONTENT_PARTS:
        message = f"{where}.content: expected 1 to {MAX_CONTENT_PARTS} parts, found {len(parts)}"
        raise EventError(message, "invalid_value", f"{where}.content")
    content = []
    for index, part in enumerate(parts):
        place = f"{where}.content[{index}]"
        content.append(_read_content(part, place, role, audio_format, to_rate, limits))
        if sum(len(one.text or "") for one in content) > limits.max_text_chars:
            message = f"{place}: expected at most {limits.max_text_chars} characters in all parts, found more"
            raise EventError(message, "string_too_long", place)
        if sum(one.audio_s for one in content) > limits.max_buffer_s:
            message = f"{place}: expected at most {limits.max_buffer_s:g} s of audio in all parts, found more"
            raise EventError(message, "audio_too_long", place)
    return ConversationItem(item_id, role, content)


def tool_call_text(name: str, arguments: str) -> str:
    """A tool call as text, because the model reads text only."""
    return f"{name}({arguments})"


def _read_content(
    part: object, where: str, role: str, audio_format: AudioFormat, to_rate: int, limits: Limits
) -> Content:
    if not isinstance(part, dict):
        raise EventError(f"{where}: expected an object", "invalid_type", where)
    kind = take(part, "type", str, where)
    if role not in _CONTENT_ROLES.get(kind, ()):
        allowed = [name for name, roles in _CONTENT_ROLES.items() if role in roles]
        message = f"{where}.type: expected one of {', '.join(allowed)} for role {role}, found {shorten(kind)}"
        raise EventError(message, "unsupported_content", f"{where}.type")
    name = "transcript" if kind in ("input_audio", "output_audio", "audio") else "text"
    text = None if name == "transcript" else ""
    if part.get(name) is not None:
        text = read_text(part, name, where, limits.max_text_chars)
    kind = {"audio": "output_audio", "text": "output_text" if role == "assistant" else "input_text"}.get(kind, kind)
    if kind != "input_audio":
        return Content(kind, text)
    encoded = take(part, "audio", str, where)
    try:
        data = decode_base64(encoded)
    except ValueError as error:
        raise EventError(f"{where}.audio: {error}", "invalid_value", f"{where}.audio") from error
    return Content(kind, text, read_audio(data, f"{where}.audio", audio_format, to_rate, limits))


def read_audio(data: bytes, where: str, audio_format: AudioFormat, to_rate: int, limits: Limits) -> Audio:
    """Read a whole recording from bytes.

    Raises:
        EventError: no bytes, an incomplete sample, or too long.
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
