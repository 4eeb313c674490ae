"""Text and calls of a reply are told apart the same way however the reply is cut into pieces."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from echox.tool_calls.call_format import CallFormat
from echox.tool_calls.call_parser import CallParser
from echox.tool_calls.tools import ToolCall

MARKED = CallFormat('<tool_call>\n{"name": "', '", "arguments": ', "}\n</tool_call>", "\n")
BARE = CallFormat('{"name": "', '", "parameters": ', "}", None)
CALLS = [ToolCall("get_weather", '{"city": "Rom\\"}{", "days": [1, {"a": 2}]}'), ToolCall("stop", "{}")]


def written(form, calls):
    return (form.separator or "").join(
        f"{form.before}{call.name}{form.between}{call.arguments}{form.after}" for call in calls
    )


def parse(form, reply, cuts=()):
    parser, deltas = CallParser(form), []
    places = [0, *sorted(cuts), len(reply)]
    for start, end in zip(places, places[1:]):
        deltas += parser.push(reply[start:end])
    parser.finish()
    return parser, deltas


@given(st.data())
def test_text_then_calls(data):
    said = data.draw(st.sampled_from(["", "Let me look. ", "a < b <tool", "<tool_cal> x"]))
    calls = CALLS[: data.draw(st.integers(0, 2))]
    reply = said + ("\n" if said and calls else "") + written(MARKED, calls)
    cuts = data.draw(st.lists(st.integers(0, len(reply)), max_size=9))
    parser, deltas = parse(MARKED, reply, cuts)
    assert parser.calls == calls
    assert reply[: parser.text_end] == (said.rstrip() if calls else said)
    for index, call in enumerate(calls):
        own = [delta for delta in deltas if delta.index == index]
        assert own[0].arguments == ""
        assert {delta.name for delta in own} == {call.name}
        assert "".join(delta.arguments for delta in own) == call.arguments
        assert [delta.done for delta in own] == [False] * (len(own) - 1) + [True]


@pytest.mark.parametrize("reply", ["Say {this}.", '  "{', "No."])
def test_a_reply_that_begins_as_text_has_no_bare_call(reply):
    parser, deltas = parse(BARE, reply, range(len(reply)))
    assert parser.text_end == len(reply)
    assert not deltas
    assert not parser.calls


def test_a_bare_call():
    parser, _ = parse(BARE, written(BARE, CALLS[:1]), range(40))
    assert parser.calls == CALLS[:1]
    assert parser.text_end == 0


def test_a_call_that_is_cut_off_is_not_complete():
    whole = written(MARKED, CALLS[:1])
    for end in range(len(MARKED.marker), len(whole) - len(MARKED.after)):
        parser, deltas = parse(MARKED, whole[:end])
        assert not parser.calls
        assert not any(delta.done for delta in deltas)
        assert parser.text_end == 0
        with pytest.raises(ValueError, match="Expecting|Unterminated|Extra|delimiter"):
            json.loads("".join(delta.arguments for delta in deltas))


def test_another_form_is_an_error():
    with pytest.raises(ValueError, match="expected a call to go on"):
        CallParser(MARKED).push("<tool_call>{}")
