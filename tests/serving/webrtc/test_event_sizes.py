"""Events that are larger than a client takes: replaced by shorter ones, or by errors that name what they answer."""

import asyncio
import json

import pytest

from echox.serving.service.outbox import Outbox, answered_event
from echox.serving.websocket import WebSocketConnection
from serving_help import connected, nano, run, running, user_text


def sent(event, shorter=None, most=300):
    """What is sent of an event."""
    found = []

    async def send(text):
        found.append(json.loads(text))

    async def put():
        outbox = Outbox(send, 1.0, 10**6, most)
        answered_event.set("mine")
        sending = asyncio.create_task(outbox.run())
        outbox.put(event, shorter=shorter)
        await outbox.wait_until_sent()
        sending.cancel()

    asyncio.run(put())
    assert all(len(json.dumps(one, separators=(",", ":"))) <= most for one in found)
    return found


def test_what_fits_is_sent_and_else_what_is_shorter_and_else_an_error():
    short, long = {"type": "a", "text": "x"}, {"type": "a", "text": "x" * 300}
    assert [one["text"] for one in sent(short, shorter=short)] == ["x"]
    assert [one["text"] for one in sent(long, shorter=short)] == ["x"]
    assert [one["text"] for one in sent(long, most=400)] == [long["text"]]
    for shorter in (None, long):
        (found,) = sent(long, shorter)
        assert (found["error"]["code"], found["error"]["event_id"]) == ("event_too_large", "mine")
        assert found["error"]["message"].startswith("a: expected to fit")


EVENTS = {
    "session.update": {"session": {"instructions": "\u00e4" * 1000}},
    "conversation.item.create": {"item": user_text("x" * 3000)},
    "conversation.item.retrieve": {"item_id": "long"},
    "response.create": {"response": {"input": [user_text("Hi.")], "metadata": dict.fromkeys("abcdef", "x" * 400)}},
}


@pytest.mark.parametrize("event_id", ["mine", None])
@pytest.mark.parametrize("kind", EVENTS)
def test_an_error_names_the_event_that_it_answers(kind, event_id, monkeypatch, small):
    async def talk():
        async with connected(small) as client:
            monkeypatch.setattr(WebSocketConnection, "max_event_bytes", 2000)
        async with connected(small) as client:
            if kind == "conversation.item.retrieve":
                await client.send("conversation.item.create", item={**user_text("x" * 3000), "id": "long"})
                for _ in range(2):
                    await client.until("error")
            name = {} if event_id is None else {"event_id": event_id}
            await client.send("input_audio_buffer.clear", event_id="another")
            await client.until("input_audio_buffer.cleared")
            await client.send(kind, **EVENTS[kind], **name)
            error = (await client.until("error"))["error"]
            assert error["code"] == "event_too_large"
            assert error.get("event_id") == event_id

    run(talk())


@pytest.fixture(scope="module")
def small():
    with running(nano()) as found:
        yield found
