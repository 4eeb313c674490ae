"""Events of the realtime protocol: the events that clients may send, typed readers of their fields, and errors.

Source: OpenAI Realtime API (GA event names). docs/protocol.md lists what is supported.
"""

from __future__ import annotations

import json
import reprlib
import uuid
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Final, Literal, TypeVar, overload

from echox.errors import NotHeard
from echox.serving.protocol.json_input import JsonObject, check_elements, parse_json

CLIENT_EVENTS = (
    "session.update",
    "input_audio_buffer.append",
    "input_audio_buffer.commit",
    "input_audio_buffer.clear",
    "output_audio_buffer.clear",
    "conversation.item.create",
    "conversation.item.delete",
    "conversation.item.retrieve",
    "conversation.item.truncate",
    "response.create",
    "response.cancel",
    "echox.event.part",
    "echox.ping",
)
MAX_ID_CHARS = 512
FailureCode = Literal["not_heard", "not_answerable", "server_busy", "server_shutting_down", "internal_error"]
"""Why a response failed, for programs: no words in the audio; the model cannot read it; the server's own reasons."""
OBJECT: type[JsonObject] = dict
"""For `take`: a JSON object (``dict`` alone would be a dict of anything to a type checker)."""
ARRAY: type[list[object]] = list
"""For `take`: a JSON array."""
T = TypeVar("T")
U = TypeVar("U")
D = TypeVar("D")
_MISSING: Final = object()  # no default: the field must be present
_SHORT_REPR = reprlib.Repr()
_SHORT_REPR.maxstring = _SHORT_REPR.maxother = 200


class EventError(ValueError):
    """A client's event or request that cannot be carried out. It is reported to the client; a session continues.

    Args:
        message: what was expected and what was found.
        code: for programs.
        param: the place in the event.
        kind: "invalid_request_error" or "server_error".
    """

    def __init__(
        self, message: str, code: str = "invalid_value", param: str | None = None, kind: str = "invalid_request_error"
    ) -> None:
        super().__init__(message)
        self.code, self.param, self.kind = code, param, kind

    def to_event(self, event_id: str | None) -> JsonObject:
        """The ``error`` event. ``event_id`` is the id of the client's event."""
        error = {"type": self.kind, "code": self.code, "message": str(self), "param": self.param, "event_id": event_id}
        return {"type": "error", "error": {name: value for name, value in error.items() if value is not None}}


def refusal_code(error: ValueError) -> FailureCode:
    """The code of an error with which the model refuses a question."""
    return "not_heard" if isinstance(error, NotHeard) else "not_answerable"


@dataclass(frozen=True)
class ClientEvent:
    """An event of a client, of which type and id are checked.

    Attributes:
        type: one of `CLIENT_EVENTS`.
        event_id: the client's id of the event, if it has one.
        fields: the whole JSON object.
    """

    type: str
    event_id: str | None
    fields: JsonObject


def new_id(prefix: str) -> str:
    """A new unique id like ``item_4f...``."""
    return f"{prefix}_{uuid.uuid4().hex[:24]}"


def read_event(text: str | bytes) -> ClientEvent:
    """Parse one message of a client.

    Raises:
        EventError: not JSON, not an object, a malformed ``event_id``, or an unknown type.
    """
    try:
        event = parse_json(text)
    except ValueError as error:
        raise EventError(
            f"expected a JSON object, found something else ({str(error)[:100]})", "invalid_json"
        ) from error
    if not isinstance(event, dict):
        raise EventError(f"expected a JSON object, found {_kind(event)}", "invalid_event")
    event_id = event.get("event_id")
    if event_id is not None and not isinstance(event_id, str):
        raise EventError(f"event_id: expected a string, found {_kind(event_id)}", "invalid_type", "event_id")
    if event_id is not None and len(event_id) > MAX_ID_CHARS:
        message = f"event_id: expected at most {MAX_ID_CHARS} characters, found {len(event_id)}"
        raise EventError(message, "string_too_long", "event_id")
    name = event.get("type")
    if not isinstance(name, str):
        raise EventError(f"type: expected a string, found {_kind(name)}", "missing_required_parameter", "type")
    if name not in CLIENT_EVENTS:
        raise EventError(
            f"type: expected one of {', '.join(CLIENT_EVENTS)}, found {shorten(name)}", "unknown_event_type", "type"
        )
    return ClientEvent(name, event_id, event)


def client_event_id(text: str | bytes) -> str | None:
    """The ``event_id`` in a message that could not be read as an event; None if there is none."""
    try:
        check_elements(text)
        event = json.loads(text)  # less strict, so that an error elsewhere in the message does not hide the id
    except (ValueError, RecursionError):
        return None
    found = event.get("event_id") if isinstance(event, dict) else None
    return found[:MAX_ID_CHARS].encode("utf-8", "ignore").decode() if isinstance(found, str) else None


@overload
def take(
    source: Mapping[str, object],
    name: str,
    kind: type[T],
    where: str = "",
    *,
    choices: Collection[object] = (),
    at_least: float | None = None,
    at_most: float | None = None,
) -> T: ...
@overload
def take(
    source: Mapping[str, object],
    name: str,
    kind: type[T],
    where: str = "",
    *,
    default: D,
    choices: Collection[object] = (),
    at_least: float | None = None,
    at_most: float | None = None,
) -> T | D: ...
@overload
def take(
    source: Mapping[str, object],
    name: str,
    kind: tuple[type[T], type[U]],
    where: str = "",
    *,
    default: D,
) -> T | U | D: ...
def take(
    source: Mapping[str, object],
    name: str,
    kind: type | tuple[type, ...],
    where: str = "",
    *,
    default: object = _MISSING,
    choices: Collection[object] = (),
    at_least: float | None = None,
    at_most: float | None = None,
) -> object:
    """Read a field of a JSON object and check it. null and an absent field are the same.

    Args:
        source: the object.
        name: the field.
        kind: the type of its value, or two types. `float` accepts integers too. For objects and arrays: `OBJECT`,
            `ARRAY`.
        where: place of the object in the message, for errors.
        default: returned if the field is absent; without a default the field must be present.
        choices: allowed values; empty: all.
        at_least: lower bound of a number.
        at_most: upper bound of a number.

    Raises:
        EventError: the field is absent, of another type, or out of range.
    """
    param = f"{where}.{name}" if where else name
    value = source.get(name)
    if value is None:
        if default is _MISSING:
            raise EventError(f"{param}: expected a value, found none", "missing_required_parameter", param)
        return default
    kinds = kind if isinstance(kind, tuple) else (kind,)
    accepted = (*kinds, int) if float in kinds else kinds
    if not isinstance(value, accepted) or (isinstance(value, bool) and bool not in kinds):
        names = " or ".join(_KIND_NAMES.get(item, item.__name__) for item in kinds)
        raise EventError(f"{param}: expected {names}, found {_kind(value)}", "invalid_type", param)
    if choices and value not in choices:
        expected = ", ".join(map(str, choices))
        raise EventError(f"{param}: expected one of {expected}, found {shorten(value)}", "invalid_value", param)
    if isinstance(value, int | float) and not _in_range(value, at_least, at_most):
        raise EventError(
            f"{param}: expected a number from {at_least} to {at_most}, found {shorten(value)}", "invalid_value", param
        )
    return value


def _in_range(value: float, at_least: float | None, at_most: float | None) -> bool:
    return (at_least is None or value >= at_least) and (at_most is None or value <= at_most)


def shorten(value: object) -> str:
    """A value as text of at most 60 characters, for messages."""
    text = _SHORT_REPR.repr(value)  # a long value is cut before it is written out
    return text if len(text) <= 60 else text[:57] + "..."


_KIND_NAMES = {
    dict: "an object",
    list: "an array",
    str: "a string",
    int: "an integer",
    float: "a number",
    bool: "a boolean",
}


def _kind(value: object) -> str:
    return "null" if value is None else _KIND_NAMES.get(type(value), type(value).__name__)
