"""American English: the rules that read a written word, in order.

Rules go from the particular to the general; the first that knows the word reads it. A word of letters alone, which is
nearly every word, is left as it is written.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Sequence

from echox.verbalization import english_numbers as numbers
from echox.verbalization import english_tables as tables
from echox.verbalization.english_amounts import AMOUNTS
from echox.verbalization.english_chemistry import formula, symbol
from echox.verbalization.english_measures import NUMBER, unit_names
from echox.verbalization.english_money import money
from echox.verbalization.english_window import Core, NeedsMore, Window, say
from echox.verbalization.language import Reading, WrittenWord

_LETTER = r"A-Za-zÀ-ÖØ-öø-ɏ"
_WORD = rf"[{_LETTER}]+(?:['’][{_LETTER}]+)*"
_PLAIN = re.compile(rf"[{_LETTER}]+(?:['’-][{_LETTER}]+)*['’]?")
_EMOTICON = re.compile(r"[:;=][-o^']?[)(\]\[DPpOo/\\|*3]+|[8xX]-[)(DPp]|<3+|</3|\^_*\^|[(\[][:;=]|¯\\_\(ツ\)_/¯")
_MAIL = re.compile(r"[\w.+-]+@[\w-]+(\.[\w-]+)+")
_WEB = re.compile(r"(https?://|www\.)\S+|[\w-]+(\.[\w-]+)*\.(com|org|net|edu|gov|io|dev|ai|co|uk|de|info|app)(/\S*)?")
_FILE = re.compile(rf"[\w./~-]*\w\.({'|'.join(sorted(tables.FILE_ENDINGS))})")
_LINK = re.compile(r"!?\[?([^\]]*)\]\(\S*?\)(.*)")
_WEB_MARKS = {
    ".": "dot",
    "@": "at",
    "/": "slash",
    "-": "dash",
    "_": "underscore",
    ":": "colon",
    "+": "plus",
    "?": "question mark",
    "=": "equals",
    "&": "and",
    "#": "hash",
    "%": "percent",
    "~": "tilde",
}
_PIECES = re.compile(rf"{NUMBER}|{_WORD}|\s+|.", re.DOTALL)
_SILENT_CATEGORIES = {"So", "Sk", "Mn", "Me", "Cf", "Cc", "Co", "Cs", "Cn", "Pc", "Pd", "Ps", "Pe", "Pi", "Pf", "Po"}


class English:
    """The rules of English. See `echox.verbalization.SpokenLanguage`."""

    code = "en"
    has_rules = True

    def read(self, words: Sequence[WrittenWord], before: Sequence[WrittenWord], complete: bool) -> Reading | None:
        """See `echox.verbalization.SpokenLanguage.read`."""
        window = Window([_compatible(word) for word in words], before, complete)
        try:
            for rule in RULES:
                reading = rule(window)
                if reading is not None:
                    return reading
        except NeedsMore:
            return None
        return pieces(window)


_WIDE = re.compile("[\uff01-\uff5e]")


def _compatible(word: WrittenWord) -> WrittenWord:
    """Full-width digits, letters and signs as their plain forms."""
    if word.text.isascii():
        return word
    return WrittenWord(_WIDE.sub(lambda match: unicodedata.normalize("NFKC", match[0]), word.text), word.space)


# ------------------------------------------------------------------------------------------ silent marks


def markers(window: Window) -> Reading | None:
    """List dashes and numbers, headings, rules, table bars, code fences, emoticons."""
    raw = window.first.raw
    if re.fullmatch(r"\|+|\|?[-:|]{3,}|[-*_=~]{3,}|`{3,}\w*|\[[ xX]?\]", raw) or _EMOTICON.fullmatch(raw):
        return Reading(1, "")
    if re.fullmatch(r"#{1,6}|>+|[-*+•‣▪●○◦·–—]", raw) and window.opens_line:
        return None if raw == "+" and re.fullmatch(NUMBER, _text(window.at(1))) else Reading(1, "")
    if window.opens_line and (match := re.fullmatch(r"(\d{1,3})[.)]", raw)):
        following = window.at(1)
        if following is not None and not following.starts_line:
            return Reading(1, f"{numbers.integer(match[1])},")
    return None


def operators(window: Window) -> Reading | None:
    """A sign that stands alone: plus, minus, equals, a dash."""
    raw = window.first.raw
    if raw in {"-", "–", "—", "--", "−"}:
        if not _is_number(window.before()):
            return Reading(1, "," if raw != "-" or window.before() else "")
        following = window.at(1)
        if following is None or not _is_number(following.text):
            return Reading(1, ",")
        years = all(re.fullmatch(r"(1\d|20)\d\d", word) for word in (window.before(), following.text))
        span = years or raw in {"–", "—"} or window.before(2).lower() in {"page", "pages", "chapters", "from"}
        return Reading(1, "to" if span else "minus")
    if raw in {"x", "X", "×", "*"} and (reading := _times_or_by(window)):
        return reading
    if raw == "|":
        return Reading(1, ",")
    return Reading(1, tables.SYMBOLS[raw]) if raw in tables.SYMBOLS else None


def _times_or_by(window: Window) -> Reading | None:
    """A cross between two numbers: times in a product, by in a size ("8.5 x 11 in", "10 m x 5 m")."""
    before, size = window.before(), False
    if unit_names(before) is not None and _is_number(window.before(2)):
        size, before = True, window.before(2)
    if not _is_number(before) or not _is_number(_text(window.at(1))):
        return None
    following = window.joined(2)
    size = size or window.before(2) in {"x", "×"}
    if following is not None:
        size = size or following.text in {"x", "×"} or unit_names(following.text) is not None
    return Reading(1, "by" if size else "times")


def factorial(window: Window) -> Reading | None:
    """5! before another sign, "5! = 120"; elsewhere the mark is a shout."""
    core = window.first
    if core.tail != "!" or not re.fullmatch(rf"{NUMBER}|[a-z]", core.text):
        return None
    following = window.at(1)
    if following is None or following.starts_line or following.raw not in tables.OPERATORS:
        return None
    return Reading(1, f"{numbers.cardinal(core.text) if core.text[-1].isdigit() else core.text} factorial")


def _text(core: Core | None) -> str:
    return core.text if core is not None else ""


def _is_number(text: str) -> bool:
    return re.fullmatch(rf"[√([]*(?:[-−+]?[$€£]?{NUMBER}%?[²³]?|[a-z][²³]?)", text) is not None


# ------------------------------------------------------------------------------------------ addresses


def addresses(window: Window) -> Reading | None:
    """joe@example.com, www.example.org, https://example.org/a, [text](https://example.org), notes.txt."""
    core = window.first
    if match := _LINK.fullmatch(core.raw):
        inner = WrittenWord(match[1] + match[2])
        return pieces(Window([inner], [], True)) if inner.text else Reading(1, "")
    if not any(form.fullmatch(core.text) for form in (_MAIL, _WEB, _FILE)):
        return None
    said = []
    for part in re.findall(r"[A-Za-z]+|\d+|[^\w\s]|_", re.sub(r"^https?://", "", core.text).rstrip("/")):
        if part.isdigit():
            said.append(numbers.integer(part) if len(part) < 4 else numbers.spell_digits(part))
        elif part in _WEB_MARKS:
            said.append(_WEB_MARKS[part])
        elif part.isalpha():
            said.append(" ".join(part) if part == "www" else part)
    return say(" ".join(said), core)


# ------------------------------------------------------------------------------------------ amounts


def amounts(window: Window) -> Reading | None:
    """Words with digits; see `english_amounts`."""
    text = window.first.text
    if not any(character.isdigit() or unicodedata.category(character) == "No" for character in text):
        return money(window) if text in tables.CURRENCY_CODES or text in tables.CURRENCIES else None
    for rule in AMOUNTS:
        reading = rule(window)
        if reading is not None:
            return reading
    return None


# ------------------------------------------------------------------------------------------ abbreviations


def names(window: Window) -> Reading | None:
    """Titles before a name, kinds of streets after one."""
    core = window.first
    dotted = core.tail.startswith(".")
    if core.text not in tables.TITLES and core.text not in tables.PLACES or not (dotted or core.text in _BARE):
        return None
    following = window.at(1) if not (core.tail.lstrip(".")) else None
    name_follows = following is not None and following.text[:1].isupper() and not following.starts_line
    after_name = _is_name(window.before()) and not window.tail_before() and not window.opens_sentence
    if name_follows and core.text in tables.TITLES and _capital_means_nothing(window):
        after_name = False
    place = after_name or _after_ordinal(window) or (dotted and not name_follows and core.text in _ROADS)
    if core.text in tables.PLACES and place:
        return _expand(window, tables.PLACES[core.text])
    if core.text in tables.TITLES and (name_follows or core.text in {"Mr", "Mrs", "Ms", "Dr", "Prof"}):
        return Reading(1, tables.TITLES[core.text] + core.tail.replace(".", "", 1)[:1])
    return None


_ROADS = frozenset({"Ave", "Blvd", "Rd", "Ln", "Hwy"})
_BARE = frozenset({"Mr", "Mrs", "Ms", "Dr", "St", "Ave", "Blvd", "Rd", "Prof"})


def _is_name(text: str) -> bool:
    return text[:1].isupper() and text[1:2].islower() and text not in tables.MONTH_NAMES


def _capital_means_nothing(window: Window) -> bool:
    """Whether the word before has its capital as the first of a sentence, or as a day: "Ask Dr. Lee"."""
    first = window.before(2) == "" or bool(set(window.tail_before(2)) & set(".!?:")) or window.begins_line_before()
    return first or window.before() in tables.DAY_NAMES


def _after_ordinal(window: Window) -> bool:
    return re.fullmatch(r"\d+(st|nd|rd|th)", window.before()) is not None


def _expand(window: Window, word: str) -> Reading:
    """A word for an abbreviation; its period also ends the sentence if nothing follows."""
    tail = window.first.tail
    if tail == ".":
        return Reading(1, word + ("." if window.last_of_line(0) else ""))
    rest = Core("", "", tail.replace(".", "", 1) if tail.startswith(".") else tail)
    return say(word, rest)


def abbreviations(window: Window) -> Reading | None:
    """e.g., etc., vs., approx., No. 5, Dec. 25, Mon, Oct 7, U.S., J. K."""
    core = window.first
    dotted = core.tail.startswith(".")
    ends = [tables.MONTHS.get(end) or tables.DAYS.get(end) for end in re.split("[-–—]", core.text)]
    if len(ends) == 2 and ends[0] and ends[1]:
        return _expand(window, f"{ends[0]} to {ends[1]}")
    if core.text in tables.BEFORE_A_NUMBER and (dotted or core.text in {"Fig", "Vol"}):
        following = window.at(1)
        if following is not None and re.match(r"\d|[IVX]+\b", following.text) and not following.starts_line:
            return Reading(1, tables.BEFORE_A_NUMBER[core.text])
    if (core.text in tables.MONTHS and core.text not in tables.MONTH_NAMES) or core.text in tables.DAYS:
        reading = _calendar(window)
        if reading is not None:
            return reading
    if dotted and core.text in tables.WORDS:
        return _expand(window, tables.WORDS[core.text])
    if not dotted and core.text in tables.BARE_WORDS:
        return say(tables.BARE_WORDS[core.text], core)
    if re.fullmatch(r"(?:(?:[A-Za-z]|Ph|Ed|Psy|Sc)\.)+(?:[A-Za-z]|Sc|Ed|Eng|Phil)", core.text):
        letters = " ".join(core.text.replace(".", "").upper())
        return _expand(window, letters) if dotted else say(letters, core)
    if core.text in {"C#", "F#"}:
        return say(f"{core.text[0]} sharp", core)
    if re.fullmatch(r"[A-Z]", core.text) and core.tail == "." and core.text != "I":
        following = window.at(1)
        if following is not None and following.text[:1].isupper() and not following.starts_line:
            return Reading(1, core.text)
    return None


def _calendar(window: Window) -> Reading | None:
    """Dec. 25, Mon, Oct 7: short months and days, where a date follows or precedes."""
    core = window.first
    name = tables.MONTHS.get(core.text) or tables.DAYS[core.text]
    following = window.at(1) if core.tail in {"", ".", ",", ".,"} else None
    dated = (
        following is not None
        and not following.starts_line
        and (
            re.fullmatch(r"\d{1,2}(st|nd|rd|th)?|\d{4}|\d{1,2}:\d\d.*|\d{1,2}[ap]m.*", following.text) is not None
            or following.text in tables.MONTHS
            or following.text in tables.MONTH_NAMES
        )
    )
    earlier = re.fullmatch(r"\d{1,2}(st|nd|rd|th)?", window.before()) is not None
    return _expand(window, name) if dated or earlier else None


# ------------------------------------------------------------------------------------------ capitals


def roman(window: Window) -> Reading | None:
    """Henry VIII is the eighth; chapter IV is four."""
    core = window.first
    value = numbers.roman(core.text)
    if value is None or window.tail_before():
        return None
    earlier = window.before()
    if earlier.lower() in tables.NUMBERED and (core.text != "I" or earlier[:1].isupper()):
        return say(numbers.integer(str(value)), core)
    if earlier in tables.REGENTS and core.text in {"V", "X"}:
        return say(f"the {numbers.ordinal(value)}", core)
    if earlier in tables.REGENTS and core.text == "I":
        following = window.at(1) if not core.tail else None
        shown = following is None or following.text in tables.AFTER_FIRST_OF_NAME
        return say("the first", core) if shown else None
    if core.text in {"I", "V", "X", "C", "D", "L", "M"} or value > 40 or not _is_name(earlier):
        return None
    return say(f"the {numbers.ordinal(value)}", core)


def capitals(window: Window) -> Reading | None:
    """FBI letter by letter, NASA as a word; words that are only emphasised by capitals stay words."""
    core = window.first
    match = re.fullmatch(r"([A-Z]{2,6})(s|'s|’s)?", core.text)
    if match is None:
        return _mixed_case(core)
    letters, ending = match.groups()
    if letters in tables.READ_AS_WORDS or letters in tables.SHOUTED or _is_shouted(letters):
        return None
    return say(" ".join(letters) + (ending or "").replace("’", "'"), core)


def _mixed_case(core: Core) -> Reading | None:
    """PhD, BSc: capitals of a degree."""
    if re.fullmatch(r"(Ph|B|M)(D|Sc|A|Eng)s?", core.text) and len(core.text) > 2:
        return say(" ".join(core.text.rstrip("s").upper()) + "s" * core.text.endswith("s"), core)
    return None


def _is_shouted(letters: str) -> bool:
    """Long enough to be a word, with vowels, and at both ends consonants that words have there."""
    if len(letters) <= 3 or letters in tables.SPELT:
        return False
    match = re.fullmatch("([^AEIOUY]*)([AEIOUY]|[AEIOUY].*[AEIOUY])([^AEIOUY]*)", letters)
    if match is None or re.search("[^AEIOUY]{5}", match[2]):
        return False
    begin, end = match[1], match[3]
    return (len(begin) < 2 or begin in tables.ONSETS) and (len(end) < 2 or end in tables.CODAS)


# ------------------------------------------------------------------------------------------ anything else


def compound(window: Window) -> Reading | None:
    """Parts with digits joined by dashes or slashes, each read alone: mid-1990s, 10%-20%, $5/day, 1st–3rd."""
    core = window.first
    parts = re.split(r"(?<=[\w%°¢$€£])([-–—/])(?=[\w$€£#])", core.text)
    if len(parts) < 3 or not any(character.isdigit() for character in core.text):
        return None
    said = _part(parts[0])
    for mark, part, earlier in zip(parts[1::2], parts[2::2], parts[:-1:2], strict=True):
        per = tables.PER.get(part) or tables.UNITS.get(part, (part if part in tables.PER.values() else "",))[0]
        if mark == "/" and per and earlier[-1:].isdigit():
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
    base = re.sub("[²³]$", "", core.text.partition("/")[0])
    if base in tables.BARE_UNITS and (names := unit_names(core.text)):
        return say(names[0] if window.before().lower() in {"a", "an", "one", "per"} else names[1], core)
    counted, slash, below = core.text.partition("/")
    if slash and counted.isalpha() and below in tables.PER.values() and re.fullmatch(NUMBER, window.before()):
        return say(f"{counted} per {below}", core)
    return None


def pieces(window: Window) -> Reading:
    """A word of several kinds, piece by piece: letters, numbers, symbols; emoji and punctuation are silent."""
    core = window.first
    said: list[str] = []
    unknown = ""
    found = [piece for piece in _PIECES.findall(core.text) if piece.strip()]
    for place, piece in enumerate(found):
        if not piece:
            continue
        if piece[0].isascii() and piece[0].isdigit() or re.fullmatch(NUMBER, piece):
            zero_led = piece.startswith("0") and piece.isdigit() and len(piece) > 1
            is_year = place > 0 and re.fullmatch("(19|20)[0-9]{2}", piece)
            said.append(
                numbers.spell_digits(piece)
                if zero_led
                else numbers.year(int(piece))
                if is_year
                else numbers.cardinal(piece)
            )
        elif re.fullmatch(_WORD, piece):
            said.append(_letters(piece, len(found) > 1))
        elif "⁄" in (fraction := unicodedata.normalize("NFKC", piece)):
            said.append(_vulgar_fraction(fraction))
        elif piece in tables.GREEK or piece in tables.POWERS:
            said.append(tables.GREEK.get(piece) or tables.POWERS[piece])
        elif piece == "#" and place + 1 < len(found) and found[place + 1][0].isalpha():
            said.append("hashtag" if found[place + 1].lower() != "hashtag" else "")
        elif piece == "^" and said and place + 1 < len(found):
            power = {"2": tables.POWERS["²"], "3": tables.POWERS["³"]}.get(found[place + 1])
            said.append(power or "to the power of")
            found[place + 1] = "" if power else found[place + 1]
        elif piece in "–—" and said and place + 1 < len(found):
            said[-1] += ","
        elif piece in {"/", "*", "~", "^", "°"} or piece not in tables.SYMBOLS:
            symbol, problem = _symbol(piece)
            said += [symbol or problem] if symbol or problem else []
            unknown += problem
        else:
            said.append(tables.SYMBOLS[piece])
    if unknown:
        return Reading(1, " ".join(said) + core.intonation, f"no English reading of {unknown!r}")
    return say(" ".join(part for part in said if part), core) if any(said) else Reading(1, "")


def _vulgar_fraction(text: str) -> str:
    top, _, bottom = text.partition("⁄")
    return numbers.fraction(int(top), int(bottom)) if top.isdigit() and bottom.isdigit() else ""


def _letters(piece: str, among_others: bool) -> str:
    spelt = among_others and piece.isupper() and len(piece) <= 4 and piece not in tables.READ_AS_WORDS
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
    if category in _SILENT_CATEGORIES or character in tables.SYMBOLS or character in "`~^|<>":
        return "", ""
    return "", character


RULES: tuple[Callable[[Window], Reading | None], ...] = (
    markers,
    operators,
    factorial,
    addresses,
    amounts,
    symbol,
    names,
    abbreviations,
    units,
    roman,
    formula,
    capitals,
    plain,
    compound,
)
