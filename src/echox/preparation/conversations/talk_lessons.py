"""Stage "talk_lessons": typed conversations from which stage "instruct" teaches a finished model to hold one.

Small talk, what users tell of themselves and ask for later, what the model cannot know or do (`data.corpora.talk`), and
among them questions with the model's own replies, cut to what can be listened to. All replies of a conversation are
learned, so one about a subject is also a lesson in leaving it.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from pathlib import Path

from echox.config import dump_recipe, recipe
from echox.data.corpora.talk.conversations import Exchange, conversations
from echox.data.corpora.tools.requests import system_prompts
from echox.data.manifest import Dialogue, Turn, read_dialogues, write_dialogues
from echox.data.splits import SPLITS, held_out_share
from echox.preparation.conversations.own_replies import first_exchanges
from echox.preparation.conversations.writer import whole_sentences

_OTHER_SYSTEM = 0.25
"""Share of the lessons of training with another system prompt, or none."""


@recipe("talk_lessons")
@dataclass
class TalkLessonsRecipe:
    """Recipe of stage "talk_lessons" (it has `run`, not `build`).

    Attributes:
        output: manifest to write; split "heldout" is for figures. A conversation's topic is that of its last exchange:
            its kind, "/" and its topic.
        others: manifests of dialogues with the model's own replies (stage "replies").
        count: conversations for training; a twentieth of them for each other split.
        often: how many times as often as others the topics occur that people speak of most.
        system: system prompt that the model is used with.
        max_sentences, max_words: own replies are cut to so many at most; one whose first sentence is longer is left
            out.
        seed: decides all that is drawn.
    """

    stage: str
    output: str
    others: list[str] = field(default_factory=list)
    count: int = 3000
    often: float = 6.0
    system: str = ""
    max_sentences: int = 2
    max_words: int = 30
    seed: int = 0

    def run(self) -> dict[str, float]:
        """Writes the manifest; returns how many dialogues each split has.

        Raises:
            ValueError: a manifest cannot be read.
        """
        rng = random.Random(f"talk lessons {self.seed}")
        found = [dialogue for path in self.others for dialogue in read_dialogues(path)]
        lessons: list[Dialogue] = []
        for split in SPLITS:
            count = self.count if split == "train" else max(1, self.count // 20)
            knowledge = self._knowledge(found, split)
            for number, exchanges in enumerate(conversations(split, count, knowledge, self.seed, self.often)):
                other = split == "train" and rng.random() < _OTHER_SYSTEM
                system = rng.choice(system_prompts()) if other else self.system
                lessons.append(_lesson(f"{split[0]}{number:05d}", system, exchanges, split))
        write_dialogues(self.output, lessons)
        dump_recipe(self, Path(self.output).with_suffix(".yaml"))
        return {split: float(sum(one.split == split for one in lessons)) for split in SPLITS}

    def _knowledge(self, dialogues: list[Dialogue], split: str) -> list[Exchange]:
        """First questions of one split with their replies; every second held-out one is for each other split."""
        found = [
            Exchange(question, reply, "knowledge", dialogue.topic or "none")
            for dialogue, question, whole in first_exchanges(dialogues, split)
            if (reply := whole_sentences(whole, self.max_sentences, self.max_words)) is not None
        ]
        return found if split == "train" else held_out_share(found, split)


def _lesson(name: str, system: str, exchanges: list[Exchange], split: str) -> Dialogue:
    turns = [Turn("system", system)] if system else []
    for one in exchanges:
        turns += [Turn("user", one.said), Turn("assistant", one.reply)]
    return Dialogue(name, tuple(turns), split, topic=f"{exchanges[-1].kind}/{exchanges[-1].topic}")
