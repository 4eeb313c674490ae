"""What a client changes in a conversation while replies are made and played: truncated, deleted, cleared."""

import asyncio
import contextlib
import json

import pytest

from echox.serving.protocol.conversation import Content, ConversationItem
from echox.serving.realtime.reply_input import ReplyInput
from echox.serving.realtime.session import RealtimeSession
from echox.serving.realtime.speech_events import SpeechEvents
from serving_help import check_event, connected, nano, question, run, running, user_text
from waiting import wait_until_async

LONG = "Tell me what you know about Brazil."


@pytest.fixture(scope="module")
def server():
    with running(nano()) as found:
        yield found


async def shown_text(client, item_id):
    await client.send("conversation.item.retrieve", item_id=item_id)
    return (await client.until("conversation.item.retrieved"))["item"]["content"][0]["transcript"]


async def truncated_early(client, until):
    """The id of a long reply that the client stopped after half a second, and its text."""
    await client.send("conversation.item.create", item=user_text(LONG))
    await client.send("response.create")
    await client.until(until)
    item_id = client.of("response.output_item.added")[0]["item"]["id"]
    await client.send("conversation.item.truncate", item_id=item_id, content_index=0, audio_end_ms=500)
    await client.until("conversation.item.truncated")
    return item_id, await shown_text(client, item_id)


@pytest.mark.parametrize("until", ["response.output_audio.delta", "response.done"])
@pytest.mark.parametrize("speech_s", [0.5, 1.6])
def test_what_is_said_after_the_client_has_stopped_a_reply_is_a_turn_like_any_other(server, until, speech_s):
    async def talk():
        async with connected(server) as client:
            item_id, text = await truncated_early(client, until)
            (session,) = server.service.sessions
            assert session.responder.heard_ms() is None
            await client.say(question(2, lead_s=0.2)[: int((0.2 + speech_s) * 24000)], chunk_s=5)
            await client.say(question(2, tail_s=0.8)[-int(0.8 * 24000) :], chunk_s=5)
            await client.until("input_audio_buffer.committed")
            while len(client.of("response.done")) < 2:
                await client.next()
            assert len(client.of("conversation.item.truncated")) == 1
            assert not client.of("echox.output_audio.duck")
            assert await shown_text(client, item_id) == text

    run(talk(), 120)


class Line:
    """A transport without a network; `plays` as in a call."""

    def __init__(self, plays=False):
        self.plays, self.events = plays, []

    async def send(self, text):
        self.events.append(check_event(text))

    def speech(self, *args):
        return SpeechEvents(*args)

    def kinds(self):
        return [event["type"] for event in self.events]


@contextlib.asynccontextmanager
async def session_of(server, plays=False):
    """A session in this event loop, and its line."""
    line = Line(plays)
    session = RealtimeSession(server.service, line)
    sending = asyncio.create_task(session.outbox.run())
    try:
        yield session, line
    finally:
        await session.close()
        sending.cancel()
        await asyncio.gather(sending, return_exceptions=True)


async def send(session, kind, **fields):
    await session.receive(json.dumps({"type": kind, **fields}))


EDITS = {
    "conversation.item.truncate": ({"content_index": 0, "audio_end_ms": 400}, "conversation.item.truncated", False),
    "conversation.item.delete": ({}, "conversation.item.deleted", False),
    "output_audio_buffer.clear": ({}, "conversation.item.truncated", True),
}


@pytest.mark.parametrize("edit", EDITS)
def test_a_waiting_turn_is_answered_after_the_edit_that_ends_the_reply_before_it(server, monkeypatch, edit):
    fields, told, plays = EDITS[edit]
    read = []
    begin = ReplyInput.begin

    def noted(self, *args, **options):
        read.append([(message.role, "".join(map(str, message.parts))) for message in self.messages])
        return begin(self, *args, **options)

    monkeypatch.setattr(ReplyInput, "begin", noted)

    async def talk():
        async with session_of(server, plays) as (session, line):
            await send(session, "conversation.item.create", item=user_text(LONG))
            await send(session, "response.create")
            await wait_until_async(lambda: "response.output_audio.delta" in line.kinds(), "it speaks")
            waiting = ConversationItem("waiting", "user", [Content("input_text", "What is the capital of France?")])
            session.conversation.add(waiting)
            session.responder.answer_turn(waiting)
            reply = session.responder.active.item
            where = {} if plays else {"item_id": reply.id}
            before = len(line.events)
            await send(session, edit, **where, **fields)
            said = [] if edit.endswith("delete") else [("assistant", reply.content[0].text)]
            await wait_until_async(lambda: line.kinds().count("response.done") == 2, "the turn is answered", 30)
            return said, [one for one in line.kinds()[before:] if one in ("response.done", told, "response.created")]

    said, order = run(talk(), 120)
    assert order == ["response.done", told, "response.created", "response.done"]
    asked = [("user", LONG), *said, ("user", "What is the capital of France?")]
    if not said or not said[0][1]:
        asked = [("user", f"{LONG}\nWhat is the capital of France?")]
    assert read[1:] == [asked]
