"""Some seventy tools of other clients, and what people say for each, as texts.

A model that was taught six tools knows six; one that met many has to read what is declared. Some tools are held out.
Source: written for this project (``others.yaml``).
"""

from __future__ import annotations

import functools
import json
import random
from collections.abc import Iterator

from echox.data.corpora.tools.names import NamedTool
from echox.data.corpora.tools.requests import SPOKEN_NUMBERS, ToolRequest, tool_schema
from echox.data.numbers import said_number
from echox.data.splits import check_split, held_out_share
from echox.files import JsonObject, packaged_yaml
from echox.tool_calls.tools import Tool, ToolCall

_OUTPUT = '{"state": "done"}'
WITHOUT = "I cannot do that here."
"""What is said where the tool is not declared."""


def other_tools(split: str, rng: random.Random) -> dict[str, NamedTool]:
    """The tools of a split, each under one of its names, by the first of them.

    Args:
        split: "train", "validation" or "heldout".
        rng: decides the names.

    Raises:
        ValueError: another split.
    """
    return {
        one["names"][0]: NamedTool(
            Tool(rng.choice(one["names"]), one["description"], json.dumps(_schema(one))),
            {name: name for name in one["parameters"]},
        )
        for one in _tools(split)
    }


def other_requests(split: str, per_wording: int, seed: int = 0) -> list[ToolRequest]:
    """Return requests of a split, in a fixed order; their calls name each tool by the first of its names.

    Args:
        split: "train", "validation" or "heldout".
        per_wording: requests of each wording, with other values.
        seed: decides the values.

    Raises:
        ValueError: another split.
    """
    rng = random.Random(f"requests for other tools {split} {seed}")
    return [
        _request(tool, *wording, split=split, rng=rng)
        for tool in _tools(split)
        for wording in _wordings(tool)
        for _ in range(per_wording)
    ]


def _tools(split: str) -> list[JsonObject]:
    check_split(split)
    found = _content()
    return list(found["train"]) if split == "train" else held_out_share(found["held_out"], split)


def _wordings(tool: JsonObject) -> Iterator[tuple[str, JsonObject]]:
    """Each, and the values that it fixes."""
    for one in tool["said"]:
        yield (one, {}) if isinstance(one, str) else tuple(one)


def _schema(tool: JsonObject) -> JsonObject:
    kinds = {
        name: {"type": kind} if isinstance(kind, str) else {"type": "string", **kind}
        for name, kind in tool["parameters"].items()
    }
    return tool_schema(kinds)


def _request(tool: JsonObject, wording: str, fixed: JsonObject, split: str, rng: random.Random) -> ToolRequest:
    values = {name: fixed.get(name) or _value(name, kind, rng) for name, kind in tool["parameters"].items()}
    words = {name: said_number(value) for name, value in values.items() if isinstance(value, int)}
    said = wording.format(**{**values, **(words if rng.random() < SPOKEN_NUMBERS else {})})
    done = tool["done"].format(**{**values, **words})
    return ToolRequest(
        said[:1].upper() + said[1:],
        ToolCall(tool["names"][0], json.dumps(values)),
        "",
        _OUTPUT,
        done[:1].upper() + done[1:],
        WITHOUT,
        split,
    )


def _value(name: str, kind: str | JsonObject, rng: random.Random) -> str | int:
    if isinstance(kind, dict):
        return str(rng.choice(kind["enum"]))
    content = _content()
    return rng.randint(1, content["numbers"][name]) if kind == "integer" else str(rng.choice(content["slots"][name]))


@functools.cache
def _content() -> JsonObject:
    return packaged_yaml("echox.data.corpora.tools", "others.yaml")
