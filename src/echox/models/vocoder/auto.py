"""Any unit vocoder, by the ``model_type`` of its configuration."""

from __future__ import annotations

import os
from typing import Any

from transformers import AutoModel

from echox.models.vocoder.configuration_vocoder import CodeHiFiGANConfig, LightVocoderConfig, UnitVocoderConfig
from echox.models.vocoder.modeling_hifigan import CodeHiFiGAN
from echox.models.vocoder.modeling_light_vocoder import LightVocoder
from echox.models.vocoder.modeling_unit_vocoder import UnitVocoder

AutoModel.register(LightVocoderConfig, LightVocoder, exist_ok=True)
AutoModel.register(CodeHiFiGANConfig, CodeHiFiGAN, exist_ok=True)


class AutoUnitVocoder:
    """The class of vocoder that a configuration or a folder names."""

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
            OSError: nothing is there. ValueError: it is no vocoder that is known here.
        """
        vocoder: UnitVocoder = AutoModel.from_pretrained(folder_or_id, **options)
        return vocoder.eval()
