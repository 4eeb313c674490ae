"""Every detected turn is answered or its failure reported; an error event always answers a client event."""

import numpy as np
import pytest

from serving_help import connected, nano, order, question, run, running, user_text


@pytest.fixture(scope="module")
def server():
    with running(nano()) as found:
        yield found


def shown_order(client):
    """Ids of the items in the order that ``previous_item_id`` gives them."""
    ids = []
    for event in client.of("conversation.item.added"):
        after = event["previous_item_id"]
        ids.insert(ids.index(after) + 1 if after else 0, event["item"]["id"])
    return ids


async def heard_and_answered(client, item_id):
    """The reply to a spoken turn, once both are there."""
    while True:
        ids = shown_order(client)
        place = ids.index(item_id) + 1 if item_id in ids else len(ids)
        for event in client.of("response.done"):
            if place < len(ids) and [item["id"] for item in event["response"]["output"]] == [ids[place]]:
                return event["response"]
        event = await client.next()
        assert event["type"] != "error", event


async def ask(client, item):
    """Write a question and ask for its answer, which is being made then."""
    await client.send("conversation.item.create", item=item)
    await client.send("response.create")
    await client.until("response.created")


def both_transcribed(**turn_detection):
    audio = {"input": {"transcription": {"model": "x"}, "turn_detection": {"type": "server_vad", **turn_detection}}}
    return {"type": "realtime", "audio": audio}


@pytest.mark.parametrize("interrupts", [True, False])
@pytest.mark.parametrize("moment_s", [1.0, 1.6])
def test_a_reply_requested_while_the_user_speaks_does_not_replace_the_turn(server, interrupts, moment_s):
    async def talk():
        async with connected(server) as client:
            await client.send("session.update", session=both_transcribed(interrupt_response=interrupts))
            speech = question(0, lead_s=0.3, tail_s=0.8)
            cut = int(moment_s * 24000)
            await client.say(speech[:cut])
            await client.until("input_audio_buffer.speech_started")
            await ask(client, {**user_text("Tell me about France?"), "id": "typed"})
            await client.say(speech[cut:], chunk_s=5)
            item_id = (await client.until("input_audio_buffer.committed"))["item_id"]
            response = await heard_and_answered(client, item_id)
            assert response["status"] == "completed"
            ids = shown_order(client)
            typed_reply = client.of("response.done")[0]["response"]["output"][0]["id"]
            assert ids == ["typed", typed_reply, item_id, response["output"][0]["id"]]
            # The same conversation to the model alone.
            session = nano().session()
            first = session.reply({"role": "user", "content": "Tell me about France?"}, speak=False).text
            transcripts = {
                event["response"]["output"][0]["id"]: event["response"]["output"][0]["content"][0]["transcript"]
                for event in client.of("response.done")
            }
            assert transcripts[typed_reply] == first
            assert "Brazil" in transcripts[ids[3]]

    run(talk(), 120)


def test_speech_over_a_reply_that_may_not_be_interrupted_is_answered_after_it(server):
    async def talk():
        async with connected(server) as client:
            await client.send("session.update", session=both_transcribed(interrupt_response=False))
            await ask(client, user_text("Tell me what you know about France?"))
            await client.say(question(0, lead_s=0.3, tail_s=0.8), chunk_s=5)
            item_id = (await client.until("input_audio_buffer.committed"))["item_id"]
            assert not client.of("response.done"), "the reply was too short to be spoken over"
            response = await heard_and_answered(client, item_id)
            assert "Brazil" in response["output"][0]["content"][0]["transcript"]
            assert [event["response"]["status"] for event in client.of("response.done")] == ["completed"] * 2

    run(talk(), 120)


MEANWHILE = {
    "cuts the reply": (
        "conversation.item.truncate",
        {"content_index": 0, "audio_end_ms": 200},
        "conversation.item.truncated",
    ),
    "cancels the reply": ("response.cancel", {}, "error"),  # it was interrupted already
    "changes its instructions": ("session.update", {"session": {"instructions": "Be brief."}}, "session.updated"),
    "is less eager": (
        "session.update",
        {"session": {"audio": {"input": {"turn_detection": {"type": "semantic_vad", "eagerness": "low"}}}}},
        "session.updated",
    ),
    "wants slower speech": ("session.update", {"session": {"audio": {"output": {"speed": 0.9}}}}, "session.updated"),
    "looks at the reply": ("conversation.item.retrieve", {}, "conversation.item.retrieved"),
}


@pytest.mark.parametrize("what", MEANWHILE)
def test_a_question_over_a_reply_is_answered_whatever_its_client_does_in_the_middle_of_it(server, what):
    kind, fields, answer = MEANWHILE[what]

    async def talk():
        async with connected(server) as client:
            await client.send("session.update", session=both_transcribed(type="semantic_vad"))
            await ask(client, user_text("Tell me what you know about France?"))
            await client.until("response.output_audio.delta")
            reply_id = client.of("response.output_item.added")[0]["item"]["id"]
            speech = question(0, lead_s=0.3, tail_s=2.5)
            cut = int(1.6 * 24000)
            await client.say(speech[:cut])
            await client.until("input_audio_buffer.speech_started")
            changed = {"session": {"type": "realtime", **fields["session"]}} if "session" in fields else fields
            await client.send(kind, **changed, **({"item_id": reply_id} if ".item." in kind else {}))
            await client.until(answer)
            await client.say(speech[cut:], chunk_s=5)
            item_id = (await client.until("input_audio_buffer.committed"))["item_id"]
            response = await heard_and_answered(client, item_id)
            assert response["status"] == "completed"
            assert "Brazil" in response["output"][0]["content"][0]["transcript"]

    run(talk(), 120)


def test_a_waiting_turn_is_answered_when_the_next_one_is_cleared(server):
    async def talk():
        async with connected(server) as client:
            await client.send("session.update", session=both_transcribed())
            speech = question(0, lead_s=0.3, tail_s=0.8)
            await client.say(speech[:24000])
            await client.until("input_audio_buffer.speech_started")
            await ask(client, user_text("Tell me what you know about France?"))
            # The end of the turn, and at once the beginning of another, which ends the running reply.
            await client.say(np.concatenate([speech[24000:], question(2)[:24000]]), chunk_s=10)
            item_id = (await client.until("input_audio_buffer.committed"))["item_id"]
            await client.until("input_audio_buffer.speech_started")
            await client.send("input_audio_buffer.clear")
            response = await heard_and_answered(client, item_id)
            assert response["status"] == "completed"

    run(talk(), 120)


def test_items_created_during_a_reply_follow_it(server):
    async def talk():
        async with connected(server) as client:
            await client.send("session.update", session={"type": "realtime", "output_modalities": ["text"]})
            await client.send(
                "conversation.item.create", item={**user_text("What is the capital of France?"), "id": "a"}
            )
            await client.send("response.create")
            await client.send("conversation.item.create", item={**user_text("And of Spain?"), "id": "b"})
            first = (await client.until("response.done"))["response"]
            await client.send("response.create")
            second = (await client.until("response.done"))["response"]
            assert shown_order(client) == ["a", first["output"][0]["id"], "b", second["output"][0]["id"]]

    run(talk(), 120)


def test_a_silent_microphone_is_a_failed_response_and_no_error(server, monkeypatch):
    monkeypatch.setattr("echox.streaming.prompt.messages.find_speech", lambda samples, rate: None)  # the detector erred

    async def talk():
        async with connected(server) as client:
            await client.say(0.9 * question(0, lead_s=0.3, tail_s=0.8), chunk_s=10)  # no other test's sound
            response = (await client.until("response.done"))["response"]
            assert response["status"] == "failed"
            assert response["status_details"]["error"]["code"] == "not_heard"
            assert response["output"] == []
            # Asked for by hand it is the same.
            await client.send("response.create")
            assert (await client.until("response.done"))["response"]["status"] == "failed"
            await client.send("conversation.item.create", item=user_text("What is the capital of France?"))
            await client.send("response.create")
            assert (await client.until("response.done"))["response"]["status"] == "completed"

    run(talk(), 120)


def test_a_turn_that_ends_during_shutdown_is_a_failed_response(server, monkeypatch):
    async def talk():
        async with connected(server) as client:
            monkeypatch.setattr(server.service, "draining", True)
            await client.say(question(0, lead_s=0.3, tail_s=0.8), chunk_s=10)
            response = (await client.until("response.done"))["response"]
            assert response["status_details"]["error"]["code"] == "server_shutting_down"

    run(talk(), 120)


TOLERATED = [
    {"tools": [{"type": "function", "name": "get_weather", "parameters": {}}], "tool_choice": "auto"},
    {"tools": [{"type": "mcp", "server_label": "x", "server_url": "https://example.org"}]},
    {"tool_choice": {"type": "allowed_tools", "mode": "auto", "tools": []}},
    {"tracing": "auto"},
    {"truncation": "auto"},
    {"reasoning": {"effort": "low"}, "parallel_tool_calls": False},
    {"include": None, "prompt": None},
    {"audio": {"input": {"noise_reduction": {"type": "near_field"}}}},
    {"audio": {"input": {"transcription": {"model": "whisper-1", "language": "en", "prompt": "x"}}}},
    {"audio": {"output": {"voice": "marin", "speed": 1.0}}},
    {"max_output_tokens": "inf", "nobody_knows_this": {"x": [1]}},
    {"modalities": ["text", "audio"], "temperature": 0.8, "input_audio_transcription": {"model": "whisper-1"}},
]


def test_options_without_effect_are_no_error(server):
    async def talk():
        async with connected(server) as client:
            for session in TOLERATED:
                await client.send("session.update", session={"type": "realtime", **session})
                shown = (await client.until("session.updated"))["session"]  # fails on any error event
                assert shown["tools"] == []
                assert shown["audio"]["input"]["noise_reduction"] is None
            await client.send("conversation.item.create", item=user_text("What is the capital of France?"))
            tools = [{"type": "function", "name": "get_weather"}]
            await client.send("response.create", response={"tools": tools, "tool_choice": "auto", "temperature": None})
            assert (await client.until("response.done"))["response"]["status"] == "completed"

    run(talk(), 120)


def test_a_history_with_tool_calls_is_understood(server):
    async def talk():
        async with connected(server) as client:
            await client.send("session.update", session={"type": "realtime", "output_modalities": ["text"]})
            call = {"type": "function_call", "call_id": "c1", "name": "look_up", "arguments": '{"x": 1}'}
            for item in (user_text("Look it up."), call):
                await client.send("conversation.item.create", item=item)
            output = "What is the capital of France?"
            await client.send(
                "conversation.item.create", item={"type": "function_call_output", "call_id": "c1", "output": output}
            )
            await client.send("response.create")
            response = (await client.until("response.done"))["response"]
            shown = [event["item"] for event in client.of("conversation.item.done")]
            assert {name: shown[1][name] for name in call} == call
            assert shown[2]["output"] == output
            alone = nano().session()
            alone.messages = []
            messages = [
                {"role": "user", "content": "Look it up."},
                {"role": "assistant", "content": 'look_up({"x": 1})'},
                {"role": "user", "content": output},
            ]
            expected = alone.reply(messages, speak=False).text
            assert response["output"][0]["content"][0]["text"] == expected

    run(talk(), 120)


def test_beta_names_of_a_response(server):
    async def talk():
        async with connected(server) as client:
            await client.send("conversation.item.create", item=user_text("Tell me what you know about Brazil?"))
            beta = {"modalities": ["text"], "max_response_output_tokens": 3}
            await client.send("response.create", response=beta)
            response = (await client.until("response.done"))["response"]
            assert response["output_modalities"] == ["text"]
            assert response["output"][0]["content"][0]["type"] == "output_text"
            assert response["status_details"]["reason"] == "max_output_tokens"
            usage = response["usage"]
            assert usage["output_tokens"] == 3
            assert usage["total_tokens"] == usage["input_tokens"] + 3
            details = usage["input_token_details"]
            assert details["audio_tokens"] + details["text_tokens"] == usage["input_tokens"] > 5
            await client.send("response.create", response={"modalities": ["smell"]})
            assert (await client.until("error"))["error"]["param"] == "response.modalities"

    run(talk(), 120)


def test_out_of_band_responses_run_in_parallel_and_can_be_cancelled(server):
    async def talk():
        async with connected(server) as client:
            await ask(client, user_text("Tell me what you know about Brazil?"))
            beside = {"conversation": "none", "output_modalities": ["text"]}
            asked = {**beside, "input": [user_text("What is the capital of France?")], "metadata": {"n": "1"}}
            await client.send("response.create", response=asked)
            longer = {**beside, "input": [user_text("Tell me what you know about France?")], "metadata": {"n": "2"}}
            await client.send("response.create", response=longer)
            created = []
            while len(created) < 2:
                created.append((await client.until("response.created"))["response"])
            await client.send("response.cancel", response_id=created[1]["id"])
            while len(client.of("response.done")) < 3:
                await client.next()
            done = {event["response"]["id"]: event["response"] for event in client.of("response.done")}
            assert done[created[0]["id"]]["status"] == "completed"
            assert "Paris" in done[created[0]["id"]]["output"][0]["content"][0]["text"]
            assert done[created[1]["id"]]["status"] == "cancelled"
            assert [one["status"] for one in done.values() if one.get("conversation_id")] == ["completed"]
            assert len(client.of("conversation.item.added")) == 2  # the question and its own reply
            for number in range(6):  # there is an end to it
                await client.send("response.create", response={**asked, "metadata": {"n": str(number)}})
            assert (await client.until("error"))["error"]["code"] == "too_many_responses"

    run(talk(), 120)


def test_speed_of_a_session(server):
    async def talk():
        lengths = {}
        for speed in (1.0, 1.5, 0.5):
            async with connected(server) as client:
                await client.send("session.update", session={"type": "realtime", "audio": {"output": {"speed": speed}}})
                assert (await client.until("session.updated"))["session"]["audio"]["output"]["speed"] == speed
                await client.send("conversation.item.create", item=user_text("What is the capital of France?"))
                await client.send("response.create")
                await client.until("response.done")
                lengths[speed] = len(client.sound())
        assert lengths[1.0] / lengths[1.5] == pytest.approx(1.5, rel=0.03)
        assert lengths[1.0] / lengths[0.5] == pytest.approx(0.5, rel=0.03)

    run(talk(), 120)


def test_order_of_events_of_a_waiting_turn(server):
    async def talk():
        async with connected(server) as client:
            await client.send("session.update", session=both_transcribed(interrupt_response=False))
            await ask(client, user_text("What is the capital of France?"))
            await client.say(question(2, lead_s=0.3, tail_s=0.8), chunk_s=10)
            await client.until("response.done")
            await client.until("rate_limits.updated")
            if len(client.of("response.created")) == 1:
                await client.until("response.created")
            kinds = [kind for kind in order(client.events) if kind.startswith(("response.created", "response.done"))]
            assert kinds == ["response.created", "response.done", "response.created"]

    run(talk(), 120)
