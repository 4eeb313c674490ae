"""Requests of the Responses API: read, checked, their audio decoded, and joined to the responses that they continue."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

from echox.serving.protocol.conversation import (
    MAX_CONTENT_PARTS,
    Content,
    ConversationItem,
    check_together,
    read_item,
)
from echox.serving.protocol.events import ARRAY, OBJECT, EventError, new_id, shorten, take
from echox.serving.protocol.json_input import JsonObject
from echox.serving.protocol.options import (
    NewReplySettings,
    read_metadata,
    read_sampling,
    read_text,
)
from echox.serving.protocol.parameters import RESPONSES, RESPONSES_STREAM_OPTIONS, RESPONSES_TEXT
from echox.serving.protocol.wire import AudioFormat
from echox.serving.rest.answering import read_recording, read_tool_options
from echox.serving.rest.common import RequestError
from echox.serving.service.service import Service
from echox.tool_calls.tools import ToolUse

_PARTS = {
    "user": ("input_text", "input_audio"),
    "system": ("input_text",),
    "developer": ("input_text",),
    "assistant": ("output_text", "refusal", "input_text"),
}
_KINDS = ("message", "input_audio", "function_call", "function_call_output", "item_reference")
_INCLUDABLE = (
    "code_interpreter_call.outputs",
    "computer_call_output.output.image_url",
    "file_search_call.results",
    "message.input_image.image_url",
    "reasoning.encrypted_content",
    "web_search_call.action.sources",
    "web_search_call.results",
)


@dataclass
class ResponsesRequest:
    """A checked request.

    Attributes:
        items: the conversation to answer: that of the previous response, then the input; without the instructions.
        instructions: system prompt of this response only; None: none.
        settings: generation settings of the reply.
        streams: whether the reply is streamed.
        stores: whether the response is kept for later requests.
        truncates: whether the oldest turns may be left out, if the model cannot read all.
        tools: that the reply may call.
        shown: what the response object says of the request.
    """

    items: list[ConversationItem]
    instructions: str | None
    settings: NewReplySettings
    streams: bool
    stores: bool
    truncates: bool
    tools: ToolUse
    shown: JsonObject

    @property
    def asked(self) -> list[ConversationItem]:
        """The items with the instructions before them."""
        if self.instructions is None:
            return self.items
        return [ConversationItem(new_id("item"), "system", [Content("input_text", self.instructions)]), *self.items]


async def read_responses(service: Service, body: JsonObject, keys: Sequence[str]) -> ResponsesRequest:
    """Check a request and decode its audio.

    Args:
        service: the service.
        body: the request.
        keys: under which responses are stored that the request may refer to; the first is the one of the client.

    Raises:
        EventError: a value is missing, malformed or not supported, or there is no such previous response.
        ValueError: audio that cannot be decoded.
    """
    take(body, "model", str, default=service.name)  # any name is accepted: there is only one model
    RESPONSES.check(body)
    RESPONSES.check_known(body)
    _check_include(body)
    tools = await read_tool_options(service, body)
    text = take(body, "text", OBJECT, default={})
    RESPONSES_TEXT.check(text, "text")
    RESPONSES_TEXT.check_known(text, "text")
    streams = take(body, "stream", bool, default=False)
    stream_options = take(body, "stream_options", OBJECT, default={})
    if stream_options and not streams:
        message = "stream_options: expected with stream true only, found without"
        raise EventError(message, "invalid_value", "stream_options")
    RESPONSES_STREAM_OPTIONS.check(stream_options, "stream_options")
    RESPONSES_STREAM_OPTIONS.check_known(stream_options, "stream_options")
    instructions = None
    if body.get("instructions") is not None:
        instructions = read_text(body, "instructions", "", service.limits.max_text_chars)
    truncation = take(body, "truncation", str, default="disabled", choices=("auto", "disabled"))
    max_output_tokens = take(body, "max_output_tokens", int, default=None, at_least=1, at_most=2**31 - 1)
    previous_id = take(body, "previous_response_id", str, default=None)
    stores = take(body, "store", bool, default=True)
    model = service.model.settings
    bounds = [service.limits.max_output_tokens, model.max_new_tokens, max_output_tokens]
    # The reference has no seed, so each reply has one of its own.
    settings: NewReplySettings = {"seed": secrets.randbelow(2**31), **read_sampling(body), "speak": False}
    settings["max_new_tokens"] = min(bound for bound in bounds if bound is not None)
    shown: JsonObject = {
        "instructions": instructions,
        "max_output_tokens": max_output_tokens,
        "metadata": read_metadata(body) or {},
        "parallel_tool_calls": tools.parallel,
        "previous_response_id": previous_id,
        "store": stores,
        "tool_choice": tools.choice,
        "tools": [{**tool, "strict": True} for tool in tools.shown()],  # arguments always fit their schema
        "temperature": settings.get("temperature", model.temperature),
        "top_p": settings.get("top_p", model.top_p),
        "truncation": truncation,
    }
    items: list[ConversationItem] = []
    if previous_id is not None:
        items += _previous(service, previous_id, keys)
    items += await _read_input(service, body, items, keys)
    return ResponsesRequest(items, instructions, settings, streams, stores, truncation == "auto", tools.use, shown)


def _check_include(body: JsonObject) -> None:
    """Check ``include``: what belongs to items that this server never makes is in all of those that it makes.

    Raises:
        EventError: another value, above all log probabilities of tokens.
    """
    for value in take(body, "include", ARRAY, default=[]):
        if value not in _INCLUDABLE:
            message = f"include: expected some of {', '.join(_INCLUDABLE)}, found {shorten(value)}; leave it out"
            raise EventError(message, "unsupported_value", "include")


# ---------------------------------------------------------------------------------------------- input


def _previous(service: Service, response_id: str, keys: Sequence[str]) -> Sequence[ConversationItem]:
    """The conversation up to and with a response.

    Raises:
        EventError: there is no such response.
    """
    for key in keys[1:]:
        with suppress(EventError):
            return service.stored_responses.find(response_id, key).items
    return service.stored_responses.find(response_id, keys[0], "previous_response_id").items


async def _read_input(
    service: Service, body: JsonObject, before: list[ConversationItem], keys: Sequence[str]
) -> list[ConversationItem]:
    """The items of ``input``, limited together with those before them.

    Raises:
        RequestError: a reference to an item that is not stored (404).
        EventError: no text and no list of items, a malformed item, or more than the limits allow.
        ValueError: audio that cannot be decoded.
    """
    limits = service.limits
    given = take(body, "input", (str, ARRAY), default=None)
    if given is None:
        raise EventError("input: expected a text or a list of items, found none", "missing_required_parameter", "input")
    sources: list[object] = [{"role": "user", "content": given}] if isinstance(given, str) else given
    if not 0 < len(sources) <= limits.max_items - len(before):
        message = (
            f"input: expected 1 to {limits.max_items} items with those of the previous responses, found {len(sources)} "
            f"after {len(before)}"
        )
        raise EventError(message, "invalid_value", "input")
    items, left_s = list(before), limits.max_upload_s
    for index, source in enumerate(sources):
        where = f"input[{index}]"
        item = _referenced(service, source, where, keys) or await _read_item(service, source, where, left_s)
        left_s -= item.audio_s
        items.append(item)
        check_together(items, where, limits)
    return items[len(before) :]


def _referenced(service: Service, source: object, where: str, keys: Sequence[str]) -> ConversationItem | None:
    """The item that a reference names; None: the source is none.

    Raises:
        RequestError: no stored response of this key has it (404).
    """
    if not isinstance(source, dict):
        return None
    kind = source.get("type")
    if kind != "item_reference" and (kind is not None or "role" in source or "id" not in source):
        return None
    item_id = take(source, "id", str, where)
    found = next((one for key in keys if (one := service.stored_responses.find_item(item_id, key))), None)
    if found is None:
        message = (
            f"{where}.id: expected the id of an item in a response that this key has made and that is still stored, "
            f"found {shorten(item_id)}; send the item itself instead"
        )
        raise RequestError(404, "item_not_found", message, f"{where}.id")
    return found


async def _read_item(service: Service, source: object, where: str, left_s: float) -> ConversationItem:
    if not isinstance(source, dict):
        raise EventError(f"{where}: expected an object", "invalid_type", where)
    kind = take(source, "type", str, where, default="message")
    if kind not in _KINDS:
        message = f"{where}.type: expected one of {', '.join(_KINDS)}, found {shorten(kind)}"
        raise EventError(message, "unsupported_item_type", f"{where}.type")
    if kind == "input_audio":  # an item of its own, as the reference has it
        source = {"role": "user", "content": [source]}
    elif kind != "message":
        return read_item(_with_text_output(source, where), where, AudioFormat(), service.input_rate, service.limits)
    source_role = take(source, "role", str, where, choices=tuple(_PARTS))
    content = take(source, "content", (str, ARRAY), where, default=None)
    if content is None:
        message = f"{where}.content: expected a text or a list of parts, found none"
        raise EventError(message, "missing_required_parameter", f"{where}.content")
    kinds = _PARTS[source_role]
    parts: list[object] = [{"type": kinds[0], "text": content}] if isinstance(content, str) else content
    if not 0 < len(parts) <= MAX_CONTENT_PARTS:
        message = f"{where}.content: expected 1 to {MAX_CONTENT_PARTS} parts, found {len(parts)}"
        raise EventError(message, "invalid_value", f"{where}.content")
    found: list[Content] = []
    for index, part in enumerate(parts):
        found.append(await _read_part(service, part, kinds, f"{where}.content[{index}]", left_s))
        left_s -= found[-1].audio_s
    num_chars, max_chars = sum(len(one.text or "") for one in found), service.limits.max_text_chars
    if num_chars > max_chars:
        message = f"{where}: expected at most {max_chars} characters in all parts, found {num_chars}"
        raise EventError(message, "string_too_long", where)
    return ConversationItem(new_id("item"), "system" if source_role == "developer" else source_role, found)


async def _read_part(service: Service, part: object, kinds: tuple[str, ...], where: str, left_s: float) -> Content:
    if not isinstance(part, dict):
        raise EventError(f"{where}: expected an object", "invalid_type", where)
    kind = take(part, "type", str, where, choices=kinds)
    if kind == "input_audio":
        return await read_recording(service, part, where, left_s)
    name = "refusal" if kind == "refusal" else "text"
    return Content("input_text", read_text(part, name, where, service.limits.max_text_chars))


def _with_text_output(source: JsonObject, where: str) -> JsonObject:
    """The output of a tool with its parts joined to one text.

    Raises:
        EventError: a part that is no text.
    """
    output = source.get("output")
    if not isinstance(output, list):
        return source
    texts = []
    for index, part in enumerate(output):
        place = f"{where}.output[{index}]"
        if not isinstance(part, dict):
            raise EventError(f"{place}: expected an object", "invalid_type", place)
        take(part, "type", str, place, choices=("input_text",))
        texts.append(take(part, "text", str, place))
    return {**source, "output": "\n".join(texts)}
