"""English words with digits: dates, times, plain numbers; codes, money and measures have their files.

A rule takes a `Window` and gives a reading, or None for what is not its kind. The order of `AMOUNTS` is the precedence.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from echox.verbalization.english.rules.addresses import grouped_code, version
from echox.verbalization.english.rules.codes import numbered_name, phone
from echox.verbalization.english.rules.measures import (
    DASH,
    NUMBER,
    angle,
    between,
    duration,
    fraction,
    height,
    is_adjective,
    is_counted,
    is_short_year,
    measure,
    signed,
    unit_names,
)
from echox.verbalization.english.rules.money import money
from echox.verbalization.english.words import numbers, signs, tables
from echox.verbalization.reading.language import LOOKAHEAD_WORDS, Reading
from echox.verbalization.reading.window import Core, Window, say

_TIME = re.compile(r"(\d{1,2})[:.]([0-5]\d)(?::([0-5]\d))?([aApP]\.?[mM]?\.?)?")
_POINTED = re.compile(r"\d{1,2}\.[0-5]\d[aApP]\.?[mM]\.?")
_HOUR = re.compile(r"(\d{1,2})([aApP])\.?[mM]\.?")
_HALF_DAY = re.compile(r"([aApP])\.?[mM]\.?")


# ------------------------------------------------------------------------------------------ dates and times


def date(window: Window) -> Reading | None:
    """2024-03-05, 9/11/2001 (month first), on 10/31, 5 May, the number after a month."""
    first, text = window.first, window.first.text
    if match := re.fullmatch(r"(\d{4})[-/](\d{1,2})[-/](\d{1,2})", text):
        return _say_date(first, int(match[2]), int(match[3]), int(match[1]))
    if match := re.fullmatch(r"(\d{1,2})[/.-](\d{1,2})[/.-](\d{4}|\d\d)", text):
        month, day, year = int(match[1]), int(match[2]), int(match[3])
        if month > 12 or ("." in text and day <= 12):
            month, day = day, month
        return _say_date(first, month, day, year + (2000 if year < 40 else 1900) * (year < 100))
    if match := re.fullmatch(r"(0[1-9]|1[0-2])/((?:19|20)\d\d)", text):
        return say(f"{list(tables.MONTHS.values())[int(match[1]) - 1]} {numbers.year(int(match[2]))}", first)
    if (match := _DAY.fullmatch(text)) and (
        _is_day_of_month(window, int(match[1]), int(match[2])) or _is_beside_a_date(window)
    ):
        return _say_date(first, int(match[1]), int(match[2]), None)
    ends = [re.fullmatch(r"(\d{1,2})/(\d{1,2})", end) for end in re.split(DASH, text)]
    dates = [_say_date(first, int(end[1]), int(end[2]), None) for end in ends if end]
    if len(dates) == len(ends) == 2 and all(dates) and any(end and int(end[2]) > 12 for end in ends):
        return say(" to ".join((one.spoken or "").removesuffix(first.intonation) for one in dates if one), first)
    return _day_after_month(window) or _day_before_month(window)


def _is_day_of_month(window: Window, month: int, day: int) -> bool:
    """Whether two numbers parted by a slash are a date: "on 3/4", "is 10/31"; 9/11 has a name, 1/2 is a half."""
    before, following = window.before(), window.joined(1)
    share = (following is not None and following.text == "of") or window.before(2).lower() in tables.CHANGES
    dated = before.lower() in tables.BEFORE_A_DAY and not (before == "by" and share)
    week = before.lower() == "of" and window.before(2).lower() in {"week", "wk"}
    dated = dated or before in {"ET", "PT", "CT", "EST", "PST", "ends", "available"}
    named = before in tables.DAY_NAMES or before in tables.DAYS or dated or week
    alone = day > 20 and not share and before not in signs.OPERATORS and before.lower() not in tables.MARKS
    alone = alone and (following is None or following.raw not in signs.OPERATORS)
    alone = alone and window.before(2).lower() not in tables.MARKS
    return 1 <= month <= 12 and day <= 31 and (month, day) != (9, 11) and (named or alone)


def _is_beside_a_date(window: Window) -> bool:
    """Whether "and", "or", "to" or a comma join it with a date: "on 12/25 and 1/1", "1/1 through 12/31"."""
    days, back = [window.first.text], 1
    while (earlier := window.before(back)) in _JOINING_DATES or _DAY.fullmatch(earlier):
        day = earlier not in _JOINING_DATES
        if window.tail_before(back) != ("," if day and back == 1 else "") and window.tail_before(back) != ",":
            return False
        days += [earlier] * day
        back += 1
    following = window.joined(1)
    later = window.joined(2) if following is not None and following.text in _JOINING_DATES else None
    days += [later.text] if later is not None and _DAY.fullmatch(later.text) else []
    led = window.before(back).lower() in tables.BEFORE_A_DAY and not window.tail_before(back)
    ratios = {window.before(place).lower() for place in range(1, LOOKAHEAD_WORDS + 1)} & tables.RATIOS
    if len(days) < 2 or ratios:
        return False
    parts = [tuple(int(part) for part in day.split("/")) for day in days]
    possible = all(1 <= month <= 12 and 1 <= day <= 31 for month, day in parts)
    return possible and (led or any(day > 20 or (day == 1 < month) for month, day in parts))


_DAY = re.compile(r"(\d{1,2})/(\d{1,2})")
_JOINING_DATES = frozenset({"and", "or", "to", "through", "thru", "until", "&", "-", "–"})


def _say_date(core: Core, month: int, day: int, year: int | None) -> Reading | None:
    if not (1 <= month <= 12 and 1 <= day <= 31):
        return None
    name = list(tables.MONTHS.values())[month - 1]
    return say(f"{name} {numbers.ordinal(day)}" + (f", {numbers.year(year)}" if year is not None else ""), core)


def _day_after_month(window: Window) -> Reading | None:
    month = window.before()
    if spanned := _span_of_months(window):
        return spanned
    match = re.fullmatch(rf"(\d{{1,2}})(?:st|nd|rd|th)?(?:{DASH}(\d{{1,2}})(?:st|nd|rd|th)?)?", window.first.text)
    if match is None or not (month in tables.MONTH_NAMES or month in tables.MONTHS):
        return None
    days = [int(part) for part in match.groups() if part]
    if is_short_year(window.first) or not all(1 <= day <= 31 for day in days):
        return None
    return say(" to ".join(numbers.ordinal(day) for day in days), window.first)


def _span_of_months(window: Window) -> Reading | None:
    """July 26–Aug 11: the number after the first month."""
    match = re.fullmatch(rf"(\d{{1,2}})(?:st|nd|rd|th)?{DASH}([A-Z][a-z]+)", window.first.text)
    month = match[2] if match is not None else ""
    if match is None or not (month in tables.MONTH_NAMES or month in tables.MONTHS):
        return None
    end = window.at(1)
    day = re.fullmatch(r"(\d{1,2})(?:st|nd|rd|th)?", end.text) if end is not None else None
    if end is None or day is None or not all(1 <= int(found[1]) <= 31 for found in (match, day)):
        return None
    said = f"{numbers.ordinal(int(match[1]))} to {tables.MONTHS[month[:3]]} {numbers.ordinal(int(day[1]))}"
    return say(said, end, 2)


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
    """12:30, 12:30:45, 5:30 PM, 9am-5pm, 9:30-11:00, 9-11 a.m., 10.30 am, 9 a.m.–5 p.m."""
    first = window.first
    if spanned := _span_of_half_days(window):
        return spanned
    if window.before() in tables.BOOKS_OF_THE_BIBLE:
        return None
    if lap := re.fullmatch(r"(\d{1,2}):([0-5]\d\.\d+)", first.text):
        minutes = f"{numbers.integer(lap[1])} minute{'' if lap[1] == '1' else 's'}"
        return say(f"{minutes} {numbers.cardinal(lap[2])} seconds", first)
    if (spent := re.fullmatch(r"(\d\d):([0-5]\d)", first.text)) and 24 < int(spent[1]) < 60:
        if window.before().lower() in tables.BEFORE_A_DURATION:
            return say(f"{numbers.integer(spent[1])} minutes and {numbers.integer(spent[2])} seconds", first)
        return None
    ends = re.split(DASH, first.text)
    if len(ends) > 2 or not all(
        _TIME.fullmatch(end) or _HOUR.fullmatch(end) or re.fullmatch(r"\d+", end) for end in ends
    ):
        return None
    if any(window.before(back).lower() in tables.RATIOS for back in range(1, 5)):
        return None
    if ":" in first.text and _is_by_weight(window):
        return None
    last, count, half_day = first, 1, ""
    if not _HOUR.fullmatch(ends[-1]) and (marked := _half_day_after(window)):
        half_day, last, count = marked[0], marked[1], 2
    if _POINTED.fullmatch(ends[-1]):
        ends = [re.sub(r"^(\d+)\.", r"\1:", end) for end in ends]
    if not any(":" in end or _HOUR.fullmatch(end) for end in ends):
        halved = half_day and all(re.fullmatch(r"([1-9]|1[0-2])([.]\d\d)?", end) for end in ends)
        if not halved and not _are_hours(window, ends):
            return None
        ends = [end.replace(".", ":") for end in ends]
    said = [_clock(end, half_day if place == len(ends) - 1 else "") for place, end in enumerate(ends)]
    if any(part is None for part in said):
        return None
    spoken = " to ".join(part for part in said if part)
    if len(said) > 1 and "hundred hours" in spoken:
        spoken = re.sub(" hours(?= to )", "", spoken.replace("o'clock", "hundred hours"))
    return say(spoken, last, count)


def _are_hours(window: Window, ends: list[str]) -> bool:
    """Whether numbers with a point are times of day: "open 7.30–10.00", "from 18.00"."""
    if not all(re.fullmatch(r"(?:1?\d|2[0-4])\.(?:00|15|30|45)", end) for end in ends):
        return False
    following = window.joined(1)
    free = following is None or following.text in tables.FUNCTION_WORDS | tables.DAY_NAMES
    before = window.before().lower()
    if len(ends) == 2:
        opened = before in {"from", "open", "opens", "between", "daily", "hours"}
        return free and (opened or window.tail_before() == ":")
    return free and float(ends[0]) > 13 and before in {"at", "from", "until", "till"}


def _is_by_weight(window: Window) -> bool:
    """Whether the amount is a ratio: "1:16 by weight"."""
    by = window.joined(1)
    if by is None or by.text != "by":
        return False
    what = window.joined(2)
    return what is not None and what.text in {"weight", "volume", "mass", "ratio"}


def _span_of_half_days(window: Window) -> Reading | None:
    """9 a.m.–5 p.m., where the first half of the day is written at the second hour."""
    middle = window.joined(1) if _HOUR_ALONE.fullmatch(window.first.text) else None
    match = re.fullmatch(rf"([aApP])\.?[mM]\.?{DASH}(.+)", middle.text) if middle is not None else None
    end = window.joined(2) if match is not None and _HOUR_ALONE.fullmatch(match[2]) else None
    half = _HALF_DAY.fullmatch(end.text) if end is not None else None
    if match is None or end is None or half is None:
        return None
    said = [_clock(window.first.text, f"{match[1].upper()} M"), _clock(match[2], f"{half[1].upper()} M")]
    tail = end.tail if "." not in end.text or window.last_of_line(2) else end.tail.replace(".", "", 1)
    return say(" to ".join(part for part in said if part), Core("", "", tail), 3)


_HOUR_ALONE = re.compile(r"(?:1[0-2]|[1-9])(?::[0-5]\d)?")


def _clock(text: str, half_day: str) -> str | None:
    if match := _HOUR.fullmatch(text):
        return f"{numbers.integer(match[1])} {match[2].upper()} M"
    if text.isdigit():
        return f"{numbers.integer(text)} {half_day}".rstrip()
    match = _TIME.fullmatch(text)
    if match is None or not (":" in text or match[4]) or int(match[1]) > 24:
        return None
    hour, minute = int(match[1]), int(match[2])
    if match[3] and half_day:
        return f"{numbers.clock(hour, minute)} and {numbers.integer(match[3])} seconds {half_day}"
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


# ------------------------------------------------------------------------------------------ numbers


def ordinal(window: Window) -> Reading | None:
    """1st, 22nd, 1,000th, and words made of a number: 100s, 49ers, 20ish, 10fold."""
    text = window.first.text
    if re.fullmatch(r"1(0{2,}|0{,2}(,000)+)s", text):
        return say(numbers.plural(numbers.cardinal(text[:-1]).removeprefix("one ")), window.first)
    if match := re.fullmatch(r"(\d+)(ers?|ish|fold)", text):
        number = numbers.cardinal(match[1])
        return say((number[:-1] if number.endswith("e") and match[2][0] == "e" else number) + match[2], window.first)
    match = re.fullmatch(r"([\d,]+)(?:st|nd|rd|th|ST|ND|RD|TH)", window.first.text)
    if match is None:
        return None
    digits = match[1].replace(",", "")
    long = len(digits) > numbers.LONGEST_NUMBER
    return say(numbers.spell_digits(digits) + "th" if long else numbers.ordinal(int(digits)), window.first)


def year(window: Window) -> Reading | None:
    """1990s, 80s, '60s, 1999-2003, 1939–45, in 1066; 1945 and 2024 unless they count something."""
    first, text = window.first, window.first.text
    if is_short_year(first):
        return say(("oh " if text[0] == "0" else "") + numbers.integer(text), first)
    if match := re.fullmatch(r"((?:1[1-9]|20)?\d0)['’]?s", text):
        return say(numbers.decade(int(match[1])), first)
    if (match := re.fullmatch(rf"((?:1[0-9]|20)\d\d)({DASH}|/)((?:1[0-9]|20)\d\d|\d\d)", text)) and (
        spanned := _span_of_years(int(match[1]), match[3], match[2] == "/")
    ):
        return say(spanned, first)
    if not re.fullmatch(r"\d{4}", text) or not 1000 <= int(text) <= 2099:
        return None
    if window.before().lower() in tables.YEAR_AFTER or window.before() in tables.MONTH_NAMES or window.tail_before():
        return say(numbers.year(int(text)), first) if window.tail_before() != "#" else None
    following = window.joined(1) if int(text) >= 1100 else None
    counts = following is not None and is_counted(following.text) and not _describes_one(window, following.text)
    return say(numbers.year(int(text)), first) if int(text) >= 1100 and not counts else None


_ENDS_LIKE_ONE = re.compile("[a-z]{2,}(?:ss|us|is)|[a-z]{1,2}us")
_ONE_THING = tables.as_set("""
alias atlas bias canvas chaos christmas cosmos economics ethos gas gymnastics lens mathematics news physics pancreas
politics
""")
_MANY_THINGS = tables.as_set("""
across alibis bikinis emus gnus gurus haikus kiwis less menus minus plus rabbis safaris skis taxis thus tsunamis unless
us versus yetis
""")
"""They end like a noun of one thing, and are many, or no noun."""


def _is_one_thing(noun: str) -> bool:
    """Whether a noun that ends in -s is no plural: census, bus, crisis, glass, gas."""
    return noun not in _MANY_THINGS and (noun in _ONE_THING or _ENDS_LIKE_ONE.fullmatch(noun) is not None)


def _describes_one(window: Window, noun: str) -> bool:
    """Whether the number is the year of one thing: "the 2020 census", "a 1955 bus boycott"; not "2000 bus tickets"."""
    if not (_is_one_thing(noun) or noun == "series"):
        return False
    before = window.before().lower().replace("’", "'")
    determined = before in tables.DETERMINERS - {"no", "one"} or before.endswith(("'s", "s'"))
    if determined and (before in {"a", "an"} or int(window.first.text) >= 1900):
        return True
    thing = window.joined(2)
    return noun != "series" and (thing is None or _is_one_thing(thing.text) or not is_counted(thing.text))


def _span_of_years(start: int, end: str, slash: bool) -> str | None:
    """1914-18, 2008-09, 1999-2003; with a slash only a season, of a year and the next: 2024/25, 1999/00."""
    season = (start + 1) % 100 if len(end) == 2 else start + 1
    if int(end) != season and (slash or (len(end) == 2 and int(end) <= start % 100)):
        return None
    last = start + 1 if int(end) == season else int(end) if len(end) == 4 else start // 100 * 100 + int(end)
    century = f"{numbers.integer(str(start // 100))} " if len(end) == 2 else ""
    return f"{numbers.year(start)} to {numbers.year(last).removeprefix(century)}"


def thousands(window: Window) -> Reading | None:
    """1 000 000, 299 792 458: a number whose thousands are parted by spaces; 20 000 too."""
    groups: list[str] = []
    following = window.first if re.fullmatch(r"[1-9]\d{0,2}", window.first.text) else None
    while following is not None and len(groups) < 5:
        groups.append(following.text)
        following = window.joined(len(groups))
        following = following if following is not None and re.fullmatch(r"\d{3}", following.text) else None
    if len(groups) < 3 and groups[1:] != ["000"]:
        return None
    return _with_unit(window, numbers.cardinal("".join(groups)), len(groups))


def plain(window: Window) -> Reading | None:
    """4, 1,234, -5, 3.14, #1, ~20, 2^3, 1920x1080, 3:1."""
    first, text = window.first, window.first.text
    if match := re.fullmatch(rf"([-−+±~≈<>≤≥]?)({NUMBER})", text):
        return say(signed(match[1], match[2], None), first)
    if match := re.fullmatch(rf"#({NUMBER})", text):
        return say(f"number {numbers.cardinal(match[1])}", first)
    if powers := _powers(text):
        return _with_unit(window, powers)
    if match := re.fullmatch(rf"({NUMBER})[x×]({NUMBER})-?([a-z]+)?", text):
        said, names = f"{numbers.cardinal(match[1])} by {numbers.cardinal(match[2])}", unit_names(match[3] or "")
        if names is not None:
            return say(f"{said} {names[0] if '-' in text else names[1]}", first)
        return _with_unit(window, said) if not match[3] else None
    if match := re.fullmatch(rf"(\d+):(\d+){DASH}(\d+)", text):
        return say(f"{numbers.integer(match[1])} {numbers.integer(match[2])} to {numbers.integer(match[3])}", first)
    if match := re.fullmatch(rf"({NUMBER})/(\d+)", text):
        return say(f"{numbers.cardinal(match[1])} out of {numbers.integer(match[2])}", first)
    if re.fullmatch(r"\d{1,3}(\.\d{3}){2}", text):
        return say(numbers.integer(text.replace(".", "")), first)
    if match := re.fullmatch(rf"({NUMBER}):({NUMBER})", text):
        verse = " " if window.before() in tables.BOOKS_OF_THE_BIBLE else " to "
        return say(f"{numbers.cardinal(match[1])}{verse}{numbers.cardinal(match[2])}", first)
    if match := re.fullmatch(rf"({NUMBER})([²³])", text):
        return say(f"{numbers.cardinal(match[1])} {signs.POWERS[match[2]]}", first)
    return None


def _with_unit(window: Window, amount: str, count: int = 1) -> Reading:
    """An amount that ends before a word, with that word if it is a unit."""
    last, unit = window.at(count - 1), window.joined(count)
    names = unit_names(unit.text) if unit is not None else None
    assert last is not None, "the amount is there"
    if (
        unit is None
        or names is None
        or (unit.text == "in" and window.before() not in {"=", "≈"} and "by" not in amount)
    ):
        return say(amount, last, count)
    return say(f"{amount} {names[0] if is_adjective(window, count + 1) else names[1]}", unit, count + 1)


def _powers(text: str) -> str | None:
    """Say 2^3, 10⁻³, 6.02×10²³, 1e-5; None for anything else."""
    match = re.fullmatch(rf"(?:({NUMBER})[x×·*])?(\d+)(?:\^([-−+]?\d+)|([⁻⁺]?[⁰¹²³⁴⁵⁶⁷⁸⁹]+))", text)
    if match is None:
        match = re.fullmatch(rf"({NUMBER})()[eE]([-−+]?\d+)()", text)
        if match is None:
            return None
    times, base, *exponents = match.groups()
    exponent = next(part for part in exponents if part).translate(signs.SUPERSCRIPTS)
    if base and exponent in {"2", "3"}:
        power = signs.POWERS["²" if exponent == "2" else "³"]
    else:
        sign = exponent[0] if exponent[0] in "-−+" else ""
        power = f"to the power of {signed(sign, exponent.lstrip('-−+'), None)}"
    return (f"{numbers.cardinal(times)} times " if times else "") + f"{numbers.integer(base or '10')} {power}"


AMOUNTS: tuple[Callable[[Window], Reading | None], ...] = (
    phone,
    version,
    numbered_name,
    date,
    grouped_code,
    time,
    money,
    fraction,
    thousands,
    duration,
    angle,
    height,
    ordinal,
    measure,
    year,
    between,
    plain,
)
