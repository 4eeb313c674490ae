"""Conversations that are no questions of knowledge: what is said, the reply, and what a right reply is, as texts.

Greetings, thanks, moods, the assistant itself, what it cannot know or do, jokes and stories, everyday advice (topics of
``talk``); what users tell of themselves and ask for later (``told``); small sums (``sums``). Wordings, names and
numbers are held out.

Source: written for this project (``talk.yaml``).
"""

from __future__ import annotations

import functools
import operator
import random
import string
from collections.abc import Iterator
from dataclasses import dataclass

from echox.data.manifest import Dialogue, Turn
from echox.data.numbers import said_number
from echox.data.splits import SPLITS, check_split, held_out_share
from echox.files import JsonObject, packaged_yaml

KINDS = ("talk", "told", "unknown", "sums", "knowledge")
"""Of exchanges: a topic of ``talk``; a told fact that is asked for; one that was never told; a sum; other questions."""

_LENGTHS = (4, 3, 3, 2, 2, 2)
"""How often conversations have 1, 2, 3 ... exchanges."""
_SHARES = {"talk": 0.6, "told": 0.15, "unknown": 0.05, "sums": 0.05, "knowledge": 0.15}
_ASKED_NOW = 0.4
"""Probability that a told fact is asked for next; else another exchange comes before."""
_LARGEST_SUMMAND, _LARGEST_FACTOR = 20, 10
_OPERATIONS = {"plus": operator.add, "minus": operator.sub, "times": operator.mul}
_IN_WORDS = 0.7
"""Share of sums whose numbers are in words, as people write down what they hear; the others are in figures."""


@dataclass(frozen=True)
class Exchange:
    """What the user says, and the reply.

    Attributes:
        said: by the user.
        reply: one that is right.
        kind: of `KINDS`.
        topic: of its kind.
        accepted: all replies that are right; (): not known (other questions).
        key: what a right reply to a told fact or a sum contains; "": it is one of `accepted`.
    """

    said: str
    reply: str
    kind: str
    topic: str
    accepted: tuple[str, ...] = ()
    key: str = ""


def conversations(
    split: str,
    count: int,
    knowledge: list[Exchange],
    seed: int = 0,
    often: float = 6.0,
    beside_tools: bool = False,
) -> Iterator[list[Exchange]]:
    """Yield conversations of some exchanges.

    Args:
        split: "train", "validation" or "heldout": of the wordings, names and numbers.
        count: of conversations.
        knowledge: other questions that occur among the rest; empty: none do.
        seed: decides all that is drawn.
        often: how many times as often as others the topics occur that people speak of most.
        beside_tools: they occur among calls of tools: nothing in them is what a tool could do, and none has to come
            first.

    Raises:
        ValueError: another split.
    """
    check_split(split)
    rng = random.Random(f"talk {split} {seed}")
    shares = {kind: share for kind, share in _SHARES.items() if knowledge or kind != "knowledge"}
    topics = list(_content()["talk"])
    if beside_tools:
        del shares["sums"]
        topics = [one for one in topics if not (one.get("tool") or one.get("first"))]
    for _ in range(count):
        yield _conversation(split, shares, topics, knowledge, often, rng)


def said_in_talk() -> list[Dialogue]:
    """What users say in talk, each as a dialogue of one turn: every wording, with one of its values in each gap.

    Half of the held-out ones are of split "validation", the others of "heldout".
    """
    rng = random.Random("said in talk")
    found: list[Dialogue] = []
    for topic in _content()["talk"]:
        for split in SPLITS:
            texts = [_filled(text, _values(split, rng)) for text in _of_split(topic, split)]
            found += [
                Dialogue(f"{topic['topic']}-{split}-{number}", (Turn("user", text),), split)
                for number, text in enumerate(texts)
            ]
    return found


def _conversation(
    split: str,
    shares: dict[str, float],
    topics: list[JsonObject],
    knowledge: list[Exchange],
    often: float,
    rng: random.Random,
) -> list[Exchange]:
    wanted = rng.choices(range(1, len(_LENGTHS) + 1), _LENGTHS)[0]
    facts = rng.sample(_content()["told"], len(_content()["told"]))  # each is told, or asked for in vain, once at most
    found: list[Exchange] = []
    open_ends: list[Exchange] = []  # told facts that are still to be asked for
    while len(found) < wanted or open_ends:
        if open_ends and (len(found) >= wanted or rng.random() < _ASKED_NOW):
            found.append(open_ends.pop(rng.randrange(len(open_ends))))
            continue
        kind = rng.choices(list(shares), list(shares.values()))[0]
        if kind == "told" and facts:
            told, asked = _told(facts.pop(), split, rng)
            found.append(told)
            open_ends.append(asked)
        elif kind == "unknown" and facts:
            found.append(_unknown(facts.pop(), split, rng))
        elif kind == "sums":
            found.append(_sum(split, rng))
        elif kind == "knowledge":
            found.append(rng.choice(knowledge))
        else:
            fitting = [one for one in topics if not (found and one.get("first"))]
            (topic,) = rng.choices(fitting, [often if one.get("often") else 1.0 for one in fitting])
            found.append(_talk(topic, split, rng))
    return found


def _talk(topic: JsonObject, split: str, rng: random.Random) -> Exchange:
    values = _values(split, rng)
    accepted = tuple(_filled(one, values) for one in topic["replies"])
    said = _filled(rng.choice(_of_split(topic, split)), values)
    return Exchange(said, rng.choice(accepted), "talk", topic["topic"], accepted)


def _told(fact: JsonObject, split: str, rng: random.Random) -> tuple[Exchange, Exchange]:
    """The fact as the user tells it, and how it is asked for later."""
    values = _values(split, rng)

    def one(name: str) -> str:
        return _filled(rng.choice(fact[name]), values)

    accepted = tuple(_filled(reply, values) for reply in fact["replies"])
    told = Exchange(one("said"), rng.choice(accepted), "talk", f"told_{fact['topic']}", accepted)
    asked = tuple(_filled(reply, values) for reply in fact["answers"])
    key = str(values[_key(fact)])
    return told, Exchange(one("asked"), rng.choice(asked), "told", fact["topic"], asked, key)


def _unknown(fact: JsonObject, split: str, rng: random.Random) -> Exchange:
    values = _values(split, rng)
    accepted = tuple(_filled(reply, values) for reply in fact["unknown"])
    said = _filled(rng.choice(fact["asked"]), values)
    return Exchange(said, rng.choice(accepted), "unknown", fact["topic"], accepted)


def _sum(split: str, rng: random.Random) -> Exchange:
    """One of the numbers of its split: a fifth of all sums are held out, half of them for each other split."""
    while True:
        operation = rng.choice(list(_OPERATIONS))
        largest = _LARGEST_FACTOR if operation == "times" else _LARGEST_SUMMAND
        first, second = rng.randint(1, largest), rng.randint(1, largest)
        if operation == "minus":
            first, second = max(first, second), min(first, second)
        if _split_of_sum(first, second, operation) == split:
            break
    words = [said_number(number) for number in (first, second)]
    said = words if rng.random() < _IN_WORDS else [str(first), str(second)]
    result = said_number(_OPERATIONS[operation](first, second))
    text = _filled(rng.choice(_content()["sums"]), {"first": said[0], "second": said[1], "operation": operation})
    reply = f"{words[0].capitalize()} {operation} {words[1]} is {result}."
    return Exchange(text, reply, "sums", operation, (reply,), result)


def _split_of_sum(first: int, second: int, operation: str) -> str:
    if operation != "minus":
        first, second = sorted((first, second))  # the same sum
    place = (7 * first + 3 * second + len(operation)) % 10
    return {0: "validation", 1: "heldout"}.get(place, "train")


def _of_split(topic: JsonObject, split: str) -> list[str]:
    """Wordings."""
    return list(topic["asked"]) if split == "train" else held_out_share(topic["held_out"], split)


def _values(split: str, rng: random.Random) -> dict[str, str]:
    """A value for every gap of a wording."""
    part = "train" if split == "train" else "held_out"
    return {name: str(rng.choice(choices[part])) for name, choices in _content()["slots"].items()}


def _filled(text: str, values: dict[str, str]) -> str:
    """With values in its gaps, and a capital at its beginning."""
    filled = text.format_map(values)
    return filled[:1].upper() + filled[1:]


def _key(fact: JsonObject) -> str:
    """The gap of an answer that its question has not."""
    known = {name for text in fact["asked"] for name in gaps(text)}
    return next(name for name in gaps(fact["answers"][0]) if name not in known)


def gaps(text: str) -> list[str]:
    """Names of a text's gaps, in their order."""
    return [name for _, name, _, _ in string.Formatter().parse(text) if name]


@functools.cache
def _content() -> JsonObject:
    return packaged_yaml("echox.data.corpora.talk", "talk.yaml")
