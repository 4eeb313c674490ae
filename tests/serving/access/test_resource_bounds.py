"""Requests whose cost was far above their size."""

from types import SimpleNamespace

import numpy as np
import pytest

from echox.serving.protocol.events import EventError
from echox.serving.protocol.limits import Limits
from echox.serving.protocol.wire import AudioFormat
from echox.serving.realtime.listening.input_audio import InputAudioBuffer
from echox.serving.rest.chat_request import _read_assistant_fields
from echox.serving.rest.common import RequestError
from echox.serving.rest.forms import _check_padding


def test_tiny_appends_are_joined():
    input_audio = InputAudioBuffer(AudioFormat(), None, None, Limits())
    samples = np.random.default_rng(0).standard_normal(20_000).astype(np.float32)
    for sample in samples:
        input_audio._keep(sample[None])
    assert len(input_audio._blocks) <= 20_000 // 4096 + 1
    np.testing.assert_array_equal(input_audio._cut(4000, 13_000), samples[4000:13_000])


@pytest.mark.parametrize("end", [b"", b"--"])
def test_padding_after_a_boundary_is_bounded(end):
    kind = 'multipart/form-data; boundary="a+b"'
    _check_padding(kind, b"--a+b" + end + b" " * 100 + b"\r\n" + b" " * 5000)
    with pytest.raises(RequestError, match="spaces after a boundary"):
        _check_padding(kind, b"--a+b\r\nxx\r\n--a+b" + end + b" \t" * 60)


@pytest.mark.parametrize(
    "source",
    [
        {"refusal": "x" * 101},
        {"tool_calls": [{"function": {"name": "f", "arguments": "x" * 60}}] * 2},
        {"tool_calls": [{"function": {"name": "f"}}] * 4},
        {"function_call": {"name": "f", "arguments": "x" * 101}},
    ],
)
def test_fields_of_an_assistant_message_are_bounded(source):
    service = SimpleNamespace(limits=Limits(max_text_chars=100, max_items=3))
    with pytest.raises(EventError, match="expected at most"):
        _read_assistant_fields(service, source, "messages[0]", None)
