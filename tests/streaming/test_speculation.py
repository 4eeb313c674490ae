"""Speculative replies: kept, they are ordinary ones; dropped, nothing is left of them; wanted replies go first."""

import numpy as np
import pytest

from echox.api import EchoX
from echox.errors import QueueFull
from echox.streaming import AudioChunk, Finished, Scheduler, Session, TextDelta
from echox.streaming.prompt.messages import Audio, Message
from tiny_echox import tiny_echox, tone


@pytest.fixture(scope="module")
def model() -> EchoX:
    return tiny_echox(max_positions=2048, unit_words_per_word=12)


@pytest.fixture
def scheduler(model):
    model.engine.clear_encoded()
    return Scheduler(model.engine, max_running=2)


def session(model, scheduler) -> Session:
    return Session(scheduler, model.settings)


def rest(scheduler, most=500) -> None:
    """Make rounds until there is nothing to do."""
    assert any(not scheduler.step() for _ in range(most))


def outcome(events):
    sound = [event.waveform for event in events if isinstance(event, AudioChunk)]
    text = "".join(event.text for event in events if isinstance(event, TextDelta))
    return text, np.concatenate(sound) if sound else np.zeros(0), [type(event) for event in events]


def counts(task):
    names = ("num_prompt_tokens", "num_cached_tokens", "num_tokens", "num_unit_words", "num_units")
    return {name: getattr(task.timings, name) for name in names}


@pytest.mark.parametrize("speak", [True, False])
def test_a_kept_speculation_is_an_ordinary_reply(model, scheduler, speak):
    def two_turns(speculate):
        talk = session(model, scheduler)
        found = []
        for turn in range(2):
            question, settings = tone(0.5, seed=turn), {"speak": speak, "max_new_tokens": 12}
            if speculate:
                fork = talk.fork()
                task = fork.speculate(question, **settings)
                rest(scheduler)
                assert task.begun
                assert not task.done
                assert (scheduler.num_running, scheduler.num_speculating) == (0, 1)
                assert task.keep()
                talk = fork
            else:
                task = talk.submit(question, **settings)
            events = list(task)
            assert isinstance(events[-1], Finished)
            found.append((*outcome(events), counts(task)))
        assert [message.role for message in talk.messages] == ["user", "assistant"] * 2
        return found

    for one, other in zip(two_turns(False), two_turns(True), strict=True):
        assert one[0] == other[0]
        np.testing.assert_array_equal(one[1], other[1])
        assert one[2:] == other[2:]


def test_a_dropped_speculation_leaves_no_trace(model, scheduler):
    def second_turn(speculate):
        model.engine.clear_encoded()
        talk = session(model, scheduler)
        list(talk.stream(tone(0.5, seed=1), max_new_tokens=6))
        before = list(talk.messages), dict(model.engine._encoded)
        if speculate:
            task = talk.fork().speculate(tone(0.4, seed=2), max_new_tokens=12)
            rest(scheduler)
            task.cancel()
            assert not task.keep()
            assert scheduler.num_speculating == 0
            assert (list(talk.messages), dict(model.engine._encoded)) == before
        task = talk.submit(tone(0.5, seed=3), max_new_tokens=6)
        return outcome(list(task))[0], counts(task)

    assert second_turn(False) == second_turn(True)


def test_audio_that_was_encoded_before_stays_in_the_cache(model, scheduler):
    list(session(model, scheduler).stream(tone(0.5, seed=1), max_new_tokens=4))
    task = session(model, scheduler).speculate(tone(0.5, seed=1))
    rest(scheduler)
    task.cancel()
    assert len(model.engine._encoded) == 1


def test_wanted_replies_go_first(model, scheduler):
    early = session(model, scheduler).speculate(tone(0.5, seed=1), max_new_tokens=12)
    wanted = session(model, scheduler).submit(tone(0.5, seed=2), max_new_tokens=12)
    while not wanted.begun:
        assert scheduler.step()
        assert early.text_row is None or wanted.begun  # no work was done for it
    while not wanted.done:
        assert scheduler.step()
    rest(scheduler)
    assert early.begun


def test_speculations_make_room_and_do_not_wait(model, scheduler):
    tasks = [session(model, scheduler).speculate(tone(0.5, seed=n)) for n in range(1)]
    scheduler.step()
    tasks.append(session(model, scheduler).speculate(tone(0.5, seed=9)))
    scheduler.step()
    with pytest.raises(QueueFull):
        session(model, scheduler).speculate(tone(0.5, seed=3))
    wanted = [session(model, scheduler).submit(tone(0.5, seed=n), max_new_tokens=4) for n in (4, 5, 6)]
    scheduler.step()
    assert (scheduler.num_running, scheduler.num_waiting, scheduler.num_speculating) == (2, 1, 0)
    assert all(task.done and not task.keep() for task in tasks)
    with pytest.raises(QueueFull):
        session(model, scheduler).speculate(tone(0.5, seed=3))
    while not all(task.done for task in wanted):
        assert scheduler.step()
    assert not scheduler.step()


def test_speculations_take_no_place_of_wanted_replies(model):
    scheduler = Scheduler(model.engine, max_running=1, max_waiting=0)
    early = session(model, scheduler).speculate(tone(0.5))
    scheduler.step()
    wanted = session(model, scheduler).submit(tone(0.5), max_new_tokens=2)
    scheduler.step()
    assert early.done
    assert not wanted.cancelled


def test_a_fork_is_made_between_replies_only(model, scheduler):
    talk = session(model, scheduler)
    task = talk.submit(tone(0.5), max_new_tokens=4)
    with pytest.raises(ValueError, match="without a running reply"):
        talk.fork()
    task.cancel()
    assert talk.fork().messages == talk.messages


def test_the_digest_is_that_of_what_the_model_hears():
    rng = np.random.default_rng(0)
    speech = tone(0.5)
    hiss = (1e-4 * rng.standard_normal(16000)).astype(np.float32)
    short, long = (Audio(np.concatenate([speech, hiss[:n]]), 16000) for n in (8000, 16000))
    assert short.speech.tail == 0
    assert short.digest == long.digest
    assert short.digest != Audio(np.concatenate([hiss[:800], speech, hiss[:8000]]), 16000).digest  # words come later
    assert short.digest != Audio(np.concatenate([speech, hiss[:1000]]), 16000).digest  # the margin is cut off
    silence = [Audio(np.zeros(n, np.float32), 16000) for n in (800, 1600)]
    assert silence[0].digest != silence[1].digest
    assert Message("user", (short, "x")).reads_as(Message("user", (long, "x")))
    assert not Message("user", (short, "x")).reads_as(Message("user", (long, "y")))
