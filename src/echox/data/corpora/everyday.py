"""What people ask a voice assistant besides facts: requests, small talk and follow-up questions, as texts.

Source: written for this project (``everyday_requests.yaml``).
"""

from __future__ import annotations

import functools
import random

from echox.data.manifest import Dialogue, Turn
from echox.files import JsonObject, packaged_yaml


def everyday_requests() -> list[Dialogue]:
    """Return every request, one user turn each, in a fixed order; without repetitions."""
    content = _content()
    texts = [
        template.replace(template[template.index("{") : template.index("}") + 1], slot)
        for group in content["requests"]
        for slot in group["slots"]
        for template in group["templates"]
    ]
    texts = list(dict.fromkeys([*content["whole"], *texts]))
    return [
        Dialogue(f"everyday-{number:04d}", (Turn("user", text),), topic="everyday") for number, text in enumerate(texts)
    ]


def invented_topics() -> list[str]:
    """Return what the language model invents questions about."""
    return list(_content()["topics"])


def with_follow_ups(dialogues: list[Dialogue], share: float, rng: random.Random) -> list[Dialogue]:
    """Return the dialogues, about this share of those with one turn followed by one more user turn, or two.

    Args:
        dialogues: of user turns only, which somebody will answer.
        share: from 0 to 1.
        rng: decides which, and what is asked.
    """
    follow_ups = _content()["follow_ups"]
    found = []
    for dialogue in dialogues:
        if len(dialogue.turns) == 1 and rng.random() < share:
            more = tuple(Turn("user", text) for text in rng.sample(follow_ups, 2 if rng.random() < 0.25 else 1))
            dialogue = Dialogue(
                dialogue.id, dialogue.turns + more, dialogue.split, topic=f"{dialogue.topic or 'open'}/follow_up"
            )
        found.append(dialogue)
    return found


@functools.cache
def _content() -> JsonObject:
    return packaged_yaml("echox.data.corpora", "everyday_requests.yaml")
