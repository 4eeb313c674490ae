"""Speech to discrete units: states of a speech encoder's layer, k-means, and an assignment with few changes of unit.

The nearest centroid of each frame alternates between neighbouring clusters. `assign_units` adds a cost for each change
of unit, and finds the cheapest path exactly (Viterbi): fewer, longer units at nearly no loss of phone purity.

Source: EchoX (arXiv 2509.09174, section 3.2: k-means of mHuBERT layer 11, repeats removed); the penalty as in
duration-penalised dynamic programming (Kamper and van Niekerk 2021, arXiv 2012.07551).
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import AutoConfig, AutoFeatureExtractor, AutoModel, WhisperConfig

from echox.data.features.corpus_features import log_mel, pad_features
from echox.errors import reason
from echox.files import save_model, write_tensors
from echox.models.conversion.file_formats.kmeans import read_centroids
from echox.models.towers.waveform_encoder import check_waveform_encoder, encoder_frame_rate_hz, waveform_states
from echox.models.towers.whisper import WhisperTower

if TYPE_CHECKING:
    from echox.models.towers.waveform_encoder import WaveformEncoder

EXTRACTOR_FILE = "unit_extractor.json"
CENTROIDS_FILE = "centroids.safetensors"
ENCODER_FOLDER = "encoder"


def deduplicate(units: Sequence[int] | np.ndarray) -> tuple[list[int], list[int]]:
    """Collapses runs: returns the reduced units and how many frames each lasted. Inverse: `expand`."""
    frames = np.asarray(units, dtype=np.int64)
    if frames.size == 0:
        return [], []
    starts = np.flatnonzero(np.concatenate([[True], frames[1:] != frames[:-1]]))
    return frames[starts].tolist(), np.diff(np.concatenate([starts, [len(frames)]])).tolist()


def expand(reduced_units: Sequence[int], durations_frames: Sequence[int]) -> list[int]:
    """Repeats each reduced unit for its number of frames.

    Raises:
        ValueError: If the two lengths differ.
    """
    if len(reduced_units) != len(durations_frames):
        raise ValueError(f"expected one duration per unit, found {len(reduced_units)} and {len(durations_frames)}")
    return np.repeat(np.asarray(reduced_units, dtype=np.int64), np.asarray(durations_frames, dtype=np.int64)).tolist()


def words_of_units(
    durations_frames: Sequence[int], word_ends_s: Sequence[float], frame_rate_hz: float = 50.0
) -> list[int]:
    """Gives each reduced unit the word that holds its middle; speech before the first end is word 0's.

    A word so short that it holds no unit's middle gets the unit that costs least (by the path over all units that moves
    their middles least), if there are at least as many units as words.

    Args:
        durations_frames: Frames of each reduced unit.
        word_ends_s: End of each word; a pause belongs to the word whose end is the first after it.
        frame_rate_hz: Frames per second.

    Raises:
        ValueError: If there are no words.
    """
    if len(word_ends_s) == 0:
        raise ValueError("expected at least one word end, found none")
    durations = np.asarray(durations_frames, dtype=np.float64)
    ends = np.asarray(word_ends_s, dtype=np.float64)
    middles = (np.cumsum(durations) - durations / 2) / frame_rate_hz
    words = np.minimum(np.searchsorted(ends, middles, side="right"), len(ends) - 1)
    if len(middles) < len(ends) or len(np.unique(words)) == len(ends):
        return words.tolist()
    starts = np.concatenate([[-np.inf], ends[:-1]])
    stops = np.concatenate([ends[:-1], [np.inf]])
    cost = np.maximum(starts - middles[:, None], 0) + np.maximum(middles[:, None] - stops, 0)  # (units, words)
    best = np.full(len(ends), np.inf)
    best[0] = cost[0, 0]
    advanced = np.zeros(cost.shape, dtype=bool)
    for unit in range(1, len(middles)):
        from_before = np.concatenate([[np.inf], best[:-1]])
        advanced[unit] = from_before < best
        best = np.minimum(best, from_before) + cost[unit]
    word = len(ends) - 1
    for unit in range(len(middles) - 1, -1, -1):
        words[unit] = word
        word -= int(advanced[unit, word])
    return words.tolist()


def squared_distances(features: Tensor, centroids: Tensor) -> Tensor:
    """Squared Euclidean distances, (..., D) and (K, D) to (..., K)."""
    products = features @ centroids.T
    squares = features.square().sum(-1, keepdim=True) + centroids.square().sum(-1)
    return (squares - 2 * products).clamp_min(0)


def assign_units(distances: Tensor, lengths: Sequence[int] | Tensor, switch_penalty: float = 0.0) -> Tensor:
    """Finds the units that minimise the summed distances plus `switch_penalty` for every change of unit.

    Args:
        distances: (B, F, K), squared distances of frames to centroids; frames past an item's length are ignored.
        lengths: (B,) frames of each item.
        switch_penalty: In units of squared distance; 0 gives the nearest centroid of each frame.

    Returns:
        (B, F) int64, -1 past the length.

    Raises:
        ValueError: If the penalty is negative.
    """
    if switch_penalty < 0:
        raise ValueError(f"expected a switch penalty >= 0, found {switch_penalty}")
    batch, frames, _ = distances.shape
    lengths = torch.as_tensor(lengths, device=distances.device)
    inside = torch.arange(frames, device=distances.device) < lengths[:, None]
    if switch_penalty == 0:
        return distances.argmin(-1).masked_fill(~inside, -1)
    # After the end all costs are 0: staying is free and a change is not, so the path before the end is not changed.
    cost = distances.float().masked_fill(~inside[..., None], 0.0)
    best = cost[:, 0]
    arrived_from = torch.zeros(batch, frames, dtype=torch.int64, device=cost.device)
    switched = torch.zeros(cost.shape, dtype=torch.bool, device=cost.device)
    for frame in range(1, frames):
        cheapest, arrived_from[:, frame] = best.min(-1)
        change = (cheapest + switch_penalty)[:, None]
        switched[:, frame] = change < best
        best = torch.minimum(best, change) + cost[:, frame]
        best = best - cheapest[:, None]  # only differences matter: keeps float32 exact over long audio
    units = torch.empty(batch, frames, dtype=torch.int64, device=cost.device)
    unit = best.argmin(-1)
    for frame in range(frames - 1, -1, -1):
        units[:, frame] = unit
        changed = switched[:, frame].gather(1, unit[:, None])[:, 0]
        unit = torch.where(changed, arrived_from[:, frame], unit)
    return units.masked_fill(~inside, -1)


def average_frames(features: Tensor, mask: Tensor, width: int) -> Tensor:
    """Averages each frame with its neighbours (`width` frames, odd); padding never enters. (B, F, D), (B, F) bool."""
    if width < 1 or width % 2 == 0:
        raise ValueError(f"expected an odd number of frames to average over, found {width}")
    if width == 1:
        return features
    weights = mask.to(features.dtype)[:, None]  # (B, 1, F)
    summed = nn.functional.avg_pool1d(features.transpose(1, 2) * weights, width, 1, width // 2)
    counted = nn.functional.avg_pool1d(weights, width, 1, width // 2)
    return (summed / counted.clamp_min(1e-6)).transpose(1, 2)


def kmeans(
    features: Tensor,
    num_clusters: int,
    seed: int = 0,
    batch_size: int = 16384,
    steps: int = 120,
    init_size: int = 16384,
) -> Tensor:
    """Mini-batch k-means (Sculley 2010) from a k-means++ start; (N, D) to centroids (K, D).

    Raises:
        ValueError: If there are fewer frames than clusters.
    """
    if len(features) < num_clusters:
        raise ValueError(f"expected at least {num_clusters} frames for {num_clusters} clusters, found {len(features)}")
    features = features.float()
    generator = torch.Generator().manual_seed(seed)  # on the CPU: the same choice on every device

    def pick(count: int) -> Tensor:
        return features[torch.randint(len(features), (count,), generator=generator).to(features.device)]

    first = torch.randperm(len(features), generator=generator)[: max(init_size, num_clusters)]
    pool = features[first.to(features.device)]
    centroids = pool[:1]
    nearest = squared_distances(pool, centroids)[:, 0]
    while len(centroids) < num_clusters:
        weights = nearest.double().cpu()
        chosen = int(torch.multinomial(weights, 1, generator=generator)) if weights.sum() > 0 else len(centroids)
        centroids = torch.cat([centroids, pool[chosen : chosen + 1]])
        nearest = torch.minimum(nearest, squared_distances(pool, centroids[-1:])[:, 0])
    seen = torch.zeros(num_clusters, device=features.device)
    for step in range(steps):
        batch = features if len(features) <= batch_size else pick(batch_size)
        distances, units = squared_distances(batch, centroids).min(-1)
        counts = torch.bincount(units, minlength=num_clusters).float()
        means = torch.zeros_like(centroids).index_add_(0, units, batch) / counts.clamp_min(1)[:, None]
        # Counts decay: late batches, with better centroids, weigh more than in a plain running mean.
        seen = 0.9 * seen + counts
        rate = torch.where(seen > 0, counts / seen.clamp_min(1e-6), 0)[:, None]
        centroids = centroids + rate * (means - centroids)
        dead = torch.nonzero(seen < 1e-2 * seen.mean())[:, 0]
        if len(dead) and step < steps // 2:  # an unused cluster starts again where the fit is worst
            centroids[dead] = batch[distances.topk(len(dead)).indices]
            seen[dead] = 0
    return centroids


class UnitExtractor(nn.Module):
    """Waveforms to units: encoder, one of its layers, averaging, centroids, switch-penalised assignment.

    Args:
        encoder: Our `WhisperTower`, or an encoder of waveforms from transformers: HuBERT, mHuBERT, wav2vec 2.0, WavLM.
        feature_extractor: The encoder's feature extractor.
        centroids: (K, D).
        layer: Index into ``hidden_states``: 0 is before the first layer, n after the n-th.
        switch_penalty: See `assign_units`; in units of squared distance.
        smoothing_frames: Odd width of the average over frames.
        frame_rate_hz: Units per second before runs are collapsed.

    Raises:
        ValueError: If the encoder has no such layer or is of another kind, or widths or frame rates differ.
    """

    centroids: Tensor

    def __init__(
        self,
        encoder: WhisperTower | WaveformEncoder,
        feature_extractor: Any,
        centroids: Tensor,
        layer: int,
        switch_penalty: float = 0.0,
        smoothing_frames: int = 1,
        frame_rate_hz: float = 50.0,
    ) -> None:
        super().__init__()
        config = encoder.config
        layers = getattr(config, "encoder_layers", None) or config.num_hidden_layers
        width = getattr(config, "d_model", None) or config.hidden_size
        if not 0 <= layer <= layers:
            raise ValueError(f"expected a layer from 0 to {layers}, found {layer}")
        if centroids.ndim != 2 or centroids.shape[1] != width:
            raise ValueError(f"expected centroids of shape (units, {width}), found {tuple(centroids.shape)}")
        if not isinstance(encoder, WhisperTower):
            check_waveform_encoder(encoder)
            found_hz = encoder_frame_rate_hz(encoder, feature_extractor.sampling_rate)
            if found_hz != frame_rate_hz:
                raise ValueError(f"frame_rate_hz: expected the encoder's {found_hz:g}, found {frame_rate_hz:g}")
        self.encoder = encoder.eval()
        self.feature_extractor = feature_extractor
        self.layer, self.switch_penalty, self.smoothing_frames = layer, float(switch_penalty), smoothing_frames
        self.frame_rate_hz = frame_rate_hz
        self.register_buffer("centroids", centroids.detach().float())

    @property
    def num_units(self) -> int:
        """Number of different units."""
        return len(self.centroids)

    @property
    def sampling_rate(self) -> int:
        """Rate of the waveforms that go in (Hz)."""
        return int(self.feature_extractor.sampling_rate)

    def forward(self, waveform: np.ndarray) -> np.ndarray:
        """One waveform (S,) to one unit per frame (F,) int64."""
        return self.extract_batch([waveform])[0]

    @torch.inference_mode()
    def extract_batch(self, waveforms: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Waveforms, float32 (S,) each at `sampling_rate`, to units, int64 (F,) each. Each item as if alone."""
        features, mask = self.features(waveforms)
        return self.units_of_features(features, mask)

    def units_of_features(self, features: Tensor, mask: Tensor) -> list[np.ndarray]:
        """Averaged layer features (B, F, D) with mask (B, F) to units, int64 (F,) each."""
        lengths = mask.sum(-1)
        units = assign_units(squared_distances(features, self.centroids), lengths, self.switch_penalty)
        return [row[:length].cpu().numpy() for row, length in zip(units, lengths.tolist(), strict=True)]

    @torch.inference_mode()
    def features(self, waveforms: Sequence[np.ndarray]) -> tuple[Tensor, Tensor]:
        """Averaged features (B, F, D) of the layer, float32, and their mask (B, F).

        Raises:
            ValueError: If a waveform is not one channel or is shorter than one frame.
        """
        for number, waveform in enumerate(waveforms):
            if np.ndim(waveform) != 1 or len(waveform) < self.sampling_rate / self.frame_rate_hz:
                raise ValueError(
                    f"expected one channel and at least one frame of audio, found {np.shape(waveform)} as item {number}"
                )
        if isinstance(self.encoder, WhisperTower):
            return hidden_features(self.encoder, *self._log_mel(waveforms), self.layer, self.smoothing_frames)
        rows = [self._normalised(waveform) for waveform in waveforms]
        features, mask = waveform_states(self.encoder, rows, self.layer)
        return average_frames(features, mask, self.smoothing_frames), mask

    def _normalised(self, waveform: np.ndarray) -> Tensor:
        inputs = self.feature_extractor(waveform, sampling_rate=self.sampling_rate, return_tensors="pt")
        return inputs["input_values"][0].to(self.centroids.device)

    def _log_mel(self, waveforms: Sequence[np.ndarray]) -> tuple[Tensor, Tensor]:
        # One by one, each at its own length: the last frames of a padded signal would depend on the padding.
        mels = int(self.encoder.config.num_mel_bins)
        rows = [log_mel(waveform, self.sampling_rate, mels).T for waveform in waveforms]
        features, mask = pad_features(rows)
        return features.to(self.centroids.device), mask.to(self.centroids.device)

    def save_pretrained(self, folder: str | os.PathLike[str]) -> None:
        """Writes encoder, feature extractor, centroids and numbers into one folder."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        save_model(self.encoder, folder / ENCODER_FOLDER)
        self.feature_extractor.save_pretrained(folder / ENCODER_FOLDER)
        write_tensors(folder / CENTROIDS_FILE, {"centroids": self.centroids})
        content = {
            "layer": self.layer,
            "switch_penalty": self.switch_penalty,
            "smoothing_frames": self.smoothing_frames,
            "frame_rate_hz": self.frame_rate_hz,
        }
        (folder / EXTRACTOR_FILE).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")

    @staticmethod
    def read_num_units(folder: str | os.PathLike[str]) -> int:
        """Number of units of a saved extractor, without loading its encoder."""
        path = Path(folder) / CENTROIDS_FILE
        if not path.is_file():
            raise ValueError(f"{folder}: expected {CENTROIDS_FILE}, found none; run the units stage first")
        return len(load_file(path)["centroids"])

    @classmethod
    def from_pretrained(cls, folder: str | os.PathLike[str], encoder: str | None = None) -> UnitExtractor:
        """Reads an extractor back.

        Args:
            folder: Folder with ``unit_extractor.json``, ``centroids.safetensors`` and, unless `encoder` is given,
                ``encoder/``.
            encoder: Another folder or repository id of the encoder (as for mHuBERT, whose weights need no copy).

        Raises:
            ValueError: If a part is missing.
        """
        folder = Path(folder)
        for name in (EXTRACTOR_FILE, CENTROIDS_FILE):
            if not (folder / name).is_file():
                raise ValueError(f"{folder}: expected {name}, found none; give the units stage's output folder")
        content = json.loads((folder / EXTRACTOR_FILE).read_text(encoding="utf-8"))
        source = str(encoder or content.pop("encoder", None) or folder / ENCODER_FOLDER)
        content.pop("encoder", None)
        return cls(*load_encoder(source), load_file(folder / CENTROIDS_FILE)["centroids"], **content)

    @classmethod
    def from_parts(
        cls, encoder: str | os.PathLike[str], centroids: str | os.PathLike[str], layer: int, **settings: Any
    ) -> UnitExtractor:
        """An extractor of published parts, such as mHuBERT, layer 11, and its 1000 centroids.

        Args:
            encoder: Folder or repository id of the encoder with its feature extractor.
            centroids: File that `read_centroids` reads: `.npy`, safetensors, or scikit-learn's k-means.
            layer: The layer whose states were clustered.
            **settings: ``switch_penalty``, ``smoothing_frames``, ``frame_rate_hz``.

        Raises:
            ValueError: If a part cannot be read or they do not belong together.
        """
        return cls(*load_encoder(str(encoder)), read_centroids(centroids), layer, **settings)


def load_encoder(source: str) -> tuple[WhisperTower | WaveformEncoder, Any]:
    """Encoder and feature extractor of a folder or repository id; of a whole Whisper only the encoder is read.

    Raises:
        ValueError: If they cannot be loaded, or weights are missing.
    """
    try:
        config = AutoConfig.from_pretrained(source)
        feature_extractor = AutoFeatureExtractor.from_pretrained(source)
        if isinstance(config, WhisperConfig):
            return WhisperTower.from_checkpoint(source), feature_extractor
        encoder, found = AutoModel.from_pretrained(source, output_loading_info=True)
    except (OSError, ValueError, SafetensorError) as error:
        raise ValueError(
            f"{source}: expected an encoder with its feature extractor (config.json, preprocessor_config.json, "
            f"weights), found: {reason(error, 300)}"
        ) from error
    if missing := sorted(found["missing_keys"] - {"masked_spec_embed"}):  # used in training only
        raise ValueError(f"{source}: expected all weights, found none for {missing[0]} and {len(missing) - 1} more")
    return encoder, feature_extractor


def hidden_features(
    encoder: WhisperTower, input_features: Tensor, input_features_mask: Tensor, layer: int, smoothing_frames: int
) -> tuple[Tensor, Tensor]:
    """Averaged features (B, F, D) of one layer for log-mel (B, mels, T), and their mask (B, F)."""
    output = encoder(input_features, input_features_mask, output_hidden_states=True)
    return average_frames(output.hidden_states[layer].float(), output.mask, smoothing_frames), output.mask
