"""@openai/agents (npm): three spoken turns, one of them interrupted; and written ones by the Responses API."""

import pytest

from serving_help import nano, pcm16, question, running
from stock_clients import run_node

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def test_three_spoken_turns_with_an_interruption(tmp_path):
    files = []
    for number in (2, 0, 1):
        file = tmp_path / f"{number}.pcm"
        file.write_bytes(pcm16(question(number, lead_s=0.3)))
        files.append(str(file))
    with running(nano()) as server:
        told = run_node("agents_client.cjs", server.ws_url, *files)
    assert told["errors"] == []
    assert told["unparsed"] == []  # every event fits the SDK's own schemas
    assert told["interruptions"] >= 1
    assert told["audioBytes"] > 48000
    history = told["history"]
    assert [item["role"] for item in history] == ["user", "assistant"] * 3
    texts = [item["content"][0]["transcript"] for item in history]
    assert all(texts), texts
    whole = nano().session().reply({"role": "user", "content": "Tell me what you know about Brazil?"}, speak=False).text
    assert whole.startswith(texts[3])
    assert len(texts[3]) < len(whole)
    assert [item["status"] for item in history if item["role"] == "user"] == ["completed"] * 3


def test_written_conversations_by_the_responses_api():
    asked = ["What is the capital of France?", "Which country is it in?"]
    with running(nano()) as server:
        told = run_node("agents_responses.cjs", f"{server.url}/v1", *asked)
    session = nano().session("You are brief.")
    alone = [session.reply({"role": "user", "content": text}, speak=False).text for text in asked]
    assert {way: one["texts"] for way, one in told.items()} == dict.fromkeys(("byHistory", "byId", "streamed"), alone)
    usage = told["byHistory"]["usage"]
    assert usage["totalTokens"] == usage["inputTokens"] + usage["outputTokens"] > 10
