"""Stage "talk_head": teach a finished model to tell talk from questions of knowledge, in a minute.

A talk head (`models/turns/talk_head.py`) reads the last turns of lessons of stage "talk_lessons", each behind the reply
before it, and questions of knowledge, some behind a reply of talk. Held-out wordings and questions measure it. Nothing
of the model itself is changed.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence

from echox.api import EchoX
from echox.api.loading import find_model
from echox.config import recipe, to_dict
from echox.data.manifest import Dialogue, read_dialogues
from echox.files import JsonObject
from echox.models.turns.talk_head import TalkHead, talk_inputs
from echox.streaming.engine import Engine
from echox.training.records.record import Stopwatch, stage_record
from echox.training.stages.dialogue.lm import vary
from echox.training.stages.hearing.heads import write_head

NO_TALK = "knowledge"
"""Kind of lessons whose last turn is a question of knowledge."""
_BATCH, _RATE, _DECAY = 64, 2e-3, 0.05
_AFTER_TALK = 0.5  # share of questions that are put behind a reply of talk
_LOWER, _UNPUNCTUATED = 0.3, 0.3  # shares of texts that are varied


@dataclass(frozen=True)
class Said:
    """What a user says, the reply before it ("": none), whether it is talk, and its split."""

    text: str
    reply: str
    talk: bool
    split: str


@recipe("talk_head")
@dataclass
class TalkHeadRecipe:
    """Recipe of this stage (it has `run`, not `build`).

    Attributes:
        model: a model folder, or the name of an embedded model; the head is written into it.
        lessons: manifests of stage "talk_lessons".
        questions: manifests of dialogues whose first turn is a question of knowledge.
        left_out_topics: of these (before a "/"): their questions are talk.
        heldout_share: of the questions, which only measure; the same question always is, or is not.
        steps: of training.
        output: folder of the head; None: the model's own.
    """

    stage: str
    model: str
    lessons: list[str]
    questions: list[str]
    left_out_topics: list[str] = field(default_factory=list)
    heldout_share: float = 0.05
    steps: int = 800
    output: str | None = None
    seed: int = 0

    def run(self) -> JsonObject:
        """Write the head and its record; returns its scores: of each split, the shares of both kinds taken for talk.

        Raises:
            ValueError: no such model, or a manifest cannot be read or holds nothing of one kind for training.
        """
        folder, watch = find_model(self.model), Stopwatch()
        engine = EchoX.from_pretrained(self.model, device="cpu").engine
        rng = random.Random(f"talk head {self.seed}")
        examples = self._examples(rng)
        torch.manual_seed(self.seed)
        head = TalkHead(engine.text_embeds("").shape[1])
        fit(head, engine, [one for one in examples if one.split == "train"], self.steps, rng)
        held_out = [one for one in examples if one.split != "train"]
        scores = {split: measure(head, engine, held_out, split) for split in sorted({one.split for one in held_out})}
        record = stage_record(self.stage, to_dict(self), scores.get("heldout", {}), {"scores": scores}, watch)
        write_head(head, folder if self.output is None else Path(self.output), record)
        return scores

    def _examples(self, rng: random.Random) -> list[Said]:
        lessons = [_last(one) for path in self.lessons for one in read_dialogues(path)]
        replies = [one.reply for one in lessons if one.talk and one.reply] or [""]
        asked = [
            next((turn.text or "" for turn in one.turns if turn.role == "user"), "")
            for path in self.questions
            for one in read_dialogues(path)
            if (one.topic or "").split("/")[0] not in self.left_out_topics
        ]
        questions = [
            Said(text, rng.choice(replies) if rng.random() < _AFTER_TALK else "", False, self._split(text))
            for text in dict.fromkeys(filter(None, asked))
        ]
        for what, found in (("lessons: talk", [one for one in lessons if one.talk]), ("questions", questions)):
            if not any(one.split == "train" for one in found):
                raise ValueError(f"{what}: expected some of split train, found none; name other manifests")
        return lessons + questions

    def _split(self, question: str) -> str:
        return "heldout" if random.Random(f"talk head {question}").random() < self.heldout_share else "train"


def _last(lesson: Dialogue) -> Said:
    """The last turn of a lesson's user."""
    said = [turn.text or "" for turn in lesson.turns if turn.role == "user"]
    replies = [turn.text or "" for turn in lesson.turns if turn.role == "assistant"]
    talk = not (lesson.topic or "").startswith(NO_TALK)
    return Said(said[-1], replies[-2] if len(replies) > 1 else "", talk, lesson.split)


def fit(head: TalkHead, engine: Engine, examples: Sequence[Said], steps: int, rng: random.Random) -> None:
    """Train a head on as many turns of talk as questions."""
    kinds = [[one for one in examples if one.talk is talk] for talk in (True, False)]
    head.scale.copy_(1 / engine.text_embeds(" ".join(one.text for one in examples[:500])).square().mean().sqrt())
    optimizer = torch.optim.AdamW(head.parameters(), _RATE, weight_decay=_DECAY)
    head.train()
    for _ in range(steps):
        rows = [one for kind in kinds for one in rng.choices(kind, k=_BATCH // 2)]
        varied = [vary(one.text, _LOWER, _UNPUNCTUATED, 0.0, rng) or one.text for one in rows]
        logits = head(*_batch(engine, rows, varied))
        loss = F.binary_cross_entropy_with_logits(logits, torch.tensor([float(one.talk) for one in rows]))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    head.eval()


@torch.inference_mode()
def measure(head: TalkHead, engine: Engine, examples: Sequence[Said], split: str) -> dict[str, float]:
    """Of one split: numbers of turns of talk and of questions, and the shares of both that are taken for talk."""
    scores: dict[str, float] = {}
    for name, talk in (("talk", True), ("knowledge", False)):
        rows = [one for one in examples if one.split == split and one.talk is talk]
        parts = [rows[place : place + _BATCH] for place in range(0, len(rows), _BATCH)]
        found = [head(*_batch(engine, part, [one.text for one in part])) >= 0 for part in parts]
        scores[f"{name}_turns"] = len(rows)
        if found:
            scores[f"{name}_taken_for_talk"] = float(torch.cat(found).float().mean())
    return scores


@torch.no_grad()
def _batch(engine: Engine, rows: Sequence[Said], texts: Sequence[str]) -> tuple[Tensor, Tensor]:
    inputs = [
        talk_inputs(engine.text_embeds(row.reply), engine.text_embeds(text))
        for row, text in zip(rows, texts, strict=True)
    ]
    return pad_sequence(inputs, batch_first=True), torch.tensor([len(one) for one in inputs])
