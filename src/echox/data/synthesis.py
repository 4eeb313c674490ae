"""Text-to-speech engines with one small interface, and parallel, resumable synthesis of many texts.

    speech = create_synthesizer("flite").synthesize("The sky is blue.", Voice("flite", "slt"))
    speech.waveform, speech.sampling_rate, speech.word_ends_s

Engines: flite (English, fast, reports the end of each phone), espeak-ng (many voices) and any server that speaks the
OpenAI protocol (``/v1/audio/speech``). All return mono float32 at 16 kHz.

Source: flite, http://cmuflite.org; espeak-ng, https://github.com/espeak-ng/espeak-ng.
"""

from __future__ import annotations

import functools
import hashlib
import json
import logging
import multiprocessing
import os
import shutil
import subprocess
import tempfile
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from echox.audio import load_audio, save_audio
from echox.data.alignment import Phone, align_words
from echox.files import journal_entries

log = logging.getLogger(__name__)

SAMPLING_RATE = 16_000
_TIMEOUT_S = 60.0


@dataclass(frozen=True)
class Voice:
    """A voice of an engine, with tempo and pitch.

    Attributes:
        engine: "flite", "espeak-ng" or "openai".
        name: The engine's name of the voice ("slt", "en-gb+f3", "alloy").
        speed: Relative tempo; 1.0 is the voice's own.
        pitch: Relative pitch; 1.0 is the voice's own.
    """

    engine: str
    name: str
    speed: float = 1.0
    pitch: float = 1.0

    @property
    def speaker(self) -> str:
        """The name in manifests, without speed and pitch: "flite/slt"."""
        return f"{self.engine}/{self.name}"


@dataclass(frozen=True)
class SynthesizedSpeech:
    """Synthesised speech.

    Attributes:
        waveform: (samples,) float32 within [-1, 1].
        sampling_rate: In Hz.
        phones: Phones with their end times, if the engine reports them; "pau" is a pause.
        word_ends_s: One end time per whitespace word of the text; a pause belongs to the word before it.
    """

    waveform: np.ndarray
    sampling_rate: int
    phones: tuple[Phone, ...] | None = None
    word_ends_s: tuple[float, ...] | None = None


class SpeechSynthesizer(Protocol):
    """A text-to-speech engine."""

    def synthesize(self, text: str, voice: Voice) -> SynthesizedSpeech:
        """Speak ``text``. Raises ValueError for a text or voice the engine cannot speak."""
        ...


class Flite:
    """flite as a subprocess; the only engine here that reports the end of each phone.

    Raises:
        FileNotFoundError: flite is not installed.
    """

    # Mean F0 of each voice in Hz: flite takes an absolute target, `Voice.pitch` is relative.
    mean_f0_hz = {"kal": 105.0, "kal16": 105.0, "awb": 125.0, "slt": 172.0, "rms": 98.0}

    def __init__(self) -> None:
        self.binary = _binary("flite", package="flite")

    def synthesize(self, text: str, voice: Voice) -> SynthesizedSpeech:
        """See :class:`SpeechSynthesizer`."""
        options = []
        if voice.speed != 1.0:
            options += ["--setf", f"duration_stretch={1.0 / voice.speed:.4f}"]
        if voice.pitch != 1.0:
            options += ["--setf", f"int_f0_target_mean={self.mean_f0_hz.get(voice.name, 120.0) * voice.pitch:.2f}"]
        with tempfile.TemporaryDirectory(prefix="echox-tts-") as folder:
            path = Path(folder) / "speech.wav"
            command = [self.binary, "-voice", voice.name, *options, "-psdur", "-t", text, "-o", str(path)]
            phones = _parse_phones(_run(command, text, voice))
            waveform = _load(path, text, voice)
        canonical = [self.pronounce(word) for word in text.split()]
        ends = align_words(phones, canonical)
        duration_s = len(waveform) / SAMPLING_RATE
        ends = tuple(min(end, duration_s) for end in ends[:-1]) + (duration_s,) * bool(ends)
        return SynthesizedSpeech(waveform, SAMPLING_RATE, phones, ends)

    def pronounce(self, word: str) -> tuple[str, ...]:
        """Return the phones of a single word as flite speaks it alone, without pauses (cached)."""
        return _pronounce(self.binary, word.strip(".,?!;:\"'"))


class EspeakNg:
    """espeak-ng as a subprocess: many accents and voice variants ("en-gb+f3").

    Raises:
        FileNotFoundError: espeak-ng is not installed.
    """

    words_per_minute = 165
    pitch_percent = 50

    def __init__(self) -> None:
        self.binary = _binary("espeak-ng", package="espeak-ng")

    def synthesize(self, text: str, voice: Voice) -> SynthesizedSpeech:
        """See :class:`SpeechSynthesizer`; phones and word ends are not known."""
        speed, pitch = round(self.words_per_minute * voice.speed), round(self.pitch_percent * voice.pitch)
        with tempfile.TemporaryDirectory(prefix="echox-tts-") as folder:
            path = Path(folder) / "speech.wav"
            options = ["-v", voice.name, "-s", str(speed), "-p", str(min(99, pitch))]
            _run([self.binary, *options, "-w", str(path), "--", text], text, voice)
            return SynthesizedSpeech(_load(path, text, voice), SAMPLING_RATE)


class OpenAICompatible:
    """A server with the OpenAI speech endpoint (``POST <base_url>/audio/speech``).

    Args:
        base_url: Such as "http://localhost:8000/v1"; default: the environment variable ``OPENAI_BASE_URL``.
        model: Model name the server expects.
        api_key: Default: the environment variable ``OPENAI_API_KEY`` (many local servers need none).
        timeout_s: Longest wait for one reply.

    Raises:
        ValueError: No base_url is known.
    """

    def __init__(
        self, base_url: str | None = None, model: str = "tts-1", api_key: str | None = None, timeout_s: float = 60.0
    ) -> None:
        base_url = base_url or os.environ.get("OPENAI_BASE_URL")
        if not base_url:
            raise ValueError("base_url: expected the address of a speech server, found none; set OPENAI_BASE_URL")
        self.base_url = base_url.rstrip("/")
        self.model = model
        self.api_key = api_key or os.environ.get("OPENAI_API_KEY", "")
        self.timeout_s = timeout_s

    def synthesize(self, text: str, voice: Voice) -> SynthesizedSpeech:
        """See :class:`SpeechSynthesizer`. ``Voice.pitch`` is not part of the protocol and must be 1.

        Raises:
            ValueError: A pitch other than 1, or an answer that is not audio.
            ConnectionError: The server cannot be reached or refuses.
        """
        if voice.pitch != 1.0:
            raise ValueError(f"voice.pitch: expected 1.0 (the protocol has no pitch), found {voice.pitch}; leave it")
        body = {"model": self.model, "input": text, "voice": voice.name, "response_format": "wav", "speed": voice.speed}
        headers = {"Content-Type": "application/json"}
        if self.api_key:
            headers["Authorization"] = f"Bearer {self.api_key}"
        request = urllib.request.Request(f"{self.base_url}/audio/speech", json.dumps(body).encode(), headers)
        try:
            with urllib.request.urlopen(request, timeout=self.timeout_s) as response:
                audio = response.read()
        except (urllib.error.URLError, TimeoutError) as error:
            raise ConnectionError(f"speech server {self.base_url}: no speech for {text[:60]!r}: {error}") from error
        return SynthesizedSpeech(load_audio(audio, SAMPLING_RATE), SAMPLING_RATE)


_ENGINES: dict[str, Callable[[], SpeechSynthesizer]] = {
    "flite": Flite,
    "espeak-ng": EspeakNg,
    "openai": OpenAICompatible,
}


@functools.cache
def create_synthesizer(engine: str) -> SpeechSynthesizer:
    """Return the engine of that name, made once per process. Raises ValueError for an unknown name."""
    if engine not in _ENGINES:
        raise ValueError(f"engine: expected one of {', '.join(_ENGINES)}, found {engine!r}; correct the voice")
    return _ENGINES[engine]()


@dataclass(frozen=True)
class SpeechJob:
    """One text to speak into one file.

    Attributes:
        id: Unique name.
        text: Text to speak.
        voice: Voice that speaks it.
        path: WAV file to write.
    """

    id: str
    text: str
    voice: Voice
    path: str

    @property
    def fingerprint(self) -> str:
        """Changes when text or voice changes, so that a stale file is spoken again."""
        content = json.dumps([self.text, asdict(self.voice)], ensure_ascii=False)
        return hashlib.sha256(content.encode()).hexdigest()[:16]


@dataclass(frozen=True)
class SpokenJob:
    """The result of a finished job.

    Attributes:
        id: The job's.
        duration_s: Length of the audio, in seconds.
        word_ends_s: As in :class:`SynthesizedSpeech`.
    """

    id: str
    duration_s: float
    word_ends_s: tuple[float, ...] | None


def speak_all(jobs: Sequence[SpeechJob], journal: Path, workers: int | None = None) -> Iterator[SpokenJob]:
    """Speak every job into its file, in parallel processes, and yield the results in the order of ``jobs``.

    A journal (JSONL) remembers finished jobs: called again after an interruption, only the rest is spoken.

    Args:
        jobs: Texts to speak.
        journal: File to append to; created if missing.
        workers: Processes; default: one per CPU.
    """
    done = _read_journal(journal)
    pending = [job for job in jobs if (job.id, job.fingerprint) not in done or not Path(job.path).exists()]
    if pending:
        for folder in {Path(job.path).parent for job in pending}:
            folder.mkdir(parents=True, exist_ok=True)
        journal.parent.mkdir(parents=True, exist_ok=True)
        with journal.open("a", encoding="utf-8") as entries:
            results = _map(pending, workers or os.cpu_count() or 1)
            for count, (job, spoken) in enumerate(zip(pending, results, strict=True), start=1):
                done[job.id, job.fingerprint] = spoken
                entries.write(json.dumps({"fingerprint": job.fingerprint, **asdict(spoken)}) + "\n")
                entries.flush()
                if count % 500 == 0:
                    log.info("%s: %d of %d spoken", journal.stem.strip("."), count, len(pending))
    for job in jobs:
        yield done[job.id, job.fingerprint]


def _map(jobs: Sequence[SpeechJob], workers: int) -> Iterable[SpokenJob]:
    if workers == 1:
        return map(_speak, jobs)
    # "spawn": engines are subprocesses and torch may have started threads that fork would not carry over.
    context = multiprocessing.get_context("spawn")

    def results() -> Iterator[SpokenJob]:
        with context.Pool(workers) as pool:
            yield from pool.imap(_speak, jobs, chunksize=8)

    return results()


def _speak(job: SpeechJob) -> SpokenJob:
    speech = create_synthesizer(job.voice.engine).synthesize(job.text, job.voice)
    save_audio(job.path, speech.waveform, speech.sampling_rate)
    return SpokenJob(job.id, round(len(speech.waveform) / speech.sampling_rate, 4), speech.word_ends_s)


def _read_journal(journal: Path) -> dict[tuple[str, str], SpokenJob]:
    done: dict[tuple[str, str], SpokenJob] = {}
    for entry in journal_entries(journal):
        ends = entry["word_ends_s"]
        spoken = SpokenJob(entry["id"], entry["duration_s"], tuple(ends) if ends is not None else None)
        done[entry["id"], entry["fingerprint"]] = spoken
    return done


def _binary(name: str, package: str) -> str:
    path = shutil.which(name)
    if path is None:
        raise FileNotFoundError(
            f"{name}: expected the program on the PATH, found none; install it (apt install {package})"
        )
    return path


def _run(command: list[str], text: str, voice: Voice) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT_S, check=True)
    except subprocess.CalledProcessError as error:
        raise ValueError(f"{voice.speaker}: could not speak {text[:60]!r}: {error.stderr.strip()[:200]}") from error
    except subprocess.TimeoutExpired as error:
        raise TimeoutError(f"{voice.speaker}: no speech for {text[:60]!r} in {_TIMEOUT_S:g} s; try again") from error
    return done.stdout


def _load(path: Path, text: str, voice: Voice) -> np.ndarray:
    if not path.exists():
        raise ValueError(f"{voice.speaker}: expected speech for {text[:60]!r}, found no file; is the voice installed?")
    return load_audio(path, SAMPLING_RATE)


def _parse_phones(output: str) -> tuple[Phone, ...]:
    """Parse ``-psdur`` output: "pau:0.184 dh:0.233 ..."; times are ends in seconds."""
    pairs = (token.rsplit(":", 1) for token in output.split() if ":" in token)
    return tuple((phone, float(end)) for phone, end in pairs)


@functools.lru_cache(maxsize=20_000)
def _pronounce(binary: str, word: str) -> tuple[str, ...]:
    if not word:
        return ()
    # Only the phones are needed, so the fastest voice speaks them.
    command = [binary, "-voice", "kal", "-ps", "-t", word, "-o", "none"]
    return tuple(phone for phone in _run(command, word, Voice("flite", "kal")).split() if phone != "pau")
