"""Turns whose end the model judges: sooner after a whole question, later inside one, and the same reply as ever.

With server_vad a turn ends sooner too where the client names no silence, and never later.
"""

import asyncio

import numpy as np
import pytest

from echox.api import EchoX
from echox.serving.protocol.limits import Limits
from echox.serving.protocol.options import Judge, SessionOptions
from serving_help import connected, nano, question, run, running

RATE = 24000


@pytest.fixture(scope="module")
def verdicts():
    """Answers of the head, in turn; the last one stays."""
    return [1.0]


@pytest.fixture(scope="module")
def server(verdicts):
    model = nano()
    judged = EchoX(model.model, model.processor, model.settings)
    judged.engine.turn_head = lambda inputs: verdicts.pop(0) if len(verdicts) > 1 else verdicts[0]
    with running(judged) as found:
        yield found


async def semantic(client, **detection):
    audio = {"input": {"turn_detection": {"type": "semantic_vad", **detection}}}
    await client.send("session.update", session={"type": "realtime", "audio": audio})
    await client.until("session.updated")


def words(number):
    """A bundled question from its first sound to its last."""
    samples = question(number)
    loud = np.flatnonzero(np.abs(samples) > 0.02 * np.abs(samples).max())
    return np.concatenate([np.zeros(RATE // 2, np.float32), samples[loud[0] : loud[-1]]])


def silence(seconds):
    return np.zeros(int(seconds * RATE), np.float32)


async def slowly(client, samples):
    """Send sound as slowly as the model hears it, however busy the machine is."""
    for start in range(0, len(samples), 768):
        await client.say(samples[start : start + 768], chunk_s=0.032)
        await client.send("echox.ping")
        await client.until("echox.pong")
        await asyncio.sleep(0.02)  # fixed time: sound comes at its own pace


async def ask(client, then_s):
    """Say a question and then nothing; the sound of the question."""
    said = words(1)
    await slowly(client, np.concatenate([said, silence(then_s)]))
    return said


async def answered(client):
    """The event after a reply, which may have come while sound was still being sent."""
    found = client.of("response.done")
    return found[-1] if found else await client.until("response.done")


def ended(client, said):
    """How long after the last sound each turn was ended, ms."""
    return [
        event["audio_end_ms"] - 1000 * len(said) // RATE for event in client.of("input_audio_buffer.speech_stopped")
    ]


@pytest.mark.slow
def test_a_whole_question_is_answered_early_and_as_ever(server, verdicts):
    async def talk():
        async with connected(server) as client:
            await semantic(client)
            verdicts[:] = [1.0]
            said = await ask(client, then_s=0.4)
            done = await answered(client)
            return ended(client, said), done["response"]["output"][0]["content"][0]["transcript"], client.sound()

    (after_ms,), text, sound = run(talk(), 240)
    assert 0 <= after_ms < 300
    assert text == nano().generate(question(1, 16000)).text
    assert len(sound) > RATE
    metrics = server.service.metrics.text().decode()
    assert 'echox_speculations_total{outcome="kept"} 1.0' in metrics
    assert 'echox_judged_pauses_total{verdict="complete"}' in metrics


@pytest.mark.slow
def test_a_pause_inside_a_question_is_waited_for(server, verdicts):
    async def talk():
        async with connected(server) as client:
            await semantic(client)
            verdicts[:] = [0.0, 0.0, 1.0]
            said = np.concatenate([words(1), silence(1.2), words(2)])
            await slowly(client, np.concatenate([said, silence(0.4)]))
            await answered(client)
            return ended(client, said), len(client.of("input_audio_buffer.speech_started"))

    (after_ms,), starts = run(talk(), 240)
    assert starts == 1
    assert 0 <= after_ms < 300


@pytest.mark.slow
def test_what_is_never_complete_is_answered_in_the_end(server, verdicts):
    async def talk():
        async with connected(server) as client:
            await semantic(client, eagerness="high")
            verdicts[:] = [0.0]
            said = await ask(client, then_s=1.6)
            await answered(client)
            return ended(client, said)

    (after_ms,) = run(talk(), 240)
    assert 1100 <= after_ms < 1400


@pytest.mark.slow
def test_sessions_without_responses_are_judged_too(server, verdicts):
    async def talk():
        async with connected(server) as client:
            await semantic(client, create_response=False)
            verdicts[:] = [1.0]
            said = await ask(client, then_s=0.6)
            assert len(client.of("input_audio_buffer.committed")) == 1
            assert not client.of("response.created")
            return ended(client, said)

    (after_ms,) = run(talk(), 240)
    assert 0 <= after_ms < 450


def options(*changes, judge=Judge.MODEL, ends_early=True):
    found = SessionOptions("nano", Limits(), judge, ends_early=ends_early)
    for detection in changes:
        found = found.changed({"audio": {"input": {"turn_detection": detection}}})
    return found


@pytest.mark.parametrize(
    ("found", "asks"),
    [
        (options(), True),
        (options({"type": "server_vad"}), True),
        (options({"type": "server_vad", "silence_duration_ms": 500}), False),
        (options({"silence_duration_ms": 500}, {"threshold": 0.6}), False),
        (options({"silence_duration_ms": 300}, {"type": "semantic_vad"}, {"type": "server_vad"}), True),
        (options(ends_early=False), False),
        (options(judge=None), False),
        (options(judge=Judge.ONNX), False),
    ],
)
def test_the_head_is_asked_where_the_client_names_no_silence(found, asks):
    settings = found.turn_settings
    assert settings.patience_ms == (settings.silence_ms if asks else None)
    assert max(settings.wait_ms(complete) for complete in (1.0, 0.5, 0.0, None)) == settings.silence_ms
    assert found.to_dict()["audio"]["input"]["turn_detection"]["silence_duration_ms"] == settings.silence_ms


async def detecting(client, **detection):
    audio = {"input": {"turn_detection": {"type": "server_vad", **detection}}}
    await client.send("session.update", session={"type": "realtime", "audio": audio})
    return (await client.until("session.updated"))["session"]["audio"]["input"]["turn_detection"]


@pytest.mark.slow
def test_server_vad_ends_a_turn_that_is_surely_complete_early_and_answers_it_as_ever(server, verdicts):
    async def talk():
        async with connected(server) as client:
            verdicts[:] = [1.0]
            said = await ask(client, then_s=0.4)
            done = await answered(client)
            return ended(client, said), done["response"]["output"][0]["content"][0]["transcript"]

    (after_ms,), text = run(talk(), 240)
    assert 0 <= after_ms < 300
    assert text == nano().generate(question(1, 16000)).text


@pytest.mark.slow
@pytest.mark.parametrize("verdict", [0.94, 0.5, 0.0])
def test_server_vad_never_waits_for_longer_than_it_says(server, verdicts, verdict):
    async def talk():
        async with connected(server) as client:
            shown = await detecting(client)
            verdicts[:] = [verdict]
            said = await ask(client, then_s=0.7)
            await answered(client)
            return shown, ended(client, said)

    shown, (after_ms,) = run(talk(), 240)
    assert shown["silence_duration_ms"] == 500
    assert after_ms < 700


@pytest.mark.slow
def test_a_silence_that_the_client_names_is_what_counts(server, verdicts):
    async def talk():
        async with connected(server) as client:
            await detecting(client, silence_duration_ms=500)
            await detecting(client)  # what is left out keeps its value
            verdicts[:] = [1.0]
            before = server.service.metrics.text().decode().count("judged_pauses_total{")
            said = await ask(client, then_s=0.7)
            await answered(client)
            return ended(client, said), server.service.metrics.text().decode().count("judged_pauses_total{") - before

    (after_ms,), judged = run(talk(), 240)
    assert 450 <= after_ms < 700
    assert judged == 0
