"""Figures in a reply: spoken as words, written unchanged, and word times refer to the written text."""

import numpy as np
import pytest

from echox.api import EchoX
from echox.streaming import AudioChunk, SpeechFailed, TextDelta
from echox.streaming.events import heard_text


@pytest.fixture(scope="module")
def nano() -> EchoX:
    return EchoX.from_pretrained("nano", device="cpu")


def spoken(model, text, **settings):
    events = list(model.speak_text(text, **settings))
    parts = [event.waveform for event in events if isinstance(event, AudioChunk)]
    failed = [event for event in events if isinstance(event, SpeechFailed)]
    assert "".join(event.text for event in events if isinstance(event, TextDelta)) == text, "text stays as written"
    return events[-1], np.concatenate(parts) if parts else np.zeros(0, np.float32), failed


@pytest.mark.parametrize("policy", ["word_by_word", "semantic", "whole"])
def test_figures_sound_like_their_words(nano, policy):
    _, written, _ = spoken(nano, "A frog has 4 legs.", speech_policy=policy)
    _, words, _ = spoken(nano, "A frog has four legs.", speech_policy=policy)
    np.testing.assert_allclose(written, words, atol=1e-4)


def test_time_maps_to_written_text(nano):
    text = "It costs $42.50 today. Well done! 🎉"
    finished, waveform, failed = spoken(nano, text)
    marked = [text[mark.text_start : mark.text_end].strip() for mark in finished.timeline]
    missing = {word for failure in failed for word in failure.text.split()}
    assert marked == [word for word in ("It", "costs", "$42.50", "today.", "Well", "done! 🎉") if word not in missing]
    ends = [0.0, *(mark.end_s for mark in finished.timeline)]
    assert all(mark.start_s >= end_s - 1e-6 for mark, end_s in zip(finished.timeline, ends, strict=False))
    price = next(mark for mark in finished.timeline if "$" in text[mark.text_start : mark.text_end])
    assert price.end_s - price.start_s > 1.2, "six words take their time"
    assert heard_text(text, finished.timeline, price.end_s) == "It costs $42.50"
    assert heard_text(text, finished.timeline, (price.start_s + price.end_s) / 2) == "It costs", "not heard to its end"
    assert heard_text(text, finished.timeline, len(waveform) / nano.engine.output_sampling_rate) == text


def test_emoji_are_silent_and_other_scripts_are_reported(nano):
    _, plain, _ = spoken(nano, "I like dogs.")
    _, decorated, failed = spoken(nano, "I like 😀 dogs.")
    assert not failed
    np.testing.assert_allclose(decorated, plain, atol=1e-4)
    finished, _, failed = spoken(nano, "I like 你好 dogs.")
    assert [failure.text.strip() for failure in failed] == ["你好"]
    assert "你好" not in [finished.text[mark.text_start : mark.text_end].strip() for mark in finished.timeline]


def test_a_language_without_rules_is_said_as_it_is_written(nano):
    _, passed, _ = spoken(nano, "I like dogs.", spoken_language="de")
    _, ruled, _ = spoken(nano, "I like dogs.")
    np.testing.assert_allclose(passed, ruled, atol=1e-4)
    with pytest.raises(ValueError, match="ISO 639"):
        nano.speak_text("Hello.", spoken_language="klingon!")
