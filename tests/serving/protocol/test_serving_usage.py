"""Every endpoint says how many tokens of text and of audio it read and made, and the numbers agree with each other."""

import base64
import json

import httpx
import pytest

from echox.api.loading import bundled_questions
from echox.audio import encode_audio
from serving_help import connected, nano, question, run, running, user_text

openai = pytest.importorskip("openai")

FRANCE = "What is the capital of France?"


@pytest.fixture(scope="module")
def server():
    with running(nano()) as found:
        yield found


@pytest.fixture(scope="module")
def client(server):
    return openai.OpenAI(api_key="any", base_url=f"{server.url}/v1", max_retries=0)


def heard_alone():
    """The spoken question to the model alone: prompt, its audio, and the tokens of text and speech of the reply."""
    timings = nano().session().reply(bundled_questions()[0]).timings
    assert timings["num_unit_words"] > 0
    return tuple(timings[f"num_{name}"] for name in ("prompt_tokens", "prompt_audio_tokens", "tokens", "unit_words"))


def sound():
    data = encode_audio(question(0, 16000), 16000, "wav")
    return {"type": "input_audio", "input_audio": {"data": base64.b64encode(data).decode(), "format": "wav"}}


def test_chat(client):
    prompt, audio, text, speech = heard_alone()
    found = client.chat.completions.create(
        model="nano",
        messages=[{"role": "user", "content": [sound()]}],
        modalities=["text", "audio"],
        audio={"voice": "x", "format": "wav"},
    ).usage
    assert (found.prompt_tokens, found.completion_tokens) == (prompt, text + speech)
    assert found.total_tokens == prompt + text + speech
    assert found.prompt_tokens_details.audio_tokens == audio
    assert found.prompt_tokens_details.text_tokens == prompt - audio
    assert found.completion_tokens_details.text_tokens == text
    assert found.completion_tokens_details.audio_tokens == speech


def test_a_written_reply_has_no_tokens_of_speech(client):
    found = client.chat.completions.create(model="nano", messages=[{"role": "user", "content": FRANCE}]).usage
    assert found.completion_tokens == found.completion_tokens_details.text_tokens > 0
    assert found.completion_tokens_details.audio_tokens == 0


def test_realtime(server):
    async def talk():
        async with connected(server, manual=True) as client:
            audio = {"input": {"transcription": {"model": "x"}}}
            await client.send("session.update", session={"type": "realtime", "audio": audio})
            await client.say(question(0))
            await client.send("input_audio_buffer.commit")
            await client.send("response.create")
            first = (await client.until("response.done"))["response"]["usage"]
            assert first["output_token_details"]["audio_tokens"] > first["output_token_details"]["text_tokens"] / 2 > 0
            for name in ("input", "output"):
                details = first[f"{name}_token_details"]
                assert details["text_tokens"] + details["audio_tokens"] == first[f"{name}_tokens"]
            assert first["total_tokens"] == first["input_tokens"] + first["output_tokens"]
            kind = "conversation.item.input_audio_transcription.completed"
            heard = client.of(kind)[0] if client.of(kind) else await client.until(kind)
            assert heard["usage"]["type"] == "tokens"
            assert heard["usage"]["input_tokens"] == first["input_token_details"]["audio_tokens"]
            assert heard["usage"]["output_tokens"] > 2
            # The second turn finds the first in the memory of the model.
            await client.send("conversation.item.create", item=user_text(FRANCE))
            await client.send("response.create")
            second = (await client.until("response.done"))["response"]["usage"]
            cached = second["input_token_details"]["cached_tokens"]
            assert first["input_tokens"] <= cached < second["input_tokens"]

    run(talk())


def test_transcriptions(client, server):
    found = client.audio.transcriptions.create(model="nano", file=bundled_questions()[0]).usage
    assert (found.type, found.input_tokens) == ("tokens", heard_alone()[1])
    assert found.total_tokens == found.input_tokens + found.output_tokens
    assert found.output_tokens > 2
    *_, last = client.audio.transcriptions.create(model="nano", file=bundled_questions()[0], stream=True)
    assert (last.type, last.usage.model_dump()) == ("transcript.text.done", found.model_dump())
    timed = client.audio.transcriptions.create(
        model="nano", file=bundled_questions()[0], response_format="verbose_json"
    )
    assert timed.usage.seconds == pytest.approx(timed.duration, abs=0.01)


def test_speech(server):
    body = {"input": "The capital of France is Paris.", "stream_format": "sse", "response_format": "pcm"}
    text = httpx.post(f"{server.url}/v1/audio/speech", json=body, timeout=60).text
    usage = json.loads(text.splitlines()[-2].removeprefix("data: "))["usage"]
    assert usage["input_tokens"] == usage["input_token_details"]["text_tokens"] > 5
    assert usage["output_tokens"] == usage["output_token_details"]["audio_tokens"] > 5
    assert usage["total_tokens"] == usage["input_tokens"] + usage["output_tokens"]
