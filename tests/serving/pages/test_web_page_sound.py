"""The sound of the page where browsers and systems are difficult: one rate only, no sound, sound that is taken."""

import importlib.util

import pytest

from browser import browser_tests, chromium, microphone_file, opened
from echox import EchoX
from echox.serving.webrtc.ice import IceSettings
from web_page import SPOKEN, ask, heard_s, played_s, reply, said, serving

pytestmark = browser_tests
in_calls = pytest.mark.skipif(importlib.util.find_spec("aiortc") is None, reason="aiortc is not installed")


@pytest.fixture(scope="module")
def server():
    with serving(EchoX.from_pretrained("nano")) as server:
        yield server


@pytest.fixture(scope="module")
def phone():
    """A server that takes calls."""
    with serving(EchoX.from_pretrained("nano"), ice=IceSettings()) as server:
        yield server


def before(page, script):
    """Load the page again after a script."""
    page.add_init_script(script)
    page.reload()
    page.get_by_role("button", name="What does a cow say?").wait_for()


# ------------------------------------------------------------------------------------------------ calls

FIREFOX = """
const rate = new AudioContext().sampleRate;  // Firefox: "different sample-rate is currently not supported"
const create = AudioContext.prototype.createMediaStreamSource;
AudioContext.prototype.createMediaStreamSource = function (stream) {
  if (this.sampleRate !== rate) throw new DOMException("different sample-rate", "NotSupportedError");
  return create.call(this, stream);
};
"""


@in_calls
def test_a_call_is_heard_where_streams_and_contexts_must_have_one_rate(phone, tmp_path):
    with chromium(microphone_file(tmp_path, 6.0, "cow")) as browser, opened(browser, phone.address()) as page:
        before(page, FIREFOX)
        page.get_by_role("button", name="Talk").click()
        turn = reply(page, 0)
        assert said(turn) == "A cow says moo."
        heard, whole = played_s(turn)
        assert heard == whole > 0
        assert heard_s(page) > 0.25 * whole
        assert page.locator("#connection").get_attribute("title") == "WebRTC"


DEAF = {
    "stream": "AudioContext.prototype.createMediaStreamSource = () => { throw new DOMException('', 'AbortError'); };",
    "worklet": "AudioWorklet.prototype.addModule = () => Promise.reject(new DOMException('', 'AbortError'));",
    "context": "window.AudioContext = class { constructor() { throw new DOMException('', 'NotSupportedError'); } };",
}


@in_calls
@pytest.mark.parametrize("why", DEAF)
def test_a_call_that_cannot_be_heard_becomes_a_websocket_that_says_why(phone, why):
    with chromium() as browser, opened(browser, phone.address()) as page:
        before(page, DEAF[why])
        ask(page, "What does a cow say?")
        assert said(reply(page, 0)) == "A cow says moo."
        way = page.locator("#connection").get_attribute("title")
        assert way.startswith("WebSocket, as a call (WebRTC) failed: Its sound cannot be played here (")
        if why == "stream":
            assert heard_s(page) > 0.3


@in_calls
def test_a_call_after_a_lost_one_is_heard_once(phone):
    with chromium() as browser, opened(browser, phone.address()) as page:
        lengths = []
        for number in range(3):
            ask(page, "What does a cow say?")
            turn = reply(page, number)
            lengths.append(played_s(turn)[1])
            session = max(phone.service.sessions, key=lambda one: one._expires_at)
            phone.loop.call_soon_threadsafe(session.shut_down)
            page.locator("#connection:not([data-state=open])").wait_for(timeout=SPOKEN)
            page.locator("#connection[data-state=open]").wait_for(timeout=SPOKEN)
        assert max(lengths) < 1.4 * min(lengths), lengths


# ------------------------------------------------------------------------------------------------ no sound

ASLEEP = """
const Context = window.AudioContext;
window.AudioContext = class extends Context { constructor(options) { super(options); super.suspend(); } };
AudioContext.prototype.resume = %s;
"""
SILENT = {
    "no context": DEAF["context"],
    "no worklet": DEAF["worklet"],
    "a worklet that does not come": "AudioWorklet.prototype.addModule = () => new Promise(() => {});",
    "waits for a click": ASLEEP % "() => new Promise(() => {})",
    "refused": ASLEEP % "() => Promise.reject(new DOMException('', 'NotAllowedError'))",
}


@pytest.mark.parametrize("why", SILENT)
def test_without_sound_what_is_typed_is_answered_in_writing(server, why):
    with chromium() as browser, opened(browser, server.address()) as page:
        before(page, SILENT[why])
        for number in range(2):  # the second one interrupts the first
            ask(page, "What does a cow say?")
            turn = page.locator(".turn.assistant").nth(number)
            turn.get_by_text("moo.").wait_for(timeout=SPOKEN)
        if why != "a worklet that does not come":
            page.get_by_role("alert").get_by_text("There is no sound").wait_for(timeout=SPOKEN)


# ------------------------------------------------------------------------------------------------ taken by the system

CONTEXTS = """
window.contexts = [];
const Context = window.AudioContext;
window.AudioContext = class extends Context { constructor(options) { super(options); window.contexts.push(this); } };
"""


@pytest.mark.slow
def test_sound_that_the_system_stops_is_told_and_comes_back(server, tmp_path):
    with chromium(microphone_file(tmp_path, 1.0, "cow")) as browser, opened(browser, server.address()) as page:
        before(page, CONTEXTS)
        page.get_by_role("button", name="Talk").click()
        assert said(reply(page, 0)) == "A cow says moo."
        page.evaluate("Promise.all(window.contexts.map((context) => context.suspend()))")
        alert = page.get_by_role("alert")
        alert.get_by_text("The microphone cannot be used").wait_for()
        alert.get_by_text("There is no sound").wait_for()
        assert page.locator("#phase").inner_text() == "The microphone is stopped: nobody hears you."
        alert.get_by_text("Could not hear you").wait_for(timeout=SPOKEN)  # though no chunk comes
        page.locator("#stage").click()  # any click
        page.locator("#phase").get_by_text("Listening…").wait_for()
        for gone in ("The microphone cannot be used", "There is no sound"):
            alert.get_by_text(gone).wait_for(state="detached")


TOUCH = (
    ASLEEP
    % """function () {
  return window.tapped ? Context.prototype.resume.call(this) : new Promise(() => {});
}"""
)


def test_push_to_talk_as_the_first_touch_is_answered_once_it_has_let_go(server, tmp_path):
    """Browsers let a page sound once a touch has ended, not when it begins."""
    with chromium(microphone_file(tmp_path, 3.0, "cow")) as browser, opened(browser, server.address()) as page:
        before(page, TOUCH + "addEventListener('pointerup', () => { window.tapped = true; }, true);")
        page.evaluate("localStorage['echox-settings'] = JSON.stringify({ mode: 'push-to-talk' })")
        page.reload()
        button = page.get_by_role("button", name="Hold to talk")
        button.hover()
        page.mouse.down()
        page.locator("body[data-phase=hearing]").wait_for(timeout=SPOKEN)
        page.mouse.up()
        page.get_by_text("Hold the button while you speak").wait_for()
        page.mouse.down()
        page.locator("body[data-phase=hearing]").wait_for(timeout=SPOKEN)
        page.wait_for_timeout(5500)  # fixed time: somebody speaks, at the speed of speech
        page.mouse.up()
        assert said(reply(page, 0)) == "A cow says moo."
