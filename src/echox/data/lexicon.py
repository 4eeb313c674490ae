"""Pronunciations of the words of a corpus: reads and writes ``phones.json`` of the corpus stage."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from echox.files import write_text

_MARKS = ".,?!;:\"'"


class Lexicon:
    """Words and their phones (``phones.json``).

    Attributes:
        phones: the inventory, in the file's order.
        pronunciations: of every word as it is written, at least one.

    Args:
        path: JSON ``{"lexicon": {word: phones or [phones, ...]}, "phones": [...]}``.

    Raises:
        ValueError: the file has another content.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = path
        try:
            content = json.loads(Path(path).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise ValueError(f"{path}: expected the lexicon of the corpus stage, found {error}; run it") from error
        if not isinstance(content, dict) or not {"lexicon", "phones"} <= set(content):
            raise ValueError(f"{path}: expected a JSON object with 'lexicon' and 'phones'; run the corpus stage again")
        if not isinstance(content["lexicon"], dict) or not content["lexicon"]:
            raise ValueError(f"{path}: lexicon: expected words with phones, found none; run the corpus stage again")
        self.phones: list[str] = list(content["phones"])
        self.pronunciations: dict[str, list[list[str]]] = {
            word: said if said and isinstance(said[0], list) else [said] for word, said in content["lexicon"].items()
        }
        self._first = {word: all_of[0] for word, all_of in self.pronunciations.items()}
        for word, said in list(self._first.items()):
            self._first.setdefault(word.lower(), said)

    def say(self, text: str) -> list[str]:
        """Phones of all words of a text, each in its first pronunciation; no pauses.

        Raises:
            ValueError: a word that is not in the lexicon.
        """
        found: list[str] = []
        for word in text.split():
            bare = word.strip(_MARKS)
            if not bare:  # punctuation that stands alone
                continue
            said = self._first.get(bare, self._first.get(bare.lower()))
            if said is None:
                raise ValueError(f"{self.path}: expected every spoken word, found no {bare!r} (in {text!r}): add it")
            found += said
        return found


def write_letters(texts: Iterable[str], path: Path) -> None:
    """Write a lexicon for texts of a language without one: the phones of a word are its letters and digits."""
    words = sorted({word.strip(_MARKS) for text in texts for word in text.split()} - {""})
    spelled = {word: [letter for letter in word.lower() if letter.isalnum()] for word in words}
    letters = sorted({letter for said in spelled.values() for letter in said})
    write_text(path, json.dumps({"phones": letters, "lexicon": spelled}, ensure_ascii=False, indent=1) + "\n")
