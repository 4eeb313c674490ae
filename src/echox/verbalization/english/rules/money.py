"""English sums of money: a currency's sign or code at an amount, or beside it."""

from __future__ import annotations

import re
from typing import NamedTuple

from echox.verbalization.english.rules.measures import DASH, NUMBER, is_adjective, sign_words
from echox.verbalization.english.words import numbers, tables
from echox.verbalization.reading.language import Reading
from echox.verbalization.reading.window import Core, Window, say

_SYMBOLS = re.escape("".join(tables.CURRENCIES))
_SCALES = tables.SCALES | {f"{dash}{word}": word for dash in ("", "-") for word in set(tables.SCALES.values())}
_SCALE = "|".join(sorted(_SCALES, key=len, reverse=True))
_AMOUNT = rf"(?:{NUMBER}|\d+,\d\d)"
"""Also with a decimal comma, as prices of Europe are written."""
_SPAN = rf"(-?{_AMOUNT})({_SCALE})?(?:{DASH}[{_SYMBOLS}]?({_AMOUNT})({_SCALE})?)?(\+)?"
_BEFORE = re.compile(rf"([-−+±~≈<>≤≥])?([A-Z]{{1,2}})?([{_SYMBOLS}]){_SPAN}")
_AFTER = re.compile(rf"{_SPAN}([{_SYMBOLS}])")


class _Sum(NamedTuple):
    """Amounts as they are written; a scale in words ("million")."""

    low: str
    low_scale: str
    high: str
    scale: str
    more: bool

    @classmethod
    def of(cls, low: str, low_scale: str | None, high: str | None, high_scale: str | None, more: str | None) -> _Sum:
        """From the groups of `_SPAN`: the last scale counts for both ends, one that differs for its own."""
        first, last = _SCALES.get(low_scale or "", ""), _SCALES.get(high_scale or "", "")
        if not high:
            first, last = "", first
        low, high = (re.sub(r"^(-?\d+),(\d\d)$", r"\1.\2", end or "") for end in (low, high))
        return cls(low, first if first != last else "", high, last, bool(more))


def money(window: Window) -> Reading | None:
    """$42.50, €5m, $3.5 billion, $10-15 million, US$30, 20 USD, 20 €, 50¢, a $20 bill."""
    first = window.first
    if match := _BEFORE.fullmatch(first.text):
        sign, country, symbol, *groups = match.groups()
        if country and country not in tables.DOLLARS:
            return None
        prefix = f"{tables.DOLLARS[country]} ".lstrip() if country else ""
        found = _Sum.of(*groups)
        if found.low.startswith("-"):
            sign, found = "-", found._replace(low=found.low[1:])
        found, last, count = _with_scale(window, found, 0)
        names = _names(symbol)
        assert names is not None, "the pattern has signs of the table only"
        named = window.joined(count)
        if named is not None and named.text in names:
            last, count = named, count + 1
        if (scaled := window.joined(count)) is not None and not found.scale:
            scale, _, more = scaled.text.partition("-")
            if more and scale in tables.SCALE_WORDS:
                said = " ".join([numbers.cardinal(found.low), scale, prefix + names[0], *more.split("-")])
                return say(f"{sign_words(sign)} {said}".lstrip(), scaled, count + 1)
        lead = f"{sign_words(sign)} " if sign else "more than " if found.more else ""
        return say(lead + _words(window, found, names, prefix, last, count), last, count)
    if match := _AFTER.fullmatch(first.text):
        *groups, symbol = match.groups()
        found, last, count = _Sum.of(*groups), first, 1
        names = _names(symbol)
        assert names is not None, "the pattern has signs of the table only"
        return say(_words(window, found, names, "", last, count), last, count)
    return _apart(window)


def _names(currency: str) -> tuple[str, str, str, str] | None:
    """One and many of a currency, and of its hundredth part ("" if amounts of it have decimals)."""
    forms = tables.CURRENCIES.get(currency) or tables.CURRENCY_CODES.get(currency)
    if forms is None:
        return None
    one, many, part, parts = (*forms, "", "")[:4]
    return one, many, part, parts


def _apart(window: Window) -> Reading | None:
    """20 USD, USD 20, 10-15 million EUR, 20 €, Rs. 500: an amount beside a code or a sign."""
    first, names = window.first, _names(window.first.text)
    place = 0 if names is None else 1
    if place and first.tail not in {"", "." if first.text == "Rs" else ""}:
        return None
    amount = window.at(place)
    match = re.fullmatch(_SPAN, amount.text) if amount is not None else None
    if amount is None or match is None or amount.head or (place and amount.starts_line):
        return None
    found, last, count = _with_scale(window, _Sum.of(*match.groups()), place)
    if names is None:
        code = window.joined(count)
        names = _names(code.text) if code is not None else None
        if code is None or names is None:
            return None
        last, count = code, count + 1
    return say(_words(window, found, names, "", last, count), last, count)


def _with_scale(window: Window, found: _Sum, place: int) -> tuple[_Sum, Core, int]:
    """Add the scale word that may follow an amount; also where the amount ends."""
    last = window.at(place)
    assert last is not None, "the amount is there"
    following = window.joined(place + 1) if not found.scale else None
    if following is None or following.text.lower() not in tables.SCALE_WORDS:
        return found, last, place + 1
    return found._replace(scale=following.text.lower()), following, place + 2


def _are_many(noun: Core | None) -> bool:
    """Whether a word after a sum names things that cost it: "$20 tickets"."""
    if noun is None:
        return False
    if noun.text in {"bus", "concert", "gift", "movie", "train"}:
        return True
    plural = re.fullmatch("[a-z]{2,}[^s]s", noun.text) is not None
    return plural and noun.text not in tables.NO_THINGS | tables.FUNCTION_WORDS


def _words(window: Window, found: _Sum, names: tuple[str, str, str, str], prefix: str, last: Core, count: int) -> str:
    """Say a sum that ends with a word."""
    one, many, part, parts = names
    if last.tail == "" and (is_adjective(window, count) or _are_many(window.joined(count))):
        many, parts = one, part
    whole, _, cents = found.low.replace(",", "").partition(".")
    if cents and not int(cents) and not found.high and not found.scale:
        cents = ""
    if found.high or found.scale or not part or not cents or len(cents) > 2:
        low = numbers.cardinal(f"{whole}.{cents}" if cents else whole)
        ends = [f"{low} {found.low_scale}".rstrip(), *([numbers.cardinal(found.high)] if found.high else [])]
        single = ends == ["one"] and not found.scale
        return " ".join(
            [" to ".join(ends), *([found.scale] if found.scale else []), prefix + (one if single else many)]
        )
    small = int((cents + "0")[:2])
    said_small = f"{numbers.integer(str(small))} {part if small == 1 else parts}"
    if not int(whole or 0):
        return said_small
    return f"{numbers.integer(whole)} {prefix}{one if whole == '1' else many} and {said_small}"
