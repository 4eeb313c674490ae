"""Grammar of replies with calls: it tells at each step which tokens may come next, so arguments fit their schema.

The grammar is text, then calls in the form of the model, the arguments by the JSON schema of the tool. llguidance
computes the tokens; its work on one grammar and on one step is limited, because schemas come from clients.

Source: https://github.com/guidance-ai/llguidance, its pages on syntax and JSON schemas; MIT.
"""

from __future__ import annotations

import json
import threading
from collections import OrderedDict
from collections.abc import Collection
from importlib.util import find_spec
from typing import TYPE_CHECKING

import numpy as np

from echox.tool_calls.call_format import CallFormat
from echox.tool_calls.tools import ToolUse

if TYPE_CHECKING:
    from llguidance import LLMatcher, LLParserLimits, LLTokenizer
    from tokenizers import Tokenizer

MAX_CALLS = 16
"""Calls in one reply."""
MAX_GRAMMARS = 16
"""Grammars that are kept: the last used ones."""
_SPACES = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
"""White space in arguments as chat templates write it (``json.dumps``), so that no reply is white space to its end."""


def grammars_available() -> bool:
    """Whether the library is installed (extra ``serve``)."""
    return find_spec("llguidance") is not None


class CallConstraint:
    """The state of one reply in its grammar.

    Args:
        matcher: at the start of the reply.
        num_tokens: size of the vocabulary.
        form: how the model writes calls.
    """

    def __init__(self, matcher: LLMatcher, num_tokens: int, form: CallFormat) -> None:
        self.form = form
        self._matcher, self._num_tokens = matcher, num_tokens

    def allowed(self) -> np.ndarray:
        """The tokens that may come next, bool (V,).

        Raises:
            ValueError: the step takes more work than is allowed.
        """
        bits = np.frombuffer(self._matcher.compute_bitmask(), np.uint8)
        self._check()
        return np.unpackbits(bits, count=self._num_tokens, bitorder="little").astype(bool)

    def take(self, token_id: int) -> None:
        """The next token was chosen.

        Raises:
            ValueError: it is not allowed.
        """
        self._matcher.consume_token(token_id)
        self._check()

    @property
    def ended(self) -> bool:
        """Whether nothing can follow."""
        return bool(self._matcher.is_stopped())

    def _check(self) -> None:
        if self._matcher.is_error():
            reason = self._matcher.get_error().splitlines()[0][:200]
            raise ValueError(f"tools: expected calls that can be checked while they are written, found: {reason}")


class CallGrammars:
    """The grammars of one model.

    Args:
        tokenizer: of the language model.
        form: how it writes calls.
        num_tokens: size of its output.
        eos_ids: tokens that end a reply.
        before_calls: a special token that may stand before a call in the form of a bare object; None: none.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        form: CallFormat,
        num_tokens: int,
        eos_ids: Collection[int],
        before_calls: int | None = None,
    ) -> None:
        self.form = form
        self._source, self._num_tokens, self._eos_ids = tokenizer, num_tokens, sorted(eos_ids)
        self._before_calls = before_calls
        self._lock = threading.Lock()
        self._tokenizer: LLTokenizer | None = None
        self._added: dict[str, int] = {}
        self._matchers: OrderedDict[ToolUse, LLMatcher] = OrderedDict()

    def constraint(self, use: ToolUse) -> CallConstraint:
        """The constraint of a new reply. The first one for these tools takes up to a second.

        Raises:
            ValueError: a schema that cannot be followed, or that takes too much work.
        """
        with self._lock:  # one at a time: a server must not spend all cores on grammars
            matcher = self._matchers.get(use)
            if matcher is None:
                matcher = self._matchers[use] = self._matcher(use)
            self._matchers.move_to_end(use)
            while len(self._matchers) > MAX_GRAMMARS:
                self._matchers.popitem(last=False)
            return CallConstraint(matcher.deep_copy(), self._num_tokens, self.form)

    def _matcher(self, use: ToolUse) -> LLMatcher:
        from llguidance import LLMatcher

        tokenizer = self._ready_tokenizer()
        grammar = LLMatcher.grammar_from_lark(self._grammar(use))
        matcher = LLMatcher(tokenizer, grammar, log_level=0, limits=_limits())
        if not matcher.is_error():
            return matcher
        for tool in use.callable:  # which one is it
            alone = LLMatcher.grammar_from_json_schema(json.dumps(_schema(tool.parameters)))
            failed, messages = LLMatcher.validate_grammar_with_warnings(alone, tokenizer, limits=_limits())
            if failed:
                reason = " ".join(messages[0].split())[:300]
                raise ValueError(f"tool {tool.name}: expected a JSON schema that can be followed, found: {reason}")
        reason = " ".join(matcher.get_error().splitlines()[0].split())[:300]
        raise ValueError(f"tools: expected JSON schemas that can be followed, found: {reason}")

    def _ready_tokenizer(self) -> LLTokenizer:
        if self._tokenizer is None:
            from llguidance import LLTokenizer
            from tokenizers import Tokenizer

            plain = Tokenizer.from_str(self._source.to_str())
            plain.no_padding()
            plain.no_truncation()
            self._tokenizer = LLTokenizer(plain.to_str(), n_vocab=self._num_tokens, eos_token=self._eos_ids)
            added = plain.get_added_tokens_decoder()
            # Tokens that no text of the grammar matches: they are named by number.
            self._added = {
                token.content: number for number, token in added.items() if self._tokenizer.is_special_token(number)
            }
        return self._tokenizer

    # ------------------------------------------------------------------------------------------ the grammar

    def _grammar(self, use: ToolUse) -> str:
        """The grammar in the language of llguidance, which is near to that of Lark."""
        form = self.form
        lines = [f"start: {self._start(use)}", self._text_rule()]
        if not use.callable:
            return "\n".join(lines)
        lines.append(f"calls: {self._calls(use, 'call')}")
        lines.append(self._one_of("call", form.before, use))
        if self._marked:
            lines += [f"marked: MARKED {self._calls(use, 'begun')}", self._marked_rule()]
            lines.append(self._one_of("begun", form.before.partition(form.marker)[2], use))
        for number, tool in enumerate(use.callable):
            lines.append(f"arguments_{number}: %json {json.dumps(_schema(tool.parameters))}")
        return "\n".join(lines)

    def _one_of(self, name: str, before: str, use: ToolUse) -> str:
        """A call of any tool; ``before``: what stands before its name."""
        form, after = self.form, self._literal(self.form.after)
        calls = [
            f"{self._literal(before + tool.name + form.between)} arguments_{number} {after}"
            for number, tool in enumerate(use.callable)
        ]
        return f"{name}: " + " | ".join(calls)

    @property
    def _marked(self) -> bool:
        """Whether text and the marker after it are one part of the grammar.

        Where the marker is written with ordinary tokens, its first ones are text as well, until the last one is there:
        a part of the grammar that began in the middle of the text would then never be found.
        """
        return bool(self.form.marker) and not any(token in self.form.marker for token in self._added)

    def _start(self, use: ToolUse) -> str:
        if not use.callable:
            return "TEXT?"
        if use.required:
            return "calls"
        if self._marked:
            return "TEXT? | marked"
        return "TEXT? calls?" if self.form.marker else "TEXT? | calls"

    def _calls(self, use: ToolUse, first: str) -> str:
        before = "" if self._before_calls is None else f"<[{self._before_calls}]>? "
        if not use.parallel or self.form.separator is None:
            return f"{before}{first}"
        separator = self._literal(self.form.separator)
        return f"{before}{first} ({separator} call){{0,{MAX_CALLS - 1}}}"

    def _text_rule(self) -> str:
        """Text that holds no call, and does not begin as one."""
        if not self.form.marker:
            return r"TEXT: /[ \t\r\n]*[^ \t\r\n{](.|\n)*/"
        return rf"TEXT: /(.|\n)+/ & ~/(.|\n)*{self._marker_pattern}(.|\n)*/"

    def _marked_rule(self) -> str:
        """Text to the end of its first marker."""
        return rf"MARKED: /(.|\n)*{self._marker_pattern}/ & ~/(.|\n)*{self._marker_pattern}(.|\n)+/"

    @property
    def _marker_pattern(self) -> str:
        return "".join(f"\\x{ord(one):02x}" if one.isascii() else one for one in self.form.marker)

    def _literal(self, text: str) -> str:
        """Fixed text as a sequence of strings, and of tokens of their own."""
        if not text:
            return '""'
        parts, rest = [], text
        while rest:
            found = [(rest.find(token), -len(token), token) for token in self._added if token in rest]
            at, _, token = min(found, default=(len(rest), 0, ""))
            if at:
                parts.append(json.dumps(rest[:at]))
            if token:
                parts.append(f"<[{self._added[token]}]>")
            rest = rest[at + len(token) :]
        return " ".join(parts)


def _schema(parameters: str) -> dict[str, object]:
    """The schema as a grammar follows it: an object, which has only the declared properties if that is left open."""
    found: dict[str, object] = json.loads(parameters)
    return {"additionalProperties": False, **found, "type": "object", "x-guidance": _SPACES}


def _limits() -> LLParserLimits:
    """Limits of the work on a grammar and on a step of it; the units are those of llguidance."""
    from llguidance import LLParserLimits

    return LLParserLimits(
        initial_lexer_fuel=1_000_000,  # about 20 ms
        step_lexer_fuel=100_000,  # about 7 ms
        step_max_items=25_000,  # about 1 ms
        max_lexer_states=10_000,  # about 20 MB
        max_grammar_size=100_000,
        verbose_errors=False,
    )
