"""Long questions are encoded step by step: with the same result as at once, and other replies do not wait for them."""

import numpy as np
import pytest
import torch

from echox.models.echox.modeling_speech_encoder import AlignmentAdapter
from echox.streaming.prompt.messages import Audio
from echox.streaming.scheduler import Scheduler
from serving_help import nano, question


def long_question(duration_s, rate=16_000):
    speech = question(0, rate)
    return np.tile(speech, int(duration_s * rate / len(speech)) + 1)[: int(duration_s * rate)]


@pytest.mark.parametrize("duration_s", [1.0, 30.0, 40.37, 61.0])
def test_step_by_step_hears_what_is_heard_at_once(duration_s):
    engine = nano().scheduler.engine
    inputs = engine._features([Audio(long_question(duration_s), 16_000)])
    (expected,), (words,) = engine.model.s2t.encode_and_transcribe(**inputs)
    steps = engine.model.s2t.encode_gradually(**inputs)
    count = 0
    while True:
        try:
            next(steps)
        except StopIteration as end:
            found, heard = end.value
            break
        count += 1
    windows, layers = -(-inputs["input_features"].shape[2] // 3000), len(engine.model.s2t.audio_tower.layers)
    assert count >= windows * layers
    assert heard == words
    torch.testing.assert_close(found, expected, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("frames", [3, 64, 65])
def test_an_adapter_in_blocks_equals_the_adapter(frames):
    torch.manual_seed(0)
    adapter = AlignmentAdapter(8, 16, 4).eval()
    states, mask = torch.randn(1, frames, 8), torch.ones(1, frames, dtype=torch.bool)
    mask[0, frames - frames // 3 :] = False
    with torch.inference_mode():
        expected, expected_mask = adapter(states, mask)
        steps = adapter.adapt_gradually(states, mask, block_frames=5)
        with pytest.raises(StopIteration) as end:
            while True:
                next(steps)
    found, found_mask = end.value.value
    assert torch.equal(found_mask, expected_mask)
    torch.testing.assert_close(found[found_mask], expected[expected_mask], atol=1e-5, rtol=1e-5)


def test_a_short_question_does_not_wait_for_a_long_one(monkeypatch):
    """On f071b06 the long one is encoded in one round, before anything else."""
    monkeypatch.setattr("echox.streaming.batch.LONG_ENCODING_S", 0.0)  # one step in hearing a round, however fast
    model = nano()
    scheduler = Scheduler(model.scheduler.engine)
    scheduler.engine.clear_encoded()
    sessions = [type(model.session())(scheduler, model.settings) for _ in range(2)]
    long = sessions[0].submit(long_question(95.0), speak=False, max_new_tokens=4)
    short = sessions[1].submit(question(1, 16_000), speak=False, max_new_tokens=4)
    while not short.done:
        assert scheduler.step()
    assert not long.done
    assert long.text_row is None, "the long question was heard in the rounds of the short reply"
    long.cancel()
    scheduler.step()
    assert scheduler.batch._encoding_task is None
    assert not scheduler.step()


def test_many_questions_of_one_reply_are_long_together(monkeypatch):
    monkeypatch.setattr("echox.streaming.batch.LONG_ENCODING_S", 0.0)  # one step in hearing a round, however fast
    model = nano()
    scheduler = Scheduler(model.scheduler.engine)
    scheduler.engine.clear_encoded()
    session = type(model.session())(scheduler, model.settings)
    content = [{"type": "audio", "audio": long_question(12.0)[start:]} for start in (0, 100, 200)]
    task = session.submit({"role": "user", "content": content}, speak=False, max_new_tokens=1)
    scheduler.step()
    assert scheduler.batch._encoding_task is task
    while not task.done:
        scheduler.step()
    assert task.error is None
    assert scheduler.num_steps > 3


def test_the_last_of_several_recordings_is_not_begun_again(monkeypatch):
    """When the long one was heard, what is left is short; on 9a02996 it was then encoded a second time, at once."""
    monkeypatch.setattr("echox.streaming.batch.LONG_ENCODING_S", 0.0)  # one step in hearing a round, however fast
    model = nano()
    engine = model.scheduler.engine
    scheduler = Scheduler(engine)
    engine.clear_encoded()
    extracted, features = [], engine._features
    monkeypatch.setattr(engine, "_features", lambda audios: extracted.append(len(audios)) or features(audios))
    session = type(model.session())(scheduler, model.settings)
    content = [{"type": "audio", "audio": long_question(duration_s)} for duration_s in (31.0, 3.0)]
    task = session.submit({"role": "user", "content": content}, speak=False, max_new_tokens=1)
    while not task.done:
        scheduler.step()
    assert task.error is None
    assert extracted == [1, 1]
    assert scheduler.batch._encoding_task is None


def test_audio_that_two_replies_hear_counts_once():
    engine = nano().scheduler.engine
    engine.clear_encoded()
    audio = Audio(long_question(2.0), 16_000)
    steps = engine.encode_gradually([audio])
    next(steps)
    (heard,) = engine.encode([audio])
    assert list(steps)
    assert engine.encode([audio]) == [heard]
    assert engine._encoded_bytes == heard.embeds.nbytes
