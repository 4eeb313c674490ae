"""A spoken question, a tool call with streamed arguments, its output and a spoken answer, by OpenAI's own clients."""

import asyncio
import base64
import json

import pytest

from serving_help import check_event, nano, pcm16, question, run, running
from stock_clients import run_node
from tool_models import WEATHER, fits_weather, tool_model

openai = pytest.importorskip("openai")
pytest.importorskip("llguidance")
WEATHER_TOOL = {"name": "get_weather", "description": "The weather.", "parameters": WEATHER}
NAMED = {"type": "function", "name": "get_weather"}
LATE_S = 200


@pytest.fixture(scope="module")
def server():
    with running(tool_model("qwen")) as found:
        yield found


async def until(connection, kind, events):
    """The next event of a kind; all events on the way are checked strictly, and kept."""
    while True:
        event = await asyncio.wait_for(connection.recv(), LATE_S)
        check_event(event.to_json(indent=None))
        assert event.type != "error", event
        events.append(event)
        if event.type == kind:
            return event


async def say(connection, sound):
    data = pcm16(sound)
    for start in range(0, len(data), 4800):
        await connection.input_audio_buffer.append(audio=base64.b64encode(data[start : start + 4800]).decode())


@pytest.mark.timeout(600)
@pytest.mark.slow
def test_the_python_client_completes_a_spoken_round_trip(server):
    async def talk():
        client = openai.AsyncOpenAI(api_key="any", base_url=f"{server.url}/v1")
        async with client.realtime.connect(model="gpt-realtime") as connection:
            events = []
            session = {"type": "realtime", "tools": [{"type": "function", **WEATHER_TOOL}], "tool_choice": NAMED}
            await connection.session.update(session=session)
            await until(connection, "session.updated", events)
            await say(connection, question(2, lead_s=0.3, tail_s=1.0))
            response = (await until(connection, "response.done", events)).response
            (call,) = response.output
            assert call.type == "function_call"
            assert fits_weather(call.arguments)
            deltas = [one for one in events if one.type == "response.function_call_arguments.delta"]
            assert len(deltas) > 3
            assert "".join(one.delta for one in deltas) == call.arguments
            kinds = [one.type for one in events]
            assert kinds.index("input_audio_buffer.speech_stopped") < kinds.index("response.created")
            assert "response.output_audio.delta" not in kinds
            events.clear()
            output = {"type": "function_call_output", "call_id": call.call_id, "output": '{"sky": "clear"}'}
            await connection.conversation.item.create(item=output)
            await connection.response.create(response={"tool_choice": "none", "max_output_tokens": 12})
            response = (await until(connection, "response.done", events)).response
            assert [item.type for item in response.output] == ["message"]
            assert "response.output_audio.delta" in [one.type for one in events]

    run(talk(), 500)


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("way", ["called", "not supported"])
def test_openai_agents_complete_a_spoken_round_trip(tmp_path, way):
    """The same with a model that calls no tools: it answers, and nothing is an error."""
    path, sound = tmp_path / "options.json", tmp_path / "question.pcm"
    sound.write_bytes(pcm16(question(0, lead_s=0.3)))
    options = {"tools": [{**WEATHER_TOOL, "output": "It is clear."}], "choices": [NAMED], "waitMs": 1000 * LATE_S}
    path.write_text(json.dumps(options), encoding="utf-8")
    with running(tool_model("qwen") if way == "called" else nano()) as server:
        told = run_node("agents_tools.cjs", server.ws_url, path, sound, timeout_s=1000)
    assert told["errors"] == []
    assert told["unparsed"] == []
    (turn,) = told["turns"]
    calls = [("get_weather", call["arguments"]) for call in turn["calls"]]
    if way == "called":
        assert [name for name, arguments in calls if fits_weather(json.dumps(arguments))] == ["get_weather"]
        assert turn["responses"] == [["function_call"], ["message"]]
    else:
        assert (calls, turn["responses"]) == ([], [["message"]])
    assert turn["audioBytes"] > 0
