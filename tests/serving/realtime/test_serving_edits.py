"""What a client changes in a conversation while replies are made and played: truncated, deleted, cleared."""

import numpy as np
import pytest

from echox.serving.protocol.conversation import Content, ConversationItem
from echox.serving.realtime.reply_input import ReplyInput
from echox.streaming.events import AudioChunk, TextDelta
from echox.tool_calls.tools import ToolCallDelta
from scripted_session import Script, send, session_of
from serving_help import connected, nano, question, run, running, user_text
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


SOUND = AudioChunk(np.zeros(2400, np.float32), 24000, "Hello", 0.0)
CALL = ToolCallDelta(0, "stop", '{"a": 1')
WRITTEN = {
    "a reply": [TextDelta("Hello")],
    "a spoken reply": [TextDelta("Hello"), SOUND],
    "a call": [CALL],
    "a whole call": [CALL, ToolCallDelta(0, "stop", "}", done=True)],
}
ENDS = ["is written", "is cancelled", "is finished"]
GIVEN = {
    "a question": user_text("Why?"),
    "an empty question": user_text(""),
    "sound": {"role": "user", "content": [{"type": "input_audio", "audio": "AAAA" * 200}]},
    "a system item": {"role": "system", "content": [{"type": "input_text", "text": "Be brief."}]},
    "a text": {"role": "assistant", "content": [{"type": "output_text", "text": "Yes."}]},
    "a transcript": {"role": "assistant", "content": [{"type": "output_audio", "transcript": "Yes."}]},
    "a call from the client": {"type": "function_call", "call_id": "c", "name": "stop", "arguments": "{}"},
    "an output": {"type": "function_call_output", "call_id": "c", "output": "1"},
}
ITEM_EVENTS = {
    "conversation.item.retrieve": lambda found: {"item_id": found},
    "conversation.item.delete": lambda found: {"item_id": found},
    "conversation.item.truncate": lambda found: {"item_id": found, "content_index": 0, "audio_end_ms": 20},
    "conversation.item.create": lambda found: {"item": user_text("And?"), "previous_item_id": found},
    "response.create": lambda found: {"response": {"input": [{"type": "item_reference", "id": found}]}},
}


async def put(session, line, monkeypatch, state):
    """Bring an item into a state, and return its id."""
    if state in GIVEN:
        await send(session, "conversation.item.create", item=GIVEN[state])
        return session.conversation.items[-1].id
    what, end = state
    monkeypatch.setattr(ReplyInput, "begin", lambda *args, **options: Script(*WRITTEN[what], ends=end == ENDS[2]))
    await send(session, "conversation.item.create", item=user_text("Why?"))
    await send(session, "response.create")
    await wait_until_async(lambda: len(session.conversation.items) == 2, "it is written")
    if end == ENDS[1]:
        await send(session, "response.cancel")
    if end == ENDS[2]:
        await wait_until_async(lambda: "response.done" in line.kinds(), "it is finished")
    return session.conversation.items[-1].id


@pytest.mark.parametrize("kind", ITEM_EVENTS)
@pytest.mark.parametrize("plays", [False, True])
def test_every_event_about_an_item_is_understood_in_every_state_of_it(server, monkeypatch, kind, plays):
    async def talk(state):
        async with session_of(server, plays) as (session, line):
            item_id = await put(session, line, monkeypatch, state)
            being_written = session.responder.active is not None
            monkeypatch.setattr(ReplyInput, "begin", lambda *args, **options: Script(TextDelta("Yes"), ends=True))
            await send(session, kind, **ITEM_EVENTS[kind](item_id))
            await send(session, "echox.ping")
            await wait_until_async(lambda: "echox.pong" in line.kinds(), "all is handled")
            codes = [event["error"]["code"] for event in line.events if event["type"] == "error"]
            assert "internal_error" not in codes, state
            if kind == "conversation.item.delete":
                assert session.responder.active is None
                assert line.kinds().count("response.done") == line.kinds().count("response.created")
                assert not codes
            elif kind == "conversation.item.retrieve":
                assert not codes
            return being_written

    states = [*GIVEN, *((what, end) for what in WRITTEN for end in ENDS)]
    written = [run(talk(state)) for state in states]
    assert sum(written) == len(WRITTEN)
