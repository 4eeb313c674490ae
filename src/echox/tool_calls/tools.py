"""Tools, calls of tools, and what a reply may do with them (imports nothing heavy)."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

NO_PARAMETERS = '{"type": "object", "properties": {}}'
"""Schema of a tool without parameters."""


@dataclass(frozen=True)
class Tool:
    """A function that the model may call.

    Attributes:
        name: letters, digits, ``_`` and ``-``.
        description: what it does and when to call it, for the model.
        parameters: JSON schema of its arguments, an object; as text, so that tools can be compared.
    """

    name: str
    description: str = ""
    parameters: str = NO_PARAMETERS

    def for_template(self) -> dict[str, object]:
        """The tool as chat templates expect it."""
        function = {"name": self.name, "description": self.description, "parameters": json.loads(self.parameters)}
        return {"type": "function", "function": function}

    @property
    def num_chars(self) -> int:
        """Length of its text in a prompt, about."""
        return len(self.name) + len(self.description) + len(self.parameters)

    @cached_property
    def written(self) -> str:
        """All that templates may write of it, a line each."""
        return "\n".join((self.name, self.description, *_texts(self.parameters)))


@dataclass(frozen=True)
class ToolCall:
    """A call that the model has written: the tool's name, and a JSON object of arguments as text."""

    name: str
    arguments: str

    def for_template(self, text: Callable[[str], str] = str) -> dict[str, object]:
        """The call as chat templates expect it.

        Args:
            text: what stands for a text of it.
        """
        arguments = _with_texts(json.loads(self.arguments), text)
        return {"type": "function", "function": {"name": text(self.name), "arguments": arguments}}

    @cached_property
    def written(self) -> str:
        """All that templates may write of it, a line each."""
        return "\n".join((self.name, *_texts(self.arguments)))


@dataclass(frozen=True)
class ToolCallDelta:
    """The next piece of a call that is being written. The first piece of a call has its name and no arguments.

    Attributes:
        index: number of the call in the reply.
        name: of the tool.
        arguments: more text of the arguments. All pieces joined are a JSON object.
        done: the arguments are complete.
    """

    index: int
    name: str
    arguments: str = ""
    done: bool = False


@dataclass(frozen=True)
class ToolUse:
    """What a reply may do with tools.

    Attributes:
        tools: the declared tools.
        allowed: names of those that it may call; None: all.
        required: it must call one, and says nothing.
        parallel: it may call several.
    """

    tools: tuple[Tool, ...] = ()
    allowed: frozenset[str] | None = None
    required: bool = False
    parallel: bool = True

    @property
    def callable(self) -> tuple[Tool, ...]:
        """The tools that the reply may call."""
        return tuple(tool for tool in self.tools if self.allowed is None or tool.name in self.allowed)

    @property
    def shown(self) -> tuple[Tool, ...]:
        """The tools that the model reads of: all of them, or none if it may call none."""
        return self.tools if self.callable else ()


def _with_texts(value: object, text: Callable[[str], str]) -> object:
    """A value of JSON with its texts replaced."""
    if isinstance(value, str):
        return text(value)
    if isinstance(value, list):
        return [_with_texts(one, text) for one in value]
    if isinstance(value, dict):
        return {text(name): _with_texts(one, text) for name, one in value.items()}
    return value


def _texts(source: str) -> list[str]:
    """What templates may write of JSON text: they get its values, where no character is hidden by an escape.

    They write all of it as JSON, a text alone, or values with a bar between (so signatures write an enum: bars are in
    special tokens, too).
    """
    left = [json.loads(source)]
    texts = [source, json.dumps(left[0], ensure_ascii=False)]
    while left:
        value = left.pop()
        if isinstance(value, str):
            texts.append(value)
        if isinstance(value, str | list | dict):
            texts.append("|".join(map(str, value)))
        if isinstance(value, list | dict):
            left.extend(value)
        if isinstance(value, dict):
            left.extend(value.values())
    return texts
