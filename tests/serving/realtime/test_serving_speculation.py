"""Speculative turns: nobody can tell but by the time; what was begun in vain leaves nothing behind.

Here silence alone ends turns; test_serving_turn_head.py has those that the model ends.
"""

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from echox.audio import load_audio
from echox.serving.turn_detection.turns import SpeechStarted, SpeechStopped, TurnDetector, TurnSettings
from echox.serving.turn_detection.vad import FRAME_MS, FRAME_SAMPLES, SAMPLING_RATE, open_vad
from echox.streaming.prompt.messages import Audio
from serving_help import Limits, connected, nano, question, run, running, user_text
from waiting import wait_until_async

RATE = 24000
IDS = ("id", "item_id", "previous_item_id", "response_id", "conversation_id", "call_id")
LIVE = "conversation.item.input_audio_transcription.delta"
HUMAN = find_spec("moonshine_voice")


@pytest.fixture(scope="module")
def server():
    with running(nano(), ends_early=False) as found:
        yield found


@pytest.fixture(scope="module")
def without():
    with running(nano(), Limits(max_speculations=0), ends_early=False) as found:
        yield found


def words(number, lead_s=0.0):
    """A bundled question from its first sound to its last, after some silence."""
    samples = question(number)
    loud = np.flatnonzero(np.abs(samples) > 0.02 * np.abs(samples).max())
    return np.concatenate([np.zeros(int(lead_s * RATE), np.float32), samples[loud[0] : loud[-1]]])


def outcomes(server):
    """Numbers of speculations by outcome, and the seconds spent in vain."""
    found = {}
    for line in server.service.metrics.text().decode().splitlines():
        if line.startswith(("echox_speculations_total{", "echox_discarded_compute_seconds_total")):
            name, value = line.split(" ")
            found[name.split('"')[1] if '"' in name else "seconds"] = float(value)
    return found


def since(server, before):
    return {
        name: value - before.get(name, 0) for name, value in outcomes(server).items() if value > before.get(name, 0)
    }


def looking(server):
    (session,) = server.service.sessions
    return session._speculator._looking is not None


async def pause(client, server, begins=True, most=14):
    """Silence, frame by frame, until a reply is begun and rests, but not so long that the turn ends.

    Returns the number of frames. If no reply `begins`, there are as many as `most`.
    """
    before = outcomes(server).get("begun", 0)
    scheduler = server.service.model.scheduler

    def rests():
        found = [task for task in [*scheduler._queue, *scheduler.batch.running] if task.speculative]
        return bool(found) and all(task.begun for task in found)

    frames = 0
    while frames < most and outcomes(server).get("begun", 0) == before:
        frames += 1
        await client.say(np.zeros(768, np.float32), chunk_s=0.032)
        await client.send("echox.ping")
        await client.until("echox.pong")
        await wait_until_async(lambda: not looking(server), "the pause was looked at", 60)
    assert (outcomes(server).get("begun", 0) > before) == begins
    if begins:
        await wait_until_async(rests, "the reply has begun", 60)
    assert not client.of("input_audio_buffer.speech_stopped")[len(client.of("response.created")) :]
    return frames


async def end_turn(client, kind="rate_limits.updated"):
    await client.say(np.zeros(int(0.6 * RATE), np.float32), chunk_s=1)
    return await client.until(kind, 120)


def comparable(events):
    """Events with their ids numbered in the order they came; live words joined, as when they come is not settled."""
    numbers = {}

    def plain(value):
        if isinstance(value, dict):
            return {
                name: numbers.setdefault(one, len(numbers)) if name in IDS and one is not None else plain(one)
                for name, one in value.items()
                if name not in ("event_id", "expires_at")
            }
        return [plain(one) for one in value] if isinstance(value, list) else value

    kept = [event for event in events if event["type"] not in ("echox.pong", "session.created", LIVE)]
    return [plain(event) for event in kept], "".join(event["delta"] for event in events if event["type"] == LIVE)


async def conversation(server, lengths=None):
    """Two turns; in the second there is a pause within the question.

    Args:
        server: that begins replies in pauses, unless `lengths` are given.
        lengths: of the pauses, in frames.

    Returns:
        The events, and the lengths of the pauses.
    """
    found = []

    async def wait():
        most = 14 if lengths is None else lengths[len(found)]
        found.append(await pause(client, server, lengths is None, most))

    async with connected(server) as client:
        audio = {"input": {"transcription": {"model": "x"}}}
        await client.send("session.update", session={"type": "realtime", "audio": audio})
        await client.until("session.updated")
        await client.say(words(1, lead_s=0.3), chunk_s=5)
        await wait()
        await end_turn(client)
        (session,) = server.service.sessions
        session.responder._current.response.speech.stop(0.0)  # it need not be heard to its end
        await client.say(words(0, lead_s=0.3), chunk_s=5)
        await wait()
        seen = len(client.events)
        await client.say(words(1), chunk_s=5)
        await wait()
        assert all(event["type"] in ("echox.pong", LIVE) for event in client.events[seen:])
        await end_turn(client)
        return client.events, found


def test_only_the_time_differs(server, without):
    nano().engine.clear_encoded()
    before, text_before = outcomes(server), server.service.metrics.text().decode()
    early, lengths = run(conversation(server), 300)
    known = list(nano().engine._encoded)
    nano().engine.clear_encoded()
    late, _ = run(conversation(without, lengths), 300)
    assert comparable(early) == comparable(late)
    usage = [event["response"]["usage"] for event in early if event["type"] == "response.done"]
    assert usage[1]["input_token_details"]["cached_tokens"] > 0
    # What a reply that was discarded heard is forgotten; without replies in pauses, live words may have left as much.
    assert set(known) <= set(nano().engine._encoded)
    assert outcomes(without) == {"seconds": 0.0}
    found = since(server, before)
    assert {name: found[name] for name in ("begun", "kept", "discarded")} == {"begun": 3, "kept": 2, "discarded": 1}
    assert found["seconds"] > 0
    text = server.service.metrics.text().decode()
    for name, more in (('echox_responses_total{status="completed"}', 2), ("echox_interruptions_total", 0)):
        now, then = (float(one.partition(f"\n{name} ")[2].split("\n")[0] or 0) for one in (text, text_before))
        assert now - then == more, name
    assert server.service.model.scheduler.num_speculating == 0


TEXT = {"type": "realtime", "output_modalities": ["text"]}


@pytest.mark.parametrize("change", ["instructions", "item", "commit"])
def test_a_reply_to_something_else_is_discarded(server, change):
    async def talk():
        before = outcomes(server)
        async with connected(server) as client:
            await client.send("session.update", session=TEXT)
            await client.say(words(1, lead_s=0.3), chunk_s=5)
            await pause(client, server)
            if change == "instructions":
                await client.send("session.update", session={**TEXT, "instructions": "You are brief."})
            elif change == "item":
                await client.send("conversation.item.create", item=user_text("Hello."))
            else:
                await client.send("input_audio_buffer.commit")
                await client.until("input_audio_buffer.committed")
                await client.send("response.create")
            if change != "commit":
                await client.say(np.zeros(int(0.6 * RATE), np.float32), chunk_s=1)
            done = (await client.until("response.done", 120))["response"]
            assert done["status"] == "completed"
        found = since(server, before)
        assert found["begun"] == found["discarded"]
        assert "kept" not in found

    run(talk(), 200)


@pytest.mark.parametrize("why", ["create_response", "draining", "busy"])
def test_no_reply_is_begun_that_would_not_be_sent(server, monkeypatch, why):
    async def talk():
        async with connected(server) as client:
            detection = {"type": "server_vad", "create_response": why != "create_response"}
            await client.send(
                "session.update", session={"type": "realtime", "audio": {"input": {"turn_detection": detection}}}
            )
            await client.until("session.updated")
            monkeypatch.setattr(server.service, "draining", why == "draining")
            scheduler = server.service.model.scheduler
            if why == "busy":  # another conversation waits for the model
                monkeypatch.setattr(scheduler, "max_running", 0)
            await client.say(words(1, lead_s=0.3), chunk_s=5)
            await pause(client, server, begins=False, most=12)
            assert scheduler.num_speculating == 0

    run(talk(), 200)


def test_pauses_of_one_turn_are_bounded(without):
    async def talk():
        before = outcomes(without)
        async with connected(without) as client:
            await client.say(words(1, lead_s=0.3), chunk_s=5)
            await pause(client, without)
            await client.say(words(1), chunk_s=5)
            await pause(client, without, begins=False, most=12)
        assert since(without, before)["begun"] == 1

    object.__setattr__(without.service.limits, "max_speculations", 1)
    try:
        run(talk(), 200)
    finally:
        object.__setattr__(without.service.limits, "max_speculations", 0)


def test_nothing_is_left_of_a_client_that_goes_away(server):
    scheduler = server.service.model.scheduler
    before = outcomes(server)

    async def talk():
        async with connected(server) as client:
            await client.say(words(1, lead_s=0.3), chunk_s=5)
            await pause(client, server)
            assert scheduler.num_speculating == 1
        await wait_until_async(lambda: not server.service.sessions, "the session has ended", 60)
        await wait_until_async(lambda: not scheduler.batch.running, "the model has stopped", 60)
        await wait_until_async(lambda: "discarded" in since(server, before), "it was counted", 60)

    run(talk(), 200)


needs_human = pytest.mark.skipif(HUMAN is None, reason="needs moonshine-voice, whose package holds a human recording")


@needs_human
def test_the_end_of_human_speech_is_final_before_the_turn_is_over():
    """In each pause that ends a turn, what the model hears is settled before; nothing later changes it."""
    assets = Path(HUMAN.submodule_search_locations[0]) / "assets"
    speech = load_audio(assets / "two_cities.wav", SAMPLING_RATE)
    samples = np.concatenate([speech, 1e-4 * np.random.default_rng(0).standard_normal(16000)]).astype(np.float32)
    _, new_vad = open_vad()
    vad, detector, early, turns = new_vad(), TurnDetector(TurnSettings()), None, 0
    gained_ms = []
    for number in range(len(samples) // FRAME_SAMPLES):
        frame = samples[number * FRAME_SAMPLES : (number + 1) * FRAME_SAMPLES]
        now_ms = (number + 1) * FRAME_MS
        for event in detector.push(vad.push(frame), now_ms - FRAME_MS, now_ms):
            if isinstance(event, SpeechStarted):
                early = None
            elif isinstance(event, SpeechStopped):
                whole = Audio(samples[16 * event.start_ms : 16 * event.end_ms], SAMPLING_RATE)
                turns += 1
                if early is not None and early[1].digest == whole.digest:
                    gained_ms.append(event.end_ms - early[0])
        silence_ms = detector.silence_ms(now_ms)
        if not silence_ms:
            early = None
        elif early is None and silence_ms >= 160:
            turn = Audio(samples[16 * detector.begin_ms : 16 * now_ms], SAMPLING_RATE)
            if turn.speech is not None and not turn.speech.tail:
                early = now_ms, turn
    assert turns >= 3
    assert len(gained_ms) >= 0.75 * turns
    assert np.median(gained_ms) >= 100


def test_a_client_that_asks_for_it_is_told(server):
    async def talk():
        async with connected(server) as client:
            audio = {"input": {"turn_detection": {"type": "server_vad", "speculation_events": True}}}
            await client.send("session.update", session={"type": "realtime", "audio": audio})
            shown = (await client.until("session.updated"))["session"]["audio"]["input"]["turn_detection"]
            assert shown["speculation_events"] is True
            await client.say(words(0, lead_s=0.3), chunk_s=5)
            await pause(client, server)
            await client.say(words(1), chunk_s=5)  # on with it
            await pause(client, server)
            await end_turn(client)
            return [event["type"] for event in client.events if event["type"].startswith("echox.speculation")]

    told = run(talk(), 200)
    assert told[:2] == ["echox.speculation.begun", "echox.speculation.discarded"]
    assert told.count("echox.speculation.begun") == told.count("echox.speculation.discarded") + 1  # the last was kept


def detection(**fields):
    """A change of turn detection: with all events of ours, and speech over a reply takes long to interrupt it."""
    asked = {"type": "server_vad", "speculation_events": True, "duck_events": True, "interrupt_after_ms": 5000}
    return {"type": "realtime", "audio": {"input": {"turn_detection": {**asked, **fields}}}}


async def guess(client, server):
    """A reply is begun in a pause."""
    await client.say(words(0, lead_s=0.3), chunk_s=5)
    await pause(client, server)


async def duck(client, server):
    """Somebody speaks over a reply."""
    await client.send("response.create", response={"input": [user_text("Tell me about Brazil.")]})
    await client.until("response.done")
    (session,) = server.service.sessions
    await wait_until_async(lambda: session.responder.heard_ms(), "the reply is heard")
    await client.say(words(0)[: RATE // 2])
    await client.until("echox.output_audio.duck")


PAIRS = {
    ("echox.speculation.begun", "echox.speculation.discarded"): guess,
    ("echox.output_audio.duck", "echox.output_audio.unduck"): duck,
}
"""What begins and what ends it, of the events of ours, and what makes it begin."""
ENDS = {
    "off": ("session.update", {"session": {**detection(), "audio": {"input": {"turn_detection": None}}}}),
    "no events": ("session.update", {"session": detection(speculation_events=False, duck_events=False)}),
    "transcription": ("session.update", {"session": {"type": "transcription"}}),
    "clear": ("input_audio_buffer.clear", {}),
    "commit": ("input_audio_buffer.commit", {}),
}


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("pair", PAIRS)
def test_what_was_told_to_begin_is_told_to_end(server, pair, end):
    async def talk():
        async with connected(server) as client:
            await client.send("session.update", session=detection())
            await client.until("session.updated")
            await PAIRS[pair](client, server)
            kind, fields = ENDS[end]
            await client.send(kind, **fields)
            if end in ("no events", "transcription"):  # turn detection goes on
                await client.say(np.zeros(RATE, np.float32), chunk_s=0.1)
            await client.send("echox.ping")
            await client.until("echox.pong")
            return [event["type"] for event in client.events if event["type"] in pair]

    assert run(talk(), 200) == list(pair)
