"""Latency, voice and model card: every figure in the card is one that was measured."""

import json
import re

import pytest
import torch
from typer.testing import CliRunner

from echox.audio import save_audio
from echox.cli.main import app
from echox.data.manifest import (
    Dialogue,
    Turn,
    Utterance,
    write_dialogues,
    write_unit_utterances,
    write_utterances,
)
from echox.evaluation import model_card
from echox.evaluation.latency.probe import PARTS, choose_questions, measure_latency
from echox.evaluation.model_card import write_model_card
from echox.evaluation.studies.conditions import conditions_table
from echox.evaluation.studies.voice import evaluate_voice
from echox.models.t2c.configuration_t2c import UnitDecoderConfig
from echox.models.t2c.modeling_t2c import T2CForUnitGeneration
from echox.models.vocoder.configuration_vocoder import LightVocoderConfig
from echox.models.vocoder.modeling_light_vocoder import LightVocoder
from paths import ROOT
from tiny_echox import tiny_echox, tone
from tiny_speaker import NUM_UNITS, tokenizer, unit_language, unit_utterances


def score(mean: float) -> dict:
    return {"mean": mean, "low": mean - 0.03, "high": mean + 0.03, "count": 400}


def spoken(mean: float) -> dict:
    names = ("s2t_exact", "s2t_answer", "s2t_ultraeval", "s2s_exact", "s2s_answer")
    topics = {"capital": {"mean": mean, "count": 48}, "times": {"mean": 0.5, "count": 46}}
    return {
        **dict.fromkeys(names, score(mean)),
        "transcription_wer": score(0.0712),
        "reply_wer": score(0.1834),
        "s2t_against_s2s_exact": {"both_right": 1, "only_written_right": 2, "only_spoken_right": 3, "both_wrong": 4},
        "unspoken_replies": 0,
        "partly_unspoken_replies": 1,
        "errors": 2,
        "s2t_exact_by_topic": topics,
        "s2s_exact_by_topic": topics,
    }


METRICS = {
    "model": "0123456789ab",
    "judge": {"name": "a phone judge", "recordings": {"wer": 0.048, "count": 150}},
    "typed": {
        "t2t_exact": score(0.9567),
        "t2t_answer": score(0.97),
        "t2t_exact_by_topic": {"capital": {"mean": 1.0, "count": 9}, "multi_turn/x": {"mean": 1.0, "count": 1}},
    },
    "heldout_seen_voices": spoken(0.83),
    "heldout_new_voices": spoken(0.61),
    "multi_turn": spoken(0.7),
}


@pytest.fixture
def measured(tmp_path):
    """A model folder with records, a stage's log, and the files of figures."""
    log = tmp_path / "lm" / "metrics.jsonl"
    log.parent.mkdir()
    rows = [{"step": step, "kind": "train", "loss": 5 / step} for step in (1, 2, 3)]
    rows += [{"step": 3, "kind": "evaluation", "exact_heldout": 0.9, "exact/times": 0.8}]
    log.write_text("".join(json.dumps(row) + "\n" for row in rows) + '{"step": 4, "ki', encoding="utf-8")
    record = {
        "recipe": {"dtype": "float16"},
        "environment": {"commit": "f" * 40},
        "parameters": 3_000_000,
        "parameters_by_part": {"s2t.language_model": 2_000_000, "vocoder": 1_000_000},
        "stages": [
            {
                "stage": "lm",
                "seed": 0,
                "steps": 2600,
                "recipe": {"training": {"output_dir": str(log.parent)}},
                "metrics": {"exact_heldout": 0.99, "exact/times": 1.0},
                "cost": {"wall_s": 1628.6, "cpu_s": 914.6},
                "environment": {"commit": "a" * 40, "dirty": True},
            },
            {"stage": "unit_language", "recipe": {}, "metrics": {"words": 1000.0}},
        ],
    }
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "training_record.json").write_text(json.dumps(record), encoding="utf-8")
    (tmp_path / "model" / "model.safetensors").write_bytes(bytes(26_000_000))
    (tmp_path / "metrics.json").write_text(json.dumps(METRICS), encoding="utf-8")
    return tmp_path


def rows_of(text: str) -> dict[str, list[str]]:
    return {
        row[0].strip(): [cell.strip() for cell in row[1:]]
        for row in (line.strip("|").split("|") for line in text.splitlines() if line.startswith("| "))
    }


def test_the_card_says_what_was_measured_and_what_was_missed(measured):
    path = write_model_card(
        measured / "model",
        measured / "metrics.json",
        None,
        measured / "docs" / "card.md",
        agreement_json=ROOT / "docs" / "agreement.json",
    )
    text = path.read_text(encoding="utf-8")
    assert "0.10 (-0.04 to 0.24) with Moonshine by ONNX runtime" in " ".join(text.split())
    rows = rows_of(text)
    assert rows["T2T exact, held-out paraphrases"] == ["95.7 % (92.7 to 98.7)", "400"]
    assert rows["S2T exact, held-out voices"] == ["61.0 % (58.0 to 64.0)", "400"]
    assert rows["reply speech against reply text, WER"][0] == "18.3 % (15.3 to 21.3)"
    assert rows["rtf, one thread"] == ["not measured", ""]
    assert rows["size of the model folder"] == ["26.0 MB", ""]
    assert max(len(line) for line in text.splitlines() if not line.startswith("|")) <= 120
    assert rows["`lm`"] == ["`aaaaaaaaa+`", "0", "2600", "27", "15", "exact_heldout 0.99"]
    assert rows["`unit_language`"] == ["", "", "", "", "", "words 1e+03"]
    assert rows["capital"] == ["100.0 %", "83.0 %", "83.0 %", "61.0 %", "61.0 %"]
    assert "multi turn/x" not in rows
    assert "cannot do" in text
    assert "0123456789ab" in text
    assert "nan" not in re.findall(r"\w+", text)


def test_what_surrounds_a_question_enters_the_card(measured):
    rows = [
        {
            "gain_db": gain_db,
            "around": around,
            "before_s": wait_s,
            "after_s": wait_s,
            "inverted": False,
            "exact": exact,
            "count": 40,
        }
        for gain_db, exact in ((0.0, 31), (-20.0, 29))
        for around, wait_s in (("silence", 0.0), ("noise", 3.0))
    ]
    (measured / "conditions.json").write_text(json.dumps({"figures": {"conditions": rows}}))
    path = write_model_card(
        measured / "model",
        measured / "metrics.json",
        None,
        measured / "docs" / "card.md",
        conditions_json=measured / "conditions.json",
    )
    card = path.read_text(encoding="utf-8")
    assert "Exact replies to 40 held-out spoken questions" in card
    assert "| 3 s of -60 dBFS noise before and after | 31 | 29 |" in card


def test_the_published_card_is_what_the_generator_writes():
    page = (ROOT / "docs" / "model_card_nano.md").read_text(encoding="utf-8")
    for text in (model_card.PURPOSE, model_card.HOW, model_card.LIMITS):
        assert text in page, "edit the generator, then write the card again"
    rows = rows_of(page)
    assert [headline.name for headline in model_card.HEADLINES if headline.name not in rows] == []
    latency = json.loads((ROOT / "benchmarks" / "results" / "nano_latency.json").read_text(encoding="utf-8"))["figures"]
    for label, name in (("end of question to first audio", "ttfa_s"), ("units to sound", "vocoder_s")):
        assert rows[label] == [f"{1000 * latency[name][key]:.0f}" for key in ("mean", "p50", "p95")]
    stored = json.loads((ROOT / "docs" / "hearing_conditions.json").read_text(encoding="utf-8"))
    assert conditions_table(stored["figures"]["conditions"]) in page
    agreement = json.loads((ROOT / "docs" / "agreement.json").read_text(encoding="utf-8"))
    assert model_card.other_judges(agreement) in " ".join(page.split())


def test_learning_curves_are_drawn_from_the_logs(measured):
    pytest.importorskip("matplotlib")
    path = write_model_card(measured / "model", measured / "metrics.json", None, measured / "docs" / "card.md")
    (picture,) = re.findall(r"!\[.*\]\((.+)\)", path.read_text(encoding="utf-8"))
    assert (path.parent / picture).read_bytes().startswith(b"\x89PNG")


def test_missing_figures_are_named(measured):
    with pytest.raises(ValueError, match=r"nothing\.json: expected"):
        write_model_card(measured / "model", measured / "nothing.json", None, measured / "card.md")
    (measured / "metrics.json").write_text("{}", encoding="utf-8")
    with pytest.raises(ValueError, match="run it again"):
        write_model_card(measured / "model", measured / "metrics.json", None, measured / "card.md")
    assert not (measured / "card.md").exists()


def test_latency_counts_every_part_and_enters_the_card(measured):
    for number in range(2):
        save_audio(measured / f"{number}.wav", tone(seed=number), 16000)
    questions = [measured / f"{number}.wav" for number in range(2)]
    figures = measure_latency(tiny_echox(), questions, warm_up=1)
    assert figures["questions"] == 2
    assert 0 < figures["first_text_s"]["p50"] <= figures["ttfa_s"]["p50"] <= figures["total_s"]["p50"]
    assert sum(figures[part]["mean"] for part in PARTS) <= figures["total_s"]["mean"]
    assert figures["threads"] == torch.get_num_threads()
    (measured / "latency.json").write_text(json.dumps(figures), encoding="utf-8")
    arguments = ["--model", "model", "--metrics", "metrics.json", "--latency", "latency.json", "-o", "card.md"]
    arguments = [str(measured / word) if "." in word or word == "model" else word for word in arguments]
    result = CliRunner().invoke(app, ["eval", "card", *arguments])
    assert result.exit_code == 0, result.output
    rows = rows_of((measured / "card.md").read_text(encoding="utf-8"))
    assert rows["rtf, one thread"][0] == f"{figures['rtf_overall']:.2f}"
    assert rows["encoding of the question"][0] == f"{figures['encode_s']['mean'] * 1000:.0f}"


def test_latency_needs_a_question(tmp_path):
    with pytest.raises(ValueError, match="at least one question"):
        measure_latency(tiny_echox(), [])


def test_questions_are_held_out_ones_balanced_over_topics(tmp_path):
    turns = (Turn("user", "What?", "q.wav", 1.0, "voice"), Turn("assistant", "That."))
    items = [Dialogue(f"{topic}{i}", turns, "heldout_new_voices", topic=topic) for topic in "ab" for i in range(5)]
    items += [Dialogue("seen", turns, "train", topic="c")]
    write_dialogues(tmp_path / "speech" / "dialogues.jsonl", items)
    assert choose_questions(tmp_path, 4) == [tmp_path / "speech" / "q.wav"] * 4
    assert len(choose_questions(tmp_path, 99)) == 10


class FixedJudge:
    """Hears one word in everything."""

    name = "fixed judge"

    def as_heard(self, text):
        return text

    def transcribe(self, waveforms, sampling_rate):
        assert sampling_rate == 16000
        return ["dog" for _ in waveforms]


def test_the_voice_is_judged_after_each_step(tmp_path):
    torch.manual_seed(0)
    items = unit_utterances()
    write_unit_utterances(tmp_path / "units.jsonl", items)
    (tmp_path / "speech").mkdir()
    save_audio(tmp_path / "speech" / "a.wav", tone(), 16000)
    replies = [Utterance(item.id, "a.wav", item.text, "slt", 1.0, item.split) for item in items]
    write_utterances(tmp_path / "speech" / "replies.jsonl", replies)
    vocoder = LightVocoderConfig(
        num_units=NUM_UNITS, hidden_size=8, intermediate_size=16, num_frame_layers=1, num_mel_bins=20, fft_size=512
    )
    LightVocoder(vocoder).save_pretrained(tmp_path / "vocoder")
    unit_language().save_pretrained(tmp_path / "language")
    words = tokenizer()
    decoder = UnitDecoderConfig(
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        text_hidden_size=16,
        text_vocab_size=len(words),
        num_unit_words=15,
        max_unit_words_per_word=3,
    )
    T2CForUnitGeneration(decoder).save_pretrained(tmp_path / "t2c")
    words.save_pretrained(tmp_path / "t2c")
    unit_language().save_pretrained(tmp_path / "t2c")
    scores = evaluate_voice(
        FixedJudge(),
        tmp_path,
        tmp_path / "units.jsonl",
        tmp_path / "vocoder",
        tmp_path / "language",
        tmp_path / "t2c",
        samples_dir=tmp_path / "samples",
    )
    assert list(scores) == ["recordings", "true_durations", "predicted_durations", "t2c"]
    # "A dog says woof." is the one held-out reply; one word of four is heard.
    assert all(row == {"wer": 0.75, "count": 1, "unspoken": 0} for row in scores.values())
    assert len(list((tmp_path / "samples").glob("*.wav"))) == 4
    assert "A dog says woof.\tdog" in (tmp_path / "samples" / "t2c.tsv").read_text(encoding="utf-8")
    with pytest.raises(ValueError, match="expected held-out"):
        write_unit_utterances(tmp_path / "units.jsonl", items[:1])
        evaluate_voice(FixedJudge(), tmp_path, tmp_path / "units.jsonl", tmp_path / "vocoder", tmp_path / "language")
