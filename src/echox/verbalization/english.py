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
from echox.verbalization.english_chemistry import formula, ion, symbol
from echox.verbalization.english_measures import NUMBER, unit_names
from echox.verbalization.english_money import money
from echox.verbalization.english_short_forms import abbreviations, capitals, names, roman
from echox.verbalization.english_window import Core, NeedsMore, Window, say
from echox.verbalization.language import LOOKAHEAD_WORDS, Reading, WrittenWord

_LETTER = r"A-Za-zÀ-ÖØ-öø-ɏ"
_WORD = rf"[{_LETTER}]+(?:['’][{_LETTER}]+)*"
_PLAIN = re.compile(rf"[{_LETTER}]+(?:['’-][{_LETTER}]+)*['’]?")
_EMOTICON = re.compile(r"[:;=][-o^']?[)(\]\[DPpOo/\\|*3]+|[8xX]-[)(DPp]|<3+|</3|\^_*\^|[(\[][:;=]|¯\\_\(ツ\)_/¯")
_MAIL = re.compile(r"[\w.+-]+@[\w-]+(\.[\w-]+)+")
_WEB = re.compile(r"(https?://|www\.)\S+|[\w-]+(\.[\w-]+)*\.(com|org|net|edu|gov|io|dev|ai|co|uk|de|info|app)(/\S*)?")
_FILE = re.compile(rf"[\w./~-]*\w\.({'|'.join(sorted(tables.FILE_ENDINGS))})")
_LINK = re.compile(r"!?\[?([^\]]*)\]\(\S*?\)(.*)")
_TAG = re.compile(
    r"</?(?:a|b|br|code|div|em|h[1-6]|hr|i|li|mark|ol|p|pre|small|span|strong|sub|sup|td|th|tr|u|ul)\s*/?>"
)
_STARS = re.compile("([★⭐\ufe0f]{2,})(½?)☆*")
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
_PIECES = re.compile(rf"\d+(?:\.\d+){{2,}}|[=!<>]=|[₀-₉]+|{NUMBER}|{_WORD}|\s+|.", re.DOTALL)
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
    if match := _STARS.fullmatch(window.first.text):
        count = len(match[1].replace("\ufe0f", ""))
        return say(f"{numbers.mixed(count, 1, 2) if match[2] else numbers.integer(str(count))} stars", window.first)
    if _TAG.search(raw) or re.fullmatch(r"==\w[^=]*==\W*", raw):
        inner = WrittenWord(_TAG.sub("", raw).strip("="))
        return pieces(Window([inner], [], True)) if inner.text else Reading(1, "")
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
    if raw == ">" and not _is_number(window.before()) and not _is_number(_text(window.at(1))):
        return Reading(1, ",")
    if raw not in tables.SYMBOLS:
        return None
    said = tables.SYMBOLS[raw]
    return Reading(1, said.removeprefix("is ") if _has_a_verb(window) else said)


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
    if match := re.fullmatch(r"<([^<>]+)>([.,;:!?]*)", core.raw):
        core = Core("", match[1], match[2])
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
        if mark == "/" and not per and re.match("[$€£¥]", earlier) and re.fullmatch("[a-z]{3,}", part):
            per = part
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
    if slash and counted.isalpha() and re.fullmatch(NUMBER, window.before()):
        per = tables.PER.get(below) or (below if below in tables.PER.values() else None)
        return say(f"{counted} per {per}", core) if per else None
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
        if piece.count(".") > 1:
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
            said.append(_letters(piece, len(found) > 1))
            of = len(piece) == 1 and found[place + 1 : place + 2] == ["("] and place + 2 < len(found)
            said += ["of"] if of else []
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
    ion,
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
