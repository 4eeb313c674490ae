"""The page across a broken connection: what was said, what was heard and what the model knows stay the same."""

import importlib.util
from contextlib import contextmanager

import pytest

from browser import browser_tests, chromium, microphone_file, opened
from echox import EchoX
from echox.serving.webrtc.ice import IceSettings
from waiting import wait_until
from web_page import BRAZIL, HOLD, SPOKEN, ask, downloaded, kept_of, reply, said, serving, until_played

pytestmark = browser_tests
WITH_CALLS = pytest.param(
    True, id="call", marks=pytest.mark.skipif(importlib.util.find_spec("aiortc") is None, reason="aiortc is missing")
)
WORDS = "one two three four five six seven eight nine ten"
BLOCK = """
window.blocked = false;
window.WebSocket = new Proxy(WebSocket, {
  construct: (Socket, given) => new Socket(window.blocked ? "v1/nowhere" : given[0], given[1]),
});
"""  # a server that is not reached while `blocked`
REPLY = """([text, seconds, more]) => {
  const [response_id, item_id] = ["resp_told", "item_told"];
  const word = btoa("\\0\\x10".repeat(12_000 * seconds / 10) + "\\0\\xf0".repeat(12_000 * seconds / 10));
  window.heard({ type: "response.created", response: { id: response_id } });
  const item = { id: item_id, type: "message", role: "assistant" };
  window.heard({ type: "response.output_item.added", response_id, item });
  for (const part of text.split(/(?<=\\w)(?= )/)) {
    window.heard({ type: "response.output_audio_transcript.delta", item_id, delta: part });
    window.heard({ type: "response.output_audio.delta", item_id, delta: word });
  }
  if (more) return window.heard({ type: "response.output_audio_transcript.delta", item_id, delta: more });
  window.heard({ type: "response.output_audio.done", item_id });
  window.heard({ type: "response.done", response: { id: response_id, status: "completed" } });
}"""  # a reply that has come as a whole, or all but its end, long before it is played


@pytest.fixture(scope="module")
def server():
    with serving(EchoX.from_pretrained("nano")) as server:
        yield server


@contextmanager
def conversing(server, microphone=None):
    """The page after a first question."""
    with chromium(microphone) as browser, opened(browser, server.address(), "WebSocket connection to") as page:
        page.add_init_script(HOLD)
        page.add_init_script(BLOCK)
        page.reload()
        ask(page, "What does a cow say?")
        reply(page, 0)
        yield page


def newest(server):
    return max(server.service.sessions, key=lambda one: one._expires_at)


def end_session(server, page):
    server.loop.call_soon_threadsafe(newest(server).shut_down)
    page.locator("#connection:not([data-state=open])").wait_for(timeout=SPOKEN)


def is_open(page):
    page.locator("#connection[data-state=open]").wait_for(timeout=SPOKEN)


@pytest.mark.parametrize("when", ["connected again", "waiting", "waiting, by typing"])
def test_a_reply_that_is_stopped_after_its_connection_broke_is_cut_where_it_was_heard(server, when):
    with conversing(server) as page:
        page.evaluate(REPLY, [WORDS, 20, ""])
        turn = page.locator(".turn.assistant").nth(1)
        until_played(page, turn, 0.5)
        if when == "connected again":
            end_session(server, page)
            is_open(page)
            wait_until(lambda: server.items[-1:] == [("assistant", WORDS)], "the new session has the whole reply", 20)
            until_played(page, turn, 3.0)
            page.keyboard.press("Escape")
        else:
            page.evaluate("window.blocked = true")
            end_session(server, page)
            until_played(page, turn, 3.0)
            page.keyboard.press("Escape")
            reply(page, 1, "interrupted")
            page.evaluate("window.blocked = false")
            if when == "waiting":
                is_open(page)
            else:
                ask(page, "And France?")
        reply(page, 1, "interrupted")
        turn.locator("del").wait_for(timeout=SPOKEN)
        kept = kept_of(turn)
        assert kept in ("one", "one two", "one two three", "one two three four")
        wait_until(lambda: ("assistant", kept) in server.items, "the model keeps what was heard", 20)
        assert ("assistant", WORDS) not in server.items
        before = [("user", "What does a cow say?"), ("assistant", "A cow says moo."), ("assistant", kept)]
        assert server.items[:3] == before
        if when == "waiting, by typing":
            assert server.items[3] == ("user", "And France?")
        saved = downloaded(page)[0]["turns"][2]
        assert (saved["text"], f"{saved['text']} {saved['not_heard']}") == (kept, WORDS)


@pytest.mark.parametrize("stopped", [False, True], ids=["to its end", "stopped"])
def test_a_reply_whose_end_never_came_ends_with_what_has_sound(server, stopped):
    with conversing(server) as page:
        page.evaluate(REPLY, [WORDS, 4, " eleven twelve"])
        turn = page.locator(".turn.assistant").nth(1)
        until_played(page, turn, 0.3)
        end_session(server, page)
        is_open(page)
        if stopped:
            until_played(page, turn, 1.2)
            page.keyboard.press("Escape")
        reply(page, 1, "interrupted" if stopped else "done")
        turn.locator("del").wait_for(timeout=SPOKEN)
        kept = kept_of(turn)
        assert WORDS.startswith(kept) if stopped else kept == WORDS
        assert "The connection broke here." in turn.inner_text()
        wait_until(lambda: server.items[2:] == [("assistant", kept)], "the model knows the same", 20)


def test_a_turn_that_was_being_said_is_ended(server):
    with conversing(server) as page:
        for number, words in enumerate(["", "Tell me"]):
            item_id = f"item_said_{number}"
            start = {"type": "input_audio_buffer.speech_started", "item_id": item_id, "audio_start_ms": 0}
            page.evaluate("(event) => window.heard(event)", start)
            delta = {"type": "conversation.item.input_audio_transcription.delta", "item_id": item_id, "delta": words}
            page.evaluate("(event) => window.heard(event)", delta)
            page.locator("body[data-phase=hearing]").wait_for(timeout=SPOKEN)
            end_session(server, page)
            is_open(page)
        assert page.locator(".turn[data-state=open]").count() == 0
        assert page.locator("body[data-phase=idle]").count() == 1
        assert [said(turn) for turn in page.locator(".turn.user").all()] == ["What does a cow say?", "Tell me"]
        assert "The connection broke here." in page.locator(".turn.user").nth(1).inner_text()


def test_use_the_defaults_ends_a_reply_that_is_being_played(server):
    with conversing(server) as page:
        page.evaluate(REPLY, [WORDS, 20, ""])
        until_played(page, page.locator(".turn.assistant").nth(1), 2.5)
        page.get_by_role("button", name="Settings").click()
        page.get_by_role("button", name="Use the defaults").click()
        page.get_by_role("button", name="Close").click()
        kept = kept_of(reply(page, 1, "interrupted"))
        ask(page, "And France?")
        wait_until(lambda: ("user", "And France?") in server.items, "the next question has come", 20)
        assert server.items[2] == ("assistant", kept)
        assert 0 < len(kept) < len(WORDS)


@pytest.mark.skipif(importlib.util.find_spec("aiortc") is None, reason="aiortc is missing")
def test_a_call_that_is_lost_while_it_speaks_ends_the_reply(server):
    with serving(server.service.model, ice=IceSettings()) as calls, conversing(calls) as page:
        ask(page, "Tell me what you know about Brazil.")
        turn = page.locator(".turn.assistant").nth(1)
        until_played(page, turn, 1.0)
        end_session(calls, page)
        reply(page, 1, "interrupted")
        kept = kept_of(turn)
        assert BRAZIL.startswith(kept)
        assert 0 < len(kept) < len(BRAZIL)
        is_open(page)
        assert page.locator("#connection").get_attribute("title") == "WebRTC"
        wait_until(lambda: calls.items[3:] == [("assistant", kept)], "the model knows what was heard", 20)
        ask(page, "What is the capital of France?")
        assert said(reply(page, 2))


# ------------------------------------------------------------------------------------------------ push to talk


def hold_to_talk(page):
    """Choose push to talk, and hold the button from now on."""
    page.get_by_role("button", name="Settings").click()
    page.get_by_text("Push to talk").click()
    page.keyboard.press("Escape")
    page.get_by_role("button", name="Hold to talk").hover()
    page.mouse.down()
    page.locator("body[data-phase=hearing]").wait_for(timeout=SPOKEN)


@pytest.mark.parametrize("called", [False, WITH_CALLS])
@pytest.mark.parametrize("again", [True, False], ids=["connected again", "not yet"])
def test_what_is_said_across_a_broken_connection_is_sent_whole(server, tmp_path, called, again):
    recording = microphone_file(tmp_path, 1.5, "cow")
    with (
        serving(server.service.model, ice=IceSettings() if called else None) as other,
        conversing(other, recording) as page,
    ):
        hold_to_talk(page)
        page.wait_for_timeout(2200 if again else 4000)  # fixed time: somebody speaks, at the speed of speech
        end_session(other, page)
        if again:
            is_open(page)
            page.wait_for_timeout(1800)  # fixed time: as before
        else:
            assert "What you say is kept" in page.locator("#phase").inner_text()
        page.mouse.up()
        assert said(reply(page, 1)) == "A cow says moo."
        assert page.locator(".turn.user").count() == 2
        (heard,) = [one.content[0].audio for one in newest(other).conversation.items if one.content[0].audio]
        assert heard.duration_s > 3.5
        told = set(page.locator(".notice strong").all_inner_texts())
        assert told <= {"Could not hear you"}  # the recording is over: silence follows


LONG = """async (seconds) => {
  const { Recording } = await import("./dialogue/recording.js");
  const { add } = Recording.prototype;
  Recording.prototype.add = function (pcm) {
    this.frames ||= seconds * 24_000;  // as if so much had been said
    return add.call(this, pcm);
  };
  window.told = [];
  new MutationObserver(() => window.told.push(document.querySelector("#notices").textContent)).observe(
    document.querySelector("#notices"), { childList: true, subtree: true });
}"""


@pytest.mark.parametrize(
    ("called", "whose"), [(False, "page"), (False, "server"), pytest.param(True, "page", marks=WITH_CALLS.marks)]
)
def test_the_longest_turn_is_sent_and_that_is_told_once(server, tmp_path, monkeypatch, called, whose):
    recording = microphone_file(tmp_path, 0.5, "cow", 4.0)
    with (
        serving(server.service.model, ice=IceSettings() if called else None) as other,
        chromium(recording) as browser,
        opened(browser, other.address()) as page,
    ):
        if whose == "server":
            object.__setattr__(other.service.limits, "max_buffer_s", 3.5)
        page.evaluate(LONG, 116.5 if whose == "page" else 0)
        hold_to_talk(page)
        assert said(reply(page, 0)) == "A cow says moo."  # though the button is still held
        page.mouse.up()
        page.wait_for_timeout(500)  # fixed time: another notice would be seen
        (told,) = page.evaluate("window.told")
        assert "The longest turn is reached" in told
        assert page.locator(".turn.user").count() == 1
