"""Tools as clients declare them: read, limited, merged with those of the session, and shown.

Source: OpenAI Realtime (``session.tools``), chat completions (``tools``); https://json-schema.org for parameters.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, replace

from echox.serving.protocol.events import ARRAY, OBJECT, EventError, shorten, take
from echox.serving.protocol.json_input import JsonObject
from echox.serving.protocol.limits import Limits
from echox.tool_calls.tools import NO_PARAMETERS, Tool, ToolUse

_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
_CHOICES = ("none", "auto", "required")


@dataclass(frozen=True)
class ToolOptions:
    """The tools of a session or request.

    Attributes:
        tools: functions that the model may call.
        choice: ``tool_choice``, as the client sees it.
        use: the same for the model.
    """

    tools: tuple[Tool, ...] = ()
    choice: str | JsonObject = "auto"
    parallel: bool = True
    use: ToolUse = ToolUse()

    def shown(self) -> list[JsonObject]:
        """The tools in JSON, as a session shows them."""
        return [
            {
                "type": "function",
                "name": tool.name,
                "description": tool.description,
                "parameters": json.loads(tool.parameters),
            }
            for tool in self.tools
        ]


def read_tools(change: JsonObject, before: ToolOptions, where: str, limits: Limits) -> ToolOptions:
    """Read ``tools``, ``tool_choice`` and ``parallel_tool_calls``; what is left out stays as it was.

    Tools of other types than "function" are accepted without effect.

    Raises:
        EventError: a malformed tool, more than the limits allow, or a choice of a tool that is not declared.
    """
    found = before
    if "tools" in change:
        found = replace(found, tools=_read_list(change, where, limits))
    if "tool_choice" in change:
        found = replace(found, choice=take(change, "tool_choice", (str, OBJECT), where, default="auto"))
    if "parallel_tool_calls" in change:
        found = replace(found, parallel=take(change, "parallel_tool_calls", bool, where, default=True))
    return before if found == before else replace(found, use=_use_of(found, where))


def check_tools(change: JsonObject, where: str = "", may_require: bool = False) -> None:
    """Check ``tools`` and ``tool_choice`` for a model that calls no tool; they may be declared.

    Args:
        change: the object from a client.
        where: its place in the message, for errors.
        may_require: a ``tool_choice`` that requires a call is accepted too, without effect.

    Raises:
        EventError: not a list of objects, or a ``tool_choice`` that requires a call.
    """
    inside = f"{where}." if where else ""
    for index, tool in enumerate(take(change, "tools", ARRAY, where, default=[])):
        if not isinstance(tool, dict):
            raise EventError(f"{inside}tools[{index}]: expected an object", "invalid_type", f"{inside}tools[{index}]")
    choice = take(change, "tool_choice", (str, OBJECT), where, default="auto")
    mode: object = choice
    param = f"{inside}tool_choice"
    if isinstance(choice, str) and choice not in ("none", "auto", "required"):
        message = f"{param}: expected none, auto, required or an object, found {shorten(choice)}"
        raise EventError(message, "invalid_value", param)
    if isinstance(choice, dict) and choice.get("type") == "allowed_tools":
        allowed = choice.get("allowed_tools", choice)
        mode = allowed.get("mode") if isinstance(allowed, dict) else None
    if mode not in ("none", "auto") and not may_require:
        message = f"{param}: expected auto or none, found {shorten(choice)}: this model does not call tools"
        raise EventError(message, "tools_not_supported", param)


def _read_list(change: JsonObject, where: str, limits: Limits) -> tuple[Tool, ...]:
    param = f"{where}.tools".lstrip(".")
    given = take(change, "tools", ARRAY, where, default=[])
    if len(given) > limits.max_tools:
        message = f"{param}: expected at most {limits.max_tools}, found {len(given)}"
        raise EventError(message, "invalid_value", param)
    tools: dict[str, Tool] = {}
    for index, source in enumerate(given):
        place = f"{param}[{index}]"
        if not isinstance(source, dict):
            raise EventError(f"{place}: expected an object", "invalid_type", place)
        if take(source, "type", str, place, default="function") != "function":
            continue
        tool = _read_function(take(source, "function", OBJECT, place, default=source), place)
        if tool.name in tools:
            message = f"{place}.name: expected another name, found {shorten(tool.name)} again"
            raise EventError(message, "invalid_value", f"{place}.name")
        tools[tool.name] = tool
    num_chars, max_chars = sum(tool.num_chars for tool in tools.values()), limits.max_tools_chars
    if num_chars > max_chars:
        message = f"{param}: expected at most {max_chars} characters in all of them, found {num_chars}"
        raise EventError(message, "string_too_long", param)
    return tuple(tools.values())


def _read_function(source: JsonObject, where: str) -> Tool:
    name = take(source, "name", str, where)
    if not _NAME.fullmatch(name):
        message = f"{where}.name: expected 1 to 64 letters, digits, _ or -, found {shorten(name)}"
        raise EventError(message, "invalid_value", f"{where}.name")
    description = take(source, "description", str, where, default="")
    parameters = take(source, "parameters", OBJECT, where, default={})
    if not parameters:
        return Tool(name, description, NO_PARAMETERS)
    if parameters.get("type", "object") != "object":
        message = f"{where}.parameters.type: expected object, found {shorten(parameters['type'])}"
        raise EventError(message, "invalid_function_parameters", f"{where}.parameters")
    return Tool(name, description, json.dumps(parameters, ensure_ascii=False))


def _use_of(options: ToolOptions, where: str) -> ToolUse:
    param = f"{where}.tool_choice".lstrip(".")
    choice, names = options.choice, frozenset(tool.name for tool in options.tools)
    if isinstance(choice, str):
        if choice not in _CHOICES:
            message = f"{param}: expected {', '.join(_CHOICES)} or an object, found {shorten(choice)}"
            raise EventError(message, "invalid_value", param)
        allowed, required = (frozenset[str]() if choice == "none" else None), choice == "required"
    else:
        allowed, required = _read_choice(choice, param)
        if not allowed <= names:
            unknown = min(allowed - names)
            message = f"{param}: expected a declared tool, found {shorten(unknown)}; declare it in tools"
            raise EventError(message, "invalid_value", param)
    named = not isinstance(choice, str) and required and choice.get("type") != "allowed_tools"
    return ToolUse(options.tools, allowed, required and bool(names), options.parallel and not named)


def _read_choice(choice: JsonObject, param: str) -> tuple[frozenset[str], bool]:
    """The tools that a choice allows, and whether one of them must be called."""
    kind = take(choice, "type", str, param, default="function", choices=("function", "allowed_tools"))
    if kind == "function":
        return frozenset([_name_in(choice, param)]), True
    inner = take(choice, "allowed_tools", OBJECT, param, default=choice)
    mode = take(inner, "mode", str, param, default="auto", choices=("auto", "required"))
    allowed = [one for one in take(inner, "tools", ARRAY, param, default=[]) if isinstance(one, dict)]
    return frozenset(_name_in(one, param) for one in allowed if one.get("type", "function") == "function"), (
        mode == "required"
    )


def _name_in(source: JsonObject, param: str) -> str:
    return take(take(source, "function", OBJECT, param, default=source), "name", str, param)
