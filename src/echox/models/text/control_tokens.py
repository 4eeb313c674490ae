"""The special tokens of a tokenizer, and text in which nothing is one of them.

What a user, a tool or the model itself says is text, whatever it looks like: ``<|im_end|>`` in it ends no turn. A
tokenizer cannot know where a text comes from. So texts are marked before a chat template writes them: everything in
them that is written like a special token gets a character inside that stands in no text. What is not marked afterwards
is the template's.
"""

from __future__ import annotations

import re
from functools import cached_property

from tokenizers import AddedToken, Tokenizer
from transformers import PreTrainedTokenizerBase

# Unicode keeps these two for use within a program; a text loses them.
_MARK, _EDGE = "\ufdd0", "\ufdd1"
_WITHOUT_MARKS = {ord(_MARK): None, ord(_EDGE): None}
_BEFORE = "a"
"""A text that joins with no other: there is a space between."""


def special_token_ids(tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    """The tokens that are no text: those with a name (end of a turn, padding), and all that are marked as special."""
    marked = (number for number, token in tokenizer.added_tokens_decoder.items() if token.special)
    return frozenset([*tokenizer.all_special_ids, *marked])


class ControlTokens:
    """The special tokens of a tokenizer, and how text is read without them.

    Args:
        tokenizer: of the language model; its special tokens must not change any more.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._tokenizer = tokenizer
        numbers = special_token_ids(tokenizer) - {tokenizer.unk_token_id}
        self._numbers = {str(tokenizer.convert_ids_to_tokens(number)): number for number in sorted(numbers)}
        longest_first = sorted(filter(None, self._numbers), key=len, reverse=True)
        self._pattern = re.compile("|".join(map(re.escape, longest_first)) or "(?!)")

    def find(self, text: str) -> str | None:
        """The first special token that is written in a text; None: there is none."""
        found = self._pattern.search(text)
        return None if found is None else found[0]

    def find_unreadable(self, text: str) -> str | None:
        """The same, where the tokenizer cannot read the text without special tokens."""
        found = self.find(text)
        if found is not None:
            try:
                self._plain_ids(text)
            except ValueError:
                return found
        return None

    def text_ids(self, text: str, follows: bool = False) -> list[int]:
        """Tokens of a text, none of them special.

        Args:
            text: a whole text, or a part.
            follows: other text stands before it, and a space. Where a text begins, SentencePiece may write one more.

        Raises:
            ValueError: it is written like a special token, and the tokenizer cannot read it otherwise.
        """
        if follows:
            return self.text_ids(f"{_BEFORE} {text}")[len(self._ids(_BEFORE)) :]
        return self._ids(text) if self.find(text) is None else self._plain_ids(text)

    def marked(self, text: str) -> str:
        """The text as a chat template is to write it, so that `prompt_ids` reads all of it as text."""
        pieces, end = [], 0
        found = self._pattern.search(text)
        while found is not None:  # also those that overlap
            pieces.append(text[end : found.start() + 1])
            end = found.start() + 1
            found = self._pattern.search(text, end)
        return _MARK.join([*pieces, text[end:]])

    def prompt_ids(self, text: str) -> list[int]:
        """Tokens of a conversation that a chat template wrote from `marked` texts.

        Raises:
            ValueError: as `text_ids`.
        """
        if _MARK not in text:
            return self._ids(text)
        pieces, end = [], 0
        for found in self._pattern.finditer(text):
            pieces += [text[end : found.start()].translate(_WITHOUT_MARKS), self._name(found[0])]
            end = found.end()
        return self._plain_ids("".join([*pieces, text[end:].translate(_WITHOUT_MARKS)]))

    def _ids(self, text: str) -> list[int]:
        return list(self._tokenizer(text, add_special_tokens=False)["input_ids"])

    def _name(self, token: str) -> str:
        """What stands for a special token in a text for `_plain`."""
        return f"{_EDGE}{self._numbers[token]}{_EDGE}"

    def _plain_ids(self, text: str) -> list[int]:
        """Tokens of a text; the special ones are those that are named."""
        found: list[int] = [] if self._plain is None else self._plain.encode(text, add_special_tokens=False).ids
        if self._plain is None or set(self._numbers.values()).intersection(found):
            raise ValueError(
                f"expected text that this tokenizer can read, found the special token {self.find(text)}; take it out"
            )
        return [self._named.get(number, number) for number in found]

    @cached_property
    def _plain(self) -> Tokenizer | None:
        """A copy of the tokenizer that reads special tokens as text, and knows them by `_name`; None: there is none."""
        backend = getattr(self._tokenizer, "backend_tokenizer", None)
        if not isinstance(backend, Tokenizer):
            return None
        plain = Tokenizer.from_str(backend.to_str())
        plain.no_padding()
        plain.no_truncation()
        plain.encode_special_tokens = True
        known = backend.get_added_tokens_decoder()
        names = []
        for token, number in self._numbers.items():
            like = known.get(number, AddedToken(token))
            names.append(AddedToken(self._name(token), lstrip=like.lstrip, rstrip=like.rstrip, normalized=False))
        plain.add_tokens(names)
        return plain

    @cached_property
    def _named(self) -> dict[int, int]:
        """The special token of each that `_plain` knows by name."""
        assert self._plain is not None
        found = {self._plain.token_to_id(self._name(token)): number for token, number in self._numbers.items()}
        return {number: special for number, special in found.items() if number is not None}
