"""Stages "units" and "unit_language": the discrete speech that T2C writes and the vocoder reads.

units: train a small Whisper-shaped encoder on the reply voice to name the phone of each frame, cluster one of its
layers, and write every reply as reduced units. The encoder is not the speech encoder of S2T: in the official system,
too, units come from mHuBERT and the speech encoder is Whisper. Where the corpus has no phone times, phone CTC replaces
the cross-entropy.

unit_language: learn unit words from the training replies and measure them on the held-out ones.

Source: units of EchoX (https://arxiv.org/abs/2509.09174, section 3.2), unit language (https://arxiv.org/abs/2505.15333);
the small encoder is ours.
"""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn
from transformers import WhisperFeatureExtractor

from echox.config import TrainingConfig, recipe, to_dict
from echox.data.features.corpus_features import FeatureStore, feature_store, pad_features
from echox.data.manifest import (
    UnitUtterance,
    Utterance,
    audio_path,
    read_unit_utterances,
    read_utterances,
    write_unit_utterances,
)
from echox.data.sampling import in_chunks
from echox.files import JsonObject
from echox.models.echox.configuration_echox import PHONE_BLANK_ID, whisper_config
from echox.models.echox.ctc import ctc_loss_per_symbol
from echox.models.towers.whisper import WhisperTower
from echox.training.batches.collate import IGNORE_INDEX
from echox.training.batches.normalisation import Denominators, RunningMeans, known_rows, share_of_step
from echox.training.records.record import write_stage_record
from echox.units.extract import (
    UnitExtractor,
    deduplicate,
    hidden_features,
    kmeans,
    squared_distances,
    words_of_units,
)
from echox.units.inventory import read_num_units
from echox.units.language import compression, learn_unit_language, split_by_word
from echox.units.phones import PhoneTimes, frame_phones, lexicon_phones, spoken_phone_times
from echox.units.quality import unit_quality

MEL_FRAMES_PER_UNIT_FRAME = 2


@dataclass
class UnitsData:
    """The speech that units are made from.

    Attributes:
        replies: manifest of the reply voice.
        phone_times: "synthesizer" asks the engine that spoke the replies (flite, Piper); "ctc" needs no times.
        lexicon: ``phones.json``, for "ctc".
        train_items: number of random utterances to train on (one voice needs few); 0 = all. All become units.
        evaluate_items: held-out utterances measured during training.
    """

    replies: str
    phone_times: Literal["synthesizer", "ctc"] = "synthesizer"
    lexicon: str | None = None
    train_items: int = 0
    evaluate_items: int = 120


@dataclass
class UnitEncoderSize:
    """Sizes of the encoder (names as in `WhisperConfig`)."""

    d_model: int = 192
    encoder_layers: int = 4
    encoder_attention_heads: int = 4
    encoder_ffn_dim: int = 768
    num_mel_bins: int = 80
    dropout: float = 0.05
    max_source_positions: int = 1500
    init_std: float = 0.05
    position_scale: float = 0.1


@dataclass
class Clusters:
    """How frames become units.

    Attributes:
        num_units: K. layer: which `hidden_states`; 0 is before the first layer.
        smoothing_frames: width of the average before clustering.
        switch_penalty_ratio: cost of changing the unit, as a multiple of the mean distance to the nearest centroid.
        fit_frames: training frames that k-means reads.
    """

    num_units: int = 200
    layer: int = 3
    smoothing_frames: int = 3
    switch_penalty_ratio: float = 1.0
    fit_frames: int = 200_000
    seed: int = 0


@recipe("units")
@dataclass
class UnitsRecipe:
    """Recipe of stage "units"."""

    stage: str
    data: UnitsData
    training: TrainingConfig
    model: UnitEncoderSize = field(default_factory=UnitEncoderSize)
    clusters: Clusters = field(default_factory=Clusters)

    def build(self) -> UnitsStage:
        """The stage for the loop."""
        return UnitsStage(self)


class PhoneObjective(nn.Module):
    """Encoder and phone head; cross-entropy of the phone of each frame, or CTC on phones.

    Batch: input_features (B, mels, T), input_features_mask (B, T), and phone_labels: (B, F) classes of frames, -100
    where padded, or with ``by_frame`` false (B, N) the phones in order, -100 padded. Class 0 is the CTC blank.
    """

    def __init__(self, encoder: WhisperTower, num_classes: int, by_frame: bool) -> None:
        super().__init__()
        width = encoder.config.d_model
        self.encoder = encoder
        self.by_frame = by_frame
        self.phone_head = nn.Linear(width, num_classes)

    def denominators(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Frames with a label; with CTC, utterances."""
        labels = batch["phone_labels"]
        if not self.by_frame:
            return {"loss": known_rows(labels)}
        frames = (labels != IGNORE_INDEX).sum()
        return {"loss": frames, "phone_accuracy": frames}

    def forward(self, batch: dict[str, Tensor], denominators: Denominators | None = None) -> dict[str, Tensor]:
        """Loss in nats per frame (or per phone), and the fraction of correct frames."""
        output = self.encoder(batch["input_features"], batch["input_features_mask"])
        logits = self.phone_head(output.last_hidden_state).float()
        labels = batch["phone_labels"]
        if not self.by_frame:
            means = {"loss": ctc_loss_per_symbol(logits, output.mask, labels, PHONE_BLANK_ID)}
        else:
            loss = nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=IGNORE_INDEX)
            right = (logits.argmax(-1) == labels).sum() / (labels != IGNORE_INDEX).sum().clamp_min(1)
            means = {"loss": loss, "phone_accuracy": right.detach()}
        return share_of_step(means, self, batch, denominators)


class UnitsStage:
    """Stage "units" for the loop; see the module's text.

    Raises:
        ValueError: If there are no phones; see `spoken_phone_times` and `lexicon_phones`.
    """

    name = "units"

    def __init__(self, resolved: UnitsRecipe) -> None:
        self.recipe = resolved
        manifest = Path(resolved.data.replies)
        self.utterances = read_utterances(manifest)
        self.train_ids, self.heldout_ids = _splits(self.utterances)
        if 0 < resolved.data.train_items < len(self.train_ids):
            drawn = random.Random(resolved.training.seed).sample(self.train_ids, resolved.data.train_items)
            self.train_ids = sorted(drawn)
        self.record_details: JsonObject = {}
        self.by_frame = resolved.data.phone_times == "synthesizer"
        self.times: dict[int, PhoneTimes] = {}
        self.sequences: list[list[str]] = []
        if self.by_frame:
            places = [*self.train_ids, *self.heldout_ids]
            times = spoken_phone_times([self.utterances[place] for place in places], self._cache / "phone_times.jsonl")
            self.times = dict(zip(places, times, strict=True))
            self.phones = sorted({name for row in times for name, _ in row})
        elif resolved.data.lexicon is None:
            raise ValueError("data.lexicon: expected phones.json for data.phone_times: ctc, found none; set it")
        else:
            self.sequences = lexicon_phones(self.utterances, Path(resolved.data.lexicon))
            self.phones = sorted({name for row in self.sequences for name in row})
        self.index = {name: number + 1 for number, name in enumerate(self.phones)}
        sizes = resolved.model
        torch.manual_seed(resolved.training.seed)
        config = whisper_config(**to_dict(sizes))
        self.encoder = WhisperTower(config)
        self.model = self.objective = PhoneObjective(self.encoder, len(self.phones) + 1, self.by_frame)
        self.encoder.embed_positions.requires_grad_(False)
        self.store: FeatureStore = feature_store(
            [audio_path(manifest, item.audio) for item in self.utterances],
            self._cache / "log_mel.npy",
            sizes.num_mel_bins,
        )

    @property
    def _cache(self) -> Path:
        return Path(self.recipe.training.output_dir) / "cache"

    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        """One group of all parameters."""
        return {"encoder": [value for value in self.objective.parameters() if value.requires_grad]}

    def dataset(self) -> Sequence[int]:
        """Places of the training utterances in the manifest."""
        return self.train_ids

    def lengths(self) -> list[int]:
        """Mel frames."""
        return [self.store.frames(place) for place in self.train_ids]

    def collate(self, items: list[int], rng: random.Random) -> dict[str, Tensor]:
        """See `PhoneObjective` for the keys."""
        features, mask = pad_features([_mel(self.store, place) for place in items])
        rows = [torch.from_numpy(self._labels(place)) for place in items]
        labels = nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=IGNORE_INDEX)
        return {"input_features": features, "input_features_mask": mask, "phone_labels": labels}

    def _labels(self, place: int) -> np.ndarray:
        if not self.by_frame:
            return np.asarray([self.index[name] for name in self.sequences[place]], dtype=np.int64)
        return frame_phones(self.times[place], _unit_frames(self.store, place), self.index)

    def evaluate(self) -> dict[str, float]:
        """Phone accuracy (or CTC loss) of held-out frames, and the quality of units from a preliminary clustering."""
        places = self.heldout_ids[: self.recipe.data.evaluate_items]
        running = RunningMeans()
        for chunk in in_chunks(places, 16):
            batch = {name: value.to(self._device) for name, value in self.collate(chunk, random.Random(0)).items()}
            running.add(self.objective(batch), self.objective.denominators(batch))
        extractor = self._cluster(max_frames=60_000)
        return {**running.means(), **self._quality(extractor, places)}

    def save(self, folder: Path) -> None:
        """Writes the extractor, ``phones.json`` (classes) and ``replies.jsonl`` with every reply as units."""
        with torch.autocast(self._device.type, enabled=False):  # units must not depend on the training precision
            extractor = self._cluster(self.recipe.clusters.fit_frames)
            extractor.save_pretrained(folder)
            self.record_details["heldout"] = self._quality(extractor, self.heldout_ids)
            write_unit_utterances(folder / "replies.jsonl", self._as_units(extractor))
        (folder / "phones.json").write_text(json.dumps(self.phones) + "\n", encoding="utf-8")

    @property
    def _device(self) -> torch.device:
        return next(self.objective.parameters()).device

    def _features(self, places: Sequence[int]) -> tuple[Tensor, Tensor]:
        clusters = self.recipe.clusters
        features, mask = pad_features([_mel(self.store, place) for place in places])
        device = self._device
        return hidden_features(
            self.encoder, features.to(device), mask.to(device), clusters.layer, clusters.smoothing_frames
        )

    def _cluster(self, max_frames: int) -> UnitExtractor:
        """K-means over random training utterances with about `max_frames` frames; sets the switch penalty."""
        clusters = self.recipe.clusters
        order = list(self.train_ids)
        random.Random(clusters.seed).shuffle(order)
        chosen: list[int] = []
        frames = 0
        while order and frames < max_frames:
            chosen.append(order.pop())
            frames += _unit_frames(self.store, chosen[-1])
        chosen.sort(key=lambda place: self.store.frames(place))
        rows = []
        for chunk in in_chunks(chosen, 16):
            features, mask = self._features(chunk)
            rows.append(features[mask])
        everything = torch.cat(rows)
        centroids = kmeans(everything, clusters.num_units, clusters.seed)
        mean = torch.cat([squared_distances(part, centroids).amin(-1) for part in everything.split(16384)]).mean()
        self.record_details["clustering"] = {
            "frames": len(everything),
            "explained_variance": 1 - float(mean / everything.var(0, unbiased=False).sum()),
        }
        return UnitExtractor(
            self.encoder,
            WhisperFeatureExtractor(feature_size=self.recipe.model.num_mel_bins),
            centroids,
            clusters.layer,
            clusters.switch_penalty_ratio * float(mean),
            clusters.smoothing_frames,
        )

    def _units(self, extractor: UnitExtractor, places: Sequence[int]) -> list[np.ndarray]:
        """Frame units of utterances, in the order given."""
        order = sorted(range(len(places)), key=lambda i: self.store.frames(places[i]))
        found: dict[int, np.ndarray] = {}
        for chunk in in_chunks(order, 32):
            units = extractor.units_of_features(*self._features([places[i] for i in chunk]))
            found.update(zip(chunk, units, strict=True))
        return [found[i] for i in range(len(places))]

    def _quality(self, extractor: UnitExtractor, places: Sequence[int]) -> dict[str, float]:
        labels = [self._labels(place) for place in places] if self.by_frame else None
        return unit_quality(self._units(extractor, places), labels, extractor.num_units, extractor.frame_rate_hz)

    def _as_units(self, extractor: UnitExtractor) -> list[UnitUtterance]:
        units = self._units(extractor, range(len(self.utterances)))
        return units_manifest(self.utterances, units, extractor.frame_rate_hz)


def units_manifest(
    utterances: Sequence[Utterance], frame_units: Sequence[np.ndarray], frame_rate_hz: float = 50.0
) -> list[UnitUtterance]:
    """Utterances and their frame units as the units manifest; words by `word_ends_s`.

    Raises:
        ValueError: If an utterance has no word ends.
    """
    rows = []
    for item, frames in zip(utterances, frame_units, strict=True):
        if item.word_ends_s is None:
            raise ValueError(f"{item.id}: expected word_ends_s, found none; align the manifest first")
        units, durations = deduplicate(frames)
        words = words_of_units(durations, item.word_ends_s, frame_rate_hz)
        rows.append(
            UnitUtterance(item.id, item.text, tuple(units), tuple(durations), tuple(words), item.split, item.written)
        )
    return rows


def _splits(items: Sequence[Utterance]) -> tuple[list[int], list[int]]:
    """Places of training and held-out items; without a held-out split every 50th item is held
    out.
    """
    heldout = [place for place, item in enumerate(items) if item.split != "train"]
    if not heldout:
        heldout = list(range(0, len(items), 50))
    kept = set(heldout)
    return [place for place in range(len(items)) if place not in kept] or heldout, heldout


def _unit_frames(store: FeatureStore, place: int) -> int:
    return -(-store.frames(place) // MEL_FRAMES_PER_UNIT_FRAME)


def _mel(store: FeatureStore, place: int) -> Tensor:
    return torch.from_numpy(np.asarray(store[place], dtype=np.float32))


@dataclass
class UnitLanguageData:
    """units: the units manifest; extractor: folder of stage units or phone_units (for the number of units)."""

    units: str
    extractor: str


@dataclass
class UnitLanguageSize:
    """See `learn_unit_language`; a `vocabulary_size` of null is the number of units: no words of several."""

    vocabulary_size: int | None = 1000
    max_units_per_word: int = 5
    min_count: int = 3


@recipe("unit_language")
@dataclass
class UnitLanguageRecipe:
    """Recipe of stage "unit_language" (no gradients: it has `run`, not `build`)."""

    stage: str
    data: UnitLanguageData
    output_dir: str
    model: UnitLanguageSize = field(default_factory=UnitLanguageSize)

    def run(self) -> dict[str, float]:
        """Learns the unit language, writes it with its record, and returns train and held-out compression."""
        rows = read_unit_utterances(self.data.units)
        train = [row for row in rows if row.split == "train"]
        heldout = [row for row in rows if row.split != "train"]
        num_units = read_num_units(self.data.extractor)
        segments = {
            name: [segment for row in part for segment in split_by_word(row.units, row.word_of_unit)]
            for name, part in (("train", train), ("heldout", heldout))
        }
        sizes = {**to_dict(self.model), "vocabulary_size": self.model.vocabulary_size or num_units}
        language = learn_unit_language(segments["train"], num_units, **sizes)
        metrics: dict[str, float] = {"words": float(len(language))}
        for name, part in segments.items():
            if part:
                metrics |= {f"{name}_{key}": value for key, value in compression(language, part).items()}
        folder = Path(self.output_dir)
        language.save_pretrained(folder)
        write_stage_record(self.stage, folder, to_dict(self), metrics)
        print("unit_language: " + "  ".join(f"{key} {value:.4g}" for key, value in metrics.items()), flush=True)
        return metrics
