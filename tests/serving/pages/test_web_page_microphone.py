"""The microphone of the page in a real browser: from the device to what the model hears, and "stop" said to it."""

import numpy as np
import pytest

from browser import QUESTIONS, SAMPLING_RATE, browser_tests, chromium, microphone_file, opened
from echox import EchoX
from echox.audio import load_audio, save_audio
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


# ------------------------------------------------------------------------------------------------ nothing was heard


@pytest.fixture
def noise(tmp_path):
    """A recording of noise without words."""
    path = tmp_path / "noise.wav"
    save_audio(
        path, 0.05 * np.random.default_rng(0).standard_normal(10 * SAMPLING_RATE).astype(np.float32), SAMPLING_RATE
    )
    return path


def test_noise_that_was_said_is_told_in_plain_words(server, noise):
    with chromium(noise) as browser, opened(browser, server.address()) as page:
        page.get_by_role("button", name="Settings").click()
        page.get_by_text("Push to talk").click()
        page.keyboard.press("Escape")
        page.get_by_role("button", name="Hold to talk").hover()
        page.mouse.down()
        page.locator("body[data-phase=hearing]").wait_for(timeout=SPOKEN)
        page.wait_for_timeout(1500)  # fixed time: it is recorded
        page.mouse.up()
        notice = page.locator(".notice").filter(has_text="Could not hear you")
        notice.get_by_text("No words were found in what came from").wait_for(timeout=SPOKEN)
        notice.get_by_role("button", name="Choose a microphone").wait_for()
        assert notice.locator("meter").count() == 1
        assert page.locator(".notice").count() == 1
        assert page.locator("#phase").inner_text() == "Ready."


def test_a_file_without_words_is_told_in_plain_words_and_no_microphone_is_blamed(server, noise):
    with chromium() as browser, opened(browser, server.address()) as page:
        page.locator("#file").set_input_files(noise)
        notice = page.locator(".notice").filter(has_text="There was no reply")
        notice.get_by_text("No words were found in it.").wait_for(timeout=SPOKEN)
        assert page.locator(".notice").count() == 1


# ------------------------------------------------------------------------------------------------ the device


ASKED = """
window.asked = [];  // for which microphone
const { getUserMedia } = MediaDevices.prototype;
MediaDevices.prototype.getUserMedia = async function (constraints) {
  window.asked.push(constraints.audio.deviceId?.exact ?? "");
  return (window.stream = await getUserMedia.call(this, constraints));
};
"""


def test_the_chosen_microphone_is_used_after_a_reload_and_the_systems_can_be_chosen_again(server):
    with chromium() as browser, opened(browser, server.address()) as page:
        page.add_init_script(ASKED)
        page.reload()

        def listening(times):
            page.get_by_role("button", name="Talk").click()
            page.locator("body[data-phase=listening]").wait_for(timeout=SPOKEN)
            page.wait_for_function("(times) => window.asked.length === times", arg=times)
            return page.evaluate("window.asked.at(-1)")

        assert listening(1) == ""
        page.get_by_role("button", name="Settings").click()
        place = page.get_by_label("Microphone")
        page.locator("#device option").nth(2).wait_for(state="attached")
        chosen = page.locator("#device option").last.get_attribute("value")
        place.select_option(chosen)
        page.wait_for_function("(chosen) => window.asked.at(-1) === chosen", arg=chosen)
        page.reload()
        page.get_by_role("button", name="Settings").click()  # before the browser tells any name
        assert place.input_value() == chosen
        page.keyboard.press("Escape")
        assert listening(1) == chosen
        page.get_by_role("button", name="Settings").click()
        page.locator("#device option").nth(2).wait_for(state="attached")
        assert "before" not in page.locator("#device").inner_text()  # it has its name
        place.select_option(label="As the system")
        page.wait_for_function("() => window.asked.at(-1) === '' && window.asked.length === 2")
        page.keyboard.press("Escape")
        page.get_by_role("button", name="Settings").click()  # listed again
        page.wait_for_timeout(200)  # fixed time: a wrong choice would be seen now
        assert place.input_value() == ""
        page.reload()
        assert listening(1) == ""


def test_a_chosen_voice_is_kept_and_one_that_is_gone_is_not(server):
    with chromium() as browser, opened(browser, server.address()) as page:
        found = page.evaluate("""async () => {
          const { Settings } = await import("./settings.js");
          const dialog = document.getElementById("settings");
          const voices = (...names) => ({ audio: { output: { voices: names, voice: names[0] } } });
          const sent = (...sessions) => {
            const settings = new Settings(dialog);
            return sessions.map((session) => (settings.show(session), settings.session().audio.output.voice));
          };
          const before = sent(voices("one", "two"));
          localStorage["echox-settings"] = JSON.stringify({ voice: "two" });
          return [before, sent(voices("one", "two"), voices("one", "two")), sent(voices("three", "four"))];
        }""")
        assert found == [["one"], ["two", "two"], ["three"]]


@pytest.mark.parametrize("how", ["unplugged", "changed for one that is refused"])
def test_a_microphone_that_is_lost_while_somebody_speaks_ends_the_turn(server, tmp_path, how):
    with chromium(microphone_file(tmp_path, 1.0, "brazil")) as browser, opened(browser, server.address()) as page:
        page.add_init_script(ASKED)
        page.reload()
        page.get_by_role("button", name="Talk").click()
        page.locator("body[data-phase=hearing]").wait_for(timeout=SPOKEN)
        if how == "unplugged":
            page.evaluate("window.stream.getAudioTracks()[0].dispatchEvent(new Event('ended'))")
        else:
            page.evaluate("""() => {
              MediaDevices.prototype.getUserMedia = async () => { throw new DOMException("", "NotReadableError"); };
              const noise = document.querySelector("[name=noise]");
              noise.checked = true;
              noise.dispatchEvent(new Event("input", { bubbles: true }));
            }""")
        page.get_by_role("alert").get_by_text("The microphone cannot be used").wait_for()
        page.locator("body:not([data-phase=hearing])").wait_for(timeout=SPOKEN)
        page.get_by_role("button", name="Talk").wait_for()
        ask(page, "What does a cow say?")
        page.locator(".turn.assistant[data-state=done] .said").get_by_text("A cow says moo.").wait_for(timeout=SPOKEN)
        assert page.locator(".turn[data-state=open]").count() == 0
