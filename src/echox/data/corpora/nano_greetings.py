"""Greetings of the nano corpus: requests to greet, typed and spoken, and standing instructions before a question.

A server that is asked for a reply before the user has said anything gives the model its instructions ("Say hello.") as
system prompt and as question. So every request to greet occurs three times: alone, under itself as system prompt, and
under another one. Questions about other facts under system prompts show that these change nothing.

These dialogues are a part of their own, with their own randomness: the rest of the corpus is the same with and without
them. `recipes/nano/greetings.yaml` trains on them.
"""

from __future__ import annotations

import random
from collections.abc import Iterable

from echox.data.corpora import nano
from echox.data.manifest import Dialogue, Turn

TOPIC = "greeting"
_CARRIERS = 2
"""Training dialogues of each request in a carrier phrase ("Please say hello.")."""
_QUESTIONS = {"train": 600, "validation": 60, "heldout": 120}
"""Questions about other facts under a system prompt, by split."""


def build_greetings(seed: int = 0) -> list[Dialogue]:
    """Return the dialogues of this part, all texts.

    Args:
        seed: decides which system prompts and carrier phrases come with which request; requests do not depend on it.

    Returns:
        Dialogues with split "train", "validation" or "heldout", whose last turn is the reply. Topics: "greeting"
        (the request alone), "greeting/instructions" (also as system prompt), "greeting/system" (under another system
        prompt), "system" (a question about another fact under a system prompt).
    """
    rng = random.Random(f"nano greetings {seed}")
    content = nano.read_facts_file("greetings")
    prompts: dict[str, list[str]] = content["system"]
    dialogues: list[Dialogue] = []
    for number, item in enumerate(content["items"]):
        for split in prompts:
            for index, written in enumerate(item[split]):
                name = f"{TOPIC}-{number:02d}-{split[0]}{index:03d}"
                request, reply = nano.sentence(written), _sentences(item["reply"])
                variants = [("", TOPIC, None, request), ("-i", f"{TOPIC}/instructions", request, request)]
                variants += [("-s", f"{TOPIC}/system", rng.choice(prompts[split]), request)]
                if split == "train":
                    variants += [(f"-c{place}", TOPIC, None, _reworded(request, rng)) for place in range(_CARRIERS)]
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
    facts = nano.load_facts()
    for split, count in _QUESTIONS.items():
        for index in range(count):
            fact = rng.choice(facts)
            question = rng.choice(fact.heldout if split == "heldout" else fact.train)
            system = rng.choice(prompts[split])
            name = f"system-{split[0]}{index:03d}"
            dialogues.append(_dialogue(name, split, "system", system, question, fact.reply, fact.answer))
    return dialogues


def spoken_requests(dialogues: Iterable[Dialogue]) -> list[Dialogue]:
    """Those that are spoken: requests alone, as a person says them."""
    return [dialogue for dialogue in dialogues if dialogue.topic == TOPIC and not dialogue.id.endswith("-l")]


def _dialogue(
    name: str, split: str, topic: str, system: str | None, question: str, reply: str, answer: str
) -> Dialogue:
    turns = [Turn("system", text=system)] if system is not None else []
    turns += [Turn("user", text=question), Turn("assistant", text=reply)]
    return Dialogue(id=name, turns=tuple(turns), split=split, answer=answer, topic=topic)


def _reworded(request: str, rng: random.Random) -> str:
    return nano.with_carrier(request, rng) if request.split()[0] != "Please" else request


def _sentences(text: str) -> str:
    return " ".join(nano.sentence(part) for part in nano.split_sentences(text))
