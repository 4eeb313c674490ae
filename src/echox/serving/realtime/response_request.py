"""What a ``response.create`` asks for, checked before anything of it is done."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

from echox.serving.protocol.conversation import Content, Conversation, Item, model_messages, read_item, turns_of
from echox.serving.protocol.events import EventError, short, take
from echox.serving.protocol.limits import Limits
from echox.serving.protocol.options import (
    SessionOptions,
    audio_format,
    check_tools,
    from_beta,
    max_output_tokens,
    modalities,
    sampling,
    text_within,
    voice,
)
from echox.serving.protocol.parameters import RESPONSE
from echox.serving.protocol.wire import AudioFormat
from echox.streaming.messages import Message

MAX_INPUT_PARTS = 512
"""Parts of all items that one request brings: each sound costs some milliseconds, however short it is."""


@dataclass
class ResponseRequest:
    """A response to be made.

    Attributes:
        options: the session's, with this request's changes.
        settings: of the model, as follows from them.
        metadata: the client's, to be given back.
        out_of_band: the reply does not enter the conversation.
        own_input: the request brings its own items to answer.
        items: to answer, in order.
        turns: the same, as the model reads them.
        messages: the same, for the model; the last one is of the user, or there is nothing to answer.
    """

    options: SessionOptions
    settings: dict[str, Any]
    metadata: dict[str, str] | None
    out_of_band: bool
    own_input: bool
    items: list[Item]
    turns: list[list[Item]]
    messages: list[Message]

    @property
    def answerable(self) -> bool:
        """Whether the user said or wrote something after the last reply."""
        return bool(self.messages) and self.messages[-1].role == "user"

    @property
    def asked_in_vain(self) -> bool:
        """Whether something of the user is to be answered, but nothing in it can be heard or read."""
        return not self.answerable and bool(self.items) and self.items[-1].role == "user"

    @property
    def new_sound(self) -> Content | None:
        """The sound of the last turn, if it is one recording: what the model says it heard is its transcript."""
        last = self.turns[-1] if self.turns and self.turns[-1][0].role == "user" else []
        sounds = [part for item in last for part in item.content if part.audible]
        return sounds[0] if len(sounds) == 1 and sounds[0].text is None else None


def read_request(
    source: dict[str, Any],
    session: SessionOptions,
    conversation: Conversation,
    limits: Limits,
    max_new_tokens: int,
    own_items: list[Item] | None = None,
) -> ResponseRequest:
    """Check the ``response`` of a client's event.

    Args:
        source: the JSON object; {}: all as in the session.
        session: options of the session, which stay as they are.
        conversation: its items.
        limits: of the server.
        max_new_tokens: the model's own bound of a reply.
        own_items: of `read_input`.

    Raises:
        EventError: a value that is wrong, or cannot be done.
    """
    source = from_beta(source, "response")
    RESPONSE.check(source, "response")
    check_tools(source, "response")
    out_of_band = take(source, "conversation", str, "response", "auto", ("auto", "none")) == "none"
    options = _options(source, session, limits)
    items = list(conversation.items) if own_items is None else own_items
    turns = turns_of(items)
    request = ResponseRequest(
        options,
        _settings(source, options, limits, max_new_tokens),
        _metadata(source),
        out_of_band,
        own_items is not None,
        items,
        turns,
        model_messages(turns),
    )
    own_words = take(source, "instructions", str, "response", None)
    if own_words and not request.answerable:  # "greet the user": said to the model, kept nowhere
        request.messages.append(Message("user", (own_words,)))
    return request


def _options(source: dict[str, Any], session: SessionOptions, limits: Limits) -> SessionOptions:
    options = copy.copy(session)
    if source.get("output_modalities") is not None:
        options.output_modalities = modalities(source, "response")
    if source.get("instructions") is not None:
        options.instructions = text_within(source, "instructions", "response", limits.max_text_chars)
    if "max_output_tokens" in source:
        options.max_output_tokens = max_output_tokens(source, "response")
    speaking = take(take(source, "audio", dict, "response", {}), "output", dict, "response.audio", {})
    if speaking.get("format") is not None:
        options.output_format = audio_format(speaking, "response.audio.output")
    options.voice = voice(speaking, "response.audio.output", session.voice)
    return options


def _settings(source: dict[str, Any], options: SessionOptions, limits: Limits, max_new_tokens: int) -> dict[str, Any]:
    settings: dict[str, Any] = {**options.sampling, **sampling(source, "response")}
    bounds = [limits.max_output_tokens, max_new_tokens]
    if options.max_output_tokens != "inf":
        bounds.append(int(options.max_output_tokens))
    settings["max_new_tokens"] = min(bound for bound in bounds if bound is not None)
    settings["speak"] = options.output_modalities == ["audio"]
    settings["speed"] = options.speed
    return settings


def read_input(
    source: dict[str, Any], audio_format: AudioFormat, known: Conversation, limits: Limits, input_rate: int
) -> list[Item] | None:
    """The items that a request brings to be answered. They may hold minutes of sound: not for the event loop.

    Args:
        source: the ``response`` of a client's event.
        audio_format: of the sound in them.
        known: the conversation, whose items may be named; nobody changes it meanwhile.
        limits: of the server.
        input_rate: of the model, Hz.

    Returns:
        None: it brings none, and the conversation is to be answered.

    Raises:
        EventError: an item that is wrong, or too much in them.
    """
    given = take(source, "input", list, "response", None)
    if given is None:
        return None
    if len(given) > limits.max_items:
        message = f"response.input: expected at most {limits.max_items} items, found {len(given)}"
        raise EventError(message, "invalid_value", "response.input")
    items: list[Item] = []
    for index, one in enumerate(given):
        where = f"response.input[{index}]"
        if isinstance(one, dict) and one.get("type") == "item_reference":
            items.append(known.find(take(one, "id", str, where), f"{where}.id"))
        else:
            items.append(read_item(one, where, audio_format, input_rate, limits))
        if sum(item.sound_s for item in items) > limits.max_history_s:
            message = f"{where}: expected at most {limits.max_history_s:g} s of audio in all items, found more"
            raise EventError(message, "audio_too_long", where)
        if sum(item.num_chars for item in items) > limits.max_history_chars:
            message = f"{where}: expected at most {limits.max_history_chars} characters in all items, found more"
            raise EventError(message, "string_too_long", where)
        if sum(len(item.content) for item in items) > MAX_INPUT_PARTS:
            message = f"{where}: expected at most {MAX_INPUT_PARTS} parts in all items, found more"
            raise EventError(message, "invalid_value", where)
    return items


def _metadata(source: dict[str, Any]) -> dict[str, str] | None:
    found = take(source, "metadata", dict, "response", None)
    if found is None:
        return None
    texts = all(isinstance(value, str) and len(value) <= 512 for value in found.values())
    if not texts or len(found) > 16 or any(len(name) > 64 for name in found):
        message = (
            "response.metadata: expected at most 16 names of at most 64 characters with texts of at most 512, found "
            f"{short(found)}"
        )
        raise EventError(message, "invalid_value", "response.metadata")
    return dict(found)
