"""The Gradio page in a real browser, with the real nano model and without a network."""

import importlib.util
import ipaddress
import re
import shutil
import socket
import time

import pytest

from browser import browser_tests, chromium, microphone_file, opened
from echox import EchoX

pytestmark = [  # not imported here: that takes 3 s, also where these tests are not chosen
    *browser_tests,
    pytest.mark.skipif(importlib.util.find_spec("gradio") is None, reason="needs the extra [ui]"),
]
ANSWERED = 40_000  # ms, on a busy machine
BRAZIL = "Brazil is a country in South America. Its capital is Brasilia. It is known for football and the rain forest."


class Watched:
    """The model, its sessions known to the test, and as slow as it likes between two pieces of a reply."""

    def __init__(self, model):
        self.model, self.settings, self.about = model, model.settings, model.about
        self.sessions, self.pause_s = [], 0.0

    def session(self, **options):
        session = self.model.session(**options)
        stream = session.stream

        def slow(*question, **settings):
            events = stream(*question, **settings)
            try:
                for event in events:
                    time.sleep(self.pause_s)
                    yield event
            finally:
                events.close()

        session.stream = slow
        self.sessions.append(session)
        return session


@pytest.fixture(scope="module")
def model():
    return Watched(EchoX.from_pretrained("nano"))


@pytest.fixture(scope="module")
def address(model):
    """The page, in a process that cannot connect to anything but itself."""
    from echox.serving.gradio_page import build_page, launch

    connect, tried = socket.socket.connect, []

    def connect_here(self, target):
        if isinstance(target, tuple) and target[0] != "localhost" and not ipaddress.ip_address(target[0]).is_loopback:
            tried.append(target)
            raise OSError(f"not from here: {target}")
        return connect(self, target)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", connect_here)
        page = build_page(model)
        yield launch(page, block=False)
        page.close()
    assert not tried, f"the server asked for something outside: {tried}"


@pytest.fixture
def page(address, model):
    model.pause_s = 0.0
    model.sessions.clear()
    with chromium() as browser, opened(browser, address) as page:
        page.get_by_role("button", name="Send", exact=True).wait_for(timeout=ANSWERED)
        page.wait_for_timeout(500)  # fixed time: Gradio connects its buttons late and shows no sign of it
        yield page


def send(page, text=""):
    if text:
        page.get_by_label("Or typed").fill(text)
    page.get_by_role("button", name="Send", exact=True).click()


def answered(page, text):
    page.get_by_role("log").get_by_text(text, exact=True).last.wait_for(timeout=ANSWERED)
    page.locator("#figures").get_by_text("rtf").wait_for(timeout=ANSWERED)


def playing(page):
    """(seconds played, seconds there) of the reply."""
    element = "(a => a ? [a.currentTime, a.duration || 0] : [0, 0])(document.querySelector('#speech audio'))"
    return page.evaluate(element)


def test_text_and_speech_stream_back_over_several_turns(page, model):
    send(page, "Tell me what you know about Brazil.")
    answered(page, BRAZIL)
    times = []
    deadline = time.monotonic() + 30
    while playing(page)[0] < 5.5:
        times.append(playing(page)[0])
        assert time.monotonic() < deadline, f"the speech does not advance: {times[-5:]}"
        page.wait_for_timeout(250)  # fixed time: a step of the loop
    assert times == sorted(times)
    assert len(set(times)) > 8
    assert playing(page)[1] == pytest.approx(6.4, abs=0.4)
    assert re.search(r"first audio [\d.]+ s · rtf [\d.]+", page.locator("#figures").inner_text())
    send(page, "What does a cow say?")
    answered(page, "A cow says moo.")
    (session,) = model.sessions  # one conversation
    assert [message.role for message in session.messages] == ["user", "assistant"] * 2


def test_a_recorded_question(address, model, tmp_path):
    model.pause_s = 0.0
    with chromium(microphone_file(tmp_path, 0.5, "cow")) as browser, opened(browser, address) as page:
        page.get_by_role("button", name="Record", exact=True).click()
        page.wait_for_timeout(3500)  # fixed time: the user speaks
        page.locator("#question").get_by_role("button", name="Stop", exact=True).click()
        page.locator("#question").get_by_label("Play", exact=True).first.wait_for(timeout=ANSWERED)
        send(page)
        answered(page, "A cow says moo.")
        assert "cow" in page.get_by_role("log").inner_text()


def test_the_bundled_question(page):
    page.get_by_text("3_cow.wav").click()
    page.locator("#question").get_by_label("Play", exact=True).first.wait_for(timeout=ANSWERED)
    send(page)
    answered(page, "A cow says moo.")
    page.get_by_role("log").get_by_text("Do you know the sound of a cow?").wait_for()  # what it heard


def test_stop_cancels_and_keeps_the_written_text(page, model):
    model.pause_s = 0.25
    send(page, "Tell me what you know about Brazil.")
    page.get_by_role("log").get_by_text("Brazil is a country").wait_for(timeout=ANSWERED)
    page.get_by_role("button", name="Stop", exact=True).click()
    page.locator("#figures").get_by_text("stopped").wait_for()
    (session,) = model.sessions
    deadline = time.monotonic() + 10
    while len(session.messages) < 2:
        assert time.monotonic() < deadline, "the reply was not cancelled"
        page.wait_for_timeout(100)  # fixed time: a step of the loop
    written = session.messages[1].parts[0]
    assert BRAZIL.startswith(written)
    assert len(written) < len(BRAZIL)
    model.pause_s = 0.0
    send(page, "What does a cow say?")
    answered(page, "A cow says moo.")


def test_errors_are_shown(page):
    send(page)
    page.get_by_text("Ask something first").wait_for(timeout=ANSWERED)


def test_enter_sends(page):
    page.get_by_label("Or typed").fill("What does a cow say?")
    page.keyboard.press("Enter")
    answered(page, "A cow says moo.")


def test_a_recording_and_a_text_are_not_merged(page, model):
    page.get_by_text("3_cow.wav").click()
    page.locator("#question").get_by_label("Play", exact=True).first.wait_for(timeout=ANSWERED)
    send(page, "What is the capital of France?")
    page.get_by_text("There are a recording and a text.").wait_for(timeout=ANSWERED)
    assert not model.sessions
    assert page.get_by_label("Or typed").input_value() == "What is the capital of France?"  # nothing is lost
    page.get_by_label("Or typed").fill("")
    send(page)
    answered(page, "A cow says moo.")


def test_ffmpeg_comes_from_a_package(monkeypatch, tmp_path):
    imageio_ffmpeg = pytest.importorskip("imageio_ffmpeg")
    from echox.serving.gradio_page import provide_ffmpeg

    monkeypatch.setenv("PATH", str(tmp_path))
    found = provide_ffmpeg()
    assert shutil.which("ffmpeg") == found
    assert provide_ffmpeg() == found  # once is enough
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(imageio_ffmpeg, "get_ffmpeg_exe", lambda: (_ for _ in ()).throw(RuntimeError("none")))
    with pytest.raises(ValueError, match="pip install imageio-ffmpeg"):
        provide_ffmpeg()
