"""Events in parts: put together whatever the parts are, refused when they are wrong, and bounded."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from echox.serving.protocol.events import EventError
from echox.serving.protocol.long_events import LongEvent
from serving_help import connected, nano, run, running, user_text


def add_all(event, parts):
    return [event.add({"index": index, "count": len(parts), "text": text}) for index, text in enumerate(parts)]


@given(st.lists(st.text(max_size=20), min_size=1, max_size=8), st.integers(0, 7))
def test_any_parts_are_put_together_also_after_an_event_that_was_given_up(parts, given_up):
    event = LongEvent(10_000)
    add_all(event, ["x"] * (given_up + 1))[:-1]
    event.add({"index": 0, "count": 9, "text": "left"})
    for _ in range(2):
        assert add_all(event, parts) == [None] * (len(parts) - 1) + ["".join(parts)]


@pytest.mark.parametrize(
    ("wrong", "param"),
    [
        ({"index": 2, "count": 3, "text": "c"}, "index"),
        ({"index": -1, "count": 3, "text": "c"}, "index"),
        ({"index": 1, "count": 1, "text": "c"}, "count"),
        ({"index": 1, "count": 3}, "text"),
        ({"index": 1, "count": 3, "text": "c" * 2000}, "text"),
        ({"index": 1, "count": 3, "text": "😀" * 500}, "text"),  # takes four bytes each
    ],
)
def test_a_wrong_part_is_refused_with_its_place(wrong, param):
    event = LongEvent(2000)
    assert event.add({"index": 0, "count": 3, "text": "a"}) is None
    with pytest.raises(EventError) as refused:
        event.add(wrong)
    assert refused.value.param == param
    assert add_all(event, ["b", "c"]) == [None, "bc"]


def test_many_small_parts_are_bounded_too():
    event = LongEvent(100_000)
    with pytest.raises(EventError):
        add_all(event, [""] * 100_000)


def test_an_event_in_parts_is_handled_and_its_errors_name_it():
    async def talk(server):
        async with connected(server, manual=True) as client:

            async def send_in_parts(chars, **event):
                text = json.dumps(event)
                parts = [text[start : start + chars] for start in range(0, len(text), chars)]
                for index, part in enumerate(parts):
                    await client.send("echox.event.part", index=index, count=len(parts), text=part)
                    if index == 0:
                        await client.send("echox.ping")  # comes through
                        assert (await client.until("echox.event.taken"))["index"] == 0
                        await client.until("echox.pong")

            create = {"type": "conversation.item.create", "item": {"id": "long", **user_text("What does a cow say?")}}
            await send_in_parts(50, event_id="one", **create)
            assert (await client.until("conversation.item.added"))["item"]["id"] == "long"
            await send_in_parts(30, event_id="two", **{**create, "item": {"type": "nothing"}})
            while (event := await client.next())["type"] != "error":
                pass
            assert event["error"]["event_id"] == "two"
            await client.send("echox.event.part", event_id="three", index=7, count=9, text="")
            while (event := await client.next())["type"] != "error":
                pass
            assert event["error"]["event_id"] == "three"
            await client.send("response.create")
            assert (await client.until("response.done"))["response"]["status"] == "completed"

    with running(nano()) as server:
        run(talk(server), 120)
