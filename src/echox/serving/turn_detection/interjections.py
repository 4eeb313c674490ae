"""Short speech over a reply: does it mean to interrupt ("stop", "no", "wait"), or to say "go on" ("mm-hmm", "yeah")?

A word or two is over before speech is long enough to interrupt. So a tiny network looks at its sound: 24 mel bands in
10 stretches of equal length, and how long it is. It needs no transcript, no language model and half a millisecond, and
is the same for all models. Its words are English (``data/corpora/interjections.yaml``; stage "interjections").

Letters: S samples, F frames, D = 24 * 10 + 1 features, H hidden units.
"""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from pathlib import Path

import numpy as np

from echox.serving.turn_detection.vad import SAMPLING_RATE

BANDS, STRETCHES = 24, 10
TAKES_FLOOR = 0.8
"""Probability from which on it interrupts: a reply that is cut by a cough annoys more than a second "stop"."""
WEIGHTS_FILE = "interjections.npz"

_WINDOW, _HOP, _FFT = 400, 160, 512
_LOW_HZ, _HIGH_HZ = 80.0, 7600.0
_RANGE_DB = 45.0  # below the loudest frame is silence
_LOUD_DB = 30.0  # the word is where it is at most so much fainter than its loudest frame


def interjection_features(samples: np.ndarray) -> np.ndarray | None:
    """(D,) float32 features of a word or two, samples float32 (S,) at 16 kHz; None: only silence."""
    if len(samples) < _WINDOW:
        return None
    frames = np.lib.stride_tricks.sliding_window_view(samples, _WINDOW)[::_HOP]
    power = np.square(np.abs(np.fft.rfft(frames * np.hanning(_WINDOW), _FFT, axis=1)))
    mel_db = 10.0 * np.log10(power @ _mel_filters() + 1e-10)  # (F, BANDS)
    level_db = mel_db.max(axis=1)
    loud = np.flatnonzero(level_db > level_db.max() - _LOUD_DB)
    word = np.clip(mel_db[loud[0] : loud[-1] + 1] - mel_db.max(), -_RANGE_DB, 0.0) / _RANGE_DB + 1.0
    places = np.linspace(0, len(word), STRETCHES + 1)
    pooled = [
        word[int(start) : max(int(end), int(start) + 1)].mean(axis=0)
        for start, end in zip(places, places[1:], strict=False)
    ]
    return np.concatenate([*pooled, [len(word) * _HOP / SAMPLING_RATE]]).astype(np.float32)


@cache
def _mel_filters() -> np.ndarray:
    """(bins, BANDS) triangles of equal width on the mel scale."""
    from transformers.audio_utils import mel_filter_bank

    bins, scale = _FFT // 2 + 1, "htk"
    return mel_filter_bank(
        bins, BANDS, _LOW_HZ, _HIGH_HZ, SAMPLING_RATE, mel_scale=scale, triangularize_in_mel_space=True
    )


class InterjectionJudge:
    """The network, shared by all sessions.

    Args:
        path: its weights (`WEIGHTS_FILE`): ``hidden`` (H, D), ``hidden_bias`` (H,), ``out`` (H,), ``out_bias`` ().

    Raises:
        ValueError: no such file, or other shapes.
    """

    def __init__(self, path: str | Path) -> None:
        path = Path(path)
        try:
            with np.load(path, allow_pickle=False) as stored:
                self._hidden, self._hidden_bias = stored["hidden"], stored["hidden_bias"]
                self._out, self._out_bias = stored["out"], stored["out_bias"]
        except (OSError, KeyError, ValueError) as error:
            raise ValueError(f"{path}: expected the weights of the interjection judge, found: {error}") from error
        width, features = len(self._out), BANDS * STRETCHES + 1
        if self._hidden.shape != (width, features) or self._hidden_bias.shape != (width,):
            raise ValueError(
                f"{path}: expected weights for {features} features, found {self._hidden.shape}; train it again (stage "
                "interjections)"
            )

    def __call__(self, samples: np.ndarray) -> float:
        """Probability that a word or two, samples float32 (S,) at 16 kHz, means to interrupt."""
        features = interjection_features(samples)
        if features is None:
            return 0.0
        hidden = np.maximum(0.0, self._hidden @ features + self._hidden_bias)
        return float(1.0 / (1.0 + np.exp(-(self._out @ hidden + self._out_bias))))


def bundled_judge() -> InterjectionJudge:
    """The one inside this package."""
    return InterjectionJudge(Path(str(files("echox") / "assets" / "turns" / WEIGHTS_FILE)))
