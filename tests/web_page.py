"""The server's own page for tests: the real application in a thread, and actions on the page."""

import asyncio
import json
import re
import threading
import time
from contextlib import contextmanager

from echox.audio import load_audio
from waiting import wait_until

SPOKEN = 30_000  # ms: a question at the speed of speech, its answer, and a busy machine
BRAZIL = "Brazil is a country in South America. Its capital is Brasilia. It is known for football and the rain forest."
HOLD = """
window.held = [];  // events of the server that have not arrived yet, in order, from the first that `holds` names
window.holds = () => false;
const onmessage = Object.getOwnPropertyDescriptor(WebSocket.prototype, "onmessage");
Object.defineProperty(WebSocket.prototype, "onmessage", { ...onmessage, set(handle) {
  onmessage.set.call(this, handle && ((message) => {
    const event = JSON.parse(message.data);
    if (!window.held.length && !window.holds(event)) return handle(message);
    window.held.push({ event, arrive: () => handle(message) });
  }));
  if (handle) window.heard = (event) => handle({ data: JSON.stringify(event) });
} });
window.letGo = async () => {
  window.holds = () => false;
  for (; window.held.length; window.held.shift()) {
    window.held[0].arrive();
    await new Promise((later) => setTimeout(later));
  }
};
"""


class Server:
    """The real application in a thread; the test may look into its sessions."""

    def __init__(self, model, api_key=None, ice=None):
        import uvicorn

        from echox.serving.access.security import AccessPolicy
        from echox.serving.protocol.limits import Limits
        from echox.serving.server import create_app
        from echox.serving.service.service import Service

        self.service = Service(model, "nano", Limits(wait_s=0.2))
        config = uvicorn.Config(
            create_app(self.service, AccessPolicy(api_key, any_host=True), ice),
            port=0,
            log_level="warning",
            ws_per_message_deflate=False,  # as `make_server` has it
        )
        self.uvicorn = uvicorn.Server(config)
        self.thread = threading.Thread(target=self._run, daemon=True)

    def _run(self):
        self.loop = asyncio.new_event_loop()
        asyncio.set_event_loop(self.loop)
        try:
            self.loop.run_until_complete(self.uvicorn.serve())
        finally:
            rest = asyncio.all_tasks(self.loop)  # of calls that are being ended
            for task in rest:
                task.cancel()
            self.loop.run_until_complete(asyncio.gather(*rest, return_exceptions=True))
            self.loop.close()

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
        session = max(self.service.sessions, key=lambda session: session._expires_at, default=None)
        return [] if session is None else [(item.role, item.content[0].text) for item in session.conversation.items]


@contextmanager
def serving(*options, **more):
    server = Server(*options, **more)
    server.thread.start()
    wait_until(lambda: server.uvicorn.started, "the server has started", 60)
    try:
        yield server
    finally:
        server.uvicorn.should_exit = True
        server.thread.join(30)
    assert not server.thread.is_alive()


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


def downloaded(page):
    """The conversation as it is saved: its JSON, and its sound."""
    saved = []
    page.on("download", lambda download: saved.append(download))
    page.get_by_role("button", name="Download the conversation").click()
    deadline = time.monotonic() + 10
    while len(saved) < 2 and time.monotonic() < deadline:
        page.wait_for_timeout(50)  # fixed time: a step of the loop
    paths = {download.suggested_filename.rsplit(".", 1)[1]: download.path() for download in saved}
    data = json.loads(paths["json"].read_text(encoding="utf-8"))
    return data, load_audio(paths["wav"], data["sampling_rate"])


def until_played(page, turn, seconds):
    deadline = time.monotonic() + 20
    while played_s(turn)[0] < seconds:
        assert time.monotonic() < deadline, "the reply is not being played"
        page.wait_for_timeout(50)  # fixed time: a step of the loop


def contrast(one, other):
    """Ratio of two colours, ``rgb(...)`` or ``#rrggbb``, as WCAG 2 defines it."""

    def luminance(colour):
        found = re.findall(r"\d+", colour)[:3]
        values = [int(colour[i : i + 2], 16) for i in (1, 3, 5)] if colour.startswith("#") else map(int, found)
        linear = [c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in (v / 255 for v in values)]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def heard_s(page):
    return page.evaluate("window.heardS")


def hold(page, condition):
    """From the next event of the server on that is so, nothing arrives until `window.letGo()`."""
    page.evaluate(f"void (window.holds = ({{ type }}) => {condition})")


def is_held(page, kind):
    """Wait until an event of the server is on its way."""
    page.wait_for_function("(kind) => window.held.some(({ event }) => event.type === kind)", arg=kind, timeout=SPOKEN)
