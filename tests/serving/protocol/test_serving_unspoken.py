"""Text that could not be spoken is reported by every endpoint; silence is never taken for the whole reply."""

import base64
import json

import httpx
import pytest

from echox.models.t2c import unit_word_checks
from echox.serving.service.unspoken import UNSPOKEN_HEADER, unspoken_header
from echox.streaming.events import SpeechFailed
from serving_help import connected, nano, run, running, user_text

PARTLY = "I like 你好 dogs."
QUESTION = "What is the capital of France?"


@pytest.fixture(scope="module")
def server():
    with running(nano()) as found:
        yield found


@pytest.fixture
def mute(monkeypatch):
    """The shortest speech that counts as whole is longer than any: every word fails, as with a broken decoder."""
    monkeypatch.setattr(unit_word_checks, "CHARACTERS_PER_UNIT_WORD", 0)


def post(server, path, **body):
    return httpx.post(f"{server.url}{path}", json=body, timeout=60)


@pytest.mark.parametrize("kind", ["wav", "pcm"])
def test_speech_reports_unspoken_text_in_a_header(server, kind):
    found = post(server, "/v1/audio/speech", input=PARTLY, response_format=kind)
    assert found.status_code == 200
    assert [one["text"] for one in json.loads(found.headers[UNSPOKEN_HEADER])] == ["你好"]
    whole = post(server, "/v1/audio/speech", input="I like dogs.", response_format=kind)
    assert UNSPOKEN_HEADER not in whole.headers


def test_speech_reports_unspoken_text_in_its_last_event(server):
    found = post(server, "/v1/audio/speech", input=PARTLY, response_format="pcm", stream_format="sse")
    last = json.loads(found.text.strip().splitlines()[-1].removeprefix("data: "))
    assert last["type"] == "speech.audio.done"
    assert [one["text"] for one in last["unspoken"]] == ["你好"]


def test_text_that_cannot_be_spoken_is_refused_with_the_reason(server):
    found = post(server, "/v1/audio/speech", input="你好", response_format="pcm")
    assert found.status_code == 400
    assert "你好" in found.json()["error"]["message"]


def test_chat_reports_unspoken_text(server, mute):
    asked = {
        "messages": [{"role": "user", "content": QUESTION}],
        "modalities": ["text", "audio"],
        "audio": {"voice": "echox", "format": "pcm16"},
    }
    whole = post(server, "/v1/chat/completions", **asked).json()["choices"][0]["message"]["audio"]
    assert " ".join(one["text"] for one in whole["unspoken"]) == whole["transcript"]
    assert base64.b64decode(whole["data"]) == b""
    lines = post(server, "/v1/chat/completions", **asked, stream=True).text.splitlines()
    deltas = [json.loads(line[6:])["choices"][0]["delta"] for line in lines if line.startswith("data: {")]
    told = [delta["audio"]["unspoken"] for delta in deltas if "unspoken" in delta.get("audio", {})]
    assert told == [whole["unspoken"]]


def test_realtime_reports_unspoken_text(server, mute):
    async def talk():
        async with connected(server) as client:
            await client.send("conversation.item.create", item=user_text(QUESTION))
            await client.send("response.create")
            done = (await client.until("response.done"))["response"]
            text = done["output"][0]["content"][0]["transcript"]
            assert " ".join(one["text"] for one in done["unspoken"]) == text

    run(talk())


def test_a_header_stays_short():
    assert unspoken_header([]) == {}
    many = unspoken_header([SpeechFailed("你" * 50, "no reading")] * 500)
    assert 2 < len(many[UNSPOKEN_HEADER]) < 4100
    assert many[UNSPOKEN_HEADER].isascii()
