"""Predicted naturalness of spoken replies, by a model file that the user names: nothing is downloaded.

Source: UTMOS, arXiv 2204.02152 (as a TorchScript file that takes (1, samples) at 16 kHz); DNSMOS P.835,
arXiv 2110.01763 (https://github.com/microsoft/DNS-Challenge, sig_bak_ovr.onnx); DNSMOS P.808, arXiv 2010.15258
(model_v8.onnx there). The package ``speechmos`` holds both files of DNSMOS.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from transformers.audio_utils import hertz_to_mel, mel_to_hertz

from echox.api.parts import installed_folder
from echox.evaluation.judges.onnx_session import open_session
from echox.evaluation.scoring.records import read_lines
from echox.files import file_sha256

RATE_HZ = 16000
DNSMOS_SAMPLES = 144160
"""Input of DNSMOS: 9.01 s. Shorter speech is doubled until it is longer; windows one second apart are averaged."""
DNSMOS_OVERALL = (-0.06766283, 1.11546468, 0.04602535)
"""Polynomial from the network's raw overall score to the published scale, highest power first."""
RATINGS = "naturalness.jsonl"
DNSMOS_FILE, P808_FILE = "sig_bak_ovr.onnx", "model_v8.onnx"
SPEECHMOS = "speechmos"
_P808_FFT, _P808_HOP, _P808_MELS = 321, 160, 120
"""Of the log-mel spectrogram that DNSMOS P.808 reads."""


@dataclass(frozen=True)
class Rater:
    """A predictor: ``rate`` of a waveform (samples,) at `RATE_HZ`; ``name`` states its figure and its model file."""

    name: str
    rate: Callable[[np.ndarray], float]

    def __call__(self, waveform: np.ndarray) -> float:
        """The predicted score of speech."""
        return self.rate(waveform)


def _rater(figure: str, path: Path, rate: Callable[[np.ndarray], float]) -> Rater:
    return Rater(f"{figure}:{file_sha256(path)[:12]}", rate)


def open_utmos(path: Path) -> Rater:
    """A TorchScript predictor.

    Raises:
        ValueError: the file is no TorchScript.
    """
    try:
        model = torch.jit.load(str(path), map_location="cpu").eval()
    except (RuntimeError, ValueError, OSError) as error:
        raise ValueError(f"{path}: expected a TorchScript file, found {str(error)[:150]}") from error

    @torch.inference_mode()
    def rate(waveform: np.ndarray) -> float:
        return float(torch.as_tensor(model(torch.from_numpy(waveform)[None])).mean())

    return _rater("utmos", path, rate)


def dnsmos_raters(named: str | Path) -> dict[str, Rater]:
    """The predictors of DNSMOS by the name of their figure: ``dnsmos`` and, where its file is beside, ``dnsmos_p808``.

    Args:
        named: the file of P.835, a folder that holds it, or "speechmos", the installed package.

    Raises:
        ValueError: onnxruntime, the package or the file is missing.
    """
    path = Path(named)
    if str(named) == SPEECHMOS and not path.exists():
        package = installed_folder(SPEECHMOS)
        if package is None:
            raise ValueError(
                f"expected the package {SPEECHMOS}, found none; pip install --no-deps {SPEECHMOS}==0.0.1.1"
            )
        path = package / "dnsmos_models"
    if path.is_dir():
        path = path / DNSMOS_FILE
    raters = {"dnsmos": open_dnsmos(path)}
    if path.with_name(P808_FILE).is_file():
        raters["dnsmos_p808"] = open_p808(path.with_name(P808_FILE))
    return raters


def open_dnsmos(path: Path) -> Rater:
    """The overall score (OVRL) of DNSMOS P.835.

    Raises:
        ValueError: onnxruntime or the file is missing.
    """
    session = open_session(path, 1, f"name {DNSMOS_FILE} of DNSMOS P.835")
    name = session.get_inputs()[0].name

    def rate(waveform: np.ndarray) -> float:
        raw = [session.run(None, {name: window[None]})[0][0][2] for window in dnsmos_windows(waveform)]
        return float(np.mean(np.polyval(DNSMOS_OVERALL, raw)))

    return _rater("dnsmos", path, rate)


def open_p808(path: Path) -> Rater:
    """The score of DNSMOS P.808, which has no polynomial.

    Raises:
        ValueError: onnxruntime or the file is missing.
    """
    session = open_session(path, 1, f"name {P808_FILE} of DNSMOS P.808")
    name = session.get_inputs()[0].name

    def rate(waveform: np.ndarray) -> float:
        windows = [p808_features(window[:-_P808_HOP]) for window in dnsmos_windows(waveform)]
        return float(np.mean([session.run(None, {name: window[None]})[0][0][0] for window in windows]))

    return _rater("dnsmos_p808", path, rate)


def dnsmos_windows(waveform: np.ndarray) -> list[np.ndarray]:
    """The windows (`DNSMOS_SAMPLES`,) of speech (samples,) that are rated, as the published script takes them."""
    speech = np.asarray(waveform, np.float32) if len(waveform) else np.zeros(1, np.float32)
    while len(speech) < DNSMOS_SAMPLES:
        speech = np.concatenate([speech, speech])
    count = int(len(speech) // RATE_HZ - DNSMOS_SAMPLES / RATE_HZ) + 1
    return [speech[hop * RATE_HZ : hop * RATE_HZ + DNSMOS_SAMPLES] for hop in range(count)]


def p808_features(waveform: np.ndarray) -> np.ndarray:
    """Log-mel spectrogram (frames, 120) of samples at 16 kHz: decibels below its maximum, 80 at most, as -1 to 1."""
    padded = np.pad(np.asarray(waveform, np.float64), _P808_FFT // 2)
    window = np.hanning(_P808_FFT + 1)[:-1]
    frames = np.lib.stride_tricks.sliding_window_view(padded, _P808_FFT)[::_P808_HOP] * window
    mel = np.abs(np.fft.rfft(frames)) ** 2 @ _p808_filters().T
    decibels = 10 * np.log10(np.maximum(mel, 1e-10))
    below = np.maximum(decibels - decibels.max(), -80.0)
    return ((below + 40) / 40).astype(np.float32)


@functools.cache
def _p808_filters() -> np.ndarray:
    """Triangular mel filters (120, 161) of equal area, by Slaney's scale, at the frequencies of an odd FFT."""
    top = float(hertz_to_mel(RATE_HZ / 2, "slaney"))
    edges_hz = np.asarray(mel_to_hertz(np.linspace(0.0, top, _P808_MELS + 2), "slaney"))
    bins_hz = np.fft.rfftfreq(_P808_FFT, 1 / RATE_HZ)
    low, centre, high = edges_hz[:-2, None], edges_hz[1:-1, None], edges_hz[2:, None]
    rising, falling = (bins_hz - low) / (centre - low), (high - bins_hz) / (high - centre)
    return np.maximum(0.0, np.minimum(rising, falling)) * 2 / (high - low)


def ratings_of(folder: Path, keys: list[str], raters: Mapping[str, str]) -> dict[str, float]:
    """Mean rating over the replies of these keys, by figure; of those that were rated.

    Args:
        folder: of the task.
        keys: of the replies, or of their control.
        raters: name of the predictor whose ratings count, by figure.
    """
    wanted, figures = set(keys), {name: figure for figure, name in raters.items()}
    found: dict[str, list[float]] = {}
    for record in read_lines(folder / RATINGS):
        key, _, name = record["key"].rpartition(" ")
        if key in wanted and name in figures:
            found.setdefault(figures[name], []).append(record["rating"])
    return {figure: float(np.mean(values)) for figure, values in found.items()}
