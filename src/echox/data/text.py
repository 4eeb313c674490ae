"""Written text as it is said: what a speech synthesiser should be given.

    normalize_for_speech("Dr. Smith paid $42.50 on the 3rd.")
    # "Doctor Smith paid forty two dollars and fifty cents on the third."

English only. The rules are few and predictable; a text that needs more is better written out by hand.
"""

from __future__ import annotations

import re
import unicodedata

from num2words import num2words

_ABBREVIATIONS = {
    "Dr.": "Doctor", "Mr.": "Mister", "Mrs.": "Missus", "Ms.": "Miss", "Prof.": "Professor", "St.": "Saint",
    "Mt.": "Mount", "e.g.": "for example", "i.e.": "that is", "etc.": "and so on", "vs.": "versus", "approx.": "about",
    "Inc.": "Incorporated", "Ltd.": "Limited", "No.": "Number",
}  # fmt: skip
_UNITS = {
    "km": "kilometer", "m": "meter", "cm": "centimeter", "mm": "millimeter", "kg": "kilogram", "g": "gram",
    "mg": "milligram", "s": "second", "ms": "millisecond", "h": "hour", "Hz": "hertz", "kHz": "kilohertz",
    "GB": "gigabyte", "MB": "megabyte", "mph": "mile per hour",
}  # fmt: skip
_INVARIABLE = {"Hz", "kHz"}
_CURRENCIES = {"$": ("dollar", "cent"), "€": ("euro", "cent"), "£": ("pound", "penny")}
_SYMBOLS = {"&": " and ", "%": " percent", "+": " plus ", "=": " equals ", "@": " at ", "°C": " degrees Celsius",
            "°F": " degrees Fahrenheit", "°": " degrees", "×": " times ", "/": " slash "}  # fmt: skip
_NUMBER = r"\d{1,3}(?:,\d{3})+(?:\.\d+)?|\d+(?:\.\d+)?"


def normalize_for_speech(text: str) -> str:
    """Return ``text`` with numbers, money, units, symbols and abbreviations as words, single spaces between.

    Punctuation that shapes the melody (``.,?!;:``) stays; markdown marks, quotes and brackets go.
    """
    text = unicodedata.normalize("NFKC", text.replace("’", "'").replace("‘", "'"))
    text = re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", text)  # markdown links and pictures: their words
    text = re.sub(r"[*_`#~|<>\"“”()\[\]{}]", " ", text)
    for short, long in _ABBREVIATIONS.items():
        text = re.sub(rf"(?<!\w){re.escape(short)}(?=\s|$)", long + ("." if short in {"etc."} else ""), text)
    text = re.sub(rf"([$€£])\s?({_NUMBER})", _money, text)
    text = re.sub(rf"({_NUMBER})\s?({'|'.join(sorted(_UNITS, key=len, reverse=True))})(?![\w])", _measure, text)
    text = re.sub(r"\b(\d{1,2}):([0-5]\d)\b", _clock, text)
    text = re.sub(r"\b(\d+)(?:st|nd|rd|th)\b", lambda m: _words(num2words(int(m[1]), to="ordinal")), text)
    text = re.sub(r"\b(1[1-9]|20)(\d\d)\b(?![,.]\d)", _year, text)
    text = re.sub(rf"(?<![\w.])-({_NUMBER})", lambda m: f"minus {_number(m[1])}", text)
    text = re.sub(_NUMBER, lambda m: f" {_number(m[0])} ", text)
    for symbol, words in _SYMBOLS.items():
        text = text.replace(symbol, words)
    text = re.sub(r"\s*[–—]\s*| - ", ", ", text)
    text = re.sub(r"\s+([.,?!;:])", r"\1", text)
    return " ".join(text.split())


def _number(digits: str) -> str:
    digits = digits.replace(",", "")
    return _words(num2words(float(digits) if "." in digits else int(digits)))


def _words(spelt: str) -> str:
    """Undo num2words' hyphens, commas and British "and": 342 is "three hundred forty two"."""
    return " ".join(re.sub(r"[-,]|\band\b", " ", spelt).split())


def _plural(count: str, word: str) -> str:
    if count in {"1", "1.0"}:
        return word
    head, _, rest = word.partition(" ")
    head = "pence" if head == "penny" else head + "s"
    return f"{head} {rest}".rstrip()


def _money(match: re.Match[str]) -> str:
    whole, part = _CURRENCIES[match[1]]
    units, _, cents = match[2].replace(",", "").partition(".")
    spoken = f"{_number(units)} {_plural(units, whole)}"
    if cents and int(cents):
        cents = str(int((cents + "0")[:2]))
        spoken += f" and {_number(cents)} {_plural(cents, part)}"
    return spoken


def _measure(match: re.Match[str]) -> str:
    unit = _UNITS[match[2]]
    return f"{_number(match[1])} {unit if match[2] in _INVARIABLE else _plural(match[1], unit)}"


def _clock(match: re.Match[str]) -> str:
    hour, minute = int(match[1]), int(match[2])
    if minute == 0:
        return f"{_number(str(hour))} o'clock"
    between = " oh " if minute < 10 else " "
    return f"{_number(str(hour))}{between}{_number(str(minute))}"


def _year(match: re.Match[str]) -> str:
    """Say 1984 as "nineteen eighty four"; 1900, 2007 and the like as years are said."""
    century, rest = int(match[1]), int(match[2])
    if century == 20 and rest < 10:
        return _number(match[0])
    if rest == 0:
        return f"{_number(match[1])} hundred"
    return f"{_number(match[1])} {'oh ' if rest < 10 else ''}{_number(str(rest))}"
