"""What the model gets for a reply, and what a session keeps of the replies that it made."""

import gc

import numpy as np
import pytest

from echox.serving.protocol.options import SessionOptions
from echox.serving.realtime.reply_input import ReplyInput
from echox.serving.realtime.response import Response
from echox.serving.realtime.speech_events import SpeechEvents
from echox.streaming.events import AudioChunk, TextDelta
from echox.tool_calls.tools import ToolCallDelta
from scripted_session import Script, send, session_of
from serving_help import Limits, connected, nano, run, running, user_text
from waiting import wait_until_async

QUESTION = user_text("What is the capital of France?")
OTHER = user_text("What is the capital of Spain?")


@pytest.fixture(scope="module")
def server():
    with running(nano()) as found:
        yield found


@pytest.fixture
def given(monkeypatch):
    """The system prompt and the messages of every reply that was begun, as text."""
    found, begin = [], ReplyInput.begin

    def noted(self, *args, **options):
        found.append((self.system, ["".join(map(str, message.parts)) for message in self.messages]))
        return begin(self, *args, **options)

    monkeypatch.setattr(ReplyInput, "begin", noted)
    return found


def system(text):
    return {"type": "message", "role": "system", "content": [{"type": "input_text", "text": text}]}


KNOWN = {"type": "item_reference", "id": "known"}
SPAIN, FRANCE = "What is the capital of Spain?", "What is the capital of France?"
INPUTS = {
    "no input": ({}, "Be brief.\nBe kind.", [FRANCE]),
    "a question": ({"input": [OTHER]}, "Be brief.", [SPAIN]),
    "a system item": ({"input": [system("Be loud."), OTHER]}, "Be brief.\nBe loud.", [SPAIN]),
    "two system items": ({"input": [system("A."), OTHER, system("B.")]}, "Be brief.\nA.\nB.", [SPAIN]),
    "a reference to the system item": ({"input": [KNOWN, OTHER]}, "Be brief.\nBe kind.", [SPAIN]),
    "instructions": ({"instructions": "Say hello.", "input": []}, "Say hello.", ["Say hello."]),
    "instructions and a system item": (
        {"instructions": "Say hello.", "input": [system("Be loud.")]},
        "Say hello.\nBe loud.",
        ["Say hello."],
    ),
}


@pytest.mark.parametrize("conversation", ["auto", "none"])
@pytest.mark.parametrize("what", INPUTS)
def test_a_response_with_items_of_its_own_reads_these_and_no_others(server, given, what, conversation):
    request, prompt, messages = INPUTS[what]

    async def talk():
        async with connected(server) as client:
            session = {"type": "realtime", "output_modalities": ["text"], "instructions": "Be brief."}
            await client.send("session.update", session=session)
            await client.send("conversation.item.create", item={**system("Be kind."), "id": "known"})
            await client.send("conversation.item.create", item=QUESTION)
            asked = {"conversation": conversation, "max_output_tokens": 4, **request}
            await client.send("response.create", response=asked)
            assert (await client.until("response.done"))["response"]["status"] in ("completed", "incomplete")

    run(talk())
    assert given == [(prompt, messages)]


CALL = (ToolCallDelta(0, "look"), ToolCallDelta(0, "look", "{}"), ToolCallDelta(0, "look", "", done=True))


def ended(session, line):
    """Whether the client has all of the response."""
    return session.responder.active is None and line.events[-1]["type"] == "rate_limits.updated"


@pytest.mark.parametrize("speaks", [False, True])
def test_an_answer_of_many_calls_keeps_no_response_and_knows_how_much_was_heard(server, monkeypatch, speaks):
    rounds, rate = 200, nano().session().output_sampling_rate
    said = (TextDelta("Let me see."), AudioChunk(np.zeros(rate // 10, np.float32), rate, "Let me see.", 0.0))
    script = (*said, *CALL) if speaks else CALL
    monkeypatch.setattr(ReplyInput, "begin", lambda *args, **options: Script(*script, ends=True))
    monkeypatch.setattr(SpeechEvents, "playing", lambda self, now_s: False)
    monkeypatch.setattr(SpeechEvents, "heard_s", lambda self, now_s: self.sent_s)

    async def talk():
        async with session_of(server, options=SessionOptions("nano", Limits(), calls_tools=True)) as (session, line):
            await send(session, "conversation.item.create", item=QUESTION)
            await send(session, "response.create")
            for number in range(rounds):
                await wait_until_async(lambda: ended(session, line), "the call is made")
                call_id = session.conversation.items[-1].call["call_id"]
                output = {"type": "function_call_output", "call_id": call_id, "output": str(number)}
                await send(session, "conversation.item.create", item=output)
                await send(session, "response.create")
            await wait_until_async(lambda: ended(session, line), "the last call is made")
            assert not [event for event in line.events if event["type"] == "error"]
            line.events.clear()
            gc.collect()
            kept = sum(isinstance(one, Response) for one in gc.get_objects())
            # One more that is being made: all that was heard before it is part of the answer.
            monkeypatch.setattr(ReplyInput, "begin", lambda *args, **options: Script(*said))
            output = {"type": "function_call_output", "call_id": "last", "output": "0"}
            await send(session, "conversation.item.create", item=output)
            await send(session, "response.create")
            await wait_until_async(lambda: session.responder.heard_ms() is not None, "it speaks")
            return kept, session.responder.heard_ms()

    kept, heard_ms = run(talk(), 240)
    assert kept <= 4
    before_ms = 100 * (rounds + 1) if speaks else 0
    assert before_ms < heard_ms <= before_ms + 101
