"""Written text as it is said: what a speech synthesiser should be given.

    normalize_for_speech("Dr. Smith paid $42.50 on the 3rd.")
    # "Doctor Smith paid forty two dollars and fifty cents on the third."

The rules are those that the streaming engine speaks by: see `echox.verbalization`. What is written is kept elsewhere,
in the manifest's ``written``.
"""

from __future__ import annotations

import re

from echox.verbalization import spoken_language, verbalize


def normalize_for_speech(text: str, language: str = "en") -> str:
    """Return ``text`` with numbers, money, units, symbols and abbreviations as words, single spaces between.

    Punctuation that shapes the melody (``.,?!;:``) stays; marks, emoji and list dashes go; what has no reading stays.

    Args:
        text: as it is written.
        language: ISO 639 code; text of a language without rules only has its white space joined.

    Raises:
        ValueError: not a language code.
    """
    rules = spoken_language(language)
    if not rules.has_rules:
        return " ".join(text.split())
    # Links of several words: their words. The rules read word by word and see only links of one.
    return verbalize(re.sub(r"!?\[([^\]\n]*)\]\([^)\s]*\)", r"\1", text), rules)
