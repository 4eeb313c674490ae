"""The server's own page in a real browser, with the real server and the nano model: conversations and errors."""

from contextlib import contextmanager

import numpy as np
import pytest

from browser import QUESTIONS, browser_tests, chromium, microphone_file, opened
from echox import EchoX
from echox.audio import load_audio
from waiting import wait_until
from web_page import BRAZIL, SPOKEN, ask, downloaded, heard_s, kept_of, played_s, reply, said, serving, until_played

pytestmark = browser_tests


@pytest.fixture(scope="module")
def server():
    with serving(EchoX.from_pretrained("nano")) as server:
        yield server


@pytest.fixture
def page(server):
    """The page in a browser whose microphone is silent."""
    with chromium() as browser, opened(browser, server.address()) as page:
        yield page


@contextmanager
def talking(server, folder, *parts):
    """The page with somebody speaking into the microphone."""
    with chromium(microphone_file(folder, *parts)) as browser, opened(browser, server.address()) as page:
        page.get_by_role("button", name="Talk").click()
        yield page


# ------------------------------------------------------------------------------------------------ talking


def test_a_spoken_question_is_answered_aloud(server, tmp_path):
    with talking(server, tmp_path, 1.0, "cow") as page:
        page.locator("body[data-phase=hearing]").wait_for(timeout=SPOKEN)
        turn = page.locator(".turn.assistant").first
        page.locator("body[data-phase=speaking]").wait_for(timeout=SPOKEN)
        times = []
        while page.locator("body[data-phase=speaking]").count():
            times.append(played_s(turn)[0])
            page.wait_for_timeout(100)  # fixed time: a step of the loop
        reply(page, 0)
        assert times == sorted(times)
        assert len(set(times)) >= 4  # time advances while it speaks, not at once at its end
        assert said(turn) == "A cow says moo."
        assert "cow" in said(page.locator(".turn.user").first)
        heard, whole = played_s(turn)
        assert heard == whole == pytest.approx(1.5, abs=0.3)
        assert heard_s(page) > 0.5 * whole  # it really came out
        page.get_by_text("Figures").click()
        first_audio_s = float(page.locator("#first-audio").inner_text().split()[0])
        assert 0.15 < first_audio_s < 15  # at least the shortest pause that ends a turn
        assert float(page.locator("#rtf").inner_text()) > 0
        assert page.locator("#connection").inner_text() == "Connected"


def test_speaking_over_the_reply_interrupts_it(server, tmp_path):
    with talking(server, tmp_path, 1.0, "brazil", 4.3, "cow") as page:
        cut = reply(page, 0, "interrupted")
        second = reply(page, 1)
        assert said(second) == "A cow says moo."
        heard, whole = played_s(cut)
        assert 0 < heard <= whole < 6.5  # on a busy machine not all of it had come yet
        kept = kept_of(cut)
        assert BRAZIL.startswith(kept)
        assert 0 < len(kept) < len(BRAZIL)
        assert server.items[1] == ("assistant", kept)  # the model knows no more than was heard
        assert page.locator(".turn").count() == 4


def test_short_speech_lowers_the_reply_and_does_not_end_it(server, tmp_path):
    recording = microphone_file(tmp_path, 1.0, "brazil", 5.0, ("cow", 0.0, 0.4))
    with chromium(recording) as browser, opened(browser, server.address()) as page:
        levels = []
        page.expose_function("tell", lambda on: levels.append(on))
        page.evaluate("""async () => {
          const { Player } = await import("./sound/audio.js");
          const duck = Player.prototype.duck;
          Player.prototype.duck = function (on) { tell(on); return duck.call(this, on); };
        }""")
        page.get_by_role("button", name="Talk").click()
        turn = reply(page, 0)
        assert levels[-2:] == [True, False]  # lowered, and back
        assert said(turn) == BRAZIL
        assert page.locator(".turn").count() == 2
        assert not turn.locator("del").count()


def test_push_to_talk(server, tmp_path):
    with chromium(microphone_file(tmp_path, 0.6, "cow")) as browser, opened(browser, server.address()) as page:
        page.get_by_role("button", name="Settings").click()
        page.get_by_role("radio", name="Push to talk").check()
        page.keyboard.press("Escape")
        button = page.get_by_role("button", name="Hold to talk")
        button.focus()
        page.keyboard.down("Space")
        page.locator("body[data-phase=hearing]").wait_for(timeout=SPOKEN)
        page.wait_for_timeout(3500)  # fixed time: the user speaks
        page.keyboard.up("Space")
        assert said(reply(page, 0)) == "A cow says moo."
        assert page.locator(".turn.user").count() == 1
        page.keyboard.press("Space")  # too short to be a turn
        page.get_by_text("Hold the button while you speak").wait_for()


# ------------------------------------------------------------------------------------------------ typing


def test_typing_interrupts_and_the_conversation_goes_on(server, page):
    ask(page, "Tell me what you know about Brazil.")
    first = page.locator(".turn.assistant").first
    until_played(page, first, 1.5)
    ask(page, "What does a cow say?")
    cut, second = reply(page, 0, "interrupted"), reply(page, 1)
    assert said(second) == "A cow says moo."
    kept = kept_of(cut)
    assert BRAZIL.startswith(kept)
    assert server.items == [
        ("user", "Tell me what you know about Brazil."),
        ("assistant", kept),
        ("user", "What does a cow say?"),
        ("assistant", "A cow says moo."),
    ]
    assert heard_s(page) > 1.5


def test_escape_stops_the_reply(server, page):
    page.get_by_role("button", name="Tell me what you know about Brazil.").click()
    turn = page.locator(".turn.assistant").first
    until_played(page, turn, 0.8)
    page.keyboard.press("Escape")
    reply(page, 0, "interrupted")
    page.wait_for_timeout(300)  # fixed time: the last sound fades
    silent_from = heard_s(page)
    page.wait_for_timeout(700)  # fixed time: what is still played would be heard now
    assert heard_s(page) == silent_from
    assert page.locator("#phase").inner_text() == "Ready."
    assert not page.get_by_role("button", name="Stop").is_visible()


def test_an_audio_file_is_a_turn(page):
    page.locator("#file").set_input_files(QUESTIONS["capital"])
    assert said(reply(page, 0)) == "The capital of Brazil is Brasilia."
    assert "capital" in said(page.locator(".turn.user").first)
    page.locator("#file").set_input_files({"name": "no.wav", "mimeType": "audio/wav", "buffer": b"not a sound"})
    page.get_by_role("alert").get_by_text("no.wav cannot be sent").wait_for()


def test_sampling_settings_reach_the_server(server, page):
    page.get_by_role("button", name="Settings").click()
    page.get_by_role("slider", name="Temperature").fill("0.8")
    page.get_by_label("Seed").fill("7")
    page.get_by_role("checkbox", name="Speak the reply").uncheck()
    page.get_by_role("button", name="Close").click()
    ask(page, "What does a cow say?")
    turn = reply(page, 0)
    assert said(turn)
    assert played_s(turn) == (0.0, 0.0)  # written only
    (session,) = server.service.sessions
    shown = session.options.to_dict()
    assert (shown["temperature"], shown["seed"], shown["output_modalities"]) == (0.8, 7, ["text"])


def test_choices_can_be_undone(server, page):
    """Also those that the server once got, and with the conversation."""
    ask(page, "What does a cow say?")
    reply(page, 0)
    page.get_by_role("button", name="Settings").click()
    for name, value in [("Temperature", "0.8"), ("Your turn ends", "700")]:
        page.get_by_role("slider", name=name).fill(value)
    page.get_by_role("button", name="Close").click()
    page.wait_for_function("JSON.parse(localStorage['echox-settings']).silence === '700'")
    (session,) = server.service.sessions
    wait_until(lambda: session.options.turn_detection.get("silence_duration_ms") == 700, "the pause is asked for")
    assert session.options.turn_detection["type"] == "server_vad"
    page.get_by_role("button", name="Settings").click()
    page.get_by_role("button", name="Use the defaults").click()
    page.get_by_role("button", name="Close").click()
    ask(page, "What is the capital of France?")
    assert said(reply(page, 1)) == "The capital of France is Paris."
    assert [text for _, text in server.items[:2]] == ["What does a cow say?", "A cow says moo."]
    (session,) = server.service.sessions
    assert session.options.turn_detection["type"] == "semantic_vad"
    assert session.options.turn_detection["eagerness"] == "auto"
    assert "temperature" not in session.options.to_dict()
    assert page.evaluate("JSON.parse(localStorage['echox-settings'])") == {}


def test_the_conversation_can_be_downloaded(page, tmp_path):
    ask(page, "What does a cow say?")
    reply(page, 0)
    page.locator("#file").set_input_files(QUESTIONS["cow"])
    reply(page, 1)
    data, recording = downloaded(page)
    assert data["model"] == "nano"
    assert [turn["role"] for turn in data["turns"]] == ["user", "assistant"] * 2
    assert [turn["source"] for turn in data["turns"]][::2] == ["text", "file"]
    assert data["turns"][1]["text"] == data["turns"][3]["text"] == "A cow says moo."
    rate = data["sampling_rate"]
    for turn in data["turns"][1:]:
        start_s, end_s = turn["audio"]["start_s"], turn["audio"]["end_s"]
        sound = recording[int(start_s * rate) : int(end_s * rate)]
        assert len(sound) / rate == pytest.approx(end_s - start_s, abs=0.01)
        assert np.sqrt(np.mean(sound**2)) > 0.01
    question = load_audio(QUESTIONS["cow"], rate)  # what was sent is what was saved
    start_s, end_s = data["turns"][2]["audio"].values()
    assert end_s - start_s == pytest.approx(len(question) / rate, abs=0.01)


# ------------------------------------------------------------------------------------------------ when things fail


def test_a_refused_microphone_is_explained_and_typing_works(server):
    with chromium(allowed=False) as browser, opened(browser, server.address()) as page:
        page.get_by_role("button", name="Talk").click()
        page.get_by_role("alert").get_by_text("allow the microphone").wait_for()
        ask(page, "What does a cow say?")
        assert said(reply(page, 0)) == "A cow says moo."


def test_without_https_the_page_says_so_and_still_speaks(server):
    with chromium() as browser, opened(browser, server.address("echox.test")) as page:
        assert not page.evaluate("window.isSecureContext")
        assert "HTTPS" in page.get_by_role("alert").inner_text()
        assert page.get_by_role("button", name="Talk").is_disabled()
        ask(page, "What does a cow say?")
        assert said(reply(page, 0)) == "A cow says moo."
        assert heard_s(page) > 0.7


def test_a_lost_connection_is_restored_with_the_conversation(server, page):
    ask(page, "What does a cow say?")
    reply(page, 0)
    (session,) = server.service.sessions
    server.loop.call_soon_threadsafe(session.shut_down)
    page.get_by_role("alert").get_by_text("next session continues this conversation").wait_for()
    page.locator("#connection[data-state=open]").wait_for()
    assert page.get_by_role("alert").inner_text() == ""
    ask(page, "What is the capital of France?")
    assert said(reply(page, 1)) == "The capital of France is Paris."
    assert server.items == [
        ("user", "What does a cow say?"),
        ("assistant", "A cow says moo."),
        ("user", "What is the capital of France?"),
        ("assistant", "The capital of France is Paris."),
    ]


def test_the_page_waits_for_a_full_server(server, page):
    places = server.service.session_admission
    taken = [server.await_(places.acquire()) for _ in range(server.service.limits.max_sessions)]
    ask(page, "What does a cow say?")
    page.get_by_role("alert").get_by_text("all its places for conversations are taken").wait_for()
    assert page.get_by_label("Message").input_value() == "What does a cow say?"  # not lost

    async def give():
        for _ in taken:
            places.release()

    server.await_(give())
    page.locator("#connection[data-state=open]").wait_for()
    page.get_by_role("button", name="Send", exact=True).click()
    assert said(reply(page, 0)) == "A cow says moo."


def test_a_key_is_requested_and_not_kept_on_disk():
    with (
        serving(EchoX.from_pretrained("nano"), "sesame") as server,
        chromium() as browser,
        opened(browser, server.address(), expected=("WebSocket connection to", "401")) as page,
    ):
        ask(page, "What does a cow say?")
        for shown, told in (("", "The server asks for an API key."), ("open", "does not accept this API key")):
            if shown:
                page.keyboard.type(shown)
                page.keyboard.press("Enter")
            page.get_by_role("alert").get_by_text(told).wait_for()
            page.get_by_role("button", name="Enter the key").click()
            assert page.evaluate("document.activeElement.id") == "key"  # and what is in it is selected
        page.keyboard.type("sesame")
        page.keyboard.press("Enter")
        page.locator("#connection[data-state=open]").wait_for()
        assert page.get_by_role("alert").inner_text() == ""
        page.get_by_role("button", name="Send", exact=True).click()
        assert said(reply(page, 0)) == "A cow says moo."
        assert "sesame" not in page.evaluate("JSON.stringify(localStorage)")


# ------------------------------------------------------------------------------------------------ hearing


def test_a_silent_microphone_is_told_with_its_name_and_level(server, tmp_path):
    with talking(server, tmp_path, 60.0) as page:
        alert = page.get_by_role("alert")
        alert.get_by_text("Could not hear you").wait_for(timeout=SPOKEN)
        name = page.evaluate("navigator.mediaDevices.enumerateDevices().then((all) => all.map((one) => one.label))")
        assert any(label and label in alert.inner_text() for label in name)
        assert page.locator("#notices meter").evaluate("(meter) => meter.value") == pytest.approx(0, abs=0.01)
        page.get_by_role("button", name="Choose a microphone").click()
        assert page.evaluate("document.activeElement.id") == "device"
        assert page.locator("#device option").count() > 1


def test_the_level_moves_and_the_notice_goes_when_something_is_heard(server, tmp_path):
    with talking(server, tmp_path, 9.0, "brazil") as page:
        page.get_by_text("Could not hear you").wait_for(timeout=SPOKEN)
        page.wait_for_function("() => document.querySelector('#level').value > 0.05", timeout=SPOKEN)
        page.get_by_text("Could not hear you").wait_for(state="detached", timeout=SPOKEN)
        assert said(reply(page, 0)) == BRAZIL


WATCH = """
window.phases = [];
new MutationObserver(() => window.phases.push(document.querySelector("#phase").textContent)).observe(
  document.querySelector("#phase"), { childList: true, characterData: true, subtree: true });
"""


def test_a_reply_that_is_begun_in_a_pause_is_shown(server, tmp_path):
    with chromium(microphone_file(tmp_path, 1.0, "cow")) as browser, opened(browser, server.address()) as page:
        page.evaluate(WATCH)
        page.get_by_role("button", name="Talk").click()
        assert said(reply(page, 0)) == "A cow says moo."
        phases = page.evaluate("window.phases")
        begun = next(n for n, words in enumerate(phases) if words.startswith("A pause: a reply is being begun"))
        assert any(words.startswith("Hearing you") for words in phases[:begun])
        assert any(words.startswith("Speaking") for words in phases[begun:])
