"""Stage "turn_head": teach a finished model to tell a pause inside a sentence from its end, in minutes.

A turn head (`models/turns/turn_head.py`) first reads questions cut at every word, as they might be heard
(`heard_texts.py`). Then it also reads speech: questions are spoken with a pause after some of their words, the detector
that the server uses reports the pauses, and the model hears the speech up to each, as the server lets it. What is read
are inputs of the language model, or its states. Held-out wordings, in those and in other voices, calibrate the
probability and measure it. Nothing of the model itself is changed.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence

from echox.api import EchoX
from echox.api.loading import find_model
from echox.config import recipe, to_dict
from echox.data.corpora.everyday import everyday_requests
from echox.data.corpora.nano.world import build_dialogues
from echox.data.corpora.talk.conversations import said_in_talk
from echox.data.engines.engine import Voice
from echox.data.manifest import Dialogue, Turn, read_dialogues
from echox.data.scoring import area_under_curve
from echox.files import JsonObject
from echox.models.turns.turn_head import TurnHead
from echox.serving.turn_detection.vad import SAMPLING_RATE, Vad, open_vad
from echox.streaming.prompt.messages import Audio, Message
from echox.training.records.record import Stopwatch, stage_record
from echox.training.stages.hearing.heads import write_head
from echox.training.stages.hearing.heard_texts import (
    NOISE,
    CutText,
    HeardTexts,
    cut_texts,
    key,
    pause_places,
    without_address,
)
from echox.training.stages.hearing.pauses import cut, detected_pauses, speak_with_pause

log = logging.getLogger(__name__)
_CORPORA = {"nano": build_dialogues, "everyday": everyday_requests, "talk": said_in_talk}
INPUTS, STATES = "inputs", "states"
"""What a head reads of the language model."""
_LEAST_LEFT_S = 0.35  # less of a question is the rest of its last sound
_BATCH, _RATE = 128, 3e-3
_FIRST_STEPS, _FIRST_TEXT_SHARE = 0.2, 0.9  # share of the steps that read nearly only texts
_STATES_NOISE = 0.1  # of the embeddings of texts, relative to them, of which there are states


@dataclass
class TurnTexts:
    """Which questions.

    Attributes:
        corpora: number of questions from "nano" (its world), "everyday", and "talk" (what is said in conversations).
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
        reads: "inputs" of the language model, or its "states", which know the language and take some tokens' time.
        read_texts: with states: number of texts, complete and cut, of which there are some.
        pauses: of each question, at most.
        steps: of training.
        text_share: of the examples that are texts, when speech is read too.
        noise: at most so much is in what is read again and again, relative to it.
        dropout: in training.
        vad: voice activity detector (`open_vad`).
        output: folder of the head; None: the model's own.
    """

    stage: str
    model: str
    texts: TurnTexts
    voices: dict[str, float]
    new_voices: dict[str, float]
    reads: str = INPUTS
    read_texts: int = 8000
    pauses: int = 1
    steps: int = 1500
    text_share: float = 0.4
    noise: float = 0.4
    dropout: float = 0.2
    vad: str = "silero"
    output: str | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        """Raises: ValueError if it reads something else."""
        if self.reads not in (INPUTS, STATES):
            raise ValueError(f"reads: expected {INPUTS} or {STATES}, found {self.reads!r}")

    def run(self) -> JsonObject:
        """Write the head and its record; returns its scores.

        Raises:
            ValueError: no such model, or a part of the recipe does not fit.
        """
        folder, watch = find_model(self.model), Stopwatch()
        rng = random.Random(f"turn head {self.seed}")
        of_states = self.reads == STATES
        collector = _Collector(EchoX.from_pretrained(self.model, device="cpu"), open_vad(self.vad)[1], of_states)
        corpora = {name: _CORPORA[name]() for name in self.texts.corpora}
        corpora |= {path: read_dialogues(path) for path in self.texts.dialogues}
        asked = {name: [one for one in map(_until_question, found) if one] for name, found in corpora.items()}
        texts = [(one.turns[-1].text or "", self._split(one)) for found in asked.values() for one in found]
        known = {key(one) for text, _ in texts for one in (text, without_address(text))}
        rows = list(self._rows(collector, self._chosen(asked, rng), known, rng))
        to_read = cut_texts((text for text, split in texts if split == "train"), known)
        torch.manual_seed(self.seed)
        head = TurnHead(collector.width, dropout=self.dropout, reads_states=of_states)
        text_rows = TextRows(to_read, collector.heard_texts(rng), self.read_texts if of_states else None, rng)
        fit(head, _of(rows, "train"), text_rows, self.steps, self.text_share, self.noise, rng)
        calibrate(head, _of(rows, "calibrate"))
        scores = {split: measure(head, _of(rows, split)) for split in ("calibrate", "test")}
        record = stage_record(self.stage, to_dict(self), scores["test"], {"scores": scores}, watch)
        write_head(head, folder if self.output is None else Path(self.output), record)
        return scores

    def _split(self, dialogue: Dialogue) -> str:
        return split_of(dialogue, self.texts.heldout_share, self.seed)

    def _chosen(self, asked: Mapping[str, list[Dialogue]], rng: random.Random) -> list[Dialogue]:
        counts = {**self.texts.corpora, **self.texts.dialogues}
        return [one for name, found in asked.items() for one in rng.sample(found, min(counts[name], len(found)))]

    def _rows(
        self, collector: _Collector, chosen: Sequence[Dialogue], known: set[str], rng: random.Random
    ) -> Iterator[Row]:
        """Speech up to a pause, of each pause that the detector reports."""
        vad = collector.new_vad()
        voices = {"train": self.voices, "test": self.new_voices, "calibrate": {**self.voices, **self.new_voices}}
        for number, dialogue in enumerate(chosen):
            text, split = dialogue.turns[-1].text or "", self._split(dialogue)
            places = pause_places(text, known)
            cuts = [(one, rng.uniform(0.3, 0.6)) for one in sorted(rng.sample(places, min(len(places), self.pauses)))]
            speech = speak_with_pause(text, _voice(voices[split], rng), cuts, rng)
            addressed = without_address(text) != text.rstrip(".?!")
            vad.reset()
            for pause in detected_pauses(speech, vad):
                # The last sound of a word, or a "please", may follow a question that is complete.
                unclear = not pause.complete and (addressed or pause.left_s < _LEAST_LEFT_S)
                inputs = None if unclear else collector.hear(cut(speech.waveform, pause.start_ms, pause.at_ms))
                if inputs is not None:
                    yield Row(split, inputs, pause.complete)
            if number % 200 == 199:
                log.info("%d of %d questions were heard", number + 1, len(chosen))


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


def _voice(shares: dict[str, float], rng: random.Random) -> Voice:
    (name,) = rng.choices(list(shares), list(shares.values()))
    return Voice.of_speaker(name, rng.uniform(0.85, 1.15), rng.uniform(0.92, 1.08))


# ---------------------------------------------------------------------------------------------- examples


@dataclass(frozen=True)
class Row:
    """Inputs (K, H + 1) of a turn head for speech up to a pause, or for a text; ``complete``: nothing follows."""

    split: str
    inputs: Tensor
    complete: bool


def _of(rows: Sequence[Row], split: str) -> list[Row]:
    found = [row for row in rows if row.split == split]
    if not found:
        raise ValueError(f"expected speech with pauses for {split!r}, found none; name more texts")
    return found


class _Collector:
    """Lets the model hear speech as the server does, and keeps what its head would get."""

    def __init__(self, model: EchoX, new_vad: Callable[[], Vad], of_states: bool) -> None:
        self._model, self.new_vad = model, new_vad
        self._last: Tensor | None = None
        model.engine.turn_head, model.engine.turn_states = self._take, of_states

    @property
    def width(self) -> int:
        """H of the language model."""
        return int(self._model.model.s2t.config.hidden_size)

    def _take(self, inputs: Tensor) -> float:
        self._last = inputs.clone()
        return 0.0

    def hear(self, samples: np.ndarray) -> Tensor | None:
        """Inputs of a turn head for speech (S,) at 16 kHz; None: the model hears nothing in it."""
        self._last = None
        try:
            list(self._model.session().judge([Message("user", (Audio(samples, SAMPLING_RATE),))]))
        except ValueError as error:  # a part of a word may be no word to the model
            log.info("left out: %s", error)
        return self._last

    def heard_texts(self, rng: random.Random) -> HeardTexts:
        """What makes the same of texts."""
        engine = self._model.engine
        embeddings = self._model.model.s2t.language_model.get_input_embeddings().weight.detach().float()
        return HeardTexts(
            engine.tokenize,
            lambda token: str(engine.tokenizer.decode([token])),
            embeddings,
            rng,
            _STATES_NOISE if engine.turn_states else NOISE,
            engine.turn_inputs,
        )


class TextRows:
    """What a head reads of texts, as many complete ones as others.

    Args:
        texts: of which some are drawn.
        heard: makes what is read of each.
        count: so many are made once, since it takes time, and drawn again and again; None: each is made anew.
        rng: draws.
    """

    def __init__(self, texts: Sequence[CutText], heard: HeardTexts, count: int | None, rng: random.Random) -> None:
        self._heard, self._rng = heard, rng
        self._texts = {label: [one for one in texts if one.complete is label] for label in (True, False)}
        self._made: dict[bool, list[Row]] | None = None
        if count is not None:
            self._made = {
                label: [self._new(one) for one in rng.sample(found, min(len(found), count // 2))]
                for label, found in self._texts.items()
            }

    def draw(self, blurred: float) -> Row:
        """One; ``blurred``: most noise in what was read before."""
        complete = self._rng.random() < 0.5
        if self._made is None:
            return self._new(self._rng.choice(self._texts[complete]))
        return _blurred(self._rng.choice(self._made[complete]), blurred, self._rng)

    def _new(self, text: CutText) -> Row:
        return Row("train", self._heard(text.text), text.complete)


# ---------------------------------------------------------------------------------------------- fitting


def fit(
    head: TurnHead,
    rows: Sequence[Row],
    texts: TextRows,
    steps: int,
    text_share: float,
    noise: float,
    rng: random.Random,
) -> None:
    """Train a turn head: first nearly on texts alone, then on texts and speech.

    Args:
        head: to be trained.
        rows: speech.
        texts: read besides.
        steps: of `_BATCH` examples.
        text_share: of the examples, after the first steps.
        noise: in what is read again and again, at most, relative to it.
        rng: chooses examples.
    """
    head.scale.copy_(1.0 / torch.cat([row.inputs[:, :-1] for row in rows]).square().mean().sqrt())
    optimizer = torch.optim.AdamW(head.parameters(), lr=_RATE, weight_decay=0.01)
    warm, decaying = 50, 0.7 * steps
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min(1.0, (step + 1) / warm, (steps - step) / decaying)
    )
    head.train()
    for step in range(steps):
        num_texts = round(_BATCH * (_FIRST_TEXT_SHARE if step < _FIRST_STEPS * steps else text_share))
        blurred = (noise / head.scale).item()
        batch = [texts.draw(blurred) for _ in range(num_texts)]
        batch += [_blurred(row, blurred, rng) for row in rng.choices(rows, k=_BATCH - num_texts)]
        labels = torch.tensor([float(row.complete) for row in batch])
        loss = F.binary_cross_entropy_with_logits(_logits(head, [row.inputs for row in batch]), labels)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(head.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step % 100 == 99:
            log.info("step %d of %d: loss %.3f", step + 1, steps, loss.item())
    head.eval()


def _blurred(row: Row, most: float, rng: random.Random) -> Row:
    """With noise, at most so much, in what is read; the times stay."""
    read, times = row.inputs[:, :-1], row.inputs[:, -1:]
    return replace(row, inputs=torch.cat([read + most * rng.random() * torch.randn_like(read), times], dim=1))


def _logits(head: TurnHead, inputs: Sequence[Tensor]) -> Tensor:
    return head(pad_sequence(list(inputs), batch_first=True), torch.tensor([len(one) for one in inputs]))


@torch.no_grad()
def _answers(head: TurnHead, rows: Sequence[Row]) -> tuple[Tensor, Tensor]:
    """Log odds and labels (N,)."""
    logits = torch.cat([_logits(head, [row.inputs for row in rows[at : at + 256]]) for at in range(0, len(rows), 256)])
    return logits, torch.tensor([float(row.complete) for row in rows])


def calibrate(head: TurnHead, rows: Sequence[Row]) -> None:
    """Scale and shift the log odds so that they fit speech which was not trained on.

    Source: Platt 1999, "Probabilistic outputs for support vector machines".
    """
    logits, labels = _answers(head, rows)
    scale, shift = torch.ones((), requires_grad=True), torch.zeros((), requires_grad=True)
    optimiser = torch.optim.LBFGS([scale, shift], max_iter=100, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimiser.zero_grad()
        value = F.binary_cross_entropy_with_logits(logits * scale + shift, labels)
        value.backward()
        return value

    optimiser.step(loss)  # type: ignore[no-untyped-call]
    head.calibrate(scale.detach().clamp(1e-4, 2.0), shift.detach())


def measure(head: TurnHead, rows: Sequence[Row]) -> JsonObject:
    """How well the labels are told apart; ``found_at_``, ``false_at_``: shares taken for ends from a probability on."""
    logits, labels = _answers(head, rows)
    probabilities, positive = torch.sigmoid(logits), labels > 0.5
    found: JsonObject = {
        "examples": len(logits),
        "auc": round(area_under_curve(logits.numpy(), positive.numpy()), 4),
        "right": round(float(((logits > 0) == positive).float().mean()), 4),
        "brier": round(float((probabilities - labels).square().mean()), 4),
    }
    for sure in (0.7, 0.9, 0.95, 0.97):
        over = probabilities >= sure
        found[f"found_at_{sure}"] = round(float(over[positive].float().mean()), 4)
        found[f"false_at_{sure}"] = round(float(over[~positive].float().mean()), 4)
    return found
