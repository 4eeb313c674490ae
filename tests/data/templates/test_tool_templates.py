"""Templates of models that are taught tools: nothing changes without tools, and lessons are what they write."""

import json

import pytest

from echox.data.corpora.tools.requests import taught_tools, tool_requests
from echox.data.splits import SPLITS
from echox.data.templates import tool_templates
from echox.data.templates.chat_templates import FAMILIES
from echox.data.templates.tool_templates import calls_text, output_text, taught_template, tools_text
from echox.models.text.tokenization_text import CHAT_TEMPLATE, train_text_tokenizer
from echox.streaming.prompt.chat_template import ChatTemplate
from echox.tool_calls.call_format import find_format
from echox.tool_calls.tools import Tool, ToolCall
from tiny_echox import TEXTS
from tool_models import family_tokenizer

TOOLS = taught_tools()
CALL = ToolCall("get_time", '{"city": "Rome"}')
OUTPUT = '{"time": "three o\'clock"}'
HELLO = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": [{"type": "audio"}, {"type": "text", "text": "Hello?"}]},
    {"role": "assistant", "content": "Hello."},
]


@pytest.fixture(scope="module", params=["own", "qwen", "llama"])
def tokenizer(request):
    if request.param == "own":
        return train_text_tokenizer(TEXTS, vocab_size=300)
    return family_tokenizer(request.param)


def taught(tokenizer, template=None):
    """The tokenizer's template before, and with tools."""
    before = tokenizer.chat_template
    after = taught_template(before, "<|audio|>")
    assert taught_template(after, "<|audio|>") == after  # taught once more
    return before, after


def write(tokenizer, template, messages, tools=(), begins_reply=True):
    kept = tokenizer.chat_template
    tokenizer.chat_template = template
    try:
        return ChatTemplate(tokenizer, "<|audio|>").text(messages, tools, begins_reply)
    finally:
        tokenizer.chat_template = kept


@pytest.mark.parametrize("begins_reply", [True, False])
def test_without_tools_nothing_changes(tokenizer, begins_reply):
    before, after = taught(tokenizer)
    assert before != after
    texts = [write(tokenizer, one, HELLO, (), begins_reply) for one in (before, after)]
    assert texts[0] == texts[1]


def test_lessons_are_what_the_template_writes(tokenizer):
    before, after = taught(tokenizer)
    asked = {"role": "user", "content": "What time is it?"}
    said = {"role": "assistant", "content": "It is three o'clock."}
    called = {"role": "assistant", "content": "Let me see.", "tool_calls": [CALL.for_template()]}
    live = [HELLO[0], asked, called, {"role": "tool", "content": OUTPUT}, said]
    lesson = [
        {"role": "system", "content": tools_text(TOOLS, "Be brief.")},
        asked,
        {"role": "assistant", "content": calls_text("Let me see.", [CALL])},
        {"role": "user", "content": output_text(OUTPUT)},
        said,
    ]
    assert write(tokenizer, after, live, TOOLS, False) == write(tokenizer, before, lesson, (), False)
    assert "set_light(room: string, state: on|off): Switches the light of a room." in lesson[0]["content"]


def test_arguments_are_written_as_they_are_whatever_is_written_first():
    tool_templates._compiled.cache_clear()
    call = ToolCall("note", '{"text": "<b> & \'c\'"}')
    assert calls_text("", [call]) == '<tool>{"name": "note", "arguments": {"text": "<b> & \'c\'"}}'


def test_the_form_of_calls_is_found(tokenizer):
    _, after = taught(tokenizer)
    form = find_format(lambda messages, tools, begins: write(tokenizer, after, messages, tools, begins))
    assert form is not None
    assert (form.before, form.between, form.after) == ('<tool>{"name": "', '", "arguments": ', "}")
    assert form.marker == "<tool>"
    assert form.separator == " "


def test_schemas_of_any_shape_are_written(tokenizer):
    _, after = taught(tokenizer)
    shapes = {"type": "object", "properties": {"a": True, "b": {"type": ["string", "null"]}, "c": {}}}
    text = write(tokenizer, after, HELLO, [Tool("go", "", json.dumps(shapes)), Tool("stop")])
    assert "go(a: any, b: ['string', 'null'], c: any)\nstop()" in text


def test_other_templates_are_refused():
    with pytest.raises(ValueError, match="expected one that this package makes"):
        taught_template("{{ messages }}", "<|audio|>")
    assert any(not one.system_turn for one in FAMILIES)
    with pytest.raises(ValueError, match="expected one that this package makes"):
        taught_template(next(one for one in FAMILIES if not one.system_turn).template("<|audio|>"), "<|audio|>")
    assert taught_template(CHAT_TEMPLATE, "<|audio|>")


def test_requests_fit_their_tools_and_held_out_wordings_are_in_no_other_split():
    schemas = {tool.name: json.loads(tool.parameters) for tool in TOOLS}
    texts = {}
    for split in SPLITS:
        found = tool_requests(split, 4)
        texts[split] = {request.text for request in found}
        for request in found:
            arguments = json.loads(request.call.arguments)
            assert arguments.keys() == schemas[request.call.name]["properties"].keys()
            json.loads(request.output)
            assert "{" not in request.text + request.reply
    assert not texts["heldout"] & texts["train"]
    assert any(request.new for request in tool_requests("heldout", 2))
    assert tool_requests("train", 2) == tool_requests("train", 2)
    with pytest.raises(ValueError, match="split"):
        tool_requests("test", 1)
