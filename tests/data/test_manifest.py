"""Manifests: what is written is read back; what is wrong is named by file, line and field."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from echox.audio import save_audio
from echox.data.manifest import (
    Dialogue,
    Turn,
    UnitUtterance,
    Utterance,
    audio_path,
    from_cuts,
    read_dialogues,
    read_unit_utterances,
    read_utterances,
    to_cuts,
    write_dialogues,
    write_shar,
    write_unit_utterances,
    write_utterances,
)

HELLO = Utterance("a", "wav/a.wav", "hello world", "flite/slt", 1.0, "train", (0.4, 1.0))


def test_utterances_round_trip(tmp_path):
    items = [HELLO, Utterance("b", "wav/b.wav", "déjà vu", "x", 0.5, "heldout")]
    write_utterances(tmp_path / "deep" / "m.jsonl", items)
    assert read_utterances(tmp_path / "deep" / "m.jsonl") == items
    assert audio_path(tmp_path / "deep" / "m.jsonl", "wav/a.wav") == tmp_path / "deep" / "wav" / "a.wav"
    assert not list(tmp_path.glob("deep/.*")), "no temporary file is left"


def test_dialogues_round_trip(tmp_path):
    turns = (Turn("user", "Hi.", "a.wav", 0.7, "flite/slt"), Turn("assistant", "Hello."))
    items = [Dialogue("d", turns, "train", "Hello", "small_talk"), Dialogue("e", (Turn("user", audio="b.wav"),))]
    write_dialogues(tmp_path / "d.jsonl", items)
    assert read_dialogues(tmp_path / "d.jsonl") == items


def test_unit_utterances_round_trip(tmp_path):
    items = [UnitUtterance("a", "hello world", (3, 1, 2), (2, 1, 4), (0, 0, 1)), UnitUtterance("b", "x", (), (), ())]
    write_unit_utterances(tmp_path / "u.jsonl", items)
    assert read_unit_utterances(tmp_path / "u.jsonl") == items


@settings(max_examples=30, deadline=None)
@given(texts=st.lists(st.text(st.characters(exclude_categories=("Cs",)), min_size=1).filter(str.strip), max_size=4))
def test_any_text_survives(tmp_path_factory, texts):
    path = tmp_path_factory.mktemp("m") / "m.jsonl"
    items = [Dialogue(str(i), (Turn("user", text),)) for i, text in enumerate(texts)]
    write_dialogues(path, items)
    assert read_dialogues(path) == items


GOOD = {"id": "a", "audio": "a.wav", "text": "hello world", "speaker": "s", "duration_s": 1.0}


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"duration_s": 0}, "duration_s"),
        ({"duration_s": float("nan")}, "duration_s"),
        ({"duration_s": "1"}, "duration_s"),
        ({"text": " "}, "text"),
        ({"id": 3}, "id"),
        ({"word_ends_s": [0.5]}, "word_ends_s"),
        ({"word_ends_s": [0.9, 0.5]}, "word_ends_s"),
        ({"word_ends_s": [0.9, 2.5]}, "word_ends_s"),
        ({"word_ends_s": ["x", "y"]}, "word_ends_s"),
        ({"colour": "red"}, "colour"),
        ({"audio": None}, "audio"),
    ],
)
def test_errors_name_file_line_and_field(tmp_path, change, field):
    path = tmp_path / "m.jsonl"
    path.write_text(json.dumps({**GOOD, "id": "first"}) + "\n\n" + json.dumps({**GOOD, **change}) + "\n")
    with pytest.raises(ValueError, match=rf"m\.jsonl:3: {field}"):
        read_utterances(path)


def test_missing_field_broken_json_and_duplicates_are_named(tmp_path):
    path = tmp_path / "m.jsonl"
    path.write_text('{"id": "a"}\n')
    with pytest.raises(ValueError, match=r":1: audio: required"):
        read_utterances(path)
    path.write_text('{"id": \n')
    with pytest.raises(ValueError, match=r":1: expected one JSON object"):
        read_utterances(path)
    path.write_text("[]\n")
    with pytest.raises(ValueError, match=r":1: .*found list"):
        read_utterances(path)
    path.write_text(f"{json.dumps(GOOD)}\n{json.dumps(GOOD)}\n")
    with pytest.raises(ValueError, match=r":2: id: .*'a' again \(line 1\)"):
        read_utterances(path)
    with pytest.raises(ValueError, match="twice"):
        write_utterances(path, [HELLO, HELLO])


def test_dialogue_errors_name_the_turn(tmp_path):
    path = tmp_path / "d.jsonl"
    path.write_text(json.dumps({"id": "d", "turns": [{"role": "user", "text": "x"}, {"role": "robot", "text": "y"}]}))
    with pytest.raises(ValueError, match=r":1: turns\[1\]\.role: .*'robot'"):
        read_dialogues(path)
    with pytest.raises(ValueError, match="text or audio"):
        Turn("user")
    with pytest.raises(ValueError, match="assistant turn"):
        Turn("assistant", audio="a.wav")
    with pytest.raises(ValueError, match="at least one turn"):
        Dialogue("d", ())


@pytest.mark.parametrize(
    ("units", "durations", "words", "field"),
    [
        ((1, 2), (1,), (0, 0), "durations_frames"),
        ((1, 2), (1, 0), (0, 0), "durations_frames"),
        ((1, -1), (1, 1), (0, 0), "units"),
        ((1, 2), (1, 1), (1, 0), "word_of_unit"),
        ((1, 2), (1, 1), (0, 2), "word_of_unit"),
    ],
)
def test_unit_utterances_are_checked(units, durations, words, field):
    with pytest.raises(ValueError, match=field):
        UnitUtterance("a", "two words", units, durations, words)


def test_lhotse_round_trip_and_shar(tmp_path):
    lhotse = pytest.importorskip("lhotse")
    manifest = tmp_path / "m.jsonl"
    items = []
    for index, name in enumerate("abc"):
        duration_s = 0.5 + 0.1 * index
        (tmp_path / "wav").mkdir(exist_ok=True)
        wave = 0.1 * np.sin(np.arange(int(16_000 * duration_s)) * 0.1).astype(np.float32)
        save_audio(tmp_path / f"wav/{name}.wav", wave, 16_000)
        items.append(Utterance(name, f"wav/{name}.wav", "hello world", "s", duration_s, "heldout", (0.2, duration_s)))
    cuts = to_cuts(items, manifest)
    assert from_cuts(cuts) == items
    files = write_shar(items, manifest, tmp_path / "shar", shard_size=2)
    assert len([file for file in files if file.suffix == ".tar"]) == 2
    read = lhotse.CutSet.from_shar(in_dir=tmp_path / "shar")
    assert [cut.supervisions[0].text for cut in read] == ["hello world"] * 3
    assert [len(cut.load_audio()[0]) for cut in read] == [8000, 9600, 11200]
