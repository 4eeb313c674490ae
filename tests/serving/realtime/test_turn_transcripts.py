"""Each turn has a transcript or an error: turns without words, a model with other work, and faults."""

import asyncio
import base64
import dataclasses

import httpx
import numpy as np
import pytest

from echox.audio import encode_audio
from echox.errors import NotHeard, QueueFull
from echox.serving.realtime.listening import transcripts
from echox.streaming.events import Heard
from serving_help import connected, nano, pcm16, question, run, running

KIND = "conversation.item.input_audio_transcription"


@pytest.fixture(scope="module")
def server():
    with running(nano()) as found:
        yield found


@pytest.fixture
def wordless(monkeypatch):
    """A model that hears a voice and no words."""
    engine = nano().engine
    encode = engine.encode

    def without_words(audios):
        return [dataclasses.replace(encoded, text="", words=()) for encoded in encode(audios)]

    monkeypatch.setattr(engine, "encode", without_words)


async def commit(client):
    audio = {"input": {"transcription": {"model": "x"}, "turn_detection": None}}
    await client.send("session.update", session={"type": "realtime", "audio": audio})
    await client.send("input_audio_buffer.append", audio=base64.b64encode(pcm16(question(0))).decode())
    await client.send("input_audio_buffer.commit")
    return (await client.until("input_audio_buffer.committed"))["item_id"]


def test_a_voice_without_words_is_an_empty_transcript(server, wordless):
    async def talk():
        async with connected(server) as client:
            item_id = await commit(client)
            found = await client.until(f"{KIND}.completed")
            assert (found["item_id"], found["transcript"]) == (item_id, "")

    run(talk())


@pytest.mark.parametrize("kind", ["json", "text", "verbose_json", "srt", "vtt"])
@pytest.mark.parametrize("silent", [True, False])
def test_a_file_without_words_is_an_empty_transcript(server, wordless, kind, silent):
    sound = np.zeros(16000, np.float32) if silent else question(0, 16000)
    file = ("x.wav", encode_audio(sound, 16000))
    data = {"response_format": kind, "model": "x"}
    found = httpx.post(f"{server.url}/v1/audio/transcriptions", data=data, files={"file": file}, timeout=60)
    assert found.status_code == 200, found.text
    text = found.json()["text"] if "json" in kind else found.text
    assert text.strip() in ("", "WEBVTT")


ENDS = {
    "busy at first": ([QueueFull("busy"), QueueFull("busy"), Heard("At last.")], "completed", "At last."),
    "always busy": ([QueueFull("busy")] * 3, "failed", "server_busy"),
    "unreadable": ([ValueError("too long")], "failed", "not_answerable"),
    "a fault": ([RuntimeError("secret inside")], "failed", "internal_error"),
    "another fault": ([KeyError("secret inside")], "failed", "internal_error"),
    "no words": ([Heard("")], "completed", ""),
}


@pytest.mark.parametrize("name", ENDS)
def test_a_turn_ends_with_a_transcript_or_an_error(server, monkeypatch, name):
    results, ends_as, expected = ENDS[name]
    results = iter(results)

    async def transcribe(audio, keep=True):
        if not keep:  # while the user still speaks
            raise QueueFull("busy")
        found = next(results)
        if isinstance(found, Exception):
            raise found
        return found

    async def talk():
        async with connected(server) as client:
            item_id = await commit(client)
            found = await client.until(f"{KIND}.{ends_as}")
            assert found["item_id"] == item_id
            if ends_as == "completed":
                assert found["transcript"] == expected
            else:
                assert found["error"]["code"] == expected
                assert "secret" not in found["error"]["message"]

    monkeypatch.setattr(transcripts, "BUSY_WAITS_S", (0.01, 0.02))
    monkeypatch.setattr(server.service, "transcribe", transcribe)
    run(talk())


def test_only_no_words_is_an_empty_transcript(server, monkeypatch):
    """Of all errors of the model, one is a result."""

    async def end_of(error):
        monkeypatch.setattr(nano().engine, "encode", lambda audios: (_ for _ in ()).throw(error))
        return await server.service.transcribe(Audio(question(0, 16000), 16000))

    from echox.streaming.prompt.messages import Audio

    async def all_of():
        assert (await end_of(NotHeard("no words"))).text == ""
        for error in (ValueError("too long"), RuntimeError("a fault")):
            with pytest.raises(type(error)):
                await end_of(error)

    asyncio.run(all_of())
