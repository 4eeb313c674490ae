"""Unit words spelled in the text tokenizer's tokens, as in the official release: ``<|unit_12|>``, ``<|unit_▁12|>``.

Where the spelling marks beginnings with "▁", a token may continue the number before it ("▁1", "2" is unit 12), so a
token alone is not always a whole unit. `UnitPieces` reads both kinds and keeps every digit: a continuation that would
give a number outside the inventory begins a new unit.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from itertools import pairwise

from transformers import PreTrainedTokenizerBase

from echox.models.unit_language.tokenization_unit_language import UnitLanguage, UnitReader

PIECES_FORMAT = "echox_unit_pieces"
MARK = "\u2581"
"""SentencePiece's sign for the beginning of a word."""
_TOKEN = re.compile(r"<\|unit_(.*?)\|>", re.DOTALL)
_NUMBER = re.compile(r"\d+")


def parse_unit_text(text: str, num_units: int = 1000) -> list[int]:
    """Units of decoded unit text as the official scripts read them, including their errors, for comparison.

    If there is a "▁", the contents of ``<|unit_...|>`` are joined without a gap. Then every run of digits below
    `num_units` is a unit: digits of ordinary text count too, and numbers out of range are dropped.
    """
    if MARK in text:
        text = "".join(_TOKEN.findall(text))
    return [unit for unit in map(int, _NUMBER.findall(text)) if unit < num_units]


class UnitPieces(UnitLanguage):
    """A unit language whose words are spelled as tokens, whole units or parts of a number.

    It decodes only. It cannot segment units (`encode`): how the pieces were learned is not published.

    Args:
        pieces: the contents of ``<|unit_...|>``, by id.
        num_units: size of the inventory; numbers outside it are left out.

    Raises:
        ValueError: no pieces.
    """

    def __init__(self, pieces: Sequence[str], num_units: int) -> None:
        if not pieces:
            raise ValueError("expected at least one unit word, found none")
        self.pieces = list(pieces)
        self.num_units = num_units
        self.words = [tuple(int(number) for number in _NUMBER.findall(piece)) for piece in self.pieces]
        self.max_units_per_word = max(len(word) for word in self.words)
        self.log_probs = [-math.log(len(self.pieces))] * len(self.pieces)

    def encode(self, reduced_units: Sequence[int]) -> list[int]:
        """Not possible.

        Raises:
            ValueError: always.
        """
        raise ValueError(
            "expected a unit language with a known segmentation, found unit words spelled as tokens: learn one from "
            "your units (stage unit_language) and train the T2C on it"
        )

    def decode(self, unit_words: Iterable[int]) -> list[int]:
        """Units of unit words; a piece that continues the number before it is joined to it.

        Raises:
            ValueError: If an id is not a word.
        """
        ids = list(unit_words)
        for word_id in ids:
            if not 0 <= word_id < len(self.pieces):
                raise ValueError(f"expected unit word ids from 0 to {len(self.pieces) - 1}, found {word_id}")
        spelled = [self.pieces[word_id] for word_id in ids]
        marked = any(MARK in piece for piece in spelled)
        numbers: list[str] = []
        for before, piece in pairwise(["", *spelled]):
            own = _NUMBER.findall(piece)
            if marked and own and before[-1:].isdigit() and piece[0].isdigit():
                joined = numbers[-1] + own[0]
                if int(joined) < self.num_units:
                    numbers[-1] = joined
                    own = own[1:]
            numbers += own
        return [unit for unit in map(int, numbers) if unit < self.num_units]

    def reader(self) -> UnitReader:
        """See `UnitLanguage.reader`; the last number is held back, as the next piece may continue it."""
        return _PieceReader(self)

    def to_dict(self) -> dict[str, object]:
        """Content of ``unit_language.json``."""
        return {"format": PIECES_FORMAT, "version": 1, "num_units": self.num_units, "pieces": self.pieces}


class _PieceReader(UnitReader):
    def __init__(self, language: UnitPieces) -> None:
        super().__init__(language)
        self._words: list[int] = []
        self._given = 0

    def push(self, unit_words: Sequence[int]) -> list[int]:
        self._words += unit_words
        return self._new(super().push(self._words)[:-1])

    def finish(self) -> list[int]:
        return self._new(super().push(self._words))

    def _new(self, units: list[int]) -> list[int]:
        new = units[self._given :]
        self._given += len(new)
        return new


def unit_language_of(tokenizer: PreTrainedTokenizerBase, first_id: int, count: int, num_units: int) -> UnitLanguage:
    """The unit words among a tokenizer's tokens.

    Args:
        tokenizer: its tokens ``first_id`` to ``first_id + count - 1`` are named ``<|unit_...|>``.
        first_id: of the first unit word: the language model's vocabulary size.
        count: number of unit words.
        num_units: size of the vocoder's inventory.

    Returns:
        A `UnitLanguage` if every token is a whole word of units and every unit has a word, otherwise `UnitPieces`.

    Raises:
        ValueError: ids without a name, or no token that is spelled as a unit word.
    """
    names = tokenizer.convert_ids_to_tokens(list(range(first_id, first_id + count)))
    nameless = [first_id + place for place, name in enumerate(names) if not name]
    if nameless:
        raise ValueError(
            f"tokenizer: expected unit words at the ids {first_id} to {first_id + count - 1}, found none "
            f"at {len(nameless)} of them (the first is {nameless[0]}); use the tokenizer that was "
            "published with these weights"
        )
    spelled = [_TOKEN.fullmatch(name) for name in names]
    if not any(spelled):
        raise ValueError(f"tokenizer: expected tokens like <|unit_12|> from id {first_id} on, found {names[0]!r}")
    # A reserved token among them has an id but no units.
    pieces = [match.group(1) if match else "" for match in spelled]
    words = [tuple(map(int, _NUMBER.findall(piece))) for piece in pieces]
    everyone = {(unit,) for unit in range(num_units)}
    whole = len({piece.startswith(MARK) for piece in pieces}) == 1 and len(set(words)) == len(words)
    if whole and everyone <= set(words) and all(word and max(word) < num_units for word in words):
        return UnitLanguage(words, [-math.log(len(words))] * len(words))
    return UnitPieces(pieces, num_units)
