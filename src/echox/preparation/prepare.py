"""Stage "prepare_data": check clips, drop duplicates, extract units, learn a unit language, write shards and report."""

from __future__ import annotations

import functools
import hashlib
import json
import os
import sys
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from echox.config import recipe, to_dict
from echox.data.lexicon import write_letters
from echox.data.manifest import (
    Dialogue,
    Turn,
    UnitUtterance,
    write_dialogues,
    write_unit_utterances,
    write_utterances,
)
from echox.data.sampling import in_chunks
from echox.files import JsonObject, stamp, write_lines, write_text
from echox.preparation.clips import Clip, Clips, Dropped, read_inputs
from echox.preparation.dialogue_shards import write_dialogue_shards
from echox.preparation.duplicates import find_duplicates
from echox.preparation.execute import Workers, cluster, stage_results
from echox.preparation.report import make_report
from echox.preparation.settings import (
    Duplicates,
    Filter,
    Input,
    Language,
    Shards,
    TextSettings,
    Units,
    Voices,
)
from echox.preparation.shards import (
    FOLDER,
    ShardSettings,
    WriteShard,
    content_hash,
    drop_other_files,
    output_hash,
    shards_hold,
    utterance_of,
)
from echox.preparation.stages import CheckClips, CheckSettings, ExtractUnits, Recogniser

Row = JsonObject
MakeJudge = Callable[[], Recogniser]


@dataclass
class _State:
    """Clips that are kept so far, by id, and those that were dropped."""

    kept: dict[str, Row]
    dropped: list[Dropped]

    def drop(self, name: str, reason: str, detail: str = "", duration_s: float = 0.0) -> None:
        row = self.kept.pop(name, None)
        self.dropped.append(Dropped(name, reason, detail, duration_s or (row or {}).get("duration_s") or 0.0))

    def take(self, results: Iterable[Row]) -> None:
        """Merge a stage's results: new fields, or the reason why a clip is dropped."""
        for result in results:
            if "dropped" in result:
                self.drop(result["id"], result["dropped"], result.get("detail", ""), result.get("duration_s") or 0.0)
            else:
                self.kept[result["id"]] |= result


def prepare(settings: PrepareDataRecipe, judge: MakeJudge | None = None, ray: str | None = None) -> JsonObject:
    """Run a recipe; a stopped run continues where it stopped. Returns the figures of the report.

    Args:
        settings: the recipe.
        judge: makes the recogniser; needed unless ``filter.max_wer`` is None.
        ray: address of a Ray cluster, or "local".

    Raises:
        ValueError: no judge, an input that cannot be read, or nothing was kept.
    """
    if settings.filter.max_wer is not None and judge is None:
        raise ValueError("filter.max_wer: expected a recogniser, found none; use echox run, or set it to null")
    began_s = time.monotonic()
    output = Path(settings.output_dir).resolve()
    output.mkdir(parents=True, exist_ok=True)
    workers = Workers(settings.workers, ray, settings.gpus_per_worker)
    with cluster(workers):
        return _prepare(settings, judge, workers, output, began_s)


def _prepare(
    settings: PrepareDataRecipe, judge: MakeJudge | None, workers: Workers, output: Path, began_s: float
) -> JsonObject:
    inputs = read_inputs(settings.inputs, output, settings.voices.speaking)
    state = _State({clip.id: clip.row() for clip in inputs.clips}, list(inputs.dropped))
    _check(settings, judge, state, workers, output)
    _drop_parts_of_groups(inputs.clips, state)
    _drop_duplicates(settings, inputs, state)
    if settings.units is not None:
        rows = list(state.kept.values())
        make = functools.partial(ExtractUnits, settings.units)
        chosen = (settings.units, _stamps(settings.units.extractor, settings.units.encoder))
        chunks = in_chunks(rows, settings.chunk_clips)
        state.take(stage_results("units", make, chosen, chunks, workers, output / ".work" / "units.jsonl"))
        _drop_parts_of_groups(inputs.clips, state)
    if not state.kept:
        raise ValueError(f"{output}: expected clips to keep, found none of {len(inputs.clips)} passed; see the filters")
    for row in state.kept.values():
        row["audio"] = os.path.relpath(row["audio"], output)
    language = _language(settings, state, output)
    files, unit_words = _write_shards(settings, state, language, workers, output)
    whole = (_dialogue(dialogue, state.kept, settings.voices.speaking) for dialogue in inputs.dialogues)
    dialogues = [dialogue for dialogue in whole if dialogue is not None]
    if dialogues and settings.shards.dialogues:
        files |= write_dialogue_shards(dialogues, settings.shards, workers, output)
    files |= _write_manifests(dialogues, state, unit_words, output)
    files["dropped.jsonl"] = _write_dropped(state, output)
    extra = {
        "hash": output_hash(files),
        "wall_s": round(time.monotonic() - began_s, 1),
        "workers": settings.workers,
        "ray": workers.ray,
        "recipe": to_dict(settings),
    }
    write_text(output / "hashes.json", json.dumps(dict(sorted(files.items())), indent=1) + "\n")
    return make_report(list(state.kept.values()), state.dropped, extra, output)


def plan(settings: PrepareDataRecipe) -> JsonObject:
    """The size of a run, without doing it: clips and hours, recorded and to be spoken.

    Raises:
        ValueError: an input cannot be read.
    """
    inputs = read_inputs(settings.inputs, Path(settings.output_dir).resolve(), settings.voices.speaking)
    recorded = [clip for clip in inputs.clips if clip.audio is not None]
    spoken = [clip for clip in inputs.clips if clip.audio is None]
    return {
        "clips": len(inputs.clips),
        "dialogues": len(inputs.dialogues),
        "recorded_hours": round(sum(clip.expected_s for clip in recorded) / 3600, 3),
        "hours_to_speak": round(sum(clip.expected_s for clip in spoken) / 3600, 3),
        "lost_in_shards": len(inputs.dropped),
        "missing_audio": sum(not Path(str(clip.audio)).is_file() for clip in recorded),
        "flac_gigabytes": round(sum(clip.expected_s for clip in inputs.clips) * 16_000 * 2 * 0.6 / 1e9, 3),
    }


def _check(
    settings: PrepareDataRecipe,
    judge: MakeJudge | None,
    state: _State,
    workers: Workers,
    output: Path,
) -> None:
    given = CheckSettings(output, settings.text, settings.voices, settings.filter)
    make = functools.partial(CheckClips, given, judge)
    # Sorted by length, so that all chunks cost about the same.
    rows = sorted(state.kept.values(), key=lambda row: (row["expected_s"], row["id"]))
    chunks = in_chunks(rows, settings.chunk_clips)
    # Results do not depend on the place of the output: a moved folder is not processed again.
    chosen = (replace(given, output=Path()), _stamps(settings.filter.judge, settings.filter.lexicon))

    def still_there(results: list[Row]) -> bool:  # other settings may have spoken into the same files
        spoken = [row for row in results if row.get("spoken") is not None]
        return all(row["spoken"] == stamp(row["audio"]) for row in spoken)

    state.take(stage_results("check", make, chosen, chunks, workers, output / ".work" / "check.jsonl", still_there))
    for row in state.kept.values():
        del row["spoken"]


def _stamps(*named: str | None) -> list[str | None]:
    """Of models and files that a recipe names: what they made is made again when they are written again."""
    return [None if name is None else stamp(name) for name in named]


def _drop_parts_of_groups(clips: Sequence[Clip], state: _State) -> None:
    """Drop all clips of a dialogue of which one is dropped."""
    broken = {clip.group for clip in clips if clip.id not in state.kept}
    for clip in clips:
        if clip.group in broken and clip.id in state.kept:
            state.drop(clip.id, "its dialogue lost a turn", clip.group)


def _drop_duplicates(settings: PrepareDataRecipe, inputs: Clips, state: _State) -> None:
    """Drop what repeats: an utterance, or a dialogue as a whole, with its turns that are text."""
    whole = {one.id: [turn.text or "" for turn in one.turns] for one in inputs.dialogues}
    members: dict[str, list[str]] = {}
    for clip in inputs.clips:
        if clip.id in state.kept:
            members.setdefault(clip.group, []).append(clip.id)
    first: dict[tuple[tuple[str, ...], ...], str] = {}
    found: dict[str, tuple[str, str]] = {}
    items = []
    for group, names in members.items():
        rows = [state.kept[name] for name in names]
        texts = whole.get(group)  # None: an utterance; the same recording is the same, whatever its text
        same = first.setdefault((tuple(row["recording"] for row in rows), tuple(texts or ())), group)
        if same != group:
            found[group] = ("same recording", same)
            continue
        words = " ".join(texts or [row["text"] for row in rows])
        items.append((group, words, "|".join(row["speaker"] for row in rows)))
    found |= find_duplicates(items, settings.duplicates)
    for group, (reason, original) in found.items():
        for name in members[group]:
            state.drop(name, reason, f"as {original}")


def _language(settings: PrepareDataRecipe, state: _State, output: Path) -> str | None:
    """Folder of the unit language: the one given, or one learned from the training clips."""
    chosen = settings.unit_language
    if chosen is None or settings.units is None:
        return None
    if chosen.folder is not None:
        return str(Path(chosen.folder).resolve())
    from echox.units.inventory import read_num_units
    from echox.units.language import learn_unit_language, split_by_word

    segments = [
        segment
        for row in state.kept.values()
        if row["split"] == "train"
        for segment in split_by_word(row["units"], row["word_of_unit"])
    ]
    language = learn_unit_language(
        segments,
        read_num_units(settings.units.extractor),
        chosen.vocabulary_size,
        chosen.max_units_per_word,
        chosen.min_count,
    )
    language.save_pretrained(output / "unit_language")
    return str(output / "unit_language")


def _write_shards(
    settings: PrepareDataRecipe, state: _State, language: str | None, workers: Workers, output: Path
) -> tuple[dict[str, str], dict[str, list[int]]]:
    """Shards of each split; the order of clips mixes speakers and lengths and depends on their ids only."""
    splits: dict[str, list[Row]] = {}
    for row in sorted(state.kept.values(), key=lambda row: hashlib.sha256(row["id"].encode()).digest()):
        splits.setdefault(row["split"], []).append(row)
    chunks = [
        [
            {
                "id": f"{split}/{number:06d}",
                "split": split,
                "number": number,
                "clips": clips,
                "expected_s": sum(clip["duration_s"] for clip in clips),
            }
        ]
        for split, rows in sorted(splits.items())
        for number, clips in enumerate(in_chunks(rows, settings.shards.size) if settings.shards.clips else ())
    ]
    given = ShardSettings(output, settings.shards, language)
    learned = None if language is None else [content_hash(path) for path in sorted(Path(language).glob("*.json"))]
    results = list(
        stage_results(
            "shards",
            functools.partial(WriteShard, given),
            (settings.shards, learned),
            chunks,
            workers,
            output / ".work" / "shards.jsonl",
            functools.partial(shards_hold, output),
        )
    )
    files = {name: digest for result in results for name, digest in result["files"].items()}
    drop_other_files(output / FOLDER, files, output)
    return files, {name: words for result in results for name, words in result["unit_words"]}


def _write_manifests(
    dialogues: Sequence[Dialogue], state: _State, unit_words: dict[str, list[int]], output: Path
) -> dict[str, str]:
    kept = sorted(state.kept.values(), key=lambda row: row["id"])
    write_utterances(output / "utterances.jsonl", (utterance_of(row) for row in kept))
    names = ["utterances.jsonl"]
    for name, role in (("users.jsonl", "user"), ("reply_voice.jsonl", "assistant")):
        spoken = [utterance_of(row) for row in kept if row["role"] == role]
        write_utterances(output / name, spoken)
        names.append(name)
        speakers = sorted({item.speaker for item in spoken})
        if role == "assistant" and len(speakers) > 1:
            print(
                f"{output / name}: WARNING: expected one speaker as reply voice, found {len(speakers)} "
                f"({', '.join(speakers[:3])} ...): units and vocoder would mix them",
                file=sys.stderr,
            )
    write_letters([row["text"] for row in kept], output / "phones.json")
    names.append("phones.json")
    if all("units" in row for row in kept):
        rows = (
            UnitUtterance(
                row["id"],
                row["text"],
                tuple(row["units"]),
                tuple(row["durations_frames"]),
                tuple(row["word_of_unit"]),
                row["split"],
                row.get("written"),
            )
            for row in kept
        )
        write_unit_utterances(output / "units.jsonl", rows)
        names.append("units.jsonl")
    if unit_words:
        content = [json.dumps({"id": name, "unit_words": unit_words[name]}) + "\n" for name in sorted(unit_words)]
        write_text(output / "unit_words.jsonl", "".join(content))
        names.append("unit_words.jsonl")
    if dialogues:
        write_dialogues(output / "dialogues.jsonl", dialogues)
        names.append("dialogues.jsonl")
    return {name: content_hash(output / name) for name in names}


def _dialogue(dialogue: Dialogue, kept: dict[str, Row], speaking: Collection[str]) -> Dialogue | None:
    """The dialogue with the texts and recordings of its kept turns; None: it was dropped."""
    turns = []
    for index, turn in enumerate(dialogue.turns):
        if turn.role == "system":
            turns.append(turn)
            continue
        row = kept.get(f"{dialogue.id}.{index}")
        if row is None:
            if turn.audio is None and turn.role not in speaking:
                turns.append(turn)
                continue
            return None
        turns.append(Turn(turn.role, row["text"], row["audio"], row["duration_s"], row["speaker"], row.get("written")))
    return replace(dialogue, turns=tuple(turns))


def _write_dropped(state: _State, output: Path) -> str:
    """Write the dropped clips; details name folders of this machine, so they are not part of the hash."""
    rows = sorted(state.dropped, key=lambda item: item.id)
    write_lines(output / "dropped.jsonl", map(to_dict, rows))
    return hashlib.sha256(json.dumps([[item.id, item.reason] for item in rows]).encode()).hexdigest()


@recipe("prepare_data")
@dataclass
class PrepareDataRecipe:
    """Recipe of stage "prepare_data".

    Attributes:
        chunk_clips: clips that a worker processes at a time (and repeats when one dies).
        workers: processes, or actors of a Ray cluster.
        gpus_per_worker: GPUs of an actor, for encoders (Ray only).
    """

    stage: str
    inputs: list[Input]
    output_dir: str
    text: TextSettings = field(default_factory=TextSettings)
    voices: Voices = field(default_factory=Voices)
    filter: Filter = field(default_factory=Filter)
    duplicates: Duplicates = field(default_factory=Duplicates)
    units: Units | None = None
    unit_language: Language | None = None
    shards: Shards = field(default_factory=Shards)
    chunk_clips: int = 16
    workers: int = 1
    gpus_per_worker: float = 0.0

    def __post_init__(self) -> None:
        """Raises: ValueError for a number outside its range, or a unit language without units."""
        for name in ("chunk_clips", "workers"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: expected at least 1, found {getattr(self, name)}")
        if self.shards.size < 1:
            raise ValueError(f"shards.size: expected at least 1, found {self.shards.size}")
        if not self.inputs:
            raise ValueError("inputs: expected at least one, found none")
        if self.unit_language is not None and self.units is None:
            raise ValueError("unit_language: expected units to learn from, found none; add units.extractor")

    def run(self, judge: MakeJudge | None = None) -> dict[str, float]:
        """Prepare everything; ``judge`` makes the recogniser, which the command line passes."""
        return prepare(self, judge)
