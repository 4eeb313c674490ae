"""The stages of the pipeline that process clips, a chunk at a time: check, and extract units.

Each class is made once per process and loads its models there. A chunk is a list of rows (JSON objects); the results
are rows with the same ids. A clip that is not kept has "dropped" (the reason) and "detail". Results depend on the chunk
only, never on the worker: every way of execution gives the same.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch

from echox.audio import load_audio, save_audio
from echox.data.corpora.base import safe_name
from echox.data.engines.engine import Voice
from echox.data.scoring import edit_counts, normalize_words
from echox.data.synthesis import create_synthesizer
from echox.data.text import normalize_for_speech
from echox.files import JsonObject, stamp
from echox.models.text.word_breaks import split_words
from echox.preparation.rewrite import Rewriter
from echox.preparation.settings import Filter, TextSettings, Units, Voices

SAMPLING_RATE = 16_000
_BLOCK_S = 0.02

Row = JsonObject


class Recogniser(Protocol):
    """A judge, as far as clips are checked with it."""

    def transcribe(self, waveforms: Sequence[np.ndarray], sampling_rate: int) -> list[str]:
        """The words of each waveform (S,)."""
        ...

    def as_heard(self, text: str) -> str:
        """A text in the form of the transcripts."""
        ...


@dataclass(frozen=True)
class CheckSettings:
    """The settings of :class:`CheckClips`; ``output``: folder for spoken audio."""

    output: Path
    text: TextSettings
    voices: Voices
    filter: Filter


class CheckClips:
    """Normalises text, speaks text without audio, then checks length, rate, silence and recognised words.

    Args:
        settings: see :class:`CheckSettings`.
        judge: makes the recogniser; None: nothing is recognised.
    """

    def __init__(self, settings: CheckSettings, judge: Callable[[], Recogniser] | None) -> None:
        torch.set_num_threads(1)  # another order of float sums would change results
        self.settings = settings
        text = settings.text
        self.rewrite = Rewriter(text.rewriter, text.model) if text.rewriter else None
        self.judge = judge() if judge is not None and settings.filter.max_wer is not None else None

    def __call__(self, rows: Sequence[Row]) -> list[Row]:
        """One result per clip: text, audio and measures, or the reason why it is dropped."""
        results, waveforms = [], []
        for row in rows:
            try:
                result, waveform = self._one(row)
            except _NotKept as reason:
                result, waveform = {"id": row["id"], "dropped": reason.args[0], "detail": reason.args[1]}, None
                result["duration_s"] = reason.args[2]
            results.append(result)
            waveforms.append(waveform)
        if self.judge is not None:
            self._recognise(self.judge, results, waveforms)
        return results

    def _one(self, row: Row) -> tuple[Row, np.ndarray]:
        """Everything but recognition. Raises _NotKept."""
        text, ends, speaker = row["text"], row["word_ends_s"], row["speaker"]
        if self.rewrite is not None and row["audio"] is None:
            text = self.rewrite(text)
        written = row.get("written") or text
        if (language := self.settings.text.spoken_language) is not None:
            text = normalize_for_speech(text, language)
        if not normalize_words(text):
            raise _NotKept("no text", f"found {row['text']!r}", row["duration_s"] or 0.0)
        if row["audio"] is None:
            audio, waveform, ends, speaker = self._speak(row["id"], text, row["role"])
        else:
            audio = row["audio"]
            try:
                waveform = load_audio(audio, SAMPLING_RATE)
            except ValueError as error:
                raise _NotKept("unreadable audio", str(error), row["duration_s"] or 0.0) from error
            self._check_whole(row, waveform)
        if ends is not None and len(ends) != len(text.split()):
            ends = None  # the text has other words now
        duration_s = len(waveform) / SAMPLING_RATE
        measures = {
            "duration_s": round(duration_s, 4),
            "words_per_s": round(len(split_words(text)) / duration_s, 4),
            "silence_ratio": round(silence_ratio(waveform, self.settings.filter.silence_dbfs), 4),
        }
        self._filter(measures)
        digest = hashlib.sha256(np.ascontiguousarray(waveform).tobytes()).hexdigest()[:32]
        kept = {
            "id": row["id"],
            "text": text,
            "audio": audio,
            "spoken": stamp(audio) if row["audio"] is None else None,
            "speaker": speaker,
            "split": row["split"],
            "word_ends_s": None if ends is None else list(ends),
            "recording": digest,
            "written": written if written != text else None,
            **measures,
        }
        return kept, waveform

    def _check_whole(self, row: Row, waveform: np.ndarray) -> None:
        """A truncated file still decodes, but not to the duration in its manifest."""
        found_s, stated_s = len(waveform) / SAMPLING_RATE, row["duration_s"]
        if stated_s is not None and found_s < stated_s - max(0.05, 0.02 * stated_s):
            detail = f"{row['audio']}: expected {stated_s:g} s, found {found_s:g} s: it was cut"
            raise _NotKept("unreadable audio", detail, stated_s)

    def _speak(self, name: str, text: str, role: str) -> tuple[str, np.ndarray, tuple[float, ...] | None, str]:
        voices, digest = self.settings.voices, hashlib.sha256(name.encode()).hexdigest()
        chosen = voices.assistant if role == "assistant" else voices.user[int(digest, 16) % len(voices.user)]
        assert chosen is not None, "texts of a role without a voice are no clips"
        voice = Voice.of_speaker(chosen)
        try:
            speech = create_synthesizer(voice.engine).synthesize(text, voice)
        except ValueError as error:
            raise _NotKept("could not be spoken", str(error), 0.0) from error
        path = self.settings.output / "audio" / digest[:2] / f"{safe_name(name)}.wav"
        path.parent.mkdir(parents=True, exist_ok=True)
        save_audio(path, speech.waveform, speech.sampling_rate)
        return str(path), load_audio(path, SAMPLING_RATE), speech.word_ends_s, chosen

    def _filter(self, measures: Row) -> None:
        limits = self.settings.filter
        for name, low, high, too_low, too_high in (
            ("duration_s", limits.min_duration_s, limits.max_duration_s, "too short", "too long"),
            ("silence_ratio", 0.0, limits.max_silence_ratio, "", "mostly silence"),
            ("words_per_s", limits.min_words_per_s, limits.max_words_per_s, "too slow", "too fast"),
        ):
            if not low <= measures[name] <= high:
                reason = too_low if measures[name] < low else too_high
                raise _NotKept(reason, f"{name} {measures[name]:g}, kept {low:g} to {high:g}", measures["duration_s"])

    def _recognise(self, judge: Recogniser, results: list[Row], waveforms: Sequence[np.ndarray | None]) -> None:
        heard = iter(judge.transcribe([wave for wave in waveforms if wave is not None], SAMPLING_RATE))
        for result, waveform in zip(results, waveforms, strict=True):
            if waveform is None:
                continue
            words = next(heard)
            reference = normalize_words(judge.as_heard(result["text"]))
            result["wer"] = round(edit_counts(reference, normalize_words(words)).rate, 4)
            if result["wer"] > float(self.settings.filter.max_wer or 0.0):
                result |= {"dropped": "wrong text", "detail": f"heard {words!r}, text {result['text']!r}"}


class ExtractUnits:
    """Extracts reduced units of clips, and the word of each unit."""

    def __init__(self, settings: Units) -> None:
        torch.set_num_threads(1)
        from echox.units.extract import UnitExtractor

        self.settings = settings
        self.extractor = UnitExtractor.from_pretrained(settings.extractor, settings.encoder).to(settings.device)

    def __call__(self, rows: Sequence[Row]) -> list[Row]:
        """``units``, ``durations_frames``, ``word_of_unit``."""
        from echox.units.extract import deduplicate, words_of_units

        frames = self.extractor.extract_batch([load_audio(row["audio"], self.extractor.sampling_rate) for row in rows])
        results = []
        for row, found in zip(rows, frames, strict=True):
            ends = row["word_ends_s"]
            if ends is None and self.settings.missing_word_ends == "drop":
                results.append({"id": row["id"], "dropped": "no word ends", "detail": "align it, or estimate them"})
                continue
            units, durations = deduplicate(found)
            ends = ends or estimated_word_ends_s(row["text"], row["duration_s"])
            words = words_of_units(durations, ends, self.extractor.frame_rate_hz)
            results.append({"id": row["id"], "units": units, "durations_frames": durations, "word_of_unit": words})
        return results


def silence_ratio(waveform: np.ndarray, threshold_dbfs: float) -> float:
    """Share of 20 ms blocks whose level is below the threshold."""
    size = int(_BLOCK_S * SAMPLING_RATE)
    blocks = waveform[: len(waveform) // size * size].reshape(-1, size)
    if not len(blocks):
        return 0.0
    return float((np.square(blocks).mean(axis=1) < 10.0 ** (threshold_dbfs / 10.0)).mean())


def estimated_word_ends_s(text: str, duration_s: float) -> list[float]:
    """Estimated word ends: the duration shared by the letters."""
    lengths = np.cumsum([len(word) + 1 for word in text.split()])
    return [float(end) for end in lengths / lengths[-1] * duration_s]


class _NotKept(Exception):
    """(reason, detail, seconds): this clip is dropped."""
