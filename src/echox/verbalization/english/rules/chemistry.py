"""Chemical symbols and formulas in English: Fe and NaCl are said letter by letter.

A symbol alone may be a word (As, In, Na): it is read as a symbol where its element or the word "symbol" is near.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

from echox.verbalization.english.words import numbers, signs, tables
from echox.verbalization.reading.language import LOOKAHEAD_WORDS, Reading
from echox.verbalization.reading.window import Window, say

_ABOUT = {"symbol", "symbols", "abbreviated", "abbreviation"}
_PART = re.compile(r"([A-Z][a-z]?)(\d*)")
_CHARGED = re.compile(r"((?:[A-Z][a-z]?[₀-₉0-9]*)+?)([⁰¹²³⁴-⁹]*[⁺⁻]|[2-9]?[+-])")


def symbol(window: Window) -> Reading | None:
    """A chemical symbol: "The symbol for tin is Sn", "iron (Fe)", "Na is sodium"."""
    core = window.first
    if len(core.text) != 2 or core.text not in tables.ELEMENTS:
        return None
    titled = core.text in tables.TITLES and core.tail == "." and not window.last_of_line(0)
    names = set(tables.ELEMENTS[core.text].split("/"))
    if (
        (core.text in tables.SYMBOLS_ONLY and not titled)
        or _before(window) & (_ABOUT | names)
        or _follows(window, names)
    ):
        return say(" ".join(core.text.upper()), core)
    return None


def _before(window: Window) -> set[str]:
    """Words of the sentence so far, as far back as the window goes."""
    words: set[str] = set()
    for back in range(1, LOOKAHEAD_WORDS + 1):
        if set(window.tail_before(back)) & set(".!?"):
            break
        words.add(window.before(back).lower())
    return words


def _follows(window: Window, names: set[str]) -> bool:
    """Whether the element is named after the symbol, in the same sentence."""
    may_be_word = window.first.text in tables.SYMBOLS_AND_WORDS
    for place in range(1, 2 - window.opens_sentence if may_be_word else LOOKAHEAD_WORDS):
        last, core = window.at(place - 1), window.at(place)
        if last is None or core is None or core.starts_line or set(last.tail) & set(".!?"):
            return False
        if core.text.lower() in names:
            return True
    return False


def formula(window: Window) -> Reading | None:
    """A formula of several elements, at least one of two letters: NaCl, CaCO3. (H2O is read by pieces.)"""
    core = window.first
    parts = _PART.findall(core.text)
    symbols = [name for name, _ in parts]
    known = "".join(map("".join, parts)) == core.text and all(name in tables.ELEMENTS for name in symbols)
    if not known or len(set(symbols)) < 2 or core.text.upper() == core.text or core.text in tables.NO_FORMULAS:
        return None
    return say(_spelt(parts), core)


def _spelt(parts: Sequence[tuple[str, str]]) -> str:
    """Symbols letter by letter, each with its count."""
    return " ".join(" ".join(name.upper()) + (f" {numbers.integer(count)}" if count else "") for name, count in parts)


def ion(window: Window) -> Reading | None:
    """A symbol or formula and its charge: Na⁺, Ca²⁺, SO₄²⁻, Fe3+ (no grade: "C+")."""
    core = window.first
    match = _CHARGED.fullmatch(core.text)
    if match is None:
        return None
    parts = _PART.findall(unicodedata.normalize("NFKC", match[1]))
    plain = match[2][-1] in "+-"
    if match[2].endswith("-") and match[1] not in tables.SYMBOLS_ONLY:
        return None
    if not all(name in tables.ELEMENTS for name, _ in parts) or (plain and (len(parts) > 1 or len(parts[0][0]) < 2)):
        return None
    charge = match[2].translate(signs.SUPERSCRIPTS)
    charges = numbers.integer(charge[:-1]) + " " if charge[:-1] else ""
    return say(f"{_spelt(parts)} {charges}{signs.SIGNS[charge[-1]]}", core)
