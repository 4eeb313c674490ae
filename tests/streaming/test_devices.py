"""What holds on a CPU holds on a GPU: together = alone, streaming = at once, the same words in float32 and bfloat16.

The whole model of the package: text engine, echo decoder, vocoder. The CPU's half runs everywhere, so that the GPU's
half is known to be right before a GPU is there.
"""

import threading

import numpy as np
import pytest
import torch

from echox.api import EchoX
from echox.streaming import AudioChunk, TextDelta

QUESTIONS = ("What is the capital of France?", "Tell me about Brazil.", "What sound does a dog make?")
GREEDY = {"temperature": 0.0, "echo_temperature": 0.0}
FAR = {"cpu": 1e-4, "cuda": 2e-2}
"""Largest difference of samples between two orders of summation; convolutions on GPUs may use TF32."""


@pytest.fixture(scope="module", params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request) -> str:
    if request.param == "cuda" and not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    return request.param


@pytest.fixture(scope="module")
def model(device) -> EchoX:
    return EchoX.from_pretrained("nano", device=device)


@pytest.fixture(scope="module")
def alone(model):
    return [model.generate(ask(text), **GREEDY) for text in QUESTIONS]


def ask(text: str) -> dict:
    return {"role": "user", "content": text}


def test_every_part_is_on_the_device(model, device):
    assert {value.device.type for value in model.model.parameters()} == {device}


def test_together_equals_alone(model, device, alone):
    """All three at the same moment, driven by a thread as in a server."""
    heard = [[] for _ in QUESTIONS]
    done = [threading.Event() for _ in QUESTIONS]

    def listener(number):
        return lambda event: done[number].set() if event is None else heard[number].append(event)

    tasks = [
        model.session(**GREEDY).submit(ask(text), on_event=listener(number)) for number, text in enumerate(QUESTIONS)
    ]
    model.scheduler.start()
    try:
        assert all(event.wait(120) for event in done)
    finally:
        model.scheduler.stop()
    for task, events, expected in zip(tasks, heard, alone, strict=True):
        assert task.error is None
        assert "".join(event.text for event in events if isinstance(event, TextDelta)) == expected.text
        sound = np.concatenate([event.waveform for event in events if isinstance(event, AudioChunk)])
        assert len(sound) == len(expected.waveform)
        assert np.abs(sound - expected.waveform).max() < FAR[device]


def test_streaming_equals_at_once(model, device, alone):
    events = list(model.stream(ask(QUESTIONS[1]), **GREEDY))
    sound = np.concatenate([event.waveform for event in events if isinstance(event, AudioChunk)])
    assert np.abs(sound - alone[1].waveform).max() < FAR[device]


def test_bfloat16_says_the_same(device, alone):
    reply = EchoX.from_pretrained("nano", device=device, dtype=torch.bfloat16).generate(ask(QUESTIONS[0]), **GREEDY)
    assert reply.text == alone[0].text
    assert np.isfinite(reply.waveform).all()
    assert abs(len(reply.waveform) / len(alone[0].waveform) - 1) < 0.3


@pytest.mark.gpu
def test_a_gpu_says_what_the_cpu_says(alone, device):
    if device == "cpu":
        pytest.skip("the other half of the comparison")
    cpu = EchoX.from_pretrained("nano", device="cpu")
    for text, found in zip(QUESTIONS, alone, strict=True):
        expected = cpu.generate(ask(text), **GREEDY)
        assert found.text == expected.text
        assert len(found.waveform) == len(expected.waveform)
        assert np.abs(found.waveform - expected.waveform).max() < FAR["cuda"]


@pytest.mark.gpu
def test_compiled_steps_on_a_gpu_say_the_same(alone, device):
    if device == "cpu":
        pytest.skip("a CPU has no graphs to capture")
    model = EchoX.from_pretrained("nano", device=device)
    model.compile()
    assert model.generate(ask(QUESTIONS[0]), **GREEDY).text == alone[0].text
