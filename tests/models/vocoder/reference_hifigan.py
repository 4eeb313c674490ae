"""The reference's code-HiFi-GAN, from its golden files: configuration, weights, cases and their waveforms."""

from __future__ import annotations

import json
from typing import Any

from safetensors.torch import load_file
from torch import Tensor

from echox.models.vocoder.configuration_vocoder import CodeHiFiGANConfig
from echox.models.vocoder.modeling_hifigan import CodeHiFiGAN
from paths import GOLDEN

SPELLING = {"weight_g": "parametrizations.weight.original0", "weight_v": "parametrizations.weight.original1"}


def reference_hifigan(name: str) -> CodeHiFiGAN:
    """The vocoder "single" or "multispkr", weights folded."""
    reference = json.loads((GOLDEN / f"D_vocoder_{name}_config.json").read_text())
    durations = reference["dur_predictor_params"]
    vocoder = CodeHiFiGAN(
        CodeHiFiGANConfig(
            num_units=reference["num_embeddings"],
            embedding_size=reference["embedding_dim"],
            num_speakers=reference.get("num_speakers", 0) if reference.get("multispkr") else 0,
            upsample_rates=reference["upsample_rates"],
            upsample_kernel_sizes=reference["upsample_kernel_sizes"],
            upsample_initial_channels=reference["upsample_initial_channel"],
            resblock_kernel_sizes=reference["resblock_kernel_sizes"],
            resblock_dilation_sizes=reference["resblock_dilation_sizes"],
            duration_hidden_size=durations["var_pred_hidden_dim"],
            duration_kernel_size=durations["var_pred_kernel_size"],
        )
    ).eval()
    weights = {}
    for key, value in load_file(GOLDEN / f"D_vocoder_{name}_weights.safetensors").items():
        stem, _, last = key.rpartition(".")
        weights[f"{stem}.{SPELLING.get(last, last)}"] = value
    vocoder.load_state_dict(weights)
    return vocoder.fold_weight_norm()


def reference_cases(name: str) -> dict[str, tuple[dict[str, Any], Tensor]]:
    """Facts and waveform (S,) of each case that this vocoder spoke."""
    outputs = load_file(GOLDEN / "D_vocoder.safetensors")
    cases = json.loads((GOLDEN / "D_vocoder.json").read_text())[name]["cases"]
    return {case: (facts, outputs[f"{case}.wav"]) for case, facts in cases.items()}
