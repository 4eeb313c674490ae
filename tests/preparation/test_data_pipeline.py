"""The preparation pipeline: the same output for every way of execution and after kills; damage is dropped."""

import functools
import http.server
import json
import shutil
import threading
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from data_faults import Counted, KilledAlways, KilledOnce
from echox.audio import load_audio, save_audio
from echox.cli.main import app
from echox.cli.run import judge_factory
from echox.config import load_recipe
from echox.data.manifest import (
    Dialogue,
    Turn,
    Utterance,
    read_dialogues,
    read_utterances,
    write_dialogues,
    write_shar,
    write_utterances,
)
from echox.data.sampling import in_chunks
from echox.evaluation.sets.heldout import embedded_heldout
from echox.models.text.word_breaks import split_words
from echox.preparation.clips import Clip
from echox.preparation.duplicates import find_duplicates
from echox.preparation.execute import ProgressReport, Workers, cluster, stage_results
from echox.preparation.prepare import PrepareDataRecipe, prepare
from echox.preparation.rewrite import Rewriter
from echox.preparation.settings import Duplicates, Filter, Input, Shards, TextSettings, Units, Voices
from echox.preparation.shards import content_hash, shards_hold
from echox.preparation.stages import CheckClips, CheckSettings, estimated_word_ends_s, silence_ratio
from paths import RECIPES, TESTS
from tiny_tokenizers import CHINESE, ENGLISH, JAPANESE, THAI

RATE = 16_000
HELDOUT = embedded_heldout() / "speech" / "replies"


def heldout_texts() -> dict[str, str]:
    """Recordings of the reply voice that come with the package, with what they say."""
    path = next(embedded_heldout().rglob("replies.jsonl"))
    return {item.id: item.text for item in read_utterances(path)}


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    """Twelve good recordings and one of each kind of bad one."""
    folder = tmp_path_factory.mktemp("source")
    texts = heldout_texts()
    items = []

    def add(name: str, text: str, waveform: np.ndarray) -> None:
        save_audio(folder / f"{name}.wav", waveform, RATE)
        items.append(Utterance(name, f"{name}.wav", text, "flite/slt", len(waveform) / RATE))

    names = [name for name in sorted(texts) if len(texts[name].split()) >= 5]
    for name in names[:12]:
        add(name, texts[name], load_audio(HELDOUT / f"{name}.opus", RATE))
    good, said = load_audio(HELDOUT / f"{names[12]}.opus", RATE), texts[names[12]]
    add("bad-cut", said, good)
    whole = (folder / "bad-cut.wav").read_bytes()
    (folder / "bad-cut.wav").write_bytes(whole[: len(whole) // 2])
    add("bad-garbage", said, good)
    (folder / "bad-garbage.wav").write_bytes(b"no audio at all")
    add("bad-text", "Nothing of this is ever said here at all.", good)
    add("bad-silence", "All is quiet now.", np.concatenate([good[:2000], np.zeros(5 * RATE, np.float32)]))
    add("bad-short", "Hm.", good[4000:7000])
    add("bad-fast", " ".join(["word"] * 40), good)
    add("zz-again", texts[names[0]], load_audio(HELDOUT / f"{names[0]}.opus", RATE))
    write_utterances(folder / "clips.jsonl", items)
    return folder


def recipe_of(source: Path, output: Path, **changes) -> PrepareDataRecipe:
    given = {
        "inputs": [Input(utterances=str(source / "clips.jsonl"))],
        "filter": Filter(max_wer=0.34),
        "shards": Shards(size=5),
        "chunk_clips": 4,
    }
    return PrepareDataRecipe("prepare_data", output_dir=str(output), **{**given, **changes})


def run(settings: PrepareDataRecipe, ray: str | None = None) -> dict:
    return prepare(settings, judge_factory(settings.filter), ray)


@pytest.fixture(scope="module")
def alone(source, tmp_path_factory) -> tuple[dict, Path]:
    """What one process makes."""
    output = tmp_path_factory.mktemp("alone")
    return run(recipe_of(source, output)), output


def test_damage_is_dropped_with_reason_and_count(alone):
    figures, output = alone
    rows = [json.loads(line) for line in (output / "dropped.jsonl").read_text().splitlines()]
    reasons = {row["id"]: row["reason"] for row in rows}
    assert {name: reason for name, reason in reasons.items() if not name.startswith("rh-")} == {
        "bad-cut": "unreadable audio",
        "bad-garbage": "unreadable audio",
        "bad-text": "wrong text",
        "bad-silence": "mostly silence",
        "bad-short": "too short",
        "bad-fast": "too fast",
        "zz-again": "same recording",
    }
    assert figures["reasons"]["unreadable audio"]["clips"] == 2
    assert figures["kept_clips"] + figures["dropped_clips"] == 19
    assert figures["kept_clips"] >= 9
    assert "| unreadable audio | 2 |" in (output / "report.md").read_text()
    assert (output / "report.png").stat().st_size > 1000


def test_shards_hold_what_the_manifest_says(alone):
    from lhotse import CutSet

    _, output = alone
    items = {item.id: item for item in read_utterances(output / "utterances.jsonl")}
    cuts = list(CutSet.from_shar(in_dir=output / "shards" / "train"))
    assert {cut.id for cut in cuts} == set(items)
    for cut in cuts[:3]:
        assert cut.supervisions[0].text == items[cut.id].text
        audio = load_audio(output / items[cut.id].audio, RATE)
        np.testing.assert_allclose(cut.load_audio()[0], audio, atol=1e-4)


def test_a_second_run_repeats_nothing_and_mends_shards(source, alone, capsys):
    figures, output = alone
    archive = output / "shards" / "train" / "recording.000000.tar"
    archive.write_bytes(archive.read_bytes()[:3000])
    capsys.readouterr()
    assert run(recipe_of(source, output))["hash"] == figures["hash"]
    printed = capsys.readouterr().err
    assert "shards" in printed
    assert "check" not in printed


@pytest.mark.slow
def test_two_processes_make_the_same(source, alone, tmp_path_factory):
    # Beside the other: manifests name recordings by their path from the output.
    assert run(recipe_of(source, tmp_path_factory.mktemp("two"), workers=2))["hash"] == alone[0]["hash"]


@pytest.mark.slow
def test_a_ray_cluster_makes_the_same(source, alone, tmp_path_factory):
    pytest.importorskip("ray")
    assert run(recipe_of(source, tmp_path_factory.mktemp("ray"), workers=2), ray="local")["hash"] == alone[0]["hash"]


def rows_of(letters: str) -> list[dict]:
    return [{"id": letter, "number": number, "expected_s": 1.0} for number, letter in enumerate(letters)]


EXPECTED = [{"id": letter, "twice": 2 * number} for number, letter in enumerate("abcdefgh")]


@pytest.mark.slow
def test_a_killed_worker_changes_nothing(tmp_path):
    make = functools.partial(KilledOnce, tmp_path / "mark")
    found = list(stage_results("x", make, 0, in_chunks(rows_of("abcdefgh"), 2), Workers(2), tmp_path / "journal.jsonl"))
    assert (tmp_path / "mark").exists()
    assert found == EXPECTED


@pytest.mark.slow
def test_a_killed_actor_changes_nothing(tmp_path, monkeypatch):
    pytest.importorskip("ray")
    monkeypatch.setenv("PYTHONPATH", str(TESTS / "preparation"))  # actors import data_faults
    make = functools.partial(KilledOnce, tmp_path / "mark")
    workers = Workers(2, ray="local")
    with cluster(workers):
        found = list(
            stage_results("x", make, 0, in_chunks(rows_of("abcdefgh"), 2), workers, tmp_path / "journal.jsonl")
        )
    assert (tmp_path / "mark").exists()
    assert found == EXPECTED


@pytest.mark.slow
def test_a_clip_that_kills_every_worker_is_dropped_alone(tmp_path):
    found = list(
        stage_results("x", KilledAlways, 0, in_chunks(rows_of("abcdefgh"), 2), Workers(2), tmp_path / "journal.jsonl")
    )
    assert found[3] == {"id": "d", "dropped": "crashed its worker", "detail": "3 workers died of it"}
    assert [row for row in found if row["id"] != "d"] == [row for row in EXPECTED if row["id"] != "d"]


def test_a_stopped_stage_goes_on_where_it_stopped(tmp_path):
    journal, log = tmp_path / "journal.jsonl", tmp_path / "log"
    make = functools.partial(Counted, log)
    chunks = in_chunks(rows_of("abcdefgh"), 2)
    list(stage_results("x", make, 0, chunks[:2], Workers(), journal))
    with journal.open("a") as out:
        out.write('{"key": "cut off by a ki')
    assert list(stage_results("x", make, 0, chunks, Workers(), journal)) == EXPECTED
    assert list(stage_results("x", make, 0, chunks, Workers(), journal)) == EXPECTED
    assert log.read_text().split("\n")[:-1] == ["a b", "c d", "e f", "g h"]
    list(stage_results("x", make, "other settings", chunks[:1], Workers(), journal))
    assert log.read_text().split("\n")[-2] == "a b"


class Made:
    """In place of a stage: notes its chunks, and keeps or drops nothing."""

    chunks: list[str] = []

    def __init__(self, name: str, more: dict, *_: object) -> None:
        self.name, self.more = name, more

    def __call__(self, rows):
        Made.chunks.append(self.name)
        return [{"id": row["id"], **self.more} for row in rows]


def test_what_is_named_and_written_again_is_read_again(tmp_path, monkeypatch):
    """Of every journaled stage: the same results while nothing changes, new ones where a file that it reads does."""
    wav, judge, lexicon = tmp_path / "a.wav", tmp_path / "judge", tmp_path / "phones.json"
    extractor, encoder = tmp_path / "extractor", tmp_path / "encoder"
    for folder in (judge, extractor, encoder):
        folder.mkdir()
        (folder / "model.safetensors").write_bytes(b"")
    lexicon.write_text("{}", encoding="utf-8")
    save_audio(wav, np.zeros(RATE, np.float32), RATE)
    write_dialogues(
        tmp_path / "d.jsonl", [Dialogue("a", (Turn("user", "Yes.", "a.wav", 1.0), Turn("assistant", "No.")))]
    )
    checked = {"text": "Yes.", "audio": str(wav), "speaker": "s", "split": "train", "duration_s": 1.0}
    checked |= {
        "spoken": None,
        "word_ends_s": [1.0],
        "recording": "same",
        "written": None,
        "words_per_s": 1.0,
        "silence_ratio": 0.0,
    }
    units = {"units": [1], "durations_frames": [50], "word_of_unit": [0]}
    monkeypatch.setattr("echox.preparation.prepare.CheckClips", functools.partial(Made, "check", checked))
    monkeypatch.setattr("echox.preparation.prepare.ExtractUnits", functools.partial(Made, "units", units))
    written = functools.partial(Made, "dialogues", {"files": {}})
    monkeypatch.setattr("echox.preparation.dialogue_shards.WriteDialogueShard", written)
    monkeypatch.setattr("echox.preparation.dialogue_shards.index_dialogues", str)
    settings = recipe_of(
        tmp_path,
        tmp_path / "out",
        inputs=[Input(dialogues=str(tmp_path / "d.jsonl"))],
        filter=Filter(judge=str(judge), lexicon=str(lexicon)),
        units=Units(str(extractor), str(encoder)),
        shards=Shards(clips=False),
    )
    settings.voices.assistant = None

    def made() -> list[str]:
        Made.chunks = []
        prepare(settings, lambda: None)
        return Made.chunks

    assert made() == ["check", "units", "dialogues"]
    assert made() == []
    for file, again in {
        judge / "model.safetensors": ["check"],
        lexicon: ["check"],
        extractor / "model.safetensors": ["units"],
        encoder / "model.safetensors": ["units"],
        wav: ["check", "units", "dialogues"],
    }.items():
        file.write_bytes(file.read_bytes() + b"\0")
        assert made() == again
        assert made() == []


def test_shards_that_come_in_cut_give_what_is_whole(source, tmp_path):
    items = [item for item in read_utterances(source / "clips.jsonl") if item.id.startswith("rh-")]
    write_shar(items, source / "clips.jsonl", tmp_path / "shar", shard_size=6)
    archive = tmp_path / "shar" / "recording.000001.tar"
    archive.write_bytes(archive.read_bytes()[: archive.stat().st_size // 2])
    settings = recipe_of(
        source, tmp_path / "out", inputs=[Input(shards=str(tmp_path / "shar"))], filter=Filter(max_wer=None)
    )
    figures = run(settings)
    lost = figures["reasons"]["truncated shard"]["clips"]
    assert 0 < lost < 6
    assert figures["kept_clips"] == 12 - lost
    assert figures["reasons"]["truncated shard"]["hours"] > 0


@pytest.mark.skipif(shutil.which("flite") is None, reason="flite is not installed")
def test_dialogues_are_spoken_and_kept_whole(tmp_path):
    turns = (Turn("system", "Be kind."), Turn("user", "What costs $5?"), Turn("assistant", "A book does."))
    empty = (Turn("user", "..."), Turn("assistant", "I did not hear you."))
    write_dialogues(tmp_path / "d.jsonl", [Dialogue("one", turns), Dialogue("two", empty)])
    settings = recipe_of(
        tmp_path, tmp_path / "out", inputs=[Input(dialogues=str(tmp_path / "d.jsonl"))], filter=Filter(max_wer=None)
    )
    settings.voices.user = ["flite/kal"]
    figures = run(settings)
    (dialogue,) = read_dialogues(tmp_path / "out" / "dialogues.jsonl")
    assert [turn.text for turn in dialogue.turns] == ["Be kind.", "What costs five dollars?", "A book does."]
    assert [turn.written for turn in dialogue.turns] == [None, "What costs $5?", None], "what was written is kept"
    written = [item.written for item in read_utterances(tmp_path / "out" / "utterances.jsonl")]
    assert sorted(written, key=str) == [None, "What costs $5?"]
    assert [turn.speaker for turn in dialogue.turns] == [None, "flite/kal", "flite/slt"]
    assert all((tmp_path / "out" / str(turn.audio)).is_file() for turn in dialogue.turns[1:])
    assert {name: row["clips"] for name, row in figures["reasons"].items()} == {
        "no text": 1,
        "its dialogue lost a turn": 1,
    }


@pytest.mark.skipif(shutil.which("flite") is None, reason="flite is not installed")
def test_speech_of_other_settings_in_the_same_files_is_spoken_again(tmp_path):
    write_dialogues(tmp_path / "d.jsonl", [Dialogue("a", (Turn("user", "Who is it?"), Turn("assistant", "Me.")))])

    def spoken(folder: str, *voices: str) -> list[bytes]:
        for voice in voices:
            inputs = [Input(dialogues=str(tmp_path / "d.jsonl"))]
            settings = recipe_of(tmp_path, tmp_path / folder, inputs=inputs, filter=Filter(max_wer=None))
            settings.voices.user, settings.voices.assistant = [voice], None
            run(settings)
        return [path.read_bytes() for path in sorted((tmp_path / folder / "audio").rglob("*.wav"))]

    assert spoken("used", "flite/kal", "flite/slt", "flite/kal") == spoken("fresh", "flite/kal")


def test_a_dialogue_repeats_only_as_a_whole(tmp_path):
    """Turns that are text belong to it: the same question after another history has another answer."""
    save_audio(tmp_path / "q.wav", np.random.default_rng(0).normal(0, 0.1, 2 * RATE).astype(np.float32), RATE)

    def dialogue(name: str, history: str, reply: str) -> Dialogue:
        asked = Turn("user", "And what about France?", "q.wav", 2.0, "corpus/user")
        return Dialogue(name, (Turn("user", history), Turn("assistant", "Fine."), asked, Turn("assistant", reply)))

    capital, food = ("What is the capital of Italy?", "Paris."), ("What do people eat in Italy?", "Bread.")
    given = [dialogue("a", *capital), dialogue("b", *food), dialogue("c", *capital), dialogue("d", capital[0], "Lyon.")]
    write_dialogues(tmp_path / "d.jsonl", given)
    settings = recipe_of(
        tmp_path, tmp_path / "out", inputs=[Input(dialogues=str(tmp_path / "d.jsonl"))], filter=Filter(max_wer=None)
    )
    settings.voices.user, settings.voices.assistant, settings.duplicates.near_threshold = [], None, 2.0
    run(settings)
    assert [one.id for one in read_dialogues(tmp_path / "out" / "dialogues.jsonl")] == ["a", "b", "d"]
    rows = [json.loads(line) for line in (tmp_path / "out" / "dropped.jsonl").read_text().splitlines()]
    assert [(row["id"], row["reason"], row["detail"]) for row in rows] == [("c.2", "same recording", "as a")]


def test_near_duplicates_are_found_and_confirmed():
    long = "The quick brown fox jumps over the lazy dog and runs into the deep dark forest behind the old mill"
    items = [
        ("a", long, "x"),
        ("b", long + "!", "x"),
        ("c", long.replace("deep", "deeps"), "x"),
        ("d", "Something else entirely is said in this one", "x"),
        ("e", long, "y"),
    ]
    assert find_duplicates(items, Duplicates()) == {"b": ("exact duplicate", "a"), "c": ("near duplicate", "a")}
    assert find_duplicates(items, Duplicates(per_speaker=False))["e"] == ("exact duplicate", "a")
    assert set(find_duplicates(items, Duplicates(near_threshold=1.1))) == {"b"}


def test_near_duplicates_agree_with_all_pairs():
    rng = np.random.default_rng(0)
    words = [f"word{n}" for n in range(60)]
    items = []
    for number in range(120):
        text = list(rng.choice(words, 14))
        if number % 3 == 0 and items:
            text = [*items[-1][1].split()[:13], "end"]
        items.append((f"{number:03d}", " ".join(text), "x"))
    settings = Duplicates(near_threshold=0.8)

    def grams(text: str) -> set[str]:
        return {text[at : at + 5] for at in range(len(text) - 4)}

    kept: list[str] = []
    expected = set()
    for name, text, _ in items:
        near = any(len(grams(text) & grams(other)) / len(grams(text) | grams(other)) >= 0.8 for other in kept)
        expected |= {name} if near else set()
        kept += [] if near else [text]
    assert set(find_duplicates(items, settings)) == expected
    assert expected


def test_content_hash_is_of_what_a_file_says(tmp_path):
    import gzip

    for name in ("one", "two"):
        with gzip.GzipFile(tmp_path / f"{name}.gz", "wb", mtime=hash(name) % 1000) as out:
            out.write(b"the same")
    assert content_hash(tmp_path / "one.gz") == content_hash(tmp_path / "two.gz")
    (tmp_path / "two.gz").write_bytes((tmp_path / "two.gz").read_bytes()[:-9])
    assert not shards_hold(tmp_path, [{"files": {"two.gz": content_hash(tmp_path / "one.gz")}}])


def test_progress_tells_hours_speed_and_time_left():
    now = [100.0]
    progress = ProgressReport("check", 2.0, clock=lambda: now[0])
    now[0] = 160.0
    progress.add(0.5)
    assert progress.line() == "check        0.50 of 2.00 h     30.0 x real time  left 3.0 min"


def test_silence_and_estimated_word_ends():
    waveform = np.concatenate([np.full(RATE, 0.1, np.float32), np.zeros(RATE, np.float32)])
    assert silence_ratio(waveform, -50) == pytest.approx(0.5)
    assert estimated_word_ends_s("abc d", 3.0) == pytest.approx([2.0, 3.0])


@pytest.mark.parametrize(
    ("language", "text"),
    [("en", ENGLISH[0]), ("zh", CHINESE), ("ja", JAPANESE), ("th", THAI)],
    ids=["en", "zh", "ja", "th"],
)
def test_speech_in_any_script_is_as_fast_as_it_is(language, text, tmp_path):
    wav = tmp_path / "a.wav"
    save_audio(wav, np.full(6 * RATE, 0.1, np.float32), RATE)
    row = Clip("a", text, str(wav), "a").row()
    check = CheckClips(CheckSettings(tmp_path, TextSettings(language), Voices(), Filter(max_wer=None)), None)
    (found,) = check([row])
    assert "dropped" not in found
    assert found["words_per_s"] == pytest.approx(len(split_words(text)) / 6, abs=1e-3)


class Answers(http.server.BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        text = asked["messages"][-1]["content"]
        body = b"{}" if text == "break" else json.dumps({"choices": [{"message": {"content": f"So, {text}"}}]}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args) -> None: ...


def test_texts_are_rewritten_by_a_server():
    server = http.server.HTTPServer(("127.0.0.1", 0), Answers)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    rewrite = Rewriter(f"http://127.0.0.1:{server.server_port}/v1", "any")
    try:
        assert rewrite("a list") == "So, a list"
        with pytest.raises(ConnectionError, match="no rewritten text for 'break'"):
            rewrite("break")
    finally:
        server.shutdown()
        server.server_close()


def test_recipes_refuse_what_cannot_be_meant(tmp_path, source):
    with pytest.raises(ValueError, match="expected one of utterances, dialogues, shards"):
        Input(utterances="a", shards="b")
    with pytest.raises(ValueError, match="unit_language: expected units"):
        load_recipe(RECIPES / "data/nano.yaml", ["units=null"])
    with pytest.raises(ValueError, match="filter.max_wer: expected a recogniser"):
        prepare(recipe_of(source, tmp_path / "out"), None)
    twice = [Input(utterances=str(source / "clips.jsonl"))] * 2
    with pytest.raises(ValueError, match="unique ids"):
        run(recipe_of(source, tmp_path / "out", inputs=twice, filter=Filter(max_wer=None)))
    with pytest.raises(ValueError, match="ISO 639"):
        TextSettings(spoken_language="German")


def test_commands(source, tmp_path):
    listed = CliRunner().invoke(app, ["data", "corpora"])
    assert "instructs2s" in listed.stdout
    recipe = tmp_path / "r.yaml"
    recipe.write_text(
        f"stage: prepare_data\ninputs: [{{utterances: {source}/clips.jsonl}}]\noutput_dir: {tmp_path}/out\n"
    )
    planned = json.loads(CliRunner().invoke(app, ["run", str(recipe), "--dry-run"]).stdout)
    assert (planned["clips"], planned["hours_to_speak"], planned["missing_audio"]) == (19, 0.0, 0)
    assert not (tmp_path / "out").exists()
    refused = CliRunner().invoke(app, ["data", "import", "mls", str(tmp_path), str(tmp_path / "m")])
    assert refused.exit_code == 1
    assert "found no item" in refused.output


def test_results_are_streamed_from_the_journal(tmp_path):
    """200 chunks of 0.2 MB of results: a few of them are in memory at a time, not all."""
    chunks = [[{"id": str(number)}] for number in range(200)]

    def make():
        return lambda rows: [{"id": row["id"], "text": row["id"] * 50_000} for row in rows]

    tracemalloc.start()
    try:
        found = stage_results("big", make, "v1", chunks, Workers(1), tmp_path / "journal.jsonl")
        ids = [result["id"] for result in found]
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert ids == [str(number) for number in range(200)]
    assert (tmp_path / "journal.jsonl").stat().st_size > 20e6
    assert peak < 6e6
