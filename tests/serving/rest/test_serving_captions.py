"""Times of words from CTC, caption segments and subtitles; stop strings; streamed speech."""

import asyncio
import base64
import json

import httpx
import numpy as np
import pytest

from echox.audio import encode_audio, load_audio
from echox.serving.rest.captions import CaptionSegment, segments_of, to_srt, to_vtt
from echox.serving.service.stop_strings import StopStringFeed
from echox.streaming.events import Finished, HeardWord, TextDelta, Timings
from serving_help import nano, question, running


@pytest.fixture(scope="module")
def server():
    with running(nano()) as found:
        yield found


def write_down(server, samples, **fields):
    file = ("x.wav", encode_audio(samples, 16000))
    return httpx.post(f"{server.url}/v1/audio/transcriptions", data=fields, files={"file": file}, timeout=60)


def test_words_have_the_times_at_which_they_are_spoken(server):
    pause = np.zeros(16000, np.float32)
    both = np.concatenate([question(2, 16000), pause, question(0, 16000)])
    fields = {"response_format": "verbose_json", "timestamp_granularities[]": ["word", "segment"]}
    found = write_down(server, both, **fields).json()
    words = found["words"]
    assert " ".join(word["word"] for word in words) == found["text"]
    times = [word[name] for word in words for name in ("start", "end")]
    assert times == sorted(times)
    assert 0 <= times[0] < times[-1] <= found["duration"] + 1e-3
    # No word is in the pause between the questions, and the last one is where it is said.
    first_s = len(question(2, 16000)) / 16000
    gaps = [(after["start"] - before["end"], before["end"], after["start"]) for before, after in zip(words, words[1:])]
    longest_s, begins_s, ends_s = max(gaps)
    assert longest_s > 0.4
    assert begins_s < first_s + 0.5 < ends_s
    assert first_s + 2.5 < words[-1]["start"] < found["duration"] - 0.2
    # Segments are made of the words.
    assert " ".join(segment["text"] for segment in found["segments"]) == found["text"]
    assert len(found["segments"]) >= 2
    from openai.types.audio import TranscriptionVerbose

    TranscriptionVerbose.model_validate_json(json.dumps(found), strict=True)


@pytest.mark.parametrize("kind", ["srt", "vtt"])
def test_subtitles(server, kind):
    text = write_down(server, question(0, 16000), response_format=kind).text
    point = "," if kind == "srt" else "."
    assert f"00:00:00{point}" in text.splitlines()[2 if kind == "vtt" else 1]
    assert "Brazil?" in text


def word(text, start_s, end_s):
    return HeardWord(text, start_s, end_s)


def test_segments_end_at_sentences_pauses_and_when_they_are_long():
    words = [word("Yes.", 0, 1), word("It", 1, 2), word("is", 2, 3), word("so", 4, 5)]
    assert [one.text for one in segments_of(words)] == ["Yes.", "It is", "so"]
    long = [word("word", n, n + 1) for n in range(20)]
    assert all(one.end_s - one.start_s <= 7 for one in segments_of(long))
    many = [word("incomprehensibilities", n / 10, n / 10 + 0.1) for n in range(20)]
    assert all(len(one.text) <= 84 for one in segments_of(many))
    assert segments_of([]) == []


def test_the_exact_text_of_subtitle_formats():
    segments = [CaptionSegment("A & <b>", 0.0, 1.5), CaptionSegment("C", 3661.042, 3662.0)]
    assert to_srt(segments) == "1\n00:00:00,000 --> 00:00:01,500\nA & <b>\n\n2\n01:01:01,042 --> 01:01:02,000\nC\n"
    assert to_vtt(segments) == (
        "WEBVTT\n\n00:00:00.000 --> 00:00:01.500\nA &amp; &lt;b>\n\n01:01:01.042 --> 01:01:02.000\nC\n"
    )


class Pieces:
    """A feed that says given pieces."""

    def __init__(self, pieces):
        self.pieces, self.cancelled, self.timings = pieces, False, Timings()

    def cancel(self):
        self.cancelled = True

    async def events(self):
        for piece in self.pieces:
            if self.cancelled:
                return
            yield TextDelta(piece)
        yield Finished("".join(self.pieces), "length", self.timings)


@pytest.mark.parametrize(
    ("pieces", "stops", "expected", "stopped"),
    [
        (["a", "b", "c"], (), "abc", "length"),
        (["on", "e ST", "O", "P two"], ("STOP",), "one ", "end"),
        (["on", "e ST", "O", "X two"], ("STOP",), "one STOX two", "length"),
        (["aab"], ("ab",), "a", "end"),
        (["a", "a", "a", "b"], ("aab",), "a", "end"),
        (["xyz"], ("z", "yz"), "x", "end"),
        (["STOP"], ("STOP",), "", "end"),
        (["ab ST"], ("STOP",), "ab ST", "length"),
    ],
)
def test_text_ends_before_the_first_stop_string(pieces, stops, expected, stopped):
    async def collect():
        feed = Pieces(pieces)
        events = [event async for event in StopStringFeed(feed, stops).events()]
        return events, feed.cancelled

    events, cancelled = asyncio.run(collect())
    shown = "".join(event.text for event in events[:-1])
    assert (shown, events[-1].stopped, cancelled) == (expected, stopped, stopped == "end")
    if stopped == "end":
        assert events[-1].text == expected


def test_usage_counts_prompt_and_reply(server):
    def ask(content):
        body = {"messages": [{"role": "user", "content": content}], "modalities": ["text"]}
        return httpx.post(f"{server.url}/v1/chat/completions", json=body, timeout=60).json()

    sound = base64.b64encode(encode_audio(question(0, 16000), 16000)).decode()
    written = ask("What is the capital of France?")["usage"]
    heard = ask([{"type": "input_audio", "input_audio": {"data": f"data:audio/wav;base64,{sound}", "format": "wav"}}])
    assert written["total_tokens"] == written["prompt_tokens"] + written["completion_tokens"]
    assert written["prompt_tokens_details"]["audio_tokens"] == 0
    assert written["prompt_tokens"] > 5
    assert heard["usage"]["prompt_tokens_details"]["audio_tokens"] > 3
    assert written["completion_tokens_details"]["audio_tokens"] == 0
    from openai.types.chat import ChatCompletion

    ChatCompletion.model_validate_json(json.dumps(heard), strict=True)


def test_usage_of_a_stream_is_in_its_last_chunk(server):
    body = {"messages": [{"role": "user", "content": "What is the capital of France?"}], "stream": True}
    url = f"{server.url}/v1/chat/completions"
    text = httpx.post(url, json={**body, "stream_options": {"include_usage": True}}, timeout=60).text
    chunks = [json.loads(line[6:]) for line in text.splitlines() if line.startswith("data: {")]
    assert [chunk["usage"] for chunk in chunks[:-1]] == [None] * (len(chunks) - 1)
    assert chunks[-1]["choices"] == []
    whole = httpx.post(url, json={**body, "stream": False}, timeout=60).json()
    assert chunks[-1]["usage"] == whole["usage"]
    assert "usage" not in httpx.post(url, json=body, timeout=60).text


@pytest.mark.parametrize("kind", ["mp3", "opus", "aac", "flac", "wav"])
@pytest.mark.parametrize("stream_format", ["audio", "sse"])
def test_every_format_has_the_same_audio(server, kind, stream_format):
    body = {"input": "The capital of France is Paris.", "response_format": kind, "stream_format": stream_format}
    with httpx.stream("POST", f"{server.url}/v1/audio/speech", json=body, timeout=60) as found:
        assert found.status_code == 200
        data = b"".join(found.iter_bytes())
        whole = "content-length" in found.headers
    if stream_format == "sse":
        events = [json.loads(line[6:]) for line in data.decode().splitlines() if line]
        assert events[-1]["type"] == "speech.audio.done"
        usage = events[-1]["usage"]
        assert usage["total_tokens"] == usage["input_tokens"] + usage["output_tokens"] > 8
        data = b"".join(base64.b64decode(event["audio"]) for event in events[:-1])
        assert (len(events) > 2) == (kind in ("mp3", "opus", "aac"))
    else:
        assert whole == (kind in ("flac", "wav"))
    sound = load_audio(data, 16000)
    alone = [event for event in nano().speak_text("The capital of France is Paris.") if hasattr(event, "waveform")]
    assert len(sound) / 16000 == pytest.approx(sum(event.duration_s for event in alone), abs=0.15)
    expected = np.concatenate([event.waveform for event in alone])
    assert np.abs(sound).max() == pytest.approx(np.abs(expected).max(), rel=0.2)


def test_words_of_a_spoken_reply_have_times(server):
    body = {"messages": [{"role": "user", "content": "What is the capital of France?"}], "modalities": ["audio"]}
    audio = httpx.post(f"{server.url}/v1/chat/completions", json=body, timeout=60).json()["choices"][0]["message"][
        "audio"
    ]
    assert " ".join(word["word"] for word in audio["words"]) == audio["transcript"]
    duration_s = len(load_audio(base64.b64decode(audio["data"]), 16000)) / 16000
    assert audio["words"][-1]["end"] == pytest.approx(duration_s, abs=0.3)
