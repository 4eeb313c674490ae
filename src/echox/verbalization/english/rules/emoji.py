"""Emoji in English: silent where they adorn, named where the sentence needs them ("the 😂 emoji", "from 😀 to 😢").

Names are those of Unicode (`unicodedata`, https://www.unicode.org/charts/), shortened, with a few that people say
otherwise.
"""

from __future__ import annotations

import re
import unicodedata

from echox.verbalization.english.rules.maths import is_number
from echox.verbalization.english.words import numbers, signs, tables
from echox.verbalization.english.words.tables import as_set, as_table
from echox.verbalization.reading.language import Reading
from echox.verbalization.reading.window import Core, Window, say

_NAMES = as_table("""
☰=menu; ⋮=three dots; ⋯=three dots; ▶=play; ⏸=pause; ⏹=stop; ⏺=record; ⏏=eject; 🗑=trash can;
💻=laptop; 🏠=house; ❤=heart; ♥=heart; ✅=check mark; ✔=check mark; ☑=check mark; ✓=check mark; ❌=cross; ✖=cross;
✗=cross; ✘=cross; ⭐=star; ★=star; ☆=star; 🔒=lock; ➕=plus; ➖=minus; 🙏=folded hands; 🍆=eggplant; 🥺=pleading face;
💩=pile of poo; 🔊=speaker; 🔇=mute; 👉=pointing right; 👈=pointing left; 👆=pointing up; 👇=pointing down;
✌=victory hand; 🔴=red circle; 🔵=blue circle; ⬛=black square; ⬜=white square; ⚪=white circle; ⚫=black circle;
🖤=black heart; 🤍=white heart; 🍕=pizza; ☕=coffee; 🍺=beer; 🍷=wine; 🍎=apple; 🎂=birthday cake; 📞=phone; 🌧=rain;
☔=rain; 🚗=car
""")
_ANSWERS = as_table("""
✅=yes; ✔=yes; ☑=yes; ✓=yes; ❌=no; ✖=no; ✗=no; ✘=no; 👍=thumbs up; 👎=thumbs down; 🟢=green; 🟡=yellow; 🔴=red
""")
"""Alone in a cell of a table."""
_NOUNS = as_set("emoji emojis emoticon emoticons")
_ICONS = as_set("badge button buttons flag icon icons menu reaction reactions symbol symbols sign tab")
"""After an emoji they show that the text speaks about it; the second list only after one of `_LEADS`."""
_LEADS = tables.ARTICLES - {"this", "that"} | as_set("""
her his my no your
add choose click does emoji from hit like mean means of pick press pressing reacted select send sent tap tapping type
use using with your between
""")
"""Words that need one after them."""
_ENDS = as_set("""
after again ate because before but button by can every fell for from had has icon if in instead into is mean means
now of on or over please ran sat saw slept says then there to today tomorrow tonight too turns wants was went were when
will with and as at
""")
"""Words before which what a lead needs has been said: "tap 🔍 to search", not "the 🔥 best tips"."""
_DEFINED = as_set("means indicates represents stands symbolizes shows")
"""After an emoji that a sentence explains: "✅ means done"."""
_SUMS = as_set("+ − × =")
"""Beside them an emoji is a part of a sum or a legend: "🍎 + 🍎 = 10", "✅ = done"."""
_JOINING = as_set("and or vs / to")
_ANIMALS = "bear|cat|cow|dog|dragon|fox|frog|hamster|horse|lion|monkey|mouse|panda|pig|rabbit|tiger|unicorn|wolf"
_NO_THINGS = "face|hand|heart|spark|fire|party|person|sign"
"""In the names of emoji that show a feeling."""
_WITH_THINGS = as_set("fan fans game lover lovers night practice season team")
"""Things have them: "🏈 season"."""
_GIVING = as_set("bought bring bringing brought buy gave get give giving got made make owe send sending sent")
_RECEIVERS = as_set("her him me them us you")
_HAVING = as_set("""
ate buy buying bought craving drank drink drinking get getting grab have having make making eat eating like liked likes
love loved loves ordered some want wants
""")
_PAIRING = as_set("and or vs versus")
_AFTER_A_COLON = frozenset("👇⬇↓👉➡😊🙂😄😀😃😁😉🎉✨🤗💡🚀")
"""They adorn what a colon announces; others are what it announces: "My mood: 😴"."""
_PRESENTATION = re.compile("[\u200d\ufe0e\ufe0f\u20e3\U0001f3fb-\U0001f3ff\U000e0020-\U000e007f]")
_FLAG = re.compile("[\U0001f1e6-\U0001f1ff]{2}")
_PLAIN_SIGNS = frozenset(signs.SYMBOLS) | frozenset(signs.SIGN_NAMES)


def name_of(text: str) -> str | None:
    """What a word of emoji alone is called; None for any other word.

    Skin tones are not said, and emoji that are repeated are said once. A flag is the letters of its country.
    """
    shown = _PRESENTATION.sub("", text)
    if not shown or shown.isascii() or not all(_is_emoji(character) for character in shown):
        return None
    said = []
    for flag_or_emoji in re.findall(f"{_FLAG.pattern}|.", shown):
        if _FLAG.fullmatch(flag_or_emoji):
            said.append(" ".join(chr(ord(letter) - 0x1F1E6 + ord("A")) for letter in flag_or_emoji))
        else:
            said.append(_NAMES.get(flag_or_emoji) or _short_name(flag_or_emoji))
    return " ".join(dict.fromkeys(said))


def _is_emoji(character: str) -> bool:
    if character in _PLAIN_SIGNS:
        return False
    return character in _NAMES or unicodedata.category(character) == "So"


def _short_name(character: str) -> str:
    """The name of Unicode without what tells the drawing: LEFT-POINTING MAGNIFYING GLASS is "magnifying glass"."""
    name = unicodedata.name(character, "emoji").lower()
    name = re.sub(r"\b(?:heavy|white|black|large|medium|(?:left|right)-pointing) ", "", name)
    name = re.sub(rf"^({_ANIMALS}) face$", r"\1", name)
    return re.sub(r" (?:sign|symbol|with rays|with face)$", "", name).replace("-", " ")


def emoji(window: Window) -> Reading | None:
    """An emoji that the sentence needs: the 😂 emoji, tap 🔍 to search, from 😀 to 😢, ✅ = done, | ❌ |."""
    core = window.first
    if core.raw.isascii():
        return None
    name = name_of(core.text)
    if name is None:
        return None
    following = window.at(1)
    noun = following.text if following is not None and not following.starts_line and not core.tail else ""
    answer = _ANSWERS.get(_PRESENTATION.sub("", core.text))
    if answer and window.raw_before() == "|" and following is not None and following.raw == "|":
        return say(answer, Core("", "", ","))
    if _is_needed(window, noun):
        several = _is_counted(window, noun) and window.before() != "1"
        return say(numbers.plural(name) if several else name.removesuffix(f" {noun}"), core)
    return Reading(1, core.intonation) if core.tail and not _closes_nothing(window) else None


def _closes_nothing(window: Window) -> bool:
    """Whether no word before the emoji waits for the mark after it: "Thanks 🎉!", not "Thanks! 🎉"."""
    back = 1
    while name_of(window.raw_before(back)):
        back += 1
    return not window.before(back) or bool(window.tail_before(back))


def _is_needed(window: Window, noun: str) -> bool:
    """Whether the sentence has a hole without the emoji."""
    quoted = re.search("[\"'“‘`]", window.first.head) and re.search("[\"'”’`]", window.first.tail)
    bullet = window.begins_line_before() or not window.raw_before(2)
    if quoted or noun in _NOUNS or (window.before() in _SUMS and not bullet) or _is_one_of_two(window):
        return True
    if window.tail_before() == ":" and window.before().isalpha() and window.last_of_line(0):
        return _PRESENTATION.sub("", window.first.text)[:1] not in _AFTER_A_COLON
    if noun in _WITH_THINGS and not re.search(_NO_THINGS, name_of(window.first.text) or ""):
        return True
    if noun in _DEFINED or noun in _SUMS or noun == "is":
        earlier = window.before()
        begins = window.opens_line or bool(window.tail_before()) or _lead(window) in _LEADS
        return begins or earlier in _JOINING or is_number(earlier)
    if _is_thing_after_verb(window, name_of(window.first.text) or "", noun) or _is_counted(window, noun):
        return True
    lead = _lead(window)
    if lead not in _LEADS:
        return lead in {"this", "that"} and noun in _ICONS
    return noun in _ICONS or noun in _ENDS or not noun or name_of(noun) is not None


def _is_thing_after_verb(window: Window, name: str, noun: str) -> bool:
    """Whether a verb has no other object: "She sent me 💐 for my birthday", "I ate 🍕 today"."""
    if re.search(_NO_THINGS, name) or not (noun == "" or noun in _ENDS):
        return False
    if window.before().lower() in _RECEIVERS:
        return window.before(2).lower() in _GIVING
    return not window.tail_before() and window.before().lower() in _HAVING


def _is_counted(window: Window, noun: str) -> bool:
    """Whether a number counts it: "Eat 2 🍎 a day"."""
    counted = re.fullmatch(r"[1-9]\d?", window.before()) is not None and not window.tail_before()
    return counted and noun in {"a", "each", "every", "for", "left", "per"}


def _is_one_of_two(window: Window) -> bool:
    """Whether "or", "vs" or "and" joins it with another emoji: "🍎 or 🍌?"."""
    following = window.joined(1)
    if following is not None and following.text.lower() in _PAIRING:
        other = window.joined(2)
        if other is not None and name_of(other.text):
            return True
    return window.before().lower() in _PAIRING and name_of(window.before(2)) is not None


def _lead(window: Window) -> str:
    """The word before an emoji, or before the emoji that it is listed with: "use" in "use 🙂, 😐 or 🙁"."""
    back = 1
    while window.before(back) in _JOINING or name_of(window.raw_before(back).strip("\"'“”‘’`(),;/")):
        back += 1
    return "" if window.tail_before(back) else window.before(back).lower()
