"""The server's own page, in a real browser, against the real server with the nano model."""

import asyncio
import json
import re
import threading
import time
from contextlib import contextmanager

import numpy as np
import pytest

from browser import QUESTIONS, browser_tests, chromium, microphone_file, opened
from echox import EchoX
from echox.audio import load_audio

pytestmark = browser_tests
SPOKEN = 30_000  # ms: a question at the speed of speech, its answer, and a busy machine
BRAZIL = "Brazil is a country in South America. Its capital is Brasilia. It is known for football and the rain forest."


class Server:
    """The real application in a thread; the test may look into its sessions."""

    def __init__(self, model, api_key=None):
        import uvicorn

        from echox.serving.limits import Limits
        from echox.serving.security import Door
        from echox.serving.server import create_app
        from echox.serving.service import Service

        self.service = Service(model, "nano", Limits(wait_s=0.2))
        config = uvicorn.Config(create_app(self.service, Door(api_key, any_host=True)), port=0, log_level="warning")
        self.uvicorn = uvicorn.Server(config)
        self.thread = threading.Thread(target=self._run, daemon=True)

    def _run(self):
        self.loop = asyncio.new_event_loop()
        asyncio.set_event_loop(self.loop)
        self.loop.run_until_complete(self.uvicorn.serve())

    def await_(self, coroutine):
        """Run something in the server's loop."""
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(10)

    @property
    def port(self):
        return self.uvicorn.servers[0].sockets[0].getsockname()[1]

    def address(self, name="127.0.0.1"):
        return f"http://{name}:{self.port}/"

    @property
    def items(self):
        """What the model remembers of the newest conversation."""
        session = max(self.service.sessions, key=lambda session: session._expires_at)
        return [(item.role, item.content[0].text) for item in session.conversation.items]


@contextmanager
def serving(*options):
    server = Server(*options)
    server.thread.start()
    deadline = time.monotonic() + 60
    while not server.uvicorn.started:
        assert time.monotonic() < deadline, "the server did not start"
        time.sleep(0.05)
    try:
        yield server
    finally:
        server.uvicorn.should_exit = True
        server.thread.join(30)
    assert not server.thread.is_alive()


@pytest.fixture(scope="module")
def model():
    return EchoX.from_pretrained("nano")


@pytest.fixture(scope="module")
def server(model):
    with serving(model) as server:
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


def ask(page, text):
    page.get_by_label("Message").fill(text)
    page.keyboard.press("Enter")


def reply(page, number, state="done"):
    """The number-th reply, once it is in that state."""
    turn = page.locator(".turn.assistant").nth(number)
    turn.and_(page.locator(f"[data-state={state}]")).wait_for(timeout=SPOKEN)
    return turn


def said(turn):
    return turn.locator(".said").inner_text().strip()


def kept_of(turn):
    """The text of a reply that is not struck out."""
    lost = turn.locator("del").inner_text() if turn.locator("del").count() else ""
    return said(turn).removesuffix(lost).strip()


def played_s(turn):
    """(seconds heard, seconds in all), as the page shows them."""
    found = re.search(r"([\d.]+) of ([\d.]+) s", turn.locator(".meta").inner_text())
    return (float(found[1]), float(found[2])) if found else (0.0, 0.0)


def until_played(page, turn, seconds):
    deadline = time.monotonic() + 20
    while played_s(turn)[0] < seconds:
        assert time.monotonic() < deadline, "the reply is not being played"
        page.wait_for_timeout(50)


def heard_s(page):
    return page.evaluate("window.heardS")


# ------------------------------------------------------------------------------------------------ talking


def test_a_spoken_question_is_answered_aloud(server, tmp_path):
    with talking(server, tmp_path, 1.0, "cow") as page:
        page.locator("body[data-phase=hearing]").wait_for(timeout=SPOKEN)
        turn = page.locator(".turn.assistant").first
        page.locator("body[data-phase=speaking]").wait_for(timeout=SPOKEN)
        times = []
        while page.locator("body[data-phase=speaking]").count():
            times.append(played_s(turn)[0])
            page.wait_for_timeout(100)
        reply(page, 0)
        assert times == sorted(times)
        assert len(set(times)) >= 4  # time advances while it speaks, not at once at its end
        assert said(turn) == "A cow says moo."
        assert "cow" in said(page.locator(".turn.user").first)
        heard, whole = played_s(turn)
        assert heard == whole == pytest.approx(1.5, abs=0.3)
        assert heard_s(page) > 0.5 * whole  # it really came out
        first_audio_s = float(page.locator("#first-audio").inner_text().split()[0])
        assert 0.5 < first_audio_s < 15  # at least the pause that ends a turn
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


def test_a_moment_of_voice_lowers_the_reply_and_does_not_end_it(server, tmp_path):
    recording = microphone_file(tmp_path, 1.0, "brazil", 4.3, ("cow", 0.0, 0.4))
    with chromium(recording) as browser, opened(browser, server.address()) as page:
        levels = []
        page.expose_function("tell", lambda on: levels.append(on))
        page.evaluate("""async () => {
          const { Player } = await import("./audio.js");
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
        page.wait_for_timeout(3500)
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
    page.wait_for_timeout(300)
    silent_from = heard_s(page)
    page.wait_for_timeout(700)
    assert heard_s(page) == silent_from
    assert page.locator("#phase").inner_text() == "Ready."
    assert not page.get_by_role("button", name="Stop").is_visible()


def test_an_audio_file_is_a_turn(page):
    page.locator("#file").set_input_files(QUESTIONS["capital"])
    assert said(reply(page, 0)) == "The capital of Brazil is Brasilia."
    assert "capital of Brazil" in said(page.locator(".turn.user").first)
    page.locator("#file").set_input_files({"name": "no.wav", "mimeType": "audio/wav", "buffer": b"not a sound"})
    assert "no.wav cannot be sent" in page.get_by_role("alert").inner_text()


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


def test_the_conversation_can_be_downloaded(page, tmp_path):
    ask(page, "What does a cow say?")
    reply(page, 0)
    page.locator("#file").set_input_files(QUESTIONS["cow"])
    reply(page, 1)
    saved = []
    page.on("download", lambda download: saved.append(download))
    page.get_by_role("button", name="Download the conversation").click()
    deadline = time.monotonic() + 10
    while len(saved) < 2 and time.monotonic() < deadline:
        page.wait_for_timeout(50)
    paths = {download.suggested_filename.rsplit(".", 1)[1]: download.path() for download in saved}
    data = json.loads(paths["json"].read_text(encoding="utf-8"))
    assert data["model"] == "nano"
    assert [turn["role"] for turn in data["turns"]] == ["user", "assistant"] * 2
    assert [turn["source"] for turn in data["turns"]][::2] == ["text", "file"]
    assert data["turns"][1]["text"] == data["turns"][3]["text"] == "A cow says moo."
    rate = data["sampling_rate"]
    recording = load_audio(paths["wav"], rate)
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


def test_a_lost_connection_comes_back_and_knows_what_was_said(server, page):
    ask(page, "What does a cow say?")
    reply(page, 0)
    (session,) = server.service.sessions
    server.loop.call_soon_threadsafe(session.shut_down)
    page.get_by_role("alert").get_by_text("told to the next session").wait_for()
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


def test_a_full_server_is_waited_for(server, page):
    places = server.service.session_places
    taken = [server.await_(places.take()) for _ in range(server.service.limits.max_sessions)]
    ask(page, "What does a cow say?")
    page.get_by_role("alert").get_by_text("no free session").wait_for()
    assert page.get_by_label("Message").input_value() == "What does a cow say?"  # not lost

    async def give():
        for _ in taken:
            places.give()

    server.await_(give())
    page.locator("#connection[data-state=open]").wait_for()
    page.get_by_role("button", name="Send", exact=True).click()
    assert said(reply(page, 0)) == "A cow says moo."


def test_a_key_is_asked_for_and_not_kept_on_disk():
    with (
        serving(EchoX.from_pretrained("nano"), "sesame") as server,
        chromium() as browser,
        opened(browser, server.address(), expected="WebSocket connection to") as page,
    ):
        ask(page, "What does a cow say?")
        page.get_by_role("alert").get_by_text("API key").wait_for()
        page.get_by_role("button", name="Settings").click()
        page.get_by_label("API key").fill("sesame")
        page.get_by_role("button", name="Close").click()
        page.get_by_role("button", name="Send", exact=True).click()
        assert said(reply(page, 0)) == "A cow says moo."
        assert "sesame" not in page.evaluate("JSON.stringify(localStorage)")


# ------------------------------------------------------------------------------------------------ for everybody


def test_names_and_landmarks(page):
    ask(page, "What does a cow say?")
    reply(page, 0)
    tree = page.locator("body").aria_snapshot()
    for part in (
        "- banner:",
        "- main:",
        'heading "EchoX" [level=1]',
        "status: Connected",
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
    for part in ('group "Taking turns"', 'radio "Hands-free', 'slider "Temperature"', 'textbox "Instructions"',
                 'combobox "Microphone"', 'slider "Volume"', 'textbox "API key"'):  # fmt: skip
        assert part in dialog, f"{part} is not in the dialog:\n{dialog}"
    assert page.evaluate("document.activeElement.closest('dialog') !== null")  # the focus is in it
    page.keyboard.press("Escape")
    assert page.evaluate("document.activeElement.id") == "open-settings"  # and comes back


def test_everything_is_reached_by_tab_in_reading_order(page):
    order = []
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
        "Skip to the message field", "Theme: as the system", "Settings", "Tell me what you know about Brazil.",
        "What is the capital of France?", "What does a cow say?", "Talk", "Message", "Send", "Send an audio file",
    ]  # fmt: skip


@pytest.mark.parametrize(("motion", "moves"), [("no-preference", True), ("reduce", False)])
def test_nothing_moves_where_motion_is_unwelcome(server, motion, moves):
    with chromium() as browser, opened(browser, server.address(), reduced_motion=motion) as page:
        ask(page, "Tell me what you know about Brazil.")
        until_played(page, page.locator(".turn.assistant").first, 0.5)
        drawn = set()
        for _ in range(5):
            drawn.add(page.evaluate("document.getElementById('voice').toDataURL()"))
            page.wait_for_timeout(120)
        assert (len(drawn) > 1) == moves


def test_what_was_chosen_is_kept_and_nonsense_is_not_believed(server):
    with chromium() as browser, opened(browser, server.address()) as page:
        page.get_by_role("button", name="Theme").click()
        page.get_by_role("button", name="Settings").click()
        page.get_by_role("slider", name="Temperature").fill("0.8")
        page.wait_for_timeout(50)
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


@pytest.mark.parametrize("width", [320, 390, 1400])
def test_it_fits_and_both_themes_are_readable(page, width):
    page.set_viewport_size({"width": width, "height": 640})
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    papers = []
    for theme in ("system", "light", "dark"):
        if theme != "system":
            page.get_by_role("button", name="Theme").click()
            assert page.get_by_role("button", name=f"Theme: {theme}").is_visible()
        ink, paper = page.evaluate("(s => [s.color, s.backgroundColor])(getComputedStyle(document.body))")
        assert contrast(ink, paper) > 7
        for selector in (".connection", "#phase", "#figures dt", "h1 span", ".suggestions button"):
            colour = page.evaluate(f"getComputedStyle(document.querySelector('{selector}')).color")
            assert contrast(colour, paper) > 4.5, f"{selector} in {theme}"
        papers.append(paper)
    assert papers[0] == papers[1] != papers[2]


def contrast(one, other):
    """Ratio as WCAG 2 defines it."""

    def luminance(colour):
        channels = [int(value) / 255 for value in re.findall(r"\d+", colour)[:3]]
        linear = [c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


# ------------------------------------------------------------------------------------------------ the parts


def test_the_witness_sees_what_leaves_this_machine():
    leak = "data:text/html,<img src='http://echox.invalid/pixel.png'>"
    with (
        chromium() as browser,
        pytest.raises(AssertionError, match="from outside: .*pixel.png"),
        opened(browser, leak) as page,
    ):
        page.wait_for_timeout(300)


def test_the_jitter_buffer_counts_what_it_plays(page):
    found = page.evaluate("""async () => {
      const { JitterBuffer } = await import("./jitter-buffer.js");
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
        ["started", "a", 0], ["underrun", "a", 100], ["started", "b", 0], ["ended", "b", 30], ["started", "c", 0],
    ]  # fmt: skip
    played = np.array(found["played"])[:330]  # to the last sample of "b"
    assert played.max() == pytest.approx(0.5)
    assert np.abs(np.diff(played)).max() <= 0.11  # fades, no clicks


@pytest.mark.parametrize("rate", [48000, 44100, 16000, 24000])
def test_the_resampler_keeps_the_sound_and_drops_what_would_fold(page, rate):
    found = page.evaluate(
        """async (rate) => {
          const { Resampler } = await import("./resampler.js");
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
