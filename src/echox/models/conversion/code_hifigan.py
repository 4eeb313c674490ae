"""Conversion of public code-HiFi-GAN checkpoints (fairseq's unit vocoders) to `CodeHiFiGAN`.

A checkpoint is a file ``g_00500000`` and its configuration in JSON. Names are the same; pairs ``weight_g``,
``weight_v`` become one plain weight.

Source: https://github.com/facebookresearch/speech-resynthesis (names and configuration);
https://dl.fbaipublicfiles.com/fairseq/speech_to_speech/vocoder/code_hifigan/mhubert_vp_en_es_fr_it3_400k_layer11_km1000_lj
(the vocoder of the official EchoX).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from echox.models.conversion.checkpoint import JsonObject, StoredTensor, open_weights, read_json
from echox.models.vocoder.configuration_vocoder import CodeHiFiGANConfig

PUBLIC_VOCODER = (
    "https://dl.fbaipublicfiles.com/fairseq/speech_to_speech/vocoder/code_hifigan/"
    "mhubert_vp_en_es_fr_it3_400k_layer11_km1000_lj"
)
DEFAULT_SPEAKER_ID = 1
"""The voice that the official scripts use of a vocoder with several voices."""


@dataclass(frozen=True)
class VocoderFiles:
    """A published vocoder: weights and configuration."""

    weights: Path
    config: Path


def find_vocoder(place: str | Path) -> VocoderFiles | None:
    """The vocoder in a folder (``g_*`` beside a JSON file), or of a weights file; None if there is none.

    Raises:
        ValueError: weights without a configuration beside them, or several of either.
    """
    place = Path(place)
    folder = place if place.is_dir() else place.parent
    weights = sorted(folder.glob("g_*")) if place.is_dir() else [place] * place.is_file()
    if not weights:
        return None
    configs = [file for file in sorted(folder.glob("*.json")) if "upsample_rates" in read_json(file)]
    if len(weights) != 1 or len(configs) != 1:
        raise ValueError(
            f"{folder}: expected one g_* file and one JSON file with upsample_rates, found "
            f"{len(weights)} and {len(configs)}; name the weights file"
        )
    return VocoderFiles(weights[0], configs[0])


def vocoder_config(values: JsonObject, shapes: dict[str, tuple[int, ...]] | None = None) -> CodeHiFiGANConfig:
    """Our configuration of a published one.

    Args:
        values: of the JSON file.
        shapes: of the weights, if known: the number of speakers is not always in the JSON file.

    Raises:
        ValueError: a field is missing, or a feature that `CodeHiFiGAN` does not have.
    """
    for name in ("f0", "f0_quant_num_bin", "embedder_params"):
        if values.get(name):
            raise ValueError(
                f"vocoder: expected a vocoder of units (and speaker ids) only, found {name} in its configuration"
            )
    if str(values.get("resblock", "1")) != "1":
        raise ValueError(f"vocoder: expected residual blocks of type 1, found {values['resblock']!r}")
    try:
        rates, durations = values["upsample_rates"], values["dur_predictor_params"]
        sampling_rate = int(values["sampling_rate"])
        speakers = 0
        if values.get("multispkr"):
            speakers = (shapes or {}).get("spkr.weight", (int(values.get("num_speakers", 200)),))[0]
        embedding = int(values["embedding_dim"])
        channels = embedding * (2 if speakers else 1)
        if int(values.get("model_in_dim", channels)) != channels:
            raise ValueError(
                f"vocoder: expected model_in_dim {channels} (units{' and speaker' if speakers else ''}), "
                f"found {values['model_in_dim']}"
            )
        if int(durations["encoder_embed_dim"]) != embedding:
            raise ValueError(
                f"vocoder: expected dur_predictor_params.encoder_embed_dim {embedding}, found "
                f"{durations['encoder_embed_dim']}"
            )
        return CodeHiFiGANConfig(
            num_units=int(values["num_embeddings"]),
            sampling_rate=sampling_rate,
            frame_rate_hz=sampling_rate // math.prod(rates),
            num_speakers=speakers,
            default_speaker_id=min(DEFAULT_SPEAKER_ID, max(speakers - 1, 0)),
            embedding_size=embedding,
            upsample_rates=list(rates),
            upsample_kernel_sizes=list(values["upsample_kernel_sizes"]),
            upsample_initial_channels=int(values["upsample_initial_channel"]),
            resblock_kernel_sizes=list(values["resblock_kernel_sizes"]),
            resblock_dilation_sizes=[list(dilations) for dilations in values["resblock_dilation_sizes"]],
            duration_hidden_size=int(durations["var_pred_hidden_dim"]),
            duration_kernel_size=int(durations["var_pred_kernel_size"]),
            duration_dropout=float(durations.get("var_pred_dropout", 0.5)),
            weight_norm=False,
        )
    except KeyError as error:
        raise ValueError(f"vocoder: expected the field {error} in its configuration, found none") from error


def open_vocoder(files: VocoderFiles) -> tuple[CodeHiFiGANConfig, dict[str, StoredTensor]]:
    """Configuration and folded weights; no tensor is read yet.

    Raises:
        ValueError: a broken file, or a vocoder of another kind.
    """
    stored = fold(open_weights(files.weights))
    return vocoder_config(read_json(files.config), {name: value.shape for name, value in stored.items()}), stored


def fold(stored: dict[str, StoredTensor]) -> dict[str, StoredTensor]:
    """Each pair ``name_g`` (length), ``name_v`` (direction) as one weight; other tensors unchanged."""
    folded = {}
    for name, tensor in stored.items():
        if name.endswith("weight_v") and f"{name[:-1]}g" in stored:
            load = _folder(stored[f"{name[:-1]}g"].load, tensor.load)
            folded[name[: -len("_v")]] = StoredTensor(tensor.shape, tensor.dtype, load)
        elif not (name.endswith("weight_g") and f"{name[:-1]}v" in stored):
            folded[name] = tensor
    return folded


def _folder(length: Callable[[], Tensor], direction: Callable[[], Tensor]) -> Callable[[], Tensor]:
    # The length is over all axes but the first, also if the first is the input (transposed convolutions).
    return lambda: torch._weight_norm(direction(), length(), 0)
