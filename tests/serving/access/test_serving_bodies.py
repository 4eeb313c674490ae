"""Bodies and messages that cost more than their size: huge JSON, long texts, speech without a listener."""

import asyncio
import base64
import gc
import json
import socket

import httpx
import pytest

from echox.audio import encode_audio
from echox.streaming.prompt.messages import Audio
from raw_clients import HEAD, measured_lag
from serving_help import connected, nano, question, running, user_text
from waiting import wait_until, wait_until_async


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


def test_nested_json_of_any_length_is_refused(server):
    for depth in (33, 900, 5000):
        text = '{"messages":' + "[" * depth + "]" * depth + "}"
        found = httpx.post(f"{server.url}/v1/chat/completions", content=text, timeout=20)
        assert found.json()["error"]["code"] == "invalid_json"


def test_long_requests_without_audio_are_refused(server):
    text = json.dumps({"messages": [{"role": "user", "content": "x" * 19_000}] * 100}).encode()
    assert httpx.post(f"{server.url}/v1/chat/completions", content=text, timeout=20).status_code == 413
    body = {"input": "x", "padding": "x" * 2**20}
    assert httpx.post(f"{server.url}/v1/audio/speech", json=body, timeout=20).status_code == 413


def test_large_messages_do_not_block_other_clients(server):
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


def test_audio_in_the_input_of_a_response_does_not_block_other_clients(server):
    minute = base64.b64encode(bytes(2 * 24000 * 60)).decode()
    few, many = [[{"type": "input_audio", "audio": "AAAA"}] * count for count in (8, 64)]

    def message(parts):
        return {"type": "message", "role": "user", "content": parts}

    async def all_of():
        async with connected(server) as client:
            for items in (
                [message([{"type": "input_audio", "audio": minute}])] * 3,
                [message(few)] * 60,
                [message(many)] * 120,  # 7,680 sounds
            ):
                await client.send("response.create", response={"conversation": "none", "input": items})
                found = await client.next(60)
                while found["type"] not in ("response.done", "error"):
                    found = await client.next(60)
                refused = found["response"]["status_details"] if found["type"] == "response.done" else found
                assert refused["error"]["code"] in ("not_heard", "invalid_value")

    lags = []
    with measured_lag(server, lags):
        asyncio.run(all_of())
    assert lags[0] < 1.0


def test_deleted_audio_is_freed_before_its_transcription(server):
    sound = base64.b64encode(question(0, 24000).astype("<f4").tobytes()).decode()  # as PCM16: noise, and long

    async def held():
        (session,) = server.service.sessions
        await session._transcripts._lock.acquire()
        return session

    async def all_of():
        async with connected(server) as client:
            audio = {"input": {"turn_detection": None, "transcription": {"model": "any"}}}
            await client.send("session.update", session={"type": "realtime", "audio": audio})
            await client.until("session.updated")
            session = await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(held(), loop))
            for _ in range(6):
                await client.send("input_audio_buffer.append", audio=sound)
                await client.send("input_audio_buffer.commit")
                item_id = (await client.until("conversation.item.done"))["item"]["id"]
                await client.send("conversation.item.delete", item_id=item_id)
                await client.until("conversation.item.deleted")
            lock = session._transcripts._lock
            await wait_until_async(lambda: len(lock._waiters or ()) == 6, "all transcriptions wait for the lock")
            gc.collect()
            found = sum(type(one) is Audio for one in gc.get_objects()) - before
            loop.call_soon_threadsafe(session._transcripts._lock.release)
            return found

    loop = server.service._upkeep.get_loop()
    gc.collect()
    before = sum(type(one) is Audio for one in gc.get_objects())
    assert asyncio.run(all_of()) <= 1


def test_text_next_to_audio_is_bounded(server):
    sound = {
        "type": "input_audio",
        "input_audio": {"data": base64.b64encode(encode_audio(question(0, 16000), 16000)).decode()},
    }
    texts = [{"type": "text", "text": "word " * 3000}] * 100
    body = {"messages": [{"role": "user", "content": [*texts, sound]}]}
    found = httpx.post(f"{server.url}/v1/chat/completions", json=body, timeout=60).json()["error"]
    assert (found["code"], found["param"]) == ("string_too_long", "messages")


def test_the_text_of_a_conversation_is_bounded(server):
    async def all_of():
        async with connected(server) as client:
            for number in range(52):
                await client.send("conversation.item.create", item={**user_text("word " * 3999), "id": f"i{number}"})
            return (await client.until("conversation.item.deleted", 30))["item_id"]

    assert asyncio.run(all_of()) == "i0"


@pytest.mark.parametrize("text", ["word " * 1000, "½" * 1000, "100% " * 500, "$99,999,999.99 " * 200])
def test_long_text_to_speech_is_refused(server, text):
    body = {"input": text, "response_format": "pcm"}
    found = httpx.post(f"{server.url}/v1/audio/speech", json=body, timeout=20)
    assert found.status_code == 400
    assert found.json()["error"]["code"] == "string_too_long"


@pytest.mark.parametrize("response_format", ["wav", "pcm"])
def test_speech_stops_when_its_client_disconnects(server, response_format):
    scheduler = nano().scheduler
    body = json.dumps({"input": "The capital of France is Paris. " * 120, "response_format": response_format}).encode()
    head = HEAD + b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body)
    with socket.create_connection(("127.0.0.1", server.port), 10) as client:
        client.sendall(head + body)
        wait_until(lambda: scheduler.num_running, "the model speaks")
    wait_until(
        lambda: not scheduler.num_running and not server.service.request_admission.num_admitted, "the model has stopped"
    )


def test_large_audio_in_a_question_is_accepted(server):
    data = base64.b64encode(encode_audio(question(0, 24000), 24000)).decode()
    part = {"type": "input_audio", "input_audio": {"data": data, "format": "wav"}}
    body = {"messages": [{"role": "user", "content": [part]}], "max_tokens": 8}
    assert httpx.post(f"{server.url}/v1/chat/completions", json=body, timeout=30).status_code == 200
