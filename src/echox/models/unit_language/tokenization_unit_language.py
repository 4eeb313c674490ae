"""The unit language: a tokenizer between reduced speech units and unit words.

A unit word is a frequent n-gram of reduced units (unit language, arXiv 2505.15333). The official spelling of a word
joins its units by underscores: ``837_81_194``. Encoding finds the most probable segmentation under a unigram model
(dynamic programming); decoding joins the words again. Every single unit is a word, so decoding inverts encoding.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from pathlib import Path

UNIT_LANGUAGE_FILE = "unit_language.json"
FORMAT_NAME = "echox_unit_language"


def spell(units: Sequence[int]) -> str:
    """Spells a unit word in the official way: ``(837, 81, 194)`` is ``"837_81_194"``."""
    return "_".join(str(unit) for unit in units)


def parse_word(text: str) -> tuple[int, ...]:
    """Reads a spelled unit word back.

    Raises:
        ValueError: If the text is not decimal numbers joined by underscores.
    """
    parts = text.split("_")
    if not all(part.isascii() and part.isdigit() for part in parts):
        raise ValueError(f"expected a unit word like '837_81_194', found {text!r}; join its units by underscores")
    return tuple(int(part) for part in parts)


class UnitLanguage:
    """Segments reduced units into unit words and joins them again.

    Args:
        words: Every word as a tuple of units; the word's id is its place in the list. All units ``0 .. num_units - 1``
            must be words of one unit, so that any sequence can be encoded.
        log_probs: Natural logarithm of each word's unigram probability.

    Raises:
        ValueError: If a word is empty, negative or repeated, a single unit is missing, or the lengths differ.

    Source: unit language (arXiv 2505.15333).
    """

    def __init__(self, words: Sequence[Sequence[int]], log_probs: Sequence[float]) -> None:
        if len(words) != len(log_probs):
            raise ValueError(f"expected one log probability per word, found {len(words)} and {len(log_probs)}")
        if not words:
            raise ValueError("expected at least one unit word, found none; give every single unit as a word")
        self.words: list[tuple[int, ...]] = [tuple(int(unit) for unit in word) for word in words]
        self.log_probs: list[float] = [float(value) for value in log_probs]
        for word_id, value in enumerate(self.log_probs):
            if not math.isfinite(value):
                raise ValueError(f"expected finite log probabilities, found {value} for word {word_id}")
        self.num_units = 1 + max((unit for word in self.words for unit in word), default=-1)
        self.max_units_per_word = max(len(word) for word in self.words)
        self._build_trie()

    def _build_trie(self) -> None:
        # A trie as two flat tables: (node, unit) -> node, and node -> word id. A walk stops where no word continues, so
        # segmentation is linear in the number of units with a small constant.
        self._next: dict[tuple[int, int], int] = {}
        self._word_at: list[int] = [-1]
        for word_id, word in enumerate(self.words):
            if not word or min(word) < 0:
                raise ValueError(f"expected words of one or more units >= 0, found {word} as word {word_id}")
            node = 0
            for unit in word:
                following = self._next.get((node, unit))
                if following is None:
                    following = len(self._word_at)
                    self._next[(node, unit)] = following
                    self._word_at.append(-1)
                node = following
            if self._word_at[node] >= 0:
                raise ValueError(
                    f"expected each word once, found {spell(word)} as words {self._word_at[node]} and {word_id}"
                )
            self._word_at[node] = word_id
        for unit in range(self.num_units):
            node = self._next.get((0, unit), 0)
            if self._word_at[node] < 0:
                raise ValueError(f"expected every single unit as a word, found none for unit {unit}; add ({unit},)")

    def __len__(self) -> int:
        return len(self.words)

    def encode(self, reduced_units: Sequence[int]) -> list[int]:
        """Returns the ids of the most probable segmentation; of equally probable ones the first.

        Args:
            reduced_units: Unit ids, ``0 <= unit < num_units``.

        Raises:
            ValueError: If a unit is outside the language.
        """
        units = [int(unit) for unit in reduced_units]
        best = [-math.inf] * (len(units) + 1)
        best[0] = 0.0
        came_by = [-1] * (len(units) + 1)
        following, word_at, log_probs = self._next, self._word_at, self.log_probs
        for start in range(len(units)):
            node = following.get((0, units[start]))
            if node is None:
                raise ValueError(
                    f"expected units from 0 to {self.num_units - 1}, found {units[start]} at position {start}; "
                    "use the unit language learned from the same units"
                )
            reached, end = best[start], start
            while node is not None:
                end += 1
                word_id = word_at[node]
                if word_id >= 0 and reached + log_probs[word_id] > best[end]:
                    best[end] = reached + log_probs[word_id]
                    came_by[end] = word_id
                node = following.get((node, units[end])) if end < len(units) else None
        unit_words = []
        position = len(units)
        while position > 0:
            unit_words.append(came_by[position])
            position -= len(self.words[came_by[position]])
        return unit_words[::-1]

    def encode_words(self, units: Sequence[int], word_of_unit: Sequence[int]) -> tuple[list[int], list[int]]:
        """Segments the units of each text word separately, so that no unit word crosses a border of text words.

        Args:
            units: Reduced units of an utterance.
            word_of_unit: Index of the text word of each unit, in ascending order.

        Returns:
            The unit words, and for each the index of its text word.

        Raises:
            ValueError: If the two lengths differ or the word indices are not in ascending order.
        """
        if len(units) != len(word_of_unit):
            raise ValueError(f"expected one word index per unit, found {len(units)} and {len(word_of_unit)}")
        unit_words: list[int] = []
        unit_word_of: list[int] = []
        start = 0
        for end in range(1, len(units) + 1):
            if end < len(units):
                if word_of_unit[end] < word_of_unit[end - 1]:
                    raise ValueError(f"expected word indices in ascending order, found {list(word_of_unit)}")
                if word_of_unit[end] == word_of_unit[start]:
                    continue
            found = self.encode(units[start:end])
            unit_words += found
            unit_word_of += [int(word_of_unit[start])] * len(found)
            start = end
        return unit_words, unit_word_of

    def decode(self, unit_words: Iterable[int]) -> list[int]:
        """Joins unit words into reduced units.

        Raises:
            ValueError: If an id is not a word.
        """
        units: list[int] = []
        for word_id in unit_words:
            if not 0 <= word_id < len(self.words):
                raise ValueError(f"expected unit word ids from 0 to {len(self.words) - 1}, found {word_id}")
            units.extend(self.words[word_id])
        return units

    def decode_reduced(self, unit_words: Iterable[int]) -> list[int]:
        """Joins unit words into reduced units as vocoders read them: equal units at the border of two words become one.

        Raises:
            ValueError: If an id is not a word.
        """
        return [unit for unit, _ in groupby(self.decode(unit_words))]

    def reader(self) -> UnitReader:
        """Reader for the unit words of one segment, which come in parts."""
        return UnitReader(self)

    def score(self, unit_words: Iterable[int]) -> float:
        """Returns the log probability of a segmentation (nats)."""
        return sum(self.log_probs[word_id] for word_id in unit_words)

    def save_pretrained(self, folder: str | os.PathLike[str]) -> Path:
        """Writes ``unit_language.json`` into the folder, atomically, and returns its path."""
        path = Path(folder) / UNIT_LANGUAGE_FILE
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(path.name + ".partial")
        partial.write_text(json.dumps(self.to_dict()), encoding="utf-8")
        partial.replace(path)
        return path

    def to_dict(self) -> dict[str, object]:
        """Content of ``unit_language.json``."""
        return {
            "format": FORMAT_NAME,
            "version": 1,
            "num_units": self.num_units,
            "words": [spell(word) for word in self.words],
            "log_probs": self.log_probs,
        }

    @classmethod
    def from_dict(cls, content: Mapping[str, object], where: str) -> UnitLanguage:
        """The content of ``unit_language.json`` back to a language.

        Args:
            content: as from `to_dict`.
            where: name of the file, for errors.

        Raises:
            ValueError: it is not a unit language.
        """
        if content.get("format") != FORMAT_NAME or content.get("version") != 1:
            raise ValueError(f"{where}: expected format {FORMAT_NAME!r} version 1; learn the unit language again")
        missing = {"words", "log_probs"} - content.keys()
        if missing:
            raise ValueError(f"{where}: expected the fields words and log_probs, found no {sorted(missing)}")
        words, log_probs = content["words"], content["log_probs"]
        if not isinstance(words, list) or not isinstance(log_probs, list):
            raise ValueError(f"{where}: expected lists of words and log_probs, found other values")
        return cls([parse_word(str(word)) for word in words], log_probs)


class UnitReader:
    """Converts unit words that come in parts to units: `push` returns those that are final, `finish` the rest.

    Args:
        language: of the unit words.
    """

    def __init__(self, language: UnitLanguage) -> None:
        self.language = language

    def push(self, unit_words: Sequence[int]) -> list[int]:
        """Units of these words.

        Raises:
            ValueError: If an id is not a word.
        """
        return self.language.decode_reduced(unit_words)

    def finish(self) -> list[int]:
        """Units that were held back; for a language of whole words there are none."""
        return []
