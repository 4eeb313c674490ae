"""Written text to spoken words: numbers, abbreviations and signs, by the rules of one language, word by word."""

from echox.verbalization.languages import LANGUAGES, spoken_language
from echox.verbalization.reading.language import (
    LOOKAHEAD_WORDS,
    PlainText,
    Reading,
    SpokenLanguage,
    WrittenWord,
    readings,
    verbalize,
    written_words,
)

__all__ = [
    "LANGUAGES",
    "LOOKAHEAD_WORDS",
    "PlainText",
    "Reading",
    "SpokenLanguage",
    "WrittenWord",
    "readings",
    "spoken_language",
    "verbalize",
    "written_words",
]
