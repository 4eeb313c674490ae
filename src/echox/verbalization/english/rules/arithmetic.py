"""Sums and algebra typed on a keyboard: where - * / x are operators, and words that hold a whole formula.

An operator that stands alone is rewritten to its own sign (− × ÷) before any rule reads it. A formula in one word,
``2x-4=10``, is parted into the words of its spaced form. So every way to write a formula has one reading.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from echox.verbalization.english.rules.maths import in_delimiters, plain_formula
from echox.verbalization.english.rules.measures import NUMBER, unit_names
from echox.verbalization.english.words import signs, tables
from echox.verbalization.reading.language import LOOKAHEAD_WORDS, WrittenWord

Later = Callable[[int], WrittenWord | None]
"""The word that many words later, None at the end; raises NeedsMore."""

_SIGNS = {"-": "−", "–": "−", "*": "∗", "/": "÷", "x": "×", "X": "×"}
_CROSS_IN_LATEX = {"×": "∗"}
"""In a formula of LaTeX a cross is no "by" of sizes."""
_RELATIONS = "=≠≈≤≥<>≡∝"
_BINARY = rf"{_RELATIONS}+\-−–*/×÷·±∗∕"
_LETTER = "A-Za-zα-ωΑ-Ω"
_CHARACTERS = re.compile(rf"[{_LETTER}0-9₀-₉_.,%$€£²³⁰-⁹°½¼¾!^√∛()\[\]|{_BINARY}]+")
_SCIENTIFIC = re.compile(r"\d[eE][-+]\d|->|=>|<-|--[A-Za-z]|[<>=!]{3}|(?<![\w)])/|/(?![\w(√-])|//")
_LETTERS = re.compile(rf"[{_LETTER}]+")
_OPERATOR = re.compile(rf"[<>=!]=|[{_BINARY}]")
_HEAD, _TAIL = "\"'“‘*_`", "\"'”’*_`"
_MELODY = re.compile(r"[.,!?;:…]+$")
_MARKS = re.compile(r"^[\"'“‘*_`]+|[\"'”’*_`.,!?;:…]+$")
_SURE = re.compile(
    r"[\w)\]²³%] ?[×÷±·∗∕√∛^] ?[\w(√−-]|[\w)\]²³%](?: \+ |\+)[\w(√−-]|[√∛^]|\)\(|\S [-−*/] \S+ [-−*/] \S"
    r"|(?<![\w/])[xyzn]/\d|(?<![\w/])\d/[xyzn](?!\w)|(?:sin|cos|tan|log|ln|exp|sqrt)[(²³^]"
    rf"|(?<![{_LETTER}])[a-cxyznrpqt][²³](?![{_LETTER}/])"
)
_EQUATION = re.compile(rf"[\w)\]²³%!°] ?(?:==|!=|<=|>=|[{_RELATIONS}]) ?[\w(√$−.-]")
_CALLED = re.compile(r"([\w*/^]?)\(([^()]*[-+*/−][^()]*)\)([*/^(²³]?)")
_COEFFICIENT = re.compile(
    rf"(?<![\w.-])(?:{NUMBER})?[xyznij] ?[-−] ?{NUMBER}(?![\w-])|\b[xyz]\d ?[-−] ?[xyz]\d\b"
    rf"|{NUMBER}([xyzn]) ?[-−] ?{NUMBER}(?!\1)[xyzn]\b"
)
_ALGEBRA = re.compile(r"[+−√yz]| - |(?<! )x|x(?! )| [-*/÷∗] \S+ [-*/÷∗] ")
_SPAN = re.compile(
    rf"(?<![\w.)^²³−/-])({NUMBER})(?P<unit> ?[A-Za-z%]*[²³]?)( ?)[-−]\3({NUMBER})(?P=unit)(?![\w.(^²³/-])"
)

_CODE = re.compile(rf"{NUMBER}(/{NUMBER}){{2,}}|0\d*([-/]\d+)+|#.*|\d+(-\d+){{2,}}|")
"""Dates, versions and telephone numbers."""
_LONGEST = 80
_FACTORS = re.compile(r"[\"'“‘*_`]*(?:[b-df-hj-np-tv-z]{2}|a[bcxyz])(?:[²³]|\^\d)?")
"""Two letters that are no word: bx, cd, ab."""
_QUANTITIES = tables.QUANTITIES | tables.as_set("""
amount cost count days density distance duration energy force hours mass minutes people price rate speed time total
velocity voltage volume years
""")
"""Names of which one shows that a slash between names divides; it parts others: "answer = yes / maybe"."""
_NAME = re.compile(r"[A-Za-z]{3,}(?:[_-][A-Za-z]+)*")


def operator_sign(word: WrittenWord, before: Sequence[WrittenWord], later: Later) -> str | None:
    """The sign for which a - * / or x stands that is a word of its own; None if it is none, or a mark of prose."""
    if word.text == "×" and in_delimiters(word.text, before):
        return _CROSS_IN_LATEX["×"]
    if word.text not in _SIGNS or word.starts_line or not before:
        return None
    if word.text not in "xX" and _is_among_names(word.text, before, later):
        return _SIGNS[word.text]
    if not _is_term(before, len(before) - 1):
        return None
    if _MELODY.search(before[-1].text.rstrip(_TAIL)) or (following := later(1)) is None:
        return None
    if following.starts_line or not _is_term([word, following], 1) or not _begins_term(following.text):
        return None
    noun = later(2) if following.text in {"a", "A", "I"} else None
    if noun is not None and not noun.starts_line and re.match("[A-Za-z]{2}", noun.text):
        return None
    beside = before[-1].text.endswith(")") or following.text.startswith("(")
    if word.text in "xX" and not beside:
        return None
    if in_delimiters(word.text, before):
        return _SIGNS[word.text]
    run, place = _run(word, before, later)
    if word.text == "/" and not (beside or _EQUATION.search(run) or _SURE.search(run)):
        return None
    return _SIGNS[word.text] if _is_formula(run, place) else None


def _is_among_names(sign: str, before: Sequence[WrittenWord], later: Later) -> bool:
    """Whether an operator is in a formula of words: "Profit = revenue - costs", "length * width = area"."""
    if not _NAME.fullmatch(before[-1].text) or (following := later(1)) is None or following.starts_line:
        return False
    ends = _MELODY.search(following.text) is not None
    if not _NAME.fullmatch(_MELODY.sub("", following.text)):
        return False
    back = 2
    while back < len(before) and before[-back].text in _SIGNS and _NAME.fullmatch(before[-back - 1].text):
        back += 2
    after = None if ends else later(2)
    last = after is None or after.starts_line or after.text in _SIGNS or after.text == "="
    earlier = len(before) >= back and before[-back].text == "="
    if sign == "/" and not _QUANTITIES & {before[-1].text.lower(), _MELODY.sub("", following.text).lower()}:
        return False
    return last and earlier != (after is not None and after.text == "=")


def opens_in_dollars(word: WrittenWord, later: Later) -> bool:
    """Whether a dollar sign before a number opens a formula that a later one closes: ``$5 - 3 = 2$``."""
    if re.fullmatch(rf"[(\"“]*\${NUMBER}[²³]?", word.text) is None:
        return False
    words = [word]
    while (after := later(len(words))) is not None and not after.starts_line and _is_part([*words, after], len(words)):
        if len(words) > 1 and re.search(r"[^$]\$[.,;:!?)]*$", after.text):
            return "$" not in after.text[:1] and words[1].text in {*signs.OPERATORS, *_SIGNS}
        words.append(after)
    return False


def formula_words(word: WrittenWord, plain: str, before: Sequence[WrittenWord], later: Later) -> list[str] | None:
    """The words of the spaced form of a formula that is written in one word; None if it is no such formula.

    Args:
        word: as it is written.
        plain: its text without LaTeX.
        before: the words before it, newest last.
        later: gives the words after it.
    """
    core = _MARKS.sub("", plain)
    if re.search(r"[-+\−–*/×÷·±^]|\d[xX]\d", core) is None or not _is_term([WrittenWord(core)], 0):
        return None
    enclosed = in_delimiters(word.text, before)
    if not enclosed and not _is_shown(core, WrittenWord(plain, word.space), before, later):
        return None
    start = plain.index(core)
    words = [_CROSS_IN_LATEX.get(part, part) if enclosed else part for part in _parted(core)]
    words[0], words[-1] = plain[:start] + words[0], words[-1] + plain[start + len(core) :]
    return words if words != [plain] else None


def _is_shown(core: str, word: WrittenWord, before: Sequence[WrittenWord], later: Later) -> bool:
    """Whether the word itself or the words beside it show that it is a formula."""
    own = core.rstrip(".,;:!?").replace("–", "-")
    if len(own) > _LONGEST or _CODE.fullmatch(own.strip("()[]")):
        return False
    if re.fullmatch(r"\(?\d[\d.]*(?:\*\d[\d.]*)+\)?", own) and not word.text.startswith("*"):
        return True
    if re.fullmatch(rf"\(?(?:{NUMBER})?[xyzn]-\d{{1,3}}\)?", own):
        return True
    unit = own.strip("()")
    measured = bool(before) and (before[-1].text[-1:].isdigit() or before[-1].text in {"in", "per"})
    named = unit_names(unit.lstrip("0123456789.,-–")) is not None
    if named and (measured or unit[0].isdigit()):
        return False
    run, place = _run(WrittenWord(word.text, word.space), before, later)
    if _is_asked(own, word, before):
        return True
    bare = re.fullmatch(rf"({NUMBER})/({NUMBER})", unit)
    if bare is not None:
        return _EQUATION.search(run) is not None and _divides_well(bare[1], bare[2])
    if re.fullmatch(r"\d+[xX×]\d+", unit):
        return _is_exact_product(run, unit)
    if re.fullmatch(r"[a-z]/[a-z]", unit) and not re.search(r"=", run):
        return False
    if re.fullmatch(rf"{NUMBER}-{NUMBER}", unit) and (result := _after_is(later)) is not None:
        low, high = (_value(end) for end in unit.split("-"))
        return abs(low - high - result) < 1e-9
    return _is_formula(run, place)


def _is_asked(own: str, word: WrittenWord, before: Sequence[WrittenWord]) -> bool:
    """Whether the text asks for the value: "What is 25-7?", "Calculate 12/4."."""
    match = re.fullmatch(rf"({NUMBER})([-/])({NUMBER})", own)
    if match is None or not before or _MELODY.search(word.text.rstrip(_TAIL)) is None:
        return False
    words = [one.text.lower().replace("’", "'") for one in before[-2:]]
    asked = words[-1] in {"what's", "calculate", "compute", "evaluate"} or words == ["what", "is"]
    return asked and _value(match[1]) > _value(match[3]) and own != "24/7"


def _divides_well(top: str, bottom: str) -> bool:
    """Whether 20/5 is a division that would be read as a fraction: "twenty fifths"."""
    above, below = _value(top), _value(bottom)
    return 1 < below <= 10 and below <= above <= 20 and above % below == 0


def _is_exact_product(run: str, size: str) -> bool:
    """Whether 12x12 is a product: its value is on the other side of the equals sign."""
    low, high = (int(end) for end in re.split("[xX×]", size))
    beside = re.search(rf"{size} = ({NUMBER})|({NUMBER}) = {size}", run)
    return beside is not None and _value(beside[1] or beside[2]) == low * high


def _after_is(later: Later) -> float | None:
    """The number after "is": "25-7 is 18"."""
    verb = later(1)
    if verb is None or verb.text not in {"is", "makes", "gives", "equals"} or verb.starts_line:
        return None
    result = later(2)
    found = re.fullmatch(rf"([-−]?)({NUMBER})[.,;:!?]*", result.text.strip(_TAIL)) if result is not None else None
    return _value(found[2]) * (-1 if found[1] else 1) if found is not None else None


def _value(number: str) -> float:
    return float(number.replace(",", ""))


def _run(word: WrittenWord, before: Sequence[WrittenWord], later: Later) -> tuple[str, int]:
    """The words around one that are terms and operators, with spaces between them, and where it begins there."""
    words, following = [word], word
    for back in range(len(before) - 1, -1, -1):
        earlier = before[back]
        if following.starts_line or not _is_part(before, back) or _MELODY.search(earlier.text.rstrip(_TAIL)):
            break
        words, following = [earlier, *words], earlier
    place = len(words) - 1
    while not _MELODY.search(words[-1].text.rstrip(_TAIL)):
        after = later(len(words) - place)
        if after is None or after.starts_line or not _is_part([*words, after], len(words)):
            break
        words.append(after)
    inside = place == len(before) > 0 and words[0].text in signs.OPERATORS and words[0].space == " "
    cut = inside or place == len(before) >= LOOKAHEAD_WORDS
    if cut:
        words, place = [_EARLIER, *words], place + 1
    texts = [_MELODY.sub("", one.text.strip(_HEAD) or one.text) for one in words]
    texts = [text.replace("–", "-") for text in texts]
    return " ".join(texts), len(" ".join(texts[:place])) + (place > 0)


_EARLIER = WrittenWord(")")
"""A term that stands for what was written before the words that a rule sees."""


def _is_part(words: Sequence[WrittenWord], place: int) -> bool:
    return words[place].text in signs.OPERATORS or words[place].text in _SIGNS or _is_term(words, place)


def _is_term(words: Sequence[WrittenWord], place: int) -> bool:
    """Whether a word is a term or terms with their operators: 3, 2x, (x, 3)(x, 4ac; a unit after a number."""
    text = plain_formula(words[place], words[:place]).text.strip(_HEAD)
    text = _MELODY.sub("", text).strip(_HEAD)
    if not text or _CHARACTERS.fullmatch(text) is None or _SCIENTIFIC.search(text):
        return False
    if place and text.rstrip("²³") in tables.UNITS and words[place - 1].text[-1:].isdigit():
        return True
    if re.search(r"[\w)]", text) is None:
        return False
    sign = words[place - 1].text if place else ""
    if re.fullmatch(r"[a-z]{2}(?:[²³]|\^\d)", text) and text[:2] not in tables.UNITS:
        return True
    if (sign in signs.OPERATORS or sign in _SIGNS) and re.fullmatch(_FACTORS, text):
        return text not in tables.UNITS and text not in tables.BARE_WORDS and text not in tables.WORDS
    if sign == "=" and re.fullmatch(r"[a-z]{2}([²³]|\^\d)?", text):
        return text not in tables.FUNCTION_WORDS
    return all(_is_factor(text, found) for found in _LETTERS.finditer(text))


def _is_factor(text: str, found: re.Match[str]) -> bool:
    """Whether letters of a word are a letter of algebra, factors, a function or a unit."""
    letters, earlier, after = found[0], text[found.start() - 1 : found.start()], text[found.end() : found.end() + 1]
    if len(letters) == 1:
        return True
    if letters in signs.FUNCTIONS and after in {"(", "²", "³", "^"}:
        return True
    if earlier.isdigit() and (letters in tables.UNITS or re.fullmatch("[a-z]{2,3}", letters)):
        return True
    glued = earlier in {*_BINARY, "(", ")"} if earlier else after != "" and after in _BINARY and "=" in text
    return bool(glued) and re.fullmatch("[a-z]{2}", letters) is not None and letters not in tables.FUNCTION_WORDS


def _begins_term(text: str) -> bool:
    return re.match(r"[\"'“*_`]*(?:\\?[(\[]|\\?[$√∛|−-])*[\w\\.]", text) is not None


def _is_formula(run: str, place: int) -> bool:
    """Whether a run of terms and operators is a formula, and what stands at a place in it no span of numbers."""
    span = next(
        (found for found in _SPAN.finditer(run) if found.start() <= place < found.end() or found.start() == place), None
    )
    rising = span is not None and _value(span[1]) <= _value(span[4]) and not _is_exact(run, span)
    if span is not None and rising and not (span["unit"].strip() in {*"xyzn"} and _EQUATION.search(run)):
        others = f"{run[: span.start()]}0{run[span.end() :]}"
        sure = _SURE.search(others) is not None and (_EQUATION.search(run) or _ALGEBRA.search(others))
        return bool(sure) or _has_unknown(run, span)
    if _SURE.search(run) or _EQUATION.search(run) or _COEFFICIENT.search(run):
        return True
    return any(_is_called(found) for found in _CALLED.finditer(run))


def _is_called(found: re.Match[str]) -> bool:
    """Whether brackets with an operator are a factor: n(n-1), (x-3)(x+3), (a-b)/2; not 12(3-4) nor 3(a-c)."""
    name, inside, after = found.groups()
    ends = re.fullmatch(r"(\w+)[-−](\w+)", inside)
    listed = ends is not None and ends[1].isdigit() == ends[2].isdigit() and ends[1] < ends[2]
    if name in {"*", "/", "^"}:
        return True
    if name and (not listed or name.islower() and not ends):
        return True
    return bool(after) and not (ends is not None and ends[1].isdigit() and ends[2].isdigit() and not after)


def _is_exact(run: str, span: re.Match[str]) -> bool:
    """Whether the difference of two numbers stands on the other side of the equals sign."""
    unit = re.escape(span["unit"])
    after = re.match(rf"(?: ?[A-Za-z%]+[²³]?)? ?= ?([-−]?)({NUMBER}){unit}", run[span.end() :])
    earlier = re.search(rf"([-−]?)({NUMBER}){unit} ?= ?$", run[: span.start()])
    found = after or earlier
    if found is None:
        return False
    return abs(_value(span[1]) - _value(span[4]) - _value(found[2]) * (-1 if found[1] else 1)) < 1e-9


def _has_unknown(run: str, span: re.Match[str]) -> bool:
    """Whether a letter of algebra equals the two numbers: "x = 3-5", not the mark in "A = 90-100"."""
    return re.search(r"(?<![\w.])[xyz] ?= ?$", run[: span.start()]) is not None


def _parted(core: str) -> list[str]:
    """The words of a formula, with spaces around its operators; powers and proper fractions stay together."""
    text = re.sub(r"(?<=\d)[xX](?=\d)", "×", core.replace("–", "-"))
    text = re.sub(r"(?<=[\w)])\*\*(?=[\w(−-])", "^", text)
    text = re.sub(rf"(?<![\w.)/^])({NUMBER})/({NUMBER})(?![\w.(/^²³])", _fraction, text)
    parted, end = "", 0
    for match in _OPERATOR.finditer(text):
        if match.start() < end:
            continue
        parted += text[end : match.start()]
        end = match.end()
        sign = _SIGNS.get(match[0], match[0])
        binary = re.search(r"[\w)\]²³%!°½¼¾|\u2044]$", parted) is not None and end < len(text)
        parted += f" {sign} " if binary else sign
    return (parted + text[end:]).replace("\u2044", "/").split()


def _fraction(match: re.Match[str]) -> str:
    """Hold a fraction that has a name together, 3/4; 20/5 is a division."""
    proper = match[1].isdigit() and match[2].isdigit() and 0 < int(match[1]) < int(match[2]) <= 20
    return f"{match[1]}\u2044{match[2]}" if proper else match[0]
