"""Stock LiveKit Agents holds spoken turns: one is interrupted, and one calls a tool whose result is spoken."""

import json
from pathlib import Path

import pytest

from echox.audio import save_audio
from serving_help import nano, question, running
from stock_clients import client_python, run_client
from tool_models import tool_model

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]
LIVEKIT = "livekit-agents[openai]==1.8.9"


def talk(server, folder, *options):
    python = client_python("livekit", LIVEKIT)
    path = folder / "question.wav"
    save_audio(path, question(0), 24000)
    client = Path(__file__).with_name("livekit_client.py")
    out = run_client([python, str(client), f"{server.url}/v1", str(path), *options])
    return json.loads(out.splitlines()[-1])


def test_a_spoken_turn_that_is_interrupted(tmp_path):
    with running(nano()) as server:
        told = talk(server, tmp_path, "interrupt")
    assert told["errors"] == []
    assert [one["role"] for one in told["items"]] == ["user", "assistant", "user", "assistant"]
    assert [one.get("interrupted") for one in told["items"] if one["role"] == "assistant"] == [True, False]
    assert all("Brazil" in one["text"] for one in told["items"] if one["role"] == "user")
    assert told["heard_s"] > 1


def test_a_spoken_tool_round_trip(tmp_path):
    pytest.importorskip("llguidance")
    with running(tool_model("qwen")) as server:
        told = talk(server, tmp_path)
    assert told["errors"] == []
    assert len(told["calls"]) >= 1
    roles = [one["role"] for one in told["items"]]
    assert roles.index("function_call") < roles.index("function_call_output") < len(roles) - 1
    assert roles[-1] == "assistant"
    call = next(one for one in told["items"] if one["role"] == "function_call")
    assert json.loads(call["text"]) == {"city": told["calls"][0]}
    assert told["heard_s"] > 0
