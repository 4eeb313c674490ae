"""The nano corpus, text side: facts in YAML become dialogues, and dialogues become texts to speak.

The nano model is small enough to train on a laptop, so its knowledge is small too: countries, animals, opposites,
colours, the calendar, times tables, definitions, spelling and small talk. Every fact is asked in many ways (the
paraphrases of ``facts/*.yaml``); some phrasings are kept out of training, to measure whether the model understands
questions or only remembers them. The reply to a fact is always the same sentence, so that greedy answers can be
compared exactly.

Nothing here touches audio: `speech.py` speaks these texts.
"""

from __future__ import annotations

import functools
import random
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from importlib import resources

import yaml

from echox.data.manifest import Dialogue, Turn, without_sealed
from echox.data.numbers import said_number
from echox.data.text import normalize_for_speech
from echox.files import JsonObject

SUBJECTS = ("countries", "animals", "opposites", "colors", "calendar", "times", "definitions", "spelling", "small_talk")
_SLOT = re.compile(r"\{(a )?(\w+)\}")
_VOWELS = "aeiou"
_IMPERATIVES = {"Tell", "Name", "Give", "Say", "Describe", "Explain", "Spell", "Count", "Calculate"}
_IMPERATIVES |= {"Greet", "Welcome", "Introduce", "Wish", "Start", "Begin", "End"}


@dataclass(frozen=True)
class Fact:
    """One fact, with every way to ask for it.

    Attributes:
        topic: Kind of fact ("capital", "times", "small_talk", ...).
        key: What the question is about ("France"); completes a follow-up such as "And what about France?".
        reply: The one reply sentence (or three, for "tell me about ...").
        answer: The part of the reply that must be right ("Paris").
        train: Questions that training may see.
        heldout: Questions that training never sees.
    """

    topic: str
    key: str
    reply: str
    answer: str
    train: tuple[str, ...]
    heldout: tuple[str, ...]


def load_facts() -> list[Fact]:
    """Return every fact of the corpus, in a fixed order."""
    return [fact for subject in SUBJECTS for fact in _facts_of(subject)]


def build_dialogues(
    seed: int = 0, carriers_per_fact: int = 4, multi_turn: int = 1200, with_sealed: bool = False
) -> list[Dialogue]:
    """Return all text dialogues of the corpus.

    Each fact gives one dialogue per training phrasing, ``carriers_per_fact`` more whose question is wrapped in a
    carrier phrase ("Hey Echo, ..."), and one dialogue per held-out phrasing. Besides, ``multi_turn`` dialogues of two
    or three turns ask a second question, half of them as a follow-up that only makes sense after the first ("And what
    about Spain?").

    Args:
        seed: Decides carriers and the pairing of turns; facts and phrasings do not depend on it.
        carriers_per_fact: Extra training dialogues per fact.
        multi_turn: Number of dialogues with several turns (training; a tenth as many are held out).
        with_sealed: Also held-out dialogues that ask a sealed question (`echox.data.sealed`); who needs them says why.

    Returns:
        Dialogues with split "train" or "heldout"; ``answer`` belongs to the last turn.
    """
    rng = random.Random(f"nano dialogues {seed}")
    facts = load_facts()
    dialogues = []
    for number, fact in enumerate(facts):
        name = f"{fact.topic}-{number:04d}"
        questions = list(fact.train) + [with_carrier(rng.choice(fact.train), rng) for _ in range(carriers_per_fact)]
        for index, question in enumerate(dict.fromkeys(questions)):
            dialogues.append(_dialogue(f"{name}-t{index:02d}", [(question, fact)], "train"))
        for index, question in enumerate(fact.heldout):
            dialogues.append(_dialogue(f"{name}-h{index:02d}", [(question, fact)], "heldout"))
    dialogues += _multi_turn(facts, multi_turn, "train", rng)
    dialogues += _multi_turn(facts, multi_turn // 10, "heldout", rng)
    return dialogues if with_sealed else without_sealed(dialogues, "the nano corpus")


def with_carrier(question: str, rng: random.Random) -> str:
    """Wrap a question in a carrier phrase: "What is ...?" becomes "Hey Echo, what is ...?"."""
    carriers = read_facts_file("carriers")
    if rng.random() < 0.25:
        return f"{question[:-1]}, {rng.choice(carriers['suffixes'])}{question[-1]}"
    if question.endswith("?"):
        kind = "question"
    elif question.split()[0] in _IMPERATIVES:
        kind = "imperative"
    else:
        return f"{question[:-1]}, {rng.choice(carriers['suffixes'])}{question[-1]}"
    return sentence(rng.choice(carriers[kind]).replace("{q}", _uncapitalise(question)))


def reply_sentences(dialogues: list[Dialogue]) -> list[str]:
    """Return the distinct sentences of all replies, in order of first appearance."""
    sentences: dict[str, None] = {}
    for dialogue in dialogues:
        for turn in dialogue.turns:
            if turn.role == "assistant" and turn.text:
                sentences.update(dict.fromkeys(split_sentences(turn.text)))
    return list(sentences)


def split_sentences(text: str) -> list[str]:
    """Split at ". ", "? " and "! "; the marks stay."""
    return re.split(r"(?<=[.?!]) ", text)


def spoken_words(texts: list[str]) -> list[str]:
    """Return the sorted distinct words of ``texts`` without punctuation, in their written form.

    A word that also occurs in lower case inside a sentence is listed in lower case only ("The" at the start is "the").
    """
    words = {stripped for text in texts for word in text.split() if (stripped := word.strip(".,?!"))}
    return sorted(word for word in words if not (len(word) > 1 and word != word.lower() and word.lower() in words))


def spliced_fragments(sentences: list[str], rng: random.Random) -> str:
    """Return an unseen utterance: the first words of one reply sentence and the last words of another."""
    first, second = rng.choice(sentences).split(), rng.choice(sentences).split()
    head = first[: rng.randint(1, max(1, min(5, len(first) - 1)))]
    tail = second[-rng.randint(1, max(1, min(5, len(second) - 1))) :]
    head[-1] = head[-1].rstrip(".,?!")
    if rng.random() < 0.3:
        head[-1] += ","
    return " ".join([*head, *tail])


def number_words(number: int) -> str:
    """Spell a number as separate words: 42 is "forty two"."""
    return said_number(number).replace(" and ", " ").replace(",", "")


def _dialogue(name: str, exchanges: list[tuple[str, Fact]], split: str) -> Dialogue:
    turns = []
    for question, fact in exchanges:
        turns += [Turn(role="user", text=question), Turn(role="assistant", text=fact.reply)]
    last = exchanges[-1][1]
    dialogue = Dialogue(id=name, turns=tuple(turns), split=split, answer=last.answer, topic=last.topic)
    return dialogue if len(exchanges) == 1 else replace(dialogue, topic=f"multi_turn/{last.topic}")


def _multi_turn(facts: list[Fact], count: int, split: str, rng: random.Random) -> list[Dialogue]:
    by_topic: dict[str, list[Fact]] = {}
    for fact in facts:
        if fact.key:
            by_topic.setdefault(fact.topic, []).append(fact)
    topics = sorted(by_topic)
    follow_ups = read_facts_file("carriers")["follow_up"][split]
    dialogues = []
    for index in range(count):
        if rng.random() < 0.5:
            first, second = rng.sample(by_topic[rng.choice(topics)], 2)
            question = sentence(rng.choice(follow_ups).replace("{x}", second.key))
        else:
            first, second = rng.sample(facts, 2)
            question = rng.choice(second.train if split == "train" else second.heldout)
        opening = rng.choice(first.train if split == "train" else first.heldout)
        exchanges = [(opening, first), (question, second)]
        if rng.random() < 0.2:
            third = rng.choice(facts)
            exchanges.append((rng.choice(third.train if split == "train" else third.heldout), third))
        dialogues.append(_dialogue(f"multi-{split}-{index:04d}", exchanges, split))
    return dialogues


@functools.cache
def _facts_of(subject: str) -> tuple[Fact, ...]:
    return tuple(_read_facts(subject, read_facts_file(subject)))


def _read_facts(subject: str, data: JsonObject) -> Iterator[Fact]:
    if subject == "small_talk":
        for item in data["items"]:
            yield _fact({"topic": "small_talk", **item}, {}, key="")
        return
    for relation in data["relations"]:
        for slots in _slots(subject, data, relation):
            if not _is_missing(relation, slots):
                yield _fact(relation, slots, key=slots["key"])


def _slots(subject: str, data: JsonObject, relation: JsonObject) -> Iterator[dict[str, str]]:
    """Yield the values that fill the templates of one relation, one dict per fact, with the follow-up key."""
    if subject == "calendar":
        step = 1 if relation["topic"] == "after" else -1
        for kind, items in (("day", data["days"]), ("month", data["months"])):
            for index, item in enumerate(items):
                yield {"kind": kind, "item": item, "next": items[(index + step) % len(items)], "key": item}
    elif subject == "times":
        low, high = (int(bound) for bound in data["range"])
        for a in range(low, high + 1):
            for b in range(low, high + 1):
                left, right = number_words(a), number_words(b)
                yield {"a": left, "b": right, "product": number_words(a * b), "key": f"{left} times {right}"}
    elif subject == "spelling":
        for word in data["words"]:
            yield {"word": word, "letters": ", ".join(word.upper()), "key": word}
    else:
        rows = [dict(zip(data["columns"], row, strict=True)) for row in data["rows"]]
        if data.get("both_directions"):
            rows += [{"word": row["opposite"], "opposite": row["word"]} for row in rows]
        for row in rows:
            key = row[data["columns"][0]]
            yield {**row, "key": _article(key) if subject in ("animals", "definitions") else key}


def _is_missing(relation: JsonObject, slots: Mapping[str, str]) -> bool:
    return any(slots[slot] == "-" for _, slot in _SLOT.findall(relation["reply"]))


def _fact(relation: JsonObject, slots: Mapping[str, str], key: str) -> Fact:
    def fill(template: str) -> str:
        filled = _SLOT.sub(lambda m: _article(slots[m[2]]) if m[1] else slots[m[2]], template)
        filled = normalize_for_speech(filled)  # facts may be written with digits; the corpus holds spoken words
        return " ".join(sentence(part) for part in split_sentences(filled))

    answer = _SLOT.sub(lambda m: slots[m[2]], relation["answer"])
    reply = fill(relation["reply"])
    if answer.lower() not in reply.lower():
        raise ValueError(f"expected the answer inside the reply, found {answer!r} and {reply!r}: correct nano/facts")
    train = tuple(fill(template) for template in relation["train"])
    heldout = tuple(fill(template) for template in relation["heldout"])
    return Fact(relation["topic"], key, reply, answer, train, heldout)


def _article(noun: str) -> str:
    return f"{'an' if noun[0] in _VOWELS else 'a'} {noun}"


def sentence(text: str) -> str:
    """Return ``text`` with a capital letter at its beginning."""
    return text[0].upper() + text[1:]


def _uncapitalise(text: str) -> str:
    """Undo the capital of a sentence start unless the first word is a name or "I"."""
    first = text.split()[0].rstrip(".,?!'s")
    return text if first == "I" or first in _names() else text[0].lower() + text[1:]


@functools.cache
def _names() -> frozenset[str]:
    calendar = read_facts_file("calendar")
    countries = [row[0] for row in read_facts_file("countries")["rows"]]
    names = {word.rstrip("s") for name in countries for word in name.split() if word[0].isupper()}
    return frozenset(names | set(calendar["days"]) | set(calendar["months"]) | {"I", "Echo"})


@functools.cache
def read_facts_file(name: str) -> JsonObject:
    """Return ``facts/<name>.yaml``, every scalar as a string: "yes", "true" and "no" are words here."""
    text = (resources.files("echox.data.corpora.nano") / "facts" / f"{name}.yaml").read_text(encoding="utf-8")
    content: JsonObject = yaml.load(text, Loader=yaml.BaseLoader)
    return content
