"""The languages with rules, by their codes."""

from __future__ import annotations

import re
from collections.abc import Callable

from echox.verbalization.english.english import English
from echox.verbalization.reading.language import PlainText, SpokenLanguage

LANGUAGES: dict[str, Callable[[], SpokenLanguage]] = {"en": English}
"""Languages with rules, by ISO 639-1 code. To add one, see docs/speaking-text.md."""


def spoken_language(code: str) -> SpokenLanguage:
    """The rules of a language; `PlainText` (``has_rules`` is False) for a language without rules.

    Args:
        code: ISO 639, with or without a region: "en", "en-GB", "de".

    Raises:
        ValueError: not a language code.
    """
    if not re.fullmatch(r"[a-z]{2,3}([-_][A-Za-z0-9]+)*", code):
        raise ValueError(f"spoken language: expected an ISO 639 code such as en or de, found {code!r}")
    short = re.split("[-_]", code)[0]
    return LANGUAGES[short]() if short in LANGUAGES else PlainText(short)
