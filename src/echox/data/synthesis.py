"""Synthesis of many texts by any engine: parallel, and resumable.

    speech = create_synthesizer("flite").synthesize("The sky is blue.", Voice("flite", "slt"))
    speech.waveform, speech.sampling_rate, speech.word_ends_s

Engines (`echox.data.engines`): flite (English, fast, reports the end of each phone), espeak-ng (many voices), Piper
(natural voices, word ends) and any server that speaks the OpenAI protocol (``/v1/audio/speech``). All return mono
float32, at 16 kHz or at the voice's own rate.
"""

from __future__ import annotations

import functools
import hashlib
import json
import logging
import multiprocessing
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from echox.audio import save_audio
from echox.data.engines.engine import PronouncingSynthesizer, SpeechSynthesizer, Voice
from echox.data.engines.espeak_ng import EspeakNg
from echox.data.engines.flite import Flite
from echox.data.engines.piper import Piper
from echox.data.engines.rhvoice import RHVoice
from echox.data.engines.speech_server import OpenAICompatible
from echox.data.surroundings import Surroundings
from echox.files import journal_entries, open_journal

log = logging.getLogger(__name__)

_ENGINES: dict[str, Callable[[], SpeechSynthesizer]] = {
    "flite": Flite,
    "espeak-ng": EspeakNg,
    "piper": Piper,
    "rhvoice": RHVoice,
    "openai": OpenAICompatible,
}
_PRONOUNCERS = (Flite, Piper)
WITH_PHONES = tuple(name for name, engine in _ENGINES.items() if engine in _PRONOUNCERS)
"""Engines that report the end of each phone."""


@functools.cache
def create_synthesizer(engine: str) -> SpeechSynthesizer:
    """Return the engine of that name, made once per process. Raises ValueError for an unknown name."""
    if engine not in _ENGINES:
        raise ValueError(f"engine: expected one of {', '.join(_ENGINES)}, found {engine!r}; correct the voice")
    return _ENGINES[engine]()


def create_pronouncer(engine: str) -> PronouncingSynthesizer:
    """Return the engine of that name. Raises ValueError for one that does not know its phones, or is unknown."""
    synthesizer = create_synthesizer(engine)
    if isinstance(synthesizer, _PRONOUNCERS):
        return synthesizer
    known = " or ".join(WITH_PHONES)
    raise ValueError(f"engine: expected {known}, which know their phones, found {engine!r}; use stage units")


@dataclass(frozen=True)
class SpeechJob:
    """One text to speak into one file.

    Attributes:
        id: Unique name.
        text: Text to speak.
        voice: Voice that speaks it.
        path: WAV file to write.
        surroundings: In which it is recorded; None: as the engine gives it.
    """

    id: str
    text: str
    voice: Voice
    path: str
    surroundings: Surroundings | None = None

    @property
    def fingerprint(self) -> str:
        """Changes when text or voice changes, so that a stale file is spoken again."""
        around = [] if self.surroundings is None else [asdict(self.surroundings)]
        content = json.dumps([self.text, asdict(self.voice), *around], ensure_ascii=False)
        return hashlib.sha256(content.encode()).hexdigest()[:16]


@dataclass(frozen=True)
class SpokenJob:
    """The result of a finished job.

    Attributes:
        id: The job's.
        duration_s: Length of the audio, in seconds.
        word_ends_s: As in :class:`~echox.data.engines.engine.SynthesizedSpeech`.
    """

    id: str
    duration_s: float
    word_ends_s: tuple[float, ...] | None


def speak_all(jobs: Sequence[SpeechJob], journal: Path, workers: int | None = None) -> Iterator[SpokenJob]:
    """Speak every job into its file, in parallel processes, and yield the results in the order of ``jobs``.

    A journal (JSONL) remembers finished jobs: called again after an interruption, only the rest is spoken. A file holds
    what was spoken last, so only the last entry of an id counts; one without fingerprint says that its file is being
    written.

    Args:
        jobs: Texts to speak.
        journal: File to append to; created if missing.
        workers: Processes; default: one per CPU.
    """
    done = _read_journal(journal)
    pending = [job for job in jobs if done.get(job.id, ("",))[0] != job.fingerprint or not Path(job.path).exists()]
    if pending:
        for folder in {Path(job.path).parent for job in pending}:
            folder.mkdir(parents=True, exist_ok=True)
        with open_journal(journal) as entries:
            stale = (job.id for job in pending if job.id in done)
            entries.writelines(json.dumps({"id": name, "fingerprint": None}) + "\n" for name in stale)
            entries.flush()
            results = _map(pending, workers or os.cpu_count() or 1)
            for count, (job, spoken) in enumerate(zip(pending, results, strict=True), start=1):
                done[job.id] = job.fingerprint, spoken
                entries.write(json.dumps({"fingerprint": job.fingerprint, **asdict(spoken)}) + "\n")
                entries.flush()
                if count % 500 == 0:
                    log.info("%s: %d of %d spoken", journal.stem.strip("."), count, len(pending))
    for job in jobs:
        yield done[job.id][1]


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
    waveform, ends_s = speech.waveform, speech.word_ends_s
    if job.surroundings is not None:
        waveform = job.surroundings.apply(waveform, speech.sampling_rate)
        ends_s = None if ends_s is None else tuple(end_s + job.surroundings.lead_s for end_s in ends_s)
    save_audio(job.path, waveform, speech.sampling_rate)
    return SpokenJob(job.id, round(len(waveform) / speech.sampling_rate, 4), ends_s)


def _read_journal(journal: Path) -> dict[str, tuple[str, SpokenJob]]:
    """Fingerprint and result of what each file holds, by id."""
    done: dict[str, tuple[str, SpokenJob]] = {}
    for entry in journal_entries(journal):
        if entry["fingerprint"] is None:
            done.pop(entry["id"], None)
            continue
        ends = entry["word_ends_s"]
        spoken = SpokenJob(entry["id"], entry["duration_s"], tuple(ends) if ends is not None else None)
        done[entry["id"]] = entry["fingerprint"], spoken
    return done
