"""The request of a ``response.create`` event, read and checked before anything is done."""

from __future__ import annotations

import copy
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

from echox.serving.protocol.conversation import (
    Content,
    Conversation,
    ConversationItem,
    check_together,
    model_messages,
    read_item,
    turns_of,
)
from echox.serving.protocol.events import ARRAY, OBJECT, EventError, take
from echox.serving.protocol.json_input import JsonObject
from echox.serving.protocol.limits import Limits
from echox.serving.protocol.options import (
    NewReplySettings,
    SessionOptions,
    convert_beta_names,
    read_audio_format,
    read_max_output_tokens,
    read_metadata,
    read_modalities,
    read_sampling,
    read_text,
    read_voice,
)
from echox.serving.protocol.parameters import RESPONSE
from echox.serving.protocol.wire import AudioFormat
from echox.streaming.prompt.messages import ANSWERED_ROLES, Message, UnreadableMessage


@dataclass
class ResponseRequest:
    """A response to be made.

    Attributes:
        options: options of the session, with the changes of this request.
        settings: generation settings of the reply.
        metadata: metadata of the client, sent back with the response.
        out_of_band: the reply is not added to the conversation.
        own_input: the request contains the items to answer.
        items: the items to answer, in order.
        turns: the items as turns.
        messages: the turns as messages for the model. If the last one is neither from the user nor the output of a
            tool, there is nothing to answer.
        instructions: of this request alone; they are answered if nothing else is.
    """

    options: SessionOptions
    settings: NewReplySettings
    metadata: dict[str, str] | None
    out_of_band: bool
    own_input: bool
    items: list[ConversationItem]
    turns: list[list[ConversationItem]]
    messages: list[Message]
    instructions: str | None = None

    @property
    def answerable(self) -> bool:
        """Whether there is speech or text of the user after the last reply."""
        return _answerable(self.messages)

    @property
    def only_inaudible(self) -> bool:
        """Whether the user's items after the last reply contain neither speech nor text."""
        return not self.answerable and bool(self.items) and self.items[-1].role == "user"

    @property
    def new_audio(self) -> Content | None:
        """The audio of the last turn, if it is one recording without a transcript. The reply provides it."""
        last = self.turns[-1] if self.turns and self.turns[-1][0].role == "user" else []
        recordings = [part for item in last for part in item.content if part.audible]
        return recordings[0] if len(recordings) == 1 and recordings[0].text is None else None

    def without(self, digests: Collection[str]) -> ResponseRequest | None:
        """The same request after audio in its items was found to be inaudible, which is noted in the items.

        Args:
            digests: of that audio.

        Returns:
            What is left of it; None: nothing that can be answered, or the model was given no such audio.
        """
        given = [audio for message in self.messages for audio in message.audios]
        inaudible = [audio for audio in given if audio.digest in digests]
        for part in (part for item in self.items for part in item.content):
            part.inaudible = part.inaudible or any(part.audio is audio for audio in inaudible)
        turns, messages = _read_turns(self.items, self.options, self.instructions)
        left = replace(self, turns=turns, messages=messages)
        return left if inaudible and left.answerable else None

    def unreadable(self, error: UnreadableMessage) -> list[ConversationItem]:
        """The items that an error of the model concerns; none if it concerns the system prompt."""
        found: list[ConversationItem] = []
        for turn, message in zip(self.turns, self.messages, strict=False):  # instructions that are answered are no turn
            if message.reads_as(error.message):
                found += [item for item in turn if error.found and error.found in item.model_text] or turn
        return found


def _answerable(messages: Sequence[Message]) -> bool:
    return bool(messages) and messages[-1].role in ANSWERED_ROLES


def _read_turns(
    items: list[ConversationItem], options: SessionOptions, instructions: str | None
) -> tuple[list[list[ConversationItem]], list[Message]]:
    """The turns of a request, and its messages for the model."""
    turns = turns_of(items, options.calls_tools)
    messages = model_messages(turns, options.calls_tools)
    if instructions and not _answerable(messages):  # "greet the user": the model reads it as a question, once
        messages.append(Message("user", (instructions,)))
    return turns, messages


def read_request(
    source: JsonObject,
    session: SessionOptions,
    conversation: Conversation,
    limits: Limits,
    max_new_tokens: int,
    own_items: list[ConversationItem] | None = None,
) -> ResponseRequest:
    """Read the ``response`` object of a ``response.create`` event.

    Args:
        source: the JSON object; {}: all options as in the session.
        session: options of the session; they are not changed.
        conversation: the conversation.
        limits: limits of the server.
        max_new_tokens: the model's own limit of a reply.
        own_items: result of `read_input`; None: the request has no items and is about the conversation.

    Raises:
        EventError: a malformed or unsupported value.
    """
    source = convert_beta_names(source, "response")
    RESPONSE.check(source, "response")
    out_of_band = take(source, "conversation", str, "response", default="auto", choices=("auto", "none")) == "none"
    options = _options(source, session, limits)
    items = list(conversation.items) if own_items is None else own_items
    instructions = take(source, "instructions", str, "response", default=None)
    turns, messages = _read_turns(items, options, instructions)
    return ResponseRequest(
        options,
        _settings(source, options, limits, max_new_tokens),
        read_metadata(source, "response"),
        out_of_band,
        own_items is not None,
        items,
        turns,
        messages,
        instructions,
    )


def _options(source: JsonObject, session: SessionOptions, limits: Limits) -> SessionOptions:
    options = copy.copy(session)
    options.update_tools(source, "response")
    if source.get("output_modalities") is not None:
        options.output_modalities = read_modalities(source, "response")
    if source.get("instructions") is not None:
        options.instructions = read_text(source, "instructions", "response", limits.max_text_chars)
    if "max_output_tokens" in source:
        options.max_output_tokens = read_max_output_tokens(source, "response")
    audio = take(source, "audio", OBJECT, "response", default={})
    speaking = take(audio, "output", OBJECT, "response.audio", default={})
    if speaking.get("format") is not None:
        options.output_format = read_audio_format(speaking, "response.audio.output")
    options.voice = read_voice(speaking, "response.audio.output", session.voice)
    return options


def _settings(source: JsonObject, options: SessionOptions, limits: Limits, max_new_tokens: int) -> NewReplySettings:
    settings: NewReplySettings = {**options.sampling, **read_sampling(source, "response")}
    bounds = [limits.max_output_tokens, max_new_tokens]
    if options.max_output_tokens != "inf":
        bounds.append(int(options.max_output_tokens))
    settings["max_new_tokens"] = min(bound for bound in bounds if bound is not None)
    settings["speak"] = options.output_modalities == ["audio"]
    settings["speed"] = options.speed
    return settings


def read_input(
    source: JsonObject, audio_format: AudioFormat, conversation: Conversation, limits: Limits, input_rate: int
) -> list[ConversationItem]:
    """Read the items (``input``) in a request. They may contain minutes of audio, so do not call it in the event loop.

    Args:
        source: the ``response`` object of ``response.create``, with ``input``.
        audio_format: format of the audio in the items.
        conversation: a snapshot of the conversation, whose items may be referenced.
        limits: limits of the server.
        input_rate: sampling rate of the model's input, Hz.

    Raises:
        EventError: a malformed item, or too many or too long items.
    """
    given = take(source, "input", ARRAY, "response")
    if len(given) > limits.max_items:
        message = f"response.input: expected at most {limits.max_items} items, found {len(given)}"
        raise EventError(message, "invalid_value", "response.input")
    items: list[ConversationItem] = []
    for index, one in enumerate(given):
        where = f"response.input[{index}]"
        if isinstance(one, dict) and one.get("type") == "item_reference":
            items.append(conversation.find(take(one, "id", str, where), f"{where}.id"))
        else:
            items.append(read_item(one, where, audio_format, input_rate, limits))
        check_together(items, where, limits)
        if sum(item.num_chars for item in items) > limits.max_history_chars:
            message = f"{where}: expected at most {limits.max_history_chars} characters in all items, found more"
            raise EventError(message, "string_too_long", where)
    return items
