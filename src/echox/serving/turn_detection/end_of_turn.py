"""End-of-turn model (optional): decides from the audio whether a pause is the end of a sentence.

Source: Pipecat smart-turn v3 (an ONNX model on Whisper features of the last 8 s): one probability that the speaker
has finished. The file belongs to another project and is not in this package; give its path.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from echox.serving.turn_detection.vad import SAMPLING_RATE, open_onnx

WINDOW_S = 8


class EndOfTurn:
    """The end-of-turn model, shared by all sessions.

    Args:
        path: path of its ONNX file.

    Raises:
        ValueError: there is no such file, or it is another model.
    """

    def __init__(self, path: str | Path) -> None:
        from transformers import WhisperFeatureExtractor

        path = Path(path)
        if not path.is_file():
            raise ValueError(f"{path}: expected the ONNX file of an end-of-turn model, found none; check the path")
        self._onnx = open_onnx(path)
        self._features = WhisperFeatureExtractor(chunk_length=WINDOW_S)
        inputs = self._onnx.get_inputs()
        shape = tuple(inputs[0].shape[1:]) if len(inputs) == 1 else ()
        if shape != (self._features.feature_size, 100 * WINDOW_S):
            raise ValueError(
                f"{path}: expected one input (batch, {self._features.feature_size}, {100 * WINDOW_S}), found "
                f"{[(item.name, item.shape) for item in inputs]}; is it a smart-turn v3 model?"
            )
        self._name = inputs[0].name

    def __call__(self, samples: np.ndarray) -> float:
        """Probability that the speaker of samples float32 (S,) at 16 kHz has finished."""
        max_samples = WINDOW_S * SAMPLING_RATE
        window = np.pad(samples[-max_samples:], (max(0, max_samples - len(samples)), 0))  # the end decides
        features = self._features(window, sampling_rate=SAMPLING_RATE, return_tensors="np", do_normalize=True)
        (output, *_) = self._onnx.run(None, {self._name: features["input_features"].astype(np.float32)})
        return float(np.ravel(output)[0])
