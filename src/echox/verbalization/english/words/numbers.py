"""American English numbers in words: num2words, and the forms that it does not have."""

from __future__ import annotations

import functools
import re

from num2words import num2words

LONGEST_NUMBER = 15
"""Most digits of a number that is spoken as a number; longer ones are spoken digit by digit."""

_DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
_ROMAN = {"I": 1, "V": 5, "X": 10, "L": 50, "C": 100, "D": 500, "M": 1000}
_ROMAN_FORM = re.compile(r"M{0,3}(CM|CD|D?C{0,3})(XC|XL|L?X{0,3})(IX|IV|V?I{0,3})")
_IRREGULAR = {2: ("half", "halves"), 4: ("quarter", "quarters")}


def cardinal(digits: str) -> str:
    """Say a number of digits, grouped or not, with or without decimals: "1,234.5"."""
    whole, point, part = digits.replace(",", "").partition(".")
    said = integer(whole or "0")
    return f"{said} point {spell_digits(part)}" if point and part else said


def integer(digits: str) -> str:
    """Say a whole number; a long one digit by digit."""
    value = digits.lstrip("0") or "0"
    return spell_digits(digits) if len(value) > LONGEST_NUMBER else _in_words(int(value), "cardinal")


def ordinal(value: int) -> str:
    """Say the place in an order: 21 is "twenty first"."""
    return _in_words(value, "ordinal")


def spell_digits(digits: str, zero: str = "zero") -> str:
    """Say digit by digit."""
    return " ".join(zero if digit == "0" else _DIGITS[int(digit)] for digit in digits)


def year(value: int) -> str:
    """Say 1984 as "nineteen eighty four", 1905 as "nineteen oh five", 2007 as "two thousand seven"."""
    century, rest = divmod(value, 100)
    if value < 1000 or (century % 10 == 0 and rest < 10):
        return integer(str(value))
    if rest == 0:
        return f"{integer(str(century))} hundred"
    return f"{integer(str(century))} {'oh ' if rest < 10 else ''}{integer(str(rest))}"


def in_pairs(digits: str) -> str:
    """Say the three or four digits of a name: 747 is "seven forty seven", 404 "four oh four", 4090 "forty ninety"."""
    if len(digits) == 4 or digits.endswith("00"):
        return year(int(digits)) if len(digits) == 4 else integer(digits)
    return f"{integer(digits[0])} {'oh ' if digits[1] == '0' else ''}{integer(digits[1:])}"


def decade(value: int) -> str:
    """Say 1990 as "nineteen nineties", 80 as "eighties", 2000 as "two thousands"."""
    return plural(year(value) if value >= 1000 else integer(str(value)))


def plural(words: str) -> str:
    """Add an s, or ies for y."""
    return words[:-1] + "ies" if words.endswith("y") and words[-2:-1] not in "aeiou" else words + "s"


def fraction(top: int, bottom: int) -> str:
    """Say 2/3 as "two thirds"; of a large or odd part, "over"."""
    if bottom == 0 or bottom == 1 or (bottom > 20 and bottom not in (100, 1000)):
        return f"{integer(str(top))} over {integer(str(bottom))}"
    name = ordinal(bottom).removeprefix("one ")
    one, many = _IRREGULAR.get(bottom, (name, name + "s"))
    return f"{integer(str(top))} {one if top == 1 else many}"


def mixed(whole: int, top: int, bottom: int) -> str:
    """Say 1 1/2 as "one and a half", 3 3/4 as "three and three quarters"."""
    part = "a half" if (top, bottom) == (1, 2) else fraction(top, bottom)
    return f"{integer(str(whole))} and {part}" if whole else fraction(top, bottom)


def clock(hour: int, minute: int, half_day: str = "") -> str:
    """Say a time of day; ``half_day`` is "" or "A M" or "P M"."""
    if minute:
        said = f"{integer(str(hour))} {'oh ' if minute < 10 else ''}{integer(str(minute))}"
    elif half_day:
        said = integer(str(hour))
    else:
        said = f"{integer(str(hour))} o'clock" if 1 <= hour <= 12 else f"{integer(str(hour))} hundred hours"
    return f"{said} {half_day}".rstrip()


def roman(letters: str) -> int | None:
    """The value of a Roman numeral in capitals; None for anything else."""
    if not letters or not _ROMAN_FORM.fullmatch(letters):
        return None
    values = [_ROMAN[letter] for letter in letters]
    after = [*values[1:], 0]
    return sum(-value if value < following else value for value, following in zip(values, after, strict=True))


@functools.lru_cache(maxsize=4096)
def _in_words(value: int, kind: str) -> str:
    """num2words without its hyphens, commas and British "and": 342 is "three hundred forty two"."""
    spelt = num2words(value, to=kind)
    return " ".join(re.sub(r"[-,]|\band\b", " ", spelt).split())
