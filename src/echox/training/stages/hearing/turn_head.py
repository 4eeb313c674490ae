"""Stage "turn_head": teach a finished model to tell a pause inside a sentence from its end; seconds of fitting.

Questions are spoken with a pause after some of their words. The detector that the server uses reports the pauses; the
model hears the speech up to each, as the server lets it, and a logistic unit is fitted to its states
(`models/echox/turn_head.py`): does more follow? Held-out wordings and other voices calibrate the probability and
measure it. Nothing of the model itself is changed.
"""

from __future__ import annotations

import json
import logging
import random
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from echox.api import EchoX
from echox.api.loading import find_model
from echox.config import recipe
from echox.data.corpora.everyday import everyday_requests
from echox.data.corpora.nano.world import build_dialogues
from echox.data.engines.engine import Voice
from echox.data.manifest import Dialogue, Turn, read_dialogues
from echox.data.pauses import cut, detected_pauses, speak_with_pause
from echox.data.scoring import area_under_curve, normalize_words
from echox.files import JsonObject, write_tensors, write_text
from echox.models.echox.turn_head import TURN_HEAD_FILE, TurnHead
from echox.serving.turn_detection.vad import SAMPLING_RATE, Vad, open_vad
from echox.streaming.messages import Audio, Message

log = logging.getLogger(__name__)
SCORES_FILE = "turn_head.json"
_CORPORA = {"nano": build_dialogues, "everyday": everyday_requests}


@dataclass
class TurnTexts:
    """Which questions.

    Attributes:
        corpora: number of questions from "nano" (its world) and "everyday".
        dialogues: number of questions from manifests of dialogues, by path.
        heldout_share: of those without a split: wordings that only calibrate and measure.
    """

    corpora: dict[str, int] = field(default_factory=dict)
    dialogues: dict[str, int] = field(default_factory=dict)
    heldout_share: float = 0.25

    def __post_init__(self) -> None:
        """Raises: ValueError for an unknown corpus, or if there are no questions."""
        if unknown := sorted(self.corpora.keys() - _CORPORA.keys()):
            raise ValueError(f"texts.corpora: expected {' or '.join(_CORPORA)}, found {', '.join(unknown)}")
        if not (self.corpora or self.dialogues):
            raise ValueError("texts: expected corpora or dialogues, found none")


@recipe("turn_head")
@dataclass
class TurnHeadRecipe:
    """Recipe of this stage (it has `run`, not `build`).

    Attributes:
        model: a model folder, or the name of an embedded model; the head is written into it.
        texts: what is spoken.
        voices: shares of voices in training, by "engine/name".
        new_voices: shares of voices that only measure.
        pauses: of each question, at most.
        history_share: questions asked after another one, where the corpus has replies.
        decay: of the weights (L2), relative to the loss.
        vad: voice activity detector (`open_vad`).
        output: folder of the head; None: the model's own.
    """

    stage: str
    model: str
    texts: TurnTexts
    voices: dict[str, float]
    new_voices: dict[str, float]
    pauses: int = 1
    history_share: float = 0.25
    decay: float = 0.2
    vad: str = "silero"
    output: str | None = None
    seed: int = 0

    def run(self) -> JsonObject:
        """Write the head and its scores; returns them.

        Raises:
            ValueError: no such model, or a part of the recipe does not fit.
        """
        folder = find_model(self.model)
        rng = random.Random(f"turn head {self.seed}")
        collector = _Collector(EchoX.from_pretrained(self.model, device="cpu"), open_vad(self.vad)[1])
        table = _Table.of(self._pause_rows(collector, rng))
        weight, bias = fit(table.where("train"), self.decay)
        scale, shift = calibrate(table.where("calibrate"), weight, bias)
        weight, bias = weight * scale, bias * scale + shift
        scores = {split: table.where(split).scores(weight, bias) for split in ("calibrate", "test")}
        head = TurnHead(weight, bias)
        output = folder if self.output is None else Path(self.output)
        output.mkdir(parents=True, exist_ok=True)
        write_tensors(output / TURN_HEAD_FILE, head.tensors())
        write_text(output / SCORES_FILE, json.dumps(scores, indent=2) + "\n")
        return scores

    # ------------------------------------------------------------------------------------------ examples

    def _pause_rows(self, collector: _Collector, rng: random.Random) -> Iterator[_Row]:
        corpora = {name: _CORPORA[name]() for name in self.texts.corpora}
        chosen = list(self._chosen(corpora, rng))
        asked = [one for dialogues in corpora.values() for one in dialogues] + [one for one, _ in chosen]
        known = {_key(turn.text or "") for one in asked for turn in one.turns if turn.role == "user"}
        vad = collector.new_vad()
        voices = {"train": self.voices, "test": self.new_voices, "calibrate": {**self.voices, **self.new_voices}}
        for number, (dialogue, split) in enumerate(chosen):
            text = dialogue.turns[-1].text or ""
            places = pause_places(text, known)
            cuts = [(one, rng.uniform(0.3, 0.6)) for one in sorted(rng.sample(places, min(len(places), self.pauses)))]
            speech = speak_with_pause(text, _voice(voices[split], rng), cuts, rng)
            history = [Message(turn.role, (turn.text or "",)) for turn in dialogue.turns[:-1]]
            vad.reset()
            for pause in detected_pauses(speech, vad):
                found = collector.hear(cut(speech.waveform, pause.start_ms, pause.at_ms), history)
                if found is not None:
                    yield _Row(split, found, pause.complete)
            if number % 200 == 199:
                log.info("%d of %d questions were heard", number + 1, len(chosen))

    def _chosen(self, corpora: Mapping[str, list[Dialogue]], rng: random.Random) -> Iterator[tuple[Dialogue, str]]:
        sources = [(corpora[name], count) for name, count in self.texts.corpora.items()]
        sources += [(read_dialogues(path), count) for path, count in self.texts.dialogues.items()]
        for dialogues, count in sources:
            asked = [one for one in map(_until_question, dialogues) if one is not None]
            replied = [one for one in dialogues if len(one.turns) == 2 and one.turns[1].text]
            for dialogue in rng.sample(asked, min(count, len(asked))):
                split = split_of(dialogue, self.texts.heldout_share, self.seed)
                if len(dialogue.turns) == 1 and replied and rng.random() < self.history_share:
                    dialogue = Dialogue(dialogue.id, rng.choice(replied).turns + dialogue.turns, dialogue.split)
                yield dialogue, split


def pause_places(text: str, known: Collection[str]) -> list[int]:
    """Numbers of words after which a pause leaves a text incomplete.

    A beginning that is a question of its own says nothing, and neither does one that ends a sentence.

    Args:
        text: a question.
        known: questions, without punctuation (`normalize_words`).
    """
    words = text.split()
    return [n for n in range(1, len(words)) if words[n - 1][-1] not in ".?!" and _key(" ".join(words[:n])) not in known]


def split_of(dialogue: Dialogue, heldout_share: float, seed: int) -> str:
    """What a dialogue is for: "train", "calibrate" or "test". It depends on its last question alone.

    Args:
        dialogue: that ends with a question.
        heldout_share: of those that are not held out by their corpus.
        seed: another one divides them in another way.
    """
    draw = random.Random(f"{seed} {dialogue.turns[-1].text}").random()
    if dialogue.split == "train" and draw >= heldout_share:
        return "train"
    return "calibrate" if draw < heldout_share / 2 or draw > 0.6 else "test"


def _until_question(dialogue: Dialogue) -> Dialogue | None:
    """A dialogue up to its last question, which has two words or more; None: there is none."""
    turns = list(dialogue.turns)
    while turns and turns[-1].role != "user":
        turns.pop()
    if not turns or len((turns[-1].text or "").split()) < 2:
        return None
    return Dialogue(dialogue.id, tuple(Turn(one.role, one.text) for one in turns), dialogue.split)


def _key(text: str) -> str:
    return " ".join(normalize_words(text))


def _voice(shares: dict[str, float], rng: random.Random) -> Voice:
    (name,) = rng.choices(list(shares), list(shares.values()))
    return Voice.of_speaker(name, rng.uniform(0.85, 1.15), rng.uniform(0.92, 1.08))


# ---------------------------------------------------------------------------------------------- features


@dataclass(frozen=True)
class _Row:
    split: str
    features: Tensor
    label: bool


class _Collector:
    """Lets the model hear speech as the server does, and keeps the features that its head would get."""

    def __init__(self, model: EchoX, new_vad: Callable[[], Vad]) -> None:
        self._model, self.new_vad = model, new_vad
        self._last: Tensor | None = None
        model.engine.turn_head = self._take

    def _take(self, features: Tensor) -> float:
        self._last = features.clone()
        return 0.0

    def hear(self, samples: np.ndarray, history: Sequence[Message]) -> Tensor | None:
        """Features (D,) of speech (S,) at 16 kHz after a history; None: the model hears nothing in it."""
        session = self._model.session()
        session.messages = list(history)
        self._last = None
        try:
            list(session.judge([Message("user", (Audio(samples, SAMPLING_RATE),))]))
        except ValueError as error:  # a part of a word may be no word to the model
            log.info("left out: %s", error)
        return self._last


@dataclass(frozen=True)
class _Table:
    splits: list[str]
    features: Tensor
    labels: Tensor

    @classmethod
    def of(cls, rows: Iterator[_Row]) -> _Table:
        found = list(rows)
        if not found:
            raise ValueError("expected speech with pauses, found none; name more texts")
        labels = torch.tensor([float(row.label) for row in found])
        return cls([row.split for row in found], torch.stack([row.features for row in found]), labels)

    def where(self, split: str) -> _Table:
        keep = [index for index, one in enumerate(self.splits) if one == split]
        if not keep:
            raise ValueError(f"expected examples for {split!r}, found none; name more texts")
        return _Table([split] * len(keep), self.features[keep], self.labels[keep])

    def scores(self, weight: Tensor, bias: Tensor) -> JsonObject:
        """How well the labels are told apart."""
        logits, positive = self.features @ weight + bias, self.labels > 0.5
        probabilities = torch.sigmoid(logits)
        found: JsonObject = {
            "examples": len(logits),
            "auc": round(area_under_curve(logits.numpy(), positive.numpy()), 4),
            "right": round(float(((logits > 0) == positive).float().mean()), 4),
            "brier": round(float((probabilities - self.labels).square().mean()), 4),
        }
        for sure in (0.7, 0.9, 0.97):
            over = probabilities >= sure
            found[f"found_at_{sure}"] = round(float(over[positive].float().mean()), 4)
            found[f"false_at_{sure}"] = round(float(over[~positive].float().mean()), 4)
        return found


# ---------------------------------------------------------------------------------------------- fitting


def fit(table: _Table, decay: float) -> tuple[Tensor, Tensor]:
    """Weight (D,) and bias () of a logistic unit; both labels weigh the same."""
    mean, std = table.features.mean(0), table.features.std(0).clamp_min(1e-4)
    inputs = (table.features - mean) / std
    share = table.labels.mean()
    weights = torch.where(table.labels > 0.5, 0.5 / share, 0.5 / (1 - share))
    weight, bias = torch.zeros(inputs.shape[1], requires_grad=True), torch.zeros((), requires_grad=True)
    optimiser = torch.optim.LBFGS([weight, bias], max_iter=200, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimiser.zero_grad()
        value = F.binary_cross_entropy_with_logits(inputs @ weight + bias, table.labels, weights)
        value = value + decay * weight.square().sum()
        value.backward()
        return value

    optimiser.step(loss)  # type: ignore[no-untyped-call]
    weight, bias = weight.detach() / std, bias.detach()
    return weight, bias - mean @ weight


def calibrate(table: _Table, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    """Scale and shift of the logits that fit speech which was not trained on.

    Source: Platt 1999, "Probabilistic outputs for support vector machines".
    """
    logits = table.features @ weight + bias
    scale, shift = torch.ones((), requires_grad=True), torch.zeros((), requires_grad=True)
    optimiser = torch.optim.LBFGS([scale, shift], max_iter=100, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimiser.zero_grad()
        value = F.binary_cross_entropy_with_logits(logits * scale + shift, table.labels)
        value.backward()
        return value

    optimiser.step(loss)  # type: ignore[no-untyped-call]
    return scale.detach().clamp(1e-4, 2.0), shift.detach()
