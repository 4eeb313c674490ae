"""English measures: an amount and its unit, whole or in parts; what other rules share about amounts.

A rule takes a `Window` and gives a reading, or None for what is not its kind.
"""

from __future__ import annotations

import re
import unicodedata

from echox.verbalization.english.rules.places import is_compass
from echox.verbalization.english.words import numbers, signs, tables
from echox.verbalization.reading.language import LOOKAHEAD_WORDS, Reading, WrittenWord
from echox.verbalization.reading.window import Core, Window, say

NUMBER = r"(?:\d{1,3}(?:,\d{3})+(?:\.\d+)?|\d{1,2}(?:,\d{2})+,\d{3}(?:\.\d+)?|\d+(?:\.\d+)?|\.\d+)"
DASH = "[-–—−]"
_DURATION = re.compile(r"(?:\d{1,4}(?:d|hrs?|h|mins?|m|secs?|s))+|\d{1,2}h[0-5]\d")
_SIDES = {"W": "wide", "D": "deep", "H": "high", "L": "long"}
_SPOONS = {"c": "cup", "T": "tablespoon", "t": "teaspoon"}
VULGAR = "¼½¾⅐⅑⅒⅓⅔⅕⅖⅗⅘⅙⅚⅛⅜⅝⅞"


def is_adjective(window: Window, place: int, mark: str = "") -> bool:
    """Whether an amount that ends before a word describes it: "a ten kilogram bag"."""
    last, noun = window.at(place - 1), window.joined(place) if not mark else window.at(place)
    if noun is not None and noun.text in tables.DESCRIBED_BY_AMOUNT:
        return True
    back = 1
    while window.before(back) in {"x", "×", "by"}:
        back += 2
    if not _is_determined(window, back):
        return False
    noun = window.at(place)
    if (
        last is None
        or last.tail != mark
        or noun is None
        or noun.head
        or noun.starts_line
        or not re.fullmatch(r"[^\W\d_]+|f/\d.*", noun.text)
    ):
        return False
    if noun.text in tables.FUNCTION_WORDS | tables.NO_THINGS or noun.text in tables.CURRENCY_CODES:
        return False
    return noun.text[:1].islower() or (noun.text.isupper() and len(noun.text) > 1)


def _is_determined(window: Window, back: int) -> bool:
    """Whether "a", "its" or an owner stands before the amount, or before its adjectives: "a four-year, $5 deal"."""
    compound = window.tail_before(back) == "," and "-" in window.before(back)
    if not compound and window.tail_before(back):
        return False
    if compound or window.before(back).lower() in tables.PRAISING:
        back += 1
    owner = window.before(back).lower().replace("’", "'")
    owned = owner.endswith(("'s", "s'")) and owner not in tables.NO_OWNERS
    return not window.tail_before(back) and (owned or owner in tables.DETERMINERS)


# ------------------------------------------------------------------------------------------ fractions


def fraction(window: Window) -> Reading | None:
    """1/2, 3¾, 1 1/2, ½, ½ tsp, 2-1/2, 1/4-inch."""
    if hyphened := _hyphened_fraction(window):
        return hyphened
    found = _parts_of_one(window)
    if found is None:
        return None
    said, last, count, several = found
    if re.fullmatch('["”″][.,;:!?)]*', last.tail) and not window.first.head:
        one = not several or is_adjective(window, count, last.tail)
        return say(f"{said} {'inch' if one else 'inches'}", Core("", "", last.tail[1:]), count)
    following = window.joined(count)
    names = unit_names(following.text) if following is not None else None
    if names is None or following is None or not _means_unit(window, following.text, False, count + 1):
        return say(said, last, count)
    return say(f"{said} {names[several]}", _without_period(window, following, count + 1), count + 1)


def _hyphened_fraction(window: Window) -> Reading | None:
    """2-1/2 cups, 1/4-inch thick, 3½-inch."""
    match = re.fullmatch(
        rf"(?:(\d{{1,2}})-)?(?:(\d{{1,2}})/(\d{{1,2}})|(\d*[{VULGAR}]))(?:-([A-Za-z]+))?", window.first.text
    )
    if match is None or not (match[1] or match[5]):
        return None
    part = match[4] or f"{match[2]}/{match[3]}"
    written = [WrittenWord(match[1]), WrittenWord(part)] if match[1] else [WrittenWord(part)]
    found = _parts_of_one(Window(written, [], True))
    if found is None or found[2] != (2 if match[1] else 1):
        return None
    names = unit_names(match[5]) if match[5] else None
    return say(" ".join([found[0], *([names[0] if names else match[5]] if match[5] else [])]), window.first)


def _parts_of_one(window: Window) -> tuple[str, Core, int, bool] | None:
    """A fraction or mixed number: its words, where they end, and whether it is more than one."""
    first, text = window.first, window.first.text
    if text == "24/7":
        return "twenty four seven", first, 1, False
    if text == "9/11":
        return "nine eleven", first, 1, False
    if match := re.fullmatch(r"(\d{1,3})/(\d{1,3})", text):
        out_of = window.before().lower() in tables.MARKS or window.before(2).lower() in tables.MARKS
        counted = window.before().lower() in {"step", "page", "part", "question"}
        if out_of or counted or _is_share(window, int(match[1]), int(match[2])):
            middle = "of" if counted else "out of"
            return f"{numbers.integer(match[1])} {middle} {numbers.integer(match[2])}", first, 1, True
        if _are_odds(window) and int(match[1]) + int(match[2]) != 100:
            return f"{numbers.integer(match[1])} to {numbers.integer(match[2])}", first, 1, True
    if match := re.fullmatch(rf"(\d{{,15}})([{VULGAR}])", text):
        top, bottom = (int(part) for part in unicodedata.normalize("NFKC", match[2]).split("⁄"))
        if match[1]:
            return numbers.mixed(int(match[1]), top, bottom), first, 1, True
        return _part_of_one(window, top, bottom), first, 1, False
    if match := re.fullmatch(r"(\d)/(\d{1,2})(?:rds|ths|nds)", text):
        return numbers.fraction(int(match[1]), int(match[2])), first, 1, False
    if match := re.fullmatch(r"(\d{1,3})/(\d{1,4})", text):
        top, bottom = int(match[1]), int(match[2])
        named = top < bottom <= 20 or (top == 1 and bottom in (100, 1000)) or (bottom <= 10 and top <= 20)
        if bottom in {4, 8} and _is_time_of_music(window):
            return f"{numbers.integer(match[1])} {numbers.integer(match[2])}", first, 1, True
        if top > 20 and bottom <= 10 and (after := window.joined(1)) and after.text in {"after", "at", "in", "off"}:
            return f"{numbers.integer(match[1])} for {numbers.integer(match[2])}", first, 1, True
        halves = top == bottom or top + bottom == 100
        over = f"{numbers.integer(match[1])} {'' if halves else 'over '}{numbers.integer(match[2])}"
        return _part_of_one(window, top, bottom) if named else over, first, 1, top > bottom
    if re.fullmatch(r"\d{1,3}", text) and (part := window.joined(1)):
        if match := re.fullmatch(r"(\d{1,2})/(\d{1,2})", part.text):
            if int(match[1]) < int(match[2]):
                return numbers.mixed(int(text), int(match[1]), int(match[2])), part, 2, True
        elif len(part.text) == 1 and part.text in VULGAR:
            top, bottom = (int(found) for found in unicodedata.normalize("NFKC", part.text).split("⁄"))
            return numbers.mixed(int(text), top, bottom), part, 2, True
    return None


def _part_of_one(window: Window, top: int, bottom: int) -> str:
    """A fraction; after "a" it is "half" and "quarter mile", not "one half"."""
    said, before = numbers.fraction(top, bottom), window.before().lower()
    after = before in {"a", "an"} or ((top, bottom) == (1, 2) and before in {"one", "the"})
    if before == "and" and (top, bottom) == (1, 2) and window.before(2)[-1:].isdigit():
        return "a half"
    return said.removeprefix("one ") if after and top == 1 else said


def _is_share(window: Window, top: int, bottom: int) -> bool:
    """Whether 8/10 is eight out of ten: a mark, a share of people; not in a formula, nor "3/10 of a mile"."""
    following = window.at(1) if not window.first.tail else None
    if window.before() in signs.OPERATORS or (following is not None and following.raw in signs.OPERATORS):
        return False
    noun = following.text if following is not None else ""
    if noun in tables.COUNTED_OUT:
        return True
    free = following is None or noun in tables.FUNCTION_WORDS - {"of"} or following.starts_line
    return bottom in {10, 100} and 1 < top <= bottom and free


def _is_time_of_music(window: Window) -> bool:
    """Whether 3/4 is a time signature: "in 3/4 time", "it is in 3/4."."""
    following = window.joined(1)
    if following is not None:
        return following.text in {"time", "meter", "metre", "signature", "rhythm", "beat"}
    return window.before() == "in"


def _are_odds(window: Window) -> bool:
    """Whether 5/1 is five to one: "odds of 5/1", "at 5/1 odds"."""
    following = window.joined(1)
    beside = {window.before(back).lower() for back in range(1, LOOKAHEAD_WORDS + 1)}
    beside |= {following.text if following is not None else ""}
    return bool(beside & {"odds", "ratio"})


# ------------------------------------------------------------------------------------------ measures


def between(window: Window) -> Reading | None:
    """10-12, 3–1, 52-48; a team's wins and losses, "a 9-3 record"."""
    match = re.fullmatch(rf"(\$?{NUMBER}){DASH}({NUMBER})", window.first.text)
    if match is None:
        return None
    ends = [numbers.spell_digits(end) if re.match(r"0\d", end) else numbers.cardinal(end) for end in match.groups()]
    middle = " and " if _is_record(window) else " " if ends[0] == ends[1] else " to "
    return say(middle.join(ends), window.first)


def _is_record(window: Window) -> bool:
    """Whether two numbers are wins and losses: "9-3 this season", "went 4-1", "improved to 7-2"."""
    following, before = window.joined(1), window.before().lower()
    if any(window.before(back).lower() in tables.OF_SCORES for back in (1, 2)):
        return False
    noun = following.text if following is not None else ""
    if noun in {"record", "overall"} or (before == "of" and window.before(2).lower() == "record"):
        return True
    if noun in {"this", "last", "on", "at"}:
        when = window.joined(2)
        when = window.joined(3) if when is not None and when.text == "the" else when
        return when is not None and when.text in {"season", "year", "home", "road"}
    moved = before == "to" and window.before(2).lower() in {
        "improve",
        "improved",
        "improves",
        "fell",
        "falls",
        "dropped",
    }
    ended = before in {"went", "go", "goes"} and noun not in {"up", "down", "ahead", "behind"}
    return ended or (moved and noun in tables.FUNCTION_WORDS | {""})


def unit_names(text: str) -> tuple[str, ...] | None:
    """One and many of a unit: km, m², km/h, m/s²."""
    if text in tables.UNITS:
        return tables.UNITS[text]
    if re.match("(?:sq|cu) ", text):
        return unit_names(f"{text[3:]}{'²' if text[0] == 's' else '³'}")
    if text.lower() in tables.ANY_CASE:
        return tables.ANY_CASE[text.lower()]
    if match := re.fullmatch(r"(.+?)(?:\^?([23])|([²³]))", text):
        base, power = tables.UNITS.get(match[1]), match[2] or unicodedata.normalize("NFKC", match[3])
        if base:
            word = "square" if power == "2" else "cubic"
            return f"{word} {base[0]}", f"{word} {base[1]}"
    top, slash, bottom = text.rpartition("/")
    if slash and (names := unit_names(top)):
        match = re.fullmatch(r"(.+?)(?:\^([23])|([²³]))", bottom)
        power = signs.POWERS["³" if match[2] == "3" else match[3] or "²"] if match else ""
        below = match[1] if match else bottom
        per = tables.PER.get(below) or (tables.UNITS[below][0] if below in tables.UNITS else None)
        if per:
            areas = unit_names(f"{below}²" if power == signs.POWERS["²"] else f"{below}³") if power else None
            below = areas[0] if areas is not None and below in tables.LENGTHS else f"{per} {power}".rstrip()
            return tuple(f"{name} per {below}" for name in names)
    return None


def duration(window: Window) -> Reading | None:
    """4m 20s, 1h30m, 2h15, 3d 4h: m is minutes beside other parts of time."""
    parts: list[tuple[str, str]] = []
    last, count = window.first, 0
    core: Core | None = last
    while core is not None and _DURATION.fullmatch(core.text) and count < 4:
        parts += re.findall(r"(\d+)(d|hrs?|h|mins?|m|secs?|s|$)", core.text)
        last, count = core, count + 1
        core = window.joined(count)
    kinds = "".join((unit or "m")[0] for _, unit in parts)
    if len(parts) < 2 or not re.fullmatch("d?h?m?s?", kinds):
        return None
    names = {"d": "day", "h": "hour", "m": "minute", "s": "second"}
    said = [
        f"{numbers.integer(value)} {names[kind]}{'' if value == '1' else 's'}"
        for (value, _), kind in zip(parts, kinds, strict=True)
    ]
    return say(" ".join(said), last, count)


def height(window: Window) -> Reading | None:
    """5'10", 6', 27"."""
    raw = window.first.raw.rstrip(".,;:!?)")
    match = re.fullmatch(r"(\d{1,3})['’′](\d{1,2})(?:[\"”″]|'')?", raw)
    if match:
        intonation = Core("", "", window.first.tail[window.first.tail.rfind('"') + 1 :])
        inches = f" {numbers.integer(match[2])} inches" if int(match[2]) else ""
        return say(f"{numbers.integer(match[1])} feet{inches}", intonation)
    if match := re.fullmatch(rf"({NUMBER})[\"″]([WDHL])", raw):
        side = _SIDES[match[2]]
        return say(f"{numbers.cardinal(match[1])} inches {side}", Core("", "", window.first.tail))
    if match := re.fullmatch(rf"({NUMBER})([\"″]|'(?!s))", raw):
        one, many = tables.UNITS[match[2]]
        if window.first.head or window.in_quotes:
            return None
        name = one if match[1] == "1" or is_adjective(window, 1, match[2]) else many
        return say(f"{numbers.cardinal(match[1])} {name}", Core("", "", window.first.tail[1:]))
    return None


def measure(window: Window) -> Reading | None:
    """5 m, 5m/s, 20°C, 10-15 kg, 50%, 2.5 %, 5-10%."""
    first = window.first
    match = re.fullmatch(rf"([-−+±~≈<>≤≥]?)({NUMBER})(?:{DASH}({NUMBER}))?(-?)(\D.*)?", first.text)
    if match is None:
        return None
    sign, low, high, hyphen, attached = match.groups()
    last, count, unit, scale = first, 1, attached, ""
    if attached is None:
        following = window.joined(1)
        if following is None:
            return None
        unit, last, count = following.text, following, 2
        if (whole := _SPOONS.get(unit)) and following.tail == "." and (what := window.at(2)) and what.raw.islower():
            return say(f"{signed(sign, low, high)} {whole}{'' if low == '1' else 's'}", Core("", "", ""), 2)
        if unit in tables.SCALE_WORDS and not following.tail and (third := window.joined(2)):
            scale, unit, last, count = f" {unit}", third.text, third, 3
        if unit in {"sq", "fl", "cu"} and following.tail in {"", "."} and (third := window.at(count)):
            unit, last, count = f"{unit} {third.text}", third, count + 1
    assert unit is not None
    amount = signed(sign, low, high) + scale
    if unit == "°" and not last.tail and (pole := window.joined(count)) and pole.text in {"N", "S", "E", "W"}:
        unit, last, count = f"°{pole.text}", pole, count + 1
    if unit in {"%", "‰"}:
        return say(f"{amount} {signs.SYMBOLS[unit]}", last, count)
    named = window.joined(1) if attached in {"K", "k"} else None
    ran = low == "10" and window.before().lower() in tables.DETERMINERS
    following = window.at(1) if ran and not last.tail else None
    ran = ran and (following is None or following.starts_line or following.text in tables.FUNCTION_WORDS)
    if attached == "K" and (
        ran or low in {"2", "4", "5", "8"} or (named is not None and named.text.lower() in tables.RACES)
    ):
        return say(f"{amount} K", last)
    if attached in {"p", "i"} and re.fullmatch(r"\d{3,4}", low) and not high:
        return say(f"{numbers.in_pairs(low)} {attached.upper()}", last)
    if aged := _age(window, amount, unit, last, count):
        return aged
    if attached is not None and re.fullmatch("[A-Za-z]", unit) and window.before().lower() in tables.NUMBERED_THINGS:
        return say(f"{amount} {unit.upper()}", last)
    if attached in {"K", "B"} and (named_by := _is_part_of_name(window, low)):
        return say(f"{named_by} {attached}", last)
    if attached in {"k", "K", "M", "bn", "B"}:
        return say(f"{amount} {tables.SCALES[attached]}", last)
    if attached in {"x", "×"}:
        following = window.at(1) if attached == "x" and not first.tail else None
        in_formula = window.before() in signs.OPERATORS or (
            following is not None and following.raw in signs.OPERATORS and not following.starts_line
        )
        return say(f"{amount} {'x' if in_formula else 'times'}", last)
    if per := _per_amount(window, unit, last, count):
        return say(f"{amount} {per[0]}", per[1], per[2])
    names = unit_names(unit)
    if names is None or not _means_unit(window, unit, attached is not None, count):
        return None
    if attached is None and is_pair_of_letters(window, count - 1):
        return None
    one, many = tables.UNITS["min"] if attached == "m" and window.before().lower() in tables.TIMED else names
    noun = window.joined(count) if unit == "°" else None
    turned = noun is not None and noun.text in tables.TURNED
    singular = (low == "1" and not high) or hyphen or turned or (last.tail == "" and is_adjective(window, count))
    last = _without_period(window, last, count) if count > 1 or hyphen else last
    return say(f"{amount} {one if singular else many}", last, count)


def _is_part_of_name(window: Window, digits: str) -> str | None:
    """The number of a house, a chip or a model with its letter: "221B Baker Street", "i7-12700K", "Llama 3 8B"."""
    street = window.joined(2) if window.joined(1) is not None else None
    roads = set(tables.PLACES) | set(tables.PLACES.values())
    if street is not None and street.text in roads and re.fullmatch(r"\d{1,3}", digits):
        return numbers.in_pairs(digits) if len(digits) == 3 else numbers.integer(digits)
    sized = re.fullmatch(r"\d+(\.\d+)?", window.before()) and not window.tail_before() and len(digits) < 4
    return numbers.cardinal(digits) if sized or re.fullmatch(r"\d{4,}", digits) else None


def _age(window: Window, amount: str, unit: str, last: Core, count: int) -> Reading | None:
    """12 yo, 5 y/o, 2-3 yr olds, 25-yr-old."""
    if match := re.fullmatch(r"(?:yo|y/o|y\.o)(s?)|(yr|year|mo|month|wk|week)-old(s?)", unit):
        several = match[1] or match[3] or ""
        counted = tables.UNITS.get(match[2] or "yr", (match[2],))[0]
        described = several or "-" in unit or window.before().lower() in {"a", "an", "the", "my", "our", "his", "her"}
        tail = Core("", "", last.tail.replace(".", "", 1) if unit == "y.o" else last.tail)
        return say(f"{amount} {counted}{'' if described else 's'} old{several}", tail, count)
    following = window.joined(count) if unit == "yr" else None
    if following is not None and following.text in {"old", "olds"}:
        return say(f"{amount} year {following.text}", following, count + 1)
    return None


def angle(window: Window) -> Reading | None:
    """40°26′46″N, 40° 26' N: degrees, minutes and seconds of an angle, and where it points."""
    raw, last, count = window.first.raw, window.first, 1
    if "°" not in raw or raw[-1] not in "°'’′\"”″NSEW.,;:!?)":
        return None
    while (following := window.at(count)) is not None and count < 4 and not last.tail.strip("'’\"”"):
        if following.starts_line or not _PART_OF_ANGLE.fullmatch(following.raw):
            break
        raw, last, count = raw + following.raw, following, count + 1
    match = _ANGLE.fullmatch(raw)
    if match is None:
        return None
    said = [f"{sign_words(match[1])} {numbers.integer(match[2])} degree{'' if match[2] == '1' else 's'}".strip()]
    for value, name in ((match[3], "minute"), (match[4], "second")):
        said += [f"{numbers.cardinal(value)} {name}{'' if value == '1' else 's'}"] if value else []
    said += [_COMPASS[match[5]]] if match[5] else []
    return say(" ".join(said), Core("", "", match[6]), count)


_PART_OF_ANGLE = re.compile(r"(\d{1,2}(\.\d+)?['’′\"”″]['’]?|[NSEW])[.,;:!?)]*")
_ANGLE = re.compile(
    r"([-−]?)(\d{1,3})°(\d{1,2}(?:\.\d+)?)['’′](?:(\d{1,2}(?:\.\d+)?)(?:[\"”″]|''|’’))?([NSEW]?)([.,;:!?)]*)"
)
_COMPASS = {"N": "north", "S": "south", "E": "east", "W": "west"}


def _without_period(window: Window, unit: Core, count: int) -> Core:
    """A unit of which a period shortens the word, where no sentence ends: "3 ft. to the left"."""
    if not unit.tail.startswith(".") or window.last_of_line(count - 1):
        return unit
    following = window.at(count)
    return unit if following is None or following.raw[:1].isupper() else Core("", "", unit.tail[1:])


def _means_unit(window: Window, unit: str, attached: bool, count: int) -> bool:
    """Whether letters after a number are a unit there: "27 in wide", not "5 in all"; "3 B", "the 80s" are none."""
    if unit == "in" and not attached:
        if window.before() in {"x", "×", "by", "feet", "foot", "ft"}:
            return True
        following, last = window.at(count), window.at(count - 1)
        if following is not None and last is not None and last.tail[:1] == "." and following.raw.islower():
            return True
        if window.before() in {"=", "≈"} or (following is not None and following.raw in {"=", "≈", "x", "×"}):
            return True
        return following is not None and (following.text in tables.SIZES or following.text.startswith("x"))
    if unit == "s" and attached:
        decade = re.fullmatch(r"\d*0s", window.first.text) is not None
        short = len(window.first.text) == 3
        if decade and short and window.before() in {"is", "was", "by", "about", "only", "just", "after", "another"}:
            following = window.joined(1)
            return following is not None and following.text in tables.AFTER_SECONDS
        return not decade or (short and window.before() in {"in", "for", "of", "takes", "took", "wait", "within"})
    if unit == "A":
        return bool({window.before(back) for back in range(1, 6)} & tables.ELECTRIC)
    if unit == "B" or (unit == "W" and is_compass(window, count - 1)):
        return False
    if unit == "t":
        return not attached
    if unit == "K" and not attached:
        last, following = window.at(count - 1), window.at(count)
        ends = following is None or following.text.lower() in tables.FUNCTION_WORDS or bool(following.head)
        return (last is not None and bool(last.tail)) or ends
    return attached or unit not in {"N", "J", "pt", "bar", "'", '"'}


def is_pair_of_letters(window: Window, place: int) -> bool:
    """Whether capitals parted by a slash are letters: N/A, "an A/B test".

    After a number, "in" or "per" they are a unit, "5 V/A"; but never N/A, nor with B.
    """
    core = window.at(place)
    if core is None or not re.fullmatch("[A-Z](?:/[A-Z])+", core.text):
        return False
    if core.text == "N/A" or "B" in core.text:
        return True
    if place:
        return False
    noun = window.joined(1) if window.before() == "in" else None
    named = noun is not None and noun.text not in tables.FUNCTION_WORDS
    return named or not (window.before() in {"in", "per"} or window.before()[-1:].isdigit())


def _per_amount(window: Window, unit: str, last: Core, count: int) -> tuple[str, Core, int] | None:
    """A unit for an amount of another, "L/100 km": its words, and where they end."""
    match = re.fullmatch(rf"(\D+)/({NUMBER})(\D*)", unit)
    names = unit_names(match[1]) if match is not None else None
    if match is None or names is None or match[1] == "K":
        return None
    below = match[3]
    if not below:
        following = window.joined(count)
        if following is None:
            return None
        below, last, count = following.text, following, count + 1
    of = unit_names(below)
    if of is None:
        return None
    again = (below in tables.IMPERIAL) != (match[1] in tables.IMPERIAL)
    return f"{names[1]}{',' if again else ' per'} {numbers.cardinal(match[2])} {of[1]}", last, count


def is_counted(noun: str) -> bool:
    """Whether a word after a number names the things that it counts."""
    many = noun.endswith("s") and noun not in {"was", "is", "has", "as", "its", "this"}
    unit = unit_names(noun) is not None and noun not in {"in", "h", "m", "s"}
    return noun.islower() and (noun in tables.COUNTED or many or unit)


def is_short_year(core: Core) -> bool:
    """Whether it is the year '69, with the mark of what is left out."""
    left_out = core.head in {"'", "’", "‘"} and not core.tail.startswith(core.head)
    return left_out and re.fullmatch(r"\d\d", core.text) is not None


def signed(sign: str, low: str, high: str | None) -> str:
    """Say an amount, or a span of amounts, with the sign before it."""
    said = f"{sign_words(sign)} {numbers.cardinal(low)}".lstrip()
    return f"{said} to {numbers.cardinal(high)}" if high else said


def sign_words(sign: str) -> str:
    """Say a sign right before an amount; "" for none."""
    return signs.SIGNS[sign] if sign else ""
