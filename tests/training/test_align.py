"""Where words end, by CTC: on paths that are known, against all paths, and by both kinds of recogniser."""

import itertools
import json

import numpy as np
import pytest
from transformers import Wav2Vec2Config, Wav2Vec2CTCTokenizer, Wav2Vec2FeatureExtractor, Wav2Vec2ForCTC

from echox.audio import save_audio
from echox.data.manifest import Utterance, read_utterances, write_utterances
from echox.files import stamp
from echox.models.echox.configuration_echox import SpeechEncoderConfig, whisper_config
from echox.models.echox.modeling_speech_encoder import SpeechEncoderForCTC
from echox.models.text.tokenization_text import AUDIO, train_text_tokenizer
from echox.training.loop import run_recipe
from echox.training.stages.recordings.align import AlignChunk
from echox.training.stages.recordings.ctc_alignment import label_frames, word_ends
from tiny_tokenizers import JAPANESE

BLANK = 0


def says(path, classes=4, sure=0.9):
    """Log probabilities of a recogniser that is fairly sure of one class in each frame."""
    probs = np.full((len(path), classes), (1 - sure) / (classes - 1))
    probs[np.arange(len(path)), path] = sure
    return np.log(probs)


def test_labels_are_found_where_they_are():
    assert label_frames(says([0, 1, 1, 0, 2, 0, 0, 2, 3]), [1, 2, 2, 3], BLANK) == ([1, 4, 7, 8], [2, 4, 7, 8])


def test_the_path_is_the_best_of_all():
    rng = np.random.default_rng(0)
    logs = np.log(rng.dirichlet(np.ones(3), size=6))
    labels = [1, 1, 2]
    scores = {}
    for path in itertools.product(range(3), repeat=6):
        if [label for label, _ in itertools.groupby(path) if label] == labels:
            scores[path] = logs[np.arange(6), path].sum()
    best = max(scores, key=scores.get)
    runs = [
        [place for place, _ in group] for label, group in itertools.groupby(enumerate(best), lambda x: x[1]) if label
    ]
    first, last = label_frames(logs, labels, BLANK)
    assert (first, last) == ([run[0] for run in runs], [run[-1] for run in runs])


def test_words_end_between_labels_and_silent_words_take_no_time():
    ends = word_ends(says([1, 1, 0, 0, 2, 0, 3, 3]), [[1], [], [2, 3]], BLANK, frame_s=0.1, duration_s=0.8)
    assert ends == pytest.approx((0.3, 0.3, 0.8))


def test_a_text_that_is_too_long_is_refused():
    with pytest.raises(ValueError, match="expected 1 to 3 labels in 3 frames, found 3 with 2 repeats"):
        label_frames(says([1, 0, 1]), [1, 1, 1], BLANK)
    with pytest.raises(ValueError, match="expected 1 to 3 labels"):
        label_frames(says([1, 0, 1]), [], BLANK)


def speech(folder, texts):
    rng = np.random.default_rng(0)
    rows = []
    for number, text in enumerate(texts):
        save_audio(folder / f"{number}.wav", rng.normal(0, 0.1, 24000).astype(np.float32), 16000)
        rows.append(Utterance(f"r{number}", f"{number}.wav", text, "me", 1.5))
    write_utterances(folder / "utterances.jsonl", rows)
    (folder / "align.yaml").write_text(
        "stage: align\nutterances: utterances.jsonl\noutput: aligned.jsonl\nrecogniser: recogniser\nkeep_going: true\n"
    )


def write_letters(folder):
    """A tiny wav2vec 2.0 over capital letters."""
    vocabulary = {token: index for index, token in enumerate(["<pad>", "<unk>", "|", *"ABCDEFGHIJKLMNOPQRSTUVWXYZ"])}
    folder.mkdir()
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    Wav2Vec2CTCTokenizer(str(folder / "vocab.json"), pad_token="<pad>", bos_token=None, eos_token=None).save_pretrained(
        folder
    )
    Wav2Vec2FeatureExtractor().save_pretrained(folder)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    config = Wav2Vec2Config(vocab_size=len(vocabulary), pad_token_id=0, num_conv_pos_embeddings=16, **sizes)
    Wav2Vec2ForCTC(config).save_pretrained(folder)


def write_encoder(folder):
    """A tiny model of stage "encoder"."""
    tokenizer = train_text_tokenizer(["Hi there, you"], 300)
    tokenizer.save_pretrained(folder)
    audio = whisper_config(
        num_mel_bins=80,
        d_model=16,
        encoder_layers=1,
        encoder_attention_heads=2,
        encoder_ffn_dim=16,
        max_source_positions=100,
    )
    blank = tokenizer.convert_tokens_to_ids(AUDIO)
    SpeechEncoderForCTC(SpeechEncoderConfig(audio, 16, len(tokenizer), blank, 2)).save_pretrained(folder)


@pytest.mark.parametrize("write", [write_letters, write_encoder])
def test_a_manifest_is_aligned_and_what_does_not_fit_is_left_out(write, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "recogniser")
    speech(tmp_path, ["Hi there, you", "hi " * 60 + "you"])
    assert run_recipe("align.yaml") == {"aligned": 1.0, "left_out": 1.0}
    (row,) = read_utterances("aligned.jsonl")
    assert len(row.word_ends_s) == 3
    assert row.word_ends_s[-1] == 1.5
    with pytest.raises(ValueError, match="r1: alignment: expected"):
        run_recipe("align.yaml", ["keep_going=false"])
    with pytest.raises(ValueError, match="audio paths are relative"):
        run_recipe("align.yaml", ["output=elsewhere/aligned.jsonl"])


@pytest.mark.parametrize("write", [write_letters, write_encoder])
def test_a_text_without_spaces_is_refused(write, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "recogniser")
    speech(tmp_path, ["Hi there, you", JAPANESE])
    assert run_recipe("align.yaml") == {"aligned": 1.0, "left_out": 1.0}
    with pytest.raises(ValueError, match="r1: .*expected white space between the words"):
        run_recipe("align.yaml", ["keep_going=false"])


def many(folder, count):
    rng = np.random.default_rng(1)
    rows = []
    for number in range(count):
        samples = rng.normal(0, 0.1, 6000 + 800 * (number % 5)).astype(np.float32)
        save_audio(folder / f"m{number}.wav", samples, 16000)
        rows.append(Utterance(f"m{number}", f"m{number}.wav", "Hi you", "me", len(samples) / 16000))
    write_utterances(folder / "utterances.jsonl", rows)
    (folder / "align.yaml").write_text(
        "stage: align\nutterances: utterances.jsonl\noutput: aligned.jsonl\nrecogniser: recogniser\n"
    )


@pytest.mark.parametrize("write", [write_letters, write_encoder])
def test_a_batch_is_aligned_as_each_alone(write, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "recogniser")
    many(tmp_path, 6)
    run_recipe("align.yaml", ["batch_size=1"])
    alone = read_utterances("aligned.jsonl")
    run_recipe("align.yaml", ["batch_size=4"])
    assert read_utterances("aligned.jsonl") == alone
    assert [item.id for item in alone] == [f"m{number}" for number in range(6)], "in the manifest's order"


def test_a_stopped_alignment_continues_where_it_stopped(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_encoder(tmp_path / "recogniser")
    many(tmp_path, 20)
    work, seen = AlignChunk.__call__, []

    def stopped(self, rows):
        if seen:
            raise KeyboardInterrupt
        seen.extend(row["id"] for row in rows)
        return work(self, rows)

    monkeypatch.setattr(AlignChunk, "__call__", stopped)
    with pytest.raises(KeyboardInterrupt):
        run_recipe("align.yaml", ["batch_size=1"])
    assert not (tmp_path / "aligned.jsonl").exists()
    again: list[str] = []

    def counted(self, rows):
        again.extend(row["id"] for row in rows)
        return work(self, rows)

    monkeypatch.setattr(AlignChunk, "__call__", counted)
    assert run_recipe("align.yaml", ["batch_size=1"])["aligned"] == 20
    assert len(seen) == 8
    assert set(seen) & set(again) == set()
    assert len(again) == 12
    assert not list(tmp_path.glob(".*journal")), "a finished run leaves no journal"


def test_an_unreadable_recording_is_left_out_or_stops_at_once(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_encoder(tmp_path / "recogniser")
    many(tmp_path, 3)
    (tmp_path / "m1.wav").write_bytes(b"RIFF no audio")
    with pytest.raises(ValueError, match=r"utterances.jsonl: m1: .*audio"):
        run_recipe("align.yaml")
    assert run_recipe("align.yaml", ["keep_going=true"]) == {"aligned": 2.0, "left_out": 1.0}


def test_a_journal_belongs_to_one_recogniser(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_encoder(tmp_path / "recogniser")
    first = stamp("recogniser")
    (tmp_path / "recogniser" / "config.json").write_text((tmp_path / "recogniser" / "config.json").read_text() + "\n")
    assert stamp("recogniser") != first
    assert stamp("facebook/wav2vec2-base-960h") == "facebook/wav2vec2-base-960h"
