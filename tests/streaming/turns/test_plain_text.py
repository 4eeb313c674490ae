"""Special tokens in what is said: a conversation goes on, and they are spoken like other text."""

import numpy as np
import pytest

from echox.streaming import AudioChunk, SpeechFailed, TextDelta
from echox.streaming.prompt.messages import Message
from echox.tool_calls.tools import ToolCall, ToolUse
from tiny_echox import tiny_echox
from tool_models import TOOLS, family_tokenizer

pytest.importorskip("llguidance")


@pytest.fixture(scope="module", params=["qwen", "llama", "own"])
def model(request):
    tokenizer = None if request.param == "own" else family_tokenizer(request.param)
    return tiny_echox(tokenizer=tokenizer, max_positions=4096, unit_words_per_word=6)


def test_a_conversation_goes_on_whatever_was_said_in_it(model):
    calls_tools = model.engine.call_grammars is not None
    for token in model.engine.tokenizer.all_special_tokens:
        session = model.session(system=f"Say {token}.", speak=False, max_new_tokens=4)
        session.messages = [
            Message("user", (f"What is {token}?",)),
            Message("assistant", (f"{token} ends a turn.{token}",)),
        ]
        session.reply({"role": "user", "content": f"{token}And that?"})
        assert len(session.messages) == 4
        if calls_tools:
            session.tools = ToolUse(TOOLS, allowed=frozenset())
            session.messages.append(Message("user", ("Look.",)))
            session.messages.append(Message("assistant", ("",), (ToolCall("find", f'{{"{token}": ["{token}"]}}'),)))
            session.reply({"role": "tool", "content": f"{token}\n{token}"})
            assert len(session.messages) == 8


@pytest.mark.parametrize("cut", [1, 4])
def test_a_question_in_two_parts_is_read_as_one_text(model, cut):
    token = model.engine.tokenizer.eos_token
    parts = Message("user", (token[:cut], token[cut:]))
    assert model.engine.lay_out([parts], {}) == model.engine.lay_out([Message("user", (token,))], {})


def test_given_text_is_spoken_with_what_looks_like_a_special_token(model):
    token = model.engine.tokenizer.eos_token
    text = f"Open {token} and press {token} now."
    events = list(model.session().speak(text))
    assert "".join(event.text for event in events if isinstance(event, TextDelta)) == text
    marked = {place for mark in events[-1].timeline for place in range(mark.text_start, mark.text_end)}
    for event in events:
        if isinstance(event, SpeechFailed):
            marked |= set(range(text.index(event.text), text.index(event.text) + len(event.text)))
    assert marked >= {place for place, character in enumerate(text) if not character.isspace()}
    assert sum(len(event.waveform) for event in events if isinstance(event, AudioChunk)) > 0


def test_a_talk_head_reads_it_as_text(model):
    engine = model.engine
    special = engine.text_embeds(engine.tokenizer.eos_token)
    assert len(special) > 1
    row = engine._lm.get_input_embeddings().weight[engine.tokenizer.eos_token_id].detach()
    assert not any(np.allclose(one, row) for one in special)
