"""Whatever is sampled under the grammar is text, then calls whose arguments fit their schema; hostile schemas end."""

import json
import random
import time

import numpy as np
import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from echox.tool_calls.call_format import CallFormat
from echox.tool_calls.call_grammar import CallGrammars
from echox.tool_calls.call_parser import CallParser
from echox.tool_calls.tools import Tool, ToolUse

pytest.importorskip("llguidance")
MARKED = CallFormat('<tool_call>\n{"name": "', '", "arguments": ', "}\n</tool_call>", "\n")
SPELT = CallFormat('<tool>{"name": "', '", "arguments": ', "}", " ")  # its marker is ordinary tokens
BARE = CallFormat('{"name": "', '", "parameters": ', "}", None)
SCHEMA = {
    "type": "object",
    "properties": {
        "city": {"type": "string", "maxLength": 5},
        "days": {"type": "integer", "minimum": 0, "maximum": 9},
        "unit": {"enum": ["C", "F"]},
    },
    "required": ["city", "days"],
}
TOOLS = (Tool("get_weather", "The weather.", json.dumps(SCHEMA)), Tool("stop"))


def byte_tokenizer():
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    found = Tokenizer(models.BPE(vocab={letter: number for number, letter in enumerate(alphabet)}, merges=[]))
    found.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    found.decoder = decoders.ByteLevel()
    found.add_special_tokens(["<|end|>", "<|python_tag|>"])
    found.add_tokens([AddedToken(one, special=False, normalized=False) for one in ("<tool_call>", "</tool_call>")])
    return found


TOKENIZER = byte_tokenizer()
END, TAG, OPEN = (TOKENIZER.token_to_id(one) for one in ("<|end|>", "<|python_tag|>", "<tool_call>"))
NUM_TOKENS = TOKENIZER.get_vocab_size() + 6  # padded, as models have it


@pytest.fixture(scope="module", params=["marked", "spelt", "bare"])
def grammars(request):
    if request.param != "bare":
        return CallGrammars(TOKENIZER, MARKED if request.param == "marked" else SPELT, NUM_TOKENS, [END])
    return CallGrammars(TOKENIZER, BARE, NUM_TOKENS, [END], TAG)


def sampled(grammars, use, seed, call_weight=1.0):
    """The text of a reply of random tokens."""
    constraint, source, ids = grammars.constraint(use), random.Random(seed), []
    weights = np.ones(NUM_TOKENS)
    weights[[OPEN, TOKENIZER.token_to_id("{")]] = call_weight
    for _ in range(600):
        if constraint.ended:
            break
        allowed = constraint.allowed()
        assert not allowed[TOKENIZER.get_vocab_size() :].any()
        token = source.choices(range(NUM_TOKENS), allowed * weights)[0]
        if token == END:
            break
        constraint.take(token)
        ids.append(token)
    text = TOKENIZER.decode(ids, skip_special_tokens=True)
    parser = CallParser(grammars.form)
    parser.push(text)
    parser.finish()
    return text, parser


def check(call):
    assert call.name in ("get_weather", "stop")
    arguments = json.loads(call.arguments)
    if call.name == "stop":
        assert arguments == {}
        return
    assert arguments.keys() <= SCHEMA["properties"].keys()
    assert len(arguments["city"]) <= 5
    assert 0 <= arguments["days"] <= 9
    assert arguments.get("unit", "C") in ("C", "F")


@pytest.mark.parametrize("seed", range(5))
def test_a_required_call_is_valid(grammars, seed):
    text, parser = sampled(grammars, ToolUse(TOOLS, required=True), seed)
    assert parser.text_end == 0
    assert text.strip().startswith(grammars.form.before)
    assert parser.calls
    for call in parser.calls:
        check(call)


def test_a_named_tool_and_no_other(grammars):
    use = ToolUse(TOOLS, allowed=frozenset(["get_weather"]), required=True, parallel=False)
    for seed in range(5):
        _, parser = sampled(grammars, use, seed)
        assert [call.name for call in parser.calls] == ["get_weather"]


def test_text_may_come_first_and_calls_are_whole(grammars):
    for seed in range(5):
        _, parser = sampled(grammars, ToolUse(TOOLS), seed, call_weight=40.0)
        for call in parser.calls:
            check(call)


@pytest.mark.parametrize("text", ["", "Wait. ", "a < b, <tool and </tool>, <<", "1\n\n"])
@pytest.mark.parametrize("number", [1, 3])
def test_what_a_template_writes_is_allowed_token_by_token(grammars, text, number):
    form = grammars.form
    if not form.marker and (text or number > 1):
        pytest.skip("this form has no call after text, and one call at most")
    call = f'{form.before}get_weather{form.between}{{"city": "Rome", "days": 1}}{form.after}'
    constraint = grammars.constraint(ToolUse(TOOLS))
    for token in TOKENIZER.encode(text + (form.separator or "").join([call] * number), add_special_tokens=False).ids:
        assert constraint.allowed()[token], TOKENIZER.decode([token], skip_special_tokens=False)
        constraint.take(token)
    assert constraint.ended or constraint.allowed()[END]


def test_no_call_without_a_tool_to_call(grammars):
    for use in (ToolUse(TOOLS, allowed=frozenset()), ToolUse()):
        text, parser = sampled(grammars, use, 1, call_weight=40.0)
        assert not parser.calling
        assert parser.text_end == len(text)


def test_replies_with_the_same_tools_do_not_share_their_state(grammars):
    use = ToolUse(TOOLS, required=True)
    first, second = grammars.constraint(use), grammars.constraint(use)
    first.take(int(np.flatnonzero(first.allowed())[0]))
    assert second.allowed().sum() == grammars.constraint(use).allowed().sum()


HOSTILE = {
    "an unknown reference": {"properties": {"a": {"$ref": "#/$defs/none"}}},
    "a file": {"properties": {"a": {"$ref": "file:///etc/hostname"}}},
    "a pattern that explodes": {"properties": {"a": {"type": "string", "pattern": "(a|aa)*(b{1,900}){1,900}$"}}},
    "no schema": {"properties": {"a": {"type": "thing"}}},
    "many optional names": {"properties": {f"name{n}": {"type": "string", "pattern": f"a*{n}b*"} for n in range(900)}},
    "a long count": {"properties": {"a": {"type": "array", "minItems": 10**9, "items": {"type": "integer"}}}},
    "nothing fits": {"properties": {"a": {"allOf": [{"type": "string"}, {"type": "integer"}]}}, "required": ["a"]},
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_schemas_end_soon(grammars, name):
    tool = Tool("bad", "", json.dumps({"type": "object", **HOSTILE[name]}))
    began_s = time.process_time()
    try:
        constraint = grammars.constraint(ToolUse((tool,), required=True))
        for _ in range(40):
            allowed = np.flatnonzero(constraint.allowed())
            if constraint.ended or not len(allowed):
                break
            constraint.take(int(allowed[0]))
    except ValueError as error:
        assert "expected" in str(error)
        assert len(str(error)) < 500
    assert time.process_time() - began_s < 20
