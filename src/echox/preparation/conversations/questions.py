"""Stages "questions" and "invented_questions": what users ask, chosen from corpora or made up by a language model.

Questions of test sets, and what is nearly the same, are left out. Source of the near-duplicate search:
`echox.preparation.duplicates`.
"""

from __future__ import annotations

import hashlib
import json
import logging
import random
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from echox.config import dump_recipe, recipe
from echox.data.corpora.everyday import everyday_requests, invented_topics, with_follow_ups
from echox.data.corpora.nano.world import build_dialogues
from echox.data.manifest import Dialogue, Turn, read_dialogues, write_dialogues
from echox.data.scoring import normalize_words
from echox.data.tables import read_table
from echox.files import journal_entries, open_journal, stamp
from echox.preparation.conversations.writer import ChatWriter, sentences
from echox.preparation.duplicates import NearDuplicates
from echox.preparation.settings import Duplicates

log = logging.getLogger(__name__)

# What a spoken question cannot point at: choices, pictures, blanks.
_NEEDS_MORE = re.compile(
    r"\b(these|following|choose|pictured?|photo|image|clip|shown|lyrics?|quote|anagram|which of|true or false)\b"
    r"|_|\.\.\.|[<>|=/\\#]",
    re.IGNORECASE,
)
_LETTERS = re.compile(r"[A-Za-z]")


@dataclass
class Source:
    """Where some of the questions come from: a manifest, or a corpus that is written in this package.

    Attributes:
        dialogues: manifest, of whose dialogues the user's turns are taken (all splits but "train" are left out).
        corpus: "nano" (its world) or "everyday" (requests and small talk).
        count: how many at most.
        prefix: put before their ids.
        questions_only: leave out what does not end with a question mark or needs more than it says ("Which of these").
    """

    count: int
    dialogues: str | None = None
    corpus: Literal["nano", "everyday"] | None = None
    prefix: str = ""
    questions_only: bool = False

    def __post_init__(self) -> None:
        """Raises: ValueError unless exactly one of `dialogues` and `corpus` is named."""
        if (self.dialogues is None) == (self.corpus is None):
            raise ValueError("sources: expected dialogues or corpus in each, found none or both")

    def read(self) -> list[Dialogue]:
        """All of them, replies included; sealed ones too, since no question of training may be near one."""
        if self.dialogues is not None:
            return read_dialogues(self.dialogues, with_sealed=True)
        return build_dialogues(with_sealed=True) if self.corpus == "nano" else everyday_requests()


@recipe("questions")
@dataclass
class QuestionsRecipe:
    """Recipe of stage "questions" (it has `run`, not `build`).

    Attributes:
        sources: see :class:`Source`.
        output: manifest to write: dialogues of user turns only, in random order, so that every beginning is a mixture.
        exclude: test sets (.jsonl, .csv or .tsv with a column "question", or manifests of dialogues).
        near_threshold: Jaccard index of character 5-grams from which a question counts as one of a test set.
        max_words: of a question.
        follow_ups: share of the dialogues of one turn that get a second one, some a third.
        seed: decides which questions, and their order.
    """

    stage: str
    sources: list[Source]
    output: str
    exclude: list[str] = field(default_factory=list)
    near_threshold: float = 0.75
    max_words: int = 18
    follow_ups: float = 0.1
    seed: int = 0

    def run(self) -> dict[str, float]:
        """Writes the manifest; returns how many of each source, and how many were left out for a test set.

        Raises:
            ValueError: a file of questions is missing or damaged.
        """
        read = [(source, source.read()) for source in self.sources]
        tests = NearDuplicates(Duplicates(self.near_threshold, hashes=128, per_speaker=False))
        held_out = [one for _, found in read for one in found if one.split != "train"]
        known = [text for dialogue in held_out for text in asked(dialogue)]
        for number, text in enumerate([*known, *(text for path in self.exclude for text in _test_questions(path))]):
            tests.keep(str(number), tests.look(text))
        chosen: list[Dialogue] = []
        figures: dict[str, float] = {"excluded": 0.0}
        taken: set[str] = set()
        for source, dialogues in read:
            kept = self._choose(source, dialogues, tests, taken, figures)
            figures[source.prefix or source.corpus or "questions"] = float(len(kept))
            chosen += kept
        rng = random.Random(f"questions {self.seed}")
        rng.shuffle(chosen)
        chosen = with_follow_ups(chosen, self.follow_ups, rng)
        write_dialogues(self.output, chosen)
        dump_recipe(self, Path(self.output).with_suffix(".yaml"))
        figures |= {"dialogues": float(len(chosen)), "turns": float(sum(len(dialogue.turns) for dialogue in chosen))}
        log.info("%s: %s", self.output, figures)
        return figures

    def _choose(
        self,
        source: Source,
        dialogues: list[Dialogue],
        tests: NearDuplicates,
        taken: set[str],
        figures: dict[str, float],
    ) -> list[Dialogue]:
        kept: list[Dialogue] = []
        rng = random.Random(f"questions {self.seed} {source.prefix} {source.corpus}")
        for dialogue in rng.sample(dialogues, len(dialogues)):
            if len(kept) == source.count:
                break
            texts = asked(dialogue)
            key = " ".join(normalize_words(" ".join(texts)))
            good = all(len(text.split()) <= self.max_words for text in texts)
            good = good and (not source.questions_only or all(map(stands_alone, texts)))
            if dialogue.split != "train" or not texts or not good or key in taken:
                continue
            if any(tests.look(text).near is not None for text in texts):
                figures["excluded"] += 1
                continue
            taken.add(key)
            turns = tuple(Turn("user", text) for text in texts)
            kept.append(Dialogue(f"{source.prefix}{dialogue.id}", turns, topic=dialogue.topic))
        return kept


def asked(dialogue: Dialogue) -> list[str]:
    """The user's turns, as sentences begin and with single spaces."""
    texts = [" ".join((turn.text or "").split()) for turn in dialogue.turns if turn.role == "user"]
    return [text[:1].upper() + text[1:] for text in texts]


def stands_alone(text: str) -> bool:
    """Whether a text is one question that can be asked aloud, without choices, a picture or a blank beside it."""
    return (
        text.endswith("?")
        and len(text.split()) >= 3
        and len(sentences(text)) == 1
        and _NEEDS_MORE.search(text) is None
        and len(_LETTERS.findall(text)) >= 0.7 * len(text)
    )


def _test_questions(path: str) -> Iterator[str]:
    """Questions of a test set. Raises ValueError if there are none in the file."""
    found = False
    for row in read_table(path):
        turns = row.get("turns") or [{"role": "user", "text": row.get("question")}]
        for text in (turn.get("text") for turn in turns if turn.get("role") == "user"):
            if not isinstance(text, str) or not text:
                raise ValueError(f"{path}: expected a column 'question' or 'turns', found {', '.join(row)}")
            found = True
            yield text
    if not found:
        raise ValueError(f"{path}: expected questions of a test set, found none; correct exclude")


@recipe("invented_questions")
@dataclass
class InventedQuestionsRecipe:
    """Recipe of stage "invented_questions" (it has `run`, not `build`).

    Attributes:
        language_model: folder of stage "language_model".
        output: manifest to write: dialogues of one user turn.
        per_topic: how many are drawn for each topic of `invented_topics`; those that are no question are left out.
        prompt: what the model is told; "{topic}" is replaced.
        dtype, batch_size, device: see :class:`ChatWriter`.
        max_topics: the first ones only, for tests; null: all.
    """

    stage: str
    language_model: str
    output: str
    per_topic: int = 16
    prompt: str = "Write one short question that somebody may ask about {topic}."
    dtype: Literal["float32", "bfloat16"] = "bfloat16"
    batch_size: int = 64
    device: str = "cpu"
    seed: int = 0
    max_topics: int | None = None

    def run(self) -> dict[str, float]:
        """Writes the manifest; returns how many were drawn and kept. Finished batches are not drawn again."""
        prompts = [self.prompt.format(topic=topic) for topic in invented_topics()[: self.max_topics]]
        prompts = [prompt for prompt in prompts for _ in range(self.per_topic)]
        output = Path(self.output)
        journal = output.with_name(f".{output.stem}_journal.jsonl")
        done = {(row["settings"], row["start"]): row["texts"] for row in journal_entries(journal)}
        settings = [stamp(self.language_model), self.dtype, self.seed]
        writer: ChatWriter | None = None
        texts: list[str] = []
        with open_journal(journal) as entries:
            for start in range(0, len(prompts), self.batch_size):
                batch = prompts[start : start + self.batch_size]
                key = hashlib.sha256(json.dumps([settings, batch]).encode()).hexdigest()[:24]
                part = done.get((key, start))
                if part is None:
                    writer = writer or ChatWriter(self.language_model, self.dtype, self.batch_size, self.device)
                    told = [[{"role": "user", "content": text}] for text in batch]
                    part = writer.write(told, max_new_tokens=24, sampling_seed=self.seed + start)
                    row = {"settings": key, "start": start, "texts": part}
                    entries.write(json.dumps(row, ensure_ascii=False) + "\n")
                    entries.flush()
                texts += part
        questions = [question for text in texts if (question := invented_question(text)) is not None]
        unique = list(dict.fromkeys(questions))
        found = [
            Dialogue(f"invented-{n:04d}", (Turn("user", text),), topic="invented") for n, text in enumerate(unique)
        ]
        write_dialogues(output, found)
        dump_recipe(self, output.with_suffix(".yaml"))
        return {"drawn": float(len(texts)), "kept": float(len(unique))}


def invented_question(text: str) -> str | None:
    """The question in what a model wrote, without quotation marks; None if there is none that stands alone."""
    first = sentences(text.strip().split("\n")[0])[0].strip(" \"'*")
    return first if stands_alone(first) and not set(first) & set(':"') else None
