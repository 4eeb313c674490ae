"""Places in English: states by their postal codes, parts of the compass in addresses.

A rule takes a `Window` and gives a reading, or None for what is not its kind.
"""

from __future__ import annotations

import re

from echox.verbalization.english.words import tables
from echox.verbalization.reading.language import Reading
from echox.verbalization.reading.window import Core, Window, say


def compass(window: Window) -> Reading | None:
    """123 N. Main St., 55 E 52nd St., 900 SW 5th Ave, Pennsylvania Ave NW, N. Korea."""
    core = window.first
    if core.text not in tables.COMPASS:
        return None
    if not is_compass(window, 0) and not _closes_street(window):
        return None
    return say(tables.COMPASS[core.text], Core("", "", core.tail.replace(".", "", 1)))


def is_compass(window: Window, place: int) -> bool:
    """Whether the word that many words later is a part of the compass before the name of a street, or of a land."""
    core, street = window.at(place), window.at(place + 1)
    if core is None or core.text not in tables.COMPASS or core.head or core.tail not in {"", "."} or street is None:
        return False
    before = window.before() if place == 0 else ""
    if street.starts_line or street.head or (is_name(before) and before not in tables.BEFORE_A_STREET):
        return False
    if re.fullmatch(r"\d+(?:st|nd|rd|th)", street.text) or (core.tail and street.text in tables.HALF_LANDS):
        return True
    name = street
    for after in range(place + 2, place + 4):
        if not is_name(name.text) or name.tail:
            return False
        road = window.at(after)
        if road is None or road.starts_line:
            return False
        if road.text in _ROADS:
            return True
        name = road
    return False


def _closes_street(window: Window) -> bool:
    """Whether a street is named before it, and the address ends: "Main St. N, Reno"."""
    street = window.before(2)
    named = is_name(street) or re.fullmatch(r"[A-Z]|\d+(?:st|nd|rd|th)", street) is not None
    if window.before() not in _ROADS or window.tail_before() not in {"", "."} or not named:
        return False
    return len(window.first.text) == 2 or window.first.tail.startswith(",") or window.last_of_line(0)


_ROADS = frozenset(tables.PLACES) | frozenset(tables.PLACES.values())


def is_name(text: str) -> bool:
    """Whether a word is written like a name, and is no month."""
    return text[:1].isupper() and text[1:2].islower() and text not in tables.MONTH_NAMES


def states(window: Window) -> Reading | None:
    """Postal codes of states: Austin, TX; from FL to ME."""
    core = window.first
    name = tables.STATES.get(core.text)
    if name is None:
        return None
    following = window.joined(1)
    after_city = window.tail_before() == "," and is_name(window.before())
    free = bool(core.tail) or following is None or re.fullmatch(r"\d{5}(-\d{4})?", following.text) is not None
    free = free or (following is not None and following.text in tables.FUNCTION_WORDS)
    if after_city and (core.text not in _STATES_OR_WORDS or free):
        return say(name, core)
    beside = [window.before(2)] if window.before() in _BETWEEN_STATES else []
    if following is not None and following.text in _BETWEEN_STATES and (third := window.joined(2)):
        beside.append(third.text)
    return say(name, core) if any(code in tables.STATES for code in beside) else None


_STATES_OR_WORDS = frozenset({"HI", "IN", "ME", "OH", "OK", "OR"})
_BETWEEN_STATES = frozenset({"and", "or", "to"})
