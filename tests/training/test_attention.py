"""The attention kernel of an audio tower: chosen by device, gradients, precision and length of the audio."""

import pytest
import torch

from echox.training.networks.attention import SHORT_AUDIO_MEL_FRAMES, tower_attention


@pytest.mark.parametrize(
    ("device", "trained", "precision", "mel_frames", "expected"),
    [
        ("cpu", True, "bf16", 120, "eager"),
        ("cpu", True, "bf16", SHORT_AUDIO_MEL_FRAMES + 1, "sdpa"),  # a tower of 1280 at 30 s: 1.77 x the time
        ("cpu", True, "fp32", 120, "sdpa"),
        ("cpu", False, "bf16", 120, "sdpa"),
        ("cuda", True, "bf16", 120, "sdpa"),
        ("mps", True, "bf16", 120, "sdpa"),
    ],
)
def test_the_quadratic_kernel_is_for_short_audio_on_a_cpu_only(device, trained, precision, mel_frames, expected):
    assert tower_attention(torch.device(device), trained, precision, mel_frames) == expected
