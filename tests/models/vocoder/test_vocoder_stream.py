"""Speech in parts equals the whole, for any split, chunk size and batch, and is emitted as early as documented."""

import itertools
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import echox
from echox.models.echox.modeling_echox import EchoXForConditionalGeneration
from echox.models.vocoder.configuration_vocoder import CodeHiFiGANConfig, ISTFTVocoderConfig, LightVocoderConfig
from echox.models.vocoder.modeling_hifigan import CodeHiFiGAN
from echox.models.vocoder.modeling_istft_vocoder import ISTFTVocoder
from echox.models.vocoder.modeling_light_vocoder import LightVocoder
from echox.models.vocoder.modeling_unit_vocoder import UnitVocoder
from echox.models.vocoder.vocoder_stream import VocoderStream
from reference_hifigan import GOLDEN, reference_cases, reference_hifigan
from tolerance import assert_equal_up_to_rounding

torch.set_num_threads(1)  # models this small only lose by threads, and lose everything on a busy machine
NUM_UNITS = 12
NANO_UNITS = [  # what nano said to "What is the capital of France?" and "Tell me about dogs."
    101,
    152,
    43,
    176,
    184,
    58,
    114,
    171,
    4,
    7,
    185,
    159,
    50,
    19,
    18,
    72,
    164,
    166,
    141,
    32,
    74,
    115,
    87,
    34,
    51,
    76,
    56,
    8,
    82,
    199,
    163,
    62,
    146,
    100,
    178,
    93,
    147,
    199,
    80,
    8,
    90,
    15,
    101,
    152,
    195,
    179,
    52,
    110,
    86,
    132,
    78,
    164,
    96,
    160,
    28,
    123,
    106,
    116,
    110,
    145,
    142,
    35,
    30,
    183,
    22,
    82,
    64,
    192,
    195,
    45,
    197,
    36,
    189,
    31,
    190,
    189,
    160,
    28,
    43,
    17,
    159,
    195,
    24,
    45,
    78,
    84,
    121,
    1,
    161,
    129,
]


@cache
def light(**sizes) -> LightVocoder:
    small = {
        "num_units": NUM_UNITS,
        "duration_hidden_size": 16,
        "duration_intermediate_size": 16,
        "hidden_size": 16,
        "num_duration_layers": 2,
        "intermediate_size": 32,
        "num_frame_layers": 2,
        "num_mel_bins": 20,
        "kernel_size": 3,
        "fft_size": 512,
        "max_duration_frames": 6,
    }
    torch.manual_seed(0)
    return loud(LightVocoder(LightVocoderConfig(**{**small, **sizes})).eval())


@cache
def istft(**sizes) -> ISTFTVocoder:
    small = {
        "num_units": NUM_UNITS,
        "duration_hidden_size": 16,
        "duration_intermediate_size": 16,
        "hidden_size": 16,
        "num_duration_layers": 2,
        "intermediate_size": 32,
        "num_frame_layers": 3,
        "num_mel_bins": 20,
        "kernel_size": 5,
        "frame_lookahead_frames": 4,
        "max_duration_frames": 6,
    }
    torch.manual_seed(0)
    vocoder = loud(ISTFTVocoder(ISTFTVocoderConfig(**{**small, **sizes})).eval())
    torch.nn.init.normal_(vocoder.feature_head.weight[: vocoder.band_channels], std=0.3)
    return vocoder


@cache
def hifigan(**sizes) -> CodeHiFiGAN:
    small = {
        "num_units": NUM_UNITS,
        "embedding_size": 8,
        "upsample_initial_channels": 32,
        "duration_hidden_size": 8,
        "sampling_rate": 2000,
        "upsample_rates": [5, 4, 2],
        "upsample_kernel_sizes": [11, 8, 4],
    }
    blocks = {"resblock_kernel_sizes": [3, 5], "resblock_dilation_sizes": [[1, 3], [1, 2]]}
    torch.manual_seed(0)
    return loud(CodeHiFiGAN(CodeHiFiGANConfig(**{**small, **blocks, **sizes})).eval().fold_weight_norm())


@torch.no_grad()
def loud(vocoder: UnitVocoder) -> UnitVocoder:
    """Random weights under which sound is of order 1 and durations differ, so that an error is visible."""
    for name, weight in vocoder.named_parameters():
        if "conv" in name or "ups." in name:
            weight.copy_(torch.randn_like(weight) / weight[0].numel() ** 0.5)
        if name in {"duration_predictor.head.weight", "dur_predictor.proj.weight"}:
            weight.mul_(1.5)
        if name in {"duration_predictor.head.bias", "dur_predictor.proj.bias"}:
            weight.fill_(1.0)
    return vocoder


KINDS = {
    "light": light,
    "light, one feature frame": lambda: light(features_per_frame=1),
    "light, four feature frames": lambda: light(features_per_frame=4, num_fine_layers=2),
    "light, no fine layers": lambda: light(num_fine_layers=0, num_frame_layers=1),
    "istft": istft,
    "istft, looking ahead further than back": lambda: istft(
        duration_lookahead_units=6, frame_lookahead_frames=10, fine_lookahead_features=5
    ),
    "istft, no look ahead": lambda: istft(
        duration_lookahead_units=0, frame_lookahead_frames=0, fine_lookahead_features=0
    ),
    "hifigan": hifigan,
    "hifigan, voices": lambda: hifigan(num_speakers=3),
}
ALL_KINDS = pytest.mark.parametrize("kind", KINDS)


def whole(vocoder: UnitVocoder, units: list[int], speaker_id: int | None = None) -> np.ndarray:
    """What the vocoder says of all units at once; equal neighbours count as one."""
    reduced = [unit for unit, _ in itertools.groupby(units)]
    speaker_ids = None if speaker_id is None else torch.tensor([speaker_id])
    with torch.inference_mode():
        return vocoder(torch.tensor([reduced]), speaker_ids=speaker_ids).waveform[0].numpy()


def in_parts(vocoder, sequences, cuts, sizes, speaker_ids=None) -> tuple[list[np.ndarray], list[VocoderStream]]:
    """Push each sequence in pieces of `cuts` units, advance all together by `sizes` frames after each round."""
    speaker_ids = speaker_ids or [None] * len(sequences)
    streams = [VocoderStream(vocoder, speaker) for speaker in speaker_ids]
    said = [[np.zeros(0, np.float32)] for _ in sequences]
    left, turn = [list(sequence) for sequence in sequences], 0
    while not all(stream.done for stream in streams):
        for number, stream in enumerate(streams):
            count = cuts[(turn + number) % len(cuts)]
            if left[number]:
                stream.push(left[number][:count])
                del left[number][:count]
            elif not stream.finished:
                stream.finish()
        chunks = VocoderStream.advance(streams, sizes[turn % len(sizes)])
        for stream, parts, chunk in zip(streams, said, chunks, strict=True):
            parts.append(chunk)
            assert stream.num_samples == sum(map(len, parts))
        turn += 1
    return [np.concatenate(parts) for parts in said], streams


@ALL_KINDS
@settings(max_examples=8, deadline=None)
@given(
    sequences=st.lists(st.lists(st.integers(0, NUM_UNITS - 1), min_size=1, max_size=40), min_size=1, max_size=4),
    cuts=st.lists(st.integers(0, 12), min_size=1, max_size=5).filter(any),
    sizes=st.lists(st.one_of(st.none(), st.integers(1, 30)), min_size=1, max_size=5),
)
def test_parts_joined_equal_the_whole(kind, sequences, cuts, sizes):
    vocoder = KINDS[kind]()
    voices = None if not vocoder.config.num_speakers else [number % 3 for number in range(len(sequences))]
    said, streams = in_parts(vocoder, sequences, cuts, sizes, voices)
    for number, (sequence, waveform, stream) in enumerate(zip(sequences, said, streams, strict=True)):
        expected = whole(vocoder, sequence, voices[number] if voices else None)
        assert waveform.shape == expected.shape
        # A whole of a few frames takes another path through the matrix library; pitch adds such differences up.
        atol = 1e-4 if len(expected) < 8 * vocoder.config.samples_per_frame else 1e-5
        np.testing.assert_allclose(waveform, expected, atol=atol, rtol=0)
        assert stream.end_s(len(sequence)) == pytest.approx(len(expected) / vocoder.sampling_rate)


@ALL_KINDS
def test_the_random_vocoders_are_loud_and_of_several_durations(kind):
    vocoder = KINDS[kind]()
    units = torch.arange(NUM_UNITS).repeat(4)[None]
    with torch.inference_mode():
        said = vocoder(units)
    assert 0.02 < said.waveform.std() < 2
    assert len(said.durations_frames.unique()) > 1


@ALL_KINDS
def test_neither_too_little_nor_too_much_context(kind):
    """The first frame that a unit changes lies the right context before it: exactly, or a frame later."""
    vocoder = KINDS[kind]()
    config, place = vocoder.config, 60
    units = torch.arange(NUM_UNITS).repeat(10)[None]
    others = units.repeat(4, 1)
    others[torch.arange(4), place] = (units[0, place] + torch.arange(1, 5)) % NUM_UNITS
    with torch.inference_mode():
        ones = torch.ones_like(others)
        changed = vocoder(others, ones).waveform != vocoder(units.expand(4, -1), ones).waveform
    first = int(changed.any(0).nonzero()[0]) // config.samples_per_frame
    assert place - config.right_context_frames <= first <= place - config.right_context_frames + 1


@ALL_KINDS
def test_durations_wait_for_the_units_that_they_depend_on(kind):
    vocoder = KINDS[kind]()
    reach, ahead, place = vocoder.config.receptive_field_units, vocoder.config.lookahead_units, 30
    units = torch.arange(NUM_UNITS).repeat(5)[None]
    other = units.clone()
    other[0, place] = (units[0, place] + 5) % NUM_UNITS
    with torch.inference_mode():
        predict = vocoder.log_durations if isinstance(vocoder, CodeHiFiGAN) else vocoder.duration_predictor
        touched = (predict(units) != predict(other))[0].nonzero().flatten().tolist()
    assert touched[0] == place - ahead
    assert max(ahead, touched[-1] - place) == reach

    stream = VocoderStream(vocoder)
    for count in range(1, place):
        stream.push([int(units[0, count - 1])])
        assert stream.num_timed == max(count - ahead, 0)
    frames = round(stream.end_s(stream.num_timed) * vocoder.frame_rate_hz)
    assert stream.ready_frames == max(frames - vocoder.config.right_context_frames, 0)
    stream.finish()
    assert stream.num_timed == place - 1


@settings(max_examples=8, deadline=None)
@given(
    units=st.lists(st.integers(0, NUM_UNITS - 1), min_size=1, max_size=30),
    cuts=st.lists(st.integers(1, 9), min_size=1, max_size=4),
    lookahead=st.integers(0, 3),
)
def test_durations_with_a_short_lookahead_depend_on_the_units_alone(units, cuts, lookahead):
    vocoder = light()
    stream, alone = (VocoderStream(vocoder, duration_lookahead_units=lookahead) for _ in range(2))
    said, left, turn = [], list(units), 0
    while left:
        stream.push(left[: cuts[turn % len(cuts)]])
        del left[: cuts[turn % len(cuts)]]
        said += VocoderStream.advance([stream])
        turn += 1
    for one in (stream, alone):
        if one is alone:
            one.push(units)
        one.finish()
    said += VocoderStream.advance([stream])
    [at_once] = VocoderStream.advance([alone])
    np.testing.assert_allclose(np.concatenate(said), at_once, atol=1e-4, rtol=0)

    reduced = [unit for unit, _ in itertools.groupby(units)]
    ends = np.diff([0, *stream._ends_frames])
    with torch.inference_mode():
        expected = vocoder(torch.tensor([reduced]), torch.tensor(ends)[None]).waveform[0].numpy()
    np.testing.assert_allclose(at_once, expected, atol=1e-4, rtol=0)


def test_merged_units_end_together():
    vocoder = light()
    units = [3, 3, 5, 5, 5, 1, 3]
    [_], [stream] = in_parts(vocoder, [units], [2, 1], [None])
    ends = [stream.end_s(count) for count in range(len(units) + 1)]
    with torch.inference_mode():
        durations = vocoder.predict_durations(torch.tensor([[3, 5, 1, 3]]))[0] / vocoder.frame_rate_hz
    assert ends == pytest.approx([0, *durations.cumsum(0)[[0, 0, 1, 1, 1, 2, 3]].tolist()])
    with pytest.raises(ValueError, match="count: expected 0 to 7"):
        stream.end_s(8)


def test_seams_are_as_smooth_as_the_rest():
    vocoder, units = light(), [place % NUM_UNITS for place in range(60)]
    [waveform], _ = in_parts(vocoder, [units], [60], [5])
    steps = np.abs(np.diff(waveform))
    seam = vocoder.config.samples_per_frame * 5
    at_seams = steps[seam - 1 :: seam]
    assert len(at_seams) > 20
    assert at_seams.mean() < 1.5 * steps.mean()


def test_many_small_chunks_do_not_drift():
    """Pitch phase adds up, in parts of 60 ms."""
    vocoder, rng = light(), np.random.default_rng(0)
    units = rng.integers(0, NUM_UNITS, 400).tolist()
    [waveform], [stream] = in_parts(vocoder, [units], [1000], [3])
    assert_equal_up_to_rounding(waveform, whole(vocoder, units))
    assert len(stream._units) <= 2 * vocoder.config.receptive_field_units + vocoder.config.right_context_frames + 1


def test_memory_of_a_stream_is_bounded():
    for vocoder in (light(), hifigan()):
        stream, rng, most = VocoderStream(vocoder), np.random.default_rng(0), 0
        size = sum(part.numel() for part in stream._state)
        for _ in range(40):
            stream.push(rng.integers(0, NUM_UNITS, 20).tolist())
            VocoderStream.advance([stream])
            most = max(most, len(stream._units))
        assert sum(part.untyped_storage().nbytes() // part.element_size() for part in stream._state) == size
        assert most <= 2 * vocoder.config.receptive_field_units + vocoder.config.right_context_frames + 2


def test_durations_without_neighbours():
    """Nothing but the newest unit is kept then, for an equal one that may follow."""
    vocoder = hifigan(duration_kernel_size=1)
    assert vocoder.config.receptive_field_units == 0
    units = [1, 2, 2, 3, 3, 1, 4, 4, 5, 2] * 4
    [said], [stream] = in_parts(vocoder, [units], [1], [None])
    expected = whole(vocoder, units)
    assert_equal_up_to_rounding(said, expected)
    assert stream.end_s(len(units)) == pytest.approx(len(expected) / vocoder.sampling_rate)


def test_nothing_to_say():
    stream = VocoderStream(light())
    assert VocoderStream.advance([]) == []
    assert VocoderStream.advance([stream])[0].shape == (0,)
    stream.push([])
    stream.finish()
    assert stream.done
    assert VocoderStream.advance([stream])[0].dtype == np.float32
    assert (stream.num_samples, stream.end_s(0)) == (0, 0.0)


@pytest.mark.parametrize(("build", "broken"), [(light, "unit_embedding.weight"), (hifigan, "spkr.weight")])
def test_broken_weights_show_in_the_streams_that_use_them(build, broken):
    vocoder = build.__wrapped__(num_speakers=4) if build is hifigan else build.__wrapped__()
    with torch.no_grad():
        vocoder.get_parameter(broken)[3] = float("nan")
    good, bad = VocoderStream(vocoder), VocoderStream(vocoder, 3 if build is hifigan else None)
    good.push([1, 2, 4])
    bad.push([1, 3, 4])
    good.finish()
    bad.finish()
    fine, silent = VocoderStream.advance([good, bad])
    assert np.isfinite(fine).all()
    assert not np.isfinite(silent).all()


@pytest.mark.parametrize("build", [light, hifigan])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_durations_that_are_not_finite_are_refused(build, value):
    vocoder = build.__wrapped__()
    head = vocoder.dur_predictor.proj if isinstance(vocoder, CodeHiFiGAN) else vocoder.duration_predictor.head
    with torch.no_grad():
        head.bias.fill_(value)
    stream = VocoderStream(vocoder)
    stream.push([1, 2])
    stream.finish()
    with pytest.raises(FloatingPointError, match="duration"):
        VocoderStream.advance([stream])


def test_bad_use_is_named():
    stream = VocoderStream(light())
    with pytest.raises(ValueError, match=rf"expected ids from 0 to {NUM_UNITS - 1}, found \[12, -1\]"):
        stream.push([1, 12, -1])
    assert stream.num_timed == 0
    stream.finish()
    with pytest.raises(ValueError, match="found a finished one"):
        stream.push([1])
    with pytest.raises(ValueError, match="max_frames"):
        VocoderStream.advance([stream], 0)
    with pytest.raises(ValueError, match="found one twice"):
        VocoderStream.advance([stream, stream])
    with pytest.raises(ValueError, match="streams of one vocoder"):
        VocoderStream.advance([stream, VocoderStream(hifigan())])
    with pytest.raises(ValueError, match="duration_lookahead_units: expected at least 0"):
        VocoderStream(light(), duration_lookahead_units=-1)
    with pytest.raises(ValueError, match="speaker_id: expected one of 0"):
        VocoderStream(light(), 0)


@pytest.fixture(scope="module")
def nano() -> LightVocoder:
    """The embedded model's voice."""
    folder = Path(echox.__file__).parent / "assets" / "nano"
    return EchoXForConditionalGeneration.from_pretrained(folder, dtype=torch.float32).eval().vocoder


@pytest.mark.parametrize("frames", [5, 10, 20, None])
def test_nano_in_parts(nano, frames):
    [waveform], [stream] = in_parts(nano, [NANO_UNITS], [4], [frames])
    assert_equal_up_to_rounding(waveform, whole(nano, NANO_UNITS), terms=len(waveform))  # a phase runs over all samples
    assert 4 < stream.end_s(len(NANO_UNITS)) < 6


def test_nano_sounds_the_same_in_a_batch(nano):
    sequences = [NANO_UNITS[place:] for place in (0, 30, 60)]
    said, _ = in_parts(nano, sequences, [5, 3], [None, 7])
    for sequence, waveform in zip(sequences, said, strict=True):
        assert_equal_up_to_rounding(waveform, whole(nano, sequence), terms=len(waveform))


def test_nano_waits_for_no_more_than_documented(nano):
    """docs/performance.md: 3 units, and 8 frames."""
    assert (nano.config.lookahead_units, nano.config.right_context_frames) == (3, 8)


@pytest.mark.skipif(not GOLDEN.is_dir(), reason=f"the golden outputs of the reference are not at {GOLDEN}")
@pytest.mark.parametrize("name", ["single", "multispkr"])
def test_golden_waveforms_in_parts(name):
    """The reference's own waveforms, joined from chunks; those of units that repeat have another whole."""
    vocoder, spoken = reference_hifigan(name), 0
    for case, (facts, waveform) in reference_cases(name).items():
        units = [unit for unit in facts["codes"] if unit >= 0]
        if not facts["dur_prediction"] or any(a == b for a, b in itertools.pairwise(units)):
            continue
        [said], _ = in_parts(vocoder, [units], [3], [4], [facts["speaker"]])
        np.testing.assert_allclose(said, waveform.numpy(), atol=1e-4, rtol=0, err_msg=case)
        spoken += 1
    assert spoken


@pytest.mark.parametrize("speed", [0.25, 0.7, 1.0, 1.5, 4.0])
@pytest.mark.parametrize("make", [light, hifigan])
def test_speed_scales_the_length_without_drift_and_does_not_depend_on_how_units_come(make, speed):
    vocoder, units = make(), np.random.default_rng(0).integers(0, NUM_UNITS, 60).tolist()
    plain, whole, parts = (VocoderStream(vocoder, speed=value) for value in (1.0, speed, speed))
    for stream in (plain, whole):
        stream.push(units)
        stream.finish()
    sounds = []
    for unit in units:
        parts.push([unit])
        sounds += VocoderStream.advance([parts])
    parts.finish()
    sounds += VocoderStream.advance([parts])
    [expected], [unhurried] = VocoderStream.advance([whole]), VocoderStream.advance([plain])
    np.testing.assert_allclose(np.concatenate(sounds), expected, atol=1e-4)
    frame = vocoder.config.samples_per_frame
    assert abs(len(expected) - len(unhurried) / speed) <= frame / 2
    # No word comes early or late either: each unit ends where it ends at speed 1, divided by the speed.
    ends = [stream.end_s(count) for stream in (plain, whole) for count in (20, 40)]
    assert ends[2:] == pytest.approx([end / speed for end in ends[:2]], abs=0.5 / vocoder.frame_rate_hz + 1e-6)


@pytest.mark.parametrize("speed", [0.2, 4.1, 0.0, -1.0, float("nan")])
def test_a_speed_out_of_range_is_refused(speed):
    with pytest.raises(ValueError, match="speed: expected"):
        VocoderStream(light(), speed=speed)
