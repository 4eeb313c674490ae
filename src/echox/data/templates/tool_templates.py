"""Chat templates with tools: the families that this package makes templates for, as they were trained to call tools.

A template without tools stays as it is; this one is used where a conversation has tools. Without tools both write the
same. The words around the tools are those of the published templates, because the models were trained with them.

A model that was trained without tools can be taught some (stage "instruct"). Its template then writes them shortly, as
signatures, since a small model reads slowly: `taught_template`.

Source: the chat templates of Llama 3.1 and 3.2 (custom tools in the system turn; without the date) and of Qwen3.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Container, Sequence
from dataclasses import dataclass

from jinja2 import Environment, Template

from echox.data.templates.chat_templates import FAMILIES, NO_THOUGHT, OPENED, SAID, TurnMarkers
from echox.models.conversion.load import OFFICIAL_CHAT_TEMPLATE
from echox.models.text.tokenization_text import CHAT_TEMPLATE, END
from echox.tool_calls.tools import Tool, ToolCall


@dataclass(frozen=True)
class ToolForm:
    """How a family of models writes tools.

    Attributes:
        known_by: the token that identifies the family, as in `TurnMarkers`.
        trained_with: a token that only models of the family have that were trained with tools.
        macros: of Jinja: ``with_tools(tools, text)`` is the text of the system turn; ``called(text, calls)`` a reply
            with calls; ``output(content)`` the output of a tool.
        tool_role: who says the output of a tool.
        joins_outputs: outputs that follow each other are one turn, with a new line between.
    """

    known_by: str
    trained_with: str
    macros: str
    tool_role: str
    joins_outputs: bool


_LLAMA = ToolForm(
    "<|start_header_id|>",
    "<|python_tag|>",
    "{%- macro with_tools(tools, text) -%}"
    "{%- if tools -%}{{- 'Environment: ipython\\n\\nYou have access to the following functions. To call a function, "
    'please respond with JSON for a function call.Respond in the format {"name": function name, "parameters": '
    "dictionary of argument name and its value}.Do not use variables.\\n\\n' -}}"
    "{%- for tool in tools -%}{{- (tool | tojson(indent=4)) + '\\n\\n' -}}{%- endfor -%}{%- endif -%}"
    "{{- text -}}{%- endmacro -%}"
    "{%- macro called(text, calls) -%}"
    "{%- if calls | length > 1 -%}{{- raise_exception('one call at a time') -}}{%- endif -%}"
    "{{- text + '{\"name\": \"' + calls[0]['function']['name'] + '\", \"parameters\": ' "
    "+ (calls[0]['function']['arguments'] | tojson) + '}' -}}{%- endmacro -%}"
    "{%- macro output(content) -%}{{- content | tojson -}}{%- endmacro -%}",
    tool_role="ipython",
    joins_outputs=False,
)
_CHATML = ToolForm(
    "<|im_start|>",
    "<tool_call>",
    "{%- macro with_tools(tools, text) -%}{{- text -}}"
    "{%- if tools -%}{{- ('\\n\\n' if text else '') + '# Tools\\n\\nYou may call one or more functions to assist with "
    "the user query.\\n\\nYou are provided with function signatures within <tools></tools> XML tags:\\n<tools>' -}}"
    "{%- for tool in tools -%}{{- '\\n' + (tool | tojson) -}}{%- endfor -%}"
    "{{- '\\n</tools>\\n\\nFor each function call, return a json object with function name and arguments within "
    '<tool_call></tool_call> XML tags:\\n<tool_call>\\n{"name": <function-name>, "arguments": <args-json-object>}\\n'
    "</tool_call>' -}}{%- endif -%}{%- endmacro -%}"
    "{%- macro called(text, calls) -%}{{- text -}}{%- for call in calls -%}"
    "{{- ('\\n' if text or not loop.first else '') + '<tool_call>\\n{\"name\": \"' + call['function']['name'] "
    "+ '\", \"arguments\": ' + (call['function']['arguments'] | tojson) + '}\\n</tool_call>' -}}"
    "{%- endfor -%}{%- endmacro -%}"
    "{%- macro output(content) -%}{{- '<tool_response>\\n' + content + '\\n</tool_response>' -}}{%- endmacro -%}",
    tool_role="user",
    joins_outputs=True,
)
_CALL = '<tool>{"name": "'
_SIGNATURES = ToolForm(
    "",
    "",
    "{%- macro kind(schema) -%}"
    "{{- (schema['enum'] | join('|')) if schema['enum'] else schema['type'] | default('any') -}}"
    "{%- endmacro -%}"
    "{%- macro with_tools(tools, text) -%}{{- text -}}"
    "{%- if tools -%}{{- ('\n' if text else '') + 'Tools:' -}}{%- for tool in tools -%}"
    "{%- set one = tool['function'] -%}{{- '\n' + one['name'] + '(' -}}"
    "{%- for name, schema in (one['parameters']['properties'] or {}).items() -%}"
    "{{- (', ' if not loop.first else '') + name + ': ' + kind(schema) -}}{%- endfor -%}"
    "{{- ')' + (': ' + one['description'] if one['description'] else '') -}}{%- endfor -%}{%- endif -%}{%- endmacro -%}"
    "{%- macro called(text, calls) -%}{{- text -}}{%- for call in calls -%}"
    "{{- (' ' if text or not loop.first else '') + '" + _CALL + "' + call['function']['name'] "
    "+ '\", \"arguments\": ' + (call['function']['arguments'] | tojson) + '}' -}}{%- endfor -%}{%- endmacro -%}"
    "{%- macro output(content) -%}{{- 'Result: ' + content -}}{%- endmacro -%}",
    tool_role="user",
    joins_outputs=True,
)
"""Of models that were taught tools here."""
_OWN_TURNS = TurnMarkers("", END, "<|", "|>", between="", bos=True)
"""Turns of the tokenizers that are trained here, as `CHAT_TEMPLATE` writes them."""

_TURNS = (
    SAID + "{%- set turns = namespace(between='') -%}" + OPENED + "{%- if tools and messages[0]['role'] != 'system' -%}"
    "{{- opened('system') + with_tools(tools, '') + end -}}{%- set turns.between = between -%}{%- endif -%}"
    "{%- for message in messages -%}{%- set role = message['role'] -%}{%- set text = said(message['content']) -%}"
    "{%- if role == 'tool' -%}"
    "{%- set follows = joins_outputs and loop.previtem is defined and loop.previtem['role'] == 'tool' -%}"
    "{%- set goes_on = joins_outputs and loop.nextitem is defined and loop.nextitem['role'] == 'tool' -%}"
    "{{- ('\\n' if follows else opened(tool_role)) + output(text) + ('' if goes_on else end) -}}"
    "{%- elif role == 'system' -%}{{- opened(role) + with_tools(tools, text) + end -}}"
    "{%- elif message['tool_calls'] -%}{{- opened(role) + called(text, message['tool_calls']) + end -}}"
    "{%- else -%}{{- opened(role) + text + end -}}{%- endif -%}"
    "{%- set turns.between = between -%}{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- opened('assistant') -}}{%- endif -%}"
)
"""As the turns of `chat_templates`, with tools."""

_OFFICIAL_CHANGES = (
    (
        "{{- bos_token -}}",
        "{{- bos_token -}}{%- if tools and messages[0]['role'] != 'system' -%}{{- opened('system') + bos + '\\n' + bos "
        "+ with_tools(tools, '') + '<|eot_id|>' -}}{%- endif -%}",
    ),
    ("opened(message['role'])", "opened('ipython' if message['role'] == 'tool' else message['role'])"),
    (
        "{{- part['text'] -}}",
        "{%- set text = part['text'] -%}{{- with_tools(tools, text) if message['role'] == 'system' else output(text) "
        "if message['role'] == 'tool' else text -}}",
    ),
    (
        "{{- '<|eot_id|>' -}}",
        "{{- (called('', message['tool_calls']) if message['tool_calls'] else '') + '<|eot_id|>' -}}",
    ),
)
"""What tools change in the template of the official release: text in it, and its replacement."""


def tool_template(template: object, audio_token: str, tokens: Container[str]) -> str | None:
    """The template that writes tools too, in place of one that this package has made; None: there is none.

    Args:
        template: of the tokenizer.
        audio_token: the placeholder of an audio.
        tokens: the added tokens of the tokenizer: they tell whether the model was trained with tools.
    """
    trained_with, found = _tool_templates(audio_token).get(str(template), ("", None))
    return found if trained_with in tokens else None


@functools.lru_cache(8)
def _tool_templates(audio_token: str) -> dict[str, tuple[str, str]]:
    """By template: the token that the tokenizer must have, and the template with tools."""
    found = {OFFICIAL_CHAT_TEMPLATE: (_LLAMA.trained_with, _official())}
    for form in (_LLAMA, _CHATML):
        family = next(one for one in FAMILIES if one.known_by == form.known_by)
        for thought in ("", NO_THOUGHT):
            written = family.variables(audio_token, thought) + _form_in_turns(form)
            found[family.template(audio_token, thought)] = form.trained_with, written
    return found


@functools.lru_cache(8)
def taught_templates(audio_token: str) -> dict[str, str]:
    """By template without tools: that of a model which was taught tools; both write the same where there are none."""
    markers = {CHAT_TEMPLATE: _OWN_TURNS}
    for family in FAMILIES:
        if family.system_turn:
            markers[family.template(audio_token)] = family
    return {
        template: one.variables("<|audio|>" if one is _OWN_TURNS else audio_token) + _form_in_turns(_SIGNATURES)
        for template, one in markers.items()
    }


def taught_template(template: object, audio_token: str) -> str:
    """The template of a model that was taught tools, from the one that it had before, or that it has already.

    Raises:
        ValueError: one that this package has not made, or of a family without system turns.
    """
    found = taught_templates(audio_token)
    if template in found.values():
        return str(template)
    if template not in found:
        raise ValueError(
            f"chat template: expected one that this package makes, found {str(template)[:80]!r}...; tools can be "
            "taught to models whose turns it knows"
        )
    return found[str(template)]


def tools_text(tools: Sequence[Tool], text: str) -> str:
    """The text of a system turn with tools, as `taught_template` writes it."""
    return _macro("with_tools(tools, text)", tools=[tool.for_template() for tool in tools], text=text)


def calls_text(text: str, calls: Sequence[ToolCall]) -> str:
    """A reply with calls, as `taught_template` writes it."""
    return _macro("called(text, calls)", text=text, calls=[call.for_template() for call in calls])


def has_call(reply: str) -> bool:
    """Whether a reply that `taught_template` writes holds a call."""
    return _CALL in reply


def output_text(content: str) -> str:
    """The turn with the output of a tool, as `taught_template` writes it; it is a user's."""
    return _macro("output(content)", content=content)


def _macro(expression: str, **variables: object) -> str:
    return _compiled(expression).render(**variables)


@functools.cache
def _compiled(expression: str) -> Template:
    environment = Environment()
    environment.filters["tojson"] = json.dumps  # as transformers has it: no escapes of HTML; before it is compiled
    return environment.from_string(_SIGNATURES.macros + "{{- " + expression + " -}}")


def _form_in_turns(form: ToolForm) -> str:
    joins = str(form.joins_outputs).lower()
    return f"{{%- set tool_role = {form.tool_role!r} -%}}{{%- set joins_outputs = {joins} -%}}{form.macros}" + _TURNS


def _official() -> str:
    template = OFFICIAL_CHAT_TEMPLATE
    for text, changed in _OFFICIAL_CHANGES:
        assert template.count(text) == 1, text
        template = template.replace(text, changed)
    return _LLAMA.macros + template
