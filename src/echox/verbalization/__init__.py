"""Text as it is said: written words to spoken words, one language each, whole or word by word."""

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
