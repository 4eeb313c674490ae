"""Text that takes long to read: in parts beside other replies, and no further when nobody wants it any more."""

import threading

import numpy as np
import pytest

from echox.api import EchoX
from echox.streaming import AudioChunk
from echox.streaming.prompt.messages import Message, UnreadableMessage
from tiny_echox import tiny_echox


@pytest.fixture(scope="module")
def nano() -> EchoX:
    return EchoX.from_pretrained("nano", device="cpu")


def ask(text):
    return {"role": "user", "content": text}


def outcome(task):
    events = list(task)
    sound = np.concatenate([event.waveform for event in events if isinstance(event, AudioChunk)])
    return events[-1].timeline, sound


PAGE = "€1 or 10^9, A.B.C. 555-1234. " * 4


@pytest.mark.parametrize("form", [pytest.param("word_synchronous", marks=pytest.mark.slow), "prefix"])
def test_given_text_is_read_in_parts_beside_others_and_sounds_the_same(form, monkeypatch):
    model = tiny_echox(form=form, max_positions=2048)
    alone = model.session().speak(PAGE)
    model.scheduler.step()
    assert not alone.has_text_to_read  # nobody else has to wait
    monkeypatch.setattr("echox.streaming.batch.READING_S", 0.0)
    other = model.session(max_new_tokens=400, temperature=0.0).submit(ask("Tell me about Brazil."))
    beside = model.session().speak(PAGE)
    for _ in range(5):
        model.scheduler.step()
        assert beside.has_text_to_read
    marks, sound = zip(*(outcome(task) for task in (alone, beside)), strict=True)
    other.cancel()
    assert marks[0] == marks[1]
    np.testing.assert_allclose(*sound, atol=1e-4 * max(1.0, float(np.abs(sound[0]).max())), rtol=0)


@pytest.mark.parametrize("text", [PAGE * 24, "½" * 4096, "A." * 2048])
def test_reading_given_text_ends_with_its_listener(nano, text):
    """Even one word that is said in thousands, and though nobody else waits."""
    task = nano.session().speak(text, on_event=lambda event: None)
    canceller = threading.Timer(0.2, setattr, (task, "cancelled", True))
    canceller.start()
    nano.scheduler.step()
    canceller.join()
    assert task.done
    assert len(task.speech.text) < len(text) or task.speech.has_unread


def test_a_conversation_is_laid_out_no_further_when_it_is_cancelled(monkeypatch):
    model = tiny_echox(max_positions=160)
    session = model.session(max_new_tokens=2)
    session.messages = [Message("user", ("Tell me about the sea.",)), Message("assistant", ("It is deep.",))] * 200
    task = session.submit(ask("And?"), on_event=lambda event: None)
    calls, lay_out = [], model.engine.lay_out

    def cancelling(*args):
        calls.append(args)
        task.cancelled = True  # as another thread would
        return lay_out(*args)

    monkeypatch.setattr(model.engine, "lay_out", cancelling)
    model.scheduler.step()
    assert task.done
    assert task.error is None
    assert len(calls) == 1


def test_what_can_never_fit_is_not_tokenised(monkeypatch):
    model = tiny_echox(max_positions=160)
    monkeypatch.setattr(model.engine, "lay_out", lambda *args: pytest.fail("it was laid out"))
    with pytest.raises(ValueError, match="characters.*shorter turns"):
        model.session().reply(ask("word " * 200_000))
    with pytest.raises(ValueError, match="characters.*shorten them"):
        model.session(system="word " * 200_000).reply(ask("And?"))


@pytest.mark.parametrize(
    ("system", "question", "blamed"),
    [
        ("Hi.", 170, "question"),
        ("word " * 30, 120, "question"),
        ("word " * 150, 4, "system"),
        ("word " * 170, 120, "system"),
    ],
)
def test_what_is_too_long_is_named(system, question, blamed):
    model = tiny_echox(max_positions=160)
    with pytest.raises(ValueError, match=f"the {blamed}.* too long") as raised:
        model.session(system=system).reply(ask("word " * question))
    assert isinstance(raised.value, UnreadableMessage) == (blamed == "question")
