"""The control of a run: the replies' texts, spoken by a voice of its own and heard by the same judge.

No judge hears everything: how many words it misses of a good voice, saying the same texts, is what a model's speech can
be compared with. The voice is usually that which the model learned its own from; numbers and symbols are read to it by
our rules of the model's language, as to the model, so that the engine's own reading ("World War Roman two") is not
counted against it.

    <task>/control.jsonl         the control of each reply: its speech in <task>/control/, and the judge's transcript
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from echox.audio import resample, save_audio
from echox.data.engines.engine import Voice
from echox.data.scoring import WordErrors, edit_counts, normalize_words
from echox.data.synthesis import create_synthesizer
from echox.data.text import normalize_for_speech
from echox.errors import one_line
from echox.evaluation.judges.asr import Judge
from echox.evaluation.judges.naturalness import ratings_of
from echox.evaluation.run_files import CONTROL, RecordedReply, recorded_replies, short_key
from echox.evaluation.scoring.metrics import exist_match
from echox.evaluation.scoring.records import read_lines, recorded
from echox.evaluation.scoring.schema import JsonObject, Row
from echox.evaluation.scoring.scores import error_rate, judged, not_measured, ratio_of, why_unjudged
from echox.evaluation.scoring.statistics import DIFFERENCE, bootstrap
from echox.evaluation.scoring.transcripts import whisper_errors


def speak_control(folder: Path, voice: Voice, judge: Judge, keys: list[str], language: str) -> Iterator[JsonObject]:
    """Speak and transcribe the text of every reply that has one; what is recorded is not repeated.

    Args:
        folder: of the task.
        voice: that speaks.
        judge: of the run.
        keys: of the replies.
        language: ISO 639 code; its rules read the texts to the voice.

    Raises:
        ValueError: replies are missing, or there is no such engine.
    """
    replies = [RecordedReply(record) for record in recorded_replies(folder, keys) if record["text"].strip()]
    engine = create_synthesizer(voice.engine)

    def control(reply: RecordedReply) -> JsonObject:
        name = control_key(reply.record["key"], judge.name, voice.speaker)
        audio = f"control/{short_key(name)}/{reply.id}.flac"
        try:
            speech = engine.synthesize(normalize_for_speech(reply.record["text"], language), voice)
            rate = judge.sampling_rate
            said = judge.transcribe([resample(speech.waveform, speech.sampling_rate, rate)], rate)[0]
            (folder / audio).parent.mkdir(parents=True, exist_ok=True)
            save_audio(folder / audio, speech.waveform, speech.sampling_rate)
        except (ValueError, RuntimeError, OSError) as error:  # of this reply: recorded, and the run continues
            return {"audio": None, "said": "", "error": one_line(error)}
        return {"audio": audio, "said": said, "error": None}

    return recorded(
        replies,
        folder / CONTROL,
        lambda reply: control_key(reply.record["key"], judge.name, voice.speaker),
        control,
        retry=lambda record: bool(record["error"]),
    )


def control_key(reply_key: str, judge: str, speaker: str) -> str:
    """What a record of the control depends on."""
    return f"{reply_key} {judge} {speaker}"


def control_scores(
    folder: Path, rows: Sequence[Row], judge: str, speaker: str, raters: Mapping[str, str]
) -> JsonObject:
    """The judge's errors on the control, how many more there are in the replies, and ratings of the control's speech.

    Replies that the control voice could not speak are left out of both, and counted.

    Args:
        folder: of the task.
        rows: replies.
        judge: its name.
        speaker: the control voice.
        raters: see `ratings_of`.
    """
    reason = why_unjudged(rows)
    if reason is not None:
        return {"control_wer": not_measured(reason)}
    found = {record["key"]: record for record in read_lines(folder / CONTROL) if not record["error"]}
    keys = {row["id"]: control_key(row["key"], judge, speaker) for row in rows}
    kept = [row for row in rows if row["error"] is None and row["text"].strip() and keys[row["id"]] in found]
    if not kept:
        return {"control_wer": not_measured("the control voice spoke none of the replies")}
    references = [judged(row)["reply"] for row in kept]
    replies, controls = [row["said"] or "" for row in kept], [found[keys[row["id"]]]["said"] for row in kept]
    scores: JsonObject = {
        "control": speaker,
        "control_wer": error_rate(references, controls),
        "reply_wer_minus_control": _difference(references, replies, controls, whisper=False),
    }
    if all(reference == row["text"] for reference, row in zip(references, kept, strict=True)):  # not of a phone judge
        scores["control_wer_whisper"] = error_rate(references, controls, whisper=True)
        scores["reply_wer_whisper_minus_control"] = _difference(references, replies, controls, whisper=True)
    answered = [(row, said) for row, said in zip(kept, controls, strict=True) if "s2s" in row]
    if answered:
        right = [exist_match(said, row["answers"]) for row, said in answered]
        scores["control_s2s"] = asdict(bootstrap([float(one) for one in right]))
        scores["s2s_over_control"] = ratio_of([row["s2s"] for row, _ in answered], right)
    ratings = ratings_of(folder, [keys[row["id"]] for row in kept], raters)
    return scores | {f"control_{name}": rating for name, rating in ratings.items()}


def _difference(
    references: Sequence[str], replies: Sequence[str], controls: Sequence[str], whisper: bool
) -> JsonObject:
    """Word error rate of replies less that of the control, with its interval over replies."""

    def errors(reference: str, said: str) -> WordErrors:
        if whisper:
            return whisper_errors(reference, said)
        return edit_counts(normalize_words(reference), normalize_words(said))

    ours = [errors(reference, said) for reference, said in zip(references, replies, strict=True)]
    theirs = [errors(reference, said) for reference, said in zip(references, controls, strict=True)]

    def difference(chosen: Sequence[float]) -> float:
        places = [int(place) for place in chosen]
        one, other = (sum((counts[place] for place in places), WordErrors()).rate for counts in (ours, theirs))
        return one - other

    each = [one.rate - other.rate for one, other in zip(ours, theirs, strict=True)]
    places = [float(place) for place in range(len(ours))]
    return asdict(bootstrap(places, difference, resamples=300, bounds=DIFFERENCE, each=each))
