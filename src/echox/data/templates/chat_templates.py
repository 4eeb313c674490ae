"""Chat templates for language models with audio input: audio placeholders, and turns that are only appended.

A published chat template rarely knows audio, may write today's date, or rewrites earlier turns (old thoughts are
dropped). Training and streaming have three requirements: a part ``{"type": "audio"}`` becomes the placeholder; the text
of a conversation's beginning does not depend on later turns; a reply is written unchanged and ends with the tokenizer's
eos token. `hearing_template` keeps a template that meets them; else it makes one with the turn markers of the model's
family. Markers are found in the vocabulary by their names: no ids, no model names.

Conversations begin in several ways: with a system prompt, with a greeting of the model, with two turns of the user.
Where a published template refuses one of them, the messages are brought into the form that it takes.

Source: Llama 3, ChatML (Qwen, SmolLM) and Gemma, as their chat templates write turns.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase

from echox.models.conversion.load import OFFICIAL_CHAT_TEMPLATE
from echox.models.text.tokenization_text import CHAT_TEMPLATE
from echox.templates import TemplateWorker, template_variables

_PROBE: list[dict[str, object]] = [
    {"role": "user", "content": [{"type": "audio"}]},
    {"role": "assistant", "content": "The reply one."},
    {"role": "user", "content": [{"type": "audio"}, {"type": "text", "text": "What else?"}]},
    {"role": "assistant", "content": "The reply two."},
    {"role": "user", "content": "And?"},
    {"role": "assistant", "content": "The reply three."},
]

_SYSTEM: list[dict[str, object]] = [{"role": "system", "content": "The system prompt."}]
_TURNS_IN_A_ROW: list[list[dict[str, object]]] = [
    [{"role": "assistant", "content": "The greeting."}],
    [{"role": "user", "content": "The turn before."}],
    [{"role": "assistant", "content": "The greeting."}, {"role": "assistant", "content": "The other greeting."}],
]
"""What may stand before the conversation of `_PROBE`."""

_FLAT_PARTS = (
    "{%- set flat = namespace(messages=[]) -%}{%- for message in messages -%}{%- set content = namespace(text='') -%}"
    "{%- if message['content'] is string -%}{%- set content.text = message['content'] -%}{%- else -%}"
    "{%- for part in message['content'] -%}{%- set content.text = content.text + "
    "(AUDIO if part['type'] == 'audio' else part['text']) -%}{%- endfor -%}{%- endif -%}"
    "{%- set flat.messages = flat.messages + [dict(message, content=content.text)] -%}{%- endfor -%}"
    "{%- set messages = flat.messages -%}"
)
"""Put before a template that takes text only: parts become text, with the placeholder for audio."""

_JOINED = (
    "(FIRST + BETWEEN + SECOND) if FIRST is string and SECOND is string else "
    "(([{'type': 'text', 'text': FIRST}] if FIRST is string else FIRST) + [{'type': 'text', 'text': BETWEEN}] "
    "+ ([{'type': 'text', 'text': SECOND}] if SECOND is string else SECOND))"
)
"""Two contents as one, of Jinja."""


def _joined(first: str, between: str, second: str) -> str:
    return _JOINED.replace("FIRST", first).replace("BETWEEN", between).replace("SECOND", second)


_NO_SYSTEM_TURN = (
    "{%- if messages and messages[0]['role'] == 'system' -%}"
    "{%- if messages | length > 1 and messages[1]['role'] == 'user' -%}{%- set messages = [dict(messages[1], content="
    + _joined("messages[0]['content']", "'\\n\\n'", "messages[1]['content']")
    + ")] + messages[2:] -%}{%- else -%}"
    "{%- set messages = [dict(messages[0], role='user')] + messages[1:] -%}{%- endif -%}{%- endif -%}"
)
"""Put before a template without a system role: the system prompt becomes the begin of the first user turn."""

_TURNS_ALTERNATE = (
    "{%- set one = namespace(turns=[], last={'role': ''}) -%}{%- for message in messages -%}"
    "{%- if message['role'] == one.last['role'] and not one.last['tool_calls'] -%}"
    "{%- set one.turns = one.turns[:-1] -%}{%- set one.last = dict(message, content="
    + _joined("one.last['content']", "'\\n'", "message['content']")
    + ") -%}{%- else -%}{%- if message['role'] == 'assistant' and one.last['role'] in ('', 'system') -%}"
    "{%- set one.turns = one.turns + [{'role': 'user', 'content': ''}] -%}{%- endif -%}"
    "{%- set one.last = message -%}{%- endif -%}{%- set one.turns = one.turns + [one.last] -%}{%- endfor -%}"
    "{%- set messages = one.turns -%}"
)
"""Put before a template whose turns must alternate, the user's first: neighbours become one turn, a line each; a reply
that nothing was said before follows an empty turn of the user."""


@dataclass(frozen=True)
class TurnMarkers:
    """How a family of models writes turns.

    Attributes:
        known_by: the token that identifies the family. end: the token that ends a turn.
        before_role, after_role: text around the role's name, at the start of a turn. between: text between turns.
        bos: a conversation begins with the tokenizer's bos token. assistant: name of the model's role.
        system_turn: False: a system message is put before the text of the first user turn.
    """

    known_by: str
    end: str
    before_role: str
    after_role: str
    between: str = "\n"
    bos: bool = False
    assistant: str = "assistant"
    system_turn: bool = True

    def template(self, audio_token: str, thought: str = "") -> str:
        """The chat template of these turns; `thought` is written before every reply."""
        return self.variables(audio_token, thought) + _TURNS

    def variables(self, audio_token: str, thought: str = "") -> str:
        """The begin of a template, which sets what is in these attributes."""
        values: dict[str, str | bool] = {
            "before_role": self.before_role,
            "after_role": self.after_role,
            "between": self.between,
            "end": self.end,
            "bos": self.bos,
            "assistant": self.assistant,
            "system_turn": self.system_turn,
            "audio": audio_token,
            "thought": thought,
        }
        return "".join(f"{{%- set {name} = {_jinja(value)} -%}}" for name, value in values.items())


FAMILIES = (
    TurnMarkers(
        "<|start_header_id|>", "<|eot_id|>", "<|start_header_id|>", "<|end_header_id|>\n\n", between="", bos=True
    ),
    TurnMarkers("<|im_start|>", "<|im_end|>", "<|im_start|>", "\n"),
    TurnMarkers(
        "<start_of_turn>", "<end_of_turn>", "<start_of_turn>", "\n", bos=True, assistant="model", system_turn=False
    ),
)
"""Llama 3; ChatML (Qwen, SmolLM); Gemma."""

SAID = (
    "{%- macro said(content) -%}{%- if content is string -%}{{- content -}}{%- else -%}{%- for part in content -%}"
    "{{- audio if part['type'] == 'audio' else part['text'] -}}{%- endfor -%}{%- endif -%}{%- endmacro -%}"
)
"""Macro: the text of a message's content."""
OPENED = (
    "{%- macro opened(role) -%}{{- turns.between + before_role + (assistant if role == 'assistant' else role) "
    "+ after_role + (thought if role == 'assistant' else '') -}}{%- endmacro -%}"
    "{{- bos_token if bos else '' -}}"
)
"""Macro: the begin of a turn, after the text between turns; then the begin of a conversation."""
_TURNS = (
    SAID
    + "{%- set turns = namespace(between='', system='') -%}"
    + OPENED
    + "{%- for message in messages -%}{%- if message['role'] == 'system' and not system_turn -%}"
    "{%- set turns.system = said(message['content']) + '\\n\\n' -%}"
    "{%- else -%}{{- opened(message['role']) + turns.system + said(message['content']) + end -}}"
    "{%- set turns.between = between -%}{%- set turns.system = '' -%}{%- endif -%}{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- opened('assistant') -}}{%- endif -%}"
)
"""Text between turns is written before the next one, so a reply ends with its end token, the last trained token."""

NO_THOUGHT = "<think>\n\n</think>\n\n"
"""An empty thought for models that may write one before the reply: they answer at once."""


def own_templates(audio_token: str) -> frozenset[str]:
    """The chat templates that this package makes: they end for all messages."""
    families = {family.template(audio_token, thought) for family in FAMILIES for thought in ("", NO_THOUGHT)}
    return frozenset({CHAT_TEMPLATE, OFFICIAL_CHAT_TEMPLATE, *families})


def hearing_template(tokenizer: PreTrainedTokenizerBase, audio_token: str) -> str:
    """A chat template that writes audio placeholders, only appends turns, and ends replies with the eos token.

    The tokenizer's own template if it does so; else one with the markers of its family; else its own, with parts
    written as text. Where its own refuses system prompts, they begin the first user turn; where it refuses turns that
    do not alternate, it gets such as do. If the family's end of turn is not the eos token, `tokenizer.eos_token` is set
    to it. A date or default system message of the published template is not in the family's plain form.

    Args:
        tokenizer: of the language model; `audio_token` is already in its vocabulary.
        audio_token: the placeholder.

    Raises:
        ValueError: an unknown family whose own template cannot be used.
    """
    own = tokenizer.chat_template
    with TemplateWorker() as worker:
        return _hearing_template(tokenizer, own, audio_token, worker)


def _hearing_template(tokenizer: PreTrainedTokenizerBase, own: object, audio_token: str, worker: TemplateWorker) -> str:
    fault = "it has none"
    if isinstance(own, str) and own:
        found, fault = _complete(tokenizer, "", own, audio_token, worker)
        if found is not None:
            return found
    vocabulary = tokenizer.get_vocab()
    for family in FAMILIES:
        if family.known_by in vocabulary and family.end in vocabulary:
            tokenizer.eos_token = family.end
            return family.template(audio_token, NO_THOUGHT if "enable_thinking" in str(own) else "")
    if own:
        flat = _FLAT_PARTS.replace("AUDIO", repr(audio_token))
        found, fault = _complete(tokenizer, flat, str(own), audio_token, worker)
        if found is not None:
            return found
    raise ValueError(
        f"chat template: expected one of the families {', '.join(family.known_by for family in FAMILIES)}, or a "
        f"template that can be used, found another: {fault}; set tokenizer.chat_template to one that writes "
        f"{audio_token} for parts of type audio, appends only, and ends replies with the eos token"
    )


def _jinja(value: str | bool) -> str:
    return repr(value) if isinstance(value, str) else str(value).lower()


def _complete(
    tokenizer: PreTrainedTokenizerBase, before: str, own: str, audio_token: str, worker: TemplateWorker
) -> tuple[str | None, str]:
    """A template that takes every conversation, from one that may refuse some; None, and what it does wrong.

    Args:
        tokenizer: of the template.
        before: Jinja that must stand before it.
        own: the template.
        audio_token: the placeholder.
        worker: renders it.
    """

    def fault_of(template: str, *openings: list[dict[str, object]]) -> str | None:
        found = (_fault(tokenizer, template, audio_token, worker, opening) for opening in openings)
        return next((one for one in found if one is not None), None)

    fault = fault_of(before + own, [])
    if fault is None:
        if fault_of(before + own, _SYSTEM) is not None:
            before += _NO_SYSTEM_TURN
        if fault_of(before + own, *_TURNS_IN_A_ROW) is not None:
            before += _TURNS_ALTERNATE
        fault = fault_of(before + own, [], _SYSTEM, *_TURNS_IN_A_ROW, [*_SYSTEM, *_TURNS_IN_A_ROW[0]])
    return (before + own, "") if fault is None else (None, fault)


def _fault(
    tokenizer: PreTrainedTokenizerBase,
    template: str,
    audio_token: str,
    worker: TemplateWorker,
    opening: Sequence[Mapping[str, object]] = (),
) -> str | None:
    """What a template does wrong with a conversation of three turns, `opening` before them; None: nothing."""
    written = ""
    for turn in range(1, len(_PROBE), 2):
        try:
            prompt, whole = (
                worker.render(
                    template,
                    template_variables(tokenizer, [*opening, *_PROBE[:count]], add_generation_prompt=ask),
                )
                for count, ask in ((turn, True), (turn + 1, False))
            )
        except ValueError as error:
            return str(error)
        if not prompt.startswith(written) or not whole.startswith(prompt):
            return "it rewrites earlier turns"
        if whole[len(prompt) :].strip() != f"{_PROBE[turn]['content']}{tokenizer.eos_token}":
            return f"a reply is not written as it is, {tokenizer.eos_token} after it, but as {whole[len(prompt) :]!r}"
        written = whole
    if written.count(audio_token) != 2:
        return f"it writes {audio_token} {written.count(audio_token)} times for two audios"
    lost = [message["role"] for message in opening if written.count(str(message["content"])) != 1]
    return f"it does not write a turn of role {lost[0]}" if lost else None
