"""Sessions of type transcription: they write down what is said, and make no responses."""

import base64

import pytest
import websockets

from echox.serving.protocol.limits import Limits
from echox.serving.protocol.options import SessionOptions
from serving_help import Client, connected, nano, pcm16, question, run, running, user_text

openai = pytest.importorskip("openai")
COMPLETED = "conversation.item.input_audio_transcription.completed"


@pytest.fixture(scope="module")
def server():
    with running(nano()) as found:
        yield found


def test_a_session_that_only_transcribes(server):
    async def talk():
        url = server.ws_url.replace("model=nano", "intent=transcription")
        async with websockets.connect(url, max_size=2**26) as ws:
            client = Client(ws)
            session = (await client.next())["session"]
            assert (session["type"], session["object"]) == ("transcription", "realtime.transcription_session")
            assert session["audio"]["input"]["transcription"] == {"model": "nano"}
            assert session.keys() == {"id", "expires_at", "type", "object", "audio"}
            for number in (0, 2):
                await client.say(question(number, lead_s=0.3, tail_s=0.8), chunk_s=5)
                await client.until(COMPLETED)
            texts = [event["transcript"] for event in client.of(COMPLETED)]
            assert ["Brazil" in text for text in texts] == [True, False]
            await client.send("conversation.item.create", item=user_text("What does a cow say?"))
            await client.until("conversation.item.done")
            await client.send("response.create", event_id="e")
            error = (await client.until("error"))["error"]
            assert (error["code"], error["event_id"]) == ("unsupported_event", "e")
            await client.send("response.cancel")
            assert (await client.until("error"))["error"]["code"] == "response_cancel_not_active"
            assert not [event for event in client.events if event["type"].startswith("response.")]

    run(talk(), 120)


REFUSED = [
    ({"instructions": "Be brief."}, "session.instructions"),
    ({"output_modalities": ["text"]}, "session.output_modalities"),
    ({"tools": []}, "session.tools"),
    ({"max_output_tokens": 3}, "session.max_output_tokens"),
    ({"audio": {"output": {"voice": "x"}}}, "session.audio.output"),
    ({"voice": "x"}, "session.audio.output"),
    ({"audio": {"input": {"turn_detection": {"type": "server_vad", "idle_timeout_ms": 6000}}}}, None),
]


def test_options_of_replies_are_refused_by_name_and_the_type_can_change(server):
    async def talk():
        async with connected(server) as client:
            for change, param in REFUSED:
                await client.send("session.update", session={"type": "transcription", **change})
                error = (await client.until("error"))["error"]
                assert error["code"] == "unsupported_value"
                assert param is None or error["param"] == param
            await client.send("session.update", session={"type": "dictation"})
            assert (await client.until("error"))["error"]["code"] == "unsupported_session_type"
            listening = {"format": {"type": "audio/pcmu"}, "transcription": {"model": "x"}, "turn_detection": None}
            await client.send("session.update", session={"type": "transcription", "audio": {"input": listening}})
            shown = (await client.until("session.updated"))["session"]["audio"]["input"]
            assert shown == {**listening, "noise_reduction": None}
            await client.send("session.update", session={"audio": {"input": {"transcription": None}}})  # keeps its type
            shown = (await client.until("session.updated"))["session"]
            assert (shown["type"], shown["audio"]["input"]["transcription"]) == ("transcription", None)
            await client.send("session.update", session={"type": "realtime", "output_modalities": ["text"]})
            assert (await client.until("session.updated"))["session"]["type"] == "realtime"
            await client.send("conversation.item.create", item=user_text("Tell me what you know about Brazil?"))
            await client.send("response.create")
            await client.until("response.created")
            await client.send("session.update", session={"type": "transcription"})
            while (await client.next())["type"] != "response.done":
                pass
            found = [event for event in client.events if event["type"] in ("error", "session.updated")][-1]
            if found["type"] == "error":  # the response may have ended first
                assert found["error"]["code"] == "conversation_already_has_active_response"

    run(talk(), 120)


VAD = {"type": "server_vad"}
SELF_COMMITTING = [
    # what a client sends of its input, one after the other; whether turns are detected then
    ([{"transcription": {"model": "gpt-realtime-whisper"}}], False),
    ([{"transcription": {"model": "gpt-live-transcribe"}}], False),
    ([{"transcription": {"model": "gpt-4o-transcribe"}}], True),
    ([{"transcription": {"model": "gpt-realtime-whisper"}, "turn_detection": VAD}], True),
    ([{"turn_detection": VAD}, {"transcription": {"model": "gpt-realtime-whisper"}}], True),
    ([{"transcription": {"model": "gpt-realtime-whisper"}}, {"turn_detection": VAD}], True),
    ([{"transcription": {"model": "gpt-realtime-whisper"}}, {"transcription": {"model": "x"}}], True),
    ([{"transcription": {"model": "x"}}, {"transcription": {"model": "gpt-realtime-whisper"}}], False),
    ([{"transcription": {"model": "x"}, "turn_detection": None}], False),
]


@pytest.mark.parametrize(("inputs", "detects"), SELF_COMMITTING)
def test_turns_are_not_detected_for_models_whose_clients_commit_them(inputs, detects):
    options = SessionOptions("nano", Limits())
    for one in inputs:
        options.update({"type": "transcription", "audio": {"input": one}, "include": ["x"]})
    assert (options.turn_detection is not None) == (options.turn_settings is not None) == detects
    options.update({"type": "realtime"})
    named = any("turn_detection" in one for one in inputs)
    assert (options.turn_detection is not None) == (detects if named else True)


def test_a_client_that_leaves_turns_out_and_commits_gets_one_transcript_each(server):
    """As LiveKit's speech to text does it with gpt-realtime-whisper."""

    async def talk():
        async with connected(server) as client:
            audio = {"input": {"transcription": {"model": "gpt-realtime-whisper"}}}
            await client.send("session.update", session={"type": "transcription", "audio": audio})
            assert (await client.until("session.updated"))["session"]["audio"]["input"]["turn_detection"] is None
            for number in (0, 2):
                await client.say(question(number, lead_s=1.0, tail_s=1.5), chunk_s=5)
                await client.send("input_audio_buffer.commit")
                await client.until(COMPLETED)
            assert len(client.of("input_audio_buffer.committed")) == len(client.of(COMPLETED)) == 2
            assert not client.of("input_audio_buffer.speech_started")

    run(talk(), 120)


def test_the_stock_client_transcribes_with_a_client_secret(server):
    async def talk():
        client = openai.AsyncOpenAI(api_key="any", base_url=f"{server.url}/v1")
        secret = await client.realtime.client_secrets.create(
            session={"type": "transcription", "audio": {"input": {"transcription": {"model": "gpt-4o-transcribe"}}}}
        )
        assert secret.session.type == "transcription"
        guest = openai.AsyncOpenAI(api_key=secret.value, base_url=f"{server.url}/v1")
        data = pcm16(question(0, lead_s=0.3, tail_s=0.8))
        async with guest.realtime.connect(extra_query={"intent": "transcription"}) as connection:
            for start in range(0, len(data), 48000):
                piece = base64.b64encode(data[start : start + 48000]).decode()
                await connection.input_audio_buffer.append(audio=piece)
            deltas = ""
            async for event in connection:
                if event.type == "conversation.item.input_audio_transcription.delta":
                    deltas += event.delta
                if event.type == COMPLETED:
                    assert "Brazil" in event.transcript
                    assert deltas == event.transcript
                    assert event.usage.type == "tokens"
                    return

    run(talk(), 120)
