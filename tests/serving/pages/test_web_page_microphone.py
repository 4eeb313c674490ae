"""The microphone of the page in a real browser: from the device to what the model hears, and "stop" said to it."""

import numpy as np
import pytest

from browser import QUESTIONS, SAMPLING_RATE, browser_tests, chromium, microphone_file, opened
from echox import EchoX
from echox.audio import load_audio
from waiting import wait_until
from web_page import BRAZIL, HOLD, SPOKEN, ask, kept_of, reply, said, serving, until_played

pytestmark = browser_tests
WORKLETS = """
window.worklets = [];
const Node = AudioWorkletNode;
window.AudioWorkletNode = class extends Node {
  constructor(context, name, options) {
    super(context, name, options);
    window.worklets.push([name, context.sampleRate, options.processorOptions?.rate]);
  }
};
"""


@pytest.fixture(scope="module")
def server():
    with serving(EchoX.from_pretrained("nano")) as server:
        yield server


def envelope(samples):
    """Level of each 10 ms, of samples (S,) at 16 kHz."""
    frames = samples[: len(samples) // 160 * 160].reshape(-1, 160)
    return np.sqrt(np.mean(np.square(frames), axis=1))


def likeness(heard, original):
    """How alike two recordings rise and fall, at the best of all shifts; 1: the same."""
    one, other = (level - level.mean() for level in (envelope(heard), envelope(original)))
    products = np.correlate(one, other, "full")
    return products.max() / np.sqrt(np.sum(one**2) * np.sum(other**2))


def test_what_is_said_into_the_microphone_is_what_the_model_hears(server, tmp_path):
    recording = microphone_file(tmp_path, 1.0, "capital")
    with chromium(recording) as browser, opened(browser, server.address()) as page:
        page.add_init_script(WORKLETS)
        page.reload()
        page.get_by_role("button", name="Talk").click()
        assert said(reply(page, 0)) == "The capital of Brazil is Brasilia."
        assert {"capital", "Brazil?"} <= set(said(page.locator(".turn.user").first).split())
        nodes = {name: (at, to) for name, at, to in page.evaluate("window.worklets")}
        assert nodes["echox-capture"][1] == 24000
        session = max(server.service.sessions, key=lambda one: one._expires_at)
        heard = session.conversation.items[0].content[0].audio
        assert heard.sampling_rate == SAMPLING_RATE
        alike = {name: likeness(heard.waveform, load_audio(path, SAMPLING_RATE)) for name, path in QUESTIONS.items()}
        assert alike.pop("capital") > 0.7  # the browser evens out the level: .85
        assert max(alike.values()) < 0.6, alike


def test_a_chosen_microphone_is_heard_too(server, tmp_path):
    with chromium(microphone_file(tmp_path, 6.0, "cow")) as browser, opened(browser, server.address()) as page:
        page.get_by_role("button", name="Talk").click()
        page.locator("body[data-phase=listening]").wait_for(timeout=SPOKEN)
        page.get_by_role("button", name="Settings").click()
        options = page.locator("#device option")
        chosen = options.nth(options.count() - 1)
        page.get_by_label("Microphone").select_option(label=chosen.inner_text())
        page.keyboard.press("Escape")
        assert said(reply(page, 0)) == "A cow says moo."


def test_stop_ends_the_reply_and_the_page_says_so(server, tmp_path, monkeypatch):
    monkeypatch.setattr(server.service, "interjections", lambda samples: 1.0)  # whatever short is said means "stop"
    recording = microphone_file(tmp_path, 1.0, "brazil", 5.0, ("cow", 0.0, 0.4))
    with chromium(recording) as browser, opened(browser, server.address()) as page:
        page.get_by_role("button", name="Talk").click()
        cut = reply(page, 0, "interrupted")
        page.locator("#phase").get_by_text("Stopped. Listening…").wait_for(timeout=SPOKEN)
        assert "understood as “stop”" in page.locator(".turn.user").nth(1).inner_text()
        assert BRAZIL.startswith(kept_of(cut))
        page.wait_for_timeout(1500)  # fixed time: a reply would begin, or "Thinking…" be shown
        assert page.locator("#phase").inner_text() == "Stopped. Listening…"
        assert page.locator(".turn.assistant").count() == 1


@pytest.mark.parametrize("continues", [True, False])
def test_words_that_the_model_forgot_are_not_given_to_the_next_session(server, continues):
    """The server says that what somebody says is the rest of the question, while the reply is being played."""
    with chromium() as browser, opened(browser, server.address()) as page:
        page.add_init_script(HOLD)
        page.reload()
        ask(page, "Tell me what you know about Brazil?")
        until_played(page, page.locator(".turn.assistant").first, 1.5)  # some words are kept
        event = {"type": "input_audio_buffer.speech_started", "item_id": "spoken", "audio_start_ms": 0}
        page.evaluate("(event) => window.heard(event)", {**event, "continues": True} if continues else event)
        reply(page, 0, "interrupted")
        page.locator(".turn.assistant del").wait_for(timeout=SPOKEN)  # the server has said what it keeps
        session = max(server.service.sessions, key=lambda one: one._expires_at)
        server.loop.call_soon_threadsafe(session.shut_down)
        page.locator("#connection:not([data-state=open])").wait_for(timeout=SPOKEN)
        page.locator("#connection[data-state=open]").wait_for(timeout=SPOKEN)
        ask(page, "And France?")  # after all that is given on
        wait_until(lambda: ("user", "And France?") in server.items, "the next question has come", 20)
        given = server.items[: server.items.index(("user", "And France?"))]
        assert [role for role, _ in given] == (["user"] if continues else ["user", "assistant"])
