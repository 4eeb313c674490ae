"""The HTTP endpoints with the stock openai client and with broken requests; nothing here needs a microphone."""

import asyncio
import base64
import io
import json
import socket

import httpx
import numpy as np
import pytest
import soundfile
from starlette.responses import PlainTextResponse

from echox.api.loading import bundled_questions
from echox.audio import encode_audio, load_audio
from echox.serving.rest.common import ResponseWithCleanup
from serving_help import Limits, nano, question, running
from waiting import wait_until

openai = pytest.importorskip("openai")

FRANCE = [{"role": "user", "content": "What is the capital of France?"}]


@pytest.fixture(scope="module")
def server():
    with running(nano(), Limits(max_upload_s=20, max_upload_bytes=2_000_000)) as found:
        yield found


@pytest.fixture(scope="module")
def client(server):
    return openai.OpenAI(api_key="any", base_url=f"{server.url}/v1", max_retries=0)


def spoken_question(number=0, kind="wav"):
    data = encode_audio(question(number, 16000), 16000, "wav")
    return {"type": "input_audio", "input_audio": {"data": base64.b64encode(data).decode(), "format": kind}}


def test_text_in_text_out(client):
    found = client.chat.completions.create(model="nano", messages=FRANCE)
    assert "Paris" in found.choices[0].message.content
    assert found.choices[0].finish_reason == "stop"
    assert found.choices[0].message.audio is None


def test_speech_in_speech_out_and_a_second_turn(client):
    messages = [{"role": "user", "content": [spoken_question(0), {"type": "text", "text": " "}]}]
    found = client.chat.completions.create(
        model="nano", messages=messages, modalities=["text", "audio"], audio={"voice": "echox", "format": "wav"}
    )
    audio = found.choices[0].message.audio
    alone = nano().session().reply(bundled_questions()[0])
    assert audio.transcript == alone.text
    wave = load_audio(base64.b64decode(audio.data), alone.sampling_rate)
    np.testing.assert_allclose(wave, alone.waveform, atol=1e-4)
    # The next turn names the spoken one by its id.
    again = [*messages, {"role": "assistant", "audio": {"id": audio.id}}, *FRANCE]
    assert "Paris" in client.chat.completions.create(model="nano", messages=again).choices[0].message.content


@pytest.mark.parametrize("kind", ["flac", "mp3", "opus", "pcm16"])
def test_output_formats(client, kind):
    found = client.chat.completions.create(
        model="nano", messages=FRANCE, modalities=["text", "audio"], audio={"voice": "echox", "format": kind}
    )
    data = base64.b64decode(found.choices[0].message.audio.data)
    if kind == "pcm16":
        wave = np.frombuffer(data, "<i2") / 32768
        assert 0.5 < len(wave) / 24000 < 10
    else:
        assert 0.5 < len(load_audio(data, 16000)) / 16000 < 10


def test_streaming_text_and_speech(client):
    pieces, sound = [], b""
    stream = client.chat.completions.create(
        model="nano",
        messages=FRANCE,
        modalities=["text", "audio"],
        audio={"voice": "x", "format": "pcm16"},
        stream=True,
    )
    reasons = []
    for chunk in stream:
        (choice,) = chunk.choices
        audio = (choice.delta.model_extra or {}).get("audio") or getattr(choice.delta, "audio", None) or {}
        audio = audio if isinstance(audio, dict) else audio.model_dump()
        pieces.append(audio.get("transcript") or "")
        sound += base64.b64decode(audio.get("data") or "")
        reasons.append(choice.finish_reason)
    assert "Paris" in "".join(pieces)
    assert reasons[-1] == "stop"
    assert np.abs(np.frombuffer(sound, "<i2")).max() > 1000
    text = client.chat.completions.create(model="nano", messages=FRANCE, stream=True)
    assert "Paris" in "".join(chunk.choices[0].delta.content or "" for chunk in text)


def test_length_and_sampling(client):
    found = client.chat.completions.create(
        model="nano", messages=FRANCE, max_completion_tokens=2, temperature=0.5, top_p=0.9, seed=3
    )
    assert found.choices[0].finish_reason == "length"


def test_transcription(client):
    text = client.audio.transcriptions.create(model="nano", file=bundled_questions()[0]).text
    assert "Brazil" in text
    found = client.audio.transcriptions.create(
        model="nano", file=bundled_questions()[0], response_format="verbose_json"
    )
    assert found.duration == pytest.approx(2.48, abs=0.1)


def test_speech(client):
    text = "The capital of France is Paris."
    found = {
        kind: client.audio.speech.create(model="nano", voice="x", input=text, response_format=kind).read()
        for kind in ("wav", "pcm")
    }
    wave = load_audio(found["wav"], 24000)
    streamed = np.frombuffer(found["pcm"], "<i2") / 32768
    assert len(wave) > 12000
    assert abs(wave).max() > 0.05
    np.testing.assert_allclose(streamed[: len(wave)], wave[: len(streamed)], atol=1e-3)


def test_models_and_health(client, server):
    assert [model.id for model in client.models.list()] == ["nano"]
    assert client.models.retrieve("nano").id == "nano"
    assert httpx.get(f"{server.url}/health").json() == {"status": "ok"}
    assert httpx.get(f"{server.url}/ready").json()["status"] == "ready"
    text = httpx.get(f"{server.url}/metrics").text
    assert "echox_sessions 0.0" in text
    assert httpx.get(f"{server.url}/v1/realtime").status_code == 426
    assert httpx.get(f"{server.url}/v1/models/other").status_code == 404


def test_the_page_has_security_headers(server):
    for path in ("/", "/index.html", "/app.js", "/sound/capture-worklet.js"):
        found = httpx.get(server.url + path)
        assert found.status_code == 200
        policy = found.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "frame-ancestors 'none'" in policy
        assert found.headers["x-content-type-options"] == "nosniff"
        assert found.headers["referrer-policy"] == "no-referrer"
        assert found.headers["cache-control"] == "no-cache"
        if path.endswith(".js"):
            assert found.headers["content-type"].startswith("text/javascript")
    again = httpx.get(
        f"{server.url}/app.js", headers={"if-none-match": httpx.get(f"{server.url}/app.js").headers["etag"]}
    )
    assert (again.status_code, again.content) == (304, b"")


PATHS = [
    "/../server.py",
    "/%2e%2e/server.py",
    "/..%2fserver.py",
    "/static/../../server.py",
    "//etc/passwd",
    "/%2fetc/passwd",
    "/..\\server.py",
    "/%00",
    "/" + "a" * 5000,
    "/v1/unknown",
    "/app.js/x",
]


@pytest.mark.parametrize("path", PATHS, ids=range(len(PATHS)))
def test_only_the_pages_files_are_served(server, path):
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as raw:  # httpx would tidy the path up
        raw.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
        answer = b"".join(iter(lambda: raw.recv(65536), b""))
    head, _, body = answer.partition(b"\r\n\r\n")
    assert b" 404 " in head.splitlines()[0]
    assert json.loads(body)["error"]["code"] == "not_found"


def test_a_wrong_method_is_answered_like_other_errors(server):
    for found in (httpx.post(f"{server.url}/app.js"), httpx.put(f"{server.url}/v1/chat/completions")):
        assert found.status_code == 405
        assert found.json()["error"]["code"] == "method_not_allowed"
        assert found.headers["allow"]


def silent(kind="wav"):
    return encode_audio(np.zeros(16000, np.float32), 16000, kind)


def part(data):
    return [{"role": "user", "content": [{"type": "input_audio", "input_audio": {"data": data, "format": "wav"}}]}]


UNSUPPORTED = "unsupported_value"
BROKEN = [
    (b"", 400, "invalid_json"),
    (b"[]", 400, "invalid_json"),
    (b"[" * 100_000, 400, "invalid_json"),
    (b"\xff\xfe", 400, "invalid_json"),
    ({"messages": [{"role": "user", "content": "\ud800"}]}, 400, "invalid_json"),
    (b'{"temperature": NaN}', 400, "invalid_json"),
    ({}, 400, "missing_required_parameter"),
    ({"messages": []}, 400, "invalid_value"),
    ({"messages": "hello"}, 400, "invalid_type"),
    ({"messages": [{"role": "wizard", "content": "x"}]}, 400, "invalid_value"),
    ({"messages": [{"role": "assistant", "content": "x"}]}, 400, "invalid_value"),
    ({"messages": [{"role": "assistant", "audio": {"id": "gone"}}, *FRANCE]}, 400, "audio_not_found"),
    ({"messages": FRANCE, "n": 2}, 400, "unsupported_value"),
    ({"messages": FRANCE, "temperature": "hot"}, 400, "invalid_type"),
    ({"messages": FRANCE, "tools": [{"type": "function"}], "tool_choice": "required"}, 400, "tools_not_supported"),
    ({"messages": FRANCE, "modalities": ["smell"]}, 400, "invalid_value"),
    ({"messages": FRANCE, "modalities": ["audio"], "audio": {"format": "wav"}, "stream": True}, 400, UNSUPPORTED),
    ({"messages": part("???")}, 400, "invalid_value"),
    ({"messages": part(base64.b64encode(b"no audio at all").decode())}, 400, "not_answerable"),
    ({"messages": part(base64.b64encode(silent()).decode())}, 400, "not_heard"),
    ({"messages": [{"role": "user", "content": "x" * 30_000}]}, 400, "string_too_long"),
    ({"messages": FRANCE, "padding": "x" * 2_000_001}, 413, "request_too_large"),
]


@pytest.mark.parametrize(("body", "status", "code"), BROKEN, ids=range(len(BROKEN)))
def test_broken_requests_are_answered(server, body, status, code):
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    found = httpx.post(f"{server.url}/v1/chat/completions", content=content, timeout=30)
    assert found.status_code == status
    assert found.json()["error"]["code"] == code
    assert "Traceback" not in found.text


def test_decode_bombs_are_refused(server):
    buffer = io.BytesIO()
    soundfile.write(buffer, np.zeros(16000 * 60, np.float32), 16000, format="FLAC")  # a minute in few bytes
    files = {"file": ("small.flac", buffer.getvalue())}
    found = httpx.post(f"{server.url}/v1/audio/transcriptions", files=files, timeout=30)
    assert found.status_code == 400
    assert "at most 20 s" in found.json()["error"]["message"]


def test_broken_forms_are_answered(server):
    url = f"{server.url}/v1/audio/transcriptions"
    assert httpx.post(url, json={}).status_code == 415
    for content in (b"", b"--x\r\nnonsense", b"--x--"):
        found = httpx.post(url, content=content, headers={"content-type": "multipart/form-data; boundary=x"})
        assert found.status_code == 400, found.text
    assert httpx.post(url, files={"other": b"x"}).json()["error"]["param"] == "file"


def test_silence_and_noise_have_an_empty_transcript(server):
    url = f"{server.url}/v1/audio/transcriptions"
    hiss = (0.01 * np.random.default_rng(0).standard_normal(32000)).astype(np.float32)
    for content in (silent(), encode_audio(hiss, 16000)):
        found = httpx.post(url, files={"file": ("x.wav", content)})
        assert (found.status_code, found.json()["text"]) == (200, "")


def test_all_parts_of_a_message_share_the_limit(server):
    long = np.tile(question(0, 16000), 5)  # 12 s, of 20
    data = base64.b64encode(encode_audio(long, 16000)).decode()
    messages = [{"role": "user", "content": part(data)[0]["content"] * 2}]
    found = httpx.post(f"{server.url}/v1/chat/completions", json={"messages": messages}, timeout=30)
    assert found.status_code == 400
    assert "expected at most" in found.json()["error"]["message"]


def test_the_model_stops_when_the_client_disconnects(server):
    scheduler = nano().scheduler
    body = {"input": "The capital of France is Paris. " * 120, "response_format": "wav"}
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(f"{server.url}/v1/audio/speech", json=body, timeout=httpx.Timeout(30, read=0.5))
    admission = server.service.request_admission
    wait_until(lambda: not scheduler.num_running and not admission.num_admitted, "the model has stopped")


def test_an_error_in_a_stream_is_reported_in_it(server, monkeypatch):
    def fail(tasks):
        raise RuntimeError("secret inside")

    monkeypatch.setattr(nano().scheduler.batch, "_make_chunks", fail)
    body = {"messages": FRANCE, "modalities": ["text", "audio"], "stream": True}
    text = httpx.post(f"{server.url}/v1/chat/completions", json=body, timeout=30).text
    assert '"code": "internal_error"' in text
    assert text.endswith("data: [DONE]\n\n")
    assert "secret" not in text


def test_a_response_that_is_not_read_is_interrupted():
    async def stuck(_):
        await asyncio.Event().wait()

    async def all_of():
        ended = []
        answer = ResponseWithCleanup(PlainTextResponse("x"), lambda: ended.append(True), Limits(send_s=0.05))
        await answer({"type": "http", "method": "GET", "headers": []}, stuck, stuck)
        assert ended == [True]

    asyncio.run(all_of())


def test_a_full_server_answers_503():
    with running(nano(), Limits(max_requests=1, max_waiting=0)) as full:
        full.service.request_admission._free = 0
        found = httpx.post(f"{full.url}/v1/chat/completions", json={"messages": FRANCE})
        assert found.status_code == 503
        assert found.headers["retry-after"] == "1"
        full.service.request_admission._free = 1
        assert httpx.post(f"{full.url}/v1/chat/completions", json={"messages": FRANCE}, timeout=30).status_code == 200
        admission = full.service.request_admission  # released after the last byte was sent
        wait_until(lambda: not admission.num_admitted, "the request is released")
