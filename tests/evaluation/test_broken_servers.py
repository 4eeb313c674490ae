"""Servers whose answers are broken: one item fails and says why, whatever is broken, and the run goes on."""

import base64
import contextlib
import json
import socketserver
import threading

import numpy as np
import pytest

from echox.audio import encode_audio
from echox.data.engines.engine import Voice
from echox.data.engines.speech_server import OpenAICompatible
from echox.evaluation.judges.asr import OpenAICompatibleASR
from echox.evaluation.run import run_tasks
from echox.evaluation.sets.items import EvalItem
from echox.evaluation.sets.tasks import Task
from echox.evaluation.subjects.endpoint import Endpoint
from echox.evaluation.subjects.remote import RemoteSubject
from echox.preparation.rewrite import Rewriter
from tiny_echox import tone

CLIENTS = {
    "endpoint": lambda url: Endpoint(url).get("/models"),
    "stream": lambda url: list(Endpoint(url).stream("/chat/completions", {})),
    "subject": RemoteSubject,
    "judge": lambda url: OpenAICompatibleASR(url, "model").transcribe([np.zeros(160, np.float32)], 16000),
    "speech": lambda url: OpenAICompatible(url).synthesize("Hello.", Voice("openai", "alloy")),
    "rewriter": lambda url: Rewriter(url, "model")("Hello."),
}
QUESTION = [{"role": "user", "content": "Where?"}]


def answer(body, status="200 OK", length=None, more=""):
    body = body if isinstance(body, bytes) else json.dumps(body).encode()
    head = f"HTTP/1.1 {status}\r\nContent-Length: {len(body) if length is None else length}\r\n{more}\r\n"
    return head.encode() + body


def completion(content="It is Paris.", audio=None):
    return {"choices": [{"message": {"role": "assistant", "content": content, "audio": audio}}]}


BROKEN_HTTP = {
    "nothing": b"",
    "no HTTP": b"\x16\x03\x01 garbage\r\n\r\n",
    "an ended head": b"HTTP/1.1 200 OK\r\nContent-",
    "no status": b"HTTP/1.1 OK\r\n\r\n",
    "a long head": b"HTTP/1.1 200 OK\r\nX: " + b"a" * 70000 + b"\r\n\r\n",
    "many heads": b"HTTP/1.1 200 OK\r\n" + b"X: a\r\n" * 200 + b"\r\n",
    "half a body": answer(b'{"choices": [', length=500),
    "half a chunk": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n50\r\n{",
    "no chunk": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    "half an error": answer(b"out of", "500 Internal Server Error", length=500),
    "an error": answer(b"out of memory", "500 Internal Server Error"),
    "another place": answer(b"", "302 Found", more="Location: http://127.0.0.1:9/\r\n"),
    "no JSON": answer(b"Bad gateway"),
    "no UTF-8": answer(b"\xff\xfe\xfa"),
    "JSON without end": answer(b"[" * 100000),
}
BROKEN_REPLIES = {
    "a list": answer([1]),
    "no choice": answer({"choices": []}),
    "no message": answer({"choices": [{"message": None}]}),
    "parts for a text": answer(completion([{"type": "text", "text": "Paris"}])),
    "a number for a text": answer(completion(7)),
    "a text for audio": answer(completion(audio="UklGRg==")),
    "a number for audio": answer(completion(audio={"data": 7})),
    "no base64": answer(completion(audio={"data": "UklGR"})),
    "no audio": answer(completion(audio={"data": "UklGRg=="})),
}


@contextlib.contextmanager
def serving():
    """A server that gives the bytes of ``answers``, one after the other, the last for ever, and hangs up.

    ``keys`` are the Authorization headers that it was sent.
    """

    class Handler(socketserver.StreamRequestHandler):
        def handle(self):
            length = 0
            while (line := self.rfile.readline().strip()) != b"":
                name, _, value = line.partition(b":")
                if name.lower() == b"content-length":
                    length = int(value)
                elif name.lower() == b"authorization":
                    self.server.keys.append(value.strip().decode())
            self.rfile.read(length)
            answers = self.server.answers
            self.wfile.write(answers.pop(0) if len(answers) > 1 else answers[0])

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads, server.keys = True, []
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        server.url = f"http://127.0.0.1:{server.server_address[1]}/v1"
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def server():
    with serving() as found:
        yield found


@pytest.mark.parametrize("broken", [*BROKEN_HTTP, *BROKEN_REPLIES])
def test_a_broken_reply_is_an_item_that_failed(server, broken, tmp_path, monkeypatch):
    monkeypatch.setattr("echox.evaluation.summary.draw_run", lambda *_: [])
    good = answer(completion(audio={"data": base64.b64encode(encode_audio(tone(0.2), 16000)).decode()}))
    server.answers = [good, (BROKEN_HTTP | BROKEN_REPLIES)[broken], good]
    items = [EvalItem(name, QUESTION, "Where?", ("Paris",)) for name in "abc"]
    subject = RemoteSubject(server.url, "model", timeout_s=5.0)
    found = run_tasks([Task("qa", "qa", items, "here")], subject, None, tmp_path)["tasks"]["qa"]
    assert [one["id"] for one in found["failed"]] == ["b"]
    assert "expected" in found["failed"][0]["error"]
    assert found["s2t"]["acc_strict"]["mean"] == pytest.approx(2 / 3)


@pytest.mark.parametrize("broken", BROKEN_HTTP)
def test_every_client_says_what_is_broken(server, broken):
    server.answers = [BROKEN_HTTP[broken]]
    subject = RemoteSubject(server.url, "model", timeout_s=5.0)
    with pytest.raises(ValueError, match="expected .* found ."):
        OpenAICompatibleASR(server.url, "model", timeout_s=5.0).transcribe([np.zeros(160, np.float32)], 16000)
    with pytest.raises(ValueError, match="expected .* found ."):
        RemoteSubject(server.url)
    with pytest.raises(ValueError, match="expected .* found ."):
        list(subject.events({}))
    with pytest.raises((ValueError, ConnectionError)):
        OpenAICompatible(server.url, "model", timeout_s=5.0).synthesize("Hello.", Voice("openai", "alloy"))
    with pytest.raises(ConnectionError):
        Rewriter(server.url, "model", timeout_s=5.0)("Hello.")


@pytest.mark.parametrize("client", CLIENTS)
@pytest.mark.parametrize("status", ["301 Moved", "302 Found", "303 See Other", "307 Temporary", "308 Permanent"])
def test_a_key_does_not_follow_a_redirect(server, client, status, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    with serving() as other:
        other.answers = [answer(completion())]
        server.answers = [answer(b"", status, more=f"Location: {other.url}/elsewhere\r\n")]
        with pytest.raises((ValueError, ConnectionError), match=status[:3]):
            CLIENTS[client](server.url)
        assert server.keys == ["Bearer secret"]
        assert other.keys == []


@pytest.mark.parametrize("event", [b"data: {", b"data: 7", b"data: \xff", b"data: " + b"[" * 100000])
def test_a_broken_event_of_a_stream_is_named(server, event):
    first = b'data: {"choices": []}\n\n'
    server.answers = [answer(first + event + b"\n\n")]
    events = RemoteSubject(server.url, "model", timeout_s=5.0).events({})
    assert next(events) == {"choices": []}
    with pytest.raises(ValueError, match="expected a stream of JSON events, found ."):
        next(events)
