"""The memory of a system prompt is shared: the same replies, fewer positions to run; bounded; not for other prompts."""

import pytest

from echox.api import EchoX
from echox.streaming.batch import ReplyBatch
from echox.streaming.prompt import system_turns
from tiny_echox import tiny_echox, tone

SYSTEM = "You are brief. Answer in one sentence."
TYPED = {"role": "user", "content": "Tell me about the sea."}


@pytest.fixture
def model() -> EchoX:
    return tiny_echox()


@pytest.fixture
def runs(monkeypatch) -> list[int]:
    """Numbers of positions that prompts took."""
    taken: list[int] = []
    prefill = ReplyBatch._prefill_tasks

    def noted(self, tasks):
        taken.extend(len(task.positions) for task in tasks)
        prefill(self, tasks)

    monkeypatch.setattr(ReplyBatch, "_prefill_tasks", noted)
    return taken


def ask(model: EchoX, question: object, system: str | None = SYSTEM) -> str:
    return model.session(system=system, max_new_tokens=12, speak=False).reply(question).text


def test_the_next_conversation_begins_with_it_and_says_the_same(model, runs):
    asked = [TYPED, tone(1.0), {"role": "user", "content": "What is the capital of France?"}]
    first = [ask(model, question) for question in asked]
    alone = [ask(tiny_echox(), question) for question in asked]
    assert first == alone
    saved, whole = runs[:3], runs[3:]
    assert saved[0] == whole[0]
    shared = len(model.engine.tokenizer(SYSTEM)["input_ids"])
    assert all(after <= before - shared for after, before in zip(saved[1:], whole[1:], strict=True))


def test_a_system_message_counts_as_a_system_prompt(model, runs):
    ask(model, TYPED)
    messages = [{"role": "system", "content": SYSTEM}, TYPED]
    text = model.session(max_new_tokens=12, speak=False).reply(messages).text
    assert text == ask(tiny_echox(), TYPED)
    assert runs[1] < runs[0]


def test_other_prompts_and_none_have_nothing_of_it(model, runs):
    ask(model, TYPED)
    assert ask(model, TYPED, "You are loud.") == ask(tiny_echox(), TYPED, "You are loud.")
    assert ask(model, TYPED, None) == ask(tiny_echox(), TYPED, None)
    assert runs[1] == runs[2]
    assert runs[3] == runs[4]


def test_the_model_s_own_prompt_stands_in_for_none(model, runs):
    expected = ask(model, TYPED)
    own = tiny_echox()
    own.model.config.system_prompt = SYSTEM
    assert ask(own, TYPED, None) == expected
    assert runs[1] == runs[0]
    assert ask(own, TYPED, "You are loud.") == ask(tiny_echox(), TYPED, "You are loud.")
    messages = [{"role": "system", "content": "You are loud."}, TYPED]
    assert own.session(max_new_tokens=12, speak=False).reply(messages).text == ask(own, TYPED, "You are loud.")


def test_conversations_side_by_side_do_not_touch_it(model):
    ask(model, TYPED)
    tasks = [model.session(system=SYSTEM, max_new_tokens=12, speak=False).submit(TYPED) for _ in range(3)]
    assert {"".join(getattr(event, "text", "") for event in task) for task in tasks} == {
        "".join(
            getattr(event, "text", "")
            for event in tiny_echox().session(system=SYSTEM, max_new_tokens=12, speak=False).submit(TYPED)
        )
    }


def test_second_turns_continue_their_own_memory(model):
    ask(model, TYPED)
    session = model.session(system=SYSTEM, max_new_tokens=12, speak=False)
    other = tiny_echox().session(system=SYSTEM, max_new_tokens=12, speak=False)
    for question in (TYPED, tone(1.0), {"role": "user", "content": "And?"}):
        assert session.reply(question).text == other.reply(question).text


def test_their_number_and_size_are_bounded(model, monkeypatch):
    for number in range(system_turns.MAX_SYSTEM_TURNS + 3):
        ask(model, TYPED, f"Number {number}.")
    assert len(model.engine.system_turns._saved) == system_turns.MAX_SYSTEM_TURNS
    monkeypatch.setattr(model.engine.system_turns, "_max_bytes", 1)
    ask(model, TYPED, "Another.")
    assert system_turns.SystemTurn("Another.") not in model.engine.system_turns._saved
