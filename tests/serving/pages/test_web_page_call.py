"""The page over a call (WebRTC), in a real browser; and how it does without one, and says why."""

import importlib.util

import numpy as np
import pytest

from browser import browser_tests, chromium, microphone_file, opened
from echox import EchoX
from echox.serving.webrtc.ice import IceSettings
from web_page import BRAZIL, SPOKEN, ask, downloaded, heard_s, kept_of, played_s, reply, said, serving, until_played

pytestmark = [
    *browser_tests,
    pytest.mark.skipif(importlib.util.find_spec("aiortc") is None, reason="aiortc is not installed"),
]


@pytest.fixture(scope="module")
def server():
    with serving(EchoX.from_pretrained("nano"), ice=IceSettings()) as server:
        yield server


def way(page):
    """How the page is connected, as it says it."""
    page.locator("#connection[data-state=open]").wait_for(timeout=SPOKEN)
    page.wait_for_function("() => document.querySelector('#connection').title !== ''")
    return page.locator("#connection").get_attribute("title")


def test_a_spoken_question_is_answered_in_a_call(server, tmp_path):
    with (
        chromium(microphone_file(tmp_path, 6.0, "cow")) as browser,
        opened(browser, server.address()) as page,
    ):
        page.get_by_role("button", name="Talk").click()
        assert way(page) == "WebRTC"
        page.locator("body[data-phase=hearing]").wait_for(timeout=SPOKEN)
        page.locator("body[data-phase=speaking]").wait_for(timeout=SPOKEN)
        turn = reply(page, 0)
        assert said(turn) == "A cow says moo."
        assert "cow" in said(page.locator(".turn.user").first)
        heard, whole = played_s(turn)
        assert heard == whole == pytest.approx(1.5, abs=0.4)  # what came over the track while it was voiced
        assert heard_s(page) > 0.25 * whole  # it really came out; a busy machine looks seldom
        assert [text for _, text in server.items] == [said(page.locator(".turn.user").first), "A cow says moo."]


def test_what_is_said_after_mute_has_its_sound_and_its_times(server, tmp_path):
    with (
        chromium(microphone_file(tmp_path, 1.0, "cow", 8.0, "cow")) as browser,
        opened(browser, server.address()) as page,
    ):
        for number in range(2):
            page.get_by_role("button", name="Talk").click()
            assert said(reply(page, number)) == "A cow says moo."
            page.get_by_role("button", name="Mute").click()
            page.wait_for_timeout(3000)  # fixed time: the server hears silence
        data, recording = downloaded(page)
        session = max(server.service.sessions, key=lambda one: one._expires_at)
        heard = [one.content[0].audio for one in session.conversation.items if one.role == "user"]
    rate, asked = data["sampling_rate"], data["turns"]

    def loud_s(samples, rate):
        """When the first and the last loud sound is, s."""
        return np.flatnonzero(np.abs(samples) > 0.1 * np.abs(samples).max())[[0, -1]] / rate

    places = [turn["audio"] for turn in asked if turn["role"] == "user"]
    saved = [loud_s(recording[int(one["start_s"] * rate) : int(one["end_s"] * rate)], rate) for one in places]
    np.testing.assert_allclose(saved, [loud_s(one.waveform, one.sampling_rate) for one in heard], atol=0.15)
    first_s = [turn["first_audio_s"] for turn in asked if turn["role"] == "assistant"]
    assert all(0.1 < one < 5 for one in first_s), first_s


def test_speaking_over_the_reply_interrupts_it(server, tmp_path):
    with (
        chromium(microphone_file(tmp_path, 6.0, "brazil", 3.0, "cow")) as browser,
        opened(browser, server.address()) as page,
    ):
        page.get_by_role("button", name="Talk").click()
        turn = reply(page, 0, "interrupted")
        assert said(reply(page, 1)) == "A cow says moo."
        assert turn.locator("del").count() == 1
        assert BRAZIL.startswith(kept_of(turn))
        assert ("assistant", kept_of(turn)) in server.items


def test_stop_is_stop_in_a_call_and_the_conversation_goes_on(server):
    with chromium() as browser, opened(browser, server.address()) as page:
        ask(page, "Tell me about Brazil.")
        turn = page.locator(".turn.assistant").first
        until_played(page, turn, 1.0)
        page.keyboard.press("Escape")
        reply(page, 0, "interrupted")
        page.wait_for_function("() => document.querySelector('.turn.assistant del')")
        kept = kept_of(turn)
        assert 0 < len(kept) < len(BRAZIL)
        assert ("assistant", kept) in server.items
        ask(page, "What does a cow say?")
        assert said(reply(page, 1)) == "A cow says moo."


def test_push_to_talk_in_a_call(server, tmp_path):
    with (
        chromium(microphone_file(tmp_path, 1.0, "cow", 1.0)) as browser,
        opened(browser, server.address()) as page,
    ):
        page.get_by_role("button", name="Settings").click()
        page.get_by_text("Push to talk").click()
        page.keyboard.press("Escape")
        button = page.get_by_role("button", name="Hold to talk")
        button.hover()
        page.mouse.down()
        page.locator("body[data-phase=hearing]").wait_for(timeout=SPOKEN)
        page.wait_for_timeout(4000)  # fixed time: somebody speaks, at the speed of speech
        page.mouse.up()
        assert said(reply(page, 0)) == "A cow says moo."


def test_a_lost_call_is_made_again_with_the_conversation(server):
    with chromium() as browser, opened(browser, server.address()) as page:
        ask(page, "What does a cow say?")
        reply(page, 0)
        session = max(server.service.sessions, key=lambda one: one._expires_at)
        server.loop.call_soon_threadsafe(session.shut_down)
        page.locator("#connection:not([data-state=open])").wait_for(timeout=SPOKEN)
        assert way(page) == "WebRTC"
        ask(page, "What is the capital of France?")
        assert said(reply(page, 1)) == "The capital of France is Paris."
        assert [text for _, text in server.items][:2] == ["What does a cow say?", "A cow says moo."]


NO_WEBRTC = "delete window.RTCPeerConnection"


@pytest.mark.parametrize(
    ("why", "told"),
    [
        ("server", "WebSocket: this server takes no calls (WebRTC)"),
        ("browser", "WebSocket: this browser has no WebRTC"),
        ("settings", "WebSocket: calls (WebRTC) are switched off in Settings"),
        ("network", "WebSocket, as a call (WebRTC) failed: There was no answer in time."),
    ],
)
def test_without_a_call_a_websocket_is_used_and_the_reason_told(server, monkeypatch, why, told):
    if why == "network":  # a firewall: no packet arrives
        import aioice.ice

        monkeypatch.setattr(aioice.ice.StunProtocol, "datagram_received", lambda self, data, addr: None)
    ice = None if why == "server" else IceSettings()
    with (
        serving(server.service.model, ice=ice) as other,
        chromium() as browser,
        opened(browser, other.address()) as page,
    ):
        if why == "browser":
            page.add_init_script(NO_WEBRTC)
            page.reload()
        if why == "settings":
            page.get_by_role("button", name="Settings").click()
            page.get_by_text("WebRTC where it can be used").click()
            page.keyboard.press("Escape")
        ask(page, "What does a cow say?")
        assert said(reply(page, 0)) == "A cow says moo."
        assert way(page) == told
