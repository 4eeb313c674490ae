"""Calls of tools in messages as transformers has them, and which output belongs to which call."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from echox.tool_calls.tools import ToolCall


def read_calls(source: object, where: str) -> tuple[ToolCall, ...]:
    """The calls of a message.

    Args:
        source: a list of ``{"type": "function", "function": {"name": ..., "arguments": ...}}``, or of what is under
            "function" alone; the arguments are an object, or its JSON text. None: there are no calls.
        where: the message, for users.

    Raises:
        ValueError: anything else.
    """
    if source is None:
        return ()
    if not isinstance(source, list | tuple):
        raise ValueError(f"{where}: expected a list as tool_calls, found {type(source).__name__}")
    return tuple(_read_call(call, f"{where}, call {number}") for number, call in enumerate(source))


def _read_call(source: object, where: str) -> ToolCall:
    function = _function(source)
    name = function.get("name")
    if not isinstance(name, str) or not name:
        raise ValueError(f"{where}: expected a function with a name, found {str(source)[:80]}")
    arguments = function.get("arguments") or {}
    try:
        read = json.loads(arguments) if isinstance(arguments, str) else arguments
        text = json.dumps(read, ensure_ascii=False)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{where}: expected a JSON object as arguments of {name}, found {error}") from error
    if not isinstance(read, dict):
        raise ValueError(f"{where}: expected a JSON object as arguments of {name}, found {text[:80]}")
    return ToolCall(name, text)


def answering_order(messages: Sequence[object]) -> list[int]:
    """The places of messages, outputs of tools in the order of the calls that they name: models read them so.

    Args:
        messages: as users pass them, with calls that can be read.

    Raises:
        ValueError: an output that names a call, or a tool, that the reply before it has not.
    """
    order: list[int] = []
    calls: list[Mapping[str, object]] = []  # of the reply before the outputs
    outputs: list[tuple[int, int]] = []  # that follow it: the number of the call, and the place

    def taken() -> None:
        order.extend(place for _, place in sorted(outputs))
        outputs.clear()

    for place, message in enumerate(messages):
        fields = message if isinstance(message, Mapping) else {}
        if fields.get("role") == "tool":
            outputs.append((_number_of_call(fields, calls, f"message {place}"), place))
            continue
        taken()
        order.append(place)
        calls = list(fields.get("tool_calls") or ())
    taken()
    return order


def _number_of_call(output: Mapping[str, object], calls: Sequence[Mapping[str, object]], where: str) -> int:
    """The number of the call that an output names; one that names none follows the others."""
    named = (
        ("tool_call_id", [call.get("id") for call in calls]),
        ("name", [_function(call).get("name") for call in calls]),
    )
    for field, known in named:
        found = output.get(field)
        if found is not None and found not in known and any(one is not None for one in known):
            raise ValueError(f"{where}: expected a {field} of the calls before it, {known}, found {found!r}")
    found, ids = output.get("tool_call_id"), named[0][1]
    return ids.index(found) if found is not None and found in ids else len(ids)


def _function(call: object) -> Mapping[str, object]:
    """The name and arguments of a call."""
    found = call.get("function", call) if isinstance(call, Mapping) else None
    return found if isinstance(found, Mapping) else {}
