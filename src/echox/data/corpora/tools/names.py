"""Other names for the six tools and their parameters, as other clients have them.

A model that met each tool under one name could know it by heart; one that met many has to read what is declared.
Source: written for this project (``names.yaml``).
"""

from __future__ import annotations

import functools
import json
import random
from collections.abc import Mapping
from dataclasses import dataclass

from echox.data.corpora.tools.requests import taught_tools, tool_schema
from echox.files import JsonObject, packaged_yaml
from echox.tool_calls.tools import Tool, ToolCall

KINDS = ("known", "new")
_MADE = 0.15
"""Share of the tools of other clients in training whose names say nothing: only descriptions tell what they do."""


@dataclass(frozen=True)
class NamedTool:
    """A tool under the names of one client.

    Attributes:
        tool: as it is declared.
        parameters: its names of parameters, by those of `taught_tools`.
    """

    tool: Tool
    parameters: Mapping[str, str]

    def call(self, call: ToolCall) -> ToolCall:
        """A call of the taught tool, under these names."""
        arguments = json.loads(call.arguments)
        return ToolCall(self.tool.name, json.dumps({self.parameters[name]: one for name, one in arguments.items()}))


def taught_names() -> dict[str, NamedTool]:
    """The tools under the names that they are taught with, by name."""
    return {tool.name: NamedTool(tool, {name: name for name in _properties(tool)}) for tool in taught_tools()}


def other_names(kind: str, rng: random.Random) -> dict[str, NamedTool]:
    """The tools under names of another client, by the names that they are taught with.

    Args:
        kind: "known" (of lessons for training) or "new".
        rng: decides which.

    Raises:
        ValueError: another kind.
    """
    if kind not in KINDS:
        raise ValueError(f"kind: expected one of {', '.join(KINDS)}, found {kind!r}")
    made = rng.sample(_content()["made"], len(taught_tools())) if kind == "known" else []
    found: dict[str, NamedTool] = {}
    for number, tool in enumerate(taught_tools()):
        says_nothing = made[number] if made and rng.random() < _MADE else None
        found[tool.name] = _renamed(tool, _content()["tools"][tool.name], kind, says_nothing, rng)
    return found


def _renamed(tool: Tool, choices: JsonObject, kind: str, says_nothing: str | None, rng: random.Random) -> NamedTool:
    names = {name: rng.choice(choices["parameters"][name][kind]) for name in _properties(tool)}
    schema = tool_schema({names[name]: one for name, one in _properties(tool).items()})
    name, descriptions = rng.choice(choices[kind]), choices["descriptions"][kind]
    if says_nothing is not None:
        name, descriptions = says_nothing, [one for one in descriptions if one]
    return NamedTool(Tool(name, rng.choice(descriptions), json.dumps(schema)), names)


def _properties(tool: Tool) -> JsonObject:
    found: JsonObject = json.loads(tool.parameters)["properties"]
    return found


@functools.cache
def _content() -> JsonObject:
    return packaged_yaml("echox.data.corpora.tools", "names.yaml")
