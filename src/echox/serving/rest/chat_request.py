"""What a chat completion asks for, checked, with its sound decoded."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

from echox.serving.protocol.conversation import Content, Item, tool_call_text
from echox.serving.protocol.events import EventError, new_id, short, take
from echox.serving.protocol.json_input import aside
from echox.serving.protocol.options import check_tools, sampling, voice
from echox.serving.protocol.parameters import CHAT, STREAM_OPTIONS
from echox.serving.protocol.wire import AudioFormat, decode_base64
from echox.serving.rest.common import decode
from echox.serving.rest.encoders import CONTENT_TYPES, STREAMED, encode
from echox.serving.service.service import Service
from echox.serving.service.stop_strings import read_stop
from echox.streaming.messages import Audio

ROLES = ("system", "developer", "user", "assistant", "tool", "function")


@dataclass
class ChatRequest:
    """A request, checked.

    Attributes:
        items: the messages. settings: of the model. stops: strings before which the text ends.
        speaks: whether the reply is spoken, in the format `audio_kind`.
        streams: whether it comes as it is made; `includes_usage`: with a last chunk that counts tokens.
    """

    items: list[Item]
    settings: dict[str, Any]
    stops: tuple[str, ...]
    speaks: bool
    audio_kind: str
    streams: bool
    includes_usage: bool


async def read_chat(service: Service, body: dict[str, Any]) -> ChatRequest:
    """Check a request and decode its sound.

    Raises:
        EventError: a value that is missing, wrong or not supported. ValueError: audio that cannot be decoded.
    """
    take(body, "model", str, default=service.name)  # any name: there is one model
    CHAT.check(body)
    _check_functions(body)
    check_tools(body)
    wanted = take(body, "modalities", list, default=["text"])
    if not wanted or any(item not in ("text", "audio") for item in wanted):
        message = f"modalities: expected 'text' and 'audio', found {short(wanted)}"
        raise EventError(message, "invalid_value", "modalities")
    speaks, streams = "audio" in wanted, take(body, "stream", bool, default=False)
    kind = _audio_kind(body, streams)
    stops = read_stop(body.get("stop"))
    if speaks and stops:
        raise EventError("stop: expected none with spoken replies, found some", "unsupported_value", "stop")
    stream_options = take(body, "stream_options", dict, default={})
    STREAM_OPTIONS.check(stream_options, "stream_options")
    if stream_options and not streams:
        message = "stream_options: expected with stream true only, found without"
        raise EventError(message, "invalid_value", "stream_options")
    settings: dict[str, Any] = {**sampling(body), "speak": speaks}
    bounds = [service.limits.max_output_tokens, service.model.settings.max_new_tokens]
    bounds += [take(body, name, int, default=None, at_least=1) for name in ("max_tokens", "max_completion_tokens")]
    settings["max_new_tokens"] = min(bound for bound in bounds if bound is not None)
    includes_usage = take(stream_options, "include_usage", bool, "stream_options", False)
    items = await _read_messages(service, take(body, "messages", list))
    return ChatRequest(items, settings, stops, speaks, kind, streams, includes_usage)


def _check_functions(body: dict[str, Any]) -> None:
    """``functions`` and ``function_call`` are the older names of tools and their choice."""
    call = body.get("function_call")
    choice = {"type": "function", **call} if isinstance(call, dict) else call
    older = {"tools": take(body, "functions", list, default=None), "tool_choice": choice}
    try:
        check_tools(older)
    except EventError as error:
        param = "function_call" if error.param == "tool_choice" else "functions"
        raise EventError(str(error).replace(str(error.param), param, 1), error.code, param) from error


def _audio_kind(body: dict[str, Any], streams: bool) -> str:
    audio = take(body, "audio", dict, default={})
    voice(audio, "audio", None)
    kind = str(take(audio, "format", str, "audio", "pcm16" if streams else "wav", tuple(CONTENT_TYPES)))
    if streams and "audio" in (body.get("modalities") or ()) and kind not in STREAMED:
        message = f"audio.format: expected one of {', '.join(STREAMED)} when streaming, found {kind}"
        raise EventError(message, "unsupported_value", "audio.format")
    return kind


# ---------------------------------------------------------------------------------------------- messages


async def _read_messages(service: Service, messages: list[Any]) -> list[Item]:
    if not 0 < len(messages) <= service.limits.max_items:
        message = f"messages: expected 1 to {service.limits.max_items}, found {len(messages)}"
        raise EventError(message, "invalid_value", "messages")
    items, room_s = [], service.limits.max_upload_s
    for index, source in enumerate(messages):
        item = await _read_message(service, source, f"messages[{index}]", room_s)
        room_s -= item.sound_s
        items.append(item)
    return items


async def _read_message(service: Service, source: Any, where: str, room_s: float) -> Item:
    if not isinstance(source, dict):
        raise EventError(f"{where}: expected an object", "invalid_type", where)
    role = take(source, "role", str, where, choices=ROLES)
    # The model knows three roles: what a tool gave back is told to it as the user's words.
    role = {"developer": "system", "tool": "user", "function": "user"}.get(role, role)
    content = take(source, "content", (str, list), where, None)
    found: list[Content] = []
    if role == "assistant":
        found += _said(service, source, where, content)
    elif content is None:
        raise EventError(f"{where}.content: expected a value, found none", "missing_required_parameter", where)
    parts = [{"type": "text", "text": content}] if isinstance(content, str) else content or []
    for index, part in enumerate(parts):
        found.append(await _read_part(service, part, source["role"], f"{where}.content[{index}]", room_s))
        room_s -= found[-1].sound_s
    return Item(new_id("item"), role, found)


def _said(service: Service, source: dict[str, Any], where: str, content: str | list[Any] | None) -> list[Content]:
    """What an assistant message holds besides its content: earlier speech, a refusal, calls of tools.

    Raises:
        EventError: nothing at all, or something malformed.
    """
    texts: list[str] = []
    spoken = take(source, "audio", dict, where, None)
    if spoken is not None and content is None:
        texts.append(service.spoken_replies.find(take(spoken, "id", str, f"{where}.audio"), f"{where}.audio.id"))
    num_spoken = len(texts)  # written by this server: its length is bounded already
    refusal = take(source, "refusal", str, where, None)
    if refusal is not None:
        texts.append(refusal)
    calls = take(source, "tool_calls", list, where, [])
    if len(calls) > service.limits.max_items:
        message = f"{where}.tool_calls: expected at most {service.limits.max_items}, found {len(calls)}"
        raise EventError(message, "invalid_value", f"{where}.tool_calls")
    for index, call in enumerate(calls):
        place = f"{where}.tool_calls[{index}]"
        if not isinstance(call, dict):
            raise EventError(f"{place}: expected an object", "invalid_type", place)
        texts.append(_call_text(call, place))
    older = take(source, "function_call", dict, where, None)
    if older is not None:
        texts.append(_call_text({"function": older}, where))
    num_chars, most = sum(len(text) for text in texts[num_spoken:]), service.limits.max_text_chars
    if num_chars > most:
        message = f"{where}: expected at most {most} characters in refusal and calls, found {num_chars}"
        raise EventError(message, "string_too_long", where)
    if not texts and content is None:
        message = f"{where}: expected content, audio, refusal or tool_calls, found none of them"
        raise EventError(message, "missing_required_parameter", where)
    return [Content("output_text", text) for text in texts]


def _call_text(call: dict[str, Any], where: str) -> str:
    if call.get("custom") is not None:
        custom = take(call, "custom", dict, where)
        name, given = take(custom, "name", str, where), take(custom, "input", str, where, "")
    else:
        function = take(call, "function", dict, where)
        name, given = take(function, "name", str, where), take(function, "arguments", str, where, "")
    return tool_call_text(name, given)


_PARTS = {"user": ("text", "input_audio"), "assistant": ("text", "refusal")}


async def _read_part(service: Service, part: Any, role: str, where: str, room_s: float) -> Content:
    if not isinstance(part, dict):
        raise EventError(f"{where}: expected an object", "invalid_type", where)
    kind = take(part, "type", str, where, choices=_PARTS.get(role, ("text",)))
    if kind != "input_audio":
        text = take(part, kind, str, where)
        if len(text) > service.limits.max_text_chars:
            most = service.limits.max_text_chars
            message = f"{where}.text: expected at most {most} characters, found {len(text)}"
            raise EventError(message, "string_too_long", where)
        return Content("input_text", text)
    sound = take(part, "input_audio", dict, where)
    written = take(sound, "data", str, f"{where}.input_audio")
    try:
        data = await aside(decode_base64, written)
    except ValueError as error:
        raise EventError(f"{where}.input_audio.data: {error}", "invalid_value", f"{where}.input_audio.data") from error
    if take(sound, "format", str, f"{where}.input_audio", None) == "pcm16":
        samples = AudioFormat().decode(data[: len(data) // 2 * 2])
        data = await asyncio.to_thread(encode, samples, AudioFormat().rate, "wav")
    audio = Audio(await decode(service, data, max(room_s, 0.0)), service.input_rate)
    if not await service.holds_speech(audio):
        raise EventError(f"{where}: expected speech, found only silence or noise", "not_answerable", where)
    return Content("input_audio", audio=audio)
