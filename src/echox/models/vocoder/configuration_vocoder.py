"""Configurations of the unit vocoders: the light one of nano, the iSTFT vocoder of mini, and code-HiFi-GAN."""

from __future__ import annotations

import math
from typing import Any

from transformers import AutoConfig, PreTrainedConfig

from echox.models.vocoder.source_filter import SpectralGeometry


class UnitVocoderConfig(PreTrainedConfig):
    """The settings that all unit vocoders share.

    Args:
        num_units: size of the unit inventory.
        sampling_rate: of the waveform, Hz.
        frame_rate_hz: units per second before repeats are collapsed; must divide `sampling_rate`.
        num_speakers: 0 = one voice: the vocoder takes no `speaker_ids`.

    Raises:
        ValueError: a rate that does not divide, or a size below 1.
    """

    model_type = "echox_vocoder"

    def __init__(
        self,
        num_units: int = 200,
        sampling_rate: int = 16000,
        frame_rate_hz: int = 50,
        num_speakers: int = 0,
        **kwargs: Any,
    ) -> None:
        if num_units < 1:
            raise ValueError(f"num_units: expected at least 1, found {num_units}")
        if frame_rate_hz < 1 or sampling_rate % frame_rate_hz:
            raise ValueError(
                f"frame_rate_hz: expected a divisor of {sampling_rate} (sampling_rate), found {frame_rate_hz}"
            )
        self.num_units = num_units
        self.sampling_rate = sampling_rate
        self.frame_rate_hz = frame_rate_hz
        self.num_speakers = num_speakers
        super().__init__(**kwargs)

    @property
    def samples_per_frame(self) -> int:
        """Samples of one unit frame: 320 at 16 kHz and 50 frames/s."""
        return self.sampling_rate // self.frame_rate_hz

    @property
    def receptive_field_units(self) -> int:
        """Reduced units to either side that a unit's duration depends on."""
        raise TypeError(f"{type(self).__name__}: expected a configuration with receptive_field_units")

    @property
    def lookahead_units(self) -> int:
        """Later reduced units that a unit's duration depends on."""
        return self.receptive_field_units

    @property
    def right_context_frames(self) -> int:
        """Unit frames that must be known after a frame before its sound is final."""
        raise TypeError(f"{type(self).__name__}: expected a configuration with right_context_frames")


class LightVocoderConfig(UnitVocoderConfig):
    """Sizes of the light vocoder: units -> durations, spectral envelope, pitch and voicing -> source-filter synthesis.

    Args:
        duration_hidden_size, duration_intermediate_size, num_duration_layers: ConvNeXt blocks over reduced units that
            predict durations.
        hidden_size, intermediate_size, num_frame_layers: blocks over unit frames.
        num_fine_layers: blocks over feature frames, ``features_per_frame`` of which make a unit frame.
        kernel_size: of all depthwise convolutions, odd.
        duration_lookahead_units: later units that a duration depends on, in all layers together; None: as many as
            earlier ones. frame_lookahead_frames, fine_lookahead_features: likewise of the other blocks.
        max_duration_frames: longest predicted duration of one unit.
        num_mel_bins, fft_size: of the envelope (`SpectralGeometry`).
        log_mel_mean, log_mel_std: (num_mel_bins,) statistics of the envelope; one number stands for all bins.
        f0_mean_hz, log_f0_std: centre and spread of the pitch, which the network predicts in units of the spread.
        f0_min_hz, f0_max_hz: limits of the predicted pitch.
        breath_from_hz, breath_full_hz, breath_ratio: noise in voiced sound, see `source_filter.breath`. The defaults
            are the mean of flite's slt: periodicity of its vowels by band, against that of pulses and of noise alone.

    Raises:
        ValueError: an even kernel, a lookahead beyond the layers' kernels, a statistic of the wrong length, or (see
            `UnitVocoderConfig`) rates.
    """

    model_type = "echox_light_vocoder"

    def __init__(
        self,
        duration_hidden_size: int = 128,
        duration_intermediate_size: int = 256,
        num_duration_layers: int = 4,
        hidden_size: int = 256,
        intermediate_size: int = 512,
        num_frame_layers: int = 4,
        num_fine_layers: int = 1,
        kernel_size: int = 7,
        duration_lookahead_units: int | None = None,
        frame_lookahead_frames: int | None = None,
        fine_lookahead_features: int | None = None,
        features_per_frame: int = 2,
        max_duration_frames: int = 50,
        num_mel_bins: int = 80,
        fft_size: int = 1024,
        log_mel_mean: list[float] | float = -6.0,
        log_mel_std: list[float] | float = 3.0,
        f0_mean_hz: float = 170.0,
        log_f0_std: float = 0.1,
        f0_min_hz: float = 60.0,
        f0_max_hz: float = 400.0,
        breath_from_hz: float = 1200.0,
        breath_full_hz: float = 5000.0,
        breath_ratio: float = 0.75,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if kernel_size % 2 == 0:
            raise ValueError(f"kernel_size: expected an odd number, found {kernel_size}")
        if self.samples_per_frame % features_per_frame:
            raise ValueError(
                f"features_per_frame: expected a divisor of the {self.samples_per_frame} samples of a unit frame, "
                f"found {features_per_frame}"
            )
        if not 0 <= breath_from_hz < breath_full_hz or not 0 <= breath_ratio <= 1:
            found = (breath_from_hz, breath_full_hz, breath_ratio)
            raise ValueError(
                f"breath: expected 0 <= breath_from_hz < breath_full_hz and a ratio in 0..1, found {found}"
            )
        for name, value in (("log_mel_mean", log_mel_mean), ("log_mel_std", log_mel_std)):
            values = [float(value)] * num_mel_bins if isinstance(value, int | float) else [float(v) for v in value]
            if len(values) != num_mel_bins or not all(math.isfinite(v) for v in values):
                raise ValueError(f"{name}: expected one or num_mel_bins = {num_mel_bins} finite numbers, found {value}")
            setattr(self, name, values)
        self.duration_hidden_size = duration_hidden_size
        self.duration_intermediate_size = duration_intermediate_size
        self.num_duration_layers = num_duration_layers
        self.hidden_size = hidden_size
        self.intermediate_size = intermediate_size
        self.num_frame_layers = num_frame_layers
        self.num_fine_layers = num_fine_layers
        self.kernel_size = kernel_size
        self.duration_lookahead_units = duration_lookahead_units
        self.frame_lookahead_frames = frame_lookahead_frames
        self.fine_lookahead_features = fine_lookahead_features
        for name, layers in (
            ("duration_lookahead_units", num_duration_layers),
            ("frame_lookahead_frames", num_frame_layers),
            ("fine_lookahead_features", num_fine_layers),
        ):
            found, most = getattr(self, name), layers * (kernel_size - 1)
            if found is not None and not 0 <= found <= most:
                raise ValueError(f"{name}: expected 0 to {most} (layers times kernel_size - 1), found {found}")
        self.features_per_frame = features_per_frame
        self.max_duration_frames = max_duration_frames
        self.num_mel_bins = num_mel_bins
        self.fft_size = fft_size
        self.f0_mean_hz = f0_mean_hz
        self.log_f0_std = log_f0_std
        self.f0_min_hz = f0_min_hz
        self.f0_max_hz = f0_max_hz
        self.breath_from_hz = breath_from_hz
        self.breath_full_hz = breath_full_hz
        self.breath_ratio = breath_ratio

    def geometry(self) -> SpectralGeometry:
        """The frequency axis and hop of the features."""
        hop = self.samples_per_frame // self.features_per_frame
        return SpectralGeometry(self.sampling_rate, hop, self.fft_size, self.num_mel_bins)

    @property
    def duration_lookaheads(self) -> list[int]:
        """Of each duration layer: how many later units its kernel covers."""
        return self._spread(self.duration_lookahead_units, self.num_duration_layers)

    @property
    def frame_lookaheads(self) -> list[int]:
        """Of each frame layer, in unit frames."""
        return self._spread(self.frame_lookahead_frames, self.num_frame_layers)

    @property
    def fine_lookaheads(self) -> list[int]:
        """Of each fine layer, in feature frames."""
        return self._spread(self.fine_lookahead_features, self.num_fine_layers)

    def _spread(self, total: int | None, layers: int) -> list[int]:
        """A lookahead spread over layers as evenly as possible, first layers first."""
        if total is None:
            return [self.kernel_size // 2] * layers
        return [total // layers + (layer < total % layers) for layer in range(layers)]

    @property
    def lookahead_units(self) -> int:
        """Later reduced units that a unit's duration depends on."""
        return sum(self.duration_lookaheads)

    @property
    def receptive_field_units(self) -> int:
        """Reduced units to either side that a unit's duration depends on: the larger of both sides."""
        right = self.lookahead_units
        return max(right, self.num_duration_layers * (self.kernel_size - 1) - right)

    @property
    def receptive_field_frames(self) -> int:
        """Unit frames to either side that a frame's features depend on: the larger of both sides."""
        past, per_frame = self.kernel_size - 1, self.features_per_frame
        frames, fine = sum(self.frame_lookaheads), sum(self.fine_lookaheads)
        sides = (frames, fine), (past * self.num_frame_layers - frames, past * self.num_fine_layers - fine)
        return max(frames + -(-fine // per_frame) for frames, fine in sides)

    @property
    def right_context_frames(self) -> int:
        """Unit frames that must be known after a frame before its sound is final.

        Its samples depend on the synthesis window of the next feature frame, which needs the pulses of the one after.
        """
        return sum(self.frame_lookaheads) + -(-(sum(self.fine_lookaheads) + 2) // self.features_per_frame)


class ISTFTVocoderConfig(LightVocoderConfig):
    """Sizes of the iSTFT vocoder: as the light vocoder, with more learned of the source; see `ISTFTVocoder`.

    Args:
        **kwargs: see `LightVocoderConfig`. The defaults differ: short lookaheads, features every 5 ms.
    """

    model_type = "echox_istft_vocoder"

    def __init__(self, **kwargs: Any) -> None:
        defaults = {
            "duration_lookahead_units": 3,
            "num_frame_layers": 6,
            "frame_lookahead_frames": 6,
            "num_fine_layers": 2,
            "fine_lookahead_features": 4,
            "features_per_frame": 4,
            "fft_size": 512,
            "f0_mean_hz": 110.0,
            "log_f0_std": 0.2,
        }
        super().__init__(**{**defaults, **kwargs})


class CodeHiFiGANConfig(UnitVocoderConfig):
    """Sizes of code-HiFi-GAN. The defaults are those of the public mHuBERT km1000 LJSpeech vocoder.

    Args:
        embedding_size: of a unit, and of a speaker when there are speakers.
        default_speaker_id: the voice, if there are several and the caller gives none.
        upsample_rates, upsample_kernel_sizes: of the transposed convolutions; the rates multiply to the samples of a
            unit frame, and kernel and rate of each are both even or both odd, so that lengths multiply exactly.
        upsample_initial_channels: channels before the first of them; each halves.
        resblock_kernel_sizes, resblock_dilation_sizes: of the residual blocks that are averaged after each.
        duration_hidden_size, duration_kernel_size, duration_dropout: of the duration predictor; the kernel is odd.
        weight_norm: weights are stored as direction and length (training), not folded (inference).

    Raises:
        ValueError: rates that do not multiply to the samples of a frame, kernels that do not fit their rate, lists of
            different lengths.

    Source: Polyak et al. 2021 (arXiv 2104.00355); Kong et al. 2020 (arXiv 2010.05646); layout and keys of fairseq's
    released code-HiFi-GAN (https://github.com/facebookresearch/fairseq, examples/speech_to_speech).
    """

    model_type = "echox_code_hifigan"

    def __init__(
        self,
        num_units: int = 1000,
        embedding_size: int = 128,
        default_speaker_id: int = 0,
        upsample_rates: list[int] | None = None,
        upsample_kernel_sizes: list[int] | None = None,
        upsample_initial_channels: int = 512,
        resblock_kernel_sizes: list[int] | None = None,
        resblock_dilation_sizes: list[list[int]] | None = None,
        duration_hidden_size: int = 128,
        duration_kernel_size: int = 3,
        duration_dropout: float = 0.5,
        weight_norm: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(num_units=num_units, **kwargs)
        self.embedding_size = embedding_size
        self.default_speaker_id = default_speaker_id
        self.upsample_rates = upsample_rates or [5, 4, 4, 2, 2]
        self.upsample_kernel_sizes = upsample_kernel_sizes or [11, 8, 8, 4, 4]
        self.upsample_initial_channels = upsample_initial_channels
        self.resblock_kernel_sizes = resblock_kernel_sizes or [3, 7, 11]
        self.resblock_dilation_sizes = resblock_dilation_sizes or [[1, 3, 5]] * len(self.resblock_kernel_sizes)
        self.duration_hidden_size = duration_hidden_size
        self.duration_kernel_size = duration_kernel_size
        self.duration_dropout = duration_dropout
        self.weight_norm = weight_norm
        self._check()

    def _check(self) -> None:
        rates, kernels = self.upsample_rates, self.upsample_kernel_sizes
        if math.prod(rates) != self.samples_per_frame:
            raise ValueError(
                f"upsample_rates: expected a product of {self.samples_per_frame} (sampling_rate / "
                f"frame_rate_hz), found {rates} = {math.prod(rates)}"
            )
        if len(rates) != len(kernels) or any(k < u or (k - u) % 2 for k, u in zip(kernels, rates, strict=True)):
            raise ValueError(
                f"upsample_kernel_sizes: expected one for each of {rates}, not smaller and of the same "
                f"parity, found {kernels}"
            )
        if len(self.resblock_kernel_sizes) != len(self.resblock_dilation_sizes):
            raise ValueError(
                f"resblock_dilation_sizes: expected one list for each of {self.resblock_kernel_sizes}, "
                f"found {self.resblock_dilation_sizes}"
            )
        if self.duration_kernel_size % 2 == 0:
            raise ValueError(f"duration_kernel_size: expected an odd number, found {self.duration_kernel_size}")
        if self.upsample_initial_channels % 2 ** len(rates):
            raise ValueError(
                f"upsample_initial_channels: expected a multiple of {2 ** len(rates)} (halved {len(rates)} times), "
                f"found {self.upsample_initial_channels}"
            )
        if self.num_speakers and not 0 <= self.default_speaker_id < self.num_speakers:
            last = self.num_speakers - 1
            raise ValueError(f"default_speaker_id: expected 0 to {last}, found {self.default_speaker_id}")

    @property
    def receptive_field_units(self) -> int:
        """Reduced units to either side that a unit's duration depends on: two convolutions."""
        return 2 * (self.duration_kernel_size // 2)

    @property
    def receptive_field_frames(self) -> int:
        """Unit frames to either side that a sample depends on."""
        return max(self.left_context_frames, self.right_context_frames)

    @property
    def left_context_frames(self) -> int:
        """Unit frames before a frame that it depends on."""
        return -self._input_frames(0)[0]

    @property
    def right_context_frames(self) -> int:
        """Unit frames that must be known after a frame before its sound is final."""
        return self._input_frames(self.samples_per_frame - 1)[1]

    def _input_frames(self, sample: int) -> tuple[int, int]:
        """First and last unit frame that a sample depends on: its interval, followed back from layer to layer."""
        first, last = sample - 3, sample + 3  # conv_post
        blocks = zip(self.resblock_kernel_sizes, self.resblock_dilation_sizes, strict=True)
        reach = max(sum(kernel // 2 * (dilation + 1) for dilation in dilations) for kernel, dilations in blocks)
        for rate, kernel in zip(reversed(self.upsample_rates), reversed(self.upsample_kernel_sizes), strict=True):
            padding = (kernel - rate) // 2
            first = -((kernel - 1 - padding - (first - reach)) // rate)  # rounded up
            last = (last + reach + padding) // rate
        return first - 3, last + 3  # conv_pre


AutoConfig.register(LightVocoderConfig.model_type, LightVocoderConfig, exist_ok=True)
AutoConfig.register(ISTFTVocoderConfig.model_type, ISTFTVocoderConfig, exist_ok=True)
AutoConfig.register(CodeHiFiGANConfig.model_type, CodeHiFiGANConfig, exist_ok=True)
