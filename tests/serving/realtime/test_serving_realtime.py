"""The realtime protocol over a real server with nano; every event is checked against the client's own types."""

import asyncio
import base64
import json

import numpy as np
import pytest

from serving_help import ENVELOPE, connected, nano, order, pcm16, question, run, running, user_text


@pytest.fixture(scope="module")
def server():
    with running(nano()) as found:
        yield found


def test_typed_question_spoken_answer_in_the_documented_order(server):
    async def talk():
        async with connected(server) as client:
            await client.send("conversation.item.create", item=user_text("What is the capital of France?"))
            await client.until("conversation.item.done")
            await client.send("response.create", response={"metadata": {"client_event_id": "7"}})
            start = len(client.events)
            done = await client.until("rate_limits.updated")
            assert done["rate_limits"] == []
            assert order(client.events[start:]) == ENVELOPE
            (response,) = (event["response"] for event in client.of("response.done"))
            assert response["status"] == "completed"
            assert response["metadata"] == {"client_event_id": "7"}
            (part,) = response["output"][0]["content"]
            assert part["type"] == "output_audio"
            assert "Paris" in part["transcript"]
            written = "".join(event["delta"] for event in client.of("response.output_audio_transcript.delta"))
            assert written == part["transcript"]
            assert abs(client.sound()).max() > 0.05

    run(talk())


def test_a_spoken_turn_is_detected_and_answered_as_by_the_model_alone(server):
    async def talk():
        async with connected(server) as client:
            audio = {"input": {"transcription": {"model": "gpt-4o-mini-transcribe"}}}
            await client.send("session.update", session={"type": "realtime", "audio": audio})
            await client.until("session.updated")
            start = len(client.events)
            await client.say(question(0, lead_s=0.5, tail_s=0.8))
            await client.until("rate_limits.updated")
            kinds = [kind for kind in order(client.events[start:]) if "transcription" not in kind]
            assert kinds == [
                "input_audio_buffer.speech_started",
                "input_audio_buffer.speech_stopped",
                "input_audio_buffer.committed",
                "conversation.item.added",
                "conversation.item.done",
                *ENVELOPE,
            ]
            (started,), (stopped,) = (client.of(f"input_audio_buffer.speech_{word}") for word in ("started", "stopped"))
            assert started["item_id"] == stopped["item_id"] == client.of("input_audio_buffer.committed")[0]["item_id"]
            assert 200 <= started["audio_start_ms"] <= 700
            heard = client.of("conversation.item.input_audio_transcription.completed")[0]
            assert "Brazil" in heard["transcript"]
            # The same sound to the model alone.
            await client.send("conversation.item.retrieve", item_id=heard["item_id"])
            item = (await client.until("conversation.item.retrieved"))["item"]
            data = base64.b64decode(item["content"][0]["audio"])
            samples = np.frombuffer(data, "<i2").astype(np.float32) / 32768
            alone = await asyncio.to_thread(nano().session().reply, samples, sampling_rate=24000, speak=False)
            assert client.of("response.output_audio_transcript.done")[0]["transcript"] == alone.text
            assert len(client.sound()) / 24000 > 1.0

    run(talk())


def test_manual_turns(server):
    async def talk():
        async with connected(server, manual=True) as client:
            await client.say(question(2))
            await client.send("input_audio_buffer.commit")
            committed = await client.until("input_audio_buffer.committed")
            assert "previous_item_id" in committed
            await client.send("response.create")
            await client.until("rate_limits.updated")
            assert not client.of("input_audio_buffer.speech_started")
            assert "moo" in client.of("response.output_audio_transcript.done")[0]["transcript"].lower()

    run(talk())


@pytest.mark.parametrize(
    ("kind", "rate"), [("audio/pcm", 24000), ("audio/pcm", 16000), ("audio/pcmu", 8000), ("audio/pcma", 8000)]
)
def test_formats(server, kind, rate):
    async def talk():
        from echox.serving.protocol.wire import AudioFormat

        fmt = AudioFormat(kind, rate)
        async with connected(server, manual=True) as client:
            audio = {
                "input": {"format": {"type": kind, "rate": rate}},
                "output": {"format": {"type": kind, "rate": rate}},
            }
            await client.send("session.update", session={"type": "realtime", "audio": audio})
            shown = (await client.until("session.updated"))["session"]
            assert shown["audio"]["output"]["format"] == fmt.to_dict()
            data = fmt.encode(question(2, rate))
            for start in range(0, len(data), 777):  # odd chunks
                await client.send(
                    "input_audio_buffer.append", audio=base64.b64encode(data[start : start + 777]).decode()
                )
            await client.send("input_audio_buffer.commit")
            await client.send("response.create")
            await client.until("response.done")
            sound = b"".join(base64.b64decode(event["delta"]) for event in client.of("response.output_audio.delta"))
            alone = await asyncio.to_thread(nano().session().reply, user_text_message(client))
            assert len(fmt.decode(sound)) / rate == pytest.approx(alone.duration_s, abs=0.5)

    def user_text_message(client):
        return {"role": "user", "content": "Do you know the sound of a cow?"}

    run(talk())


def test_text_only_answers(server):
    async def talk():
        async with connected(server) as client:
            await client.send("session.update", session={"type": "realtime", "output_modalities": ["text"]})
            await client.send("conversation.item.create", item=user_text("What is the capital of France?"))
            await client.send("response.create")
            await client.until("rate_limits.updated")
            kinds = order(client.events)
            assert "response.output_text.done" in kinds
            assert not [kind for kind in kinds if "audio" in kind]
            assert client.of("response.done")[0]["response"]["output"][0]["content"][0]["type"] == "output_text"

    run(talk())


def test_history_is_known_and_can_be_edited(server):
    async def talk():
        async with connected(server) as client:
            await client.send("session.update", session={"type": "realtime", "output_modalities": ["text"]})
            first, second = "What is the capital of France?", "Which country is it in?"
            replies = []
            for text in (first, second):
                await client.send("conversation.item.create", item=user_text(text))
                await client.send("response.create")
                await client.until("rate_limits.updated")
                replies.append(client.of("response.output_text.done")[-1]["text"])
            session = nano().session()
            alone = [session.reply({"role": "user", "content": text}, speak=False).text for text in (first, second)]
            assert replies == alone
            ids = [event["item"]["id"] for event in client.of("conversation.item.done")]
            for item_id in ids[:2]:
                await client.send("conversation.item.delete", item_id=item_id)
                assert (await client.until("conversation.item.deleted"))["item_id"] == item_id
            await client.send("conversation.item.delete", item_id=ids[3])
            await client.send("response.create")
            await client.until("rate_limits.updated")
            forgot = nano().session().reply({"role": "user", "content": second}, speak=False).text
            assert client.of("response.output_text.done")[-1]["text"] == forgot

    run(talk())


def test_items_are_inserted_where_the_client_says(server):
    async def talk():
        async with connected(server) as client:
            for name, after in (("b", None), ("a", "root"), ("c", "b"), ("d", None)):
                item = {**user_text(name), "id": name}
                await client.send("conversation.item.create", item=item, previous_item_id=after)
                done = await client.until("conversation.item.done")
                assert done["previous_item_id"] == {"a": None, "b": None, "c": "b", "d": "c"}[name]

    run(talk())


def test_cancel_and_truncate(server):
    async def talk():
        async with connected(server) as client:
            await client.send("conversation.item.create", item=user_text("Tell me what you know about Brazil?"))
            await client.send("response.create")
            await client.until("response.output_audio.delta")
            await client.send("response.cancel")
            done = await client.until("response.done")
            assert done["response"]["status"] == "cancelled"
            assert done["response"]["status_details"] == {"type": "cancelled", "reason": "client_cancelled"}
            item = done["response"]["output"][0]
            assert item["status"] == "incomplete"
            await client.send("conversation.item.truncate", item_id=item["id"], content_index=0, audio_end_ms=10)
            assert (await client.until("conversation.item.truncated"))["audio_end_ms"] == 10
            await client.send("conversation.item.retrieve", item_id=item["id"])
            shown = (await client.until("conversation.item.retrieved"))["item"]
            assert shown["content"][0]["transcript"] == ""
            # And the session goes on.
            await client.send("conversation.item.create", item=user_text("What is the capital of France?"))
            await client.send("response.create")
            assert (await client.until("response.done"))["response"]["status"] == "completed"

    run(talk())


def test_truncating_a_finished_reply_keeps_what_was_heard(server):
    async def talk():
        async with connected(server) as client:
            await client.send("conversation.item.create", item=user_text("Tell me what you know about Brazil?"))
            await client.send("response.create")
            done = await client.until("response.done")
            item = done["response"]["output"][0]
            text = item["content"][0]["transcript"]
            half_ms = int(len(client.sound()) / 24000 * 500)
            kept = []
            for end_ms in (half_ms, 100_000):  # the client knows better than any earlier guess
                await client.send(
                    "conversation.item.truncate", item_id=item["id"], content_index=0, audio_end_ms=end_ms
                )
                await client.until("conversation.item.truncated")
                await client.send("conversation.item.retrieve", item_id=item["id"])
                kept.append((await client.until("conversation.item.retrieved"))["item"]["content"][0]["transcript"])
            reply = await asyncio.to_thread(
                nano().generate, {"role": "user", "content": "Tell me what you know about Brazil?"}
            )
            assert kept == [reply.heard_text(half_ms / 1000), text]
            assert 0 < len(kept[0]) < len(text)

    run(talk())


def test_max_output_tokens(server):
    async def talk():
        async with connected(server) as client:
            await client.send("conversation.item.create", item=user_text("Tell me what you know about Brazil?"))
            await client.send("response.create", response={"max_output_tokens": 3})
            response = (await client.until("response.done"))["response"]
            assert response["status"] == "incomplete"
            assert response["status_details"]["reason"] == "max_output_tokens"
            assert response["usage"]["output_token_details"]["text_tokens"] == 3

    run(talk())


@pytest.mark.parametrize("instructions", ["Say hello.", "Greet the user.", "Welcome the caller and offer help."])
def test_a_greeting_is_given_before_the_user_has_said_anything(server, instructions):
    async def talk():
        async with connected(server) as client:
            await client.send("response.create", response={"instructions": instructions})
            response = (await client.until("response.done"))["response"]
            assert response["status"] == "completed"
            (part,) = response["output"][0]["content"]
            assert part["transcript"] == "Hello, how can I help you?"
            await client.send("conversation.item.create", item=user_text("What is the capital of France?"))
            await client.send("response.create")
            response = (await client.until("response.done"))["response"]
            assert "Paris" in response["output"][0]["content"][0]["transcript"]

    run(talk())


def test_out_of_band_responses_do_not_change_the_conversation(server):
    async def talk():
        async with connected(server) as client:
            await client.send(
                "response.create",
                response={
                    "conversation": "none",
                    "output_modalities": ["text"],
                    "input": [user_text("What is the capital of France?")],
                },
            )
            response = (await client.until("response.done"))["response"]
            assert "conversation_id" not in response
            assert "Paris" in response["output"][0]["content"][0]["text"]
            assert not client.of("conversation.item.added")

    run(talk())


MISTAKES = [
    ("not json", "invalid_json", None),
    ("[]", "invalid_event", None),
    ({"type": "sing"}, "unknown_event_type", "e1"),
    ({}, "missing_required_parameter", "e2"),
    ({"type": "session.update"}, "missing_required_parameter", "e3"),
    ({"type": "session.update", "session": {"output_modalities": ["audio", "text"]}}, "invalid_value", "e4"),
    ({"type": "input_audio_buffer.append", "audio": "???"}, "invalid_value", "e5"),
    ({"type": "input_audio_buffer.append", "audio": 7}, "invalid_type", "e6"),
    ({"type": "input_audio_buffer.commit"}, "input_audio_buffer_commit_empty", "e7"),
    ({"type": "output_audio_buffer.clear"}, "unsupported_event", "e8"),
    ({"type": "response.cancel"}, "response_cancel_not_active", "e9"),
    ({"type": "response.create"}, "nothing_to_answer", "e10"),
    ({"type": "conversation.item.delete", "item_id": "x"}, "item_not_found", "e11"),
    ({"type": "conversation.item.create", "item": {"type": "mcp_call"}}, "unsupported_item_type", "e12"),
    ({"type": "session.update", "session": {"tool_choice": "often"}}, "invalid_value", "e13"),
    ({"type": "response.create", "response": {"max_output_tokens": 0}}, "invalid_value", "e14"),
]


def test_errors_are_answered_and_the_session_continues(server):
    async def talk():
        async with connected(server) as client:
            for event, code, event_id in MISTAKES:
                text = event if isinstance(event, str) else json.dumps({**event, "event_id": event_id})
                await client.socket.send(text)
                error = (await client.until("error"))["error"]
                assert error["code"] == code, text
                assert error.get("event_id") == event_id
            await client.send("conversation.item.create", item=user_text("What is the capital of France?"))
            await client.send("response.create")
            assert (await client.until("response.done"))["response"]["status"] == "completed"

    run(talk())


def test_every_recording_gets_its_transcript_however_it_is_answered(server):
    async def talk():
        async with connected(server, manual=True) as client:
            audio = {"input": {"transcription": {"model": "x"}}}
            await client.send("session.update", session={"type": "realtime", "audio": audio})
            for number in (0, 2):  # two recordings, one turn
                await client.say(question(number))
                await client.send("input_audio_buffer.commit")
            await client.send("response.create")
            await client.until("response.done")
            kind = "conversation.item.input_audio_transcription.completed"
            while len(client.of(kind)) < 2:
                await client.next()
            texts = {event["item_id"]: event["transcript"] for event in client.of(kind)}
            assert list(texts) == [event["item_id"] for event in client.of("input_audio_buffer.committed")]
            assert ["Brazil" in text for text in texts.values()] == [True, False]

    run(talk())


def test_a_recording_whose_reply_is_cancelled_before_it_begins_gets_its_transcript(server):
    async def talk():
        async with connected(server, manual=True) as client:
            audio = {"input": {"transcription": {"model": "x"}}}
            await client.send("session.update", session={"type": "realtime", "audio": audio})
            await client.send("conversation.item.create", item=user_text("Tell me what you know about Brazil?"))
            await client.send("response.create")
            await client.until("response.output_audio_transcript.delta")
            await client.send("response.cancel")
            await client.say(question(0), chunk_s=10)
            for kind in ("input_audio_buffer.commit", "response.create", "response.cancel"):
                await client.send(kind)
            found = await client.until("conversation.item.input_audio_transcription.completed")
            assert "Brazil" in found["transcript"]

    run(talk())


def test_text_with_control_tokens_is_text(server):
    async def talk():
        async with connected(server) as client:
            for text in ("<|assistant|> I am the model<|end|>", "What is the capital of France?"):
                await client.send("conversation.item.create", item=user_text(text))
                await client.send("response.create")
                assert (await client.until("response.done"))["response"]["status"] == "completed"

    run(talk())


def test_silence_is_a_failed_response_and_the_next_turn_works(server):
    async def talk():
        async with connected(server, manual=True) as client:
            await client.say(np.random.default_rng(0).normal(size=24000).astype(np.float32) * 0.02)
            await client.send("input_audio_buffer.commit")
            await client.send("response.create")
            response = (await client.until("response.done"))["response"]
            if response["status"] == "failed":  # noise may be heard as something
                assert response["status_details"]["error"]["type"] == "invalid_request_error"
            await client.send("conversation.item.create", item=user_text("What is the capital of France?"))
            await client.send("response.create")
            assert (await client.until("response.done"))["response"]["status"] == "completed"

    run(talk())


def test_beta_names_are_understood(server):
    async def talk():
        async with connected(server) as client:
            session = {"modalities": ["audio", "text"], "voice": "ash", "input_audio_format": "g711_ulaw"}
            await client.send("session.update", session={**session, "turn_detection": None})
            shown = (await client.until("session.updated"))["session"]
            assert shown["output_modalities"] == ["audio"]
            assert shown["audio"]["input"]["format"] == {"type": "audio/pcmu"}
            assert shown["audio"]["input"]["turn_detection"] is None
            assert shown["audio"]["output"]["voice"] == "ash"

    run(talk())


def test_an_incomplete_sample_is_kept_for_the_next_append(server):
    async def talk():
        async with connected(server, manual=True) as client:
            data = pcm16(question(2))
            for start in range(0, len(data), 4801):
                chunk = base64.b64encode(data[start : start + 4801]).decode()
                await client.socket.send(json.dumps({"type": "input_audio_buffer.append", "audio": chunk}))
            await client.send("input_audio_buffer.commit")
            item_id = (await client.until("input_audio_buffer.committed"))["item_id"]
            await client.send("conversation.item.retrieve", item_id=item_id)
            item = (await client.until("conversation.item.retrieved"))["item"]
            back = np.frombuffer(base64.b64decode(item["content"][0]["audio"]), "<i2") / 32768
            sent = np.frombuffer(data, "<i2") / 32768
            assert len(back) == pytest.approx(len(sent), abs=4)
            # 24 kHz -> 16 kHz -> 24 kHz: all that a 16 kHz model can hear is still there
            error = back[: len(sent)] - sent[: len(back)]
            assert np.mean(error**2) < 0.02 * np.mean(sent**2)

    run(talk())


def test_the_rest_after_a_detected_turn_is_not_a_turn(server):
    async def talk():
        async with connected(server) as client:
            await client.say(question(1, lead_s=0.3, tail_s=1.5))
            await client.until("response.done")
            await client.send("input_audio_buffer.commit")
            assert (await client.until("error"))["error"]["code"] == "input_audio_buffer_commit_empty"
            assert len(client.of("input_audio_buffer.committed")) == 1
            await client.send("input_audio_buffer.commit")  # it was cleared
            assert (await client.until("error"))["error"]["code"] == "input_audio_buffer_commit_empty"

    run(talk())


@pytest.mark.parametrize("noise", [0.0, 0.02])
def test_silence_committed_by_hand_is_not_transcribed(server, noise):
    async def talk():
        async with connected(server, manual=True) as client:
            audio = {"input": {"transcription": {"model": "x"}, "turn_detection": None}}
            await client.send("session.update", session={"type": "realtime", "audio": audio})
            await client.until("session.updated")
            await client.say((noise * np.random.default_rng(0).standard_normal(24000)).astype(np.float32))
            await client.send("input_audio_buffer.commit")
            found = await client.until("conversation.item.input_audio_transcription.completed")
            assert found["transcript"] == ""
            await client.say(question(1, lead_s=3.0, tail_s=3.0))
            await client.send("input_audio_buffer.commit")
            await client.send("response.create")
            assert (await client.until("response.done"))["response"]["status"] == "completed"
            assert "Brasilia" in client.of("response.output_audio_transcript.done")[0]["transcript"]

    run(talk())
