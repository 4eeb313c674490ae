"""What cannot be answered fails alone: no question is lost by a noise beside it, or by what else the model reads."""

import dataclasses

import numpy as np
import pytest

import echox.streaming.messages
from echox.streaming.engine import Engine
from serving_help import connected, nano, question, run, running, user_text

NOISE = np.concatenate([np.zeros(7200, np.float32), question(2)[:10_000], np.zeros(20_000, np.float32)])
"""Sound that turn detection takes for speech, and which the fixture `noises` makes unheard."""
MOST_S = 1.6
"""Noises are shorter than this, questions longer."""
ASKED = "What is the capital of France?"


@pytest.fixture(scope="module")
def server():
    with running(nano()) as found:
        yield found


@pytest.fixture(params=["no words", "no speech"])
def noises(request, monkeypatch):
    """The model finds no words, or no speech, in short audio."""
    if request.param == "no words":
        encode = Engine.encode

        def deaf(self, audios):
            found = zip(audios, encode(self, audios), strict=True)
            return [one if audio.duration_s > MOST_S else dataclasses.replace(one, text="") for audio, one in found]

        monkeypatch.setattr(Engine, "encode", deaf)
    else:
        find = echox.streaming.messages.find_speech
        monkeypatch.setattr(
            "echox.streaming.messages.find_speech",
            lambda samples, rate: find(samples, rate) if len(samples) > MOST_S * rate else None,
        )


def options(**turn_detection):
    audio = {"input": {"transcription": {"model": "x"}, "turn_detection": {"type": "server_vad", **turn_detection}}}
    return {"type": "realtime", "audio": audio}


async def put(client, what, number):
    """Add a question, or a noise, to the conversation."""
    if what == "typed":
        await client.send("conversation.item.create", item=user_text(ASKED))
        await client.until("conversation.item.done")
        return
    level = np.float32(1 - 0.05 * number)  # so that no two noises are one
    await client.say(level * NOISE if what == "noise" else question(0, lead_s=0.3, tail_s=0.8), chunk_s=5)
    await client.until("input_audio_buffer.committed")
    await client.until("conversation.item.done")


async def transcripts(client, count):
    """How the transcriptions of so many recordings ended."""
    kind = "conversation.item.input_audio_transcription."
    while len(found := [*client.of(f"{kind}completed"), *client.of(f"{kind}failed")]) < count:
        await client.next()
    return sorted(event["type"].removeprefix(kind) for event in found)


@pytest.mark.parametrize("spoken", [False, True])
@pytest.mark.parametrize("around", ["noise Q", "Q noise", "Q noise noise", "noise Q noise"])
def test_a_question_is_answered_whatever_noises_are_around_it(server, noises, spoken, around):
    kinds = around.replace("Q", "spoken" if spoken else "typed").split()

    async def talk():
        async with connected(server) as client:
            await client.send("session.update", session=options(create_response=False))
            for number, what in enumerate(kinds):
                await put(client, what, number)
            await client.send("response.create")
            response = (await client.until("response.done"))["response"]
            assert response["status"] == "completed", response["status_details"]
            assert ("Brazil" if spoken else "Paris") in response["output"][0]["content"][0]["transcript"]
            assert [one["response"]["id"] for one in client.of("response.created")] == [response["id"]]
            ends = await transcripts(client, len(kinds) - (not spoken))
            assert ends == ["completed"] * spoken + ["failed"] * kinds.count("noise")
            (session,) = server.service.sessions
            assert not any(item.forgotten for item in session.conversation.items)

    run(talk(), 120)


def test_a_noise_after_a_question_that_has_no_answer_yet_lets_it_be_answered(server, noises):
    async def talk():
        async with connected(server) as client:
            await client.send("session.update", session=options())
            await put(client, "typed", 0)
            await client.send("response.create")
            await client.send("response.cancel")
            assert (await client.until("response.done"))["response"]["output"] == []
            await put(client, "noise", 0)
            response = (await client.until("response.done"))["response"]
            assert "Paris" in response["output"][0]["content"][0]["transcript"]
            (session,) = server.service.sessions
            assert not any(item.forgotten for item in session.conversation.items)

    run(talk(), 120)
