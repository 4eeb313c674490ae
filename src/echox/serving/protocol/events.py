"""The realtime protocol's grammar: what clients may send, how mistakes are told, how our events are named.

Source: OpenAI Realtime API (GA event names). docs/protocol.md holds the matrix of what is supported.
"""

from __future__ import annotations

import json
import reprlib
import uuid
from collections.abc import Collection
from typing import Any

from echox.serving.protocol.json_input import check_elements, parse_json

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
    "echox.ping",
)
MAX_ID_CHARS = 512
MISSING = object()
_BRIEFLY = reprlib.Repr()
_BRIEFLY.maxstring = _BRIEFLY.maxother = 200


class EventError(ValueError):
    """A client's event that cannot be done; told as an ``error`` event, and the session goes on.

    Args:
        message: what was expected, what was found. code: for programs. param: where in the event.
        kind: "invalid_request_error" or "server_error".
    """

    def __init__(
        self, message: str, code: str = "invalid_value", param: str | None = None, kind: str = "invalid_request_error"
    ) -> None:
        super().__init__(message)
        self.code, self.param, self.kind = code, param, kind

    def to_event(self, event_id: str | None) -> dict[str, Any]:
        """The ``error`` event; ``event_id`` is the client's."""
        error = {"type": self.kind, "code": self.code, "message": str(self), "param": self.param, "event_id": event_id}
        return {"type": "error", "error": {name: value for name, value in error.items() if value is not None}}


def new_id(prefix: str) -> str:
    """A fresh id like ``item_4f...``."""
    return f"{prefix}_{uuid.uuid4().hex[:24]}"


def read_event(text: str | bytes) -> dict[str, Any]:
    """Parse one message of a client.

    Returns:
        The event; its ``type`` is known and its ``event_id``, if any, a string.

    Raises:
        EventError: not JSON, not an object, or an unknown type. Its ``client_event_id`` names the event if it can.
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
            f"type: expected one of {', '.join(CLIENT_EVENTS)}, found {short(name)}", "unknown_event_type", "type"
        )
    return event


def client_event_id(text: str | bytes) -> str | None:
    """The event id in a message that could not be read as an event, if there is one."""
    try:
        check_elements(text)
        event = json.loads(text)  # less strict: a mistake in one place does not hide the id in another
    except (ValueError, RecursionError):
        return None
    found = event.get("event_id") if isinstance(event, dict) else None
    return found[:MAX_ID_CHARS].encode("utf-8", "ignore").decode() if isinstance(found, str) else None


def take(
    source: dict[str, Any],
    name: str,
    kind: type | tuple[type, ...],
    where: str = "",
    default: Any = MISSING,
    choices: Collection[Any] = (),
    at_least: float | None = None,
    at_most: float | None = None,
) -> Any:
    """A checked value of an object; null and absent are the same and give ``default``.

    Raises:
        EventError: missing, of another type, or out of range.
    """
    param = f"{where}.{name}" if where else name
    value = source.get(name)
    if value is None:
        if default is MISSING:
            raise EventError(f"{param}: expected a value, found none", "missing_required_parameter", param)
        return default
    kinds = kind if isinstance(kind, tuple) else (kind,)
    accepted = (*kinds, int) if float in kinds else kinds
    if not isinstance(value, accepted) or (isinstance(value, bool) and bool not in kinds):
        names = " or ".join(_KIND_NAMES.get(item, item.__name__) for item in kinds)
        raise EventError(f"{param}: expected {names}, found {_kind(value)}", "invalid_type", param)
    if choices and value not in choices:
        expected = ", ".join(map(str, choices))
        raise EventError(f"{param}: expected one of {expected}, found {short(value)}", "invalid_value", param)
    if isinstance(value, int | float) and (
        (at_least is not None and not value >= at_least) or (at_most is not None and not value <= at_most)
    ):
        raise EventError(
            f"{param}: expected a number from {at_least} to {at_most}, found {short(value)}", "invalid_value", param
        )
    return value


def short(value: Any) -> str:
    """A value in a message: never more than a line."""
    text = _BRIEFLY.repr(value)  # a megabyte is not written out to keep its beginning
    return text if len(text) <= 60 else text[:57] + "..."


_KIND_NAMES = {
    dict: "an object",
    list: "an array",
    str: "a string",
    int: "an integer",
    float: "a number",
    bool: "a boolean",
}


def _kind(value: Any) -> str:
    return "null" if value is None else _KIND_NAMES.get(type(value), type(value).__name__)
