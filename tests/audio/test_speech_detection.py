"""Where speech is in a recording does not depend on what surrounds it, on its level or on its scale."""

import numpy as np
import pytest
from scipy.signal import butter, lfilter

from echox.audio import load_audio
from echox.evaluation.sets.heldout import embedded_heldout
from echox.evaluation.sets.nano import nano_items
from echox.evaluation.studies.conditions import DURATIONS_S, GAINS_DB, NOISE_DBFS
from echox.speech_detection import (
    MARGIN_AFTER_S,
    MARGIN_BEFORE_S,
    SPEECH_LEVEL_DBFS,
    find_speech,
    speech_for_model,
    within_full_scale,
)

RATE = 16000


@pytest.fixture(scope="module")
def recordings() -> list[np.ndarray]:
    items = nano_items(embedded_heldout(), limit=6)
    names = ("heldout_seen_voices", "heldout_new_voices")
    return [load_audio(item.audios[-1], RATE) for name in names for item in items[name]]


def noise(duration_s: float, dbfs: float, seed: int = 0) -> np.ndarray:
    samples = np.random.default_rng(seed).standard_normal(round(duration_s * RATE))
    return (10 ** (dbfs / 20) * samples).astype(np.float32)


def heard(waveform: np.ndarray) -> np.ndarray:
    speech = find_speech(waveform, RATE)
    assert speech is not None
    return speech_for_model(waveform, speech)


@pytest.mark.parametrize("dbfs", [-400.0, NOISE_DBFS], ids=["silence", "noise"])
def test_surroundings_and_level_do_not_move_the_cut(recordings, dbfs):
    for number, recording in enumerate(recordings):
        plain = find_speech(recording, RATE)
        for duration_s in DURATIONS_S:
            around = noise(duration_s, dbfs, number)
            for gain_db in GAINS_DB:
                loud = recording * np.float32(10 ** (gain_db / 20))
                found = find_speech(np.concatenate([around, loud, around]), RATE)
                start, end = found.start - len(around), found.end - len(around)
                # Outside a recording its margins are not cut off by its ends; nothing of the speech may be lost.
                assert plain.start - MARGIN_BEFORE_S * RATE - 640 <= start <= plain.start + 640
                assert plain.end - 640 <= end <= plain.end + MARGIN_AFTER_S * RATE + 640


def test_silence_around_changes_nothing_of_what_the_model_hears(recordings):
    for recording in recordings:
        plain = heard(recording)
        for before_s, after_s in ((1.0, 0.0), (0.0, 2.0), (3.0, 5.0)):
            before, after = (np.zeros(round(duration_s * RATE), np.float32) for duration_s in (before_s, after_s))
            around = heard(np.concatenate([before, recording, after]))
            np.testing.assert_allclose(around, plain, rtol=0, atol=0.01)
            for gain in (0.1, 0.02):
                faint = heard(np.concatenate([before, recording * np.float32(gain), after]))
                assert abs(len(faint) - len(plain)) <= 2 * 320  # two frames at most: what is voiced is a threshold


def test_noise_beside_speech_fades_and_what_borders_it_stays(recordings):
    """Nano heard three more of forty questions wrong where noise began and ended at full level."""
    for number, recording in enumerate(recordings):
        around = noise(1.0, NOISE_DBFS, number)
        whole = np.concatenate([around, recording * np.float32(0.1), around])
        speech = find_speech(whole, RATE)
        gain = 10 ** ((SPEECH_LEVEL_DBFS - speech.level_dbfs) / 20)
        given, recorded = speech_for_model(whole, speech), gain * whole[speech.start : speech.end]
        assert np.abs(given[:800]).max() < 0.25 * np.abs(recorded[:800]).max()
        assert np.abs(given[-800:]).max() < 0.25 * np.abs(recorded[-800:]).max()
        inner = slice(speech.fade_in - 400, len(given) - speech.fade_out + 400)
        np.testing.assert_allclose(given[inner], recorded[inner], rtol=0.1, atol=1e-6)


def test_what_the_model_hears_has_one_level(recordings):
    for recording in recordings:
        for scale in (0.02, 1.0, 32768.0):
            found = find_speech(recording * np.float32(scale), RATE)
            sound = speech_for_model(recording * np.float32(scale), found)
            assert find_speech(sound, RATE).level_dbfs == pytest.approx(SPEECH_LEVEL_DBFS, abs=1.0)


def test_integers_given_as_floats_are_a_matter_of_level(recordings):
    samples = np.rint(recordings[0] * 32767)
    np.testing.assert_allclose(
        heard(samples.astype(np.float32)), heard((samples / 32768).astype(np.float32)), atol=1e-4
    )
    assert np.abs(within_full_scale(samples)).max() == 1.0
    assert within_full_scale(np.array([1e300, -1e300])).tolist() == [1.0, -1.0]


def test_pauses_inside_speech_stay(recordings):
    first, second = recordings[:2]
    pause = np.zeros(2 * RATE, np.float32)
    whole = np.concatenate([pause, first, pause, second, pause])
    found = find_speech(whole, RATE)
    assert found.start < 2 * RATE + len(first) / 2
    assert found.end > 4 * RATE + len(first) + len(second) / 2
    assert len(speech_for_model(whole, found)) == found.lead + found.end - found.start + found.tail


@pytest.mark.parametrize("dbfs", [-90.0, -60.0, -40.0, -20.0])
def test_noise_of_any_level_is_not_speech(dbfs):
    assert all(
        find_speech(noise(duration_s, dbfs, seed), RATE) is None for seed in range(3) for duration_s in (0.5, 20)
    )


def test_other_sounds_are_not_speech():
    times_s = np.arange(2 * RATE) / RATE
    click = np.zeros(2 * RATE, np.float32)
    click[RATE] = 0.9
    for sound in (
        np.zeros(2 * RATE),
        np.full(2 * RATE, 0.3),  # an offset
        0.1 * np.sin(2 * np.pi * 50 * times_s),  # mains
        0.1 * np.sin(2 * np.pi * 1000 * times_s),
        click,
        noise(1.0, -60.0) + 1e-6,
        np.concatenate([noise(1.0, -60.0), noise(0.03, -10.0), noise(1.0, -60.0)]),  # a knock
        lfilter(*butter(1, 400 / 8000), noise(2.0, -20.0)),  # a fan
    ):
        assert find_speech(sound.astype(np.float32), RATE) is None


def test_a_whisper_is_speech():
    """No voice, but a level that rises and falls with the syllables."""
    envelope = np.clip(np.sin(2 * np.pi * 3 * np.arange(RATE) / RATE), 0.02, 1)
    whisper = np.concatenate([noise(1.0, -60.0), noise(1.0, -25.0) * envelope, noise(1.0, -60.0)])
    found = find_speech(whisper.astype(np.float32), RATE)
    assert 0.5 * RATE < found.start < RATE + 1600
    assert 1.8 * RATE < found.end < 2.6 * RATE


@pytest.mark.parametrize("rate", [8000, 24000, 48000])
def test_the_rate_does_not_matter(recordings, rate):
    import soxr

    at_16k = find_speech(recordings[0], RATE)
    found = find_speech(soxr.resample(recordings[0], RATE, rate), rate)
    assert found.start / rate == pytest.approx(at_16k.start / RATE, abs=0.05)
    assert found.end / rate == pytest.approx(at_16k.end / RATE, abs=0.05)


def test_audio_shorter_than_a_window_is_looked_at():
    assert find_speech(np.full(10, 0.1, np.float32), RATE) is None
    assert find_speech(np.zeros(0, np.float32), RATE) is None
