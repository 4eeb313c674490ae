"""Stage "extract_units": the units of any manifest, by an existing extractor.

The official units are made so: mHuBERT, layer 11, with its 1000 published centroids; nothing is trained. The stage
needs a `UnitExtractor` folder, or the encoder's name, the file of centroids and the layer. Utterances go through the
encoder in batches, in one process or several; a stopped run continues where it stopped.

Source: units of EchoX, https://arxiv.org/abs/2509.09174, section 3.2.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from echox.config import recipe
from echox.data.manifest import UnitUtterance, Utterance, read_utterances, write_unit_utterances
from echox.files import stamp
from echox.training.stages.recordings.utterance_stage import Row, batch_results, kept, work_on, worker_device
from echox.units.extract import UnitExtractor, deduplicate, words_of_units


@dataclass(frozen=True)
class ExtractorParts:
    """The parts of an extractor; see `ExtractUnitsRecipe`."""

    extractor: str | None
    encoder: str | None
    centroids: str | None
    layer: int | None

    def open(self) -> UnitExtractor:
        """The extractor.

        Raises:
            ValueError: named twice or not at all, or it cannot be read.
        """
        if self.extractor is not None and self.centroids is None and self.layer is None:
            return UnitExtractor.from_pretrained(self.extractor, self.encoder)
        if self.extractor is None and self.encoder and self.centroids and self.layer is not None:
            return UnitExtractor.from_parts(self.encoder, self.centroids, self.layer)
        raise ValueError("expected an extractor folder, or encoder, centroids and layer, found neither or both")

    def stamps(self) -> tuple[str, ...]:
        """Stamps of the files of the parts: they change when the parts change."""
        return tuple(stamp(part) for part in (self.extractor, self.encoder, self.centroids) if part is not None)


@recipe("extract_units")
@dataclass
class ExtractUnitsRecipe:
    """Recipe of stage "extract_units" (nothing is trained: it has `run`, not `build`).

    Attributes:
        utterances: manifest with `word_ends_s`.
        output: units manifest to write.
        extractor: folder of a `UnitExtractor`; None: made of the three parts below.
        encoder: folder or repository id of the encoder; beside `extractor` only if that folder has no encoder.
        centroids: published centroids: `.npy`, safetensors or scikit-learn's k-means (never unpickled).
        layer: of the encoder, whose states were clustered.
        save_extractor: folder that the extractor is written to, for stage "unit_language" and for other machines.
        keep_going: leave out (and count) utterances without word ends or readable audio, instead of stopping.
        batch_size: utterances at a time, of similar length.
        workers: processes; they are distributed over the GPUs.
    """

    stage: str
    utterances: str
    output: str
    extractor: str | None = None
    encoder: str | None = None
    centroids: str | None = None
    layer: int | None = None
    save_extractor: str | None = None
    keep_going: bool = False
    batch_size: int = 16
    workers: int = 1
    device: str = "auto"

    def run(self) -> dict[str, float]:
        """Writes the units manifest; returns the rate of units and the cost.

        Raises:
            ValueError: the extractor is named twice or not at all, or cannot be read; an utterance without word ends
                or whose audio cannot be read, by its id.
        """
        began_s = time.monotonic()
        parts = ExtractorParts(self.extractor, self.encoder, self.centroids, self.layer)
        extractor = parts.open()
        if self.save_extractor is not None:
            extractor.save_pretrained(self.save_extractor)
        rate = RateOfUnits(extractor.num_units, extractor.frame_rate_hz)
        del extractor
        items = read_utterances(self.utterances)
        unaligned = [item for item in items if item.word_ends_s is None]
        if unaligned and not self.keep_going:
            raise ValueError(f"{self.utterances}: {unaligned[0].id}: {_NO_ENDS} ({len(unaligned)} of {len(items)})")
        source, target = Path(self.utterances), Path(self.output)
        stop_in = None if self.keep_going else source
        make = functools.partial(ExtractChunk, parts, self.device, self.batch_size, self.workers, stop_in)
        settings = (parts, parts.stamps())
        found = work_on("units", make, settings, items, source, target, self.batch_size, self.workers)
        left_out: list[str] = []
        found = kept("extract_units", found, self.utterances, left_out if self.keep_going else None)
        write_unit_utterances(target, self._as_units(found, rate))
        metrics = rate.figures() | {"left_out": float(len(left_out)), "wall_s": time.monotonic() - began_s}
        print("extract_units: " + "  ".join(f"{key} {value:.4g}" for key, value in metrics.items()), flush=True)
        return metrics

    @staticmethod
    def _as_units(found: Iterator[tuple[Utterance, Row]], rate: RateOfUnits) -> Iterator[UnitUtterance]:
        for item, result in found:
            units, durations, words = (tuple(result[name]) for name in ("units", "durations_frames", "word_of_unit"))
            rate.add(units, durations)
            yield UnitUtterance(item.id, item.text, units, durations, words, item.split, item.written)


class ExtractChunk:
    """Units of rows of utterances: one result each, as `UnitUtterance` has them, or ``dropped`` and ``detail``.

    Args:
        parts: the extractor. device, batch_size, workers: see `ExtractUnitsRecipe`.
        stop_in: the manifest, for the error, if a row without units ends the run; None: it is left out.
    """

    def __init__(self, parts: ExtractorParts, device: str, batch_size: int, workers: int, stop_in: Path | None) -> None:
        self.extractor = parts.open().to(worker_device(device, workers))
        self.batch_size, self.stop_in = batch_size, stop_in

    @torch.inference_mode()
    def __call__(self, rows: Sequence[Row]) -> list[Row]:
        """See the class.

        Raises:
            ValueError: with `stop_in`, the first row without word ends, or whose audio cannot be read.
        """
        rate = self.extractor.sampling_rate
        return batch_results(rows, self.batch_size, rate, self._extract, self.stop_in, _check_ends)

    def _extract(self, rows: Sequence[Row], waveforms: Sequence[np.ndarray]) -> list[Row]:
        found = []
        for row, frames in zip(rows, self.extractor.extract_batch(waveforms), strict=True):
            units, durations = deduplicate(frames)
            words = words_of_units(durations, row["word_ends_s"], self.extractor.frame_rate_hz)
            found.append(
                {
                    "units": [int(unit) for unit in units],
                    "durations_frames": [int(count) for count in durations],
                    "word_of_unit": [int(word) for word in words],
                }
            )
        return found


def _check_ends(row: Row) -> None:
    if row["word_ends_s"] is None:
        raise ValueError(_NO_ENDS)


@dataclass
class RateOfUnits:
    """Counts units as they are written: ``units_per_s`` (reduced), ``units_used`` (fraction of all)."""

    num_units: int
    frame_rate_hz: float
    utterances: int = 0
    _frames: int = 0
    _units: int = 0
    _used: set[int] = field(default_factory=set)

    def add(self, units: Sequence[int], durations_frames: Sequence[int]) -> None:
        """Count one utterance."""
        self.utterances += 1
        self._frames += sum(durations_frames)
        self._units += len(units)
        self._used.update(units)

    def figures(self) -> dict[str, float]:
        """By name."""
        return {
            "units_per_s": self._units * self.frame_rate_hz / max(self._frames, 1),
            "units_used": len(self._used) / self.num_units,
            "utterances": float(self.utterances),
        }


_NO_ENDS = "expected word_ends_s, found none; align the manifest first (stage align)"
