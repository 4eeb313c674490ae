"""The acoustic-semantic gap: words are found at their places, and known similarities give known gaps."""

import pytest
import torch

from echox.data.manifest import Dialogue, Turn
from echox.evaluation.studies.gap import Word, collect_words, draw_gap, gap, read_pairs, similarities
from echox.training.stages.dialogue.dialogues import SpokenDialogue
from tiny_echox import tiny_echox

PAIRS = {"meaning": [("Paris", "France")], "sound": [("dog", "cat")]}


def test_pairs_of_the_package():
    pairs = read_pairs()
    assert all(len(pairs[kind]) >= 20 for kind in ("meaning", "sound"))
    assert not {frozenset(pair) for pair in pairs["meaning"]} & {frozenset(pair) for pair in pairs["sound"]}


def test_other_pairs_are_refused(tmp_path):
    path = tmp_path / "pairs.yaml"
    path.write_text("meaning: [[a, b, c]]\nsound: []\n", encoding="utf-8")
    with pytest.raises(ValueError, match="each pair two words"):
        read_pairs(path)


def test_words_are_met_where_they_are(tmp_path):
    echox = tiny_echox()
    echox.model.eval()
    echox.model.echo_decoder.config.max_unit_words_per_word = 6  # random weights know no end
    replies = ["The capital of France is Paris.", "A dog barks. A cat meows.", "A cow moos."]
    items = [
        SpokenDialogue(
            Dialogue(f"d{number}", (Turn("user", text="What?"), Turn("assistant", text=reply)), split="train"), None, {}
        )
        for number, reply in enumerate(replies)
    ]
    tokenizer, language = echox.engine.tokenizer, echox.engine.unit_language
    words = collect_words(echox.model, tokenizer, language, items, ["Paris", "France", "dog", "cat", "sea"])
    assert set(words) == {"paris", "france", "dog", "cat"}
    assert set(words["cat"].vectors) == {"text", "hidden", "echo adapter", "echo decoder"}
    assert len(words["cat"].units) == 1
    assert words["paris"].units[0]
    alone = [collect_words(echox.model, tokenizer, language, [item], ["cat"]) for item in items]
    assert [bool(found) for found in alone] == [False, True, False]
    for space, vectors in alone[1]["cat"].vectors.items():
        assert torch.allclose(vectors[0], words["cat"].vectors[space][0], atol=1e-4), space
    found = similarities(words, PAIRS)
    assert all(-1 <= value <= 1 for kinds in found.values() for values in kinds.values() for value in values)
    draw_gap({"tiny": found}, tmp_path / "gap.png")
    assert (tmp_path / "gap.png").stat().st_size > 1000


def test_the_gap_is_negative_where_meaning_orders_the_space():
    def word(vector, units):
        return Word({"hidden": [torch.tensor(vector)]}, [units])

    words = {
        "paris": word([1.0, 0.0], [1, 2, 3]),
        "france": word([1.0, 0.1], [4, 5, 6]),
        "dog": word([0.0, 1.0], [7, 8]),
        "cat": word([-1.0, -1.0], [7, 8]),
    }
    found = similarities(words, PAIRS)
    assert found["units"] == {"meaning": [0.0], "sound": [1.0]}
    numbers = gap(found)
    assert numbers["hidden"] < 0 < numbers["units"]
    with pytest.raises(ValueError, match="alike in sound"):
        gap(similarities(words, {"meaning": PAIRS["meaning"], "sound": [("dog", "wolf")]}))
