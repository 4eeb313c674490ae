"""Stage "interjections": a tiny network that tells "stop" from "mm-hmm" by its sound; a minute, most of it speaking.

Words of `data/corpora/interjections.yaml` are spoken by many voices, fast and slow, high and low; hums, coughs and
knocks are made. The detector that the server uses says which stretch it would ask about (`detected_interjection`), and
the network is fitted to that. Wordings marked "heldout" and the new voices only measure.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from echox.config import recipe, to_dict
from echox.data.engines.engine import Voice
from echox.data.scoring import area_under_curve
from echox.data.surroundings import SurroundingsConfig, draw_surroundings
from echox.files import JsonObject, packaged_yaml, write_text
from echox.serving.turn_detection.interjections import TAKES_FLOOR, WEIGHTS_FILE, interjection_features
from echox.serving.turn_detection.vad import Vad, open_vad
from echox.training.records.record import Stopwatch, stage_record
from echox.training.stages.hearing.pauses import alone, cough, cut, detected_interjection, hum, speak

RECORD_FILE = "interjections.json"
_FLOOR, _LISTENING = "floor", "listening"


@recipe("interjections")
@dataclass
class InterjectionsRecipe:
    """Recipe of this stage (it has `run`, not `build`).

    Attributes:
        output: folder for the weights and their record.
        voices: shares of voices in training, by "engine/name".
        new_voices: shares of voices that only measure.
        count: words, hums and coughs in training; a third as many measure.
        hum_share, cough_share: of those that are no interruption.
        far_share: heard in a room, in noise or over a telephone.
        hidden: units of the network. steps: of training. decay: of its weights.
        vad: voice activity detector (`open_vad`).
        seed: decides everything.
    """

    stage: str
    output: str
    voices: dict[str, float]
    new_voices: dict[str, float]
    count: int = 1500
    hum_share: float = 0.3
    cough_share: float = 0.1
    far_share: float = 0.3
    hidden: int = 24
    steps: int = 400
    decay: float = 1e-3
    vad: str = "silero"
    seed: int = 0

    def run(self) -> JsonObject:
        """Write weights and their record; returns the scores of each set.

        Raises:
            ValueError: a voice or a detector is not installed.
        """
        rng, watch = random.Random(f"interjections {self.seed}"), Stopwatch()
        new_vad = open_vad(self.vad)[1]
        words = packaged_yaml("echox.data.corpora", "interjections.yaml")
        sets = {}
        for split, wordings, voices, count in (
            ("train", "train", self.voices, self.count),
            ("new_voices", "train", self.new_voices, self.count // 3),
            ("new_wordings", "heldout", {**self.voices, **self.new_voices}, self.count // 3),
        ):
            texts = {kind: words[kind][wordings] for kind in (_FLOOR, _LISTENING)}
            rows = list(self._examples(texts, voices, count, new_vad(), rng))
            sets[split] = (
                torch.tensor(np.stack([row for row, _ in rows])),
                torch.tensor([float(one) for _, one in rows]),
            )
        network = self._fit(*sets["train"])
        scores = {split: _scores(network, *pairs) for split, pairs in sets.items()}
        folder = Path(self.output)
        folder.mkdir(parents=True, exist_ok=True)
        weights = {name: value.numpy() for name, value in network.state_dict().items()}
        np.savez(
            folder / WEIGHTS_FILE,
            hidden=weights["0.weight"],
            hidden_bias=weights["0.bias"],
            out=weights["2.weight"][0],
            out_bias=weights["2.bias"][0],
        )
        record = stage_record(self.stage, to_dict(self), scores["new_voices"], {"scores": scores}, watch)
        write_text(folder / RECORD_FILE, json.dumps(record, indent=2, ensure_ascii=False) + "\n")
        return scores

    def _examples(
        self, texts: dict[str, list[str]], voices: dict[str, float], count: int, vad: Vad, rng: random.Random
    ) -> Iterator[tuple[np.ndarray, bool]]:
        far = SurroundingsConfig()
        for number in range(count):
            floor = number % 2 == 0
            kind = rng.random()
            if not floor and kind < self.hum_share:
                waveform = hum(rng)
            elif not floor and kind < self.hum_share + self.cough_share:
                waveform = cough(rng)
            else:
                text = rng.choice(texts[_FLOOR if floor else _LISTENING])
                waveform = speak(text, _voice(text, voices, rng))[0]
            waveform = alone(waveform, rng)
            if rng.random() < self.far_share:
                waveform = draw_surroundings(rng, far).apply(waveform, 16000)
            vad.reset()
            asked = detected_interjection(waveform, vad)
            features = None if asked is None else interjection_features(cut(waveform, asked.start_ms, asked.at_ms))
            if features is not None:
                yield features, floor

    def _fit(self, features: Tensor, labels: Tensor) -> nn.Sequential:
        torch.manual_seed(self.seed)
        network = nn.Sequential(nn.Linear(features.shape[1], self.hidden), nn.ReLU(), nn.Linear(self.hidden, 1))
        optimiser = torch.optim.AdamW(network.parameters(), lr=1e-2, weight_decay=self.decay)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, self.steps)
        for _ in range(self.steps):
            noisy = features + 0.05 * torch.randn_like(features)
            loss = F.binary_cross_entropy_with_logits(network(noisy)[:, 0], labels)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
        return network


def _voice(text: str, shares: dict[str, float], rng: random.Random) -> Voice:
    """A voice that can say a text: flite does not read phonemes."""
    able = {name: share for name, share in shares.items() if "[[" not in text or not name.startswith("flite/")}
    (name,) = rng.choices(list(able), list(able.values()))
    return Voice.of_speaker(name, rng.uniform(0.85, 1.25), rng.uniform(0.9, 1.15))


def _scores(network: nn.Sequential, features: Tensor, labels: Tensor) -> JsonObject:
    with torch.inference_mode():
        probabilities = torch.sigmoid(network(features)[:, 0])
    floor, over = labels > 0.5, probabilities >= TAKES_FLOOR
    return {
        "examples": len(labels),
        "auc": round(area_under_curve(probabilities.numpy(), floor.numpy()), 4),
        "interruptions_found": round(float(over[floor].float().mean()), 4),
        "listening_taken_for_one": round(float(over[~floor].float().mean()), 4),
    }
