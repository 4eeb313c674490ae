"""Shards of dialogues: written once, read item by item from a disk or an object store, the same as the manifest."""

import gzip
import io
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from echox.audio import load_audio, save_audio
from echox.cli.main import app
from echox.data.manifest import Dialogue, Turn, audio_path, read_dialogues, write_dialogues
from echox.data.shards.dialogues import DialogueShards, index_dialogues, splits_of
from echox.data.shards.files import joined, read_bytes, write_bytes
from echox.data.shards.index import index_of
from echox.preparation.dialogue_shards import write_dialogue_shards
from echox.preparation.execute import Workers
from echox.preparation.settings import Shards

RATE = 16_000


def corpus(folder: Path, count: int = 11) -> Path:
    """Dialogues of one to three user turns, some of them typed; every fifth is held out, one has no speech at all."""
    rng = np.random.default_rng(0)
    dialogues = []
    for number in range(count):
        turns = []
        for turn in range(1 + number % 3):
            name, duration_s = f"{number}-{turn}.wav", 0.4 + 0.1 * turn + 0.01 * number
            save_audio(folder / name, rng.normal(0, 0.1, round(duration_s * RATE)).astype(np.float32), RATE)
            spoken = turn != 1 and number != 7
            said = Turn("user", f"Question {number} {turn}?", name if spoken else None, duration_s if spoken else None)
            turns += [said, Turn("assistant", f"Réponse {number} {turn}.")]
        split = "heldout" if number % 5 == 4 else "train"
        dialogues.append(Dialogue(f"corpus/d{number}", tuple(turns), split, topic="t"))
    write_dialogues(folder / "dialogues.jsonl", dialogues)
    return folder / "dialogues.jsonl"


def written(manifest: Path) -> Path:
    """The folder of the manifest, with shards of its dialogues, three in each."""
    write_dialogue_shards(read_dialogues(manifest), Shards(3), Workers(), manifest.parent)
    return manifest.parent


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    return written(corpus(tmp_path_factory.mktemp("corpus")))


def by_id(folder: Path) -> dict[str, tuple]:
    """All dialogues of all splits with their waveforms."""
    place = str(folder / "dialogue_shards")
    found = [item for split in splits_of(place) for item in DialogueShards(joined(place, split))]
    return {item.dialogue.id: (item.dialogue, item.waveforms()) for item in found}


def test_shards_hold_the_dialogues_of_the_manifest(made):
    expected = {item.id: item for item in read_dialogues(made / "dialogues.jsonl")}
    found = by_id(made)
    assert found.keys() == expected.keys()
    for name, (dialogue, waveforms) in found.items():
        assert dialogue == expected[name]
        assert set(waveforms) == set(dialogue.heard_turns)
        for turn, waveform in waveforms.items():
            audio = load_audio(audio_path(made / "dialogues.jsonl", dialogue.turns[turn].audio), RATE)
            np.testing.assert_allclose(waveform, audio, atol=1e-4)


def test_the_index_knows_lengths_without_reading_shards(made):
    shards = DialogueShards(str(made / "dialogue_shards" / "train"))
    columns = shards.places.columns
    for number, item in enumerate(shards):
        frames = sum(-(-len(waveform) // 160) for waveform in item.waveforms().values())
        assert columns["frames"][number] == frames
        assert columns["reply_words"][number] == 3 * sum(turn.role == "assistant" for turn in item.dialogue.turns)
        texts = "".join(turn.text for turn in item.dialogue.turns)
        assert columns["text_bytes"][number] == len(texts.encode())
    assert 0 in columns["frames"], "one dialogue is typed"
    assert np.bincount(shards.places.shard_of_items()).max() == 3


def test_lhotse_reads_them(made):
    from lhotse import CutSet

    cuts = list(CutSet.from_shar(in_dir=made / "dialogue_shards" / "train"))
    found = by_id(made)
    assert {cut.id for cut in cuts} == {name for name, (dialogue, _) in found.items() if dialogue.split == "train"}
    for cut in cuts:
        waveforms = found[cut.id][1]
        assert [said.text for said in cut.supervisions] == [found[cut.id][0].turns[turn].text for turn in waveforms]
        if waveforms:
            np.testing.assert_allclose(cut.load_audio()[0], np.concatenate(list(waveforms.values())), atol=1e-4)


def test_an_object_store_is_read_alike(made):
    """`memory://` is fsspec's own store: no file of it is on the disk."""
    place = "memory://bucket/corpus/train"
    for path in (made / "dialogue_shards" / "train").iterdir():
        write_bytes(joined(place, path.name), path.read_bytes())
    write_bytes(index_of(place), (made / "dialogue_shards" / "train.index.npz").read_bytes())
    assert splits_of("memory://bucket/corpus") == ["train"]
    local = DialogueShards(str(made / "dialogue_shards" / "train"))
    remote = DialogueShards(place)
    for one, two in zip(local, remote, strict=True):
        assert one.dialogue == two.dialogue
        assert all(np.array_equal(wave, two.waveforms()[turn]) for turn, wave in one.waveforms().items())
    write_bytes(index_of(place), b"")
    rebuilt = index_dialogues(place)
    assert np.array_equal(rebuilt.offsets, local.places.offsets)


def test_an_address_without_its_library_is_refused():
    with pytest.raises(ValueError, match=r"nowhere://bucket.*install its library"):
        read_bytes("nowhere://bucket/corpus/index.npz")


@pytest.fixture
def copied(made, tmp_path) -> Path:
    shutil.copytree(made / "dialogue_shards", tmp_path, dirs_exist_ok=True)
    return tmp_path / "train"


def test_a_cut_archive_names_its_shard(copied):
    archive = copied / "recording.000001.tar"
    archive.write_bytes(archive.read_bytes()[:1200])
    with pytest.raises(ValueError, match=r"recording\.000001\.tar: expected \d+ bytes at \d+, found .* cut; write the"):
        [item.waveforms() for item in DialogueShards(str(copied))]
    with pytest.raises(ValueError, match=r"shard 000001: expected the audio of its|expected an uncompressed tar"):
        index_dialogues(str(copied))


def test_shards_of_another_run_than_the_index_are_refused(copied):
    cuts = copied / "cuts.000000.jsonl.gz"
    cuts.write_bytes(gzip.compress(b"\n".join(gzip.decompress(cuts.read_bytes()).splitlines()[:-1])))
    with pytest.raises(ValueError, match=r"shard 000000: expected 3 cuts as in its index, found 2; write the shards"):
        list(DialogueShards(str(copied)))


@pytest.mark.parametrize("content", [b"", b"no index", "without columns"])
def test_a_damaged_index_is_refused(copied, content):
    if isinstance(content, str):
        file = io.BytesIO()
        np.savez(file, shards=np.array(["000000"]))
        content = file.getvalue()
    Path(index_of(str(copied))).write_bytes(content)
    with pytest.raises(ValueError, match=r"train\.index\.npz: expected an index of shards, found .*echox data index"):
        DialogueShards(str(copied))


def test_cuts_without_a_dialogue_are_refused(copied):
    path = copied / "cuts.000000.jsonl.gz"
    rows = [json.loads(line) for line in gzip.decompress(path.read_bytes()).splitlines()]
    rows[0]["custom"].pop("dialogue")
    path.write_bytes(gzip.compress("".join(json.dumps(row) + "\n" for row in rows).encode()))
    with pytest.raises(ValueError, match="expected a custom field 'dialogue', found null"):
        index_dialogues(str(copied))


def test_the_command_indexes_again(copied):
    before = read_bytes(index_of(str(copied)))
    Path(index_of(str(copied))).unlink()
    done = CliRunner().invoke(app, ["data", "index", str(copied)])
    assert done.exit_code == 0, done.output
    assert json.loads(done.output.splitlines()[-1])["dialogues"] == len(DialogueShards(str(copied)))
    with np.load(io.BytesIO(before)) as one, np.load(index_of(str(copied))) as two:
        assert all(np.array_equal(one[name], two[name]) for name in one.files)
    assert CliRunner().invoke(app, ["data", "index", str(copied / "nothing")]).exit_code != 0


def test_a_shorter_run_leaves_no_shard_behind(tmp_path):
    manifest = corpus(tmp_path)
    assert len(DialogueShards(str(written(manifest) / "dialogue_shards" / "train"))) == 9
    write_dialogues(manifest, read_dialogues(manifest)[:2])
    assert splits_of(str(written(manifest) / "dialogue_shards")) == ["train"]
    assert len(DialogueShards(str(tmp_path / "dialogue_shards" / "train"))) == 2
    assert len(list((tmp_path / "dialogue_shards").rglob("recording.*"))) == 1
