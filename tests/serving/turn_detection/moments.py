"""Things heard while somebody else speaks: backchannels, coughs and noises, and real interruptions; all synthetic."""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from echox.audio import load_audio

RATE = 16000
# Phones where flite would spell the letters.
BACKCHANNELS = [
    "/pau m m hh m m pau/",
    "/pau ah hh ah pau/",
    "/pau hh m m pau/",
    "/pau m m pau/",
    "yeah",
    "okay",
    "right",
    "sure",
    "yes",
    "oh",
    "aha",
    "I see",
    "wow",
]
INTERRUPTIONS = [
    "stop please",
    "wait a moment",
    "no that is not what I meant",
    "what is the capital of France",
    "hold on a second",
    "excuse me",
    "can you say that again",
    "that is enough thank you",
    "tell me something else",
    "and what about Spain",
]
VOICES = ["kal16", "awb", "rms", "slt"]


def spoken(text: str, voice: str, stretch: float = 1.0, pitch_hz: float | None = None) -> np.ndarray:
    """Words (or phones, between slashes) by flite, float32 (S,) at 16 kHz."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "speech.wav"
        pitch = [] if pitch_hz is None else ["--setf", f"int_f0_target_mean={pitch_hz}"]
        options = ["--setf", f"duration_stretch={stretch}", *pitch]
        said = ["-p", text.strip("/")] if text.startswith("/") else ["-t", text]
        subprocess.run(["flite", "-voice", voice, *options, *said, "-o", str(path)], check=True, capture_output=True)
        return load_audio(path, RATE)


def noise(kind: str, rng: np.random.Generator) -> np.ndarray:
    """A cough, knock, click, door, hum, hiss or rustle, float32 (S,) at 16 kHz."""
    seconds = {"cough": 0.35, "knock": 0.15, "click": 0.03, "door": 0.6, "hum": 1.5, "hiss": 1.5, "rustle": 1.0}[kind]
    n = int(seconds * RATE * rng.uniform(0.8, 1.25))
    times_s = np.arange(n) / RATE
    white = rng.standard_normal(n)
    spectrum = np.fft.rfft(white)
    hertz = np.fft.rfftfreq(n, 1 / RATE)
    shape = {
        "cough": np.exp(-(((hertz - rng.uniform(400, 1200)) / 700) ** 2)) + 0.15 * (hertz > 1500),
        "knock": np.exp(-hertz / rng.uniform(200, 500)),
        "click": np.ones_like(hertz),
        "door": np.exp(-hertz / 150),
        "hum": np.exp(-(((hertz - 50 * np.round(hertz / 50)) / 2) ** 2)) * (hertz < 400) * (hertz > 30),
        "hiss": np.ones_like(hertz),
        "rustle": hertz > 2000,
    }[kind]
    sound = np.fft.irfft(spectrum * shape, n)
    if kind in ("cough", "knock", "click", "door"):
        sound *= np.minimum(times_s / 0.01, 1) * np.exp(-times_s / (seconds / 4))
    if kind == "rustle":
        sound *= 0.5 + 0.5 * np.sin(2 * np.pi * rng.uniform(2, 5) * times_s)
    return (sound / np.abs(sound).max() * rng.uniform(0.1, 0.5)).astype(np.float32)


def disturbances(count: int, seed: int = 0) -> Iterator[tuple[str, np.ndarray]]:
    """Half of them backchannels in changing voices, half of them noises: name and sound."""
    rng = np.random.default_rng(seed)
    kinds = ["cough", "knock", "click", "door", "hum", "hiss", "rustle"]
    for number in range(count):
        if number % 2:
            kind = kinds[number // 2 % len(kinds)]
            yield kind, noise(kind, rng)
        else:
            text = BACKCHANNELS[number // 2 % len(BACKCHANNELS)]
            voice = VOICES[int(rng.integers(len(VOICES)))]
            sound = spoken(text, voice, rng.uniform(0.85, 1.15), rng.uniform(90, 220))
            yield f"{text} ({voice})", sound * np.float32(rng.uniform(0.3, 1.0))


def in_silence(sound: np.ndarray, rng: np.random.Generator, before_s: float = 0.5, after_s: float = 1.0) -> np.ndarray:
    """A sound in a quiet room, float32 (S,)."""
    padded = np.concatenate([np.zeros(int(before_s * RATE)), sound, np.zeros(int(after_s * RATE))])
    return (padded + 0.0005 * rng.standard_normal(len(padded))).astype(np.float32)
