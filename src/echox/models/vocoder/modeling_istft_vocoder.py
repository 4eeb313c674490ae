"""The iSTFT vocoder of mini: the light vocoder with a source that is learned too, made to be trained adversarially.

ConvNeXt blocks predict, each few ms, the spectral envelope, and for each of its bands how much of it is periodic and
the phase of its pulses; an inverse STFT turns the filtered spectra of pulses and noise into sound. Pulses carry the
pitch and its phase from frame to frame, which a head without a source (Vocos) has to learn from much data.

Shapes as in `modeling_light_vocoder.py`.

Source: Siuzdak 2023, Vocos (arXiv 2306.00814): ConvNeXt at one frame rate and an iSTFT head; Wang et al. 2019, neural
source-filter models (arXiv 1810.11946); Li et al. 2023, HiFTNet (arXiv 2309.09493): both together. Band-wise filters of
pulses and noise instead of free spectra are ours.
"""

from __future__ import annotations

import torch
from torch import nn

from echox.models.vocoder.configuration_vocoder import ISTFTVocoderConfig
from echox.models.vocoder.modeling_light_vocoder import LightVocoder


class ISTFTVocoder(LightVocoder):
    """Units -> durations, envelope, pitch, voicing, and periodicity and phase of each band -> inverse STFT.

    Example:
        >>> vocoder = ISTFTVocoder(ISTFTVocoderConfig(num_units=200))
        >>> vocoder(torch.tensor([[3, 17, 4]])).waveform.shape[0]
        1
    """

    config: ISTFTVocoderConfig
    config_class = ISTFTVocoderConfig

    def __init__(self, config: ISTFTVocoderConfig) -> None:
        super().__init__(config)
        with torch.no_grad():  # at first the light vocoder's source
            nn.init.zeros_(self.feature_head.weight[: self.band_channels])

    @property
    def band_channels(self) -> int:
        """Periodicity and phase of each band."""
        return 2 * self.config.num_mel_bins
