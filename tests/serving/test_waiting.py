"""Tests of the server wait for conditions with a deadline, not for fixed times, which fail on a busy machine."""

import asyncio
import io
import threading
import tokenize
from pathlib import Path

import pytest

from waiting import wait_until, wait_until_async

HERE = Path(__file__).parent
HELPERS = ("serving/access/raw_clients.py", "serving_help.py", "web_page.py", "browser.py")
FILES = [*sorted(HERE.rglob("test_*.py")), *(HERE.parent / name for name in HELPERS)]
WAITS = ("sleep", "wait_for_timeout")
REASON = "# fixed time: "


def fixed_waits(source):
    """Lines that wait for a fixed time (more than 0) without a reason behind `REASON`."""
    lines = source.splitlines()
    tokens = list(tokenize.generate_tokens(io.StringIO(source).readline))
    found = []
    for name, opening, time_s in zip(tokens, tokens[1:], tokens[2:], strict=False):
        waits = name.string in WAITS and opening.string == "(" and time_s.type == tokenize.NUMBER
        if waits and float(time_s.string) and REASON not in name.line:
            found.append(f"line {name.start[0]}: {lines[name.start[0] - 1].strip()}")
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_no_test_waits_for_a_fixed_time_without_a_reason(path):
    assert fixed_waits(path.read_text(encoding="utf-8")) == [], f"use waiting.wait_until, or say why: {REASON}..."


def test_a_fixed_wait_is_found():
    source = "import time\ntime.sleep(0.5)\nsleep(0)\nsleep(pace_s)\nsleep(1)  # fixed time: a user speaks\n"
    assert fixed_waits(source) == ["line 2: time.sleep(0.5)"]
    assert fixed_waits("page.wait_for_timeout(50)") == ["line 1: page.wait_for_timeout(50)"]


def test_waiting_ends_with_the_condition_or_fails_with_a_message():
    event = threading.Event()
    threading.Timer(0.05, event.set).start()
    wait_until(event.is_set, "the event is set")
    with pytest.raises(AssertionError, match=r"not within 0.05 s: the moon is green"):
        wait_until(lambda: False, "the moon is green", 0.05)


def test_waiting_lets_other_tasks_run():
    async def both():
        done = asyncio.Event()
        asyncio.get_running_loop().call_later(0.05, done.set)
        await wait_until_async(done.is_set, "the event is set")
        with pytest.raises(AssertionError, match="the moon is green"):
            await wait_until_async(lambda: False, "the moon is green", 0.05)

    asyncio.run(both())
