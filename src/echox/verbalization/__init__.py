"""Written text to spoken words: numbers, abbreviations and signs, by the rules of one language, word by word."""

from echox.verbalization.language import (
    LOOKAHEAD_WORDS,
    PlainText,
    Reading,
    SpokenLanguage,
    WrittenWord,
    verbalize,
    written_words,
)
from echox.verbalization.languages import LANGUAGES, spoken_language

__all__ = [
    "LANGUAGES",
    "LOOKAHEAD_WORDS",
    "PlainText",
    "Reading",
    "SpokenLanguage",
    "WrittenWord",
    "spoken_language",
    "verbalize",
    "written_words",
]
