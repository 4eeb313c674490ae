"""Tools of the page in a real browser: shown as they are called, run there, answered, interrupted; and the timer.

The model is tiny and random: each call is forced, and its arguments are left one choice, so nothing depends on its wit.
"""

import importlib.util
import json
import random
import re
from contextlib import contextmanager
from datetime import datetime, timedelta
from zoneinfo import ZoneInfo

import pytest

from browser import browser_tests, chromium, microphone_file, opened
from echox import EchoX
from echox.data.corpora.tools.requests import taught_tools, tool_requests
from echox.serving.webrtc.ice import IceSettings
from tool_models import tool_model
from web_page import HOLD, SPOKEN, ask, heard_s, hold, is_held, played_s, reply, serving

pytest.importorskip("llguidance")
pytestmark = [*browser_tests, pytest.mark.timeout(600)]

FORCE = """
window.sent = [];  // events of the page
window.only = {};  // tool -> the only arguments that its schema allows, on this connection
for (const { prototype } of [WebSocket, RTCDataChannel]) {
  const { send } = prototype;
  prototype.send = function (text) { send.call(this, changed(JSON.parse(text))); };
}
function changed(event) {
  const { session, item } = event;
  for (const { name, parameters } of session?.tools ?? []) {
    for (const [key, value] of Object.entries(window.only[name] ?? {})) parameters.properties[key] = { enum: [value] };
  }
  if (item?.type === "message") window.answered = false;
  if (item?.type === "function_call_output") window.answered = true;
  if (event.type === "response.create") {
    const [name] = Object.keys(window.only);
    const forced = name && !window.answered;
    const how = forced ? { tool_choice: { type: "function", name } } : { tool_choice: "none", max_output_tokens: 8 };
    event.response = { ...how, ...event.response };
  }
  window.sent.push(event);
  return JSON.stringify(event);
}
"""
SLOW = """async () => {
  const { Toolbox } = await import("./tools/tools.js");
  Toolbox.prototype.run = () => new Promise((resolve) => (window.finish = () => resolve({ late: true })));
}"""


@pytest.fixture(scope="module")
def server():
    with serving(tool_model("qwen")) as server:
        yield server


def prepare(page, **only):
    """Tools on; each of `only` (name=its arguments) is what the model has to call."""
    page.add_init_script(FORCE)
    page.add_init_script(HOLD)
    page.reload()
    page.evaluate("(only) => (window.only = only)", only)
    page.get_by_role("button", name="Settings").click()
    page.get_by_role("checkbox", name="Let the model use tools").check()
    page.keyboard.press("Escape")


@contextmanager
def calling(server, microphone=None, viewport=None, **only):
    """The page, whose next question will be answered by a call."""
    viewport = viewport or {"width": 1000, "height": 760}
    with chromium(microphone) as browser, opened(browser, server.address(), viewport=viewport) as page:
        prepare(page, **only)
        yield page


def call(page, number, state="done"):
    """The number-th call, once it is in that state."""
    found = page.locator(".turn.tool").nth(number)
    found.and_(page.locator(f"[data-state={state}]")).wait_for(timeout=SPOKEN)
    return found


def sent(page, kind):
    return [event for event in page.evaluate("window.sent") if event["type"] == kind]


def outputs(page):
    """What the page has told of its calls, in order."""
    items = [event["item"] for event in sent(page, "conversation.item.create")]
    return [json.loads(item["output"]) for item in items if item["type"] == "function_call_output"]


# ------------------------------------------------------------------------------------------------ calls


def test_a_call_is_shown_as_it_is_written_run_and_answered_aloud(server):
    with calling(server, get_time={"city": "Tokyo"}) as page:
        page.evaluate("""() => {
          window.seen = new Set();
          const keep = () => document.querySelectorAll(".call").forEach((one) => window.seen.add(one.textContent));
          new MutationObserver(keep).observe(document.getElementById("turns"), { childList: true, subtree: true });
        }""")
        before = datetime.now(ZoneInfo("Asia/Tokyo"))
        ask(page, "What time is it in Tokyo?")
        shown = call(page, 0).inner_text()
        reply(page, 0)
        assert "get_time" in shown
        assert "Tokyo" in shown
        (output,) = outputs(page)
        clocks = {(before + timedelta(minutes=passed)).strftime("%-I:%M %p") for passed in range(10)}
        assert output["time"] in clocks
        assert output["time"] in shown
        assert len(page.evaluate("[...window.seen]")) > 3  # its arguments came piece by piece
        kinds = [(event["type"], event.get("item", {}).get("type")) for event in page.evaluate("window.sent")]
        assert [one for one in kinds if one[0] in ("conversation.item.create", "response.create")] == [
            ("conversation.item.create", "message"),
            ("response.create", None),
            ("conversation.item.create", "function_call_output"),
            ("response.create", None),
        ]
        assert heard_s(page) > 0
        assert page.locator("#phase").inner_text() == "Ready."
        order = page.locator(".turn h2").all_inner_texts()
        assert order == ["You", "Tool", "EchoX"]


CITIES = {
    "Paris": "Europe/Paris",
    "Bogotá, Colombia": "America/Bogota",
    "new york": "America/New_York",
    "Washington": "America/New_York",
    "New Delhi": "Asia/Kolkata",
    "Buenos Aires": "America/Buenos_Aires",
    "Bern": "Europe/Zurich",
    "Mexico City": "America/Mexico_City",
}
NOT_POSSIBLE = [
    ("get_time", {"city": "Atlantis"}),
    ("get_time", {"city": ""}),
    ("get_time", []),
    ("calculate", {"first": 1, "operation": "divided by", "second": 2}),
    ("calculate", {"first": "one", "operation": "plus", "second": 2}),
    ("calculate", {"first": 1e15, "operation": "times", "second": 1e15}),
    ("calculate", {"first": 2**53, "operation": "minus", "second": 1}),  # 2**53 + 1 is read so
    ("calculate", {"first": 2**53 - 1, "operation": "plus", "second": 1}),
    ("calculate", {"first": -(2**53) - 1, "operation": "plus", "second": 3}),
    ("calculate", {"first": 0.1, "operation": "plus", "second": 2}),
    ("calculate", {"operation": "plus", "second": 2}),
    ("set_timer", {"minutes": 0}),
    ("set_timer", {"minutes": 1e9}),
    ("set_light", {"room": "kitchen", "state": "dim"}),
    ("toString", {}),
]


def run_tool(page, name, arguments):
    """What a tool of the page returns."""
    return page.evaluate(
        """async ([name, given]) => {
          const { Toolbox } = await import("./tools/tools.js");
          return new Toolbox({ full: false, add() {} }, () => {}).run(name, given);
        }""",
        [name, json.dumps(arguments)],
    )


def test_what_tools_return(server):
    with chromium() as browser, opened(browser, server.address()) as page:
        for city, zone in CITIES.items():
            now = datetime.now(ZoneInfo(zone))
            clocks = {(now + timedelta(minutes=more)).strftime("%-I:%M %p") for more in (0, 1)}
            assert run_tool(page, "get_time", {"city": city})["time"] in clocks, city
        calls = [one.call for one in tool_requests("heldout", 40)]
        taught = {json.loads(call.arguments)["city"] for call in calls if call.name == "get_time"}
        assert len(taught) > 40
        assert [city for city in sorted(taught) if "time" not in run_tool(page, "get_time", {"city": city})] == []
        for operation, result in {"plus": 0, "minus": 24, "times": -144}.items():
            found = run_tool(page, "calculate", {"first": 12, "operation": operation, "second": -12})
            assert found == {"result": result}
        chance = random.Random(0)
        for operation in ("plus", "minus", "times"):
            for digits in range(1, 20):
                first, second = (
                    chance.choice([-1, 1]) * chance.randrange(10 ** (digits - 1), 10**digits) for _ in "ab"
                )
                found = run_tool(page, "calculate", {"first": first, "operation": operation, "second": second})
                result = {"plus": first + second, "minus": first - second, "times": first * second}[operation]
                possible = max(map(abs, (first, second, result))) < 2**53
                assert found == ({"result": result} if possible else {"error": "That has too many digits."}), first
        for name, arguments in NOT_POSSIBLE:
            (error,) = run_tool(page, name, arguments).values()
            assert re.fullmatch(r"[A-Z][^{}]+\.", error), (name, arguments, error)  # a sentence that can be said


def test_the_tools_are_those_that_models_are_taught(server):
    taught = {tool.name: json.loads(tool.parameters) for tool in taught_tools()}
    with calling(server) as page:
        ask(page, "Hello.")
        reply(page, 0)
        declared = sent(page, "session.update")[-1]["session"]["tools"]
        assert [one["name"] for one in declared] == ["get_time", "set_timer", "calculate", "set_light"]
        for one in declared:
            assert one["parameters"] == taught[one["name"]], one["name"]
            assert one["type"] == "function"


def test_an_error_of_a_tool_is_shown_and_goes_back_to_the_model(server):
    with calling(server, get_time={"city": "Atlantis"}) as page:
        ask(page, "What time is it in Atlantis?")
        shown = call(page, 0, "failed")
        assert "Atlantis is not known" in shown.locator(".problem").inner_text()
        assert outputs(page) == [{"error": "The time in Atlantis is not known here."}]
        (item,) = [one["item"] for one in sent(page, "conversation.item.create") if "output" in one["item"]]
        assert item["output"] == json.dumps(outputs(page)[0])  # written as in the lessons of small models
        reply(page, 0)


def test_the_light_is_that_of_the_page(server):
    with calling(server, set_light={"room": "kitchen", "state": "off"}) as page:
        ask(page, "Switch the light off.")
        call(page, 0)
        assert page.evaluate("document.documentElement.dataset.theme") == "dark"
        assert page.get_by_role("button", name="Theme: dark").is_visible()
        assert outputs(page) == [{"state": "off"}]


# ------------------------------------------------------------------------------------------------ timers


def test_a_timer_counts_down_survives_a_reconnect_rings_and_is_dismissed(server):
    with calling(server, set_timer={"minutes": 5}) as page:
        ask(page, "Set a timer for five minutes.")
        timer = page.get_by_role("list", name="Timers").get_by_role("listitem")
        timer.wait_for(timeout=SPOKEN)
        assert re.search(r"5 minutes\s+(5:00|4:\d\d)", timer.inner_text())
        reply(page, 0)
        session = max(server.service.sessions, key=lambda one: one._expires_at)
        server.loop.call_soon_threadsafe(session.shut_down)
        page.locator("#connection:not([data-state=open])").wait_for(timeout=SPOKEN)
        page.locator("#connection[data-state=open]").wait_for(timeout=SPOKEN)
        page.wait_for_function("() => window.sent.filter(({ item }) => item?.type === 'function_call').length === 1")
        told = [event["item"] for event in sent(page, "conversation.item.create")]
        assert [one["type"] for one in told[-4:-1]] == ["message", "function_call", "function_call_output"]
        assert told[-3]["call_id"] == told[-2]["call_id"]
        assert timer.count() == 1
        silent_s = heard_s(page)
        page.evaluate("{ const now = Date.now; Date.now = () => now() + 5 * 60_000; }")
        timer.get_by_text("Time is up").wait_for()
        page.wait_for_function(f"() => window.heardS > {silent_s} + 0.1")
        assert "5 minutes is over" in page.locator("#announcer").inner_text()
        page.get_by_role("button", name="Dismiss the timer of 5 minutes").click()
        assert timer.count() == 0


def test_a_timer_can_be_cancelled(server):
    with calling(server, set_timer={"minutes": 1}) as page:
        ask(page, "Set a timer for one minute.")
        page.get_by_role("button", name="Cancel the timer of 1 minute").click(timeout=SPOKEN)
        assert page.locator("#timers li").count() == 0
        reply(page, 0)


# ------------------------------------------------------------------------------------------------ interruptions


@pytest.mark.skipif(importlib.util.find_spec("aiortc") is None, reason="aiortc is not installed")
def test_tools_in_a_call_too():
    with (
        serving(tool_model("qwen"), ice=IceSettings()) as server,
        chromium() as browser,
        opened(browser, server.address()) as page,
    ):
        prepare(page, calculate={"first": 6, "operation": "times", "second": 7})
        ask(page, "What is six times seven?")
        assert '{"result": 42}' in call(page, 0).inner_text()
        turn = reply(page, 0)
        assert page.locator("#connection").get_attribute("title") == "WebRTC"
        assert played_s(turn)[1] > 0
        assert page.locator("#phase").inner_text() == "Ready."


def test_calls_are_saved_and_given_to_the_next_session(server):
    with chromium() as browser, opened(browser, server.address()) as page:
        saved, items = page.evaluate("""async () => {
          const { Conversation } = await import("./dialogue/conversation.js");
          const conversation = new Conversation();
          conversation.add("a", "user", "text").text = "What is six times seven?";
          const call = conversation.addCall({ id: "b", call_id: "c", name: "calculate" });
          Object.assign(call, { arguments: "{}", output: '{"result": 42}', state: "done" });
          conversation.addCall({ id: "d", call_id: "e", name: "set_timer" }).state = "interrupted";
          Object.assign(conversation.add("g", "assistant", "voice"), { text: "A cow", kept: "A", forgotten: true });
          Object.assign(conversation.add("f", "user", "voice"), { text: "Stop.", stops: true });
          const saved = JSON.parse(await conversation.save("nano").json.text());
          return [saved.turns, conversation.asItems()];
        }""")
        assert [turn["role"] for turn in saved] == ["user", "tool", "tool", "assistant", "user"]
        assert saved[1] == {
            "role": "tool",
            "name": "calculate",
            "arguments": "{}",
            "output": '{"result": 42}',
            "state": "done",
        }
        assert [item["type"] for item in items] == ["message", "function_call", "function_call_output"]
        assert items[1]["call_id"] == items[2]["call_id"] == "c"


@pytest.mark.parametrize("how", ["typing", "Esc", "speaking"])
def test_an_interruption_while_a_tool_runs_leaves_nothing_hanging(server, tmp_path, how):
    recording = microphone_file(tmp_path, 1.0, "cow")
    with calling(server, recording if how == "speaking" else None, get_time={"city": "Oslo"}) as page:
        page.evaluate(SLOW)
        ask(page, "What time is it in Oslo?")
        call(page, 0, "running")
        page.wait_for_function("() => document.querySelector('#phase').textContent === 'Using a tool…'")
        page.evaluate("window.only = {}")
        if how == "typing":
            ask(page, "Never mind.")
        elif how == "Esc":
            page.keyboard.press("Escape")
        else:
            page.get_by_role("button", name="Talk").click()
        call(page, 0, "interrupted")
        assert outputs(page) == [{"error": "The user interrupted it."}]
        if how == "Esc":
            assert page.locator("#phase").inner_text() == "Ready."
            assert page.locator(".turn.assistant").count() == 0
        elif how == "typing":
            reply(page, 0)
        asked = len(sent(page, "response.create"))
        page.evaluate("window.finish()")
        page.wait_for_timeout(300)  # fixed time: what the late output would do would be done now
        assert len(outputs(page)) == 1
        assert len(sent(page, "response.create")) == asked
        if how != "speaking":
            ask(page, "Hello again.")  # and it goes on
            reply(page, page.locator(".turn.assistant").count() - 1 if how == "Esc" else 1)


def test_a_call_that_is_interrupted_while_it_is_written_is_not_run(server):
    with calling(server, set_timer={"minutes": 5}) as page:
        page.evaluate("""async () => {
          const { ToolCalls } = await import("./tools/tool-calls.js");
          const { write } = ToolCalls.prototype;
          ToolCalls.prototype.write = function (event) {
            write.call(this, event);
            document.dispatchEvent(new KeyboardEvent("keydown", { key: "Escape" }));
          };
        }""")
        ask(page, "Set a timer for five minutes.")
        call(page, 0, "interrupted")
        page.wait_for_function("() => document.querySelector('#phase').textContent === 'Ready.'")
        assert page.locator("#timers li").count() == 0
        assert len(sent(page, "response.create")) == 1


def interrupt(page, how):
    """Do what makes the reply unwanted."""
    page.evaluate("window.only = {}")
    if how == "typing":
        ask(page, "Never mind.")
    elif how == "Esc":
        page.keyboard.press("Escape")
    else:
        page.evaluate(
            "window.heard({ type: 'input_audio_buffer.speech_started', item_id: 'spoken', audio_start_ms: 0 })"
        )


@pytest.mark.parametrize("how", ["typing", "Esc"])
def test_a_call_that_was_on_its_way_when_the_reply_was_stopped_is_not_run(server, how):
    with calling(server, set_timer={"minutes": 5}) as page:
        hold(page, "type === 'response.output_item.added'")
        ask(page, "Set a timer for five minutes.")
        is_held(page, "response.done")
        interrupt(page, how)
        page.evaluate("window.letGo()")
        call(page, 0, "interrupted")
        assert outputs(page) == [{"error": "The user interrupted it."}]
        if how == "typing":
            reply(page, 0)
        page.locator("#phase").get_by_text("Ready.").wait_for(timeout=SPOKEN)
        assert page.locator("#timers li").count() == 0
        assert page.locator("#notices").inner_text() == ""
        assert len(sent(page, "response.create")) == (2 if how == "typing" else 1)


@pytest.mark.parametrize("how", ["typing", "Esc", "speaking"])
def test_a_reply_that_was_asked_for_and_is_unwanted_before_it_begins_is_cancelled(server, how):
    with calling(server, get_time={"city": "Oslo"}) as page:
        hold(page, "type === 'response.created' && window.answered")
        ask(page, "What time is it in Oslo?")
        is_held(page, "response.done")
        unwanted = page.evaluate("window.held[0].event.response.id")
        interrupt(page, how)
        page.evaluate("window.letGo()")
        reply(page, 0, "interrupted")
        assert unwanted in [event["response_id"] for event in sent(page, "response.cancel")]
        if how == "typing":
            reply(page, 1)
        else:
            assert heard_s(page) == 0
            page.wait_for_function("() => window.sent.some(({ type }) => type === 'conversation.item.retrieve')")
        assert page.locator("#notices").inner_text() == ""


def test_a_lost_connection_while_a_tool_runs_ends_the_call(server):
    with calling(server, get_time={"city": "Oslo"}) as page:
        page.evaluate(SLOW)
        ask(page, "What time is it in Oslo?")
        call(page, 0, "running")
        session = max(server.service.sessions, key=lambda one: one._expires_at)
        server.loop.call_soon_threadsafe(session.shut_down)
        call(page, 0, "interrupted")
        page.locator("#connection[data-state=open]").wait_for(timeout=SPOKEN)
        page.evaluate("window.only = {}")
        ask(page, "Hello.")
        reply(page, 0)


# ------------------------------------------------------------------------------------------------ the choice, the place


def test_the_choice_is_off_and_without_it_the_model_has_no_tools(server):
    with chromium() as browser, opened(browser, server.address()) as page:
        page.add_init_script(FORCE)
        page.reload()
        page.get_by_role("button", name="Settings").click()
        box = page.get_by_role("checkbox", name="Let the model use tools")
        assert not box.is_checked()
        page.keyboard.press("Escape")
        ask(page, "Hello.")
        reply(page, 0)
        assert [event["session"]["tools"] for event in sent(page, "session.update")] == [[]]
        page.get_by_role("button", name="Settings").click()
        for on in (True, False):
            box.set_checked(on)
            page.wait_for_function(
                "(on) => window.sent.findLast(({ type }) => type === 'session.update').session.tools.length > 0 === on",
                arg=on,
            )


def test_there_is_no_choice_for_a_model_without_tools():
    with (
        serving(EchoX.from_pretrained("nano")) as server,
        chromium() as browser,
        opened(browser, server.address()) as page,
    ):
        page.add_init_script(FORCE)
        page.evaluate("localStorage['echox-settings'] = JSON.stringify({ tools: true })")  # chosen with another model
        page.reload()
        page.get_by_role("button", name="What does a cow say?").wait_for()
        page.get_by_role("button", name="Settings").click()
        assert not page.get_by_role("checkbox", name="Let the model use tools").is_visible()
        page.keyboard.press("Escape")
        ask(page, "What does a cow say?")
        reply(page, 0)
        assert all("tools" not in event["session"] for event in sent(page, "session.update"))


LONG = "the very long name of a place that is nowhere" * 3


@pytest.mark.parametrize("viewport", [{"width": 320, "height": 640}, {"width": 640, "height": 512}])
def test_a_call_and_timers_fit_a_small_window_and_twice_the_size(server, viewport):
    with calling(server, viewport=viewport, get_time={"city": LONG.replace(" ", "")}) as page:
        ask(page, "What time is it there?")
        call(page, 0, "failed")
        page.evaluate("""async () => {
          const { Timers } = await import("./tools/timers.js");
          const timers = new Timers(document.getElementById("timers"), () => {}, () => {});
          for (const minutes of [1, 90, 1440]) timers.add(minutes);
          const now = Date.now;
          Date.now = () => now() + 1440 * 60_000;
          const isOver = () => !document.querySelector("#timers li:not([data-over])");
          await new Promise((over) => (timers.ring = () => isOver() && over()));
          Date.now = now;
          for (const minutes of [1, 90, 1440]) timers.full || timers.add(minutes);
        }""")
        assert page.locator("#timers li").count() == 5  # those that are over count
        reply(page, 0)
        assert page.evaluate("document.documentElement.scrollWidth") <= viewport["width"]
        assert page.evaluate("document.documentElement.scrollHeight") <= viewport["height"]
        assert page.locator("#stage").evaluate("(one) => one.scrollWidth <= one.clientWidth")
        assert page.locator("#stage").bounding_box()["height"] > 60
        talk = page.get_by_role("button", name="Talk").bounding_box()
        assert talk["y"] + talk["height"] <= viewport["height"]
        page.get_by_role("button", name="Settings").click()
        assert page.get_by_role("dialog").evaluate("(one) => one.scrollWidth <= one.clientWidth")
