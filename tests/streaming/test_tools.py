"""Replies that call tools: written under the grammar, never spoken, and continued with what the tool says."""

import json

import pytest
import torch
from tokenizers import AddedToken

from echox.data.templates.tool_templates import taught_template
from echox.models.text.tokenization_text import train_text_tokenizer
from echox.streaming.events import AudioChunk, Finished, TextDelta
from echox.streaming.prompt.messages import Message
from echox.tool_calls.tools import Tool, ToolCall, ToolCallDelta, ToolUse
from tiny_echox import TEXTS, of, tiny_echox
from tool_models import REQUIRED, TOOLS, family_tokenizer, fits_weather, tool_model

pytest.importorskip("llguidance")
QUESTION = {"role": "user", "content": "How is the weather?"}
NAMED = ToolUse(TOOLS, allowed=frozenset(["get_weather"]), required=True, parallel=False)


@pytest.fixture(scope="module", params=["qwen", "llama"])
def model(request):
    return tool_model(request.param)


def test_a_required_call_is_written_and_not_said(model):
    session = model.session()
    session.tools = NAMED
    events = list(session.stream(QUESTION))
    assert not of((TextDelta, AudioChunk), events)
    finished = events[-1]
    assert isinstance(finished, Finished)
    assert finished.stopped == "end"
    (call,) = finished.calls
    assert call.name == "get_weather"
    assert fits_weather(call.arguments)
    deltas = of(ToolCallDelta, events)
    assert len(deltas) > 3, "arguments come piece by piece"
    assert "".join(delta.arguments for delta in deltas) == call.arguments
    assert session.messages[-1].calls == (call,)
    prompt = session.engine.chat_template.text([one.for_template() for one in session.messages], TOOLS)
    assert '"name": "get_weather"' in prompt

    reply = session.reply({"role": "tool", "content": "It is sunny."})
    assert not reply.calls or session.tools.required


def test_the_output_of_a_tool_is_answered_aloud(model):
    session = model.session()
    session.tools = ToolUse(TOOLS, allowed=frozenset())
    session.messages = [
        Message("user", ("How is the weather?",)),
        Message("assistant", ("Wait.",), (ToolCall("get_weather", '{"city": "Rome", "days": 1}'),)),
    ]
    reply = session.reply({"role": "tool", "content": "It is sunny."}, max_new_tokens=12)
    assert reply.text
    assert not reply.calls
    assert reply.duration_s > 0
    assert "tool_call" not in reply.text


def test_several_replies_at_once_are_what_each_is_alone(model):
    uses = [NAMED, REQUIRED, ToolUse(), ToolUse(TOOLS, allowed=frozenset(["stop"]), required=True)]

    def asked(use):
        session = model.session(seed=3, max_new_tokens=120, speak=False)
        session.tools = use
        return session.submit(QUESTION)

    def calls_of(task):
        last = list(task)[-1]
        return last.text, last.calls

    alone = [calls_of(asked(use)) for use in uses]
    together = [calls_of(task) for task in [asked(use) for use in uses]]
    assert together == alone


def test_what_is_said_before_a_call_is_spoken(monkeypatch):
    model = tool_model("qwen")
    session, engine = model.session(), model.engine
    session.tools = ToolUse(TOOLS, allowed=frozenset(["get_weather"]), parallel=False)
    marker = engine.tokenizer.convert_tokens_to_ids("<tool_call>")
    said = engine.tokenizer("Let me look.", add_special_tokens=False)["input_ids"]
    wanted = [*said, marker]
    logits, steps = engine.logits, []

    def guided(states):
        found = logits(states).clone()
        if len(steps) < len(wanted):
            found[:] = -100.0
            found[:, wanted[len(steps)]] = 100.0
        steps.append(1)
        return found

    monkeypatch.setattr(engine, "logits", guided)
    reply = session.reply(QUESTION)
    assert reply.text == "Let me look."
    assert reply.duration_s > 0
    assert [call.name for call in reply.calls] == ["get_weather"]
    assert fits_weather(reply.calls[0].arguments)


def test_a_call_that_is_cut_off_is_no_call(model):
    session = model.session()
    session.tools = NAMED
    events = list(session.stream(QUESTION, max_new_tokens=30))
    assert events[-1].stopped == "length"
    assert events[-1].calls == ()
    assert not of(TextDelta, events)


def test_the_system_turn_is_shared_with_its_tools(model):
    for _ in range(2):
        session = model.session(system="Be brief.", speak=False)
        session.tools = REQUIRED
        first = session.submit(QUESTION)
        list(first)
    assert first.timings.num_cached_tokens > 100
    other = model.session(system="Be brief.", speak=False)
    second = other.submit(QUESTION)
    list(second)
    assert second.timings.num_prompt_tokens < first.timings.num_prompt_tokens


def test_a_conversation_without_tools_is_laid_out_as_before(model):
    template = model.engine.chat_template
    messages = [QUESTION, {"role": "assistant", "content": "Fine."}, QUESTION]
    plain = model.engine.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert template.text(messages) == plain
    assert template.text(
        [*messages, {"role": "assistant", "content": "x"}, {"role": "tool", "content": "y"}]
    ).startswith(template.text(messages))


def test_special_tokens_in_tools_are_refused(model):
    session = model.session()
    end = model.engine.tokenizer.eos_token
    session.tools = ToolUse((Tool("f", f"{end} pretend"),))
    with pytest.raises(ValueError, match="expected plain text, found the special token"):
        session.reply(QUESTION)


def escaped(text):
    return "".join(f"\\u{ord(letter):04x}" for letter in text)


def declared(name="f", description="", fields=None):
    schema = {"type": "object", "properties": {"a": {"type": "string", **(fields or {})}}}
    return [Message("user", ("Hi.",))], (Tool(name, description, json.dumps(schema)),)


def called(name="f", arguments="{}", text="", output="Done."):
    made = Message("assistant", (text,), (ToolCall(name, arguments),))
    return [Message("user", ("Hi.",)), made, Message("tool", (output,))], (Tool("f"),)


PLACES = {
    "system prompt": lambda text: ([Message("system", (text,)), Message("user", ("Hi.",))], ()),
    "user": lambda text: ([Message("user", (text,))], ()),
    "user, in two parts": lambda text: ([Message("user", (text[:2], text[2:]))], ()),
    "assistant": lambda text: ([Message("user", ("Hi.",)), Message("assistant", (text,))], ()),
    "assistant, with a call": lambda text: called(text=text),
    "tool name": lambda text: declared(f"f{text}"),
    "tool description": lambda text: declared(description=text),
    "parameter name": lambda text: (
        [Message("user", ("Hi.",))],
        (Tool("f", "", json.dumps({"properties": {text: 1}})),),
    ),
    "parameter type": lambda text: declared(fields={"type": text}),
    "parameter description": lambda text: declared(fields={"description": text}),
    "enum": lambda text: declared(fields={"enum": ["x", text]}),
    "enum, in pieces": lambda text: declared(fields={"enum": text.split("|")}),
    "enum, of an object": lambda text: declared(fields={"enum": dict.fromkeys(text.split("|"))}),
    "schema, escaped": lambda text: (
        [Message("user", ("Hi.",))],
        (Tool("f", "", f'{{"properties": {{"{escaped(text)}": {{"enum": ["{escaped(text)}"]}}}}}}'),),
    ),
    "call name": lambda text: called(name=f"f{text}"),
    "argument": lambda text: called(arguments=json.dumps({"a": [text]}, ensure_ascii=False)),
    "argument, escaped": lambda text: called(arguments=f'{{"a": [{{"b": "{escaped(text)}"}}]}}'),
    "argument name, escaped": lambda text: called(arguments=f'{{"{escaped(text)}": 1}}'),
    "output": lambda text: called(output=text),
}
"""Where text of a client gets into a prompt: messages and tools with it there."""


@pytest.fixture(scope="module", params=["qwen", "llama", "taught"])
def prompts(request):
    """The engine of a family whose prompts have tools, with a special token that is not ASCII, too."""
    if request.param == "taught":
        tokenizer = train_text_tokenizer(TEXTS, vocab_size=340)
        tokenizer.chat_template = taught_template(tokenizer.chat_template, "<|audio|>")
    else:
        tokenizer = family_tokenizer(request.param)
    tokenizer.add_tokens([AddedToken("<｜end▁of▁turn｜>", special=True, normalized=False)], special_tokens=True)
    return tiny_echox(tokenizer=tokenizer, max_positions=4096).engine


@pytest.mark.parametrize("place", PLACES)
def test_no_text_of_a_client_becomes_a_special_token(prompts, place):
    special = set(prompts.tokenizer.all_special_ids)

    def controls(text):
        return [one for one in prompts.lay_out(PLACES[place](text)[0], {}, PLACES[place](text)[1]) if one in special]

    expected = controls("plain")  # and text that is no special token is taken
    for token in prompts.tokenizer.all_special_tokens:
        try:
            found = controls(token)
        except ValueError as error:
            assert f"found the special token {token}" in str(error)
            assert str(error).startswith("tool "), "all that is said is text"
        else:
            assert found == expected, token


def test_a_model_without_tools_says_so():
    model = tiny_echox()
    assert model.engine.call_grammars is None
    session = model.session()
    session.tools = ToolUse(TOOLS)
    with pytest.raises(ValueError, match="expected a language model whose chat template knows tools"):
        session.reply(QUESTION)
    with torch.inference_mode(), pytest.raises(ValueError, match="knows tools"):
        model.session().reply({"role": "tool", "content": "It is sunny."})


def test_parallel_calls_are_answered_at_once_and_a_cut_reply_keeps_its_calls(model):
    """A conversation that is passed in the form of transformers, in one piece and in turns."""
    calls = [{"type": "function", "function": {"name": "get_weather", "arguments": {"city": "Rome", "days": 1}}}]
    if model.engine.call_grammars.form.separator is not None:
        calls += [{**calls[0], "function": {"name": "stop", "arguments": "{}"}}]
    outputs = [{"role": "tool", "content": f"Output {number}."} for number in range(len(calls))]
    passed = [QUESTION, {"role": "assistant", "content": "", "tool_calls": calls}, *outputs]
    session = model.session(speak=False, temperature=0.0, max_new_tokens=8)
    session.tools = ToolUse(TOOLS, allowed=frozenset())
    whole = session.reply(passed).text
    assert len(session.messages[1].calls) == len(calls)
    again = model.session(speak=False, temperature=0.0, max_new_tokens=8)
    again.tools = session.tools
    again.messages = session.messages[:2]
    assert again.truncate(0.0) == ""
    assert again.messages[1].calls == session.messages[1].calls
    assert again.reply(outputs).text == whole
