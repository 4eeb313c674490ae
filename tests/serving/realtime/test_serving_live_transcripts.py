"""Words while the user speaks: deltas come before the turn ends, are never taken back, and cost a bounded time."""

import asyncio
import time

import numpy as np
import pytest

from echox.api.loading import bundled_questions
from echox.audio import load_audio
from echox.errors import NoSpeech
from echox.serving.realtime.listening.live_transcript import MAX_WINDOW_S, STEP_S
from echox.serving.realtime.listening.stable_words import StableWords, rest_of
from echox.serving.service.spare_time import SpareTime
from echox.streaming.events import Finished, Heard, HeardWord
from echox.streaming.prompt.messages import Audio
from serving_help import connected, nano, question, run, running
from waiting import wait_until_async

DELTA, COMPLETED = (f"conversation.item.input_audio_transcription.{kind}" for kind in ("delta", "completed"))


def words(text):
    return [HeardWord(word, float(place), place + 1.0) for place, word in enumerate(text.split())]


# ---------------------------------------------------------------------------------------------- stable words


def test_a_word_is_sent_when_two_transcripts_agree_and_it_is_not_the_last():
    stable = StableWords()
    heard = ["", " is", " is the cap", " is the capital.", " is the capital of", " is the capital of"]
    assert [stable.push(words(f"what{text}")) for text in heard] == ["", "", "what", " is the", "", " capital"]
    assert stable.text == "what is the capital"
    assert rest_of(stable.text, "what is the capital of Brazil?") == " of Brazil?"
    assert rest_of(stable.text, "What is the capital of Brazil?") == ""
    assert rest_of("", "Hello.") == "Hello."


def test_what_was_sent_stays_when_a_transcript_changes():
    stable = StableWords()
    for text in ("a b c d", "a b c d"):
        stable.push(words(text))
    assert stable.text == "a b c"
    assert stable.push(words("x y")) == ""
    assert stable.push(words("x y z w v u")) == ""
    assert stable.push(words("x y z w v u t")) == " w v"
    assert stable.text == "a b c w v"


def test_a_window_begins_after_the_last_word_that_was_sent():
    stable = StableWords()
    assert stable.next_window() is None
    for text in ("a b c d", "a b c d e"):
        stable.push(words(text))
    assert (stable.text, stable.next_window()) == ("a b c", 3.0)
    assert stable.push(words("d e f")) == " d"
    stable.skip_window()
    assert stable.next_window() is None
    assert [stable.push(words("g h")), stable.push(words("g h"))] == ["", " g"]


def test_spare_time_is_a_share_and_first_come_first_served():
    order = []

    async def piece(time_of, number):
        async with time_of.turn():
            order.append(number)
            await asyncio.sleep(0.02)  # fixed time: the work

    async def all_of():
        spare = SpareTime(0.2)
        began_s = time.monotonic()
        await asyncio.gather(*(piece(spare, number) for number in range(4)))
        return time.monotonic() - began_s

    assert asyncio.run(all_of()) >= 4 * 0.02 + 3 * 0.08
    assert order == [0, 1, 2, 3]


# ---------------------------------------------------------------------------------------------- the model


def test_a_session_that_only_hears_hears_the_same_and_remembers_nothing():
    audio = Audio(load_audio(bundled_questions()[0], 16000), 16000)
    session = nano().session()
    events = [*session.transcribe(audio, keep=False)]
    whole = [event for event in nano().session().stream(bundled_questions()[0]) if isinstance(event, Heard)]
    assert events[0] == whole[0]
    assert isinstance(events[1], Finished)
    assert (len(events), session.messages, events[1].text) == (2, [], "")
    with pytest.raises(NoSpeech):
        [*session.transcribe(Audio(np.zeros(16000, np.float32), 16000))]
    assert session.reply({"role": "user", "content": "What does a cow say?"}, speak=False).text


def test_pieces_are_not_kept():
    engine = nano().engine
    engine.clear_encoded()
    audio = Audio(load_audio(bundled_questions()[1], 16000), 16000)
    [*nano().session().transcribe(audio, keep=False)]
    assert engine.unencoded_s([audio]) == audio.duration_s
    [*nano().session().transcribe(audio)]
    assert engine.unencoded_s([audio]) == 0


# ---------------------------------------------------------------------------------------------- the server


@pytest.fixture(scope="module")
def server():
    with running(nano()) as found:
        yield found


def count(server):
    lines = server.service.metrics.text().decode().splitlines()
    return next(line for line in lines if line.startswith("echox_partial_transcripts_total "))


async def say_slowly(server, client, sound, step_s=0.5):
    """Say it, and wait after each piece until it is transcribed: a machine of any speed sees the same windows."""
    await wait_until_async(lambda: len(server.service.sessions) == 1, "earlier sessions have ended")
    (session,) = server.service.sessions
    live = session._live
    for start in range(0, len(sound), int(step_s * 24000)):
        await client.say(sound[start : start + int(step_s * 24000)], chunk_s=step_s)
        await client.send("echox.ping")
        await client.until("echox.pong")
        await wait_until_async(lambda: live._task is None, "the piece is transcribed", 60)


async def transcribing(client, **changes):
    audio = {"input": {"transcription": {"model": "gpt-4o-transcribe"}, **changes}}
    await client.send("session.update", session={"type": "realtime", "output_modalities": ["text"], "audio": audio})
    await client.until("session.updated")


def test_words_come_while_the_user_speaks_and_make_up_the_transcript(server):
    async def talk():
        async with connected(server) as client:
            await transcribing(client)
            await say_slowly(server, client, question(0, lead_s=0.3, tail_s=0.9))
            done = client.of(COMPLETED)[0] if client.of(COMPLETED) else await client.until(COMPLETED)
            kinds = [event["type"] for event in client.events]
            assert kinds.index("input_audio_buffer.speech_started") < kinds.index(DELTA)
            assert kinds.index(DELTA) < kinds.index("input_audio_buffer.speech_stopped")
            deltas = client.of(DELTA)
            assert {event["item_id"] for event in deltas} == {done["item_id"]}
            assert "".join(event["delta"] for event in deltas) == done["transcript"]
            assert "Brazil" in done["transcript"]
            assert done["item_id"] == client.of("input_audio_buffer.speech_started")[0]["item_id"]

    run(talk(), 240)


def test_turns_marked_by_the_client(server):
    async def talk():
        async with connected(server) as client:
            await transcribing(client, turn_detection=None)
            for number in (0, 2):
                place = len(client.events)
                await say_slowly(server, client, question(number))
                early = [event for event in client.events[place:] if event["type"] == DELTA]
                assert early
                await client.send("input_audio_buffer.commit")
                item_id = (await client.until("input_audio_buffer.committed"))["item_id"]
                done = await client.until(COMPLETED)
                deltas = [event for event in client.events[place:] if event["type"] == DELTA]
                assert {event["item_id"] for event in deltas} == {item_id} == {done["item_id"]}
                assert "".join(event["delta"] for event in deltas) == done["transcript"]
            # What was cleared is no part of the next turn.
            await say_slowly(server, client, question(1)[:36000])
            await client.send("input_audio_buffer.clear")
            await client.until("input_audio_buffer.cleared")
            place = len(client.events)
            await say_slowly(server, client, question(2))
            await client.send("input_audio_buffer.commit")
            done = await client.until(COMPLETED)
            deltas = [event for event in client.events[place:] if event["type"] == DELTA]
            assert "".join(event["delta"] for event in deltas) == done["transcript"]

    run(talk(), 240)


def test_nothing_is_transcribed_that_nobody_asked_for(server):
    async def talk():
        before = count(server)
        async with connected(server, manual=True) as client:
            await say_slowly(server, client, question(0))
            await client.send("input_audio_buffer.commit")
            await client.until("conversation.item.done")
            assert not client.of(DELTA)
        assert count(server) == before

    run(talk(), 120)


def test_long_speech_is_transcribed_in_windows_of_bounded_length(server, monkeypatch):
    lengths = []
    transcribe = server.service.transcribe

    async def measured(audio, keep=True):
        if not keep:
            lengths.append(audio.duration_s)
        return await transcribe(audio, keep)

    monkeypatch.setattr(server.service, "transcribe", measured)
    sound = np.concatenate([question(number, tail_s=0.2) for number in (1, 0, 2, 1, 0)])

    async def talk():
        async with connected(server) as client:
            await transcribing(client, turn_detection=None)
            await say_slowly(server, client, sound, step_s=1.0)
            await client.send("input_audio_buffer.commit")
            done = await client.until(COMPLETED, 120)
            return [event["delta"] for event in client.of(DELTA)], done["transcript"]

    deltas, whole = run(talk(), 400)
    assert len(sound) / 24000 > MAX_WINDOW_S + 2
    assert max(lengths) <= MAX_WINDOW_S + 1.1 + STEP_S
    assert len(lengths) > 8
    assert len(deltas) > 3
    assert whole
