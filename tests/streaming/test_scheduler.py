"""Many sessions on one model: each is as if alone, when others join, leave, wait, fail or are cancelled."""

import functools
import gc
import itertools
import subprocess
import sys
import threading
import time
from collections import deque
from dataclasses import replace

import numpy as np
import pytest
import torch

from echox.api import EchoX
from echox.errors import QueueFull
from echox.streaming import AudioChunk, Finished, Heard, ReplyTask, Scheduler, Session, TextDelta
from echox.streaming.task import ReplyEvents
from paths import TESTS
from tiny_echox import tiny_echox, tone
from tiny_recogniser import tiny_hearer

MODELS = (
    (tiny_echox, "word_synchronous"),
    (tiny_echox, "prefix"),
    pytest.param((tiny_echox, "spelling"), marks=pytest.mark.slow),
    pytest.param((tiny_hearer, "word_synchronous"), marks=pytest.mark.slow),
)


@pytest.fixture(scope="module", params=MODELS)
def model(request) -> EchoX:
    make, form = request.param
    made = make(form=form, max_positions=2048, unit_words_per_word=12)
    made.settings = replace(made.settings, max_new_tokens=14)
    return made


@pytest.fixture(scope="module")
def alone(model):
    """Events of the reply to a typed question, asked alone; each is made once."""

    @functools.cache
    def events(text: str, seed: int) -> list:
        return list(model.session().stream(ask(text), seed=seed))

    return events


@pytest.fixture(scope="module")
def nano() -> EchoX:
    return EchoX.from_pretrained("nano", device="cpu")


TYPED = [
    "Tell me about Brazil.",
    "What is the capital of France?",
    "What sound does a dog make?",
    "How many legs does a spider have?",
    "Tell me about Japan.",
    "What comes after seven?",
]


def ask(text: str) -> dict:
    return {"role": "user", "content": text}


def outcome(events: list) -> tuple[str, np.ndarray, list]:
    sound = [event.waveform for event in events if isinstance(event, AudioChunk)]
    text = "".join(event.text for event in events if isinstance(event, TextDelta))
    return text, np.concatenate(sound) if sound else np.zeros(0), list(events[-1].timeline)


def same(one: list, other: list) -> None:
    (text, sound, marks), (text_too, sound_too, marks_too) = outcome(one), outcome(other)
    assert text == text_too
    assert marks == marks_too
    loudest = max(1.0, float(np.abs(sound).max(initial=0.0)))  # a random voice is far louder than full scale
    np.testing.assert_allclose(sound, sound_too, atol=1e-4 * loudest, rtol=0)


def together(scheduler: Scheduler, tasks: list[ReplyTask]) -> None:
    """Drive all tasks to their end."""
    while not all(task.done for task in tasks):
        assert scheduler.step()


@pytest.mark.parametrize("greedy", [True, False])
def test_replies_made_together_are_those_made_alone(model, greedy):
    """Questions of different lengths, joining at different rounds, with their own seeds; some after another turn."""
    questions = [tone(0.4 + 0.3 * n, seed=n) for n in range(4)] + [ask("What is the sea?")]
    choices = [{"seed": n, "max_new_tokens": 6 + 5 * n} for n in range(5)]
    if greedy:
        choices = [{**choice, "temperature": 0.0, "echo_temperature": 0.0} for choice in choices]
    alone = [list(model.session().stream(q, **c)) for q, c in zip(questions, choices, strict=True)]
    model.engine.clear_encoded()
    scheduler = Scheduler(model.engine, max_running=4)
    tasks = []
    for number, (question, choice) in enumerate(zip(questions, choices, strict=True)):
        tasks.append(Session(scheduler, model.settings).submit(question, **choice))
        for _ in range(2 * number):
            scheduler.step()
    together(scheduler, tasks)
    for task, events in zip(tasks, alone, strict=True):
        same(list(task), events)


def test_conversations_go_on_side_by_side(nano):
    def turns(session: Session, texts: list[str]) -> list[list]:
        return [list(session.stream(ask(text))) for text in texts]

    halves = [TYPED[:2], TYPED[2:4]]
    alone = [turns(nano.session(), texts) for texts in halves]
    scheduler = Scheduler(nano.engine)
    sessions = [Session(scheduler, nano.settings) for _ in halves]
    for turn in range(2):
        tasks = [session.submit(ask(texts[turn])) for session, texts in zip(sessions, halves, strict=True)]
        together(scheduler, tasks)
        for task, events in zip(tasks, alone, strict=True):
            same(list(task), events[turn])


def test_a_thread_can_drive(nano):
    asked = TYPED[:4]
    alone = [list(nano.session().stream(ask(text))) for text in asked]
    scheduler = Scheduler(nano.engine)
    scheduler.start()
    try:
        found: dict[int, list] = {}

        def client(number: int) -> None:
            found[number] = list(Session(scheduler, nano.settings).stream(ask(asked[number])))

        clients = [threading.Thread(target=client, args=(number,)) for number in range(len(asked))]
        for one in clients:
            one.start()
        for one in clients:
            one.join(60)
        for number, events in enumerate(alone):
            same(found[number], events)
        received: list = []
        ended = threading.Event()
        task = Session(scheduler, nano.settings).submit(
            ask(TYPED[0]), on_event=lambda event: received.append(event) if event else ended.set()
        )
        assert ended.wait(60)
        assert task.done
        same(received, alone[0])
    finally:
        scheduler.stop()
    assert not [thread for thread in threading.enumerate() if thread.name == "echox-scheduler"]


# ---------------------------------------------------------------------------------------------- queue


def test_the_queue_is_fair_and_bounded(model):
    scheduler = Scheduler(model.engine, max_running=2, max_waiting=64)
    began: list[int] = []
    tasks = []
    for number in range(66):
        first = [True]

        def note(event, number=number, first=first):
            if first.pop() if first else False:
                began.append(number)

        tasks.append(
            Session(scheduler, model.settings).submit(ask("Tell me about the sea."), on_event=note, max_new_tokens=3)
        )
    with pytest.raises(QueueFull, match="try again"):
        Session(scheduler, model.settings).submit(ask("And me?"))
    scheduler.step()
    assert (scheduler.num_running, scheduler.num_waiting) == (2, 64)
    most = 0
    while scheduler.step():
        assert scheduler.num_running <= 2
        most = max(most, scheduler.memory_bytes)
    assert all(task.done and task.error is None for task in tasks)
    assert began == sorted(began), "first come, first served"
    single = Scheduler(model.engine, max_running=2)
    together(
        single, [Session(single, model.settings).submit(ask("Tell me about the sea."), max_new_tokens=3) for _ in "ab"]
    )
    assert most == single.memory_bytes, "those who wait hold no memory"


def test_a_session_that_was_refused_may_ask_again(model):
    scheduler = Scheduler(model.engine, max_running=1, max_waiting=0)
    first, second = (Session(scheduler, model.settings) for _ in range(2))
    task = first.submit(ask("Tell me."))
    with pytest.raises(QueueFull):
        second.submit(ask("Tell me."))
    together(scheduler, [task])
    assert second.reply(ask("Tell me.")).text


@pytest.mark.parametrize("victim", [0, 1])
def test_the_place_of_a_cancelled_reply_is_free_at_once(model, victim):
    """Also during the round that has still to end it: of a reply at work (0) and of one that waits (1)."""
    scheduler = Scheduler(model.engine, max_running=1, max_waiting=1)
    taken, calls = [], itertools.count()

    def in_a_round(event):
        if next(calls) == 0:
            tasks[victim].cancel()
            taken.append(Session(scheduler, model.settings).submit(ask("And me?"), max_new_tokens=3))
            with pytest.raises(QueueFull):
                Session(scheduler, model.settings).submit(ask("And me?"))

    tasks = [
        Session(scheduler, model.settings).submit(ask("Tell me."), max_new_tokens=9, on_event=in_a_round) for _ in "ab"
    ]
    together(scheduler, [*tasks])
    together(scheduler, taken)
    assert [task.cancelled for task in (*tasks, *taken)] == [victim == 0, victim == 1, False]
    assert all(task.done and task.error is None for task in (*tasks, *taken))


def test_what_is_submitted_leaves_the_end_of_cancelled_replies_to_the_rounds(model):
    """Who submits is in no round: it must not touch what a round works with, nor the queue that it reads."""
    scheduler = Scheduler(model.engine, max_running=1, max_waiting=1)
    tasks = [Session(scheduler, model.settings).submit(ask("Tell me."), max_new_tokens=3) for _ in "ab"]
    tasks[1].cancelled = True  # as `ReplyTask.cancel` does first, while another thread makes a round
    after = Session(scheduler, model.settings).submit(ask("And me?"), max_new_tokens=3)
    assert not tasks[1].done
    together(scheduler, [*tasks, after])
    assert [task.cancelled for task in (*tasks, after)] == [False, True, False]


@pytest.mark.parametrize("numbers", [{"max_running": 0}, {"max_waiting": -1}])
def test_numbers_out_of_range_are_refused(model, numbers):
    with pytest.raises(ValueError, match="max_running"):
        Scheduler(model.engine, **numbers)


# ---------------------------------------------------------------------------------------------- cancelling, failing


def test_cancelling_one_leaves_the_others_untouched(model, alone):
    scheduler = Scheduler(model.engine)
    tasks = [Session(scheduler, model.settings).submit(ask("Tell me about the sea."), seed=n) for n in range(4)]
    for victim, rounds in ((1, 3), (3, 4)):
        for _ in range(rounds):
            scheduler.step()
        running = scheduler.num_running
        tasks[victim].cancel()
        assert tasks[victim].done
        assert scheduler.num_running == running - 1
    together(scheduler, tasks)
    for number in (0, 2):
        same(list(tasks[number]), alone("Tell me about the sea.", number))
    assert not any(isinstance(event, Finished) for event in tasks[1])


def test_with_a_thread_cancelling_takes_one_step(nano):
    scheduler = Scheduler(nano.engine)
    scheduler.start()
    try:
        for wait_s in (0.0, 0.01, 0.05, 0.1):
            task = Session(scheduler, nano.settings).submit(ask(TYPED[0]))
            time.sleep(wait_s)
            task.cancel()
            before = scheduler.num_steps
            deadline_s = time.monotonic() + 20
            while not task.done and time.monotonic() < deadline_s:
                time.sleep(0.001)
            assert task.done
            assert scheduler.num_steps <= before + 1
    finally:
        scheduler.stop()


def test_cancelled_sessions_leave_nothing_behind(model):
    scheduler = Scheduler(model.engine)

    def some(count: int) -> int:
        for number in range(count):
            task = Session(scheduler, model.settings).submit(tone(1.0), seed=number)
            for _ in range(number % 7):
                scheduler.step()
            task.cancel()
            list(task)
        gc.collect()
        return sum(value.nbytes for value in gc.get_objects() if type(value) is torch.Tensor and not value.is_sparse)

    baseline = some(10)
    assert some(60) <= baseline + 4096, "one session's memory is several times that"
    assert scheduler.num_running == scheduler.num_waiting == 0


def test_one_failing_reply_does_not_touch_the_others(model, alone, monkeypatch):
    """A batch that fails is made again one by one: only the faulty one fails."""
    questions = ["Tell me about the sea.", "What is the capital?", "A dog barks."]
    scheduler = Scheduler(model.engine)
    tasks = [Session(scheduler, model.settings).submit(ask(text), seed=7) for text in questions]
    advance = scheduler.batch._memory.advance

    def faulty(embeds, counts, first_row):
        rows = scheduler.batch._text_rows[first_row : first_row + len(embeds)]
        if any(task is tasks[1] and len(task.token_ids) > 3 for task in rows):
            raise RuntimeError("a fault in the second")
        return advance(embeds, counts, first_row)

    monkeypatch.setattr(scheduler.batch._memory, "advance", faulty)
    together(scheduler, tasks)
    with pytest.raises(RuntimeError, match="in the second"):
        list(tasks[1])
    for number in (0, 2):
        same(list(tasks[number]), alone(questions[number], 7))


def test_a_silent_question_fails_alone(model):
    scheduler = Scheduler(model.engine)
    encode = model.engine.encode
    good, bad = tone(0.5), tone(0.6, seed=1)

    def without_words(audios):
        found = encode(audios)
        return [
            type(one)(one.embeds, "", one.digest) if len(a.waveform) == len(bad) else one
            for a, one in zip(audios, found)
        ]

    model.engine.encode = without_words
    try:
        tasks = [Session(scheduler, model.settings).submit(question) for question in (good, bad)]
        together(scheduler, tasks)
    finally:
        del model.engine.encode
    assert outcome(list(tasks[0]))[0]
    with pytest.raises(ValueError, match="wrote only blanks"):
        list(tasks[1])


# ---------------------------------------------------------------------------------------------- listeners


def test_the_last_event_is_never_lost(model):
    """The thread may end a reply between a listener's two looks."""
    scheduler = Scheduler(model.engine)
    task = Session(scheduler, model.settings).submit(ask("A dog barks."))
    scheduler.drive = lambda task: None

    class Late(deque):
        def __bool__(self):
            empty = len(self) == 0
            if empty and not task.done:
                task.end()
            return not empty

    task._events = Late()
    assert [type(event) for event in task] == [Finished]


@pytest.mark.parametrize("kind", [Heard, TextDelta, Finished, type(None)])
def test_a_listener_that_raises_fails_alone(model, alone, kind):
    scheduler = Scheduler(model.engine)

    def listen(event):
        if isinstance(event, kind):
            raise OSError("the listener is gone")

    bad = [Session(scheduler, model.settings).submit(tone(0.4), on_event=listen)]
    tasks = [Session(scheduler, model.settings).submit(ask("A dog barks."), seed=n) for n in range(2)]
    bad.append(Session(scheduler, model.settings).submit(tone(0.4), on_event=listen))
    together(scheduler, [*tasks, *bad])
    for number, task in enumerate(tasks):
        same(list(task), alone("A dog barks.", number))
    assert all(isinstance(task.error, OSError) for task in bad)
    assert not scheduler.batch._text_rows
    assert not scheduler.batch._echo_rows


@pytest.mark.parametrize("kind", [Heard, TextDelta, AudioChunk])
def test_a_listener_may_cancel(model, alone, kind):
    scheduler = Scheduler(model.engine)
    received = []

    def listen(event):
        received.append(event)
        if isinstance(event, kind):
            victim.cancel()

    victim = Session(scheduler, model.settings).submit(tone(0.4), on_event=listen)
    tasks = [Session(scheduler, model.settings).submit(ask("A dog barks."), seed=n) for n in range(2)]
    together(scheduler, [*tasks, victim])
    assert received.count(None) == 1
    assert received[-1] is None
    for number, task in enumerate(tasks):
        same(list(task), alone("A dog barks.", number))
    assert not scheduler.batch._text_rows
    assert not scheduler.batch._echo_rows


def test_a_listener_must_not_wait_for_a_reply(model):
    """Within a round no other can be made: it would wait for ever."""
    scheduler = Scheduler(model.engine)
    other = Session(scheduler, model.settings).submit(ask("A dog barks."))
    task = Session(scheduler, model.settings).submit(ask("A dog barks."), on_event=lambda event: list(other))
    together(scheduler, [task])
    assert "outside of a round" in str(task.error)


def test_letting_go_never_waits(model):
    """The garbage collector may run anywhere, also where a lock is held that a round needs."""
    scheduler = Scheduler(model.engine)
    stream = ReplyEvents(Session(scheduler, model.settings).submit(ask("A dog barks.")))
    scheduler.step()
    with scheduler._round_lock:
        other = threading.Thread(target=stream.__del__)
        other.start()
        other.join(5)
        assert not other.is_alive()
    assert not scheduler.step()


def test_a_closed_stream_has_ended(model):
    """With a thread, too: the session may be asked, or the reply cut, at once."""
    scheduler = Scheduler(model.engine)
    scheduler.start()
    try:
        session = Session(scheduler, model.settings)
        for _ in range(5):
            stream = session.stream(ask("A dog barks."), max_new_tokens=400)
            next(stream)
            stream.close()
            session.truncate(0.1)
    finally:
        scheduler.stop()


@pytest.mark.slow
def test_a_program_may_end_while_the_thread_works():
    program = """
from tiny_echox import tiny_echox, tone
model = tiny_echox()
stream, other = (model.session().stream(tone(0.5), max_new_tokens=400) for _ in range(2))
next(stream)
model.scheduler.start()
next(other)
"""
    folder = TESTS / "tiny"
    done = subprocess.run([sys.executable, "-c", program], cwd=folder, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (0, "")


# ---------------------------------------------------------------------------------------------- faults of one reply


@pytest.mark.parametrize("place", ["layout", "policy", "speech"])
def test_a_fault_after_the_common_step_fails_alone(model, alone, place):
    """What was done for the others in that step is not done twice."""
    scheduler = Scheduler(model.engine)
    tasks = [Session(scheduler, model.settings).submit(ask("A dog barks."), seed=n) for n in range(3)]

    def broken(*inputs):
        raise TypeError("broken")

    if place == "layout":
        tasks[1].context.lay_out = broken
    elif place == "policy":
        tasks[1].speech._policy.push = broken
    else:
        tasks[1].speech.accept = broken
    together(scheduler, tasks)
    for number in (0, 2):
        same(list(tasks[number]), alone("A dog barks.", number))
    with pytest.raises(TypeError, match="broken"):
        list(tasks[1])


def test_the_thread_survives_a_fault_of_the_scheduler(model, monkeypatch):
    scheduler = Scheduler(model.engine)
    session = Session(scheduler, model.settings)
    with monkeypatch.context() as broken:
        broken.setattr(scheduler.batch._memory, "save", lambda row: [][row])
        scheduler.start()
        try:
            stream = session.stream(ask("A dog barks."), max_new_tokens=400)
            next(stream)
            stream.close()
        finally:
            broken.undo()
            assert session.reply(ask("A dog barks.")).text
            scheduler.stop()
