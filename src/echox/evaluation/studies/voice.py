"""Study of the voice: the same held-out replies, transcribed after each step between text and sound.

- ``recordings``: original recordings of the reply voice; their errors are the judge's own.
- ``true_durations``: the units of the recordings with their true durations, through the vocoder.
- ``predicted_durations``: the same units through unit language and vocoder, with predicted durations.
- ``t2c``: units that T2C predicts from the text. The echo decoder can hardly be better.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypedDict

import numpy as np
import torch
from transformers import AutoTokenizer

from echox.audio import load_audio, save_audio
from echox.data.manifest import UnitUtterance, audio_path, read_unit_utterances, read_utterances
from echox.data.sampling import spread
from echox.data.scoring import word_errors
from echox.evaluation.judges.asr import JUDGE_RATE_HZ, Judge
from echox.models.t2c.modeling_t2c import T2CForUnitGeneration
from echox.models.unit_language.tokenization_auto import AutoUnitLanguage
from echox.models.vocoder.auto import AutoUnitVocoder
from echox.training.stages.speaking.t2c import read_batch, spoken_batch, spoken_text


class StepScore(TypedDict):
    """Word error rate after one step, the number of replies, and of those without speech."""

    wer: float
    count: int
    unspoken: int


def evaluate_voice(
    judge: Judge,
    data_dir: Path,
    units: Path,
    vocoder: Path,
    unit_language: Path,
    t2c: Path | None = None,
    limit: int | None = None,
    samples_dir: Path | None = None,
) -> dict[str, StepScore]:
    """Word error rates after each step; see the module.

    Args:
        judge: recogniser.
        data_dir: folder of the corpus stage.
        units: units manifest of the replies (stage "units").
        vocoder: folder of a unit vocoder.
        unit_language: folder of the unit language.
        t2c: folder of a T2C with tokenizer and unit language; None leaves that row out.
        limit: held-out utterances (None = all).
        samples_dir: folder for the first eight replies of each step as WAV, and for all transcripts as TSV.

    Returns:
        ``{kind: {"wer", "count", "unspoken"}}``.

    Raises:
        ValueError: no held-out units.
    """
    items = [item for item in read_unit_utterances(units) if item.split != "train"]
    if not items:
        raise ValueError(f"{units}: expected held-out utterances, found none: run the units stage on the whole corpus")
    items = spread(items, limit or len(items))
    steps = {"recordings": _recordings(data_dir), **_resynthesis(vocoder, unit_language)}
    if t2c is not None:
        steps["t2c"] = _read_aloud(t2c, vocoder)
    scores: dict[str, StepScore] = {}
    for kind, speak in steps.items():
        lines, waveforms = [], [speak(item) for item in items]
        for number, (item, (waveform, rate)) in enumerate(zip(items, waveforms, strict=True)):
            lines.append((item.id, item.text, judge.transcribe([waveform], rate)[0] if len(waveform) else ""))
            if samples_dir is not None and number < 8 and len(waveform):
                samples_dir.mkdir(parents=True, exist_ok=True)
                save_audio(samples_dir / f"{item.id}-{kind}.wav", waveform, rate)
        if samples_dir is not None:
            samples_dir.mkdir(parents=True, exist_ok=True)
            text = "".join("\t".join(line) + "\n" for line in lines)
            (samples_dir / f"{kind}.tsv").write_text("id\twritten\theard\n" + text, encoding="utf-8")
        scores[kind] = {
            "wer": word_errors([judge.as_heard(line[1]) for line in lines], [line[2] for line in lines]).rate,
            "count": len(items),
            "unspoken": sum(not len(waveform) for waveform, _ in waveforms),
        }
    return scores


_Step = Callable[[UnitUtterance], tuple[np.ndarray, int]]


def _recordings(data_dir: Path) -> _Step:
    manifest = data_dir / "speech" / "replies.jsonl"
    audio = {item.id: item.audio for item in read_utterances(manifest)}

    def played(item: UnitUtterance) -> tuple[np.ndarray, int]:
        if item.id not in audio:
            raise ValueError(
                f"{manifest}: expected the recording of {item.id!r}, found none: do units and corpus belong together?"
            )
        return load_audio(audio_path(manifest, audio[item.id]), JUDGE_RATE_HZ), JUDGE_RATE_HZ

    return played


def _resynthesis(vocoder: Path, unit_language: Path) -> dict[str, _Step]:
    speak = _vocoder(vocoder)
    language = AutoUnitLanguage.from_pretrained(unit_language)

    def through_language(item: UnitUtterance) -> tuple[np.ndarray, int]:
        unit_words, _ = language.encode_words(item.units, item.word_of_unit)
        return speak(language.decode_reduced(unit_words), None)

    return {
        "true_durations": lambda item: speak(list(item.units), list(item.durations_frames)),
        "predicted_durations": through_language,
    }


def _read_aloud(t2c: Path, vocoder: Path) -> _Step:
    model = T2CForUnitGeneration.from_pretrained(t2c).eval()
    tokenizer, language = AutoTokenizer.from_pretrained(t2c), AutoUnitLanguage.from_pretrained(t2c)
    speak = _vocoder(vocoder)

    @torch.inference_mode()
    def read(item: UnitUtterance) -> tuple[np.ndarray, int]:
        batch = spoken_batch([spoken_text(item, tokenizer, language)], model.config.max_word_letters)
        (sequence,) = read_batch(model, batch)
        return speak(language.decode_reduced(sequence.unit_words), None)

    return read


def _vocoder(folder: Path) -> Callable[[list[int], list[int] | None], tuple[np.ndarray, int]]:
    """Reduced units, with durations or without, to (waveform (S,), rate)."""
    model = AutoUnitVocoder.from_pretrained(folder)

    @torch.inference_mode()
    def speak(units: list[int], durations_frames: list[int] | None) -> tuple[np.ndarray, int]:
        if not units:
            return np.zeros(0, np.float32), model.sampling_rate
        lengths = torch.tensor([durations_frames]) if durations_frames is not None else None
        output = model(torch.tensor([units]), lengths)
        return output.waveform[0, : int(output.waveform_lengths[0])].float().numpy(), model.sampling_rate

    return speak
