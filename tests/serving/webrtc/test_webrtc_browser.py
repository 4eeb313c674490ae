"""A call of headless Chromium with a fake microphone: a conversation, interruptions, a network that is gone for 3 s."""

import base64
import importlib.util
import time

import numpy as np
import pytest

from browser import browser_tests, chromium, microphone_file, opened, sound
from echox.serving.webrtc.ice import IceSettings
from serving_help import nano, pcm16, running

pytestmark = [
    *browser_tests,
    pytest.mark.skipif(importlib.util.find_spec("aiortc") is None, reason="aiortc is not installed"),
]
LATE_MS = 60_000  # a busy machine

# As docs/protocol.md has it; besides the microphone, recordings are said at command, and what is heard is measured.
CALL = """
async () => {
  const microphone = await navigator.mediaDevices.getUserMedia({ audio: true });
  const context = new AudioContext();
  await context.resume();
  const voice = context.createMediaStreamDestination();
  context.createMediaStreamSource(microphone).connect(voice);
  window.say = (text) => {
    const pcm = new Int16Array(Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0)).buffer);
    const buffer = context.createBuffer(1, pcm.length, 16000);
    buffer.copyToChannel(Float32Array.from(pcm, (x) => x / 32768), 0);
    const source = new AudioBufferSourceNode(context, { buffer });
    source.connect(voice);
    source.start();
  };
  window.events = [];
  window.heardMs = 0;
  const peer = (window.peer = new RTCPeerConnection());
  peer.ontrack = ({ streams }) => {
    const player = new Audio();
    player.srcObject = streams[0];
    player.muted = true;
    player.play();
    const analyser = new AnalyserNode(context, { fftSize: 1024 });
    context.createMediaStreamSource(streams[0]).connect(analyser);
    const samples = new Float32Array(1024);
    setInterval(() => {
      analyser.getFloatTimeDomainData(samples);
      if (Math.sqrt(samples.reduce((sum, x) => sum + x * x, 0) / samples.length) > 0.005) window.heardMs += 20;
    }, 20);
  };
  peer.addTrack(voice.stream.getTracks()[0], voice.stream);
  const channel = (window.channel = peer.createDataChannel("oai-events"));
  channel.onmessage = ({ data }) => window.events.push(JSON.parse(data));
  await peer.setLocalDescription(await peer.createOffer());
  const headers = { "Content-Type": "application/sdp" };
  const body = peer.localDescription.sdp;
  const answer = await fetch("/v1/realtime/calls", { method: "POST", headers, body });
  if (answer.status !== 201) throw new Error(await answer.text());
  await peer.setRemoteDescription({ type: "answer", sdp: await answer.text() });
  return body.includes("a=candidate") ? "candidates" : "no candidates";
}
"""


def count(page, kind):
    return page.evaluate("(kind) => window.events.filter((event) => event.type === kind).length", kind)


def until(page, kind, number=1):
    asks = "([kind, number]) => window.events.filter((event) => event.type === kind).length >= number"
    page.wait_for_function(asks, arg=[kind, number], timeout=LATE_MS)


def until_heard(page, more_ms):
    before = page.evaluate("window.heardMs")
    page.wait_for_function("(ms) => window.heardMs >= ms", arg=before + more_ms, timeout=LATE_MS)


def say(page, name):
    samples = np.concatenate([sound(name), sound(0.8)])
    page.evaluate("(text) => window.say(text)", base64.b64encode(pcm16(samples)).decode())


@pytest.mark.slow
def test_a_conversation_interrupted_twice_goes_on_after_the_network_was_gone_for_3_s(tmp_path, monkeypatch):
    import aioice.ice

    with (
        running(nano(), ice=IceSettings()) as server,
        chromium(microphone_file(tmp_path, 8.0, "brazil")) as browser,
        opened(browser, f"{server.url}/health", expected="404") as page,
    ):
        assert page.evaluate(CALL) == "no candidates"  # the server has to manage without
        until(page, "output_audio_buffer.started")
        until_heard(page, 600)
        say(page, "brazil")
        until(page, "output_audio_buffer.cleared", 1)
        until(page, "output_audio_buffer.started", 2)
        until_heard(page, 600)
        say(page, "cow")
        until(page, "output_audio_buffer.cleared", 2)
        until(page, "output_audio_buffer.stopped", 1)

        gone = {"until": time.monotonic() + 3.0}
        received, sent = aioice.ice.StunProtocol.datagram_received, aioice.ice.StunProtocol.send_data

        def datagram_received(self, data, addr):
            if time.monotonic() > gone["until"]:
                received(self, data, addr)

        async def send_data(self, data, addr):
            if time.monotonic() > gone["until"]:
                await sent(self, data, addr)

        monkeypatch.setattr(aioice.ice.StunProtocol, "datagram_received", datagram_received)
        monkeypatch.setattr(aioice.ice.StunProtocol, "send_data", send_data)
        page.wait_for_timeout(3200)  # fixed time: the network is gone in it
        heard_before = page.evaluate("window.heardMs")
        say(page, "capital")
        until(page, "output_audio_buffer.stopped", 2)
        assert page.evaluate("window.heardMs") > heard_before + 300
        said = page.evaluate(
            "window.events.filter((event) => event.type === 'response.output_audio_transcript.done')"
            ".map((event) => event.transcript)"
        )
        assert len(said) == 4
        assert "moo" in said[2]  # said clearly; the browser's gain control distorts the first question
        assert count(page, "error") == 0
        (session,) = server.service.sessions
        kept = [item.content[0].text for item in session.conversation.items if item.role == "assistant"]
        assert len(kept) == 4
        for text, spoken in zip(kept, said, strict=True):  # of the interrupted, what was heard; of the others, all
            assert text, (kept, said)
            assert spoken.startswith(text.rstrip(" .")), (kept, said)
        assert kept[2:] == said[2:]
        page.evaluate("window.peer.close()")
        page.wait_for_timeout(1000)  # fixed time: its farewell arrives
    assert not server.service.sessions
