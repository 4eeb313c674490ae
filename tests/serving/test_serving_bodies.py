"""Bodies and messages that cost more than their size: huge JSON, long texts, speech that nobody waits for."""

import asyncio
import base64
import json
import socket

import httpx
import pytest

from raw_clients import HEAD, measured_lag, until
from serving_help import connected, nano, question, running, user_text


@pytest.fixture(scope="module")
def server():
    with running(nano()) as server:
        yield server


def bombs(size):
    """Texts of so many bytes that are many objects, and what they are."""
    for item in ("{}", "[]", "0", '""', '{"":{}}'):
        many = size // (len(item) + 1) - 20
        yield f"many {item}", '{"messages":[' + ",".join([item] * many) + "]}"
    yield "depth", '{"messages":' + "[" * (size // 2 - 20) + "]" * (size // 2 - 20) + "}"
    yield "keys", "{" + ",".join(f'"{n}":0' for n in range(size // 12)) + "}"


def test_large_json_is_refused_before_it_is_built(server):
    for name, text in bombs(20 * 2**20):
        lags = []
        with measured_lag(server, lags):
            found = httpx.post(f"{server.url}/v1/chat/completions", content=text.encode(), timeout=60)
        assert found.status_code == 400, (name, found.text)
        assert lags[0] < 1.0, (name, lags)


def test_nested_json_is_refused_whatever_its_length(server):
    for depth in (33, 900, 5000):
        text = '{"messages":' + "[" * depth + "]" * depth + "}"
        found = httpx.post(f"{server.url}/v1/chat/completions", content=text, timeout=20)
        assert found.json()["error"]["code"] == "invalid_json"


def test_requests_without_audio_are_short(server):
    text = json.dumps({"messages": [{"role": "user", "content": "x" * 19_000}] * 100}).encode()
    assert httpx.post(f"{server.url}/v1/chat/completions", content=text, timeout=20).status_code == 413
    body = {"input": "x", "padding": "x" * 2**20}
    assert httpx.post(f"{server.url}/v1/audio/speech", json=body, timeout=20).status_code == 413


def test_large_messages_of_a_conversation_hold_nobody_up(server):
    silence = base64.b64encode(bytes(2 * 24000 * 100)).decode()  # 100 s

    async def all_of():
        async with connected(server) as client:
            for _, text in bombs(15 * 2**20):
                await client.socket.send(text)
                assert (await client.until("error", 60))["error"]["code"] == "invalid_json"
            await client.send("x" * 2**20)
            error = (await client.until("error", 60))["error"]
            assert len(json.dumps(error)) < 1000
            await client.send("input_audio_buffer.append", audio=silence)
            await client.send("input_audio_buffer.clear")
            await client.until("input_audio_buffer.cleared", 60)
            part = {"type": "input_audio", "audio": silence}
            await client.send(
                "conversation.item.create", item={"type": "message", "role": "user", "content": [part], "id": "sound"}
            )
            await client.until("conversation.item.done", 60)
            await client.send("conversation.item.retrieve", item_id="sound")
            await client.until("conversation.item.retrieved", 60)
            await client.send("conversation.item.delete", item_id="sound")
            await client.send("conversation.item.create", item=user_text("What is the capital of France?"))
            await client.send("response.create")
            assert (await client.until("response.done"))["response"]["status"] == "completed"

    lags = []
    with measured_lag(server, lags):
        asyncio.run(all_of())
    assert lags[0] < 1.0


def test_text_to_speech_has_an_end(server):
    body = {"input": "word " * 1000, "response_format": "pcm"}
    found = httpx.post(f"{server.url}/v1/audio/speech", json=body, timeout=20)
    assert found.status_code == 400
    assert found.json()["error"]["code"] == "string_too_long"


@pytest.mark.parametrize("response_format", ["wav", "pcm"])
def test_speech_ends_with_its_client(server, response_format):
    scheduler = nano().scheduler
    body = json.dumps({"input": "The capital of France is Paris. " * 120, "response_format": response_format}).encode()
    head = HEAD + b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body)
    with socket.create_connection(("127.0.0.1", server.port), 10) as client:
        client.sendall(head + body)
        until(lambda: scheduler.num_running, "it did not begin")
    until(lambda: not scheduler.num_running and not server.service.request_places.taken, "still speaking")


def test_sound_in_a_question_is_still_welcome(server):
    from echox.audio import encode_audio

    data = base64.b64encode(encode_audio(question(0, 24000), 24000)).decode()
    part = {"type": "input_audio", "input_audio": {"data": data, "format": "wav"}}
    body = {"messages": [{"role": "user", "content": [part]}], "max_tokens": 8}
    assert httpx.post(f"{server.url}/v1/chat/completions", json=body, timeout=30).status_code == 200
