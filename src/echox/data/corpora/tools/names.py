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
    return {tool.name: _renamed(tool, _content()[tool.name], kind, rng) for tool in taught_tools()}


def _renamed(tool: Tool, choices: JsonObject, kind: str, rng: random.Random) -> NamedTool:
    names = {name: rng.choice(choices["parameters"][name][kind]) for name in _properties(tool)}
    schema = tool_schema({names[name]: one for name, one in _properties(tool).items()})
    declared = Tool(rng.choice(choices[kind]), rng.choice(choices["descriptions"]), json.dumps(schema))
    return NamedTool(declared, names)


def _properties(tool: Tool) -> JsonObject:
    found: JsonObject = json.loads(tool.parameters)["properties"]
    return found


@functools.cache
def _content() -> JsonObject:
    tools: JsonObject = packaged_yaml("echox.data.corpora.tools", "names.yaml")["tools"]
    return tools
