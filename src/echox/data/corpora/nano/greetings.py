"""Greetings of the nano corpus: requests to greet, typed and spoken, and standing instructions before a question.

A server that is asked for a reply before the user has said anything gives the model its instructions ("Say hello.") as
system prompt and as question. So every request to greet occurs three times: alone, under itself as system prompt, and
under another one; some occur a fourth time, in a conversation that has begun. More requests for training are put
together of patterns. Other questions and instructions under system prompts show that these change nothing.

These dialogues are a part of their own, with their own randomness: the rest of the corpus is the same with and without
them. `recipes/nano/greetings.yaml` trains on them.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterable

from echox.data.corpora.nano import world
from echox.data.manifest import Dialogue, Turn
from echox.files import JsonObject

TOPIC = "greeting"
OTHERS = "others"
"""Topic of instructions that ask for something that nano does not know: the reply says what it knows."""
_CARRIERS = 2
"""Training dialogues of each request in a carrier phrase ("Please say hello.")."""
_QUESTIONS = {"train": 600, "validation": 60, "heldout": 120}
"""Questions about other facts under a system prompt, by split; half as many are system prompt and question at once."""
_LATER = {"train": 200, "validation": 20, "heldout": 40}
"""Requests to greet in a conversation that has begun, by split."""
_SLOT = re.compile(r"\{(\w+)\}")


def build_greetings(seed: int = 0) -> list[Dialogue]:
    """Return the dialogues of this part, all texts.

    Args:
        seed: decides which system prompts and carrier phrases come with which request, and how patterns are filled; the
            requests of validation and held-out do not depend on it.

    Returns:
        Dialogues with split "train", "validation" or "heldout", whose last turn is the reply. Topics: "greeting"
        (the request alone), "greeting/instructions" (also as system prompt), "greeting/system" (under another system
        prompt), "greeting/later" (instructions after a first exchange), "system" (a question about another fact under a
        system prompt), "instructions" (such a question, also as system prompt), and "others", "others/instructions",
        "others/system" (instructions that nano cannot follow).
    """
    rng = random.Random(f"nano greetings {seed}")
    content = world.read_facts_file("greetings")
    prompts: dict[str, list[str]] = content["system"]
    kept_out = {
        text.lower() for item in content["items"] for split in ("validation", "heldout") for text in item[split]
    }
    dialogues: list[Dialogue] = []
    for number, item in enumerate(content["items"]):
        for split in prompts:
            for index, written in enumerate(item[split]):
                name = f"{TOPIC}-{number:02d}-{split[0]}{index:03d}"
                request, reply = world.sentence(written), _sentences(item["reply"])
                variants = [("", TOPIC, None, request), ("-i", f"{TOPIC}/instructions", request, request)]
                variants += [("-s", f"{TOPIC}/system", rng.choice(prompts[split]), request)]
                if split == "train":
                    for place in range(_CARRIERS):
                        variants += [(f"-c{place}", TOPIC, None, _reworded(request, kept_out, rng))]
                    variants += [("-l", TOPIC, None, request.lower().rstrip(".?"))]
                dialogues += [
                    _dialogue(name + suffix, split, topic, system, question, reply, item["answer"])
                    for suffix, topic, system, question in variants
                ]
    # Instructions that ask for nothing are answered by a greeting.
    hello = content["items"][0]
    asked = {turn.text for dialogue in dialogues for turn in dialogue.turns if turn.role == "user"}
    for split in prompts:
        for index, prompt in enumerate(one for one in prompts[split] if one not in asked):
            name, reply = f"{TOPIC}-p-{split[0]}{index:03d}", _sentences(hello["reply"])
            topic = f"{TOPIC}/instructions"
            dialogues.append(_dialogue(name, split, topic, prompt, prompt, reply, hello["answer"]))
    facts = world.load_facts()
    for split, count in _QUESTIONS.items():
        for index in range(count):
            fact = rng.choice(facts)
            question = rng.choice(fact.heldout if split == "heldout" else fact.train)
            system = rng.choice(prompts[split])
            name = f"system-{split[0]}{index:03d}"
            dialogues.append(_dialogue(name, split, "system", system, question, fact.reply, fact.answer))
    dialogues += _made_of_patterns(content, random.Random(f"nano greetings of patterns {seed}"))
    return dialogues + _more(dialogues, facts, random.Random(f"nano greetings later {seed}"))


def spoken_requests(dialogues: Iterable[Dialogue]) -> list[Dialogue]:
    """Those that are spoken: requests alone, as a person says them, without those of patterns."""
    return [
        dialogue
        for dialogue in dialogues
        if dialogue.topic == TOPIC and not dialogue.id.endswith("-l") and "-x" not in dialogue.id
    ]


def _made_of_patterns(content: JsonObject, rng: random.Random) -> list[Dialogue]:
    """`made` training requests of each item that has patterns, with a reply of their own or to what nano cannot do."""
    taken = {text for item in content["items"] for split in content["system"] for text in item[split]}
    others = content[OTHERS]
    taken |= {text for split in ("validation", "heldout") for text in others[split]}
    dialogues = []
    for number, item in enumerate(content["items"]):
        made = _fill(item, content["slots"], taken, rng)
        dialogues += _as_instructions(f"{TOPIC}-{number:02d}-x", TOPIC, "train", made, item, content, rng)
    made = _fill(others, content["slots"], taken, rng)
    dialogues += _as_instructions(f"{OTHERS}-x", OTHERS, "train", made, others, content, rng)
    for split in ("validation", "heldout"):
        dialogues += _as_instructions(f"{OTHERS}-{split[0]}", OTHERS, split, others[split], others, content, rng)
    return dialogues


def _fill(item: JsonObject, slots: JsonObject, taken: set[str], rng: random.Random) -> list[str]:
    """`made` different texts of the item's patterns, none of them `taken`."""
    made: dict[str, None] = {}
    while len(made) < int(item.get("made", 0)):
        text = _SLOT.sub(lambda slot: str(rng.choice(slots[slot[1]])), rng.choice(item["patterns"]))
        if text not in taken:
            made[text] = None
    return list(made)


def _as_instructions(
    name: str, topic: str, split: str, texts: list[str], item: JsonObject, content: JsonObject, rng: random.Random
) -> list[Dialogue]:
    """Each text as instructions, and a second time alone or under another system prompt."""
    dialogues = []
    for index, text in enumerate(texts):
        request, reply = world.sentence(text), _sentences(item["reply"])
        system = rng.choice([None, rng.choice(content["system"][split])])
        second = topic if system is None else f"{topic}/system"
        for suffix, topic_, system_ in (("-i", f"{topic}/instructions", request), ("", second, system)):
            dialogues.append(
                _dialogue(f"{name}{index:03d}{suffix}", split, topic_, system_, request, reply, item["answer"])
            )
    return dialogues


def _more(dialogues: list[Dialogue], facts: list[world.Fact], rng: random.Random) -> list[Dialogue]:
    """Requests as instructions after a first exchange; other questions as system prompt and question at once."""
    more = []
    small_talk = [fact for fact in facts if fact.topic == "small_talk"]
    for split, count in _LATER.items():
        requests = [one for one in dialogues if one.split == split and one.topic == f"{TOPIC}/instructions"]
        for index in range(count):
            request, fact = rng.choice(requests), rng.choice(facts)
            first = rng.choice(fact.heldout if split == "heldout" else fact.train)
            turns = (request.turns[0], Turn("user", text=first), Turn("assistant", text=fact.reply), *request.turns[1:])
            name = f"{TOPIC}-later-{split[0]}{index:03d}"
            more.append(Dialogue(name, turns, split, answer=request.answer, topic=f"{TOPIC}/later"))
    for split, count in _QUESTIONS.items():
        for index in range(count // 2):
            fact = rng.choice(small_talk if index % 2 else facts)
            question = rng.choice(fact.heldout if split == "heldout" else fact.train)
            name = f"instructions-{split[0]}{index:03d}"
            more.append(_dialogue(name, split, "instructions", question, question, fact.reply, fact.answer))
    return more


def _dialogue(
    name: str, split: str, topic: str, system: str | None, question: str, reply: str, answer: str
) -> Dialogue:
    turns = [Turn("system", text=system)] if system is not None else []
    turns += [Turn("user", text=question), Turn("assistant", text=reply)]
    return Dialogue(id=name, turns=tuple(turns), split=split, answer=answer, topic=topic)


def _reworded(request: str, kept_out: set[str], rng: random.Random) -> str:
    """The request in a carrier phrase, which makes it none of validation or held-out."""
    if request.split()[0] == "Please":
        return request
    while (text := world.with_carrier(request, rng)).lower() in kept_out:
        pass
    return text


def _sentences(text: str) -> str:
    return " ".join(world.sentence(part) for part in world.split_sentences(text))
