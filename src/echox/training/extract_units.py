"""Stage "extract_units": any manifest as units, by an extractor that exists already.

This is how the official units are made: mHuBERT, layer 11, and its 1000 published centroids need no training here. A
`UnitExtractor` folder, or the encoder's name, the file of centroids and the layer are enough.

Source: METHOD.md item 7.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from echox.audio import load_audio
from echox.config import recipe
from echox.data.manifest import audio_path, read_utterances, write_unit_utterances
from echox.device import choose_device
from echox.training.units import units_manifest
from echox.units.extract import UnitExtractor
from echox.units.quality import unit_quality


@recipe("extract_units")
@dataclass
class ExtractUnitsRecipe:
    """Recipe of stage "extract_units" (nothing is trained: it has `run`, not `build`).

    Attributes:
        utterances: manifest with `word_ends_s`.
        output: units manifest to write.
        extractor: folder of a `UnitExtractor`; None: made of the three parts below.
        encoder: folder or repository id of the encoder; with `extractor` only where that has none of its own.
        centroids: published centroids: `.npy`, safetensors or scikit-learn's k-means (never unpickled).
        layer: of the encoder, whose states were clustered.
        save_extractor: folder that the extractor is written to, for stage "unit_language" and for other machines.
        batch_size: utterances at a time, of similar length.
    """

    stage: str
    utterances: str
    output: str
    extractor: str | None = None
    encoder: str | None = None
    centroids: str | None = None
    layer: int | None = None
    save_extractor: str | None = None
    batch_size: int = 16
    device: str = "auto"

    def run(self) -> dict[str, float]:
        """Writes the units manifest; returns the rate of units and the cost.

        Raises:
            ValueError: the extractor is named twice or not at all, or cannot be read.
        """
        began_s = time.monotonic()
        extractor = self._extractor().to(choose_device(self.device))
        if self.save_extractor is not None:
            extractor.save_pretrained(self.save_extractor)
        items = read_utterances(self.utterances)
        order = sorted(range(len(items)), key=lambda place: items[place].duration_s)
        found: dict[int, np.ndarray] = {}
        for start in range(0, len(order), self.batch_size):
            chunk = order[start : start + self.batch_size]
            paths = [audio_path(self.utterances, items[place].audio) for place in chunk]
            waveforms = [load_audio(path, extractor.sampling_rate) for path in paths]
            found.update(zip(chunk, extractor.extract_batch(waveforms), strict=True))
        units = [found[place] for place in range(len(items))]
        write_unit_utterances(Path(self.output), units_manifest(items, units, extractor.frame_rate_hz))
        metrics = unit_quality(units, None, extractor.num_units, extractor.frame_rate_hz)
        metrics |= {"utterances": float(len(items)), "wall_s": time.monotonic() - began_s}
        print("extract_units: " + "  ".join(f"{key} {value:.4g}" for key, value in metrics.items()), flush=True)
        return metrics

    def _extractor(self) -> UnitExtractor:
        if self.extractor is not None and self.centroids is None and self.layer is None:
            return UnitExtractor.from_pretrained(self.extractor, self.encoder)
        if self.extractor is None and self.encoder and self.centroids and self.layer is not None:
            return UnitExtractor.from_parts(self.encoder, self.centroids, self.layer)
        raise ValueError("expected an extractor folder, or encoder, centroids and layer, found neither or both")
