"""Home Assistant and Open WebUI, which are too large to be started here: their requests, as their source makes them.

Open WebUI: github.com/open-webui/open-webui, backend/open_webui/routers/audio.py at
01fb3e46d3e5865b34b7d9ee2fcabbe380bbe52a.
Home Assistant: github.com/home-assistant/core, homeassistant/components/openai_conversation, stt.py at
0c3b5f1f135ab20202b81bd12348187937301789, tts.py at 057855a9c952a288560fe674a8ab2bf9df2294cf, entity.py at
0150749b79bd8de54d29c30155fbb80be1e5e7e7. It uses the package openai, as this test does.
"""

import io
import wave

import httpx
import pytest

from echox.audio import load_audio
from serving_help import nano, pcm16, question, run, running

openai = pytest.importorskip("openai")
TIMEOUT_S = 120


@pytest.fixture(scope="module")
def server():
    with running(nano()) as found:
        yield found


def wav(samples, rate):
    """A recording with a header that Home Assistant puts before what it gets from a satellite."""
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(pcm16(samples))
    return buffer.getvalue()


# ------------------------------------------------------------------------------------------------ Open WebUI


def test_open_webui_finds_models_and_voices(server):
    models = httpx.get(f"{server.url}/v1/audio/models", timeout=TIMEOUT_S)
    assert models.raise_for_status().json()["models"] == [{"id": "nano"}]
    voices = httpx.get(f"{server.url}/v1/audio/voices", timeout=TIMEOUT_S).raise_for_status().json()
    assert {voice["id"]: voice["name"] for voice in voices["voices"]} == {"nano": "nano"}


def test_open_webui_speaks(server):
    payload = {"input": "The capital of France is Paris.", "voice": "alloy", "model": "tts-1"}
    headers = {"Authorization": "Bearer sk-0", "X-OpenWebUI-User-Name": "me", "X-OpenWebUI-User-Role": "user"}
    answer = httpx.post(f"{server.url}/v1/audio/speech", json=payload, headers=headers, timeout=TIMEOUT_S)
    assert answer.raise_for_status().headers["content-type"] == "audio/mpeg"  # it stores the answer as .mp3
    assert len(load_audio(answer.content, 16000)) > 16000


def test_open_webui_transcribes(server):
    answer = httpx.post(
        f"{server.url}/v1/audio/transcriptions",
        headers={"Authorization": "Bearer sk-0"},
        files={"file": ("d4a8f0e2.wav", wav(question(2), 24000))},
        data={"model": "whisper-1"},
        timeout=TIMEOUT_S,
    )
    assert "cow" in answer.raise_for_status().json()["text"]


def test_open_webui_shows_the_reason_of_an_error(server):
    answer = httpx.post(
        f"{server.url}/v1/audio/transcriptions", files={"file": ("a.wav", b"no sound")}, data={"model": "whisper-1"}
    )
    assert answer.status_code == 400
    assert answer.json()["error"]["message"]  # it reads ["error"]["message"]


# ------------------------------------------------------------------------------------------------ Home Assistant


def home_assistant(server):
    return openai.AsyncOpenAI(api_key="any", base_url=f"{server.url}/v1", timeout=TIMEOUT_S)


@pytest.mark.parametrize("rate", [16000, 48000])
def test_home_assistant_transcribes(server, rate):
    async def ask():
        async with home_assistant(server) as client:
            return await client.audio.transcriptions.create(
                model="gpt-4o-mini-transcribe",
                file=("a.wav", wav(question(2, rate), rate)),
                response_format="json",
                language="en",
                prompt="A smart home user talks to Home Assistant.",
            )

    assert "cow" in run(ask(), TIMEOUT_S).text


@pytest.mark.parametrize("codec", ["mp3", "opus", "flac", "wav"])
def test_home_assistant_speaks(server, codec):
    async def ask():
        async with home_assistant(server) as client:
            request = client.audio.speech.with_streaming_response.create(
                model="gpt-4o-mini-tts",
                voice="marin",
                input="A cow says moo.",
                instructions="None",
                speed=1.0,
                response_format=codec,
            )
            async with request as response:
                return b"".join([chunk async for chunk in response.iter_bytes()])

    assert len(load_audio(run(ask(), TIMEOUT_S), 16000)) > 8000


LIGHT = {
    "type": "function",
    "name": "HassTurnOn",
    "parameters": {"type": "object", "properties": {"area": {"type": "string"}}, "required": []},
    "description": "Turns on a device",
    "strict": False,
}
CALLED = [
    {"type": "function_call", "name": "HassTurnOn", "arguments": '{"area": "kitchen"}', "call_id": "call_1"},
    {"type": "function_call_output", "call_id": "call_1", "output": '{"success": true}'},
]


@pytest.mark.parametrize("items", [[], CALLED], ids=["asked", "after a call"])
def test_home_assistant_converses(server, items):
    """Its agent: the Responses API, streamed, with Assist's tools; nano calls none, and answers."""

    async def ask():
        async with home_assistant(server) as client:
            stream = await client.responses.create(
                model="gpt-4o-mini",
                input=[
                    {
                        "type": "message",
                        "role": "developer",
                        "content": "You are a voice assistant for Home Assistant.",
                    },
                    {"type": "message", "role": "user", "content": "What is the capital of France?"},
                    *items,
                ],
                max_output_tokens=3000,
                top_p=1.0,
                temperature=1.0,
                user="01JZ",
                store=False,
                stream=True,
                tools=[LIGHT],
            )
            return [event async for event in stream]

    events = run(ask(), TIMEOUT_S)
    assert events[-1].type == "response.completed"
    text = "".join(event.delta for event in events if event.type == "response.output_text.delta")
    assert text  # sampled, as it asks for temperature 1
