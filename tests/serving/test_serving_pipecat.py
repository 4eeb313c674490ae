"""Stock pipecat, with one declared tool, holds one spoken turn.

pipecat wants other versions of soundfile and soxr than we pin, so it lives in an environment of its own, made once:
.venv-pipecat beside .venv (450 MB, a minute). PIPECAT_PYTHON names a Python that has it already.
"""

import json
import os
import subprocess
import sys
import wave

import pytest

from paths import ROOT, TESTS
from serving_help import nano, pcm16, question, running

PIPECAT = "pipecat-ai[openai]==1.14.0"


def pipecat_python():
    """The Python of an environment with pipecat, which is made if there is none; skips where it cannot be had."""
    if os.environ.get("PIPECAT_PYTHON"):
        return os.environ["PIPECAT_PYTHON"]
    if sys.version_info < (3, 11):
        pytest.skip("pipecat needs Python 3.11")
    folder = ROOT / ".venv-pipecat"
    python, stamp = folder / "bin" / "python", folder / ".installed"
    if stamp.is_file() and stamp.read_text() == PIPECAT:
        return str(python)
    subprocess.run([sys.executable, "-m", "venv", "--clear", folder], check=True)
    install = [python, "-m", "pip", "install", "--quiet", "--no-compile", "--disable-pip-version-check", PIPECAT]
    made = subprocess.run(install, capture_output=True, text=True, timeout=900)
    if made.returncode:
        pytest.skip(f"{PIPECAT} could not be installed: {made.stderr.strip().splitlines()[-1][:200]}")
    stamp.write_text(PIPECAT)
    return str(python)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_spoken_turn_with_a_declared_tool(tmp_path, monkeypatch):
    from echox.serving.protocol import options

    python, path = pipecat_python(), tmp_path / "question.wav"
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(24000)
        file.writeframes(pcm16(question(0)))
    declared = []
    check_tools = options.check_tools

    def check_and_note(change, where="", **more):
        declared.append(change.get("tools"))
        check_tools(change, where, **more)

    monkeypatch.setattr(options, "check_tools", check_and_note)
    with running(nano()) as server:
        url = f"ws://127.0.0.1:{server.port}/v1/realtime"
        client = [python, str(TESTS / "pipecat_client.py"), url, str(path)]
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        found = subprocess.run(client, capture_output=True, text=True, timeout=200, env=environment)
    assert found.returncode == 0, found.stderr[-3000:]
    turn = json.loads(found.stdout.splitlines()[-1])
    assert any(tools and tools[0]["name"] == "get_weather" for tools in declared)
    assert turn["errors"] == []
    assert "Brazil" in turn["heard"][0]
    assert "Brazil" in turn["text"]
    assert turn["seconds"] > 2
