"""Messages of the page about errors of the server, the connection, or the page itself."""

import os
import re
import signal
import subprocess
import sys
import time
from contextlib import contextmanager

import pytest

from browser import browser_tests, chromium, opened
from echox import EchoX
from web_page import SPOKEN, ask, reply, said, serving


def in_browser(test):
    """Marks of a test that needs a browser."""
    for mark in browser_tests:
        test = mark(test)
    return test


@pytest.fixture(scope="module")
def server():
    with serving(EchoX.from_pretrained("nano")) as server:
        yield server


@contextmanager
def process():
    """`echox serve` as a process of its own; yields (it, its address)."""
    command = [sys.executable, "-m", "echox", "serve", "--port", "0", "--threads", "1"]
    environment = {name: value for name, value in os.environ.items() if name != "ECHOX_API_KEY"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as server:
        try:
            yield server, re.search(r"http://\S+", server.stdout.readline())[0]
        finally:
            server.send_signal(signal.SIGCONT)
            server.kill()


def when(page, script):
    """A condition in the page; the seconds until it held."""
    started = time.monotonic()
    while not page.evaluate(script):
        assert time.monotonic() - started < SPOKEN / 1000, f"{script} did not become true"
        page.wait_for_timeout(50)  # fixed time: a step of the loop
    return time.monotonic() - started


CONNECTION = "document.querySelector('#connection span').textContent"
PHASE = "document.querySelector('#phase').textContent"


@in_browser
def test_a_hung_server_and_its_return_are_noticed_within_five_seconds():
    with process() as (hung, address), chromium() as browser, opened(browser, address) as page:
        page.get_by_role("button", name="Talk").click()
        page.locator("body[data-phase=listening]").wait_for(timeout=SPOKEN)
        hung.send_signal(signal.SIGSTOP)
        assert when(page, f"{CONNECTION} === 'No answer'") < 5.0
        assert "does not answer" in page.locator("#phase").inner_text()
        page.wait_for_timeout(500)  # fixed time: a false return would be seen now
        assert page.evaluate(CONNECTION) == "No answer"  # and it stays so
        hung.send_signal(signal.SIGCONT)
        when(page, f"{CONNECTION} === 'Connected' && {PHASE} === 'Listening…'")


@in_browser
def test_a_server_that_hangs_before_the_first_reply_is_noticed():
    with (
        process() as (hung, address),
        chromium() as browser,
        opened(browser, address, expected="WebSocket connection to") as page,
    ):
        page.get_by_role("button", name="What does a cow say?").wait_for()
        hung.send_signal(signal.SIGSTOP)
        ask(page, "What does a cow say?")
        page.get_by_role("alert").get_by_text("The server does not answer.").wait_for(timeout=8000)
        assert page.get_by_label("Message").input_value() == "What does a cow say?"


@in_browser
@pytest.mark.parametrize("name", ["app.js", "realtime.js", "*.js"])
def test_a_page_whose_script_was_refused_shows_a_notice(server, name):
    with chromium() as browser:
        page = browser.new_page()
        page.route(f"**/{name}", lambda route: route.fulfill(status=403, body="refused"))
        page.goto(server.address())
        notice = page.get_by_text("This page has not started")
        assert not notice.is_visible()  # not before the script had time to come
        notice.wait_for(timeout=10_000)
        assert "proxy" in page.get_by_role("alert").first.inner_text()


@in_browser
def test_a_running_page_shows_no_such_notice(server):
    with chromium() as browser, opened(browser, server.address()) as page:
        page.wait_for_timeout(3500)  # fixed time: the notice comes after three seconds
        assert page.get_by_text("This page has not started").count() == 0


@in_browser
def test_recent_settings_apply_to_the_next_turn(server):
    with chromium() as browser, opened(browser, server.address()) as page:
        ask(page, "What does a cow say?")
        reply(page, 0)
        page.evaluate("""() => {
          for (const [id, value] of [["seed", "7"], ["volume", "0.5"], ["temperature", "0.35"]]) {
            const element = document.getElementById(id);
            element.value = value;
            element.dispatchEvent(new Event("input", { bubbles: true }));
          }
          document.getElementById("message").value = "What is the capital of France?";
          document.getElementById("compose").requestSubmit();
        }""")  # all in the same moment
        assert said(reply(page, 1))
        (session,) = server.service.sessions
        shown = session.options.to_dict()
        assert (shown["temperature"], shown["seed"]) == (0.35, 7)
        asked = page.evaluate("localStorage['echox-settings']")
        assert '"volume":"0.5"' in asked


@in_browser
def test_the_sign_of_the_connection_is_written_only_when_it_changes_and_tells_that_there_is_no_network(server):
    with chromium() as browser, opened(browser, server.address("echox.test"), "ERR_INTERNET_DISCONNECTED") as page:
        ask(page, "What does a cow say?")
        reply(page, 0)
        page.evaluate("""() => {
          window.written = [];
          const sign = document.getElementById("connection");
          const note = () => window.written.push(sign.textContent.trim());
          const all = { attributes: true, childList: true, characterData: true, subtree: true };
          new MutationObserver(note).observe(sign, all);
        }""")
        for offline, words in [(True, "Offline"), (False, "Connected")]:
            page.context.set_offline(offline)
            when(page, f"{CONNECTION} === '{words}'")
            page.wait_for_timeout(300)  # fixed time: some frames are drawn
            assert page.evaluate(CONNECTION) == words
        assert page.evaluate("window.written") == ["Offline", "Connected"]  # once each


@in_browser
def test_a_page_of_this_machine_is_never_offline(server):
    with chromium() as browser, opened(browser, server.address(), "ERR_INTERNET_DISCONNECTED") as page:
        ask(page, "What does a cow say?")
        reply(page, 0)
        page.context.set_offline(True)
        page.wait_for_timeout(300)  # fixed time: some frames are drawn
        assert page.evaluate(CONNECTION) == "Connected"


@in_browser
def test_a_notice_that_is_told_again_and_again_is_written_once(server):
    with chromium() as browser, opened(browser, server.address()) as page:
        page.evaluate("""async () => {
          const { View } = await import("./view.js");
          const view = new View(() => {});
          window.written = 0;
          const count = new MutationObserver((changes) => (window.written += changes.length));
          count.observe(document.getElementById("notices"), { childList: true });
          for (let n = 0; n < 50; n++) view.notice("No", n < 40 ? "Why" : "Why else");
        }""")
        assert page.locator(".notice").inner_text().split() == ["No", "Why", "else"]
        assert page.evaluate("window.written") == 3  # one, its removal, another


@in_browser
@pytest.mark.parametrize("reason", ["idle", "restart", "expired"])
def test_the_end_of_a_session_is_explained(server, reason):
    from echox.serving.protocol.events import EventError

    told = {
        "idle": "Nothing was said or typed for a long time",
        "restart": "is being stopped or restarted",
        "expired": "the longest time that the server allows",
    }[reason]
    with chromium() as browser, opened(browser, server.address()) as page:
        ask(page, "What does a cow say?")
        reply(page, 0)
        (session,) = server.service.sessions
        page.evaluate("""() => {
          const notices = document.getElementById("notices");
          const keep = () => (window.seen = (window.seen ?? "") + notices.textContent);
          new MutationObserver(keep).observe(notices, { childList: true, subtree: true });
        }""")
        code = {"idle": "session_idle", "expired": "session_expired"}.get(reason)
        if code:
            error = EventError("raw words of the protocol", code)
            server.loop.call_soon_threadsafe(session.send_error, error)
        server.loop.call_soon_threadsafe(session.shut_down)
        when(page, "Boolean(window.seen)")
        seen = page.evaluate("window.seen")
        assert told in seen
        assert not re.search("raw words|server restart|no event for", seen)
