"""English numbers that are names: telephone numbers, codes, hotlines, Boeing 747, error 404.

A rule takes a `Window` and gives a reading, or None for what is not its kind.
"""

from __future__ import annotations

import re
from itertools import pairwise

from echox.verbalization.english.rules.measures import DASH, is_counted, is_short_year
from echox.verbalization.english.words import numbers, tables
from echox.verbalization.reading.language import LOOKAHEAD_WORDS, Reading
from echox.verbalization.reading.window import Core, Window, say


def phone(window: Window) -> Reading | None:
    """555-0199, (212) 555-0123, +1 212 555 0123; other long or zero-led numbers, and codes, digit by digit."""
    first, raw = window.first, window.first.raw.rstrip(".,;:!?")
    if re.fullmatch(r"\(\d{3}\)", raw) and (rest := window.at(1)) and re.fullmatch(r"\d{3}-\d{4}", rest.text):
        return say(f"{_groups(raw)}, {_groups(rest.text)}", rest, 2)
    if match := re.fullmatch(r"(?:1-)?([89]\d\d)((?:-[A-Z]{2,}|-\d{3,4})+)", first.text):
        parts = [part if part.isalpha() else numbers.spell_digits(part, "oh") for part in match[2][1:].split("-")]
        if not match[2].replace("-", "").isdigit():
            one = "one, " if first.text.startswith("1-") else ""
            return say(f"{one}{_group(match[1])}, {', '.join(parts)}", first)
    if re.fullmatch(r"(\+?\d{1,3}[-.])?(\(?\d{3}\)?[-.])?\d{3}[-.]\d{4}", first.text):
        return say(_groups(first.text), first)
    if first.text.startswith("+") and re.fullmatch(r"\+\d{1,3}", first.text):
        parts, last, count = [first.text], first, 1
        while (following := window.joined(count)) and re.fullmatch(r"[\d()-]{2,}", following.text) and count < 5:
            parts, last, count = [*parts, following.text], following, count + 1
        if count > 1:
            return say("plus " + ", ".join(_groups(part) for part in parts), last, count)
    if grouped := _spaced_groups(window):
        return grouped
    digits = first.text
    if hour := _hour_of_four_digits(window):
        return hour
    if re.fullmatch(r"\d{5}(-\d{4})?", digits) and window.before() in tables.STATES:
        return say(", ".join(numbers.spell_digits(part) for part in digits.split("-")), first)
    if not re.fullmatch(r"\d{2,}", digits) or is_short_year(first):
        return None
    earlier = {window.before(back).lower() for back in (1, 2)}
    if earlier <= tables.LINKS and not window.tail_before():
        earlier |= {window.before(back).lower() for back in (3, 4)}
    named = bool(earlier & tables.SPELT_AFTER) and len(digits) >= (3 if earlier & tables.CODES else 4)
    listed = window.before() in {"or", "and"} and re.fullmatch(r"\d{3}", window.before(2)) is not None
    dialled = window.before(3 if listed else 1).lower() in tables.DIALLED_AFTER and len(digits) == 3
    texted = {window.before(back).lower() for back in range(2, 5)} & {"text", "texting", "sms", "send"}
    if window.before().lower() in tables.DIALLED_AFTER and len(digits) in {5, 6}:
        following = window.joined(1)
        dialled = following is None or not is_counted(following.text)
    dialled = dialled or (window.before() == "to" and bool(texted) and 5 <= len(digits) <= 6)
    if digits.startswith("0") or named or dialled or len(digits) > 10 or _is_hotline(window):
        return say(numbers.spell_digits(digits), first)
    return None


def _hour_of_four_digits(window: Window) -> Reading | None:
    """At 0600, by 0730, 0900 hours."""
    match = re.fullmatch(r"(0\d)([0-5]\d)", window.first.text)
    hours = window.joined(1)
    counted = hours is not None and hours.text in {"hours", "hrs", "UTC", "GMT"}
    if match is None or not (counted or window.before().lower() in tables.BEFORE_AN_HOUR):
        return None
    minutes = "hundred" if match[2] == "00" else numbers.in_pairs(f"1{match[2]}").removeprefix("one ")
    return say(f"{numbers.spell_digits(match[1], 'oh')} {minutes}", window.first)


def _is_hotline(window: Window) -> bool:
    """Whether three digits are a number to call: "the crisis line is 988", "the 911 operator"."""
    if len(window.first.text) != 3 or window.first.head not in {"", "(", "*", "**"}:
        return False
    if _is_emergency(window):
        return True
    if window.first.head:
        return False
    earlier = {window.before(back).lower() for back in range(1, 4)}
    if earlier & tables.HOTLINES:
        return True
    following = window.joined(1) if window.before().lower() in {"a", "the"} else None
    return following is not None and following.text in tables.CALLS


def _is_emergency(window: Window) -> bool:
    """Whether it is 911, or beside another number to call: "911 in the US or 999 in the UK", "call 101, or 999"."""
    text, before = window.first.text, window.before().lower()
    following = window.joined(1)
    if following is not None and is_counted(following.text):
        return text == "911" and following.text in tables.CALLS
    if before in tables.YEAR_AFTER - {"and", "for"} or before in tables.NUMBERED | tables.NUMBERED_THINGS | _NO_CALLS:
        return False
    earlier = [window.before(back) for back in range(1, LOOKAHEAD_WORDS + 1)]
    if any(re.fullmatch(r"\d{3}", one) and two.lower() in tables.DIALLED_AFTER for one, two in pairwise(earlier)):
        return True
    if text not in tables.EMERGENCY_NUMBERS:
        return False
    free = following is None or following.text in tables.FUNCTION_WORDS - {"of"} | tables.CALLS
    if (text == "911" and free) or tables.EMERGENCY_NUMBERS & set(earlier):
        return True
    later = (window.at(place) for place in range(1, LOOKAHEAD_WORDS + 1))
    return any(core is not None and core.text in tables.EMERGENCY_NUMBERS for core in later)


_NO_CALLS = tables.NAMED_BY_NUMBER | {"about", "ad", "all", "at", "least", "of", "only", "over", "than", "under"}


def _spaced_groups(window: Window) -> Reading | None:
    """0800 123 456, 020 7946 0018, 415 555 0132: a telephone number in groups."""
    groups: list[str] = []
    last = window.first
    following: Core | None = last
    while following is not None and len(groups) < 5 and re.fullmatch(r"\d{2,8}", following.text):
        groups, last = [*groups, following.text], following
        following = window.joined(len(groups))
    lengths = [len(group) for group in groups]
    zero_led = sum(lengths) > 8 and groups[0].startswith("0") and lengths[0] > 2 and min(lengths[1:]) > 2
    if not zero_led and lengths != [3, 3, 4]:
        return None
    return say(", ".join(numbers.spell_digits(group) for group in groups), last, len(groups))


def _groups(text: str) -> str:
    return ", ".join(_group(part) for part in re.findall(r"\d+", text))


def _group(digits: str) -> str:
    """800 and 900 are hundreds in telephone numbers, other groups are digits."""
    return numbers.integer(digits) if digits in {"800", "900"} else numbers.spell_digits(digits, "oh")


def numbered_name(window: Window) -> Reading | None:
    """Boeing 747, error 404, flight AA 2451, A380, F-150, 401(k): a name in two parts."""
    first, text = window.first, window.first.text
    if match := re.fullmatch(r"(\d{3})\((\w)", text):
        return say(f"{numbers.in_pairs(match[1])} {match[2].upper()}", first)
    if match := re.fullmatch(r"(UTC|GMT)([-−–+])(\d{1,2})(?::(\d\d))?", text):
        sign = "plus" if match[2] == "+" else "minus"
        minutes = f" {numbers.integer(match[4])}" if match[4] and int(match[4]) else ""
        return say(f"{' '.join(match[1])} {sign} {numbers.integer(match[3])}{minutes}", first)
    if match := re.fullmatch(rf"K{DASH}(\d{{1,2}})", text):
        return say(f"K to {numbers.integer(match[1])}", first)
    if match := re.fullmatch(r"([A-Z])-?([1-9]\d\d)", text):
        return say(f"{match[1]} {numbers.in_pairs(match[2])}", first)
    if re.fullmatch(r"[1-9]\d\d", text) and _is_code(window):
        return say(numbers.in_pairs(text), first)
    if not re.fullmatch(r"[1-9]\d{2,3}", text) or window.tail_before():
        return None
    before = window.before()
    after = before.lower() in tables.NAMED_BY_NUMBER
    flight = window.before(2).lower() == "flight" and re.fullmatch("[A-Z]{2}", before) is not None
    counted = after and before.lower() not in tables.NEVER_COUNTING
    following = window.joined(1) if counted else None
    counts = following is not None and is_counted(following.text)
    return say(numbers.in_pairs(text), first) if (after or flight) and not counts else None


def _is_code(window: Window) -> bool:
    """Whether the words beside show that three digits are a name: "a 404 error", "404 Not Found", "got a 404"."""
    text, before = window.first.text, window.before()
    alone = before in {"a", "an"} and not window.tail_before()
    if alone and window.first.tail:
        return not window.first.tail.startswith(("%", "-"))
    following = window.joined(1)
    if following is None:
        return alone and not window.first.tail
    if following.text in tables.NAMED_AFTER_NUMBER or following.text == tables.HTTP.get(text):
        return True
    if following.text in {"page", "redirect", "response", "status"} and text in tables.HTTP:
        return following.text != "page" or text == "404"
    if following.text in {"jet", "jets"}:
        return re.fullmatch("7[0-8]7", text) is not None
    return alone and following.text in tables.FUNCTION_WORDS - {"and", "or", "to"}
