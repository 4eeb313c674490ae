"""Predicted naturalness of spoken replies, by a model file that the user names: nothing is downloaded.

Source: UTMOS, arXiv 2204.02152 (as a TorchScript file that takes (1, samples) at 16 kHz); DNSMOS P.835,
arXiv 2110.01763 (https://github.com/microsoft/DNS-Challenge, sig_bak_ovr.onnx).
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from echox.evaluation.scoring.records import read_lines

RATE_HZ = 16000
DNSMOS_SAMPLES = 144160
"""Input of DNSMOS: 9.01 s. Shorter speech is repeated; of longer speech, windows one second apart are averaged."""
DNSMOS_OVERALL = (-0.06766283, 1.11546468, 0.04602535)
"""Polynomial from the network's raw overall score to the published scale, highest power first."""
RATINGS = "naturalness.jsonl"

Rater = Callable[[np.ndarray], float]


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

    return rate


def open_dnsmos(path: Path) -> Rater:
    """The overall score (OVRL) of DNSMOS P.835.

    Raises:
        ValueError: onnxruntime or the file is missing.
    """
    try:
        import onnxruntime  # type: ignore[import-untyped]
    except ImportError as error:
        raise ValueError(f"{path}: expected onnxruntime to run it, found none; pip install onnxruntime") from error
    if not path.is_file():
        raise ValueError(f"{path}: expected the ONNX file of DNSMOS P.835, found none")
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name

    def rate(waveform: np.ndarray) -> float:
        padded = np.tile(waveform, -(-DNSMOS_SAMPLES // max(len(waveform), 1)))
        hops = range(0, max(len(padded) - DNSMOS_SAMPLES, 0) + 1, RATE_HZ)
        raw = [
            session.run(None, {name: padded[None, hop : hop + DNSMOS_SAMPLES].astype(np.float32)})[0][0][2]
            for hop in hops
        ]
        return float(np.mean(np.polyval(DNSMOS_OVERALL, raw)))

    return rate


def ratings_of(folder: Path, keys: list[str]) -> dict[str, float]:
    """Mean rating of each predictor over the replies of these keys, if there are any."""
    wanted = set(keys)
    found: dict[str, list[float]] = {}
    for record in read_lines(folder / RATINGS):
        key, _, name = record["key"].rpartition(" ")
        if key in wanted:
            found.setdefault(name, []).append(record["rating"])
    return {name: float(np.mean(values)) for name, values in found.items()}
