"""English short forms: titles, streets, abbreviations, months and days, Roman numerals, words in capitals.

A rule takes a `Window` and gives a reading, or None for what is not its kind.
"""

from __future__ import annotations

import re

from echox.verbalization.english.rules.places import is_name
from echox.verbalization.english.words import numbers, tables
from echox.verbalization.reading.language import LOOKAHEAD_WORDS, Reading
from echox.verbalization.reading.window import Core, Window, say

# ------------------------------------------------------------------------------------------ abbreviations


def names(window: Window) -> Reading | None:
    """Titles before a name, kinds of streets after one."""
    core = window.first
    dotted = core.tail.startswith(".")
    if core.text not in tables.TITLES and core.text not in tables.PLACES or not (dotted or core.text in _BARE):
        return None
    following = window.at(1) if not (core.tail.lstrip(".")) else None
    if core.text in tables.BEFORE_A_NUMBER and following is not None and re.fullmatch("[IVXLC]+", following.text):
        return None
    name_follows = following is not None and following.text[:1].isupper() and not following.starts_line
    after_name = is_name(window.before()) and not window.tail_before() and not window.opens_sentence
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


def _capital_means_nothing(window: Window) -> bool:
    """Whether the word before has its capital as the first of a sentence, or as a day: "Ask Dr. Lee"."""
    return _word_before_opens_sentence(window) or window.before() in tables.DAY_NAMES


def _word_before_opens_sentence(window: Window) -> bool:
    return window.before(2) == "" or bool(set(window.tail_before(2)) & set(".!?:")) or window.begins_line_before()


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
    listed = core.text.split("/")
    if len(listed) > 1 and all(name in tables.DAYS or name in tables.MONTHS for name in listed):
        return _expand(window, ", ".join(tables.DAYS.get(name) or tables.MONTHS[name] for name in listed))
    ends = [_calendar_name(end) for end in re.split("[.]?[-–—]", core.text)]
    if len(ends) == 2 and ends[0] and ends[1]:
        return _expand(window, f"{ends[0]} to {ends[1]}")
    if core.text in _LIVED and core.tail == "." and (year := window.at(1)) and re.match(r"\d{4}", year.text):
        return Reading(1, _LIVED[core.text])
    if core.text in tables.BEFORE_A_NUMBER and (dotted or core.text in {"Apt", "Bldg", "Fig", "Rm", "Ste", "Vol"}):
        counted = core.text in tables.UNITS and window.before()[-1:].isdigit() and not window.tail_before()
        following = window.at(1) if not counted else None
        if following is not None and re.match(r"\d|[IVX]+\b", following.text) and not following.starts_line:
            return Reading(1, tables.BEFORE_A_NUMBER[core.text])
    if (core.text in tables.MONTHS and core.text not in tables.MONTH_NAMES) or core.text in tables.DAYS:
        reading = _calendar(window)
        if reading is not None:
            return reading
    if core.text == "min" and dotted and not window.before()[-1:].isdigit():
        return _expand(window, "minimum")
    if core.text == "v" and core.tail == "." and is_name(window.before()) and not window.last_of_line(0):
        return Reading(1, "versus")
    if core.text in {"M-F", "M–F"}:
        return say("Monday to Friday", core)
    if dotted and core.text in tables.WORDS.keys() - tables.SHORT_OR_WORDS:
        return _expand(window, tables.WORDS[core.text])
    if dotted and core.text.lower() in tables.WORDS and len(core.text) > 2:
        following = window.at(1)
        if following is not None and not following.starts_line and re.match("[a-z0-9]", following.raw):
            word = "minimum" if core.text == "Min" else tables.WORDS[core.text.lower()]
            return _expand(window, word.capitalize() if core.text[0].isupper() else word)
    if (part := re.fullmatch("(mid|early|late|pre|post)-([A-Z][a-z]+)", core.text)) and part[2] in tables.MONTHS:
        return _expand(window, f"{part[1]} {tables.MONTHS[part[2]]}")
    if core.text == "pp" and re.match("[$€£]", window.before()):
        return say("per person", core)
    if core.text in tables.BARE_WORDS:
        said = tables.BARE_WORDS[core.text]
        return _expand(window, said) if dotted else say(said, core)
    if core.text.lower() == "no" and core.tail == "." and (after := window.at(1)) is not None and after.raw == "of":
        return Reading(1, core.text.replace("o", "umber"))
    if re.fullmatch(r"(?:(?:[A-Za-z]|Ph|Ed|Psy|Sc)\.)+(?:[A-Za-z]|Sc|Ed|Eng|Phil)", core.text):
        letters = " ".join(core.text.replace(".", "").upper())
        return _expand(window, letters) if dotted else say(letters, core)
    if chord := re.fullmatch(r"([A-G])#(m?)(\d{0,2})", core.text):
        kind = [" minor"] * bool(chord[2]) + [f" {numbers.integer(chord[3])}"] * bool(chord[3])
        return say(f"{chord[1]} sharp{''.join(kind)}", core)
    if re.fullmatch(r"[A-Z]", core.text) and core.tail == "." and core.text != "I":
        following = window.at(1)
        if following is not None and following.text[:1].isupper() and not following.starts_line:
            return Reading(1, core.text)
    return None


def _calendar_name(text: str) -> str | None:
    named = text if text in tables.MONTH_NAMES | tables.DAY_NAMES else None
    return tables.MONTHS.get(text) or tables.DAYS.get(text) or named


def _calendar(window: Window) -> Reading | None:
    """Dec. 25, Mon, Oct 7: short months and days, where a date follows or precedes."""
    core = window.first
    name = tables.MONTHS.get(core.text) or tables.DAYS[core.text]
    following = window.at(1) if core.tail in {"", ".", ",", ".,"} else None
    dated = (
        following is not None
        and not following.starts_line
        and (
            _DATED.fullmatch(following.text) is not None
            or following.text in tables.MONTHS
            or following.text in tables.MONTH_NAMES | tables.DAYS.keys()
            or ((following.text in _THROUGH or following.raw == "&") and _begins_with_day(window.at(2)))
        )
    )
    earlier = re.fullmatch(r"\d{1,2}(st|nd|rd|th)?", window.before()) is not None
    earlier = earlier or (core.tail.startswith(".") and window.before().lower() in tables.BEFORE_A_DATE)
    second = window.raw_before() in _THROUGH and _begins_with_day(Core("", window.before(2), ""))
    return _expand(window, name) if dated or earlier or second else None


_DATED = re.compile(
    r"\d{1,2}(st|nd|rd|th)?([-–—](\d{1,2}(st|nd|rd|th)?|[A-Z][a-z]+))?|\d{4}|\d{1,2}/\d{1,2}(/\d+)?|\d{1,2}:\d\d.*|\d{1,2}[ap]m.*"
)
_LIVED = {"b": "born", "d": "died"}
_THROUGH = frozenset({"to", "through", "thru", "and", "or", "&", "-", "–", "—"})


def _begins_with_day(core: Core | None) -> bool:
    named = tables.MONTH_NAMES | tables.DAY_NAMES | set(tables.MONTHS) | set(tables.DAYS)
    return core is not None and core.text in named


# ------------------------------------------------------------------------------------------ capitals


def roman(window: Window) -> Reading | None:
    """Henry VIII is the eighth; chapter IV is four."""
    core = window.first
    earlier = window.before()
    if earlier.lower() in tables.NUMBERED or core.raw.startswith("("):
        small = numbers.roman(core.text.upper()) if re.fullmatch("[ivx]{2,}|[ivx]", core.text) else None
        if small is not None and (len(core.text) > 1 or core.head == "" or core.tail.startswith(")")):
            return say(numbers.integer(str(small)), core)
    if numbered := _numerals_of_parts(window):
        return say(numbered, core)
    value = numbers.roman(core.text)
    if value is not None and earlier in tables.BEFORE_A_NUMBER and window.tail_before() in {"", "."}:
        return say(numbers.integer(str(value)), core)
    if value is None or window.tail_before():
        return None
    following = window.joined(1) if len(core.text) > 1 else None
    if following is not None and following.text in {"century", "centuries"}:
        return say(numbers.ordinal(value), core)
    if earlier.lower() in tables.NUMBERED and (core.text != "I" or earlier[:1].isupper()):
        return say(numbers.integer(str(value)), core)
    if earlier in tables.REGENTS and core.text in {"V", "X"}:
        return say(f"the {numbers.ordinal(value)}", core)
    if earlier in tables.REGENTS and core.text == "I":
        following = window.at(1) if not core.tail else None
        shown = following is None or following.text in tables.AFTER_FIRST_OF_NAME or window.before(2) in tables.RULERS
        begins = _word_before_opens_sentence(window)
        shown = shown or (begins and following is not None and following.text.lower() not in tables.AFTER_PRONOUN)
        return say("the first", core) if shown else None
    if core.text in {"I", "V", "X", "C", "D", "L", "M"} or value > 40:
        return None
    if earlier.lower() in tables.ARTICLES:
        following = window.joined(1)
        placed = len(core.text) > 2 or (following is not None and following.text.lower() in tables.HELD_IN_ORDER)
        return say(numbers.ordinal(value), core) if placed else None
    if not is_name(earlier):
        return None
    return say(f"the {numbers.ordinal(value)}", core)


def _numerals_of_parts(window: Window) -> str | None:
    """Numerals of several parts: "Vols. I-III", "stages I and III", "Parts I, II and IV"."""
    numerals = [numbers.roman(end) for end in re.split("[-–]", window.first.text)]
    if None in numerals or len(numerals) > 2:
        return None
    back = 1
    while window.before(back) in _THROUGH or numbers.roman(window.before(back)) is not None:
        back += 1
    noun, several = window.before(back), back > 1 or len(numerals) > 1
    if not several:
        following = window.at(1) if noun.endswith("s") and window.first.tail in {"", ","} else None
        later = window.at(2) if following is not None and following.text in _THROUGH else following
        several = following is not None and later is not None and numbers.roman(later.text) is not None
    named = noun in tables.BEFORE_A_NUMBER or {noun.lower(), noun.lower().removesuffix("s")} & tables.NUMBERED
    if not (several and named) or window.tail_before(back) not in {"", "."}:
        return None
    return " to ".join(numbers.integer(str(value)) for value in numerals)


def keys(window: Window) -> Reading | None:
    """Keys by what is printed on them: "hold Ctrl", "press Del", Ctrl-C (Ctrl+C is read in parts)."""
    core = window.first
    if said := tables.KEYS.get(core.text):
        return say(said, core)
    if said := tables.SHORT_KEYS.get(core.text):
        following = window.joined(1)
        pressed = window.before().lower() in {"press", "pressing", "hit", "hold", "tap"}
        pressed = pressed or (window.before() in {"and", "or"} and key_name(window.before(2)) is not None)
        return say(said, core) if pressed or (following is not None and following.text == "key") else None
    held, *parts = core.text.split("-")
    if not parts or not (held in tables.KEYS or held in {"Alt", "Shift", "Option"}):
        return None
    if not all(re.fullmatch("[A-Z]|F?[0-9]{1,2}", part) or key_name(part) for part in parts):
        return None
    return say(" ".join(key_name(part) or _key(part) for part in [held, *parts]), core)


def key_name(part: str) -> str | None:
    """How a key is called; None if a word is not printed on any."""
    return tables.KEYS.get(part) or tables.SHORT_KEYS.get(part) or (part if part in tables.WHOLE_KEYS else None)


def _key(part: str) -> str:
    return " ".join(numbers.integer(sign) if sign.isdigit() else sign for sign in re.findall("[A-Z]|[0-9]+", part))


def capitals(window: Window) -> Reading | None:
    """FBI and npm letter by letter, NASA as a word; words that are only emphasised by capitals stay words."""
    core = window.first
    ends = re.split("[-–]", core.text)
    if len(ends) == 2 and (set(ends) <= tables.CLOTHES or ends == ["A", "Z"]):
        return say(" to ".join(" ".join(end) for end in ends), core)
    if marked := _marked_letter(window):
        return marked
    if compounded := _compounded(core):
        return compounded
    if core.text in tables.SPELT_SMALL or re.fullmatch("[b-df-hj-np-tv-xz]{3,5}", core.text):
        several = "s" * (core.text.endswith("s") and core.text in tables.SPELT_SMALL)
        letters = " ".join(core.text.removesuffix(several).upper())
        return None if core.text in tables.SAID_WITHOUT_VOWELS else say(letters + several, core)
    match = re.fullmatch(r"([A-Z]{2,6})(s|'s|’s)?", core.text)
    if match is None:
        return _mixed_case(core)
    letters, ending = match.groups()
    if not is_spelt(letters) and not (letters == "IT" and _is_a_field(window)):
        return None
    return say(" ".join(letters) + (ending or "").replace("’", "'"), core)


def is_spelt(letters: str) -> bool:
    """Whether a word in capitals is said letter by letter."""
    return not (letters in tables.READ_AS_WORDS or letters in tables.SHOUTED or _is_shouted(letters))


def _compounded(core: Core) -> Reading | None:
    """USB-C, HIV-positive, CD-ROM: the parts in capitals letter by letter."""
    parts = core.text.split("-")
    if len(parts) < 2 or not all(re.fullmatch("[A-Za-z]+", part) for part in parts):
        return None
    if core.text.isupper() and any(_is_shouted(part) or part in tables.SHOUTED for part in parts):
        return None
    said = [" ".join(part) if re.fullmatch("[A-Z]{2,6}", part) and is_spelt(part) else part for part in parts]
    return say(" ".join(said), core) if said != parts else None


def _marked_letter(window: Window) -> Reading | None:
    """A mark, "a B-", or a group of blood, "AB-", "type O+"."""
    core = window.first
    if (starred := re.fullmatch(r"([A-Z])\*([.,!?;:]?)", core.raw)) and not _is_emphasis(window):
        return say(f"{starred[1]} star", Core("", "", starred[2]))
    match = re.fullmatch("(AB|[A-FO])([-−–+])", core.text)
    if match is None:
        return None
    following = window.at(1) if not core.tail else None
    beside = {window.before(back).lower() for back in range(1, 6)} | {following.text if following is not None else ""}
    sign = "minus" if match[2] != "+" else "plus"
    if beside & {"blood", "donor", "donors"} or match[1] in {"AB", "O"}:
        sign = "negative" if sign == "minus" else "positive"
    elif following is not None and following.text in {"and", "or", "to"}:
        return None
    return say(f"{' '.join(match[1])} {sign}", core)


def _is_emphasis(window: Window) -> bool:
    """Whether an asterisk that opened before is open still: "*Plan A*"."""
    earlier = (window.raw_before(back) for back in range(1, LOOKAHEAD_WORDS + 1))
    marked = next((word for word in earlier if "*" in word), "")
    return marked.startswith("*") and not marked.rstrip(".,;:!?").endswith("*")


def _is_a_field(window: Window) -> bool:
    """Whether IT is information technology, not a word in capitals: "an IT firm", "works in IT"."""
    following = window.joined(1)
    if following is not None and following.text in tables.OF_COMPUTERS:
        return True
    if window.tail_before() == "," and window.before().isupper() and is_spelt(window.before()):
        return True
    loud = following is not None and following.text.isupper()
    return not loud and window.before() in {"a", "an", "the", "our", "your", "their", "of", "in", "for", "and", "with"}


def _mixed_case(core: Core) -> Reading | None:
    """PhD, BSc, mRNA, iOS: capitals of a degree, or after small letters."""
    if (match := re.fullmatch("([a-z]{1,3})([A-Z]{2,4})(s?)", core.text)) and is_spelt(match[2]):
        begin = match[1] if re.search("[aeiouy].", match[1]) else " ".join(match[1])
        return say(f"{begin} {' '.join(match[2])}{match[3]}", core)
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
