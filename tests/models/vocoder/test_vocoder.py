"""Unit vocoders: exact lengths, padding changes nothing, source-filter synthesis, golden outputs of code-HiFi-GAN."""

import math

import pytest
import torch
from transformers import AutoModel

from echox.models.vocoder.auto import AutoUnitVocoder
from echox.models.vocoder.configuration_vocoder import CodeHiFiGANConfig, ISTFTVocoderConfig, LightVocoderConfig
from echox.models.vocoder.modeling_hifigan import CodeHiFiGAN
from echox.models.vocoder.modeling_istft_vocoder import ISTFTVocoder
from echox.models.vocoder.modeling_light_vocoder import LightVocoder
from echox.models.vocoder.modeling_unit_vocoder import frame_positions
from echox.models.vocoder.source_filter import SpectralGeometry, breath, position_noise, pulse_train, synthesise
from echox.training.stages.voice.acoustics import AnalysisConfig, acoustic_targets, log_spectral_distance_db, pitch
from reference_hifigan import GOLDEN, reference_cases, reference_hifigan
from tolerance import assert_equal_up_to_rounding

GEOMETRY = SpectralGeometry()


def light(**sizes) -> LightVocoder:
    small = {
        "num_units": 20,
        "duration_hidden_size": 16,
        "duration_intermediate_size": 16,
        "num_duration_layers": 1,
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_frame_layers": 1,
        "num_fine_layers": 1,
    }
    return LightVocoder(LightVocoderConfig(**{**small, **sizes})).eval()


def istft(**sizes) -> ISTFTVocoder:
    small = {
        "num_units": 20,
        "duration_hidden_size": 16,
        "duration_intermediate_size": 16,
        "num_duration_layers": 1,
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_frame_layers": 2,
        "num_fine_layers": 1,
    }
    vocoder = ISTFTVocoder(ISTFTVocoderConfig(**{**small, **sizes})).eval()
    torch.nn.init.normal_(vocoder.feature_head.weight[: vocoder.band_channels], std=0.3)
    return vocoder


def hifigan(**sizes) -> CodeHiFiGAN:
    small = {
        "num_units": 20,
        "embedding_size": 8,
        "upsample_initial_channels": 32,
        "duration_hidden_size": 8,
        "resblock_kernel_sizes": [3],
        "resblock_dilation_sizes": [[1, 3, 5]],
    }
    return CodeHiFiGAN(CodeHiFiGANConfig(**{**small, **sizes})).eval()


ALL = pytest.mark.parametrize("build", [light, istft, hifigan])


@ALL
def test_length_is_the_sum_of_durations(build):
    vocoder = build()
    units = torch.tensor([[3, 7, 1], [4, 5, -1]])
    with torch.inference_mode():
        said = vocoder(units, torch.tensor([[2, 1, 4], [3, 3, 0]]))
        guessed = vocoder(units)
    assert said.waveform_lengths.tolist() == [7 * 320, 6 * 320]
    assert said.waveform.shape == (2, 7 * 320)
    assert not said.waveform[1, 6 * 320 :].any()
    assert (guessed.durations_frames[units >= 0] >= 1).all()
    assert guessed.durations_frames[1, 2] == 0
    assert (guessed.durations_frames.sum(1) * 320).tolist() == guessed.waveform_lengths.tolist()
    assert (vocoder.sampling_rate, vocoder.frame_rate_hz) == (16000, 50)


@ALL
def test_a_padded_row_sounds_as_it_does_alone(build):
    vocoder = build()
    rows = [[3, 7, 1, 9, 12, 5], [4, 5], [8, 8, 2]]
    units = torch.nn.utils.rnn.pad_sequence([torch.tensor(row) for row in rows], True, -1)
    with torch.inference_mode():
        together = vocoder(units)
        for number, row in enumerate(rows):
            alone = vocoder(torch.tensor([row]))
            length = int(together.waveform_lengths[number])
            assert alone.waveform.shape[1] == length
            assert together.durations_frames[number, : len(row)].tolist() == alone.durations_frames[0].tolist()
            torch.testing.assert_close(together.waveform[number, :length], alone.waveform[0], atol=1e-4, rtol=0)
        torch.testing.assert_close(vocoder(units).waveform, together.waveform, atol=0, rtol=0)  # no dice


@ALL
def test_negative_units_are_dropped_wherever_they_are(build):
    vocoder = build()
    with torch.inference_mode():
        plain = vocoder(torch.tensor([[5, 6, 7]]), torch.tensor([[1, 2, 3]]))
        holes = vocoder(torch.tensor([[-1, 5, 6, -1, 7]]), torch.tensor([[9, 1, 2, 9, 3]]))
    torch.testing.assert_close(plain.waveform, holes.waveform, atol=0, rtol=0)
    assert holes.durations_frames.tolist() == [[1, 2, 3]]


@ALL
def test_save_and_load(build, tmp_path):
    vocoder = build()
    vocoder.save_pretrained(tmp_path)
    loaded = AutoUnitVocoder.from_pretrained(tmp_path)
    assert type(loaded) is type(vocoder)
    units = torch.tensor([[3, 7, 1, 9]])
    with torch.inference_mode():
        torch.testing.assert_close(loaded(units).waveform, vocoder(units).waveform, atol=0, rtol=0)


@pytest.mark.parametrize(
    ("units", "durations", "message"),
    [
        ([[1, 2], [-1, -1]], None, r"at least one unit in each row, found shape \(2, 2\) with \[2, 0\]"),
        ([[1, 20]], None, "below num_units = 20, found 20"),
        ([[1, 2]], [[1, 0]], "at least 1 for each unit"),
        ([[1, 2]], [[1]], r"in shape \(1, 2\), found shape \(1, 1\)"),
    ],
)
def test_bad_input_is_named(units, durations, message):
    with pytest.raises(ValueError, match=message):
        light()(torch.tensor(units), None if durations is None else torch.tensor(durations))


def test_speakers_where_there_are_none():
    with pytest.raises(ValueError, match="with 0 speakers: none at all"):
        light()(torch.tensor([[1]]), speaker_ids=torch.tensor([0]))
    spoken = hifigan(num_speakers=2)
    with torch.inference_mode():
        first, second = (spoken(torch.tensor([[1, 2]]), torch.tensor([[2, 2]]), torch.tensor([s])) for s in (0, 1))
    assert not torch.equal(first.waveform, second.waveform)


def test_bad_sizes_are_named():
    with pytest.raises(ValueError, match="upsample_rates: expected a product of 320"):
        CodeHiFiGANConfig(upsample_rates=[5, 4, 4, 2, 4])
    with pytest.raises(ValueError, match="upsample_kernel_sizes"):
        CodeHiFiGANConfig(upsample_kernel_sizes=[10, 8, 8, 4, 4])
    with pytest.raises(ValueError, match="frame_rate_hz"):
        LightVocoderConfig(frame_rate_hz=37)
    with pytest.raises(ValueError, match="breath"):
        LightVocoderConfig(breath_ratio=2.0)
    with pytest.raises(ValueError, match="log_mel_mean"):
        LightVocoderConfig(log_mel_mean=[1.0, 2.0])


def test_receptive_field_is_as_documented():
    vocoder = light(num_frame_layers=2, num_fine_layers=1)
    reach = vocoder.config.receptive_field_frames
    units = torch.arange(20).repeat(3)[None]
    other = units.clone()
    other[0, 30] = 0
    frames = torch.ones_like(units)
    with torch.inference_mode():
        change = (vocoder.features(units, frames).log_mel - vocoder.features(other, frames).log_mel).abs().amax(-1)[0]
    touched = change.view(-1, 2).amax(1).nonzero().flatten()
    assert touched.min() >= 30 - reach
    assert touched.max() <= 30 + reach
    assert touched.max() - touched.min() >= 2 * (reach - 1)


def test_frame_positions():
    unit_of_frame, elapsed, inside = frame_positions(torch.tensor([[2, 1, 3], [1, 2, 0]]))
    assert unit_of_frame[0].tolist() == [0, 0, 1, 2, 2, 2]
    assert elapsed[0].tolist() == [0, 1, 0, 0, 1, 2]
    assert inside.sum(1).tolist() == [6, 3]
    assert unit_of_frame[1, :3].tolist() == [0, 1, 1]


# ------------------------------------------------------------------------------------------------ the analytic voice


def test_noise_depends_on_the_place_alone():
    whole = position_noise(0, 5000)
    torch.testing.assert_close(position_noise(1234, 100), whole[1234:1334], atol=0, rtol=0)
    assert abs(float(whole.mean())) < 0.05
    assert abs(float(whole.square().mean()) - 1) < 0.05
    correlation = torch.fft.irfft(torch.fft.rfft(whole, 16384).abs().square())[1:200] / 5000
    assert correlation.abs().max() < 0.1


def test_pulses_keep_pitch_and_power():
    pulses, phases = pulse_train(torch.full((1, 100), 160.0), GEOMETRY)
    assert abs(float(pulses.square().sum(1)) / 16000 - 1) < 0.02
    assert abs(float(phases[0, -1]) - 0.0) < 1e-6 or abs(float(phases[0, -1]) - 1.0) < 1e-6  # 160 whole periods
    spectrum = torch.fft.rfft(pulses[0]).abs()
    assert int(spectrum[50:250].argmax()) + 50 == 160


@pytest.mark.parametrize("f0_hz", [110.0, 154.0, 205.0, 280.0])
def test_pitch_of_harmonic_tones(f0_hz):
    time_s = torch.arange(8000) / 16000
    tone = sum(0.3 / n * torch.sin(2 * math.pi * n * f0_hz * time_s + n) for n in range(1, 15))
    found, periodicity = pitch(tone, GEOMETRY, AnalysisConfig())
    inner = slice(3, -3)
    assert (found[inner] - f0_hz).abs().max() < 0.02 * f0_hz
    assert periodicity[inner].min() > 0.9


def test_noise_and_silence_have_no_pitch():
    for signal in (0.1 * position_noise(0, 16000), torch.zeros(16000)):
        assert acoustic_targets(signal, GEOMETRY, AnalysisConfig()).voiced.float().mean() < 0.05


def test_analysis_undoes_synthesis():
    frames = 120
    time = torch.linspace(0, 1, frames)
    bands = torch.linspace(0, 1, 80)
    log_mel = -3 - 5 * bands + 2 * torch.cos(2 * math.pi * (2 * bands[None] + time[:, None]))  # formants that move
    f0_hz = 170 + 25 * torch.sin(2 * math.pi * time)
    voicing = (time < 0.6).float()
    waveform, _ = synthesise(log_mel[None], f0_hz[None], voicing[None], GEOMETRY)
    found = acoustic_targets(waveform[0], GEOMETRY, AnalysisConfig())
    middle = slice(4, 66)
    assert found.voiced[middle].all()
    assert found.voiced[78:-4].float().mean() < 0.2
    assert (found.f0_hz[middle] - f0_hz[middle]).abs().max() < 3
    assert (found.log_mel[middle] - log_mel[middle]).abs().mean() < 0.35
    again, _ = synthesise(found.log_mel[None], found.f0_hz[None], found.voiced.float()[None], GEOMETRY)
    assert log_spectral_distance_db(again[0], waveform[0], GEOMETRY, AnalysisConfig()) < 2.0


def test_breath_replaces_high_pulses_by_noise_of_equal_power():
    ratio = breath(GEOMETRY, 1200, 5000, 0.75)
    assert ratio[0] == 1
    assert ratio[-1] == 0.25
    assert (ratio.diff() <= 0).all()
    flat, f0_hz, voiced = torch.full((1, 200, 80), -4.0), torch.full((1, 200), 170.0), torch.ones(1, 200)
    pulses = synthesise(flat, f0_hz, voiced, GEOMETRY)[0][0]
    breathy = synthesise(flat, f0_hz, voiced, GEOMETRY, pulse_ratio=ratio)[0][0]
    assert log_spectral_distance_db(breathy, pulses, GEOMETRY, AnalysisConfig()) < 2.0
    low, high = (
        (
            torch.fft.rfft(breathy - pulses).abs().square()[band].sum()
            / torch.fft.rfft(pulses).abs().square()[band].sum()
        )
        for band in (slice(0, 2000), slice(12000, 16000))
    )
    assert low < 0.01
    assert high > 0.5


def test_a_part_equals_the_same_part_of_the_whole():
    generator = torch.Generator().manual_seed(1)
    log_mel = -4 + torch.randn(1, 60, 80, generator=generator)
    f0_hz = 170 + 20 * torch.rand(1, 60, generator=generator)
    voicing = torch.rand(1, 60, generator=generator)
    whole, phases = synthesise(log_mel, f0_hz, voicing, GEOMETRY)
    first, last = 30, 50
    start = first - GEOMETRY.context_frames
    part = slice(start, last + 1)  # left context, and one frame of right context
    piece, _ = synthesise(log_mel[:, part], f0_hz[:, part], voicing[:, part], GEOMETRY, start, phases[:, start])
    hop = GEOMETRY.hop_samples
    ours = piece[:, (first - start) * hop : (last - start) * hop]
    assert_equal_up_to_rounding(ours, whole[:, first * hop : last * hop])


# ------------------------------------------------------------------------------------------------ code-HiFi-GAN


def test_folding_weight_norm_changes_nothing(tmp_path):
    vocoder = hifigan()
    units = torch.tensor([[3, 7, 1, 9]])
    lengths = sum(value.numel() for name, value in vocoder.named_parameters() if name.endswith("original0"))
    parameters = vocoder.num_parameters() - lengths
    with torch.inference_mode():
        before = vocoder(units).waveform
        after = vocoder.fold_weight_norm()(units).waveform
        vocoder.save_pretrained(tmp_path)
        loaded = AutoModel.from_pretrained(tmp_path)(units).waveform
    assert not any("parametrizations" in name for name in vocoder.state_dict())
    assert vocoder.num_parameters() == parameters
    assert not list(vocoder.buffers())
    assert_equal_up_to_rounding(after, before)
    torch.testing.assert_close(loaded, after, atol=0, rtol=0)


@pytest.mark.skipif(not GOLDEN.is_dir(), reason=f"the golden outputs of the reference are not at {GOLDEN}")
@pytest.mark.parametrize("name", ["single", "multispkr"])
def test_golden_waveforms_of_the_reference(name):
    vocoder = reference_hifigan(name)
    for case, (facts, waveform) in reference_cases(name).items():
        units = torch.tensor([facts["codes"]])
        speaker = None if facts["speaker"] is None else torch.tensor([facts["speaker"]])
        with torch.inference_mode():
            said = vocoder(units, None if facts["dur_prediction"] else torch.ones_like(units), speaker)
        if facts["dur_prediction"]:
            assert said.durations_frames[0].tolist() == facts["durations"], case
        assert said.waveform.shape[1] == facts["n_samples"], case
        torch.testing.assert_close(said.waveform[0], waveform, atol=1e-4, rtol=0, msg=case)
