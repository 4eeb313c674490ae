"""A small corpus of every layout, whole and damaged: damage is refused by file and line, or left out and listed."""

import http.server
import io
import json
import shutil
import subprocess
import sys
import tarfile
import threading
import tracemalloc
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from echox.audio import encode_audio, save_audio
from echox.data.corpora import base
from echox.data.corpora.fetch import fetch_url
from echox.data.corpora.layouts import unpack
from echox.data.corpora.public.catalog import CORPORA, open_corpus
from echox.data.corpora.table import Table
from echox.data.manifest import audio_path, read_dialogues, read_utterances
from paths import ROOT

RATE = 16_000


def tone(seconds: float = 0.3) -> np.ndarray:
    return (0.3 * np.sin(np.arange(int(seconds * RATE)) * 0.05)).astype(np.float32)


def wav(path: Path, seconds: float = 0.3) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    save_audio(path.with_suffix(".wav"), tone(seconds), RATE)
    path.with_suffix(".wav").replace(path)
    return path.name


def text(path: Path, content: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content, encoding="utf-8")


def tar(path: Path, members: dict[str, bytes]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w:gz") as out:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            out.addfile(info, io.BytesIO(content))


def librispeech(folder: Path, damaged: bool) -> None:
    chapter = folder / "LibriSpeech" / "train-clean-100" / "84" / "121123"
    second = "84-121123-0001" if damaged else "84-121123-0001 AND ONE MORE"
    text(chapter / "84-121123.trans.txt", f"84-121123-0000 GO DO YOU HEAR\n{second}\n")
    for number in range(2):
        wav(chapter / f"84-121123-000{number}.flac")


def mls(folder: Path, damaged: bool) -> None:
    part = folder / "mls_polish_opus" / "train"
    text(part / "transcripts.txt", "8758_8338_000000\tjak się masz\n8758_8338_000001\tdobrze\n")
    wav(part / "audio" / "8758" / "8338" / "8758_8338_000000.opus")
    if not damaged:
        wav(part / "audio" / "8758" / "8338" / "8758_8338_000001.flac")


def mls_english(folder: Path, damaged: bool) -> None:
    """Beside another language, which comes first by name."""
    mls(folder / "dutch", damaged=False)
    (folder / "dutch" / "mls_polish_opus").rename(folder / "mls_dutch_opus")
    part = folder / "mls_english_opus" / "train"
    text(part / "transcripts.txt", "4800_10003_000000\twhat is it\n4800_10003_000001\ta cow\n")
    wav(part / "audio" / "4800" / "10003" / "4800_10003_000000.opus")
    if not damaged:
        wav(part / "audio" / "4800" / "10003" / "4800_10003_000001.flac")


def dialogues(subset: str):
    def build(folder: Path, damaged: bool) -> None:
        said = encode_audio(tone(), RATE)
        items = [
            {
                "conversations": [
                    {"from": "human", "value": f"Question {n}?", "audio": f"wav/{n}.wav", "wer": 0.1},
                    {"from": "gpt", "value": f"Answer {n}."},
                ]
            }
            for n in range(2)
        ]
        if damaged:
            items[1]["conversations"][0]["wer"] = 0.8
        members = {"data.json": json.dumps(items).encode(), "wav/0.wav": said, "wav/1.wav": said}
        tar(folder / "S2T" / subset / "shard-000.tar.gz", members)

    return build


def audioqa(folder: Path, damaged: bool) -> None:
    turns = [
        {"content": "What?", "wavpath": "QA/q.wav", "codec": "QA/q.codec", "role": "user"},
        {"content": "<|audio|> That.", "wavpath": "QA/a.wav", "codec": "", "role": "assistant"},
    ]
    text(
        folder / "train.json",
        json.dumps([{"conversations": turns}, {"conversations": turns[:1] if damaged else turns}]),
    )
    tar(folder / "QA_tar" / "part0.tar.gz", {name: encode_audio(tone(), RATE) for name in ("QA/q.wav", "QA/a.wav")})


def speechinstruct(folder: Path, damaged: bool) -> None:
    good = "[Human]: <sosp><189><7><eosp> <eoh> [SpeechGPT]: how are you; [ta] fine; [ua] <sosp><3><999><eosp> <eoa>"
    second = good.replace("<999>", "<1234>") if damaged else good
    rows = [{"prefix": "You are SpeechGPT.", "plain_text": plain} for plain in (good, second)]
    text(folder / "chain_of_modality_instruction.jsonl", "".join(json.dumps(row) + "\n" for row in rows))


def instructs2s(folder: Path, damaged: bool) -> None:
    names = [wav(folder / "make" / f"{n}.wav") for n in range(4)]
    content = {f"speech/{name}": (folder / "make" / name).read_bytes() for name in names}
    tar(folder / "whole.tar.gz", content)
    whole = (folder / "whole.tar.gz").read_bytes()
    (folder / "en_part_aa").write_bytes(whole[:100])
    (folder / "en_part_ab").write_bytes(whole[100:])
    items = [
        {
            "id": f"d-{n}",
            "conversation": [
                {"from": "human", "text": "Hi", "speech": f"speech/{2 * n}.wav"},
                {"from": "gpt", "text": "Hello", "speech": f"speech/{2 * n + 1}.wav"},
            ],
        }
        for n in range(2)
    ]
    if damaged:
        items[1]["conversation"][1]["speech"] = "speech/absent.wav"
    text(folder / "instruct_en.json", json.dumps(items))


def voiceassistant(folder: Path, damaged: bool) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    audio = {"bytes": encode_audio(tone(), RATE), "path": None}
    broken = {"bytes": b"RIFF no audio here", "path": None}
    rows = [
        {
            "split_name": "qa",
            "index": str(n),
            "round": None,
            "question": "Why?",
            "answer": "Because.",
            "question_audio": broken if damaged and n else audio,
            "answer_snac": "# 1 2",
        }
        for n in range(2)
    ]
    (folder / "data").mkdir(parents=True)
    parquet.write_table(pyarrow.Table.from_pylist(rows), folder / "data" / "train-00000.parquet")


def opentriviaqa(folder: Path, damaged: bool) -> None:
    folder.mkdir(parents=True)
    second = b"^ d\xe9j\xe0 vu" if not damaged else b"B nothing"  # Windows-1252, as some files are
    content = b"\r\n#Q Who is this:\r\n\r\nA man?\n^ Somebody\nA Nobody\n\n#Q What?\n" + second + b"\nA no"
    (folder / "animals").write_bytes(content)


def webquestions(folder: Path, damaged: bool) -> None:
    rows = [{"qId": f"wqr{n}", "qText": "who is it?", "answers": ["Me", "You"]} for n in range(2)]
    if damaged:
        rows[1]["answers"] = []
    text(folder / "val.json", json.dumps(rows))


def wordnet(folder: Path, damaged: bool) -> None:
    lines = [
        "  1 This software and database is being provided to you",
        '08976224 15 n 02 Madrid 0 capital_of_Spain 0 001 @i 08524735 n 0000 | the capital of Spain; "he lives there"',
        "01314910 05 n 01 Bacillus 0 001 @ 01313093 n 0000 | a genus of bacteria",
        "00001740 00 a 01 able(p) 0 000 | having the necessary means" if not damaged else "00001740 00 a 01 able(p) 0",
    ]
    text(folder / "data.noun", "\n".join(lines) + "\n")


def table(folder: Path, damaged: bool) -> None:
    wav(folder / "clips" / "one.wav")
    second = "{not json" if damaged else '{"text": "Three.", "audio": "clips/one.wav"}'
    rows = ['{"text": "One two.", "audio": "clips/one.wav"}', second]
    text(folder / "rows.jsonl", "\n".join(rows) + "\n")


@dataclass(frozen=True)
class Case:
    """How a corpus is made small, and what is said of its damaged item."""

    build: object
    place: str
    reason: str
    utterances: int
    dialogues: int = 0


CASES = {
    "librispeech": Case(librispeech, "84-121123.trans.txt:2", "speaker-chapter-number TEXT", 2),
    "mls": Case(mls, "transcripts.txt:2", "found none", 2),
    "mls-english": Case(mls_english, "transcripts.txt:2", "found none", 2),
    "audioqa": Case(audioqa, "train.json:2", "at least 2 turns", 4, 2),
    "speechinstruct": Case(speechinstruct, "chain_of_modality_instruction.jsonl:2", "below 1000", 0, 2),
    "hh-rlhf-speech": Case(dialogues("HH-RLHF-Speech"), "shard-000.tar.gz:data.json:2", "wrong text", 2, 2),
    "sharechatx": Case(dialogues("ShareChatX"), "shard-000.tar.gz:data.json:2", "wrong text", 2, 2),
    "magpie-speech": Case(dialogues("Magpie-Pro-Speech+"), "shard-000.tar.gz:data.json:2", "wrong text", 2, 2),
    "echox-dialogues": Case(dialogues("WizardLM"), "shard-000.tar.gz:data.json:2", "wrong text", 2, 2),
    "instructs2s": Case(instructs2s, "instruct_en.json:2", "absent.wav", 4, 2),
    "voiceassistant": Case(voiceassistant, "train-00000.parquet:2", "expected audio", 2, 2),
    "opentriviaqa": Case(opentriviaqa, "animals:8", "expected a line with", 0, 2),
    "webquestions": Case(webquestions, "val.json:2", "answers", 0, 2),
    "wordnet": Case(wordnet, "data.noun:4", "expected 'offset", 0, 2),
    "table": Case(table, "rows.jsonl:2", "one JSON object a line", 2),
}
each_corpus = pytest.mark.parametrize("name", CASES)


def test_every_corpus_is_tested_and_has_a_card():
    assert set(CASES) == set(CORPORA)
    for name in CORPORA:
        card = ROOT / "docs" / "data_cards" / f"{name}.md"
        assert CORPORA[name].provenance.title in card.read_text(encoding="utf-8"), card


@each_corpus
def test_a_whole_corpus_is_prepared(name, tmp_path):
    case = CASES[name]
    case.build(tmp_path / "raw", damaged=False)
    corpus = open_corpus(name)
    prepared = corpus.prepare(tmp_path / "raw", tmp_path / "out")
    assert (prepared.utterances, prepared.dialogues, prepared.damaged) == (case.utterances, case.dialogues, [])
    manifest = tmp_path / "out" / "utterances.jsonl"
    items = read_utterances(manifest)
    assert all(audio_path(manifest, item.audio).is_file() for item in items)
    assert all(item.duration_s == pytest.approx(0.3, abs=1e-3) and item.text == item.text.strip() for item in items)
    assert corpus.validate(tmp_path / "out") == case.utterances
    if case.dialogues:
        found = read_dialogues(tmp_path / "out" / "dialogues.jsonl")
        assert all(dialogue.turns[-1].role == "assistant" for dialogue in found)
    record = json.loads((tmp_path / "out" / "provenance.json").read_text())
    assert record["corpus"] == name
    assert record["licence"]
    assert record["homepage"]


@each_corpus
def test_a_damaged_item_is_refused_by_file_and_line(name, tmp_path):
    case = CASES[name]
    case.build(tmp_path / "raw", damaged=True)
    with pytest.raises(ValueError, match=case.reason) as refused:
        open_corpus(name).prepare(tmp_path / "raw", tmp_path / "out")
    assert case.place in str(refused.value)
    prepared = open_corpus(name).prepare(tmp_path / "raw", tmp_path / "out", keep_going=True)
    (damage,) = prepared.damaged
    assert damage["place"].endswith(case.place)
    assert case.reason in damage["reason"]
    assert prepared.utterances < case.utterances or prepared.dialogues < case.dialogues
    listed = json.loads((tmp_path / "out" / "damaged.jsonl").read_text())
    assert listed == damage


def test_finished_items_are_not_read_again(tmp_path, monkeypatch):
    librispeech(tmp_path / "raw", damaged=True)
    with pytest.raises(ValueError, match="trans.txt:2"):
        open_corpus("librispeech").prepare(tmp_path / "raw", tmp_path / "out")
    text(
        tmp_path / "raw/LibriSpeech/train-clean-100/84/121123/84-121123.trans.txt",
        "84-121123-0000 GO DO YOU HEAR\n84-121123-0001 AND ONE MORE\n",
    )
    with (tmp_path / "out" / ".prepared.jsonl").open("a") as journal:
        journal.write('{"place": "cut off by a ki')
    measured = []
    duration_s = base._duration_s
    monkeypatch.setattr(base, "_duration_s", lambda path: (measured.append(path.name), duration_s(path))[1])
    assert open_corpus("librispeech").prepare(tmp_path / "raw", tmp_path / "out").utterances == 2
    assert measured == ["84-121123-0001.flac"]
    assert open_corpus("librispeech").prepare(tmp_path / "raw", tmp_path / "out").utterances == 2
    assert len(measured) == 1


def prepared_files(folder: Path) -> dict[str, str]:
    """The manifests of a prepared corpus."""
    manifests = [path for path in sorted(folder.glob("*.json*")) if not path.name.startswith(".")]
    return {path.name: path.read_text(encoding="utf-8") for path in manifests}


@each_corpus
def test_a_corpus_that_has_changed_is_prepared_as_if_for_the_first_time(name, tmp_path):
    """Its first items come again in their places, where the journal of a damaged one knows others."""
    case, raw = CASES[name], tmp_path / "raw"
    case.build(raw, damaged=True)
    open_corpus(name).prepare(raw, tmp_path / "out", keep_going=True)
    assert (tmp_path / "out" / "damaged.jsonl").is_file()
    shutil.rmtree(raw)
    case.build(raw, damaged=False)
    open_corpus(name).prepare(raw, tmp_path / "out")
    open_corpus(name).prepare(raw, tmp_path / "new")
    assert prepared_files(tmp_path / "out") == prepared_files(tmp_path / "new")


def test_texts_and_recordings_that_were_mended_are_read_again(tmp_path):
    raw, out = tmp_path / "raw", tmp_path / "out"
    librispeech(raw, damaged=False)
    open_corpus("librispeech").prepare(raw, out)
    chapter = raw / "LibriSpeech" / "train-clean-100" / "84" / "121123"
    text(chapter / "84-121123.trans.txt", "84-121123-0001 AND TWO MORE\n84-121123-0000 GO DO YOU SEE\n")
    wav(chapter / "84-121123-0001.flac", seconds=0.5)
    open_corpus("librispeech").prepare(raw, out)
    found = [(row.id, row.text, row.duration_s) for row in read_utterances(out / "utterances.jsonl")]
    assert found == [("84-121123-0001", "and two more", 0.5), ("84-121123-0000", "go do you see", 0.3)]
    assert open_corpus("librispeech").validate(out) == 2


def test_librispeech_text_is_small_and_split_by_part(tmp_path):
    librispeech(tmp_path / "raw", damaged=False)
    open_corpus("librispeech").prepare(tmp_path / "raw", tmp_path / "out")
    first = read_utterances(tmp_path / "out" / "utterances.jsonl")[0]
    assert (first.text, first.speaker, first.split) == ("go do you hear", "librispeech/84", "train")


def test_a_part_of_english_librispeech_has_speakers_of_the_whole(tmp_path):
    part = tmp_path / "raw" / "mls_english_opus" / "train"
    names = [f"{speaker}_1_{number:06}" for speaker in range(20) for number in range(16)]
    text(part / "transcripts.txt", "".join(f"{name}\tsome words\n" for name in names))
    for name in names:
        wav(part / "audio" / name.split("_")[0] / "1" / f"{name}.flac", seconds=0.05)
    open_corpus("mls-english").prepare(tmp_path / "raw", tmp_path / "out", limit=20, hold_out=0)
    found = read_utterances(tmp_path / "out" / "utterances.jsonl")
    assert {item.speaker for item in found} == {f"mls/{speaker}" for speaker in range(20)}
    open_corpus("mls-english").prepare(tmp_path / "raw", tmp_path / "out", hold_out=0)
    assert sorted(item.id for item in read_utterances(tmp_path / "out" / "utterances.jsonl")) == sorted(names)


def test_units_of_speechinstruct_are_kept(tmp_path):
    speechinstruct(tmp_path / "raw", damaged=False)
    open_corpus("speechinstruct").prepare(tmp_path / "raw", tmp_path / "out")
    rows = [json.loads(line) for line in (tmp_path / "out" / "units.jsonl").read_text().splitlines()]
    assert [row["units"] for row in rows[:2]] == [[189, 7], [3, 999]]
    assert [row["text"] for row in rows[:2]] == ["how are you", "fine"]


def test_a_truncated_archive_is_named_and_its_whole_items_come(tmp_path):
    dialogues("ShareChatX")(tmp_path / "raw", damaged=False)
    archive = tmp_path / "raw" / "S2T" / "ShareChatX" / "shard-000.tar.gz"
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, RATE).astype(np.float32)  # does not shrink: the cut hits a file
    items = [
        {"conversations": [{"from": "human", "value": "Q?", "audio": f"{n}.wav"}, {"from": "gpt", "value": "A."}]}
        for n in range(3)
    ]
    members = {"data.json": json.dumps(items).encode(), **{f"{n}.wav": encode_audio(noise, RATE) for n in range(3)}}
    tar(archive, members)
    whole = archive.read_bytes()
    archive.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match="shard-000.tar.gz: expected a whole archive, found one cut after 2 files"):
        open_corpus("sharechatx").prepare(tmp_path / "raw", tmp_path / "out")
    prepared = open_corpus("sharechatx").prepare(tmp_path / "raw", tmp_path / "out", keep_going=True)
    assert prepared.dialogues == 1
    assert [damage["place"].split(":")[-1] for damage in prepared.damaged][1:] == ["2", "3"]
    archive.write_bytes(whole)  # as the message asks for
    assert open_corpus("sharechatx").prepare(tmp_path / "raw", tmp_path / "out").dialogues == 3
    assert not (tmp_path / "out" / "damaged.jsonl").exists()


def test_an_archive_cannot_write_outside_its_folder(tmp_path):
    said = encode_audio(tone(), RATE)
    items = [{"conversations": [{"from": "human", "value": "Q?", "audio": "a.wav"}, {"from": "gpt", "value": "A."}]}]
    members = {"../../../escaped.wav": said, "data.json": json.dumps(items).encode(), "a.wav": said}
    tar(tmp_path / "raw" / "ShareChatX" / "s.tar.gz", members)
    assert open_corpus("sharechatx").prepare(tmp_path / "raw", tmp_path / "out").dialogues == 1
    assert not list(tmp_path.rglob("escaped.wav"))


@pytest.mark.parametrize("kind", ["gz", "bz2", "xz"])
def test_a_member_larger_than_memory_is_unpacked_in_blocks(tmp_path, kind):
    with tarfile.open(tmp_path / f"s.tar.{kind}", f"w:{kind}") as archive:
        member = tarfile.TarInfo("large.bin")
        member.size = 64 * 2**20
        archive.addfile(member, io.BytesIO(bytes(member.size)))
    tracemalloc.start()
    try:
        ((_, folder, wrong),) = unpack([tmp_path / f"s.tar.{kind}"], tmp_path / "out")
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert wrong is None
    assert (folder / "large.bin").stat().st_size == 64 * 2**20
    assert peak_bytes < 16 * 2**20


@pytest.mark.skipif(sys.platform != "linux", reason="needs GNU tar and a file system with holes")
def test_files_with_holes_are_not_unpacked(tmp_path):
    hole = tmp_path / "hole.bin"
    with hole.open("wb") as file:
        file.truncate(2**40)  # a terabyte that takes no room, here
    subprocess.run(["tar", "-cSzf", tmp_path / "s.tar.gz", "-C", tmp_path, "hole.bin"], check=True)
    ((_, folder, wrong),) = unpack([tmp_path / "s.tar.gz"], tmp_path / "out")
    assert wrong is None
    assert [path.name for path in folder.iterdir()] == [".unpacked"]


def test_any_table_takes_other_column_names(tmp_path):
    rows = [{"instruction": "Say hi.", "output": "Hi.", "who": "me"}]
    text(tmp_path / "raw" / "data.jsonl", json.dumps(rows[0]))
    corpus = Table({"question": "instruction", "answer": "output", "speaker": "who"}, licence="CC0")
    assert corpus.prepare(tmp_path / "raw", tmp_path / "out").dialogues == 1
    assert json.loads((tmp_path / "out" / "provenance.json").read_text())["licence"] == "CC0"
    with pytest.raises(ValueError, match="column: expected one of .*, found 'textt'"):
        Table({"textt": "x"})


def test_an_empty_folder_and_an_unknown_corpus_are_refused(tmp_path):
    with pytest.raises(ValueError, match="found no item"):
        open_corpus("mls").prepare(tmp_path, tmp_path / "out")
    with pytest.raises(ValueError, match="download it first"):
        open_corpus("mls").prepare(tmp_path / "absent", tmp_path / "out")
    with pytest.raises(ValueError, match="corpus: expected one of librispeech"):
        open_corpus("libri")


class Ranged(http.server.BaseHTTPRequestHandler):
    """Serves bytes, with ranges; the first answer breaks off in the middle."""

    content = bytes(range(256)) * 40
    asked: list[str | None] = []

    def do_GET(self) -> None:
        wanted = self.headers.get("Range")
        self.asked.append(wanted)
        start = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted else 0
        self.send_response(206 if wanted else 200)
        self.send_header("Content-Length", str(len(self.content) - start))
        if wanted:
            self.send_header("Content-Range", f"bytes {start}-{len(self.content) - 1}/{len(self.content)}")
        self.end_headers()
        self.wfile.write(self.content[start : None if wanted else 5000])

    def log_message(self, *args) -> None:
        """Quiet."""


def test_a_download_goes_on_where_it_broke_off(tmp_path):
    server = http.server.HTTPServer(("127.0.0.1", 0), Ranged)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}/corpus.tar.gz"
    try:
        with pytest.raises(ConnectionError, match="expected 10240 bytes, received 5000"):
            fetch_url(url, tmp_path / "corpus.tar.gz")
        assert fetch_url(url, tmp_path / "corpus.tar.gz").read_bytes() == Ranged.content
    finally:
        server.shutdown()
        server.server_close()
    assert Ranged.asked == [None, "bytes=5000-"]


def test_every_encoding_fault_is_named_and_the_rest_is_read(tmp_path):
    """A byte order mark is no fault; Latin-1 is, line by line or, in a JSON array, as a file."""
    rows = [json.dumps({"id": n, "question": f"Qué {n}?", "answer": "Sí."}, ensure_ascii=False) for n in range(3)]
    raw = tmp_path / "raw"
    raw.mkdir()
    (raw / "bom.jsonl").write_bytes(b"\xef\xbb\xbf" + rows[0].encode() + b"\r\n")
    (raw / "latin.jsonl").write_bytes(rows[1].encode("latin-1") + b"\n" + rows[2].encode() + b"\n")
    (raw / "latin_array.json").write_bytes(f"[{rows[1]}]".encode("latin-1"))
    (raw / "marked_array.json").write_bytes(b"\xef\xbb\xbf[" + rows[1].encode() + b"]")
    with pytest.raises(ValueError, match=r"latin.jsonl:1: expected UTF-8 text, found byte 0xe9.*iconv"):
        Table().prepare(raw, tmp_path / "out")
    prepared = Table().prepare(raw, tmp_path / "out", keep_going=True)
    assert [damage["place"] for damage in prepared.damaged] == ["latin.jsonl:1", "latin_array.json:1"]
    found = read_dialogues(tmp_path / "out" / "dialogues.jsonl")
    assert [(item.id, item.turns[0].text) for item in found] == [("0", "Qué 0?"), ("2", "Qué 2?"), ("1", "Qué 1?")]


def test_a_transcript_in_latin_1_is_left_out_line_by_line(tmp_path):
    librispeech(tmp_path / "raw", damaged=False)
    transcript = next((tmp_path / "raw").rglob("*.trans.txt"))
    transcript.write_bytes(transcript.read_bytes() + "84-121123-0001 CAFÉ\n".encode("latin-1"))
    prepared = open_corpus("librispeech").prepare(tmp_path / "raw", tmp_path / "out", keep_going=True)
    assert prepared.utterances == 2
    assert prepared.damaged[0]["place"].endswith("84-121123.trans.txt:3")


def test_a_repeated_id_is_named_and_left_out(tmp_path):
    rows = [
        {"id": "a", "question": "Q?", "answer": "A."},
        {"id": "b", "question": "Q?", "answer": "A."},
        {"id": "a", "question": "R?", "answer": "B."},
    ]
    text(tmp_path / "raw" / "data.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(
        ValueError, match=r"data.jsonl:3: id: expected unique ids, found 'a' again .first in data.jsonl:1"
    ):
        Table().prepare(tmp_path / "raw", tmp_path / "out")
    prepared = Table().prepare(tmp_path / "raw", tmp_path / "out", keep_going=True)
    assert (prepared.dialogues, [damage["place"] for damage in prepared.damaged]) == (2, ["data.jsonl:3"])


def test_zero_is_an_id_a_speaker_and_a_split(tmp_path):
    wav(tmp_path / "raw" / "one.wav")
    row = {"id": 0, "text": "One.", "audio": "one.wav", "speaker": 0, "split": 0}
    text(tmp_path / "raw" / "d.jsonl", json.dumps(row))
    Table().prepare(tmp_path / "raw", tmp_path / "out")
    (item,) = read_utterances(tmp_path / "out" / "utterances.jsonl")
    assert (item.id, item.speaker, item.split) == ("0", "0", "0")


def test_texts_with_other_line_separators_survive_the_journal(tmp_path):
    rows = [{"id": "x", "question": "One\u2028two\x85three?", "answer": "Yes."}]
    text(tmp_path / "raw" / "d.jsonl", json.dumps(rows[0], ensure_ascii=False))
    corpus = Table()
    corpus.prepare(tmp_path / "raw", tmp_path / "out")
    journal = (tmp_path / "out" / ".prepared.jsonl").read_text(encoding="utf-8")
    corpus.prepare(tmp_path / "raw", tmp_path / "out")
    assert (tmp_path / "out" / ".prepared.jsonl").read_text(encoding="utf-8") == journal  # it knows them


@pytest.mark.parametrize("name", ["sharechatx", "magpie-speech", "hh-rlhf-speech", "echox-dialogues", "speechinstruct"])
def test_a_corpus_without_a_split_gets_one(name, tmp_path):
    """300 items, every text three times: about 1 % is held out, and no text is on both sides."""
    subset = {"sharechatx": "ShareChatX", "magpie-speech": "Magpie-Pro-Speech+", "hh-rlhf-speech": "HH-RLHF-Speech"}
    if name == "speechinstruct":
        line = "[Human]: <sosp><1><eosp> <eoh> [SpeechGPT]: question {}; [ta] fine; [ua] <sosp><3><eosp> <eoa>"
        rows = [json.dumps({"plain_text": line.format(number % 100)}) for number in range(300)]
        text(tmp_path / "raw" / "chain_of_modality_instruction.jsonl", "\n".join(rows))
    else:
        items = [
            {"conversations": [{"from": "human", "value": f"Question {n % 100}?"}, {"from": "gpt", "value": "A."}]}
            for n in range(300)
        ]
        archive = tmp_path / "raw" / subset.get(name, "WizardLM") / "shard.tar.gz"
        tar(archive, {"data.json": json.dumps(items).encode()})
    prepared = open_corpus(name).prepare(tmp_path / "raw", tmp_path / "out")
    found = read_dialogues(tmp_path / "out" / "dialogues.jsonl")
    asked = {split: {item.turns[0].text for item in found if item.split == split} for split in ("train", "heldout")}
    assert len(found) == 300
    assert prepared.held_out == sum(item.split == "heldout" for item in found) == 3
    assert not asked["train"] & asked["heldout"]
    first = {item.id: item.split for item in found}
    open_corpus(name).prepare(tmp_path / "raw", tmp_path / "again")
    assert {item.id: item.split for item in read_dialogues(tmp_path / "again" / "dialogues.jsonl")} == first
    assert open_corpus(name).prepare(tmp_path / "raw", tmp_path / "none", hold_out=0).held_out == 0


def test_the_makers_split_is_kept(tmp_path):
    rows = [{"id": n, "question": f"Q{n}?", "answer": "A.", "split": "test" if n == 7 else "train"} for n in range(200)]
    text(tmp_path / "raw" / "d.jsonl", "\n".join(json.dumps(row) for row in rows))
    assert Table().prepare(tmp_path / "raw", tmp_path / "out").held_out == 1
    found = read_dialogues(tmp_path / "out" / "dialogues.jsonl")
    assert [item.id for item in found if item.split != "train"] == ["7"]
