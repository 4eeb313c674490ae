"""How speech reaches a model: the room, its noise, a telephone line, the level, and the silence before and after.

    around = draw_surroundings(random.Random("question 7"), SurroundingsConfig())
    samples = around.apply(waveform, sampling_rate)       # the same every time

Source: a room as exponentially decaying noise, Polack 1988; mu-law, ITU-T G.711 (as its formula, of 8 bits).
"""

from __future__ import annotations

import random
from dataclasses import dataclass

import numpy as np

from echox.audio import resample

_TELEPHONE_HZ = (300.0, 3400.0)
_TELEPHONE_RATE = 8_000
_MU = 255.0
_PEAK = 0.98


@dataclass
class SurroundingsConfig:
    """What is drawn; probabilities from 0 to 1, ranges as (lowest, highest).

    Attributes:
        room: probability of reverberation; rt60_s: in which sound decays by 60 dB; direct_db: level of the direct sound
            over the reverberation.
        noise: probability of a noise; snr_db: level of the speech over it; tilt_db: slope of the noise per octave.
        telephone: probability of a telephone line.
        level_dbfs: of the speech (root mean square of its louder half).
        lead_s, tail_s: silence, or noise, before and after the speech.
    """

    room: float = 0.5
    rt60_s: tuple[float, float] = (0.15, 0.7)
    direct_db: tuple[float, float] = (-2.0, 12.0)
    noise: float = 0.6
    snr_db: tuple[float, float] = (8.0, 35.0)
    tilt_db: tuple[float, float] = (-7.0, 0.0)
    telephone: float = 0.1
    level_dbfs: tuple[float, float] = (-36.0, -16.0)
    lead_s: tuple[float, float] = (0.05, 0.8)
    tail_s: tuple[float, float] = (0.1, 0.8)

    def __post_init__(self) -> None:
        """Raises: ValueError for a probability outside 0 to 1, or a range that is empty."""
        for name in ("room", "noise", "telephone"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise ValueError(f"{name}: expected a probability from 0 to 1, found {getattr(self, name)}")
        for name in ("rt60_s", "direct_db", "snr_db", "tilt_db", "level_dbfs", "lead_s", "tail_s"):
            low, high = getattr(self, name)
            if low > high:
                raise ValueError(f"{name}: expected (lowest, highest), found {low, high}")


@dataclass(frozen=True)
class Surroundings:
    """One draw.

    Attributes:
        seed: of the noise and the echoes of the room.
        level_dbfs, lead_s, tail_s: see `SurroundingsConfig`.
        rt60_s, direct_db: of the room; None: no room.
        snr_db, tilt_db: of the noise; None: no noise.
        telephone: whether it came over a telephone line.
    """

    seed: int
    level_dbfs: float
    lead_s: float
    tail_s: float
    rt60_s: float | None = None
    direct_db: float = 0.0
    snr_db: float | None = None
    tilt_db: float = 0.0
    telephone: bool = False

    def apply(self, waveform: np.ndarray, sampling_rate: int) -> np.ndarray:
        """Speech (S,) in these surroundings, (S + lead and tail,), float32 within [-1, 1]."""
        rng = np.random.default_rng(self.seed)
        lead, tail = round(self.lead_s * sampling_rate), round(self.tail_s * sampling_rate)
        speech = np.pad(waveform.astype(np.float64), (lead, tail))
        if self.rt60_s is not None:
            speech = _reverberate(speech, self.rt60_s, self.direct_db, sampling_rate, rng)
        speech *= 10.0 ** (self.level_dbfs / 20.0) / max(_loud_rms(speech), 1e-6)
        if self.snr_db is not None:
            noise = _coloured_noise(len(speech), self.tilt_db, sampling_rate, rng)
            speech += noise * 10.0 ** ((self.level_dbfs - self.snr_db) / 20.0)
        speech /= max(1.0, float(np.abs(speech).max()) / _PEAK)
        result = speech.astype(np.float32)
        return _over_telephone(result, sampling_rate) if self.telephone else result


def draw_surroundings(rng: random.Random, config: SurroundingsConfig) -> Surroundings:
    """Draw one by the probabilities and ranges; always as many numbers, so that one setting does not shift others."""
    drawn = {name: round(rng.uniform(*getattr(config, name)), 3) for name in _RANGES}
    chances = {name: rng.random() < getattr(config, name) for name in ("room", "noise", "telephone")}
    return Surroundings(
        seed=rng.randrange(2**31),
        level_dbfs=drawn["level_dbfs"],
        lead_s=drawn["lead_s"],
        tail_s=drawn["tail_s"],
        rt60_s=drawn["rt60_s"] if chances["room"] else None,
        direct_db=drawn["direct_db"],
        snr_db=drawn["snr_db"] if chances["noise"] else None,
        tilt_db=drawn["tilt_db"],
        telephone=chances["telephone"],
    )


_RANGES = ("rt60_s", "direct_db", "snr_db", "tilt_db", "level_dbfs", "lead_s", "tail_s")


def _loud_rms(samples: np.ndarray) -> float:
    """Root mean square of the louder half of the samples: pauses do not count."""
    power = np.sort(np.square(samples))
    return float(np.sqrt(power[len(power) // 2 :].mean())) if len(power) else 0.0


def _reverberate(
    speech: np.ndarray, rt60_s: float, direct_db: float, sampling_rate: int, rng: np.random.Generator
) -> np.ndarray:
    time_s = np.arange(round(rt60_s * sampling_rate)) / sampling_rate
    echoes = rng.standard_normal(len(time_s)) * 10.0 ** (-3.0 * time_s / rt60_s)
    echoes[: round(rng.uniform(0.002, 0.01) * sampling_rate)] = 0.0  # the nearest wall
    # Walls swallow high tones: a first-order low-pass, in the frequency domain.
    size = 1 << (len(speech) + len(echoes) - 1).bit_length()
    frequency = np.fft.rfftfreq(size, 1.0 / sampling_rate)
    response = np.fft.rfft(echoes, size) / np.sqrt(1.0 + (frequency / 3000.0) ** 2)
    response *= 10.0 ** (-direct_db / 20.0) / max(np.sqrt(np.mean(np.abs(response) ** 2)), 1e-9)
    return np.fft.irfft(np.fft.rfft(speech, size) * (1.0 + response), size)[: len(speech)]


def _coloured_noise(count: int, tilt_db: float, sampling_rate: int, rng: np.random.Generator) -> np.ndarray:
    """Noise (count,) of root mean square 1 whose spectrum changes by so many decibels per octave above 100 Hz."""
    spectrum = np.fft.rfft(rng.standard_normal(count))
    octaves = np.log2(np.maximum(np.fft.rfftfreq(count, 1.0 / sampling_rate), 100.0) / 100.0)
    noise = np.fft.irfft(spectrum * 10.0 ** (tilt_db * octaves / 20.0), count)
    return noise / max(float(np.sqrt(np.mean(np.square(noise)))), 1e-9)


def _over_telephone(samples: np.ndarray, sampling_rate: int) -> np.ndarray:
    """300 to 3400 Hz, 8 kHz, 8 bits of mu-law; back at the same rate and length."""
    narrow = resample(samples, sampling_rate, _TELEPHONE_RATE).astype(np.float64)
    spectrum = np.fft.rfft(narrow)
    frequency = np.fft.rfftfreq(len(narrow), 1.0 / _TELEPHONE_RATE)
    low, high = _TELEPHONE_HZ
    spectrum *= 1.0 / np.sqrt(1.0 + (low / np.maximum(frequency, 1.0)) ** 8) / np.sqrt(1.0 + (frequency / high) ** 16)
    narrow = np.clip(np.fft.irfft(spectrum, len(narrow)), -1.0, 1.0)
    companded = np.sign(narrow) * np.log1p(_MU * np.abs(narrow)) / np.log1p(_MU)
    companded = np.rint(companded * 127.0) / 127.0
    expanded = np.sign(companded) * np.expm1(np.abs(companded) * np.log1p(_MU)) / _MU
    wide = resample(expanded.astype(np.float32), _TELEPHONE_RATE, sampling_rate)
    return np.pad(wide, (0, max(0, len(samples) - len(wide))))[: len(samples)].clip(-1.0, 1.0)
