"""Speech with pauses, labelled, and what a turn detector makes of it: to train and to measure the end of turns.

`speak_with_pause` speaks a text with a silence after some of its words, `cut_with_pause` puts silences into a
recording; `detected_pauses` runs the detector that the server uses over it, and labels each pause that it reports: does
speech follow?

Source of the hum (`hum`): a glottal pulse train through the poles of a nasal murmur, Fant 1960, "Acoustic Theory of
Speech Production".
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from echox.audio import resample
from echox.data.engines.engine import Voice
from echox.data.synthesis import create_synthesizer
from echox.serving.turn_detection.turns import (
    NOTICED_MS,
    Interjected,
    Paused,
    TurnDetector,
    TurnEvent,
    TurnSettings,
)
from echox.serving.turn_detection.vad import FRAME_SAMPLES, SAMPLING_RATE, Vad

LEAD_S = 0.4
"""Silence before the speech."""
_ROOM_DBFS = -70.0  # faint noise everywhere: rooms are never digitally silent
_SILENT_DB = -40.0  # below the loudest sample: silence that an engine adds at the ends
_FADE_S = 0.01


@dataclass(frozen=True)
class PausedSpeech:
    """Speech with pauses.

    Attributes:
        text: that was spoken.
        waveform: float32 (S,) at 16 kHz, with silence around it.
        pauses: (start, end) of the silences inside, s.
        end_s: where the speech ends.
    """

    text: str
    waveform: np.ndarray
    pauses: tuple[tuple[float, float], ...]
    end_s: float


@dataclass(frozen=True)
class DetectedPause:
    """A pause that the detector reports.

    Attributes:
        start_ms: where the turn begins. at_ms: when it was reported.
        left_s: time until the speech ends; 0: nothing of it follows.
    """

    start_ms: int
    at_ms: int
    left_s: float

    @property
    def complete(self) -> bool:
        """Whether nothing of the speech follows."""
        return self.left_s == 0.0


def speak(text: str, voice: Voice) -> tuple[np.ndarray, tuple[float, ...] | None]:
    """Samples float32 (S,) at 16 kHz, and the end of each word, s, if the engine says it."""
    found = create_synthesizer(voice.engine).synthesize(text, voice)
    waveform = found.waveform
    if found.sampling_rate != SAMPLING_RATE:
        waveform = resample(waveform, found.sampling_rate, SAMPLING_RATE)
    return waveform, found.word_ends_s


def speak_with_pause(
    text: str, voice: Voice, cuts: Sequence[tuple[int, float]], rng: random.Random, tail_s: float = 1.0
) -> PausedSpeech:
    """Speak a text with pauses.

    Half of the texts, where the engine says when each word ends, are spoken as a whole and cut there; else the parts
    are spoken one by one, each with the melody of an end. So the melody says nothing about the label.

    Args:
        text: words with spaces between.
        voice: of the speaker.
        cuts: number of words before each pause, ascending, and its length, s.
        rng: decides how it is cut, and the noise.
        tail_s: silence at the end.

    Raises:
        ValueError: a cut that is not between two words.
    """
    words = text.split()
    places = [cut for cut, _ in cuts]
    if sorted(set(places)) != places or any(not 0 < cut < len(words) for cut in places):
        raise ValueError(f"cuts: expected ascending numbers between 1 and {len(words) - 1}, found {places}")
    return _with_silences(text, _parts(words, places, voice, rng), [silence_s for _, silence_s in cuts], rng, tail_s)


def cut_with_pause(
    text: str,
    waveform: np.ndarray,
    cuts: Sequence[tuple[float, float]],
    rng: random.Random,
    tail_s: float = 1.0,
) -> PausedSpeech:
    """Put pauses into a recording.

    Args:
        text: that is said in it.
        waveform: float32 (S,) at 16 kHz.
        cuts: where each pause is put, s, ascending, and its length, s.
        rng: decides the noise.
        tail_s: silence at the end.

    Raises:
        ValueError: a cut that leaves no sound before or behind it.
    """
    at = [0, *(round(place_s * SAMPLING_RATE) for place_s, _ in cuts), len(waveform)]
    parts = [_trimmed(_faded(waveform[start:end])) for start, end in zip(at, at[1:], strict=False)]
    if sorted(at) != at or not all(len(part) for part in parts):
        found = [place_s for place_s, _ in cuts]
        raise ValueError(
            f"cuts: expected ascending times with sound between them in {len(waveform) / SAMPLING_RATE:.2f} s, "
            f"found {found}"
        )
    return _with_silences(text, parts, [silence_s for _, silence_s in cuts], rng, tail_s)


def _with_silences(
    text: str, parts: Sequence[np.ndarray], silences_s: Sequence[float], rng: random.Random, tail_s: float
) -> PausedSpeech:
    """Parts with silences between them, one before and one behind."""
    pieces, pauses, now = [np.zeros(round(LEAD_S * SAMPLING_RATE), np.float32)], [], LEAD_S
    for number, part in enumerate(parts):
        pieces.append(part)
        now += len(part) / SAMPLING_RATE
        silence_s = silences_s[number] if number < len(silences_s) else tail_s
        pieces.append(np.zeros(round(silence_s * SAMPLING_RATE), np.float32))
        if number < len(silences_s):
            pauses.append((now, now + silence_s))
            now += silence_s
    return PausedSpeech(text, _in_a_room(np.concatenate(pieces), rng), tuple(pauses), now)


def _parts(words: list[str], places: list[int], voice: Voice, rng: random.Random) -> list[np.ndarray]:
    """The words between the cuts, each part float32 (S,) without silence around it."""
    edges = [0, *places, len(words)]
    if places and rng.random() < 0.5:
        whole, word_ends_s = speak(" ".join(words), voice)
        if word_ends_s is not None and len(word_ends_s) == len(words):
            at = [0, *(round(word_ends_s[cut - 1] * SAMPLING_RATE) for cut in places), len(whole)]
            cut = [_trimmed(_faded(whole[start:end])) for start, end in zip(at, at[1:], strict=False)]
            if all(len(part) for part in cut):
                return cut
    texts = [" ".join(words[start:end]) for start, end in zip(edges, edges[1:], strict=False)]
    return [_trimmed(speak(text, voice)[0]) for text in texts]


def _trimmed(waveform: np.ndarray) -> np.ndarray:
    level = float(np.abs(waveform).max(initial=0.0)) * 10 ** (_SILENT_DB / 20)
    loud = np.flatnonzero(np.abs(waveform) > level)
    return waveform[loud[0] : loud[-1] + 1] if len(loud) else waveform[:0]


def _faded(waveform: np.ndarray) -> np.ndarray:
    fade = min(round(_FADE_S * SAMPLING_RATE), len(waveform) // 2)
    ramp = np.ones(len(waveform), np.float32)
    ramp[:fade], ramp[len(ramp) - fade :] = np.linspace(0, 1, fade), np.linspace(1, 0, fade)
    return waveform * ramp


def _in_a_room(waveform: np.ndarray, rng: random.Random) -> np.ndarray:
    """With faint noise, float32 (S,)."""
    noise = np.random.default_rng(rng.getrandbits(32)).standard_normal(len(waveform))
    return (waveform + 10 ** (_ROOM_DBFS / 20) * noise).astype(np.float32)


def alone(waveform: np.ndarray, rng: random.Random, tail_s: float = 0.6) -> np.ndarray:
    """A sound float32 (S,) with silence and a room around it."""
    lead, tail = (np.zeros(round(one * SAMPLING_RATE), np.float32) for one in (LEAD_S, tail_s))
    return _in_a_room(np.concatenate([lead, _trimmed(waveform), tail]), rng)


def detector_events(
    waveform: np.ndarray, vad: Vad, settings: TurnSettings, heard_ms: int | None = None
) -> list[tuple[int, TurnEvent]]:
    """Events of the turn detector for samples (S,) at 16 kHz, with the time of each, ms; nobody answers it."""
    turns, found = TurnDetector(settings), []
    for number in range(len(waveform) // FRAME_SAMPLES):
        start, end = number * FRAME_SAMPLES, (number + 1) * FRAME_SAMPLES
        probability = vad.push(waveform[start:end])
        start_ms, end_ms = (1000 * one // SAMPLING_RATE for one in (start, end))
        found += [(end_ms, event) for event in turns.push(probability, start_ms, end_ms, heard_ms)]
    return found


def detected_pauses(speech: PausedSpeech, vad: Vad) -> list[DetectedPause]:
    """The pauses that the server would ask a judge about."""
    settings = TurnSettings(patience_ms=100_000)
    events = detector_events(speech.waveform, vad, settings)
    pauses = [event for _, event in events if isinstance(event, Paused)]
    # A detector keeps hearing a voice for some frames after it: only a pause after the last word is complete.
    return [DetectedPause(one.start_ms, one.at_ms, max(0.0, speech.end_s - one.at_ms / 1000)) for one in pauses]


def detected_interjection(waveform: np.ndarray, vad: Vad) -> Interjected | None:
    """What the server would ask a judge about when this is said over a reply; None: too long, or no speech."""
    events = detector_events(waveform, vad, TurnSettings(judges_interjections=True), NOTICED_MS)
    return next((event for _, event in events if isinstance(event, Interjected)), None)


def cut(waveform: np.ndarray, start_ms: int, end_ms: int) -> np.ndarray:
    """Samples between two times."""
    return waveform[start_ms * SAMPLING_RATE // 1000 : end_ms * SAMPLING_RATE // 1000]


def hum(rng: random.Random) -> np.ndarray:
    """An "mm-hmm" or "mm", float32 (S,) at 16 kHz: engines spell these words."""
    pitch_hz, syllables = rng.uniform(90, 240), rng.choice((1, 2, 2))
    parts = []
    for number in range(syllables):
        count = round(rng.uniform(0.12, 0.28) * SAMPLING_RATE)
        rise = rng.uniform(0.9, 1.0) if number == 0 else rng.uniform(1.05, 1.35)
        contour = pitch_hz * np.linspace(rise, rise * rng.uniform(0.9, 1.15), count)
        phase = 2 * np.pi * np.cumsum(contour) / SAMPLING_RATE
        voice = np.zeros(count)
        for harmonic in range(1, int(3500 / contour.max())):
            hz = harmonic * pitch_hz * rise
            gain = sum(
                level / (1 + ((hz - pole_hz) / width_hz) ** 2)
                for pole_hz, width_hz, level in ((250, 90, 1.0), (1000, 150, 0.12), (2200, 250, 0.04))
            )
            voice += gain * np.sin(harmonic * phase + rng.uniform(0, 6.28)) / harmonic**0.5
        parts.append(voice * np.hanning(count) ** 0.5)
        parts.append(np.zeros(round(rng.uniform(0.02, 0.07) * SAMPLING_RATE)))
    whole = np.concatenate(parts)
    return (whole / np.abs(whole).max() * rng.uniform(0.1, 0.5)).astype(np.float32)


def cough(rng: random.Random) -> np.ndarray:
    """A cough or a knock, float32 (S,) at 16 kHz: noise in a band that fades."""
    count = round(rng.uniform(0.1, 0.4) * SAMPLING_RATE)
    spectrum = np.fft.rfft(np.random.default_rng(rng.getrandbits(32)).standard_normal(count))
    hertz = np.fft.rfftfreq(count, 1 / SAMPLING_RATE)
    spectrum *= np.exp(-(((hertz - rng.uniform(200, 1500)) / rng.uniform(200, 900)) ** 2)) + rng.uniform(0, 0.2)
    sound = np.fft.irfft(spectrum, count) * np.exp(-np.arange(count) / (count / rng.uniform(2, 6)))
    return (sound / np.abs(sound).max() * rng.uniform(0.1, 0.5)).astype(np.float32)
