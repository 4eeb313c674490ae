"""The form in which a chat template writes calls of tools, read from what the template writes.

Each family of language models was trained with its own form: Qwen writes ``<tool_call>`` and a JSON object with
"arguments", Llama 3 a bare JSON object with "parameters". The template of a model knows it. So a conversation with a
call is rendered, and its parts are found around the name and the arguments: no names of models, no marks in code.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from echox.tool_calls.tools import Tool, ToolCall

_ARGUMENTS = {"probe_key": "probe value"}
_TOOL = Tool(
    "probe_tool",
    "A probe.",
    json.dumps({"type": "object", "properties": {"probe_key": {"type": "string"}}, "required": ["probe_key"]}),
)
_CALL = ToolCall(_TOOL.name, json.dumps(_ARGUMENTS))
_TEXT, _OUTPUT = "Probe text.", "probe output"
_QUESTION = {"role": "user", "content": "A question?"}

Render = Callable[[Sequence[Mapping[str, object]], Sequence[Tool], bool], str]
"""Renders messages and tools; the last argument: up to the point where a reply begins."""


@dataclass(frozen=True)
class CallFormat:
    """How calls are written: ``before`` name ``between`` arguments ``after``.

    Attributes:
        before: text before the name of the tool.
        between: text between the name and the arguments.
        after: text after the arguments.
        separator: text between two calls; None: a reply has one call at most.
    """

    before: str
    between: str
    after: str
    separator: str | None

    @property
    def marker(self) -> str:
        """The text that begins a call within a reply; "": a reply is a call if it begins with ``{``."""
        return self.before[: self.before.index("{")].strip()


def find_format(render: Render) -> CallFormat | None:
    """The form of calls of a chat template; None if it does not know tools.

    Args:
        render: the template.
    """
    try:
        prompt = render([_QUESTION], [_TOOL], True)
        if _TOOL.name not in prompt or "probe_key" not in prompt:
            return None
        plain = _written(render, prompt, _TEXT)
        if plain is None or _TEXT not in plain:
            return None
        begin, end = plain.split(_TEXT, 1)
        call = _written(render, prompt, "", _CALL)
        answered = render([_QUESTION, _reply("", _CALL), {"role": "tool", "content": _OUTPUT}], [_TOOL], True)
        if call is None or not call.endswith(end) or _OUTPUT not in answered:
            return None
        found = _parts_of(call.removeprefix(begin)[: -len(end) or None])
    except ValueError:
        return None
    if found is None:
        return None
    before, between, after = found
    return CallFormat(before, between, after, _separator(render, prompt, before, after))


def _parts_of(call: str) -> tuple[str, str, str] | None:
    """What is written before, between and after the name and the arguments of the probe."""
    arguments = json.dumps(_ARGUMENTS)
    name_at, arguments_at = call.find(_TOOL.name), call.find(arguments)
    if not 0 <= name_at < arguments_at:
        return None
    name_end = name_at + len(_TOOL.name)
    before, between = call[:name_at].lstrip(), call[name_end:arguments_at]
    if "{" not in before or not before.endswith('"') or not between.startswith('"'):
        return None
    return before, between, call[arguments_at + len(arguments) :]


def _separator(render: Render, prompt: str, before: str, after: str) -> str | None:
    """The text between two calls; None: the template writes one call only."""
    try:
        calls = _written(render, prompt, "", _CALL, _CALL) or ""
    except ValueError:  # as Llama 3 says it
        return None
    call = f"{before}{_CALL.name}"
    first, second = calls.find(call), calls.rfind(call)
    first_end = calls.find(after, calls.find(json.dumps(_ARGUMENTS), first) + len(json.dumps(_ARGUMENTS))) + len(after)
    return calls[first_end:second] if 0 <= first < first_end <= second else None


def _reply(text: str, *calls: ToolCall) -> dict[str, object]:
    found: dict[str, object] = {"role": "assistant", "content": text}
    return {**found, "tool_calls": [call.for_template() for call in calls]} if calls else found


def _written(render: Render, prompt: str, text: str, *calls: ToolCall) -> str | None:
    """What the template writes for a reply after its prompt; None: it writes the prompt otherwise then."""
    whole = render([_QUESTION, _reply(text, *calls)], [_TOOL], False)
    return whole[len(prompt) :] if whole.startswith(prompt) else None
