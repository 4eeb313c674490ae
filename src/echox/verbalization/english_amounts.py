"""English words with digits: money, measures, dates, times, fractions, numbers that are names, plain numbers.

A rule takes a `Window` and gives a reading, or None for what is not its kind. The order of `AMOUNTS` is the precedence.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable

from echox.verbalization import english_numbers as numbers
from echox.verbalization import english_tables as tables
from echox.verbalization.english_window import Core, Window, say
from echox.verbalization.language import Reading

NUMBER = r"(?:\d{1,3}(?:,\d{3})+(?:\.\d+)?|\d+(?:\.\d+)?|\.\d+)"
_SYMBOLS = re.escape("".join(tables.CURRENCIES))
_SCALES = "|".join(sorted(tables.SCALES, key=len, reverse=True))
_DASH = "[-–—−]"
_MONEY = re.compile(
    rf"(-|−)?([A-Z]{{1,2}})?([{_SYMBOLS}])(-?{NUMBER})(?:{_DASH}[{_SYMBOLS}]?({NUMBER}))?({_SCALES})?(\+)?"
)
_MONEY_AFTER = re.compile(rf"({NUMBER})([{_SYMBOLS}])")
_TIME = re.compile(r"(\d{1,2})[:.]([0-5]\d)(?::([0-5]\d))?([aApP]\.?[mM]?\.?)?")
_HOUR = re.compile(r"(\d{1,2})([aApP])\.?[mM]\.?")
_HALF_DAY = re.compile(r"([aApP])\.?[mM]\.?")
_DETERMINERS = frozenset({"a", "an", "the", "this", "that", "each", "every", "another", "one", "his", "her", "their"})
_VULGAR = "¼½¾⅐⅑⅒⅓⅔⅕⅖⅗⅘⅙⅚⅛⅜⅝⅞"


def _is_adjective(window: Window, place: int) -> bool:
    """Whether an amount that ends before a word describes it: "a ten kilogram bag"."""
    if window.before().lower() not in _DETERMINERS or window.tail_before():
        return False
    noun = window.joined(place)
    return noun is not None and noun.text.isalpha() and noun.text.islower() and noun.text not in tables.FUNCTION_WORDS


# ------------------------------------------------------------------------------------------ names made of digits


def phone(window: Window) -> Reading | None:
    """555-0199, (212) 555-0123, +1 212 555 0123; other long or zero-led numbers, and codes, digit by digit."""
    first, raw = window.first, window.first.raw.rstrip(".,;:!?")
    if re.fullmatch(r"\(\d{3}\)", raw) and (rest := window.at(1)) and re.fullmatch(r"\d{3}-\d{4}", rest.text):
        return say(f"{_groups(raw)}, {_groups(rest.text)}", rest, 2)
    if re.fullmatch(r"(\+?\d{1,3}[-.])?(\(?\d{3}\)?[-.])?\d{3}[-.]\d{4}", first.text):
        return say(_groups(first.text), first)
    if first.text.startswith("+") and re.fullmatch(r"\+\d{1,3}", first.text):
        parts, last, count = [first.text], first, 1
        while (following := window.joined(count)) and re.fullmatch(r"[\d()-]{2,}", following.text) and count < 5:
            parts, last, count = [*parts, following.text], following, count + 1
        if count > 1:
            return say("plus " + ", ".join(_groups(part) for part in parts), last, count)
    digits = first.text
    if not re.fullmatch(r"\d{2,}", digits):
        return None
    earlier = {window.before(back).lower() for back in (1, 2)}
    named = bool(earlier & tables.SPELT_AFTER) and len(digits) >= 4
    dialled = window.before().lower() in tables.DIALLED_AFTER and len(digits) == 3
    if digits.startswith("0") or named or dialled or len(digits) > 10:
        return say(numbers.spell_digits(digits), first)
    return None


def _groups(text: str) -> str:
    return ", ".join(numbers.spell_digits(part, "oh") for part in re.findall(r"\d+", text))


def version(window: Window) -> Reading | None:
    """3.10.2, v2.0.1, 192.168.0.1."""
    match = re.fullmatch(r"([vV]\.?)?(\d+(?:\.\d+){2,})", window.first.text)
    if match is None:
        return None
    said = " point ".join(numbers.integer(part) for part in match[2].split("."))
    return say(f"version {said}" if match[1] else said, window.first)


# ------------------------------------------------------------------------------------------ dates and times


def date(window: Window) -> Reading | None:
    """2024-03-05, 9/11/2001 (month first), 5 May, the number after a month."""
    first, text = window.first, window.first.text
    if match := re.fullmatch(r"(\d{4})[-/](\d{1,2})[-/](\d{1,2})", text):
        return _say_date(first, int(match[2]), int(match[3]), int(match[1]))
    if match := re.fullmatch(r"(\d{1,2})[/.-](\d{1,2})[/.-](\d{4}|\d\d)", text):
        month, day, year = int(match[1]), int(match[2]), int(match[3])
        if month > 12 or ("." in text and day <= 12):
            month, day = day, month
        return _say_date(first, month, day, year + (2000 if year < 50 else 1900) * (year < 100))
    return _day_after_month(window) or _day_before_month(window)


def _say_date(core: Core, month: int, day: int, year: int) -> Reading | None:
    if not (1 <= month <= 12 and 1 <= day <= 31):
        return None
    name = list(tables.MONTHS.values())[month - 1]
    return say(f"{name} {numbers.ordinal(day)}, {numbers.year(year)}", core)


def _day_after_month(window: Window) -> Reading | None:
    month = window.before()
    match = re.fullmatch(rf"(\d{{1,2}})(?:st|nd|rd|th)?(?:{_DASH}(\d{{1,2}})(?:st|nd|rd|th)?)?", window.first.text)
    if match is None or not (month in tables.MONTH_NAMES or month in tables.MONTHS):
        return None
    days = [int(part) for part in match.groups() if part]
    if not all(1 <= day <= 31 for day in days):
        return None
    return say(" to ".join(numbers.ordinal(day) for day in days), window.first)


def _day_before_month(window: Window) -> Reading | None:
    match = re.fullmatch(r"(\d{1,2})(?:st|nd|rd|th)?", window.first.text)
    if match is None or not 1 <= int(match[1]) <= 31:
        return None
    month = window.joined(1)
    if month is None or not (month.text in tables.MONTH_NAMES or month.text in tables.MONTHS):
        return None
    article = "" if window.before().lower() in {"the", *map(str.lower, tables.DAY_NAMES)} else "the "
    said = f"{article}{numbers.ordinal(int(match[1]))} of {tables.MONTHS[month.text[:3]]}"
    return say(said, month if "." not in month.tail or window.last_of_line(1) else Core("", "", ""), 2)


def time(window: Window) -> Reading | None:
    """12:30, 12:30:45, 5:30 PM, 9am-5pm, 9:30-11:00."""
    first = window.first
    ends = re.split(_DASH, first.text)
    if len(ends) > 2 or not all(_TIME.fullmatch(end) or _HOUR.fullmatch(end) or end.isdigit() for end in ends):
        return None
    if not any(":" in end or _HOUR.fullmatch(end) for end in ends):
        return _hour_and_half_day(window) if len(ends) == 1 else None
    last, count, half_day = first, 1, ""
    if not _HOUR.fullmatch(ends[-1]) and (marked := _half_day_after(window)):
        half_day, last, count = marked[0], marked[1], 2
    said = [_clock(end, half_day if place == len(ends) - 1 else "") for place, end in enumerate(ends)]
    if any(part is None for part in said):
        return None
    return say(" to ".join(part for part in said if part), last, count)


def _clock(text: str, half_day: str) -> str | None:
    if match := _HOUR.fullmatch(text):
        return f"{numbers.integer(match[1])} {match[2].upper()} M"
    if text.isdigit():
        return numbers.integer(text)
    match = _TIME.fullmatch(text)
    if match is None or ":" not in text or int(match[1]) > 24:
        return None
    hour, minute = int(match[1]), int(match[2])
    if match[3]:
        parts = [(hour, "hour"), (minute, "minute"), (int(match[3]), "second")]
        said = [f"{numbers.integer(str(value))} {unit}{'' if value == 1 else 's'}" for value, unit in parts if value]
        return " ".join([*said[:-1], "and", said[-1]]) if len(said) > 1 else " ".join(said)
    return numbers.clock(hour, minute, f"{match[4][0].upper()} M" if match[4] else half_day)


def _half_day_after(window: Window) -> tuple[str, Core] | None:
    """Find A M or P M in the next word, and that word without the period that it is written with."""
    following = window.joined(1)
    if following is None or not (match := _HALF_DAY.fullmatch(following.text)):
        return None
    ends = "." in following.tail and window.last_of_line(1)
    tail = "." if ends else following.tail.replace(".", "", 1) if "." in following.text else following.tail
    return f"{match[1].upper()} M", Core("", "", tail)


def _hour_and_half_day(window: Window) -> Reading | None:
    if not re.fullmatch(r"\d{1,2}", window.first.text) or not 1 <= int(window.first.text) <= 12:
        return None
    marked = _half_day_after(window)
    return None if marked is None else say(f"{numbers.integer(window.first.text)} {marked[0]}", marked[1], 2)


# ------------------------------------------------------------------------------------------ money


def money(window: Window) -> Reading | None:
    """$42.50, €5m, $3.5 billion, $10-15 million, US$30, 20 USD, 50¢, a $20 bill."""
    text = window.first.text
    if match := _MONEY.fullmatch(text):
        sign, country, symbol, low, high, scale, more = match.groups()
        sign, low = sign or low.startswith("-"), low.lstrip("-")
        names = tables.CURRENCIES[symbol]
        if country and country not in tables.DOLLARS:
            return None
        prefix = f"{tables.DOLLARS[country]} ".lstrip() if country else ""
        reading = _sum(window, low, high, tables.SCALES.get(scale or ""), names, prefix)
        lead = "minus " if sign else "more than " if more else ""
        return Reading(reading.num_words, lead + (reading.spoken or ""))
    if match := _MONEY_AFTER.fullmatch(text):
        return _sum(window, match[1], None, None, tables.CURRENCIES[match[2]], "")
    if re.fullmatch(NUMBER, text) and (code := window.joined(1)) and code.text in tables.CURRENCY_CODES:
        one, many = tables.CURRENCY_CODES[code.text]
        return say(f"{numbers.cardinal(text)} {one if text == '1' else many}", code, 2)
    following = window.joined(1) if text in tables.CURRENCY_CODES else None
    if following is not None and re.fullmatch(NUMBER, following.text):
        return say(f"{numbers.cardinal(following.text)} {tables.CURRENCY_CODES[text][1]}", following, 2)
    return None


def _sum(window: Window, low: str, high: str | None, scale: str | None, names: tuple[str, ...], prefix: str) -> Reading:
    """Say an amount of money, with the scale word that may follow it."""
    last, count = window.first, 1
    if scale is None and (following := window.joined(1)) and following.text.lower() in tables.SCALE_WORDS:
        scale, last, count = following.text.lower(), following, 2
    one, many, part, parts = names
    if last.tail == "" and _is_adjective(window, count):
        many, parts = one, part
    amount = numbers.cardinal(low) + (f" to {numbers.cardinal(high)}" if high else "")
    if scale:
        return say(f"{amount} {scale} {prefix}{many}", last, count)
    whole, _, cents = low.replace(",", "").partition(".")
    if high or not part or len(cents) > 2 or (cents and not int(cents)) or not cents:
        single = not high and (whole == "1" and not (cents and int(cents)))
        if cents and not int(cents):
            amount = numbers.integer(whole)
        return say(f"{amount} {prefix}{one if single else many}", last, count)
    small = int((cents + "0")[:2])
    said_small = f"{numbers.integer(str(small))} {part if small == 1 else parts}"
    if not int(whole or 0):
        return say(said_small, last, count)
    said = f"{numbers.integer(whole)} {prefix}{one if whole == '1' else many} and {said_small}"
    return say(said, last, count)


# ------------------------------------------------------------------------------------------ fractions


def fraction(window: Window) -> Reading | None:
    """1/2, 3¾, 1 1/2, ½."""
    first, text = window.first, window.first.text
    if text == "24/7":
        return say("twenty four seven", first)
    if text == "9/11":
        return say("nine eleven", first)
    if match := re.fullmatch(rf"(\d*)([{_VULGAR}])", text):
        top, bottom = (int(part) for part in unicodedata.normalize("NFKC", match[2]).split("⁄"))
        if match[1]:
            return say(numbers.mixed(int(match[1]), top, bottom), first)
        alone = (top, bottom) == (1, 2) and window.before().lower() in {"a", "an", "one", "and", "the"}
        return say("half" if alone else numbers.fraction(top, bottom), first)
    if match := re.fullmatch(r"(\d{1,3})/(\d{1,4})", text):
        top, bottom = int(match[1]), int(match[2])
        return say(numbers.fraction(top, bottom), first) if top < bottom <= 20 or bottom <= 10 else None
    if re.fullmatch(r"\d{1,3}", text) and (part := window.joined(1)):
        if match := re.fullmatch(r"(\d{1,2})/(\d{1,2})", part.text):
            if int(match[1]) < int(match[2]):
                return say(numbers.mixed(int(text), int(match[1]), int(match[2])), part, 2)
        elif len(part.text) == 1 and part.text in _VULGAR:
            top, bottom = (int(found) for found in unicodedata.normalize("NFKC", part.text).split("⁄"))
            return say(numbers.mixed(int(text), top, bottom), part, 2)
    return None


# ------------------------------------------------------------------------------------------ measures


def unit_names(text: str) -> tuple[str, ...] | None:
    """One and many of a unit: km, m², km/h, m/s²."""
    if text in tables.UNITS:
        return tables.UNITS[text]
    if match := re.fullmatch(r"(.+?)(?:\^?([23])|([²³]))", text):
        base, power = tables.UNITS.get(match[1]), match[2] or unicodedata.normalize("NFKC", match[3])
        if base:
            word = "square" if power == "2" else "cubic"
            return f"{word} {base[0]}", f"{word} {base[1]}"
    top, slash, bottom = text.partition("/")
    if slash and (names := unit_names(top)):
        power = tables.POWERS.get(bottom[-1:], "")
        below = bottom[:-1] if power else bottom
        per = tables.PER.get(below) or (tables.UNITS[below][0] if below in tables.UNITS else None)
        if per:
            return tuple(f"{name} per {per} {power}".rstrip() for name in names)
    return None


def height(window: Window) -> Reading | None:
    """5'10", 6', 27"."""
    raw = window.first.raw.rstrip(".,;:!?)")
    match = re.fullmatch(r"(\d{1,3})['’′](\d{1,2})(?:[\"”″]|'')?", raw)
    if match:
        intonation = Core("", "", window.first.tail[window.first.tail.rfind('"') + 1 :])
        return say(f"{numbers.integer(match[1])} feet {numbers.integer(match[2])} inches", intonation)
    if match := re.fullmatch(rf"({NUMBER})([\"″]|'(?!s))", raw):
        one, many = tables.UNITS[match[2]]
        if window.first.head:
            return None
        name = one if match[1] == "1" or _is_adjective(window, 1) else many
        return say(f"{numbers.cardinal(match[1])} {name}", Core("", "", window.first.tail[1:]))
    return None


def measure(window: Window) -> Reading | None:
    """5 m, 5m/s, 20°C, 10-15 kg, 50%, 2.5 %, 5-10%."""
    first = window.first
    match = re.fullmatch(rf"([-−+±~≈<>≤≥]?)({NUMBER})(?:{_DASH}({NUMBER}))?-?(\D.*)?", first.text)
    if match is None:
        return None
    sign, low, high, attached = match.groups()
    last, count, unit = first, 1, attached
    if attached is None:
        following = window.joined(1)
        if following is None:
            return None
        unit, last, count = following.text, following, 2
        if unit in {"sq", "fl"} and (third := window.at(2)):
            unit, last, count = f"{unit} {third.text}", third, 3
    assert unit is not None
    amount = _signed(sign, low, high)
    if unit in {"%", "‰"}:
        return say(f"{amount} {tables.SYMBOLS[unit]}", last, count)
    if attached == "K" and low in {"2", "4", "5", "8"}:
        return say(f"{amount} K", last)
    if attached in {"k", "K"} or (attached in {"M", "bn"}):
        return say(f"{amount} {tables.SCALES[attached]}", last)
    if attached in {"x", "×"}:
        return say(f"{amount} times", last)
    names = unit_names(unit)
    if names is None or not _means_unit(window, unit, attached is not None, count):
        return None
    one, many = names
    singular = (low == "1" and not high) or (last.tail == "" and _is_adjective(window, count))
    abbreviated = last.tail.startswith(".") and count > 1 and not window.last_of_line(count - 1)
    following = window.at(count) if abbreviated else None
    if abbreviated and following is not None and not following.raw[:1].isupper():
        last = Core("", "", last.tail[1:])
    return say(f"{amount} {one if singular else many}", last, count)


def _means_unit(window: Window, unit: str, attached: bool, count: int) -> bool:
    """Whether letters after a number are a unit there: "27 in wide", not "5 in all"; "3 B", "the 80s" are none."""
    if unit == "in" and not attached:
        following = window.at(count)
        return following is not None and (following.text in tables.SIZES or following.text.startswith("x"))
    if unit == "s" and attached:
        decade = re.fullmatch(r"\d*0s", window.first.text) is not None
        return not decade or (len(window.first.text) == 3 and window.before() in {"in", "for", "takes", "took"})
    return attached or unit not in {"B", "N", "K", "J", "pt", "bar", "cal", "'", '"'}


def _signed(sign: str, low: str, high: str | None) -> str:
    said = numbers.cardinal(low)
    if sign:
        said = f"{'minus' if sign in '-−' else tables.SYMBOLS[sign]} {said}"
    return f"{said} to {numbers.cardinal(high)}" if high else said


# ------------------------------------------------------------------------------------------ numbers


def ordinal(window: Window) -> Reading | None:
    """1st, 22nd, 1,000th."""
    match = re.fullmatch(r"([\d,]+)(?:st|nd|rd|th|ST|ND|RD|TH)", window.first.text)
    return None if match is None else say(numbers.ordinal(int(match[1].replace(",", ""))), window.first)


def year(window: Window) -> Reading | None:
    """1990s, 80s, '60s, 1999-2003, 1939–45, in 1066; 1945 and 2024 unless they count something."""
    first, text = window.first, window.first.text
    if match := re.fullmatch(r"((?:1[1-9]|20)?\d0)['’]?s", text):
        return say(numbers.decade(int(match[1])), first)
    if match := re.fullmatch(rf"((?:1[0-9]|20)\d\d){_DASH}((?:1[0-9]|20)\d\d|\d\d)", text):
        start, end = int(match[1]), int(match[2])
        said_end = numbers.year(end) if end > 99 else numbers.year(start // 100 * 100 + end).split(" ", 1)[1]
        return say(f"{numbers.year(start)} to {said_end}", first) if end > start or end > start % 100 else None
    if not re.fullmatch(r"\d{4}", text) or not 1000 <= int(text) <= 2099:
        return None
    if window.before().lower() in tables.YEAR_AFTER or window.before() in tables.MONTH_NAMES or window.tail_before():
        return say(numbers.year(int(text)), first) if window.tail_before() != "#" else None
    following = window.joined(1) if int(text) >= 1100 else None
    counts = following is not None and _is_counted(following.text)
    return say(numbers.year(int(text)), first) if int(text) >= 1100 and not counts else None


def _is_counted(noun: str) -> bool:
    """Whether a word after a number names the things that it counts."""
    many = noun.endswith("s") and noun not in {"was", "is", "has", "as", "its", "this"}
    unit = unit_names(noun) is not None and noun not in {"in", "h", "m", "s"}
    return noun.islower() and (noun in tables.COUNTED or many or unit)


def between(window: Window) -> Reading | None:
    """10-12, 3–1, 52-48."""
    match = re.fullmatch(rf"(\$?{NUMBER}){_DASH}({NUMBER})", window.first.text)
    if match is None:
        return None
    return say(f"{numbers.cardinal(match[1])} to {numbers.cardinal(match[2])}", window.first)


def plain(window: Window) -> Reading | None:
    """4, 1,234, -5, 3.14, #1, ~20, 2^3, 1920x1080, 3:1."""
    first, text = window.first, window.first.text
    if match := re.fullmatch(rf"([-−+±~≈<>≤≥]?)({NUMBER})", ("~" if first.head == "~" else "") + text):
        return say(_signed(match[1], match[2], None), first)
    if match := re.fullmatch(rf"#({NUMBER})", text):
        return say(f"number {numbers.cardinal(match[1])}", first)
    if match := re.fullmatch(r"(\d+)\^(\d+)", text):
        return say(f"{numbers.integer(match[1])} to the power of {numbers.integer(match[2])}", first)
    if match := re.fullmatch(rf"({NUMBER})[x×]({NUMBER})", text):
        return say(f"{numbers.cardinal(match[1])} by {numbers.cardinal(match[2])}", first)
    if match := re.fullmatch(r"(\d+):(\d+)", text):
        return say(f"{numbers.integer(match[1])} to {numbers.integer(match[2])}", first)
    if match := re.fullmatch(rf"({NUMBER})([²³])", text):
        return say(f"{numbers.cardinal(match[1])} {tables.POWERS[match[2]]}", first)
    return None


AMOUNTS: tuple[Callable[[Window], Reading | None], ...] = (
    phone,
    version,
    date,
    time,
    money,
    fraction,
    height,
    ordinal,
    measure,
    year,
    between,
    plain,
)
