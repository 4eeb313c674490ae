"""Messages in the form of transformers: every field is read, or refused by its name."""

import re

import numpy as np
import pytest
import torch

from echox.audio import save_audio
from echox.streaming.prompt.messages import read_messages
from echox.tool_calls.tools import ToolCall
from tiny_echox import tone

ASKED = {"role": "user", "content": "How is the weather in Rome and Oslo?"}


def call(city, number=None, **changes):
    made = {"type": "function", "function": {"name": "get_weather", "arguments": {"city": city}}}
    return {**made, **({} if number is None else {"id": number}), **changes}


def read(*messages):
    return read_messages(list(messages), 16000, 20.0)


def replied(*calls, **fields):
    return {"role": "assistant", "content": None, "tool_calls": list(calls), **fields}


@pytest.mark.parametrize(
    "given",
    [
        call("Rome"),
        call("Rome", "c1"),
        call("Rome")["function"],
        {"type": "function", "function": {"name": "get_weather", "arguments": '{"city":"Rome"}'}},
    ],
)
@pytest.mark.parametrize("content", [None, "", "Let me see."])
def test_calls_are_read(given, content):
    _, reply, output = read(ASKED, replied(given, content=content), {"role": "tool", "content": "sunny"})
    assert reply.calls == (ToolCall("get_weather", '{"city": "Rome"}'),)
    assert reply.parts == (content or "",)
    assert reply.for_template()["tool_calls"] == [call("Rome")]
    assert output.for_template() == {"role": "tool", "content": "sunny"}


def test_a_reply_with_calls_may_have_no_content_and_a_call_no_arguments():
    messages = [ASKED, {"role": "assistant", "tool_calls": [{"name": "stop"}]}, {"role": "tool", "content": ""}]
    assert read(*messages)[1].calls == (ToolCall("stop", "{}"),)


def output(text, **fields):
    return {"role": "tool", "content": text, **fields}


def said(*messages):
    return ["".join(map(str, message.parts)) for message in read(*messages)]


def test_outputs_stand_in_the_order_of_the_calls_that_they_name():
    calls = replied(call("Rome", "c1"), call("Oslo", "c2"))
    rome, oslo = output("sunny", tool_call_id="c1"), output("rain", tool_call_id="c2", name="get_weather")
    for outputs in ([rome, oslo], [oslo, rome]):
        assert said(ASKED, calls, *outputs)[-2:] == ["sunny", "rain"]
        assert said(ASKED, calls, *outputs, {"role": "user", "content": "And now?"})[-3:-1] == ["sunny", "rain"]
    assert said(ASKED, calls, output("one"), output("two"))[-2:] == ["one", "two"]
    assert said(oslo, rome) == ["rain", "sunny"], "of a reply of the session: as they come"
    unnamed = replied(call("Rome"), call("Oslo"))
    assert said(ASKED, unnamed, oslo, rome)[-2:] == ["rain", "sunny"]


@pytest.mark.parametrize(
    ("messages", "expected"),
    [
        ([{**ASKED, "name": "Anna"}], "found name"),
        ([{**ASKED, "tool_calls": [call("Rome")]}], "found tool_calls"),
        ([{**ASKED, "tool_call_id": "c1"}], "found tool_call_id"),
        ([ASKED, {"role": "assistant", "content": "Hi", "reasoning_content": "Hm."}, ASKED], "found reasoning_content"),
        ([ASKED, {"role": "assistant", "content": "Hi", "audio": {"id": "a"}}, ASKED], "found audio"),
        ([{"role": "system", "content": "Hi", "cache": 1}, ASKED], "found cache"),
        ([ASKED, replied("stop"), output("x")], "a function with a name"),
        ([ASKED, replied({"function": {"arguments": {}}}), output("x")], "a function with a name"),
        ([ASKED, replied({"name": "f", "arguments": "{"}), output("x")], "a JSON object as arguments of f"),
        ([ASKED, replied({"name": "f", "arguments": "[1]"}), output("x")], "a JSON object as arguments of f"),
        ([ASKED, replied({"name": "f", "arguments": {"a": {1}}}), output("x")], "a JSON object as arguments of f"),
        ([ASKED, {**replied(), "tool_calls": "stop"}, output("x")], "a list as tool_calls"),
        ([ASKED, replied(), output("x")], "string or a list of parts"),
        ([ASKED, replied(call("Rome", "c1")), output("x", tool_call_id="c3")], "found 'c3'"),
        ([ASKED, replied(call("Rome", "c1")), output("x", name="stop")], "found 'stop'"),
    ],
)
def test_what_is_not_read_is_refused_by_name(messages, expected):
    with pytest.raises(ValueError, match=re.escape(expected)):
        read(*messages)


def test_fields_without_a_value_are_none():
    """As clients of OpenAI's interface write a reply."""
    reply = {"role": "assistant", "content": "Hi", "tool_calls": None, "refusal": None, "audio": None, "name": None}
    assert said(ASKED, reply, ASKED)[1] == "Hi"


class AudioSamples:
    """As of torchcodec."""

    def __init__(self, data, sample_rate):
        self.data, self.sample_rate = data, sample_rate


class AudioDecoder:
    """As ``ds[0]["audio"]`` of datasets 4: torchcodec's decoder, with two keys of a dictionary and no others."""

    def __init__(self, samples):
        self._samples = samples

    def get_all_samples(self):
        return self._samples

    def __getitem__(self, key):
        return {"array": self._samples.data.numpy().mean(0), "sampling_rate": self._samples.sample_rate}[key]


def forms(folder):
    samples = tone(1.0)
    path = folder / "q.wav"
    save_audio(path, samples, 16000)
    decoder = AudioDecoder(AudioSamples(torch.from_numpy(np.stack([samples, samples])), 16000))
    parts = [{"audio": decoder}, {"audio": samples}, {"audio": str(path)}, {"path": str(path)}, {"url": str(path)}]
    return [decoder, *([{"role": "user", "content": [{"type": "audio", **part}]}] for part in parts)]


def test_all_forms_of_audio_are_heard(tmp_path):
    for form in forms(tmp_path):
        (message,) = read_messages(form, 16000, 20.0)
        assert message.audios[0].waveform.shape == (16000,)
        np.testing.assert_allclose(message.audios[0].waveform, tone(1.0), atol=1e-3)


def test_nothing_is_downloaded():
    for part in ({"url": "https://example.org/q.wav"}, {"audio": "http://example.org/q.wav"}):
        with pytest.raises(ValueError, match="download it first"):
            read({"role": "user", "content": [{"type": "audio", **part}]})
    with pytest.raises(ValueError, match="expected parts"):
        read({"role": "user", "content": [{"type": "audio", "path": "a.wav", "url": "b.wav"}]})
