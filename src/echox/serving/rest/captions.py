"""Transcripts with times: words, caption segments, and the subtitle formats SubRip (srt) and WebVTT (vtt).

Source: https://www.w3.org/TR/webvtt1/; SubRip as FFmpeg and the OpenAI API write it.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypedDict

from echox.streaming.events import HeardWord

_PAUSE_S = 0.8  # a pause of this length ends a segment
_MAX_S = 7.0  # longest segment
_MAX_CHARS = 84  # longest text of a segment: two lines of subtitles
_SENTENCE_ENDS = (".", "?", "!", "\u2026", "\u3002", "\uff1f", "\uff01")


class WordObject(TypedDict):
    """A word of ``verbose_json``."""

    word: str
    start: float
    end: float


class SegmentObject(TypedDict):
    """A segment of ``verbose_json``."""

    id: int
    seek: int
    start: float
    end: float
    text: str
    tokens: list[int]
    temperature: float
    avg_logprob: float
    compression_ratio: float
    no_speech_prob: float


@dataclass(frozen=True)
class CaptionSegment:
    """A part of the transcript: at most one sentence, short enough to be read as a caption.

    Attributes:
        text: the words.
        start_s: start in the recording, s.
        end_s: end in the recording, s.
    """

    text: str
    start_s: float
    end_s: float


def segments_of(words: Sequence[HeardWord]) -> list[CaptionSegment]:
    """Group the words of a transcript into segments."""
    found: list[CaptionSegment] = []
    for word in words:
        longer = _joined(found[-1], word) if found else None
        if longer is None:
            found.append(CaptionSegment(word.text, word.start_s, word.end_s))
        else:
            found[-1] = longer
    return found


def _joined(last: CaptionSegment, word: HeardWord) -> CaptionSegment | None:
    """The segment with one more word; None: the word starts a new segment."""
    longer = CaptionSegment(f"{last.text} {word.text}", last.start_s, word.end_s)
    pause = word.start_s - last.end_s >= _PAUSE_S
    too_long = longer.end_s - longer.start_s > _MAX_S or len(longer.text) > _MAX_CHARS
    return None if last.text.endswith(_SENTENCE_ENDS) or pause or too_long else longer


def to_srt(segments: Sequence[CaptionSegment]) -> str:
    """Format segments as SubRip."""
    blocks = [
        f"{number}\n{_timestamp(one.start_s, ',')} --> {_timestamp(one.end_s, ',')}\n{one.text}\n"
        for number, one in enumerate(segments, 1)
    ]
    return "\n".join(blocks)


def to_vtt(segments: Sequence[CaptionSegment]) -> str:
    """Format segments as WebVTT."""
    escaped = [(one, one.text.replace("&", "&amp;").replace("<", "&lt;")) for one in segments]
    blocks = [f"{_timestamp(one.start_s, '.')} --> {_timestamp(one.end_s, '.')}\n{text}\n" for one, text in escaped]
    return "\n".join(["WEBVTT\n", *blocks])


def segment_dict(number: int, segment: CaptionSegment) -> SegmentObject:
    """A segment of ``verbose_json``; fields that only Whisper has (tokens, probabilities) are empty or 0."""
    text = segment.text.encode()
    return {
        "id": number,
        "seek": 0,
        "start": round(segment.start_s, 3),
        "end": round(segment.end_s, 3),
        "text": segment.text,
        "tokens": [],
        "temperature": 0.0,
        "avg_logprob": 0.0,
        "compression_ratio": round(len(text) / len(zlib.compress(text)), 3),
        "no_speech_prob": 0.0,
    }


def word_dict(word: HeardWord) -> WordObject:
    """A word of ``verbose_json``."""
    return {"word": word.text, "start": round(word.start_s, 3), "end": round(word.end_s, 3)}


def _timestamp(seconds: float, point: str) -> str:
    ms = round(seconds * 1000)
    return f"{ms // 3600000:02}:{ms // 60000 % 60:02}:{ms // 1000 % 60:02}{point}{ms % 1000:03}"
