"""A client can ping the server; pings alone do not keep a session open."""

import asyncio
import contextlib

import pytest
import websockets

from serving_help import Limits, connected, nano, running, user_text


def test_a_ping_is_answered_and_does_not_count_as_activity():
    async def ping_until_closed(server):
        async with connected(server) as client:

            async def ping():
                with contextlib.suppress(websockets.ConnectionClosed):
                    while True:
                        await client.send("echox.ping")
                        await asyncio.sleep(0.1)  # fixed time: the client pings at this pace

            pinging = asyncio.create_task(ping())
            error = await client.until("error")
            await pinging
            return error["error"]["code"], len(client.of("echox.pong"))

    with running(nano(), Limits(idle_s=3.0)) as server:
        code, pongs = asyncio.run(ping_until_closed(server))
    assert code == "session_idle"
    assert pongs > 3


def test_events_keep_a_session_open():
    async def act(server):
        async with connected(server) as client:
            for number in range(4):
                await client.send("conversation.item.create", item={"id": f"item_{number}", **user_text("Hello.")})
                await client.until("conversation.item.done")
                await asyncio.sleep(1.0)  # fixed time: the client acts at this pace
            return client.of("error")

    with running(nano(), Limits(idle_s=3.0)) as server:
        assert asyncio.run(act(server)) == []


@pytest.mark.parametrize("fields", [{}, {"event_id": "mine"}, {"more": 1}])
def test_a_ping_may_have_the_fields_of_events(fields):
    async def ping(server):
        async with connected(server) as client:
            await client.send("echox.ping", **fields)
            return (await client.next())["type"]

    with running(nano()) as server:
        assert asyncio.run(ping(server)) == "echox.pong"
