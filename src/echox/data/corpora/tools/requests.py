"""Requests that want a tool: what people say, the call, what the tool returns, and the answer; six tools, as texts.

Wordings and some values are held out. Source: written for this project (``requests.yaml``).
"""

from __future__ import annotations

import functools
import json
import operator
import random
import string
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from echox.data.numbers import said_number
from echox.data.splits import check_split
from echox.files import JsonObject, packaged_yaml
from echox.tool_calls.tools import Tool, ToolCall

_LARGEST = {"minutes": 60, "first": 99, "second": 99, "degrees": 35}
"""Numbers are drawn up to these."""
_OPERATIONS = {"plus": operator.add, "minus": operator.sub, "times": operator.mul}
SPOKEN_NUMBERS = 0.7
"""Share of requests whose numbers are in words, as people write down what they hear; the others are in figures."""


@dataclass(frozen=True)
class ToolRequest:
    """A request and what follows from it.

    Attributes:
        text: what the user says.
        call: what the model should call.
        lead_in: what it says before the call; "": nothing.
        output: what the tool returns.
        reply: what the model says then.
        without: what it says instead where the tool is not declared.
        split: "train", "validation" or "heldout": of the wording.
        new: a value in it is in no training request.
    """

    text: str
    call: ToolCall
    lead_in: str
    output: str
    reply: str
    without: str
    split: str
    new: bool = False


def taught_tools() -> tuple[Tool, ...]:
    """The tools."""
    return tuple(
        Tool(one["name"], one["description"], json.dumps(tool_schema(one["parameters"]))) for one in _content()["tools"]
    )


def tool_requests(split: str, per_wording: int, seed: int = 0) -> list[ToolRequest]:
    """Return requests of a split, in a fixed order; every second one of the held-out wordings has new values.

    Args:
        split: "train", "validation" or "heldout".
        per_wording: requests of each wording, with other values.
        seed: decides the values.

    Raises:
        ValueError: another split.
    """
    check_split(split)
    rng = random.Random(f"tool requests {split} {seed}")
    return [
        _request(tool, wording, split, new=split == "heldout" and bool(number % 2), rng=rng)
        for tool in _content()["tools"]
        for wording in tool[split]
        for number in range(per_wording)
    ]


def failed(request: ToolRequest, rng: random.Random) -> ToolRequest:
    """The request whose tool returns an error, and how that is answered; messages of held-out requests are new."""
    errors = _content()["errors"]
    messages = errors["messages"]["known" if request.split == "train" else "new"]
    if rng.random() < 1 / (1 + len(messages)):
        output, reply = errors["empty"]
        return replace(request, output=output, reply=reply)
    message = rng.choice(messages)
    output = rng.choice(errors["outputs"]).format(message=message)
    return replace(request, output=output, reply=errors["reply"].format(message=message))


def system_prompts() -> list[str]:
    """System prompts of training, "" among them."""
    return list(_content()["slots"]["system"]["known"])


def _request(tool: JsonObject, wording: str, split: str, new: bool, rng: random.Random) -> ToolRequest:
    values = _values(split, new, rng)
    in_words = rng.random() < SPOKEN_NUMBERS
    said = {
        name: said_number(value) if in_words and isinstance(value, int) else value for name, value in values.items()
    }
    words = {f"{name}_words": said_number(value) for name, value in values.items() if isinstance(value, int)}
    text = wording.format(**said)
    arguments = {name: values[name] for name in tool["parameters"]}
    gaps = {name for _, name, _, _ in string.Formatter().parse(wording) if name}
    return ToolRequest(
        text[:1].upper() + text[1:],
        ToolCall(tool["name"], json.dumps(arguments)),
        tool["lead_in"],
        tool["output"].format(**values),
        tool["reply"].format(**values, **words),
        tool["without"],
        split,
        new and bool(gaps & _with_new_values()),
    )


def _values(split: str, new: bool, rng: random.Random) -> dict[str, str | int]:
    """A value for every gap of a wording."""

    def of(choices: JsonObject) -> Any:
        found = choices["new"] if new and "new" in choices else choices["known"]
        # The order of what is drawn from decides what is: held-out requests stay as they were.
        return found if split != "train" or "more" not in choices else _together(found, choices["more"])

    values: dict[str, str | int] = {name: rng.randint(1, largest) for name, largest in _LARGEST.items()}
    for name, choices in _content()["slots"].items():
        if name == "fact":
            continue
        values[name] = rng.choice(of(choices))
    facts = of(_content()["slots"]["fact"])
    values["subject"] = rng.choice(list(facts))
    values["fact"] = facts[values["subject"]]
    first, second = int(values["first"]), int(values["second"])
    if values["operation"] == "minus":
        first, second = max(first, second), min(first, second)
    if values["operation"] == "times":
        second = 1 + second % 12
    values |= {"first": first, "second": second, "result": _OPERATIONS[str(values["operation"])](first, second)}
    return values


def _together(some: Any, more: Any) -> Any:
    """Two lists, or two objects, as one."""
    return {**some, **more} if isinstance(some, dict) else [*some, *more]


@functools.cache
def _with_new_values() -> frozenset[str]:
    """Gaps that have values of their own in held-out requests."""
    found = {name for name, choices in _content()["slots"].items() if "new" in choices}
    return frozenset(found | {"subject"})


def tool_schema(parameters: Mapping[str, object]) -> JsonObject:
    """Schema of a tool's arguments, all of which are needed; ``parameters``: the schema of each, by name."""
    return {"type": "object", "properties": dict(parameters), "required": list(parameters)}


@functools.cache
def _content() -> JsonObject:
    return packaged_yaml("echox.data.corpora.tools", "requests.yaml")
