"""Training data of vocoders: utterances as units, with their recordings."""

from __future__ import annotations

import inspect
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor, nn

from echox.audio import load_audio, save_audio
from echox.data.manifest import UnitUtterance, audio_path, read_unit_utterances, read_utterances
from echox.files import JsonObject
from echox.models.vocoder.configuration_vocoder import UnitVocoderConfig
from echox.models.vocoder.modeling_unit_vocoder import UnitVocoder


@dataclass
class VocoderData:
    """Where the speech of the reply voice is.

    Attributes:
        units: units manifest (stage "units"). speech: utterance manifest with the same ids.
        max_items: number of random utterances to train on; 0 = all.
        crop_s: longer utterances are cut to a random part of this length (in adversarial training all are cut).
        evaluate_items, sample_items: held-out utterances measured, and written as WAV files.
    """

    units: str
    speech: str
    max_items: int = 0
    crop_s: float = 8.0
    evaluate_items: int = 64
    sample_items: int = 4


@dataclass(frozen=True)
class SpokenUnits:
    """An utterance as units, and the number of its recording."""

    row: UnitUtterance
    recording: int

    @property
    def frames(self) -> int:
        """Unit frames."""
        return sum(self.row.durations_frames)


class CroppedStage:
    """The part that all vocoder stages share: the utterances, and their lengths after cutting.

    Attributes:
        crop_frames: longest piece of an utterance in a batch, in unit frames.
        train_items: training utterances.
        model: the vocoder.
    """

    model: UnitVocoder
    crop_frames: int
    train_items: list[SpokenUnits]

    def dataset(self) -> Sequence[SpokenUnits]:
        """Training utterances."""
        return self.train_items

    @property
    def length_unit(self) -> tuple[str, float]:
        """Hours of speech."""
        return "audio_hours", 1 / (3600 * self.model.frame_rate_hz)

    def lengths(self) -> list[int]:
        """Unit frames of each utterance after cutting."""
        return [min(item.frames, self.crop_frames) for item in self.train_items]


def read_spoken_units(data: VocoderData, seed: int) -> tuple[list[SpokenUnits], list[SpokenUnits], list[Path]]:
    """Training items, held-out items (every split but "train"; without one, every 50th) and the audio file of each.

    Raises:
        ValueError: no units at all, or an id of the units manifest that the speech manifest lacks.
    """
    files = {item.id: audio_path(data.speech, item.audio) for item in read_utterances(data.speech)}
    rows = [row for row in read_unit_utterances(data.units) if row.units]
    if not rows:
        raise ValueError(f"{data.units}: expected utterances with units, found none: run the units stage")
    missing = [row.id for row in rows if row.id not in files]
    if missing:
        raise ValueError(
            f"{data.units}: expected ids of {data.speech}, found {missing[0]!r} and {len(missing) - 1} more that are "
            "not there; use manifests of the same utterances"
        )
    held = {row.id for row in rows if row.split != "train"} or {row.id for row in rows[::50]}
    train = [row for row in rows if row.id not in held] or rows  # a corpus of one utterance serves both
    if 0 < data.max_items < len(train):
        train = random.Random(seed).sample(train, data.max_items)
    evaluate = [row for row in rows if row.id in held][: data.evaluate_items]
    items = [SpokenUnits(row, number) for number, row in enumerate([*train, *evaluate])]
    return items[: len(train)], items[len(train) :], [files[item.row.id] for item in items]


def recording(path: Path, samples: int, sampling_rate: int) -> Tensor:
    """A waveform (samples,) of exactly that length: the last unit frame may be filled with silence."""
    waveform = torch.from_numpy(load_audio(path, sampling_rate)[:samples])
    return nn.functional.pad(waveform, (0, samples - len(waveform)))


def cut_units(row: UnitUtterance, frames: int, rng: random.Random) -> tuple[Sequence[int], Sequence[int], int]:
    """Units, durations and first frame of a random part of at most `frames` frames; whole units, at least one."""
    if sum(row.durations_frames) <= frames:
        return row.units, row.durations_frames, 0
    ends = torch.tensor(row.durations_frames).cumsum(0)
    last_start = int(torch.searchsorted(ends, int(ends[-1]) - frames, right=False))
    first = rng.randint(0, min(last_start, len(ends) - 1))
    start = int(ends[first]) - row.durations_frames[first]
    stop = max(first + 1, int(torch.searchsorted(ends, start + frames, right=True)))
    return row.units[first:stop], row.durations_frames[first:stop], start


def cut_frames(row: UnitUtterance, start: int, frames: int) -> tuple[list[int], list[int]]:
    """Units and durations of exactly the frames ``start .. start + frames``: units at either end may be cut short."""
    units, durations, begin = [], [], 0
    for unit, duration in zip(row.units, row.durations_frames, strict=True):
        inside = min(begin + duration, start + frames) - max(begin, start)
        if inside > 0:
            units.append(unit)
            durations.append(inside)
        begin += duration
    return units, durations


ConfigT = TypeVar("ConfigT", bound=UnitVocoderConfig)


def vocoder_config(config_class: type[ConfigT], sizes: JsonObject, **measured: object) -> ConfigT:
    """Configuration from a recipe's sizes, which replace values that were measured on the data.

    Raises:
        ValueError: a size that the configuration does not have, or a value it refuses.
    """
    classes = [parent for parent in config_class.__mro__ if issubclass(parent, UnitVocoderConfig)]
    known = {name for parent in classes for name in inspect.signature(parent).parameters}
    for name in sizes:
        if name not in known:
            raise ValueError(f"model.sizes.{name}: not a size of {config_class.__name__}; see configuration_vocoder.py")
    values: JsonObject = {**measured, **sizes}
    return config_class(**values)


def unit_batch(rows: Sequence[tuple[Sequence[int], Sequence[int]]]) -> dict[str, Tensor]:
    """``units`` (B, U) int64 padded with -1 and ``durations_frames`` (B, U) int64 padded with 0."""
    units = [torch.tensor(units, dtype=torch.int64) for units, _ in rows]
    durations = [torch.tensor(durations, dtype=torch.int64) for _, durations in rows]
    padded = nn.utils.rnn.pad_sequence
    return {"units": padded(units, True, -1), "durations_frames": padded(durations, True, 0)}


def write_samples(folder: Path, vocoder: UnitVocoder, items: Sequence[SpokenUnits], files: Sequence[Path]) -> None:
    """For each item ``ID.original.wav``, ``ID.true_durations.wav``, ``ID.predicted_durations.wav``, ``ID.txt``."""
    device = next(vocoder.parameters()).device
    for item, path in zip(items, files, strict=True):
        batch = unit_batch([(item.row.units, item.row.durations_frames)])
        samples = item.frames * vocoder.config.samples_per_frame
        spoken = {"original": recording(path, samples, vocoder.sampling_rate)}
        for name, durations in (("true", batch["durations_frames"].to(device)), ("predicted", None)):
            spoken[f"{name}_durations"] = vocoder(batch["units"].to(device), durations).waveform[0].float().cpu()
        for name, waveform in spoken.items():
            save_audio(folder / f"{item.row.id}.{name}.wav", waveform.clamp(-1, 1).numpy(), vocoder.sampling_rate)
        (folder / f"{item.row.id}.txt").write_text(item.row.text + "\n", encoding="utf-8")
