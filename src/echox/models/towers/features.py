"""Inputs of audio towers: log-mel spectrograms or waveforms, each audio at its own length.

Every waveform is analysed alone, so that its inputs do not depend on the batch.

Letters: A audios, S samples of one, T inputs along time.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn


def tower_inputs(extractor: Any, waveforms: Sequence[np.ndarray], whole_windows: bool = False) -> tuple[Tensor, Tensor]:
    """Inputs by a feature extractor of transformers.

    Args:
        extractor: a ``SequenceFeatureExtractor`` (whose own types say little). Its first input name says what it makes:
            ``input_features`` (log-mel) or ``input_values`` (a waveform).
        waveforms: float32 (S,), at its sampling rate.
        whole_windows: log-mel only: fill the last window of 30 s with silence (`Compatibility.fixed_windows`).

    Returns:
        (A, mels, T) or (A, T) float32, padded with 0 on the right; mask (A, T) int64.

    Raises:
        ValueError: a waveform that is not (S,) with S >= 1.
    """
    rows = []
    for waveform in waveforms:
        samples = np.asarray(waveform, dtype=np.float32)
        if samples.ndim != 1 or samples.size == 0:
            raise ValueError(f"audio: expected samples (S,), at least one, found shape {samples.shape}")
        if extractor.model_input_names[0] == "input_values":
            rows.append(_waveform(extractor, samples))
        else:
            rows.append(_log_mel(extractor, samples, whole_windows))
    lengths = torch.tensor([len(row) for row in rows])
    padded = nn.utils.rnn.pad_sequence(rows, batch_first=True)
    mask = (torch.arange(padded.shape[1]) < lengths[:, None]).long()
    return (padded if padded.ndim == 2 else padded.transpose(1, 2).contiguous()), mask


def _waveform(extractor: Any, samples: np.ndarray) -> Tensor:
    """(S,), normalised where the family wants that."""
    found = extractor(samples, sampling_rate=extractor.sampling_rate, return_tensors="pt")
    values: Tensor = found["input_values"][0]
    return values


def _log_mel(extractor: Any, samples: np.ndarray, whole_windows: bool) -> Tensor:
    """(T, mels); the last partial frame is filled with silence."""
    # The extractor drops a partial hop, and its reflection at the ends needs at least two hops.
    hops = max(-(-len(samples) // extractor.hop_length), 2)
    if whole_windows:
        hops = -(-hops // extractor.nb_max_frames) * extractor.nb_max_frames
    samples = np.pad(samples, (0, hops * extractor.hop_length - len(samples)))
    found = extractor(
        samples,
        sampling_rate=extractor.sampling_rate,
        padding="longest",
        truncation=False,
        return_tensors="pt",
    )
    values: Tensor = found["input_features"][0].T
    return values
