"""@openai/agents (npm): three spoken turns, one of them interrupted; and written ones by the Responses API."""

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from paths import TESTS
from serving_help import nano, pcm16, question, running

SCRIPT = TESTS / "js" / "agents_client.cjs"
RESPONSES_SCRIPT = TESTS / "js" / "agents_responses.cjs"
VERSION = "0.20.0"

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def agents_home():
    """Where @openai/agents is installed: ECHOX_AGENTS_JS, or a folder in the temporary files."""
    if shutil.which("node") is None or shutil.which("npm") is None:
        pytest.skip("needs node and npm")
    home = Path(os.environ.get("ECHOX_AGENTS_JS", f"/tmp/echox-agents-js-{VERSION}"))
    if not (home / "node_modules/@openai/agents").is_dir():
        home.mkdir(parents=True, exist_ok=True)
        command = ["npm", "install", "--no-audit", "--no-fund", f"@openai/agents@{VERSION}", "zod"]
        found = subprocess.run(command, cwd=home, capture_output=True, text=True, timeout=300)
        if found.returncode:
            pytest.skip(f"npm could not install @openai/agents: {found.stderr.strip().splitlines()[-1:]}")
    return home


def test_three_spoken_turns_with_an_interruption(agents_home, tmp_path):
    files = []
    for number in (2, 0, 1):
        file = tmp_path / f"{number}.pcm"
        file.write_bytes(pcm16(question(number, lead_s=0.3)))
        files.append(str(file))
    with running(nano()) as server:
        command = ["node", str(SCRIPT), server.ws_url, *files]
        environment = {**os.environ, "AGENTS_HOME": str(agents_home)}
        found = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240)
        assert found.returncode == 0, found.stderr
    told = json.loads(found.stdout.splitlines()[-1])
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


def test_written_conversations_by_the_responses_api(agents_home):
    asked = ["What is the capital of France?", "Which country is it in?"]
    with running(nano()) as server:
        command = ["node", str(RESPONSES_SCRIPT), f"{server.url}/v1", *asked]
        environment = {**os.environ, "AGENTS_HOME": str(agents_home)}
        found = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240)
        assert found.returncode == 0, found.stderr
    told = json.loads(found.stdout.splitlines()[-1])
    session = nano().session("You are brief.")
    alone = [session.reply({"role": "user", "content": text}, speak=False).text for text in asked]
    assert {way: one["texts"] for way, one in told.items()} == dict.fromkeys(("byHistory", "byId", "streamed"), alone)
    usage = told["byHistory"]["usage"]
    assert usage["totalTokens"] == usage["inputTokens"] + usage["outputTokens"] > 10
