"""WordNet 3.0: 117,659 meanings of English words and names, each with its words and a line that explains it, as text.

A meaning becomes a dialogue: its words are asked, the line answers. Nothing is learnt from what it says; T2C learns
from it how words and names are pronounced that dialogues hardly ever have (recipes/mini/phone_units.yaml).

A line of ``data.noun``, ``data.verb``, ``data.adj`` or ``data.adv``::

    08976224 15 n 02 Madrid 0 capital_of_Spain 0 006 @i 08524735 n 0000 ... | the capital and largest city ...; "..."

Source: https://wordnet.princeton.edu/documentation/wndb5wn
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from echox.data.corpora.base import Corpus, CorpusItem, CorpusTurn, Provenance, Row

_FILES = ("data.noun", "data.verb", "data.adj", "data.adv")
_SPECIES = ("05", "20")
"""Numbers of the parts with animals and plants: their capitalised words are Latin."""


class WordNet(Corpus):
    """See the module; scientific names of animals and plants are left out."""

    name = "wordnet"
    provenance = Provenance(
        title="WordNet 3.0",
        homepage="https://wordnet.princeton.edu (Debian package wordnet-base, folder /usr/share/wordnet)",
        licence="WordNet 3.0 licence (use, change and distribution without fee)",
        speech="none: texts",
    )

    def rows(self, folder: Path) -> Iterator[Row]:
        """Lines of the files that are there; those of the licence begin with two spaces."""
        for name in _FILES:
            if not (folder / name).exists():
                continue
            lines = (folder / name).read_text(encoding="latin-1").splitlines()
            for number, line in enumerate(lines, start=1):
                fields = line.split(maxsplit=5)
                part, words = fields[1:5:3] if len(fields) > 4 else ("", "")
                if not line.startswith("  ") and not (part in _SPECIES and words[:1].isupper()):
                    yield Row(f"{name}:{number}", line, folder)

    def parse(self, row: Row) -> CorpusItem:
        """The words of a meaning, and the line that explains it without its examples."""
        entry, bar, line = row.value.partition(" | ")
        fields = entry.split()
        count = int(fields[3], 16) if bar and len(fields) > 3 and re.fullmatch(r"[0-9a-f]{2}", fields[3]) else 0
        words = [_word(field) for field in fields[4 : 4 + 2 * count : 2]]
        meaning = line.partition('; "')[0].strip()
        if not words or len(words) < count or not meaning:
            raise ValueError(f"expected 'offset file type count word id ... | meaning', found {row.value[:80]!r}")
        answer = CorpusTurn(meaning, role="assistant")
        return CorpusItem(row.place.removeprefix("data.").replace(":", "-"), (CorpusTurn(", ".join(words)), answer))


def _word(field: str) -> str:
    """``capital_of_Spain`` with spaces; adjectives may end in their place, ``(a)``."""
    return re.sub(r"\((a|p|ip)\)$", "", field).replace("_", " ")
