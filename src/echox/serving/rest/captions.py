"""Transcripts with times: words, segments, and the subtitle formats SubRip (srt) and WebVTT (vtt).

Source: https://www.w3.org/TR/webvtt1/; SubRip as FFmpeg and the OpenAI API write it.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from echox.streaming.events import HeardWord

_PAUSE_S = 0.8  # a segment ends before a pause of this length,
_LONGEST_S = 7.0  # and before it is longer than this,
_MOST_CHARS = 84  # or has more characters: two lines of subtitles
_SENTENCE_ENDS = (".", "?", "!", "\u2026", "\u3002", "\uff1f", "\uff01")


@dataclass(frozen=True)
class Segment:
    """A stretch of speech: at most a sentence, short enough to be read.

    Attributes:
        text: its words. start_s, end_s: in the recording.
    """

    text: str
    start_s: float
    end_s: float


def segments_of(words: Sequence[HeardWord]) -> list[Segment]:
    """Words in order as segments."""
    found: list[Segment] = []
    for word in words:
        longer = _joined(found[-1], word) if found else None
        if longer is None:
            found.append(Segment(word.text, word.start_s, word.end_s))
        else:
            found[-1] = longer
    return found


def _joined(last: Segment, word: HeardWord) -> Segment | None:
    """The segment with one more word; None: it has ended before that word."""
    longer = Segment(f"{last.text} {word.text}", last.start_s, word.end_s)
    pause = word.start_s - last.end_s >= _PAUSE_S
    too_long = longer.end_s - longer.start_s > _LONGEST_S or len(longer.text) > _MOST_CHARS
    return None if last.text.endswith(_SENTENCE_ENDS) or pause or too_long else longer


def to_srt(segments: Sequence[Segment]) -> str:
    """SubRip."""
    blocks = [
        f"{number}\n{_clock(one.start_s, ',')} --> {_clock(one.end_s, ',')}\n{one.text}\n"
        for number, one in enumerate(segments, 1)
    ]
    return "\n".join(blocks)


def to_vtt(segments: Sequence[Segment]) -> str:
    """WebVTT."""
    escaped = [(one, one.text.replace("&", "&amp;").replace("<", "&lt;")) for one in segments]
    blocks = [f"{_clock(one.start_s, '.')} --> {_clock(one.end_s, '.')}\n{text}\n" for one, text in escaped]
    return "\n".join(["WEBVTT\n", *blocks])


def segment_dict(number: int, segment: Segment) -> dict[str, Any]:
    """A segment of ``verbose_json``; what only Whisper has (tokens, probabilities) is empty or 0."""
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


def word_dict(word: HeardWord) -> dict[str, Any]:
    """A word of ``verbose_json``."""
    return {"word": word.text, "start": round(word.start_s, 3), "end": round(word.end_s, 3)}


def _clock(seconds: float, point: str) -> str:
    ms = round(seconds * 1000)
    return f"{ms // 3600000:02}:{ms // 60000 % 60:02}:{ms // 1000 % 60:02}{point}{ms % 1000:03}"
