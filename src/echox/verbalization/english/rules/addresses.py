"""Addresses in English: mail, web, files, options of commands, versions; and signs that a text speaks about."""

from __future__ import annotations

import re

from echox.verbalization.english.rules.maths import is_number
from echox.verbalization.english.rules.measures import DASH
from echox.verbalization.english.words import numbers, signs, tables
from echox.verbalization.reading.language import Reading
from echox.verbalization.reading.window import Core, Window, say

_MAIL = re.compile(r"[\w.+-]+@[\w-]+(\.[\w-]+)+")
_WEB = re.compile(
    r"(https?://|www\.)\S+|[\w-]+(\.[\w-]+)*\."
    r"(com|org|net|edu|gov|mil|io|dev|ai|co|ly|me|uk|us|eu|de|ca|au|nz|fr|jp|nl|ch|tv|fm|info|app|blog|shop|xyz)(/\S*)?"
)
_FILE = re.compile(rf"[\w./-]*\w\.({'|'.join(sorted(tables.FILE_ENDINGS))})|\.[A-Za-z]\w+", re.IGNORECASE)
_FOLDER = re.compile(r"(?:~|\.{1,2})?(?:/[\w.@-]*\w)+/?|~/|[A-Za-z]:\\(?:[\w.-]+\\?)*")
_OPTION = re.compile(r"--[A-Za-z][\w-]+(=\S+)?|-[A-Za-z]")
_LISTED = re.compile(r"\((?P<first>[^\w\s'\"]),|(?P<inner>[@#$%^&*~]),|(?P<last>[@#$%^&*~])\)[.,;:!?]*")
_MENTION = re.compile(r"(?:(`+)(?P<code>[^\w\s`]{1,3})\1|[\"“](?P<quote>[^\w\s])[\"”]|'(?P<one>[^\w\s])'"
                      r"|\((?P<beside>[^\w\s!?.])\))(?P<tail>[.,;:!?)]*)")  # fmt: skip


def mentioned(window: Window) -> Reading | None:
    """A sign that the text speaks about: the `;` character, the "/" key, an ampersand (&), the # symbol, (!, @, #)."""
    raw = window.first.raw
    if raw.isalnum():
        return None
    if listed := _LISTED.fullmatch(raw):
        name = signs.SIGN_NAMES.get(listed["first"] or listed["inner"] or listed["last"])
        return say(name, window.first) if name else None
    match = _MENTION.fullmatch(raw)
    spelt = (match["code"] or match["quote"] or match["one"] or match["beside"]) if match else raw
    said = signs.SIGN_NAMES.get(spelt) or " ".join(signs.SIGN_NAMES.get(sign, "") for sign in spelt).strip()
    if not said or (match is None and len(raw) > 2):
        return None
    following = window.at(1) if match is None or not match["tail"] else None
    noun = following.text if following is not None and not following.starts_line else ""
    named = noun in signs.SIGN_NOUNS and window.before().lower() in tables.ARTICLES
    if match is None and not named and not _is_object(window, noun):
        return None
    said = said.removesuffix(f" {noun}") if noun else said
    said = said.removesuffix(" sign") if noun in signs.SIGN_NOUNS else said
    names = said.split()
    if match is not None and window.before().lower() in {names[0], names[-1], f"{names[0]}s", f"{names[-1]}s"}:
        return Reading(1, "")
    return say(said, Core("", "", match["tail"] if match else ""))


def _is_object(window: Window, noun: str) -> bool:
    """Whether a sign is a thing that one types or finds: "press # to confirm or * to go back", "an _ in it"."""
    if window.first.raw not in signs.TYPED_SIGNS or window.tail_before():
        return False
    before = window.before().lower()
    listed = before == "or" and noun in {"to", "for", "if"}
    counted = before in {"a", "an"} and len(noun) > 1 and noun.islower()
    return counted or before in {"press", "pressing", "hit", "dial", "type", "tap"} or listed


def addresses(window: Window) -> Reading | None:
    r"""joe@example.com, www.example.org, https://example.org/a, notes.txt, /etc/hosts, C:\Users, --verbose."""
    core = window.first
    if match := re.fullmatch(r"<([^<>]+)>([.,;:!?]*)", core.raw):
        core = Core("", match[1], match[2])
    bare = core.raw.lstrip("`\"'“”*(").rstrip("`\"'“”*),;:!?.")
    if re.fullmatch(r"`?\.\.`[.,;:!?)]*", core.raw):
        return say("dot dot", Core("", "", core.tail[2:]))
    if match := re.fullmatch(r"`</?(\w+)[^`]*>`[.,;:!?)]*", core.raw):
        name = " ".join(re.findall(r"[A-Za-z]+|\d+", match[1]))
        return say(re.sub(r"\d+", lambda digits: numbers.integer(digits[0]), name), core)
    if not bare.startswith("~") and any(form.fullmatch(core.text) for form in (_MAIL, _WEB, _FILE)):
        return say(_spelt(re.sub(r"^https?://", "", core.text).rstrip("/")), core)
    if _FOLDER.fullmatch(bare) and not (bare.count("/") == 1 and bare[:1] == "/" and _is_rate(window, bare[1:])):
        return say(_spelt(bare), core)
    if _OPTION.fullmatch(bare):
        negative = window.before() in signs.OPERATORS or is_number(window.before())
        return say(f"minus {bare[1:]}" if negative and len(bare) == 2 else _spelt(bare), core)
    return None


def _is_rate(window: Window, below: str) -> bool:
    """Whether the word after a slash belongs to what was counted: "8 /day"."""
    return is_number(window.before()) or below in tables.PER or below in tables.PER.values()


def _spelt(text: str) -> str:
    """Words, numbers and marks of an address, one after the other."""
    said: list[str] = []
    for part in re.findall(r"[A-Za-z]+|\d+|[^\w\s]|_", text):
        if re.fullmatch("(19|20)[0-9]{2}", part):
            said.append(numbers.year(int(part)))
        elif part.isdigit():
            short = len(part) < 4 and not part.startswith("0")
            said.append(numbers.integer(part) if short else numbers.spell_digits(part))
        elif part in signs.WEB_MARKS:
            said.append(signs.WEB_MARKS[part])
        elif part.isalpha():
            unsayable = part.isupper() and not re.search("[AEIOUY]", part)
            spelt = part in {"www", "id"} or part in tables.SPELT_SMALL or unsayable
            spelt = spelt or re.fullmatch("[b-df-hj-np-tv-xz]{2,5}", part) is not None
            spelt = spelt or (part in tables.DOMAINS and said[-1:] == ["dot"])
            said.append(tables.ADDRESS_WORDS.get(part) or (" ".join(part) if spelt else part))
    return " ".join(said)


_VERSION = re.compile(rf"([vV]\.?)?(\d+(?:\.\d+)*)(?:[-.]?({'|'.join(tables.PRE_RELEASES)})[-.]?(\d*))?(?::(\d+))?")


def version(window: Window) -> Reading | None:
    """3.10.2, v2.0, 2.0.0-beta.1, Python 3.12, 192.168.0.1, 10.0.0.1:8080."""
    match = _VERSION.fullmatch(window.first.text)
    if match is None:
        return None
    parts = match[2].split(".")
    if len(parts) == 3 and (all(len(part) == 3 for part in parts[1:]) or re.fullmatch("(19|20)[0-9]{2}", parts[2])):
        return None
    named = window.before().lower() in tables.VERSIONED and len(parts) == 2 and len(parts[1]) == 2
    released = match[3] is not None and (len(match[3]) > 1 or len(parts) > 2) and len(parts) > 1
    if not (match[1] or named or released or (len(parts) > 2 and match[3] is None)):
        return None
    said = " point ".join(_of_version(part) for part in parts)
    if match[3] is not None:
        said += " " + " ".join([tables.PRE_RELEASES[match[3]], *([numbers.integer(match[4])] if match[4] else [])])
    port = f" colon {numbers.spell_digits(match[5])}" if match[5] else ""
    return say((f"version {said}" if match[1] else said) + port, window.first)


def _of_version(part: str) -> str:
    return numbers.spell_digits(part) if part.startswith("0") and len(part) > 1 else numbers.integer(part)


def grouped_code(window: Window) -> Reading | None:
    """978-3-16-148410-0, 123-45-6789: figures in three groups or more, digit by digit if one is long; oil, 5W-30."""
    if oil := re.fullmatch(r"(\d{1,2})W-(\d{2})", window.first.text):
        return say(f"{numbers.integer(oil[1])} W {numbers.integer(oil[2])}", window.first)
    groups = re.split(DASH, window.first.text)
    if len(groups) < 3 or not all(group.isascii() and group.isdigit() for group in groups):
        return None
    long = any(len(group) > 2 or group.startswith("0") for group in groups)
    return say(
        ", ".join(numbers.spell_digits(group) if long else numbers.integer(group) for group in groups), window.first
    )
