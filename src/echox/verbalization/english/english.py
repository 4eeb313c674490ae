"""American English: the rules that read a written word, in order.

Rules go from the particular to the general; the first that knows the word reads it. A word of letters alone, which is
nearly every word, is left as it is written.
"""

from __future__ import annotations

import dataclasses
import functools
import html
import re
import unicodedata
from collections.abc import Callable, Sequence

from echox.verbalization.english.rules.addresses import addresses, mentioned
from echox.verbalization.english.rules.amounts import AMOUNTS
from echox.verbalization.english.rules.arithmetic import formula_words, opens_in_dollars, operator_sign
from echox.verbalization.english.rules.chemistry import formula, ion, symbol
from echox.verbalization.english.rules.emoji import emoji
from echox.verbalization.english.rules.maths import (
    factorial,
    is_open_formula,
    operators,
    plain_formula,
    product,
    text_of,
)
from echox.verbalization.english.rules.measures import DASH, NUMBER, is_pair_of_letters, unit_names
from echox.verbalization.english.rules.money import money
from echox.verbalization.english.rules.places import compass, states
from echox.verbalization.english.rules.short_forms import (
    abbreviations,
    capitals,
    is_spelt,
    key_name,
    keys,
    names,
    roman,
)
from echox.verbalization.english.words import numbers, signs, tables
from echox.verbalization.reading.language import LOOKAHEAD_WORDS, Reading, WrittenWord, verbalize
from echox.verbalization.reading.window import LONGEST_KEPT, NeedsMore, Window, say

_LETTER = r"A-Za-zÀ-ÖØ-öø-ɏ"
_WORD = rf"[{_LETTER}]+(?:['’][{_LETTER}]+)*"
_PLAIN = re.compile(rf"[{_LETTER}]+(?:['’-][{_LETTER}]+)*['’]?")
_EMOTICON = re.compile(r"[:;=][-o^']?[)(\]\[DPpOo/\\|*3]+|[8xX]-[)(DPp]|<3+|</3|\^_*\^|[(\[][:;=]|¯\\_\(ツ\)_/¯")
_LINK = re.compile(r"!?\[?([^\]]*)\]\(\S*?\)(.*)")
_FOOTNOTE = re.compile(r"\[\^\w+\]:?")
_TAG = re.compile(
    r"</?(?:a|b|br|code|div|em|h[1-6]|hr|i|li|mark|ol|p|pre|small|span|strong|sub|sup|td|th|tr|u|ul)\s*/?>"
)
_STARS = re.compile("([★⭐\ufe0f]{2,})(½?)☆*")
_NUMBER_OF_STARS = re.compile(rf"({NUMBER})[★⭐]\ufe0f?")
_PIECES = re.compile(
    rf"\d+(?:\.\d+){{2,}}|(?<![\d/])[1-9]\d?/[1-9]\d?(?![\d/])|[=!<>]=|[₀-₉]+|{NUMBER}|{_WORD}|\s+|.", re.DOTALL
)
_SILENT_CATEGORIES = {"So", "Sk", "Mn", "Me", "Cf", "Cc", "Co", "Cs", "Cn", "Pc", "Pd", "Ps", "Pe", "Pi", "Pf", "Po"}


class English:
    """The rules of English. See `echox.verbalization.SpokenLanguage`."""

    code = "en"
    has_rules = True

    def read(self, words: Sequence[WrittenWord], before: Sequence[WrittenWord], complete: bool) -> Reading | None:
        """See `echox.verbalization.SpokenLanguage.read`."""
        after_no_sign = not before or before[-1].text[0].isalnum()
        if after_no_sign and is_plain(words[0].text):
            return _AS_WRITTEN
        return self.read_by_rules(words, before, complete)

    def read_by_rules(
        self, words: Sequence[WrittenWord], before: Sequence[WrittenWord], complete: bool
    ) -> Reading | None:
        """`read` without the short way for plain words, which gives the same."""
        if is_open_formula(words[0].text):
            return self._formula(words, complete)
        try:
            window = Window(words, before, complete, _plain_form)
            if not window.first.raw:
                return Reading(1, "")
            parts = formula_words(words[0], window.first.raw, before, window.later)
            if re.match(r"©[\w'’]", window.first.raw):
                parts = ["©", window.first.raw[1:]]
            if parts:
                return self._parts(parts, words, before, complete)
            reading = next((found for rule in RULES if (found := rule(window)) is not None), None)
        except NeedsMore:
            return None
        reading = reading or pieces(window)
        changed = reading.spoken is None and window.first.raw != words[0].text
        return dataclasses.replace(reading, spoken=window.first.raw) if changed else reading

    def _parts(
        self, parts: Sequence[str], words: Sequence[WrittenWord], before: Sequence[WrittenWord], complete: bool
    ) -> Reading | None:
        """The first word in the parts that it is made of: ``2x-4=10`` as ``2x − 4 = 10``."""
        written = [*(WrittenWord(part, words[0].space if not place else " ") for place, part in enumerate(parts))]
        written += words[1:]
        said, place, problem = [], 0, None
        while place < len(parts):
            earlier = [*before, *written[:place]][-LOOKAHEAD_WORDS:]
            reading = self.read(written[place : place + LOOKAHEAD_WORDS + 1], earlier, complete)
            if reading is None:
                return None
            same = " ".join(word.text for word in written[place : place + reading.num_words])
            said.append(same if reading.spoken is None else reading.spoken)
            place, problem = place + reading.num_words, problem or reading.problem
        spoken = re.sub(r" +([.,?!;:](?= |$))", r"\1", " ".join(part for part in said if part))
        return Reading(1 + place - len(parts), spoken, problem)

    def _formula(self, words: Sequence[WrittenWord], complete: bool) -> Reading | None:
        r"""Words up to the one where the braces of a LaTeX command close: ``\frac{x + 1}{2}``."""
        text = ""
        for count, word in enumerate(words[: LOOKAHEAD_WORDS + 1], 1):
            text = f"{text} {word.text}".lstrip()
            if not is_open_formula(text) or count > LOOKAHEAD_WORDS:
                plain = plain_formula(WrittenWord(text), ()).text.translate(_NO_BRACES)
                return Reading(count, verbalize(re.sub("(?<![A-Za-z])-|-(?![A-Za-z])", "−", plain), self))
        return Reading(count, verbalize(text.translate(_NO_BRACES), self)) if complete else None


_AS_WRITTEN = Reading()
_PLAIN_WORD = re.compile("a|A|[A-Za-z][a-z]+(?:'[a-z]+)?[.,?!;:]?")
_READ_OTHERWISE = frozenset().union(
    *(
        tables.MONTHS,
        tables.DAYS,
        tables.TITLES,
        tables.PLACES,
        tables.WORDS,
        tables.BARE_WORDS,
        tables.BEFORE_A_NUMBER,
    ),
    *(tables.UNITS, tables.ANY_CASE, tables.CURRENCY_CODES, tables.ELEMENTS, tables.SPELT_SMALL, tables.KEYS),
    *(tables.SHORT_KEYS, {"no", "pp"}),
)


def is_plain(text: str) -> bool:
    """Whether a word is spoken as it is written wherever it stands but after a sign: nearly every word is.

    The short way of `English.read`: no rule has to be asked.
    """
    return len(text) <= LONGEST_KEPT and _is_plain(text)


@functools.lru_cache(maxsize=8192)
def _is_plain(text: str) -> bool:
    if not _PLAIN_WORD.fullmatch(text):
        return False
    word = text.rstrip(".,?!;:")
    if word in _READ_OTHERWISE or word.lower() in _READ_OTHERWISE:
        return False
    return re.fullmatch("[ivx]+|[b-df-hj-np-tv-xz]+", word) is None


_WIDE = re.compile("[\uff01-\uff5e]")
_NO_BRACES = str.maketrans("", "", "{}\\")


def _plain_form(
    word: WrittenWord, before: Sequence[WrittenWord], later: Callable[[int], WrittenWord | None]
) -> WrittenWord:
    """Full-width signs, entities of HTML, LaTeX and operators typed on a keyboard as plain signs."""
    text = word.text
    if len(text) == 1 and (sign := operator_sign(word, before, later)):
        return WrittenWord(sign, word.space)
    if "$" in text and opens_in_dollars(word, later):
        text = text.replace("$", "")
    if text.isascii() and not any(sign in text for sign in "$\\&{"):
        return WrittenWord(text, word.space) if text != word.text else word
    if not text.isascii():
        text = _WIDE.sub(lambda match: unicodedata.normalize("NFKC", match[0]), text)
    if "&" in text and ";" in text:
        text = html.unescape(text).strip()
    return plain_formula(WrittenWord(text, word.space), before)


# ------------------------------------------------------------------------------------------ silent marks


def markers(window: Window) -> Reading | None:
    """List dashes and numbers, headings, rules, table bars, code fences, emoticons."""
    raw = window.first.raw
    if re.fullmatch(r"\|+|\|?[-:|]{3,}|[-*_=~]{3,}|`{3,}\w*|\[[ xX]?\]", raw) or _EMOTICON.fullmatch(raw):
        return Reading(1, "")
    if match := _STARS.fullmatch(window.first.text):
        count = len(match[1].replace("\ufe0f", ""))
        return say(f"{numbers.mixed(count, 1, 2) if match[2] else numbers.integer(str(count))} stars", window.first)
    if (match := re.fullmatch(r"\|([^|]+)\|", raw)) and (
        text_of(window.at(1)) in signs.OPERATORS or window.before() in signs.OPERATORS
    ):
        return Reading(1, f"the absolute value of {_inside(match[1]).spoken}")
    if match := _NUMBER_OF_STARS.fullmatch(window.first.text):
        return say(f"{numbers.cardinal(match[1])} star{'' if match[1] == '1' else 's'}", window.first)
    if (_TAG.search(raw) and not raw.startswith("`<")) or re.fullmatch(r"==\w[^=]*==\W*", raw):
        return _inside(_TAG.sub("", raw).strip("="))
    if re.fullmatch(r"#{1,6}|>+|[-*+•‣▪●○◦·–—]", raw) and window.opens_line:
        return None if raw == "+" and re.fullmatch(NUMBER, text_of(window.at(1))) else Reading(1, "")
    if numeral := _opening_numeral(window):
        return Reading(1, f"{numbers.integer(str(numbers.roman(numeral)))},")
    if window.opens_line and (match := re.fullmatch(r"(\d{1,3})[.)]|\(?([ivx]{1,5}|[IVX]{2,5})[.)]", raw)):
        following = window.at(1)
        place = match[1] or numbers.roman(match[2].upper())
        if place is not None and following is not None and not following.starts_line:
            return Reading(1, f"{numbers.integer(str(place))},")
    return None


def _opening_numeral(window: Window) -> str | None:
    """A numeral of one letter that numbers a line, or one of a heading: "I. Causes", "## II. Methods"."""
    match = re.fullmatch(r"(?:\*\*|__)?([IVX]{1,5})[.)]", window.first.raw)
    if match is None or numbers.roman(match[1]) is None:
        return None
    headed = re.fullmatch(r"#{1,6}|[-*+•>]", window.raw_before()) is not None and not window.before(2)
    headed = headed or (window.begins_line_before() and re.fullmatch("#{1,6}", window.raw_before()) is not None)
    following = window.at(1) if window.opens_line or headed else None
    if following is None or following.starts_line or re.fullmatch(r"[A-Z]\.?", following.text):
        return None
    earlier = {"I": "H", "V": "U", "X": "W"}.get(match[1])
    lettered = any(window.before(back) == earlier and window.tail_before(back)[:1] in {".", ")"} for back in _BACK)
    if lettered:
        return None
    if len(match[1]) > 1 or window.first.starts_line or headed or window.first.raw.endswith(")"):
        return match[1]
    later = (window.at(place) for place in _BACK)
    return match[1] if any(core is not None and core.starts_line and core.text == "II" for core in later) else None


_BACK = range(1, LOOKAHEAD_WORDS + 1)


def links(window: Window) -> Reading | None:
    """[text](https://example.org) and ![picture](a.png) are their text; a mark of a footnote is nothing."""
    core = window.first
    if match := _LINK.fullmatch(core.raw):
        return _inside(match[1] + match[2])
    if _FOOTNOTE.search(core.raw):
        return _inside(_FOOTNOTE.sub("", core.raw))
    return None


def _inside(text: str) -> Reading:
    """A word that is left when marks are taken away, read alone."""
    return pieces(Window([WrittenWord(text)], [], True)) if text else Reading(1, "")


# ------------------------------------------------------------------------------------------ amounts


_FIGURE = re.compile(r"\d")


def amounts(window: Window) -> Reading | None:
    """Words with digits; see `rules/amounts.py`."""
    text = window.first.text
    if not _FIGURE.search(text) and (text.isascii() or not any(unicodedata.category(sign) == "No" for sign in text)):
        return money(window) if text in tables.CURRENCY_CODES or text in tables.CURRENCIES else None
    for rule in AMOUNTS:
        reading = rule(window)
        if reading is not None:
            return reading
    return None


# ------------------------------------------------------------------------------------------ anything else


def identifier(window: Window) -> Reading | None:
    """MAX_SIZE, HTTP_PORT: the words of a name in capitals."""
    core = window.first
    if not re.fullmatch(r"[A-Z][A-Z0-9]*(?:_[A-Z0-9]+)+", core.text):
        return None
    words = [word for part in core.text.split("_") for word in re.findall(r"[A-Z]+|\d+", part)]
    spelt = [word.lower() if len(word) > 1 and re.search("[AEIOUY]", word) else " ".join(word) for word in words]
    return say(" ".join(numbers.integer(word) if word.isdigit() else word for word in spelt), core)


def compound(window: Window) -> Reading | None:
    """Parts with digits joined by dashes or slashes, each read alone: mid-1990s, 10%-20%, $5/day, 1st–3rd."""
    core = window.first
    parts = re.split(r"(?<=[\w%°¢$€£])([-–—/])(?=[\w$€£#])", core.text)
    if len(parts) < 3 or not any(character.isdigit() for character in core.text) or set("()^Δ∂π") & set(core.text):
        return None
    said, per = _part(parts[0]), ""
    for mark, part, earlier in zip(parts[1::2], parts[2::2], parts[:-1:2], strict=True):
        chained, whole = bool(per), part if part in tables.PER.values() else ""
        per = tables.PER.get(part) or tables.UNITS.get(part, (whole,))[0]
        if mark == "/" and not per and re.match("[$€£¥]", earlier) and re.fullmatch("[a-z]{3,}", part):
            per = part
        if mark == "/" and per and (chained or re.search(r"\d[xkKMB]?$", earlier)):
            said += f" per {per}"
            continue
        span = mark != "/" and _is_amount(earlier) and _is_amount(part)
        said += f" to {_part(part)}" if span else f" {_part(part)}"
    return say(said, core)


def _is_amount(text: str) -> bool:
    return re.match(r"[$€£#]?\d", text) is not None and re.match(r"0\d", text) is None


def _part(text: str) -> str:
    """A part of a compound as it is spoken alone."""
    window = Window([WrittenWord(text)], [], complete=True)
    if re.fullmatch(r"\d{2}s", text):
        return numbers.plural(numbers.integer(text[:-1]))
    for rule in (amounts, capitals, plain):
        reading = rule(window)
        if reading is not None:
            return text if reading.spoken is None else reading.spoken
    return pieces(window).spoken or ""


def plain(window: Window) -> Reading | None:
    """Letters, with apostrophes and hyphens, and at most one mark after them: spoken as it is written."""
    core = window.first
    if _PLAIN.fullmatch(core.text):
        if not core.head and core.tail in {"", ".", ",", "?", "!", ";", ":"} and "’" not in core.text:
            return Reading()
        return say(core.text.replace("’", "'"), core)
    return None


def units(window: Window) -> Reading | None:
    """Units beside no figure: "per kg", "in km/h", "7 days/week"."""
    core = window.first
    base, slash, below = core.text.partition("/")
    if base in tables.CURRENCIES and below in tables.UNITS:
        return say(f"{tables.CURRENCIES[base][1]} per {tables.UNITS[below][0]}", core)
    if re.sub("[²³]$", "", core.text) in tables.LETTER_UNITS and window.before() in {"in", "per"}:
        following = window.joined(1)
        powered = following is not None and following.text in signs.POWERS.values()
        names = unit_names(core.text) if powered or _is_quantity(window.before(2)) else None
        if names is not None:
            return say(names[window.before() == "in"], core)
    if is_pair_of_letters(window, 0):
        return say(" ".join(core.text.split("/")), core)
    shown = bool(slash) or re.sub("[²³]$", "", base) in tables.BARE_UNITS
    divided = window.before() == "per" and (base in tables.UNITS or re.search("[²³]$", base) is not None)
    shown = shown or (divided and base not in {"A", "bar", "in", "t"})
    if shown and (names := unit_names(core.text)):
        return say(names[0] if window.before().lower() in {"a", "an", "one", "per"} else names[1], core)
    counted, slash, below = core.text.partition("/")
    if slash and counted.isalpha() and re.fullmatch(rf"{NUMBER}(?:{DASH}{NUMBER})?", window.before()):
        per = tables.PER.get(below) or (below if below in tables.PER.values() else None)
        return say(f"{counted} per {per}", core) if per else None
    return None


def _is_quantity(word: str) -> bool:
    """Whether it is measured: "height in m", "the lengths in m", but not "differ in m"."""
    return word.lower() in tables.QUANTITIES or word.lower().removesuffix("s") in tables.QUANTITIES


def pieces(window: Window) -> Reading:
    """A word of several kinds, piece by piece: letters, numbers, symbols; emoji and punctuation are silent."""
    core = window.first
    said: list[str] = []
    unknown = ""
    text = re.sub("(?<=[a-z])(?=[A-Z])", " ", core.text) if core.text[:1] in {"#", "@"} else core.text
    found = [piece for piece in _PIECES.findall(text) if piece.strip()]
    for place, piece in enumerate(found):
        if not piece:
            continue
        if "/" in piece and len(piece) > 1:
            top, bottom = piece.split("/")
            named = 0 < int(top) < int(bottom) <= 20 or (int(top) < 10 and 1 < int(bottom) < 10)
            said.append(
                numbers.fraction(int(top), int(bottom))
                if named
                else f"{numbers.integer(top)} {numbers.integer(bottom)}"
            )
        elif piece in {"-", "−"} and "^" in core.text and said:
            said.append("minus")
        elif re.fullmatch("[a-z]{2,3}", piece) and found[place + 1 : place + 2] == ["^"]:
            said.append(" ".join(piece))
        elif piece.count(".") > 1:
            said.append(" point ".join(numbers.integer(part) for part in piece.split(".")))
        elif piece[0].isascii() and piece[0].isdigit() or re.fullmatch(NUMBER, piece):
            zero_led = piece.startswith("0") and piece.isdigit() and len(piece) > 1
            is_year = place > 0 and re.fullmatch("(19|20)[0-9]{2}", piece)
            said.append(
                numbers.spell_digits(piece)
                if zero_led
                else numbers.year(int(piece))
                if is_year
                else numbers.cardinal(piece)
            )
        elif re.fullmatch("[₀-₉]+", piece):
            said.append(numbers.integer(unicodedata.normalize("NFKC", piece)))
        elif re.fullmatch(_WORD, piece):
            argument = place + 1 + (re.fullmatch("[₀-₉]+", "".join(found[place + 1 : place + 2])) is not None)
            called = found[argument : argument + 1] == ["("] and argument + 1 < len(found)
            function = signs.FUNCTIONS.get(piece) if called and found[argument + 1] != ")" else None
            key = key_name(piece) if "+" in core.text or piece in tables.KEYS else None
            said.append(function or key or _letters(piece, len(found) > 1))
            if function and argument > place + 1:
                said.append(f"base {numbers.integer(unicodedata.normalize('NFKC', found[place + 1]))}")
                found[place + 1] = ""
            said += ["of"] if called and (function or (len(piece) == 1 and found[argument + 1] != ")")) else []
        elif piece == "(" and re.fullmatch(NUMBER, "".join(found[max(0, place - 1) : place])) and core.text[-1] != "(":
            said += ["times"] if re.fullmatch(NUMBER, found[place + 1]) else []
        elif piece == "°" and re.fullmatch(NUMBER, "".join(found[max(0, place - 1) : place])):
            said.append("degrees")
        elif "⁄" in (fraction := unicodedata.normalize("NFKC", piece)):
            said.append(_vulgar_fraction(fraction))
        elif piece in signs.GREEK or piece in signs.POWERS:
            said.append(signs.GREEK.get(piece) or signs.POWERS[piece])
        elif piece == "#" and place + 1 < len(found) and found[place + 1][0].isalpha():
            named = found[place + 1].lower() == "hashtag" or window.before().lower() in {"hashtag", "hashtags"}
            said.append("" if named else "hashtag")
        elif piece == "^" and said and place + 1 < len(found):
            power = {"2": signs.POWERS["²"], "3": signs.POWERS["³"]}.get(found[place + 1])
            said.append(power or "to the power of")
            found[place + 1] = "" if power else found[place + 1]
        elif piece in "–—" and said and place + 1 < len(found):
            said[-1] += ","
        elif piece == "/" and said and re.search("[Δ∂π]", core.text) and place + 1 < len(found):
            said.append("over")
        elif piece in {"/", "*", "~", "^", "°"} or piece not in signs.SYMBOLS:
            symbol, problem = _symbol(piece)
            said += [symbol or problem] if symbol or problem else []
            unknown += problem
        else:
            named = place > 0 and found[place - 1].isalpha() and len(found[place - 1]) > 1
            said.append(signs.SYMBOLS[piece].removeprefix("is ") if named else signs.SYMBOLS[piece])
    if unknown:
        return Reading(1, " ".join(said) + core.intonation, f"no English reading of {unknown!r}")
    return say(" ".join(part for part in said if part), core) if any(said) else Reading(1, "")


def _vulgar_fraction(text: str) -> str:
    top, _, bottom = text.partition("⁄")
    return numbers.fraction(int(top), int(bottom)) if top.isdigit() and bottom.isdigit() else ""


def _letters(piece: str, among_others: bool) -> str:
    spelt = among_others and piece.isupper() and (len(piece) < 3 or (len(piece) < 7 and is_spelt(piece)))
    return " ".join(piece) if spelt else piece.replace("’", "'")


def _symbol(character: str) -> tuple[str, str]:
    """The spoken form of a character, and the character itself if it has none."""
    category = unicodedata.category(character)
    plain = unicodedata.normalize("NFKC", character)
    if plain != character and re.fullmatch(rf"[\d{_LETTER}]+", plain):
        return (numbers.cardinal(plain) if plain.isdigit() and plain.isascii() else plain), ""
    if category == "Nd":
        return numbers.integer(str(unicodedata.digit(character))), ""
    if category == "Sc":
        return unicodedata.name(character, "").lower().removesuffix(" sign"), ""
    if category in _SILENT_CATEGORIES or character in signs.SYMBOLS or character in "`~^|<>":
        return "", ""
    return "", character


RULES: tuple[Callable[[Window], Reading | None], ...] = (
    mentioned,
    markers,
    emoji,
    operators,
    factorial,
    links,
    addresses,
    ion,
    amounts,
    symbol,
    names,
    compass,
    states,
    abbreviations,
    units,
    roman,
    formula,
    product,
    identifier,
    keys,
    capitals,
    plain,
    compound,
)
