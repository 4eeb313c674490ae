"""Written text to spoken words, as input of a speech synthesiser.

    normalize_for_speech("Dr. Smith paid $42.50 on the 3rd.")
    # "Doctor Smith paid forty two dollars and fifty cents on the third."

The streaming engine uses the same rules: see `echox.verbalization`. Manifests keep the written text as ``written``.
"""

from __future__ import annotations

import re

from echox.verbalization import spoken_language, verbalize


def normalize_for_speech(text: str, language: str = "en") -> str:
    """Return ``text`` with numbers, money, units, symbols and abbreviations as words, single spaces between.

    Punctuation that shapes the intonation (``.,?!;:``) stays; marks, emoji and list dashes are removed; words without
    a reading stay.

    Args:
        text: as it is written.
        language: ISO 639 code; text of a language without rules only has its white space joined.

    Raises:
        ValueError: not a language code.
    """
    rules = spoken_language(language)
    if not rules.has_rules:
        return " ".join(text.split())
    # A link of several words becomes its words: the rules read word by word, and know only links of one word.
    return verbalize(re.sub(r"!?\[([^\]\n]*)\]\([^)\s]*\)", r"\1", text), rules)
