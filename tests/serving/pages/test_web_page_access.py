"""Accessibility of the page: names, keyboard, themes, motion; and tests of its parts."""

import re

import numpy as np
import pytest

from browser import browser_tests, chromium, opened
from echox import EchoX
from web_page import ask, contrast, reply, serving, until_played

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


def test_names_and_landmarks(page):
    ask(page, "What does a cow say?")
    reply(page, 0)
    tree = page.locator("body").aria_snapshot()
    for part in (
        "- banner:",
        "- main:",
        'heading "EchoX" [level=1]',
        'status "WebSocket: this server takes no calls (WebRTC)"\': Connected',  # how, by its title
        'region "Conversation"',
        'region "Your turn"',
        'button "Talk"',
        'textbox "Message"',
        'button "Send"',
        'button "Send an audio file"',
        'button "Settings"',
        'heading "You" [level=2]',
        "A cow says moo.",
        'button "Hear again"',
    ):
        assert part in tree, f"{part} is not in the accessibility tree:\n{tree}"
    assert "button:" not in re.sub(r'button "[^"]+"[^\n]*', "", tree), "a button has no name"
    page.get_by_role("button", name="Settings").click()
    dialog = page.get_by_role("dialog", name="Settings").aria_snapshot()
    for part in (
        'group "Taking turns"',
        'radio "Hands-free',
        'slider "Temperature"',
        'textbox "Instructions"',
        'combobox "Microphone"',
        'slider "Volume"',
        'textbox "API key"',
    ):
        assert part in dialog, f"{part} is not in the dialog:\n{dialog}"
    assert page.evaluate("document.activeElement.closest('dialog') !== null")  # the focus is in it
    page.keyboard.press("Escape")
    assert page.evaluate("document.activeElement.id") == "open-settings"  # and comes back


def test_everything_is_reached_by_tab_in_reading_order(page):
    order = []
    page.get_by_role("button", name="What does a cow say?").wait_for()
    for _ in range(14):
        page.keyboard.press("Tab")
        label = page.evaluate(
            "(e => e.ariaLabel || e.labels?.[0]?.textContent || e.textContent.trim())(document.activeElement)"
        )
        outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
        frame = page.evaluate("getComputedStyle(document.activeElement.parentElement).boxShadow")
        assert outline != "none" or frame != "none", f"the focus on {label!r} is not seen"
        order.append(label)
        if label == "Send an audio file":
            break
    assert order == [
        "Skip to the message field",
        "Theme: as the system",
        "Settings",
        "Tell me what you know about Brazil.",
        "What is the capital of France?",
        "What does a cow say?",
        "Talk",
        "Message",
        "Send",
        "Send an audio file",
    ]


@pytest.mark.parametrize(("motion", "moves"), [("no-preference", True), ("reduce", False)])
def test_nothing_moves_with_reduced_motion(server, motion, moves):
    with chromium() as browser, opened(browser, server.address(), reduced_motion=motion) as page:
        ask(page, "Tell me what you know about Brazil.")
        until_played(page, page.locator(".turn.assistant").first, 0.5)
        drawn = set()
        for _ in range(5):
            drawn.add(page.evaluate("document.getElementById('voice').toDataURL()"))
            page.wait_for_timeout(120)  # fixed time: between two pictures
        assert (len(drawn) > 1) == moves


def test_choices_are_kept_and_invalid_storage_is_ignored(server):
    with chromium() as browser, opened(browser, server.address()) as page:
        page.get_by_role("button", name="Theme").click()
        page.get_by_role("button", name="Settings").click()
        page.get_by_role("slider", name="Temperature").fill("0.8")
        page.wait_for_function("Object.values(localStorage).some((text) => text.includes('0.8'))")
        page.reload()
        assert page.get_by_role("button", name="Theme: light").is_visible()
        assert page.locator("#temperature").input_value() == "0.8"
        page.evaluate("for (const name of Object.keys(localStorage)) localStorage[name] = '{'")
        page.reload()
        assert page.get_by_role("button", name="Theme: as the system").is_visible()
        assert page.locator("#temperature").input_value() == "0"
        page.add_init_script("Object.defineProperty(window, 'localStorage', { get() { throw new Error('blocked') } })")
        page.reload()
        page.get_by_role("button", name="Theme").click()
        assert page.get_by_role("button", name="Theme: light").is_visible()


@pytest.mark.parametrize("width", [320, 360])
def test_the_first_view_of_a_phone_shows_example_questions(server, width):
    with chromium() as browser, opened(browser, server.address(), viewport={"width": width, "height": 640}) as page:
        about = server.service.model.about
        assert page.locator("#knows").inner_text() == about.knows
        stage = page.locator("#stage").bounding_box()
        for example in about.examples:
            box = page.get_by_role("button", name=example).bounding_box()
            assert box["y"] + box["height"] <= stage["y"] + stage["height"], f"{example!r} is cut off"


def test_measurements_are_shown_on_request_and_that_is_kept(server):
    with chromium() as browser, opened(browser, server.address()) as page:
        ask(page, "What does a cow say?")
        turn = reply(page, 0)
        figures = turn.locator(".figure")
        assert figures.count() == 2
        for shown in (False, True):
            assert page.locator("#rtf").is_visible() == figures.first.is_visible() == shown
            page.get_by_text("Figures").click()
        page.get_by_text("Figures").click()
        page.reload()
        page.locator("#rtf").wait_for()


@pytest.mark.parametrize("width", [320, 390, 1400])
def test_it_fits_and_both_themes_are_readable(page, width):
    page.set_viewport_size({"width": width, "height": 640})
    page.get_by_role("button", name="What does a cow say?").wait_for()
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    papers = []
    for theme in ("system", "light", "dark"):
        if theme != "system":
            page.get_by_role("button", name="Theme").click()
            assert page.get_by_role("button", name=f"Theme: {theme}").is_visible()
        ink, paper = page.evaluate("(s => [s.color, s.backgroundColor])(getComputedStyle(document.body))")
        assert contrast(ink, paper) > 7
        for selector in (".connection", "#phase", "#figures summary", "h1 span", "#suggestions button"):
            colour = page.evaluate(f"getComputedStyle(document.querySelector('{selector}')).color")
            assert contrast(colour, paper) > 4.5, f"{selector} in {theme}"
        papers.append(paper)
    assert papers[0] == papers[1] != papers[2]


def test_at_200_percent_everything_can_be_reached_and_nothing_is_cut_off(server):
    """Windows of 1280 x 1024 and of 640 x 1280 at twice the size of everything."""
    sizes = {"screen": {"width": 640, "height": 512}, "narrow": {"width": 320, "height": 640}}
    for name, viewport in sizes.items():
        with chromium() as browser, opened(browser, server.address(), viewport=viewport, device_scale_factor=2) as page:
            ask(page, "What does a cow say?")
            reply(page, 0)
            assert page.evaluate("document.documentElement.scrollWidth") <= viewport["width"], name
            assert page.evaluate("document.documentElement.scrollHeight") <= viewport["height"], name
            assert page.locator("#stage").bounding_box()["height"] > 60, name  # something of the conversation is seen
            for label in ("Talk", "Settings", "Send an audio file"):
                box = page.get_by_role("button", name=label).bounding_box()
                assert box["x"] >= 0, (name, label)
                assert box["x"] + box["width"] <= viewport["width"], (name, label)
                assert box["y"] + box["height"] <= viewport["height"], (name, label)
            page.get_by_role("button", name="Settings").click()
            dialog = page.get_by_role("dialog")
            assert dialog.evaluate("(one) => one.scrollWidth <= one.clientWidth"), name
            page.get_by_role("button", name="Start over").scroll_into_view_if_needed()
            assert page.get_by_role("button", name="Start over").is_visible(), name


# ------------------------------------------------------------------------------------------------ the parts


def test_requests_to_other_machines_are_detected():
    leak = "data:text/html,<img src='http://echox.invalid/pixel.png'>"
    with (
        chromium() as browser,
        pytest.raises(AssertionError, match="from outside: .*pixel.png"),
        opened(browser, leak) as page,
    ):
        page.wait_for_timeout(300)  # fixed time: the page asks for the picture


def test_the_jitter_buffer_counts_what_it_plays(page):
    found = page.evaluate("""async () => {
      const { JitterBuffer } = await import("./sound/jitter-buffer.js");
      const events = [];
      const buffer = new JitterBuffer(1000, (event) => events.push(event), { startMs: 60, fadeMs: 5 });
      const block = new Float32Array(20);
      const played = [];
      const pull = (times) => { for (let i = 0; i < times; i++) { buffer.pull(block); played.push(...block); } };
      buffer.push("a", new Float32Array(40).fill(0.5));
      pull(1);                                   // too little to start with
      buffer.push("a", new Float32Array(60).fill(0.5));
      pull(5);                                   // all of it
      pull(2);                                   // a hole
      buffer.push("a", new Float32Array(200).fill(0.5));
      pull(5);
      const dropped = buffer.flush();
      pull(2);
      buffer.push("b", new Float32Array(30).fill(0.5));
      buffer.end("b");
      pull(3);                                   // short, but whole: it need not wait
      const loudest = () => { pull(3); return Math.max(...block); };
      buffer.push("c", new Float32Array(300).fill(0.5));
      const full = loudest();
      buffer.level = 0.25;
      const ducked = loudest();
      buffer.level = 1;
      const back = loudest();
      const told = events.map(({ type, item, played }) => [type, item, played]);
      return { events: told, dropped, played, underruns: buffer.underruns, levels: [full, ducked, back] };
    }""")
    assert found["underruns"] == 1
    assert found["levels"] == pytest.approx([0.5, 0.125, 0.5])
    assert found["dropped"] == [{"item": "a", "played": 200}]
    assert found["events"] == [
        ["started", "a", 0],
        ["underrun", "a", 100],
        ["started", "b", 0],
        ["ended", "b", 30],
        ["started", "c", 0],
    ]
    played = np.array(found["played"])[:330]  # to the last sample of "b"
    assert played.max() == pytest.approx(0.5)
    assert np.abs(np.diff(played)).max() <= 0.11  # fades, no clicks


@pytest.mark.parametrize("rate", [48000, 44100, 16000, 24000])
def test_the_resampler_keeps_the_audio_without_aliasing(page, rate):
    found = page.evaluate(
        """async (rate) => {
          const { Resampler } = await import("./sound/resampler.js");
          const tone = (hz) => {
            const resampler = new Resampler(rate, 24000);
            const out = [];
            for (let start = 0; start < rate; start += 128) {
              const wave = (_, i) => Math.sin((2 * Math.PI * hz * (start + i)) / rate);
              out.push(...resampler.push(Float32Array.from({ length: 128 }, wave)));
            }
            return out;
          };
          return { low: tone(1000), high: rate > 30000 ? tone(15000) : null };
        }""",
        rate,
    )
    low = np.array(found["low"])
    assert len(low) == pytest.approx(24000, abs=130 * 24000 / rate)  # whole blocks in; some wait for what comes next
    inner = low[2000:20000]
    phase = np.exp(-2j * np.pi * 1000 * np.arange(2000, 20000) / 24000)
    tone = 2 * np.mean(inner * phase)
    rest = inner - np.real(tone * np.conj(phase))
    assert abs(tone) == pytest.approx(1, abs=0.01)
    assert np.sqrt(np.mean(rest**2)) < 1e-3 * np.sqrt(0.5)  # 60 dB
    if found["high"] is not None:
        assert np.abs(np.array(found["high"])[2000:20000]).max() < 1e-2


@pytest.mark.parametrize("call", [True, False])
def test_times_of_the_session_are_found_in_what_was_sent(page, call):
    """The microphone is off twice. In a call the server hears silence then; else its time stands still."""
    found = page.evaluate(
        """async (call) => {
          const { SentAudio } = await import("./sound/sent-audio.js");
          const sent = new SentAudio(call);
          let now = 1000;
          const talk = (seconds, value) => {
            for (let i = 0; i < seconds * 50; i++) sent.add(new Int16Array(480).fill(value), (now += 20));
          };
          const off = (seconds) => (sent.pause(), (now += 1000 * seconds));
          off(5);                    // before the first sound there is no time
          talk(1, 1);
          off(30);
          talk(1, 2);
          const at = call ? [900, 31_100, 31_900] : [900, 1100, 1900];
          const times = at.map((ms) => sent.sentAt(ms, now));
          const turn = [...sent.between(at[1], at[2])];
          const before = [...sent.between(0, 1000)];
          off(3600);
          talk(1, 3);
          const end = (sent.frames / 24000) * 1000;
          sent.add(new Int16Array(24000).fill(4), now);  // a second at once, as after Mute
          const most = Math.max(...sent.pieces.map(({ pcm }) => pcm.length));
          return {
            times, turn, before, end, most, kept: sent.keptFrames,
            last: [...sent.between(end - 500, end)],
            sentAt: sent.sentAt(end, now) - now,
            future: sent.sentAt(1e9, now) - now,
          };
        }""",
        call,
    )
    assert found["times"] == pytest.approx([6900, 37_100, 37_900])
    assert found["turn"] == [2] * int(0.8 * 24000)
    assert found["before"] == [1] * 24000
    assert found["end"] == pytest.approx(3_633_000 if call else 3000)
    assert found["last"] == [3] * 12_000
    assert (found["sentAt"], found["future"]) == (0, 0)
    assert found["kept"] <= 130 * 24000
    assert found["most"] <= 24000  # so that little more than the oldest is dropped
