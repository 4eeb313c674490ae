"""Which attention kernel an audio tower is trained with: the faster one for the device and the length of the audio."""

from __future__ import annotations

import torch

SHORT_AUDIO_MEL_FRAMES = 350
"""3.5 s of audio. Measured on one thread of an AMD EPYC (torch 2.13, bf16 autocast), CPU time of a forward and backward
pass with "eager" as a multiple of the time with "sdpa", for a tower of 6 layers of 192: 0.66 at 1.2 s, 0.67 at 2.3 s,
1.11 at 4 s, 1.10 at 7 s. One layer of 1280 at 30 s: 1.77. In float32, and forward only, "sdpa" is never slower."""


def tower_attention(device: torch.device, trained: bool, precision: str, mel_frames: float) -> str:
    """The attention implementation of transformers for an audio tower: "eager" or "sdpa".

    "eager" holds the scores of all pairs of frames, so its memory grows with the square of the length; it is chosen
    only where that is small and it was measured to be faster.

    Args:
        device: where the tower runs.
        trained: whether gradients go through the tower.
        precision: of the run, "bf16" or "fp32".
        mel_frames: usual length of an audio (100 frames a second).
    """
    short = mel_frames <= SHORT_AUDIO_MEL_FRAMES
    return "eager" if device.type == "cpu" and trained and precision == "bf16" and short else "sdpa"
