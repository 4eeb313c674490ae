"""Mathematics in English: signs that stand alone, LaTeX as plain signs.

LaTeX is rewritten before any rule reads it, so that its numbers and signs have one reading however they are written.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from echox.verbalization.english.rules.measures import NUMBER, VULGAR, is_counted, unit_names
from echox.verbalization.english.words import numbers, signs, tables
from echox.verbalization.reading.language import LOOKAHEAD_WORDS, Reading, WrittenWord
from echox.verbalization.reading.window import Core, Window, say

# ------------------------------------------------------------------------------------------ LaTeX

_BACKSLASH = re.compile(r"\\(?:([A-Za-z]+)|([()\[\]\\,;:!{}$%&#_ ]))")
_IN_BRACES = r"\{([^{}]*)\}"
_FRACTION = re.compile(rf"\\[dt]?frac\s*{_IN_BRACES}\s*{_IN_BRACES}")
_ROOT = re.compile(rf"\\sqrt(\[3\])?\s*{_IN_BRACES}")
_SCRIPT = re.compile(rf"([\^_]){_IN_BRACES}")
_WRAPPER = re.compile(rf"\\(?:text|textbf|mathrm|mathbf|mathbb|operatorname|boxed|overline|vec|hat){_IN_BRACES}")
_DEGREES = re.compile(r"\^(?:\{\\(?:circ|degree)\}|\\circ\b)|\\degree\b")
_OPENING = re.compile(r"\${1,2}(?=[A-Za-z\\({|√π-]|\d+[xyzn](?![A-Za-z]))")
_INLINE = re.compile(r"[(\[\"“]*\${1,2}[^$\s]+\${1,2}[.,;:!?)\]\"”]*")


def is_open_formula(text: str) -> bool:
    r"""Whether a LaTeX command begins in the text and its braces close in a later word: ``\frac{x``."""
    return _commands(text) and text.count("{") > text.count("}")


def _commands(text: str) -> bool:
    return any(match[1] in signs.LATEX or match[1] in signs.LATEX_FORMS for match in _BACKSLASH.finditer(text))


def plain_formula(word: WrittenWord, before: Sequence[WrittenWord]) -> WrittenWord:
    r"""A word with its LaTeX as plain signs: ``$x^{2}$`` is x^2, ``\frac{1}{2}`` is 1/2, ``\times`` is ×.

    Args:
        word: as it is written.
        before: the words that were written before it, newest last.
    """
    text = _without_dollars(word.text, before)
    if "\\" in text and not re.match(r"[\"'`(]*[A-Za-z]:\\", text):
        text = _plain_commands(text)
    elif re.search(r"[\^_]\{", text):
        text = _SCRIPT.sub(r"\1\2", text)
    return WrittenWord(text, word.space) if text != word.text else word


def _without_dollars(text: str, before: Sequence[WrittenWord]) -> str:
    """The text without the dollar signs that enclose a formula; those of prices stay."""
    if "$" not in text:
        return text
    if text.strip(".,;:!?") == "$$" or _INLINE.fullmatch(text):
        return text.replace("$", "")
    opened = _OPENING.sub("", text)
    if opened != text or not text.rstrip(".,;:!?)").endswith("$"):
        return opened
    operators = [word.text for word in before if word.text == "-" or word.text in signs.OPERATORS]
    inside = bool(before) and before[-1].text in operators and (len(operators) > 1 or operators != ["-"])
    inside = inside or "^" in text or any(_OPENING.search(word.text) for word in before)
    return re.sub(r"\$+([.,;:!?)]*)$", r"\1", text) if inside else text


def in_delimiters(text: str, before: Sequence[WrittenWord]) -> bool:
    r"""Whether a word is in a formula that LaTeX encloses: ``\(x - 3\)``, ``$x - 3$``, as far as the words go back."""
    opened = False
    for place, word in enumerate(before):
        opened = _encloses(word.text, before[:place], opened)[1]
    return _encloses(text, before, opened)[0]


def _encloses(text: str, before: Sequence[WrittenWord], opened: bool) -> tuple[bool, bool]:
    """Whether a word is in a formula, and whether the formula goes on after it."""
    if "\\" not in text and "$" not in text:
        return opened, opened
    begins = [match.start() for match in re.finditer(r"\\[(\[]", text)]
    ends = [match.start() for match in re.finditer(r"\\[)\]]", text)]
    if begins or ends:
        return True, max(begins, default=-1) > max(ends, default=-1)
    if "$" in text and _without_dollars(text, before) != text:
        bare = text.strip('(["“.,;:!?)]”*_')
        return True, bare.startswith("$") and not bare.endswith("$")
    return opened, opened


def _plain_commands(text: str) -> str:
    text = _DEGREES.sub("°", text)
    for _ in range(text.count("{")):
        text = _SCRIPT.sub(r"\1\2", _WRAPPER.sub(r"\1", text))
        text = _ROOT.sub(lambda match: ("∛" if match[1] else "√") + match[2], text)
        text = _FRACTION.sub(_over, text)
    known = _commands(text)
    return _BACKSLASH.sub(lambda match: _command(match, known), text)


def _over(match: re.Match[str]) -> str:
    top, bottom = match.groups()
    return f"{top}/{bottom}" if top.isdigit() and bottom.isdigit() else f"{top}∕{bottom}"


def _command(match: re.Match[str], known: bool) -> str:
    name, mark = match.groups()
    if name is None:
        return mark if mark in "$%&#_" else ""
    found = signs.LATEX.get(name)
    return found if found is not None else "" if name in signs.LATEX_FORMS else name if known else match[0]


# ------------------------------------------------------------------------------------------ signs


def operators(window: Window) -> Reading | None:
    """A sign that stands alone: plus, minus, equals, a dash, a slash."""
    raw = window.first.raw
    if raw in {"-", "–", "—", "--", "−"}:
        return _dash(window)
    if raw in {"©", "(c)", "(C)"} and _is_beside_copyright(window):
        return Reading(1, "")
    if raw in {"x", "X", "×", "*"} and (reading := _times_or_by(window)):
        return reading
    following = window.at(1) if raw in "|>/·*" else None
    closed = raw == "/" and window.raw_before().endswith(")") and "(" not in window.raw_before()
    amounts = (is_number(window.before()) or closed) and is_number(text_of(following))
    compared = raw == ">" and is_number(text_of(following))
    if raw == "|" or not (
        raw not in {">", "/", "·", "*"} or amounts or compared or (raw == "/" and _is_measure(window))
    ):
        return Reading(1, "," if window.before() else "")
    if raw in signs.HEARTS and window.before().lower() in signs.WHO_LOVES:
        return Reading(1, "love")
    if raw in {"®", "™"}:
        return Reading(1, signs.SIGN_NAMES[raw])
    if raw not in signs.SYMBOLS:
        return None
    said = signs.SYMBOLS[raw]
    return Reading(1, said.removeprefix("is ") if _has_a_verb(window) or window.opens_line else said)


def _is_beside_copyright(window: Window) -> bool:
    """Whether the mark repeats the word beside it: "Copyright © 2024", "© Copyright 2024"."""
    if window.before().lower() == "copyright" and not window.tail_before():
        return True
    return window.first.raw == "©" and text_of(window.at(1)).lower() == "copyright"


def _dash(window: Window) -> Reading:
    """A dash between words: to, minus, or a pause."""
    raw, before, following = window.first.raw, window.before(), window.at(1)
    if not before:
        return Reading(1, "" if raw == "-" else ",")
    if raw == "−":
        return Reading(1, "minus")
    if window.tail_before() or following is None:
        return Reading(1, ",")
    if _spans_hours(window) or _spans_measures(window):
        return _TO
    if not (_ends_span(before) and _ends_span(following.text)):
        return Reading(1, ",")
    if not (is_number(before) and is_number(following.text)):
        months = tables.MONTH_NAMES | tables.MONTHS.keys()
        same = before.isalpha() == following.text.isalpha() or following.text in _NOW
        dated = window.before(2) in months and following.text in months
        hours = _HALF_DAY.fullmatch(before) is not None and following.text[0].isdigit()
        return _TO if same or dated or hours else Reading(1, ",")
    years = all(re.fullmatch(r"(1\d|20)\d\d", word) for word in (before, following.text))
    span = years or raw in {"–", "—"} or window.before(2).lower() in {"page", "pages", "chapters", "from"}
    return _TO if span or _counts_a_rising_span(window) else Reading(1, "minus")


def _counts_a_rising_span(window: Window) -> bool:
    """Whether two rising numbers count what is named after them: "5 - 7 days", "10 - 12 kg"."""
    ends = [window.before(), text_of(window.at(1))]
    if not all(re.fullmatch(NUMBER, end) for end in ends) or window.before(2) in signs.OPERATORS:
        return False
    low, high = (float(end.replace(",", "")) for end in ends)
    noun = window.joined(2) if low < high else None
    return noun is not None and is_counted(noun.text)


_TO = Reading(1, "to")


def _ends_span(text: str) -> bool:
    """Whether a span can begin or end there: a number, a day, a month, "p.m.", "present"."""
    named = text in tables.MONTHS or text in tables.MONTH_NAMES or text in tables.DAYS or text in tables.DAY_NAMES
    return named or is_number(text) or text in _NOW or _HALF_DAY.fullmatch(text) is not None


def _spans_hours(window: Window) -> bool:
    """Whether a time of day is before the dash and one after it: "6:30 PM – 9:00 PM", "9:00 – 11 am"."""
    before, following = window.before(), window.at(1)
    end = text_of(following)
    if not (_CLOCK.fullmatch(before) or (_HALF_DAY.fullmatch(before) and window.before(2)[:1].isdigit())):
        return False
    half_day = text_of(window.joined(2)) if end.isdigit() else ""
    return _CLOCK.fullmatch(end) is not None or _HALF_DAY.fullmatch(half_day) is not None


def _spans_measures(window: Window) -> bool:
    """Whether the dash parts two amounts of a unit: "5 kg – 10 kg"."""
    unit, end = window.before(), window.at(1)
    if unit_names(unit) is None or not is_number(window.before(2)) or end is None or not is_number(end.text):
        return False
    return text_of(window.joined(2)) == unit


_CLOCK = re.compile(r"\d{1,2}:\d\d(?:[aApP][mM])?")
_NOW = frozenset({"present", "Present", "now", "today"})
_HALF_DAY = re.compile(r"(?:\d{1,2}(?::\d\d)?)?[aApP]\.?[mM]\.?")


def _is_measure(window: Window) -> bool:
    """Whether the slash parts an amount and its unit: "120 km / 2 h"."""
    return unit_names(window.before()) is not None and is_number(window.before(2))


def _has_a_verb(window: Window) -> bool:
    """Whether the clause had its verb before a comparison: "Is 7 > 5?", "requires Python >= 3", "for all x > 0"."""
    for back in range(1, LOOKAHEAD_WORDS + 1):
        word = window.before(back).lower()
        if not word or word in tables.CLAUSES or set(window.tail_before(back)) & set(".,!?;:"):
            return False
        if word in tables.BEFORE_A_COMPARISON:
            return True
    return False


def _times_or_by(window: Window) -> Reading | None:
    """A cross between two numbers: times in a product, by in a size ("8.5 x 11 in", "4m x 5.5m", "9 x 13-inch")."""
    before, size = window.before(), False
    if unit_names(before) is not None and is_number(window.before(2)):
        size, before = before in tables.LENGTHS, window.before(2)
    beside = _measured(text_of(window.at(1)))
    if own := _measured(before):
        size, before = size or own[1] in tables.LENGTHS, own[0]
    second = beside[0] if beside else text_of(window.at(1))
    if not is_number(before) or not is_number(second):
        return None
    size = size or bool(set("\"″”'′") & set(window.tail_before()))
    size = size or (beside is not None and beside[1] in tables.LENGTHS)
    following = window.joined(2)
    if following is not None:
        size = size or unit_names(following.text) is not None
        chained = following.text in {"x", "×"}
    else:
        chained = False
    size = size or ((chained or window.before(2) in {"x", "×"}) and not _is_beside_operators(window, chained))
    return Reading(1, "by" if size else "times")


def _is_beside_operators(window: Window, chained: bool) -> bool:
    """Whether letters of algebra or other operators show that a chain of crosses is no size: "2 × 3 × 4 = 24"."""
    others = signs.OPERATORS.keys() - {"×", "*"}
    terms = [window.before(), text_of(window.at(1)), window.before(3), text_of(window.at(3)) if chained else ""]
    if any(re.search("[a-zπθ]", term) for term in terms if is_number(term)):
        return True
    if any(window.before(back) in others for back in range(2, LOOKAHEAD_WORDS + 1)):
        return True
    ahead = (2, 4) if chained else (2,)
    return any(core is not None and core.raw in others for core in map(window.at, ahead))


def _measured(text: str) -> tuple[str, str] | None:
    """An amount and the unit written at it: 5.5m, 13-inch."""
    match = re.fullmatch(rf"({NUMBER})-?([A-Za-zµ\"″]+)", text)
    if match is None:
        return None
    if re.fullmatch('["″][WDHL]', match[2]):
        return match[1], "in"
    unit = next((unit for unit, names in tables.UNITS.items() if match[2] in (unit, *names)), None)
    return (match[1], unit) if unit else None


def factorial(window: Window) -> Reading | None:
    """5! before another sign, "5! = 120"; elsewhere the mark is a shout."""
    core = window.first
    if core.tail != "!" or not re.fullmatch(rf"{NUMBER}|[a-z]", core.text):
        return None
    following = window.at(1)
    if following is None or following.starts_line or following.raw not in signs.OPERATORS:
        return None
    return Reading(1, f"{numbers.cardinal(core.text) if core.text[-1].isdigit() else core.text} factorial")


def product(window: Window) -> Reading | None:
    """Letters beside an equals sign that are factors: E = mc², y = mx + b, PV = nRT."""
    core, powers = window.first, signs.POWERS
    match = re.fullmatch(rf"({NUMBER})?([a-z]{{2,3}}|[a-z][A-Z]{{1,3}})([²³]|\^[23])?", core.text)
    if match is None or window.before() not in signs.OPERATORS or match[2] in tables.FUNCTION_WORDS:
        return None
    if not match[1] and not (window.before() == "=" and re.fullmatch("[A-Za-z]|[A-Z]{2}", window.before(2))):
        return None
    power = powers["³" if match[3][-1] in "3³" else "²"] if match[3] else ""
    times = f"{numbers.cardinal(match[1])} " if match[1] else ""
    return say(f"{times}{' '.join(match[2])} {power}".rstrip(), core)


def text_of(core: Core | None) -> str:
    """The word without its marks; "" for none."""
    return core.text if core is not None else ""


def is_number(text: str) -> bool:
    """Whether a word is a number or a letter that stands for one: 5, -2.5, 40%, √2, x, 3x², 2π."""
    amount, letter = (
        rf"[-−+]?[$€£]?{NUMBER}%?[²³]?|\d{{1,3}}/\d{{1,3}}|[{VULGAR}]",
        rf"[-−]?(?:{NUMBER})?[a-zπθ](?:[²³]|\^\d+)?",
    )
    return re.fullmatch(rf"[√([]*(?:{amount}|{letter})", text) is not None
