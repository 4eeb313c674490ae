"""Headless Chromium with a microphone made of audio files, and a witness of all it asks the network for."""

import importlib.util
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from echox.api.loading import bundled_questions
from echox.audio import load_audio, save_audio

CHROMIUM = Path("/usr/bin/chromium")
QUESTIONS = {path.stem.split("_")[1]: path for path in bundled_questions()}  # brazil, capital, cow
SAMPLING_RATE = 16000
ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",  # of the browser itself: what is recorded below is the page's
    "--disable-component-update",
    "--disable-sync",
    "--use-fake-device-for-media-stream",
    "--host-resolver-rules=MAP echox.test 127.0.0.1",  # a name that is not localhost: no secure context
]
WITH_MICROPHONE = "--use-fake-ui-for-media-stream"
NO_MICROPHONE = "--deny-permission-prompts"

# Everything that goes to a loudspeaker passes by here; `heardS` counts the seconds that were not silence.
LISTEN = """
window.heardS = 0;
const connect = AudioNode.prototype.connect;
AudioNode.prototype.connect = function (target, ...rest) {
  if (target instanceof AudioDestinationNode) {
    const analyser = new AnalyserNode(this.context, { fftSize: 1024 });
    connect.call(this, analyser);
    const samples = new Float32Array(1024);
    let looked = performance.now();
    setInterval(() => {
      analyser.getFloatTimeDomainData(samples);
      const [before, loud] = [looked, Math.sqrt(samples.reduce((sum, x) => sum + x * x, 0) / samples.length) > 0.005];
      looked = performance.now();
      if (loud) window.heardS += Math.min(0.1, (looked - before) / 1000);  // a busy machine looks less often
    }, 20);
  }
  return connect.call(this, target, ...rest);
};
"""

if importlib.util.find_spec("playwright") is None:
    skip_reason = "playwright is not installed (pip install playwright)"
elif not CHROMIUM.exists():
    skip_reason = f"no {CHROMIUM} (apt install chromium)"
else:
    skip_reason = ""

browser_tests = [pytest.mark.browser, pytest.mark.skipif(bool(skip_reason), reason=skip_reason)]


def sound(part: str | float | tuple[str, float, float]) -> np.ndarray:
    """A question by its name, a part of one (name, start_s, end_s), or seconds of silence."""
    if isinstance(part, int | float):
        return np.zeros(int(part * SAMPLING_RATE), np.float32)
    name, start_s, end_s = part if isinstance(part, tuple) else (part, 0.0, 60.0)
    return load_audio(QUESTIONS[name], SAMPLING_RATE)[int(start_s * SAMPLING_RATE) : int(end_s * SAMPLING_RATE)]


def microphone_file(folder: Path, *parts: str | float | tuple[str, float, float]) -> Path:
    """A recording of the parts, one after the other; then silence."""
    pieces = [sound(part) for part in (*parts, 60.0)]
    path = folder / "microphone.wav"
    save_audio(path, np.concatenate(pieces), SAMPLING_RATE)
    return path


@contextmanager
def chromium(microphone: Path | None = None, allowed: bool = True):
    """A browser; its fake microphone plays the file once, from when a page first asks for it."""
    from playwright.sync_api import sync_playwright

    arguments = [*ARGUMENTS, WITH_MICROPHONE if allowed else NO_MICROPHONE]
    if microphone is not None:
        arguments.append(f"--use-file-for-fake-audio-capture={microphone}%noloop")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=str(CHROMIUM), args=arguments)
        try:
            yield browser
        finally:
            browser.close()


@contextmanager
def opened(browser, url: str, expected: str | tuple[str, ...] = (), **options):
    """A page in a profile of its own; at the end nothing may have gone wrong in it or have left this machine.

    `expected`: an error that contains this, or one of these, is none.
    """
    context = browser.new_context(**{"viewport": {"width": 1000, "height": 760}, **options})
    context.add_init_script(LISTEN)
    page = context.new_page()
    asked, wrong = [], []
    page.on("request", lambda request: asked.append(request.url))
    page.on("websocket", lambda socket: asked.append(socket.url))
    page.on("console", lambda message: wrong.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.goto(url)
    try:
        yield page
    finally:
        context.close()
    local = (
        "http://127.0.0.1:",
        "ws://127.0.0.1:",
        "http://localhost:",
        "ws://localhost:",
        "http://echox.test:",
        "ws://echox.test:",
        "data:",
        "blob:",
    )
    outside = [address for address in asked if not address.startswith(local)]
    assert asked
    assert not outside, f"asked for from outside: {outside}"
    fine = (expected,) if isinstance(expected, str) else expected
    wrong = [message for message in wrong if not any(part in message for part in fine)]
    assert not wrong, f"errors in the page: {wrong}"
