"""Requests of chat completions: read, checked, and their audio decoded."""

from __future__ import annotations

from dataclasses import dataclass

from echox.serving.protocol.conversation import Content, ConversationItem, ItemObject, tool_call_text
from echox.serving.protocol.events import ARRAY, OBJECT, EventError, new_id, shorten, take
from echox.serving.protocol.json_input import JsonObject
from echox.serving.protocol.options import NewReplySettings, read_sampling, read_text, read_voice
from echox.serving.protocol.parameters import CHAT, STREAM_OPTIONS
from echox.serving.protocol.tool_options import check_tools
from echox.serving.rest.answering import read_recording, read_tool_options
from echox.serving.rest.encoders import CONTENT_TYPES, STREAMED
from echox.serving.service.service import Service
from echox.serving.service.stop_strings import read_stop
from echox.tool_calls.tools import ToolUse

ROLES = ("system", "developer", "user", "assistant", "tool", "function")


@dataclass
class ChatRequest:
    """A checked request.

    Attributes:
        items: the messages.
        settings: generation settings of the reply.
        stops: stop strings; the text ends before the first of them.
        speaks: whether the reply is spoken.
        audio_kind: audio format of a spoken reply.
        streams: whether the reply is streamed.
        includes_usage: whether the stream ends with a chunk that has the numbers of tokens.
        tools: that the reply may call.
    """

    items: list[ConversationItem]
    settings: NewReplySettings
    stops: tuple[str, ...]
    speaks: bool
    audio_kind: str
    streams: bool
    includes_usage: bool
    tools: ToolUse


async def read_chat(service: Service, body: JsonObject) -> ChatRequest:
    """Check a request and decode its audio.

    Raises:
        EventError: a value is missing, malformed or not supported.
        ValueError: audio that cannot be decoded.
    """
    take(body, "model", str, default=service.name)  # any name is accepted: there is only one model
    CHAT.check(body)
    _check_functions(body)
    tools = (await read_tool_options(service, body)).use
    wanted = take(body, "modalities", ARRAY, default=["text"])
    if not wanted or any(item not in ("text", "audio") for item in wanted):
        message = f"modalities: expected 'text' and 'audio', found {shorten(wanted)}"
        raise EventError(message, "invalid_value", "modalities")
    speaks, streams = "audio" in wanted, take(body, "stream", bool, default=False)
    kind = _audio_kind(body, streams, speaks)
    stops = read_stop(body.get("stop"))
    if speaks and stops:
        raise EventError("stop: expected none with spoken replies, found some", "unsupported_value", "stop")
    stream_options = take(body, "stream_options", OBJECT, default={})
    STREAM_OPTIONS.check(stream_options, "stream_options")
    if stream_options and not streams:
        message = "stream_options: expected with stream true only, found without"
        raise EventError(message, "invalid_value", "stream_options")
    settings: NewReplySettings = {**read_sampling(body), "speak": speaks}
    bounds = [service.limits.max_output_tokens, service.model.settings.max_new_tokens]
    bounds += [take(body, name, int, default=None, at_least=1) for name in ("max_tokens", "max_completion_tokens")]
    settings["max_new_tokens"] = min(bound for bound in bounds if bound is not None)
    includes_usage = take(stream_options, "include_usage", bool, "stream_options", default=False)
    items = await _read_messages(service, take(body, "messages", ARRAY))
    return ChatRequest(items, settings, stops, speaks, kind, streams, includes_usage, tools)


def _check_functions(body: JsonObject) -> None:
    """Check ``functions`` and ``function_call``, the older names of ``tools`` and ``tool_choice``."""
    call = body.get("function_call")
    choice = {"type": "function", **call} if isinstance(call, dict) else call
    older: JsonObject = {"tools": take(body, "functions", ARRAY, default=None), "tool_choice": choice}
    try:
        check_tools(older)
    except EventError as error:
        param = "function_call" if error.param == "tool_choice" else "functions"
        raise EventError(str(error).replace(str(error.param), param, 1), error.code, param) from error


def _audio_kind(body: JsonObject, streams: bool, speaks: bool) -> str:
    audio = take(body, "audio", OBJECT, default={})
    read_voice(audio, "audio")
    default = "pcm16" if streams else "wav"
    kind = take(audio, "format", str, "audio", default=default, choices=tuple(CONTENT_TYPES))
    if streams and speaks and kind not in STREAMED:
        message = f"audio.format: expected one of {', '.join(STREAMED)} when streaming, found {kind}"
        raise EventError(message, "unsupported_value", "audio.format")
    return kind


# ---------------------------------------------------------------------------------------------- messages


async def _read_messages(service: Service, messages: list[object]) -> list[ConversationItem]:
    if not 0 < len(messages) <= service.limits.max_items:
        message = f"messages: expected 1 to {service.limits.max_items}, found {len(messages)}"
        raise EventError(message, "invalid_value", "messages")
    items, left_s = [], service.limits.max_upload_s
    for index, source in enumerate(messages):
        found = await _read_message(service, source, f"messages[{index}]", left_s)
        left_s -= sum(item.audio_s for item in found)
        items += found
    return items


async def _read_message(service: Service, source: object, where: str, left_s: float) -> list[ConversationItem]:
    """The items of a message: what was said, and each call of a tool.

    Raises:
        EventError: a malformed message.
        ValueError: audio that cannot be decoded.
    """
    if not isinstance(source, dict):
        raise EventError(f"{where}: expected an object", "invalid_type", where)
    source_role = take(source, "role", str, where, choices=ROLES)
    # A model that calls no tools reads the output of one as words of the user.
    role = {"developer": "system", "tool": "user", "function": "user"}.get(source_role, source_role)
    content = take(source, "content", (str, ARRAY), where, default=None)
    found: list[Content] = []
    calls: list[ConversationItem] = []
    if role == "assistant":
        said, calls = _read_assistant_fields(service, source, where, content)
        found += said
    elif content is None:
        raise EventError(f"{where}.content: expected a value, found none", "missing_required_parameter", where)
    parts: list[object] = [{"type": "text", "text": content}] if isinstance(content, str) else content or []
    for index, part in enumerate(parts):
        found.append(await _read_part(service, part, source_role, f"{where}.content[{index}]", left_s))
        left_s -= found[-1].audio_s
    if source_role == "tool":
        output = "\n".join(part.text or "" for part in found)
        call_id = take(source, "tool_call_id", str, where, default="")
        call: ItemObject = {"type": "function_call_output", "call_id": call_id, "output": output}
        return [ConversationItem(new_id("item"), role, [Content("input_text", output)], call=call)]
    return [*([ConversationItem(new_id("item"), role, found)] if found or not calls else []), *calls]


def _read_assistant_fields(
    service: Service, source: JsonObject, where: str, content: str | list[object] | None
) -> tuple[list[Content], list[ConversationItem]]:
    """Read the fields of an assistant message besides its content: earlier speech, a refusal; and tool calls.

    Raises:
        EventError: the message is empty, or a field is malformed.
    """
    texts: list[str] = []
    spoken = take(source, "audio", OBJECT, where, default=None)
    if spoken is not None and content is None:
        texts.append(service.spoken_replies.find(take(spoken, "id", str, f"{where}.audio"), f"{where}.audio.id"))
    num_spoken = len(texts)  # made by this server, so its length is limited already
    refusal = take(source, "refusal", str, where, default=None)
    if refusal is not None:
        texts.append(refusal)
    items: list[ConversationItem] = []
    calls = take(source, "tool_calls", ARRAY, where, default=[])
    if len(calls) > service.limits.max_items:
        message = f"{where}.tool_calls: expected at most {service.limits.max_items}, found {len(calls)}"
        raise EventError(message, "invalid_value", f"{where}.tool_calls")
    for index, call in enumerate(calls):
        place = f"{where}.tool_calls[{index}]"
        if not isinstance(call, dict):
            raise EventError(f"{place}: expected an object", "invalid_type", place)
        items.append(_read_call(call, place))
    older = take(source, "function_call", OBJECT, where, default=None)
    if older is not None:
        items.append(_read_call({"function": older}, where))
    num_chars = sum(len(text) for text in texts[num_spoken:]) + sum(item.num_chars for item in items)
    max_chars = service.limits.max_text_chars
    if num_chars > max_chars:
        message = f"{where}: expected at most {max_chars} characters in refusal and calls, found {num_chars}"
        raise EventError(message, "string_too_long", where)
    if not texts and not items and content is None:
        message = f"{where}: expected content, audio, refusal or tool_calls, found none of them"
        raise EventError(message, "missing_required_parameter", where)
    return [Content("output_text", text) for text in texts], items


def _read_call(call: JsonObject, where: str) -> ConversationItem:
    if call.get("custom") is not None:
        custom = take(call, "custom", OBJECT, where)
        name, arguments = take(custom, "name", str, where), take(custom, "input", str, where, default="")
    else:
        function = take(call, "function", OBJECT, where)
        name = take(function, "name", str, where)
        arguments = take(function, "arguments", str, where, default="")
    call_id = take(call, "id", str, where, default="")
    found: ItemObject = {"type": "function_call", "call_id": call_id, "name": name, "arguments": arguments}
    return ConversationItem(
        new_id("item"), "assistant", [Content("output_text", tool_call_text(name, arguments))], call=found
    )


_PARTS = {"user": ("text", "input_audio"), "assistant": ("text", "refusal")}


async def _read_part(service: Service, part: object, role: str, where: str, left_s: float) -> Content:
    if not isinstance(part, dict):
        raise EventError(f"{where}: expected an object", "invalid_type", where)
    kind = take(part, "type", str, where, choices=_PARTS.get(role, ("text",)))
    if kind == "input_audio":
        return await read_recording(service, part, where, left_s)
    return Content("input_text", read_text(part, kind, where, service.limits.max_text_chars))
