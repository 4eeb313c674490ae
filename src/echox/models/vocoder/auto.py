"""`AutoUnitVocoder`: the unit vocoder that a configuration names by its ``model_type``."""

from __future__ import annotations

import os
from typing import Any

from transformers import AutoModel

from echox.models.vocoder.configuration_vocoder import (
    CodeHiFiGANConfig,
    ISTFTVocoderConfig,
    LightVocoderConfig,
    UnitVocoderConfig,
)
from echox.models.vocoder.modeling_hifigan import CodeHiFiGAN
from echox.models.vocoder.modeling_istft_vocoder import ISTFTVocoder
from echox.models.vocoder.modeling_light_vocoder import LightVocoder
from echox.models.vocoder.modeling_unit_vocoder import UnitVocoder

AutoModel.register(LightVocoderConfig, LightVocoder, exist_ok=True)
AutoModel.register(ISTFTVocoderConfig, ISTFTVocoder, exist_ok=True)
AutoModel.register(CodeHiFiGANConfig, CodeHiFiGAN, exist_ok=True)


class AutoUnitVocoder:
    """Makes or loads the vocoder that a configuration or a folder names."""

    @staticmethod
    def from_config(config: UnitVocoderConfig) -> UnitVocoder:
        """A vocoder with new weights."""
        vocoder: UnitVocoder = AutoModel.from_config(config)
        return vocoder

    @staticmethod
    def from_pretrained(folder_or_id: str | os.PathLike[str], **options: Any) -> UnitVocoder:
        """A trained vocoder, in eval mode.

        Args:
            folder_or_id: folder or repository of the Hugging Face hub.
            **options: as ``PreTrainedModel.from_pretrained`` takes them.

        Raises:
            OSError: there is no such folder. ValueError: it is not a known vocoder.
        """
        vocoder: UnitVocoder = AutoModel.from_pretrained(folder_or_id, **options)
        return vocoder.eval()
