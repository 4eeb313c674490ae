"""The page in a real browser on bad days: long files, slow networks, full servers, strange keys, refusals."""

import importlib.util

import numpy as np
import pytest

from browser import QUESTIONS, browser_tests, chromium, opened
from echox import EchoX
from echox.audio import load_audio, save_audio
from echox.serving.webrtc.ice import IceSettings
from slow_network import slow
from waiting import wait_until
from web_page import SPOKEN, ask, reply, said, serving

pytestmark = browser_tests
in_calls = pytest.mark.skipif(importlib.util.find_spec("aiortc") is None, reason="aiortc is not installed")
WAYS = [False, pytest.param(True, marks=in_calls)]

# What the page waits for comes so many times as soon; and what it has said meanwhile is kept.
HASTY = """
const later = window.setTimeout;
window.setTimeout = (run, ms, ...rest) => later(run, ms >= 1000 ? ms / %d : ms, ...rest);
window.told = [];
addEventListener("DOMContentLoaded", () => {
  const places = ["#connection", "#notices"].map((name) => document.querySelector(name));
  const tell = () => window.told.push(...places.map((place) => place.textContent.trim()));
  for (const place of places) new MutationObserver(tell).observe(place, { childList: true, subtree: true });
});
"""


@pytest.fixture(scope="module")
def model():
    return EchoX.from_pretrained("nano")


def page_of(page, script):
    """The page, with a script that runs before its own."""
    page.add_init_script(script)
    page.reload()
    page.get_by_role("button", name="What does a cow say?").wait_for()
    return page


# ------------------------------------------------------------------------------------------------ long files


@pytest.fixture(scope="module")
def long_file(tmp_path_factory):
    """A question after a long silence: 30 s, 1.9 million letters as it is sent."""
    path = tmp_path_factory.mktemp("long") / "long.wav"
    question = load_audio(QUESTIONS["capital"], 16000)
    save_audio(path, np.concatenate([np.zeros(30 * 16000 - len(question), np.float32), question]), 16000)
    return path


@pytest.mark.slow
@pytest.mark.parametrize("call", WAYS)
def test_a_long_file_is_sent_also_over_a_slow_network_and_what_is_typed_gets_past_it(model, long_file, call):
    """The network takes seconds for it, more than the page waits for an answer."""
    with (
        serving(model, ice=IceSettings() if call else None) as server,
        slow(server.port, 10**7 if call else 480_000) as port,
        chromium() as browser,
        opened(browser, f"http://127.0.0.1:{port}/") as page,
    ):
        page_of(page, HASTY % (1 if call else 5))
        ask(page, "What does a cow say?")
        assert said(reply(page, 0)) == "A cow says moo."
        page.locator("#file").set_input_files(long_file)
        page.locator(".turn.user").nth(1).wait_for()
        assert "30.0 s" in page.locator(".turn.user").nth(1).inner_text()
        assert said(reply(page, 1)) == "The capital of Brazil is Brasilia."
        told = page.evaluate("window.told.filter((words) => words)")
        assert set(told) <= {"Connecting…", "Connected"}, told
        (session,) = server.service.sessions
        heard = [item.content[0].audio for item in session.conversation.items if item.content[0].audio is not None]
        assert heard[0].duration_s == pytest.approx(30, abs=0.01)


# ------------------------------------------------------------------------------------------------ a full server


@pytest.mark.parametrize("call", WAYS)
@pytest.mark.parametrize("wait_s", [0.1, 2.5])
def test_a_full_server_is_told_from_one_that_is_gone_and_keeps_no_place(model, call, wait_s):
    """The server lets wait longer than the page waits for an answer to anything else."""
    with (
        serving(model, ice=IceSettings() if call else None) as server,
        chromium() as browser,
        opened(browser, server.address(), expected="503") as page,
    ):
        page_of(page, HASTY % 2)
        places = server.service.session_admission
        places._wait_s = wait_s
        taken = [server.await_(places.acquire()) for _ in range(server.service.limits.max_sessions)]

        async def give():
            for _ in taken:
                places.release()

        ask(page, "What does a cow say?")
        page.get_by_role("alert").get_by_text("all its places for conversations are taken").wait_for(timeout=SPOKEN)
        assert page.get_by_label("Message").input_value() == "What does a cow say?"  # not lost
        server.await_(give())
        page.locator("#connection[data-state=open]").wait_for(timeout=SPOKEN)
        page.wait_for_function("() => document.querySelector('#connection').title !== ''")
        assert page.locator("#connection").get_attribute("title").startswith("WebRTC" if call else "WebSocket: ")
        page.get_by_role("button", name="Send", exact=True).click()
        assert said(reply(page, 0)) == "A cow says moo."
        assert places.num_admitted == 1
        assert not any("does not answer" in words for words in page.evaluate("window.told"))


@in_calls
def test_a_page_that_leaves_while_it_waits_for_a_call_gives_its_place_back(model):
    with (
        serving(model, ice=IceSettings()) as server,
        chromium() as browser,
        opened(browser, server.address()) as page,
    ):
        places = server.service.session_admission
        places._wait_s = 20
        taken = [server.await_(places.acquire()) for _ in range(server.service.limits.max_sessions)]
        ask(page, "What does a cow say?")
        wait_until(lambda: places.num_waiting == 1, "the page waits")
        page.goto("about:blank")
        wait_until(lambda: places.num_waiting == 0, "it waits no more", 5)
        for _ in taken:
            server.loop.call_soon_threadsafe(places.release)
        wait_until(lambda: places.num_admitted == 0, "all places are free", 5)


# ------------------------------------------------------------------------------------------------ keys and refusals


@pytest.mark.parametrize("call", WAYS)
@pytest.mark.parametrize("key", ["Kq3/x+Zo7w==", "two words"])
def test_any_key_opens_a_session_and_is_shown_nowhere(model, call, key):
    with (
        serving(model, key + "\n", IceSettings() if call else None) as server,
        chromium() as browser,
        opened(browser, server.address(), expected=("WebSocket connection to", "401")) as page,
    ):
        for given, told in (
            ("k=y/no", "does not accept this API key"),
            ("ключ", "does not accept this API key"),
            (key, ""),
        ):
            page.get_by_role("button", name="Settings").click()
            page.locator("#key").fill(given)
            page.keyboard.press("Escape")
            ask(page, "What does a cow say?")
            if told:
                page.get_by_role("alert").get_by_text(told).wait_for()
                assert page.locator("#connection").get_attribute("data-state") == "closed"
            else:
                assert said(reply(page, 0)) == "A cow says moo."
                assert page.get_by_role("alert").inner_text() == ""
            assert given not in page.locator("body").inner_text()


THROWS = """
window.%s = class {
  constructor(...given) { throw new DOMException(`what was given: ${JSON.stringify(given)}`, "SecurityError"); }
};
"""


@pytest.mark.parametrize(
    ("what", "call"), [("WebSocket", False), pytest.param("RTCPeerConnection", True, marks=in_calls)]
)
def test_a_browser_that_refuses_to_connect_is_a_sentence_without_the_key(model, what, call):
    with (
        serving(model, "s3same", IceSettings() if call else None) as server,
        chromium() as browser,
        opened(browser, server.address()) as page,
    ):
        page_of(page, THROWS % what)
        page.get_by_role("button", name="Settings").click()
        page.locator("#key").fill("s3same")
        page.keyboard.press("Escape")
        ask(page, "What does a cow say?")
        if call:  # a WebSocket is used
            assert said(reply(page, 0)) == "A cow says moo."
            way = page.locator("#connection").get_attribute("title")
            assert way == "WebSocket, as a call (WebRTC) failed: The browser cannot make one (SecurityError)."
        else:
            page.get_by_role("alert").get_by_text("The browser could not connect (SecurityError).").wait_for()
            assert page.locator("#connection").get_attribute("data-state") == "closed"
            assert page.get_by_label("Message").input_value() == "What does a cow say?"
        assert "s3same" not in page.locator("body").inner_text()


@pytest.mark.parametrize(
    "how", ["Promise.reject(new TypeError('s3same'))", "setTimeout(() => { throw new TypeError('s3same') })"]
)
def test_what_nobody_has_expected_is_told(model, how):
    with serving(model) as server, chromium() as browser, opened(browser, server.address(), expected="s3same") as page:
        page.evaluate(f"void {how}")
        page.get_by_role("alert").get_by_text("The page has made a mistake").wait_for()
        assert "TypeError" in page.get_by_role("alert").inner_text()
        assert "s3same" not in page.locator("body").inner_text()
