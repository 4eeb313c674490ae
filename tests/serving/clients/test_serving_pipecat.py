"""Stock pipecat holds a spoken turn with a declared tool, and one in which the tool is called and its result spoken.

pipecat wants other versions of soundfile and soxr than we pin, so it lives in an environment of its own
(`stock_clients`): .venv-pipecat, 450 MB, a minute.
"""

import json
from pathlib import Path

import pytest

from echox.audio import save_audio
from serving_help import nano, question, running
from stock_clients import client_python, run_client
from tool_models import tool_model

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]
PIPECAT = "pipecat-ai[openai]==1.14.0"


def talk(server, folder, *options):
    python, path = client_python("pipecat", PIPECAT), folder / "question.wav"
    save_audio(path, question(0), 24000)
    url = f"ws://127.0.0.1:{server.port}/v1/realtime"
    out = run_client([python, str(Path(__file__).with_name("pipecat_client.py")), url, str(path), *options])
    return json.loads(out.splitlines()[-1])


def test_a_spoken_turn_with_a_declared_tool(tmp_path, monkeypatch):
    from echox.serving.protocol import options

    declared = []
    check_tools = options.check_tools

    def check_and_note(change, where="", **more):
        declared.append(change.get("tools"))
        check_tools(change, where, **more)

    monkeypatch.setattr(options, "check_tools", check_and_note)
    with running(nano()) as server:
        turn = talk(server, tmp_path)
    assert any(tools and tools[0]["name"] == "get_weather" for tools in declared)
    assert turn["errors"] == []
    assert turn["calls"] == []
    assert "Brazil" in turn["heard"][0]
    assert "Brazil" in turn["text"]
    assert turn["seconds"] > 2


def test_a_spoken_tool_round_trip(tmp_path):
    pytest.importorskip("llguidance")
    with running(tool_model("qwen")) as server:
        turn = talk(server, tmp_path, "required")
    assert turn["errors"] == []
    assert turn["calls"]
    assert all(arguments.keys() == {"place"} for arguments in turn["calls"])
    assert turn["seconds"] > 0
