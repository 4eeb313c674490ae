"""Where speech is in a recording, and the input of the model: that part, with margins of fixed length, at one level.

A model understands best what it was trained on: an utterance with little around it, at an ordinary level. People send
seconds of silence or hiss before and after, whisper into bad microphones, and pass 16-bit integers as floats. All input
is brought to one form here: `find_speech` finds where speech is, if anywhere, and `speech_for_model` cuts to it (pauses
inside stay), adds margins of fixed length, and scales it to ``SPEECH_LEVEL_DBFS``. So a recording gives the same input
whether nothing, a second or a minute of silence surrounds it.

Voiced speech is found by its periodicity: vowels repeat 60 to 500 times a second, noise of any level does not. A
recording without voiced speech (a whisper) is judged by how much its level varies.

Source: periodicity by the autocorrelation of the windowed signal divided by that of the window, Boersma 1993,
"Accurate short-term analysis of the fundamental frequency", Proceedings of the Institute of Phonetic Sciences 17.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

SPEECH_LEVEL_DBFS = -20.0
"""Root mean square of voiced speech in the model's input: about the middle of nano's training data."""
MAX_GAIN_DB = 45.0
"""Most amplification of faint speech: its noise is amplified with it."""
MARGIN_BEFORE_S = 0.25
"""Kept before the first voiced frame: longer than the consonants that may begin a sentence."""
MARGIN_AFTER_S = 0.35
"""Kept after the last voiced frame: longer than the consonants that may end a sentence, and their decay."""
MIN_SPEECH_S = 0.08
"""Least voiced speech of a recording: less is a click."""

_WINDOW_S, _HOP_S = 0.04, 0.02
_BLOCK_FRAMES = 1500  # analysed at once: half a minute, so that a long recording takes little memory
_LOWEST_HZ, _HIGHEST_HZ = 60.0, 500.0  # pitch of a voice
_BAND_HZ = (60.0, 1100.0)  # where its harmonics are strongest
_PERIODIC = 0.6  # least share of the energy that repeats after a period
_SURE_SHARE = 0.34  # least share of a run's frames that also repeat without the lowest frequencies
_RUN_FRAMES = 3  # a shorter repetition is chance
_VOICE_RANGE_DB = 35.0  # further below the loudest voice is an echo, or a voice in the next room
_SILENCE_DBFS = -95.0  # of the band; below is the rounding of 16-bit samples
_STRAY_SHARE, _STRAY_GAP_S = 0.01, 0.6  # less of the voice's energy, further from the rest, is no speech
_STEADY_DB, _STEADY_PITCH = 1.0, 0.01  # a sound that varies less in level and pitch is a hum, not a voice
_WHISPER_RISE_DB, _WHISPER_S, _QUIETEST_DBFS = 12.0, 0.15, -65.0


@dataclass(frozen=True)
class SpeechSpan:
    """Where speech is in samples (S,): from ``start`` to before ``end``, margins included.

    Attributes:
        level_dbfs: root mean square of its voiced part.
        lead, tail: samples of silence to add before and after, where the recording is shorter than the margin.
        fade_in, fade_out: samples of the two margins, recorded or added.
    """

    start: int
    end: int
    level_dbfs: float
    lead: int = 0
    tail: int = 0
    fade_in: int = 0
    fade_out: int = 0


def speech_for_model(waveform: np.ndarray, speech: SpeechSpan) -> np.ndarray:
    """Samples (S,) float32 cut to the speech that `find_speech` found in them, with its margins, at one level.

    Sample i of the result is sample ``speech.start - speech.lead + i`` of the recording.
    """
    gain_db = min(SPEECH_LEVEL_DBFS - speech.level_dbfs, MAX_GAIN_DB)
    cut = within_full_scale(waveform)[speech.start : speech.end] * np.float32(10.0 ** (gain_db / 20.0))
    whole = np.pad(cut, (speech.lead, speech.tail))
    # Noise beside the speech fades, and consonants next to the first and last voiced moment stay.
    whole[: speech.fade_in] *= _rise(speech.fade_in)
    whole[len(whole) - speech.fade_out :] *= _rise(speech.fade_out)[::-1]
    return whole


@lru_cache(maxsize=8)
def _rise(samples: int) -> np.ndarray:
    """Half a period of a raised cosine (samples,) float32, from 0 to 1."""
    return (0.5 - 0.5 * np.cos(np.pi * np.arange(samples) / max(samples, 1))).astype(np.float32)


def within_full_scale(waveform: np.ndarray) -> np.ndarray:
    """Float samples of any shape as float32 in [-1, 1]: divided by their peak if that is greater than 1."""
    peak = float(np.abs(waveform).max(initial=0.0))
    if peak > 1.0:
        return (waveform / peak).astype(np.float32)
    return waveform.astype(np.float32, copy=False)


def find_speech(waveform: np.ndarray, sampling_rate: int) -> SpeechSpan | None:
    """The part of a recording that holds all its speech.

    Args:
        waveform: finite float samples (S,); those beyond full scale (16-bit integers as floats) are scaled down.
        sampling_rate: in hertz, 4000 or more.

    Returns:
        None: there is no speech, only silence or noise.
    """
    waveform = within_full_scale(waveform)
    hop, window = round(_HOP_S * sampling_rate), round(_WINDOW_S * sampling_rate)
    analysis = _analysis(window, sampling_rate)
    # Padded with silence, so that the first and last sounds are measured as if silence was recorded around them.
    level_db, power = _measured(np.pad(waveform, window), hop, analysis)
    begins = np.arange(len(level_db)) * hop
    whole = (begins >= window) & (begins <= len(waveform))  # frames without any of that silence
    active = _voiced(power, whole, analysis)
    if active.sum() * _HOP_S < MIN_SPEECH_S:
        active = _whispered(level_db, whole)
        if active.sum() * _HOP_S < _WHISPER_S:
            return None
    places = np.flatnonzero(active)
    before, after = round(MARGIN_BEFORE_S * sampling_rate), round(MARGIN_AFTER_S * sampling_rate)
    wanted = int(places[0]) * hop - window - before, int(places[-1]) * hop + after
    start, end = max(wanted[0], 0), min(wanted[1], len(waveform))
    rms_db = 10.0 * np.log10(np.mean(10.0 ** (level_db[active] / 10.0)))
    return SpeechSpan(start, end, float(rms_db), start - wanted[0], wanted[1] - end, before, after)


@dataclass(frozen=True)
class _Analysis:
    """Of windows of one length: FFT size, first and last bin of the band, window, and its autocorrelation."""

    size: int
    low: int
    high: int
    window: np.ndarray
    correlation: np.ndarray
    rate_hz: float

    def periodicity(self, power: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Of spectra (F, high + 1): the part (F,) of the energy that repeats after a period, and that period (F,)."""
        # The spectrum ends at `high`: its inverse is the autocorrelation at a lower rate, which is enough.
        shortest, longest = int(self.rate_hz / _HIGHEST_HZ), int(np.ceil(self.rate_hz / _LOWEST_HZ))
        lags = slice(shortest, longest + 1)
        best, period_s = np.zeros(len(power)), np.zeros(len(power))
        for first in range(0, len(power), _BLOCK_FRAMES):
            block = slice(first, first + _BLOCK_FRAMES)
            correlation = np.fft.irfft(power[block], 4 * self.high, axis=1)
            repeated = correlation[:, lags] / np.maximum(correlation[:, :1], 1e-20) / self.correlation[lags]
            best[block], period_s[block] = repeated.max(axis=1), (shortest + repeated.argmax(axis=1)) / self.rate_hz
        return best, period_s


@lru_cache(maxsize=8)
def _analysis(window_samples: int, sampling_rate: int) -> _Analysis:
    longest = int(np.ceil(sampling_rate / _LOWEST_HZ))
    size = 1 << (window_samples + longest).bit_length()  # so long that the circular correlation does not wrap
    low, high = (round(edge * size / sampling_rate) for edge in _BAND_HZ)
    window = np.hanning(window_samples).astype(np.float32)
    correlation = np.fft.irfft(np.square(np.abs(np.fft.rfft(window, size)))[: high + 1], 4 * high)
    correlation = np.maximum(correlation / correlation[0], 0.05).astype(np.float32)
    return _Analysis(size, low, high, window, correlation, sampling_rate * 4 * high / size)


def _measured(waveform: np.ndarray, hop: int, analysis: _Analysis) -> tuple[np.ndarray, np.ndarray]:
    """Of each frame, its level (F,) in dBFS and the power of its band (F, high + 1); an hour takes about 50 MB."""
    frames = np.lib.stride_tricks.sliding_window_view(waveform, len(analysis.window))[::hop]
    level_db = np.zeros(len(frames))
    power = np.zeros((len(frames), analysis.high + 1), np.float32)
    for first in range(0, len(frames), _BLOCK_FRAMES):
        block = frames[first : first + _BLOCK_FRAMES]
        block = block - block.mean(axis=1, keepdims=True)
        rows = slice(first, first + len(block))
        level_db[rows] = 10.0 * np.log10(np.maximum(np.mean(np.square(block), axis=1), 1e-12))
        spectrum = np.fft.rfft(block * analysis.window, analysis.size, axis=1)[:, : analysis.high + 1]
        power[rows] = np.square(spectrum.real) + np.square(spectrum.imag)
    power[:, : analysis.low] = 0.0
    return level_db, power


def _voiced(power: np.ndarray, whole: np.ndarray, analysis: _Analysis) -> np.ndarray:
    """Which frames hold a voice (F,), by the power of their band (F, high + 1); `whole` frames alone may be a hum."""
    full_scale = analysis.size * np.square(analysis.window).sum() / 2.0
    level_db = 10.0 * np.log10(np.maximum(power.sum(axis=1) / full_scale, 1e-12))
    periodic, period_s = analysis.periodicity(power)
    voiced = _without_short_runs((periodic >= _PERIODIC) & (level_db > _SILENCE_DBFS), _RUN_FRAMES)
    if not voiced.any():
        return voiced
    voiced &= level_db > np.percentile(level_db[voiced], 95) - _VOICE_RANGE_DB
    inner = voiced & whole
    if not inner.any():
        return np.zeros_like(voiced)
    if level_db[inner].std() < _STEADY_DB and period_s[inner].std() < _STEADY_PITCH * period_s[inner].mean():
        return np.zeros_like(voiced)
    # Wind and fans are loudest at the lowest frequencies, which makes them look periodic. A slope of 6 dB an octave
    # makes them flat, and leaves a voice periodic in a good part of each of its runs.
    slope = np.square(np.arange(analysis.high + 1, dtype=np.float32) / analysis.high)
    sure = np.zeros_like(voiced)
    sure[voiced] = analysis.periodicity(power[voiced] * slope)[0] >= _PERIODIC
    for start, end in _runs(voiced):
        if sure[start:end].mean() < _SURE_SHARE:
            voiced[start:end] = False
    return _without_strays(voiced, level_db) if voiced.any() else voiced


def _without_short_runs(flags: np.ndarray, frames: int) -> np.ndarray:
    """Runs of True in (F,) that are shorter than `frames` become False."""
    kept = flags.copy()
    for start, end in _runs(flags):
        if end - start < frames:
            kept[start:end] = False
    return kept


def _without_strays(flags: np.ndarray, level_db: np.ndarray) -> np.ndarray:
    """Faint runs at either end, far from the rest, become False: they are no speech."""
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


def _whispered(level_db: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """Frames (F,) far louder than the quietest tenth of the `whole` ones, by their level (F,)."""
    if not whole.any():
        return whole
    floor_db = max(float(np.percentile(level_db[whole], 10)), _QUIETEST_DBFS)
    return whole & _without_short_runs(level_db > floor_db + _WHISPER_RISE_DB, _RUN_FRAMES)
