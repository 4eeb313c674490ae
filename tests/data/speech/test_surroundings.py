"""Surroundings: the same draw sounds the same, and does what its figures say."""

import random

import numpy as np
import pytest

from echox.audio import load_audio
from echox.data.surroundings import Surroundings, SurroundingsConfig, draw_surroundings
from echox.evaluation.sets.heldout import embedded_heldout

RATE = 16_000
PLAIN = Surroundings(seed=1, level_dbfs=-20.0, lead_s=0.25, tail_s=0.5)


@pytest.fixture(scope="module")
def speech() -> np.ndarray:
    return load_audio(sorted(embedded_heldout().rglob("*.opus"))[0], RATE)


def level_dbfs(samples: np.ndarray) -> float:
    return float(10 * np.log10(np.mean(np.square(samples)) + 1e-12))


def test_silence_before_and_after_and_level(speech):
    changed = PLAIN.apply(speech, RATE)
    assert changed.dtype == np.float32
    assert len(changed) == len(speech) + round(0.75 * RATE)
    assert not changed[: RATE // 4].any()
    assert not changed[-RATE // 2 :].any()
    scale = changed[RATE // 4 :][: len(speech)] / np.where(np.abs(speech) > 0.01, speech, np.nan)
    assert np.nanstd(scale) < 1e-3  # the speech itself is unchanged
    loud = np.sort(np.square(changed))[len(changed) // 2 :]
    assert 10 * np.log10(loud.mean()) == pytest.approx(-20.0, abs=0.2)
    quiet = Surroundings(1, -40.0, 0.25, 0.5).apply(speech, RATE)
    assert level_dbfs(changed) - level_dbfs(quiet) == pytest.approx(20.0, abs=0.1)


def test_noise_has_its_level_and_tilt(speech):
    noisy = Surroundings(1, -20.0, 1.0, 0.0, snr_db=20.0, tilt_db=-6.0).apply(speech, RATE)
    silence = noisy[:RATE]
    assert level_dbfs(silence) == pytest.approx(-40.0, abs=1.5)
    power = np.abs(np.fft.rfft(silence)) ** 2
    octave = [10 * np.log10(power[low : 2 * low].mean()) for low in (500, 2000)]
    assert octave[0] - octave[1] == pytest.approx(12.0, abs=1.5)


def test_a_room_rings_on_after_the_speech(speech):
    dry = PLAIN.apply(speech, RATE)
    room = Surroundings(1, -20.0, 0.25, 0.5, rt60_s=0.6, direct_db=0.0).apply(speech, RATE)
    assert len(room) == len(dry)
    assert level_dbfs(room[len(speech) + RATE // 4 :][: RATE // 10]) > -60.0
    assert not room[: RATE // 4].astype(np.float16).any()  # nothing is heard before it is said


def test_a_telephone_line_has_no_high_tones(speech):
    line = Surroundings(1, -20.0, 0.25, 0.5, telephone=True).apply(speech, RATE)
    power = np.abs(np.fft.rfft(line)) ** 2
    high = power[int(5000 / RATE * len(line)) :].sum() / power.sum()
    assert high < 1e-4
    assert len(line) == len(PLAIN.apply(speech, RATE))


def test_a_draw_is_the_same_every_time(speech):
    config = SurroundingsConfig(room=1.0, noise=1.0, telephone=1.0)
    one, again, other = (draw_surroundings(random.Random(seed), config) for seed in ("a", "a", "b"))
    assert one == again != other
    assert np.array_equal(one.apply(speech, RATE), again.apply(speech, RATE))
    assert np.abs(one.apply(speech, RATE)).max() <= 1.0
    without = draw_surroundings(random.Random("a"), SurroundingsConfig(room=0.0, noise=0.0, telephone=0.0))
    assert (without.level_dbfs, without.lead_s, without.seed) == (one.level_dbfs, one.lead_s, one.seed)
    assert (without.rt60_s, without.snr_db, without.telephone) == (None, None, False)


def test_impossible_settings_are_refused():
    with pytest.raises(ValueError, match="room: expected a probability"):
        SurroundingsConfig(room=1.5)
    with pytest.raises(ValueError, match="lead_s: expected"):
        SurroundingsConfig(lead_s=(0.5, 0.1))
