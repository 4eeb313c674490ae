"""The field's rules: published cases, and a second implementation of the stated rule that must never disagree."""

import json
import random
import sys

import pytest

from echox.data.scoring import WordErrors
from echox.evaluation.interop.ultraeval import extract_field, rescore
from echox.evaluation.scoring.metrics import exist_match
from echox.evaluation.scoring.scores import score_translation
from echox.evaluation.scoring.transcripts import bleu, english_normalizer, tokens_13a, whisper_errors
from paths import GOLDEN


def golden(name: str):
    path = GOLDEN / name
    if not path.exists():
        pytest.skip(f"golden cases are not beside this checkout: {path}")
    return json.loads(path.read_text(encoding="utf-8"))


def test_scoring_and_its_aggregate():
    cases = golden("golden_scoring.json")
    scores = [exist_match(case["prediction"], case["references"]) for case in cases["cases"]]
    assert scores == [bool(case["score"]) for case in cases["cases"]]
    assert 100 * sum(scores) / len(scores) == pytest.approx(cases["aggregate"]["acc(%)"])


def test_post_processing():
    errors = {"TypeError": TypeError, "KeyError": KeyError}
    for case in golden("golden_postprocess.json"):
        if "error" in case:
            with pytest.raises(errors[case["error"]]):
                extract_field(case["model_output"], case["key"])
        else:
            assert extract_field(case["model_output"], case["key"]) == case["output"], case


def test_word_error_rate_under_whispers_normaliser():
    pytest.importorskip("whisper_normalizer", reason="the list of British spellings: extra 'eval'")
    cases = golden("golden_wer.json")
    normalize, name = english_normalizer()
    assert name == "Whisper English normaliser"
    total = WordErrors()
    for case in cases["cases"]:
        assert normalize(case["reference"]) == case["norm_ref"]
        assert normalize(case["hypothesis"]) == case["norm_hyp"]
        errors = whisper_errors(case["reference"], case["hypothesis"])
        assert errors.rate == pytest.approx(case["wer"], abs=1e-6), case
        total += errors
    assert total.rate == pytest.approx(cases["corpus_wer"], abs=1e-6)


def test_tokens_of_13a():
    assert tokens_13a("It's 3.14, or $5: 1,000-2 &amp; (so).") == (
        ["It's", "3.14", ",", "or", "$", "5", ":", "1,000", "-", "2", "&", "(", "so", ")", "."]
    )


def test_bleu_of_sacrebleu():
    # 65.2254...: corpus_bleu of sacrebleu 1.5.1 with its defaults; later versions must give the same.
    references = ["The capital of France is Paris.", "A cow lives on a farm and eats grass."]
    assert bleu(references, references).score == pytest.approx(100.0)
    assert bleu(references, ["", ""]).score == 0.0
    close = ["The capital of France is Rome.", "A cow lives on the farm and eats grass."]
    found = bleu(references, close)
    assert found.score == pytest.approx(65.2254267760294)
    assert found.signature.startswith("nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp|version:")
    with pytest.raises(ValueError, match="a hypothesis for each of 2 references, found 1"):
        bleu(references, ["one"])


def test_tokens_are_those_of_sacrebleu():
    tokenizer = pytest.importorskip("sacrebleu.tokenizers.tokenizer_13a").Tokenizer13a()
    rng = random.Random(0)
    for _ in range(500):
        text = "".join(rng.choice([*PIECES, "3.5", "1,000", "U.S.", "&amp;", "e-mail"]) for _ in range(12))
        text = text.replace("\n", " ")  # their tokenizer joins the lines of a file
        assert tokens_13a(text) == tokenizer(text).split(), text


def test_without_sacrebleu_bleu_is_not_measured(monkeypatch):
    monkeypatch.setitem(sys.modules, "sacrebleu.metrics", None)
    row = {"answers": ["Der Hund."], "text": "Der Hund.", "speaks": False}
    scores = _translation_without_speech(row)
    assert scores["text_bleu"] == {"not_measured": "sacrebleu is not installed: pip install 'echox[eval]'"}
    assert "bleu_signature" not in scores


def _translation_without_speech(row):
    defaults = {"error": None, "failures": [], "timings": {}, "audio": None, "reply_s": 0.0, "said": None}
    return score_translation([defaults | row])


PIECES = [
    "a",
    "B",
    "Paris",
    "paris",
    "é",
    "e\u0301",
    "ß",
    "ﬁ",
    "İ",
    "१",
    "²",
    "Ⅷ",
    "中",
    "ー",
    "한",
    "ا",
    "ֿ",
    "\u200b",
    "\u00ad",
    "\u00a0",
    " ",
    "\n",
    "\t",
    "-",
    "'",
    "’",
    "$",
    "°",
    "🙂",
    "_",
    "\x00",
    "\ue000",
    "x1",
    "100",
    "(",
]


def by_regex(prediction: str, references: list[str]) -> bool:
    """The rule as UltraEval-Audio's documentation of its tokens gives it, in the `regex` package's own classes."""
    import unicodedata

    import regex

    token = regex.compile(r"[\p{L}\p{N}\p{M}]+|[^\p{Z}\p{C}]")

    def tokens(text: str) -> list[str]:
        return [found.lower() for found in token.findall(unicodedata.normalize("NFD", text))]

    said = tokens(prediction)
    return any(
        tokens(reference) == said[start : start + len(tokens(reference))]
        for reference in references
        for start in range(len(said) - len(tokens(reference)) + 1)
    )


def pair(rng: random.Random) -> tuple[str, list[str]]:
    """A prediction and references that often share a part, over characters where rules differ."""

    def text(most: int) -> str:
        return "".join(rng.choice(PIECES) + rng.choice(["", "", " "]) for _ in range(rng.randint(0, most)))

    prediction = text(8)
    start, end = sorted(rng.randint(0, len(prediction)) for _ in range(2))
    change = rng.choice([str, str.upper, str.lower, str.strip])
    return prediction, [
        text(2) if rng.random() < 0.5 else change(prediction[start:end]) for _ in range(rng.randint(0, 2))
    ]


def disagreements(pairs: int, seed: int) -> tuple[list[tuple[str, list[str]]], int]:
    pytest.importorskip("regex")
    rng = random.Random(seed)
    found, matched = [], 0
    for _ in range(pairs):
        prediction, references = pair(rng)
        ours = exist_match(prediction, references)
        matched += ours
        if ours != by_regex(prediction, references):
            found.append((prediction, references))
    return found, matched


def test_match_rule_agrees_with_a_second_implementation():
    found, matched = disagreements(2000, seed=0)
    assert not found
    assert 400 < matched < 1600  # the pairs test both sides


@pytest.mark.slow
def test_match_rule_agrees_on_many_pairs():
    found, matched = disagreements(200_000, seed=1)
    assert not found
    assert 40_000 < matched < 160_000


def test_records_of_ultraeval_are_scored_again(tmp_path):
    lines = []
    for number, (said, match) in enumerate((("It is Paris.", 1), ("Rome", 0))):
        lines.append({"type": "inference", "id": number, "data": {"content": json.dumps({"text": said})}})
        lines.append({"type": "post_process", "id": number, "data": {"content": said}})
        lines.append({"type": "eval", "id": number, "data": {"ref": ["Paris"], "match": match}})
    lines.append({"type": "error", "id": 2, "data": {"info": "no audio"}})
    path = tmp_path / "res.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    found = rescore(path)
    assert (found["acc_ultraeval"], found["failed"], found["disagree"]) == (0.5, ["2"], [])
    assert found["acc_strict"] == found["fail_rate"] == pytest.approx(1 / 3)
    path.write_text('{"id": 1}\n', encoding="utf-8")
    with pytest.raises(ValueError, match="not a result file"):
        rescore(path)


def test_spoken_translations_are_compared_without_capitals_and_punctuation():
    row = {
        "answers": ["Der Hund schläft im Garten."],
        "text": "Der Hund schläft im Garten.",
        "speaks": True,
        "audio": "",
        "said": "der hund schläft im garten",
        "unjudged": None,
        "judge_error": None,
        "error": None,
        "unknown_words": 0,
        "as_heard": {"reply": "der hund schläft im garten", "answers": ["der hund schläft im garten"]},
    }
    wrong = row | {"said": "der hund schläft im haus"}
    assert score_translation([row] * 3)["asr_bleu"] == pytest.approx(100)
    assert score_translation([row] * 3)["text_bleu"] == pytest.approx(100)
    assert 50 < score_translation([row, row, wrong])["asr_bleu"] < 100
