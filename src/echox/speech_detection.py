"""What a model is given of a recording: the stretch that holds speech, at one level.

A model hears best what it was trained on: an utterance with little around it, at an ordinary level. People send seconds
of silence or hiss before and after, whisper into bad microphones, and pass 16-bit integers as floats. All of that is
taken away here, in one place, for every way in: `find_speech` says where speech is, if anywhere, and `speech_for_model`
cuts to it (pauses inside stay) and brings it to ``SPEECH_LEVEL_DBFS``.

Speech is found by its voice: vowels repeat themselves 60 to 500 times a second, which noise of any level does not. A
recording without a voice (a whisper) is judged by how much its level varies.

Source: periodicity by the autocorrelation of the windowed signal divided by that of the window, Boersma 1993,
"Accurate short-term analysis of the fundamental frequency", Proceedings of the Institute of Phonetic Sciences 17.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

SPEECH_LEVEL_DBFS = -20.0
"""Root mean square of voiced speech that models are given: about the middle of nano's training data."""
MAX_GAIN_DB = 45.0
"""Fainter speech is raised by no more than this: its noise comes up with it."""
MARGIN_BEFORE_S = 0.25
"""Kept before the first voiced moment: longer than the consonants that may begin a sentence."""
MARGIN_AFTER_S = 0.35
"""Kept after the last voiced moment: longer than the consonants that may end a sentence, and their decay."""
MIN_SPEECH_S = 0.08
"""Voice of less in all is a click."""

_WINDOW_S, _HOP_S = 0.04, 0.02
_LOWEST_HZ, _HIGHEST_HZ = 60.0, 500.0  # of a voice
_BAND_HZ = (60.0, 1100.0)  # where its harmonics are strongest
_PERIODIC = 0.6  # of the energy repeats after a period
_RUN_FRAMES = 3  # a shorter repetition is chance
_VOICE_RANGE_DB = 35.0  # below the loudest voice: an echo, or somebody in the next room
_SILENCE_DBFS = -80.0  # of the band; below is the rounding of 16-bit samples
_STRAY_SHARE, _STRAY_GAP_S = 0.01, 0.6  # so little of the voice's energy, so far from the rest, is no speech
_STEADY_DB, _STEADY_PITCH = 1.0, 0.01  # a voice varies more in level and pitch: this is a hum
_WHISPER_RISE_DB, _WHISPER_S, _QUIETEST_DBFS = 12.0, 0.15, -65.0


@dataclass(frozen=True)
class Speech:
    """Where speech is in samples (S,): from ``start`` to before ``end``, margins included.

    Attributes:
        level_dbfs: root mean square of its voiced part.
    """

    start: int
    end: int
    level_dbfs: float


def speech_for_model(waveform: np.ndarray, speech: Speech) -> np.ndarray:
    """Cut samples (S,) float32 to the speech that `find_speech` found in them, brought to ``SPEECH_LEVEL_DBFS``."""
    gain_db = min(SPEECH_LEVEL_DBFS - speech.level_dbfs, MAX_GAIN_DB)
    return within_full_scale(waveform)[speech.start : speech.end] * np.float32(10.0 ** (gain_db / 20.0))


def within_full_scale(waveform: np.ndarray) -> np.ndarray:
    """Float samples of any shape as float32 in [-1, 1]: divided by their peak where that is greater."""
    peak = float(np.abs(waveform).max(initial=0.0))
    if peak > 1.0:
        return (waveform / peak).astype(np.float32)
    return waveform.astype(np.float32, copy=False)


def find_speech(waveform: np.ndarray, sampling_rate: int) -> Speech | None:
    """The stretch of a recording that holds all its speech.

    Args:
        waveform: finite float samples (S,). Beyond full scale (16-bit integers given as floats) they are scaled down.
        sampling_rate: in hertz, 4000 or more.

    Returns:
        None: there is no speech, only silence or noise.
    """
    waveform = within_full_scale(waveform)
    hop, window = round(_HOP_S * sampling_rate), round(_WINDOW_S * sampling_rate)
    if len(waveform) < window:
        waveform = np.pad(waveform, (0, window - len(waveform)))
    frames = np.lib.stride_tricks.sliding_window_view(waveform, window)[::hop]
    frames = frames - frames.mean(axis=1, keepdims=True)
    voiced, level_db = _voiced(frames, sampling_rate)
    if voiced.sum() * _HOP_S < MIN_SPEECH_S:
        voiced = _whispered(frames)
        if voiced.sum() * _HOP_S < _WHISPER_S:
            return None
        level_db = _level_db(frames)
    places = np.flatnonzero(voiced)
    start = places[0] * hop - round(MARGIN_BEFORE_S * sampling_rate)
    end = places[-1] * hop + window + round(MARGIN_AFTER_S * sampling_rate)
    rms_db = 10.0 * np.log10(np.mean(10.0 ** (_level_db(frames[voiced]) / 10.0)))
    return Speech(max(0, int(start)), min(len(waveform), int(end)), float(rms_db))


def _voiced(frames: np.ndarray, sampling_rate: int) -> tuple[np.ndarray, np.ndarray]:
    """Which frames (F, window) hold a voice (F,), and the level (F,) in dBFS of the band in which it was looked for."""
    size, low, high, window, correction = _analysis(frames.shape[1], sampling_rate)
    spectrum = np.fft.rfft(frames * window, size, axis=1)[:, : high + 1]
    power = np.square(spectrum.real) + np.square(spectrum.imag)
    power[:, :low] = 0.0
    # The spectrum ends at `high`: its inverse is the autocorrelation at a lower rate, which is all that is looked at.
    correlation = np.fft.irfft(power, 4 * high, axis=1)
    rate = sampling_rate * 4 * high / size
    shortest, longest = int(rate / _HIGHEST_HZ), int(np.ceil(rate / _LOWEST_HZ))
    energy = correlation[:, :1]
    periods = correlation[:, shortest : longest + 1] / np.maximum(energy, 1e-20) / correction[shortest : longest + 1]
    best = periods.argmax(axis=1)
    level_db = 10.0 * np.log10(np.maximum(2.0 * power.sum(axis=1) / size / np.square(window).sum(), 1e-12))
    candidates = (periods.max(axis=1) >= _PERIODIC) & (level_db > _SILENCE_DBFS)
    candidates = _without_short_runs(candidates, _RUN_FRAMES)
    if not candidates.any():
        return candidates, level_db
    loud_db = np.percentile(level_db[candidates], 95)
    candidates &= level_db > loud_db - _VOICE_RANGE_DB
    pitch = rate / (shortest + best[candidates])
    if level_db[candidates].std() < _STEADY_DB and pitch.std() < _STEADY_PITCH * pitch.mean():
        return np.zeros_like(candidates), level_db
    return _without_strays(candidates, level_db), level_db


@lru_cache(maxsize=8)
def _analysis(window_samples: int, sampling_rate: int) -> tuple[int, int, int, np.ndarray, np.ndarray]:
    """FFT size, first and last bin of the band, window, and the autocorrelation of the window that a lag is due."""
    size = 1 << (2 * window_samples - 1).bit_length()
    low, high = (round(edge * size / sampling_rate) for edge in _BAND_HZ)
    window = np.hanning(window_samples).astype(np.float32)
    power = np.square(np.abs(np.fft.rfft(window, size)))[: high + 1]
    correlation = np.fft.irfft(power, 4 * high)
    return size, low, high, window, np.maximum(correlation / correlation[0], 0.05).astype(np.float32)


def _without_short_runs(flags: np.ndarray, frames: int) -> np.ndarray:
    """Runs of True in (F,) that are shorter than so many frames become False."""
    kept = flags.copy()
    for start, end in _runs(flags):
        if end - start < frames:
            kept[start:end] = False
    return kept


def _without_strays(flags: np.ndarray, level_db: np.ndarray) -> np.ndarray:
    """Faint runs at either end, far from the rest, are no speech."""
    runs = _runs(flags)
    energies = [float(np.sum(10.0 ** (level_db[start:end] / 10.0))) for start, end in runs]
    faint, far = _STRAY_SHARE * sum(energies), _STRAY_GAP_S / _HOP_S
    first, last = 0, len(runs) - 1
    while first < last and energies[first] < faint and runs[first + 1][0] - runs[first][1] > far:
        first += 1
    while last > first and energies[last] < faint and runs[last][0] - runs[last - 1][1] > far:
        last -= 1
    kept = flags.copy()
    kept[: runs[first][0]] = kept[runs[last][1] :] = False
    return kept


def _runs(flags: np.ndarray) -> list[tuple[int, int]]:
    """(start, end) of every run of True in (F,)."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], flags, [False]]).astype(np.int8)))
    return [(int(start), int(end)) for start, end in edges.reshape(-1, 2)]


def _whispered(frames: np.ndarray) -> np.ndarray:
    """Frames (F, window) far louder than the quietest tenth of the recording."""
    level_db = _level_db(frames)
    floor_db = max(float(np.percentile(level_db, 10)), _QUIETEST_DBFS)
    return _without_short_runs(level_db > floor_db + _WHISPER_RISE_DB, _RUN_FRAMES)


def _level_db(frames: np.ndarray) -> np.ndarray:
    """Level (F,) in dBFS of frames (F, window)."""
    return np.asarray(10.0 * np.log10(np.maximum(np.mean(np.square(frames), axis=1), 1e-12)))
