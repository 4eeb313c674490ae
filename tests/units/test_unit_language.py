"""Unit languages: learning, segmentation, reading units back, files."""

import itertools
import json
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from echox.config import load_recipe
from echox.models.unit_language.tokenization_auto import AutoUnitLanguage
from echox.models.unit_language.tokenization_unit_language import UNIT_LANGUAGE_FILE, UnitLanguage, parse_word, spell
from echox.units.language import compression, count_candidates, learn_unit_language, split_by_word

NUM_UNITS = 6
units_of_any_kind = st.lists(st.integers(0, NUM_UNITS - 1), max_size=30)


@st.composite
def languages(draw):
    longer = draw(
        st.lists(st.lists(st.integers(0, NUM_UNITS - 1), min_size=2, max_size=4).map(tuple), unique=True, max_size=12)
    )
    words = draw(st.permutations([(unit,) for unit in range(NUM_UNITS)] + longer))
    log_probs = draw(st.lists(st.floats(-9, -0.1), min_size=len(words), max_size=len(words)))
    return UnitLanguage(words, log_probs)


def segmentations(language, units):
    """All ways to write the units, by brute force."""
    index = {word: word_id for word_id, word in enumerate(language.words)}
    for cuts in itertools.product([False, True], repeat=max(len(units) - 1, 0)):
        borders = [0, *(i + 1 for i, cut in enumerate(cuts) if cut), len(units)]
        parts = [tuple(units[a:b]) for a, b in itertools.pairwise(borders)] if units else []
        if all(part in index for part in parts):
            yield [index[part] for part in parts]


@given(languages(), units_of_any_kind)
def test_decoding_inverts_encoding(language, units):
    assert language.decode(language.encode(units)) == units
    assert language.encode(units) == language.encode(units)


@settings(max_examples=40)
@given(languages(), st.lists(st.integers(0, NUM_UNITS - 1), max_size=7))
def test_no_segmentation_is_more_probable_than_the_chosen_one(language, units):
    best = max(language.score(words) for words in segmentations(language, units))
    assert language.score(language.encode(units)) == pytest.approx(best)


@given(languages(), units_of_any_kind, st.data())
def test_no_unit_word_crosses_a_text_word(language, units, data):
    steps = data.draw(st.lists(st.integers(0, 2), min_size=len(units), max_size=len(units)))
    word_of_unit = list(itertools.accumulate(steps))
    unit_words, unit_word_of = language.encode_words(units, word_of_unit)
    assert len(unit_words) == len(unit_word_of)
    assert language.decode(unit_words) == units
    spread = [word for unit_word, word in zip(unit_words, unit_word_of) for _ in language.words[unit_word]]
    assert spread == word_of_unit
    assert unit_words == [w for part in split_by_word(units, word_of_unit) for w in language.encode(part)]


@given(languages(), units_of_any_kind)
def test_a_saved_language_is_the_same_language(tmp_path_factory, language, units):
    folder = tmp_path_factory.mktemp("language")
    language.save_pretrained(folder)
    again = AutoUnitLanguage.from_pretrained(folder)
    assert (again.words, again.log_probs, again.num_units) == (language.words, language.log_probs, language.num_units)
    assert again.encode(units) == language.encode(units)


def test_words_are_spelled_as_officially():
    assert spell((837, 81, 194)) == "837_81_194"
    assert parse_word("837_81_194") == (837, 81, 194)
    with pytest.raises(ValueError, match="837_81_194"):
        parse_word("837-81")


def test_bad_languages_and_inputs_are_refused_in_one_line(tmp_path):
    with pytest.raises(ValueError, match=r"found none for unit 0; add \(0,\)"):
        UnitLanguage([(1,)], [0.0])
    with pytest.raises(ValueError, match="each word once"):
        UnitLanguage([(0,), (0,)], [0.0, 0.0])
    with pytest.raises(ValueError, match="one log probability per word"):
        UnitLanguage([(0,)], [])
    with pytest.raises(ValueError, match="finite"):
        UnitLanguage([(0,)], [math.inf])
    language = UnitLanguage([(0,), (1,)], [-1.0, -1.0])
    with pytest.raises(ValueError, match="found 2 at position 1"):
        language.encode([0, 2])
    with pytest.raises(ValueError, match="unit word ids from 0 to 1, found 5"):
        language.decode([5])
    with pytest.raises(ValueError, match="ascending order"):
        language.encode_words([0, 1], [1, 0])
    (tmp_path / UNIT_LANGUAGE_FILE).write_text(json.dumps({"format": "other"}))
    with pytest.raises(ValueError, match="expected format"):
        AutoUnitLanguage.from_pretrained(tmp_path)


def test_frequent_sequences_become_words_and_shorten_the_text():
    segments = [(0, 1, 2), (3, 4), (0, 1, 2, 3, 4), (5,)] * 20 + [(5, 0), (2, 5)]
    language = learn_unit_language(segments, NUM_UNITS, vocabulary_size=8)
    assert language.words[:NUM_UNITS] == [(unit,) for unit in range(NUM_UNITS)]
    assert set(language.words[NUM_UNITS:]) == {(0, 1, 2), (3, 4)}
    assert [language.words[w] for w in language.encode([0, 1, 2, 3, 4])] == [(0, 1, 2), (3, 4)]
    assert compression(language, segments)["units_per_word"] > 2
    assert sum(math.exp(value) for value in language.log_probs) == pytest.approx(1)


@settings(max_examples=25, deadline=None)
@given(st.lists(units_of_any_kind.filter(bool), min_size=1, max_size=20), st.integers(0, 12))
def test_learning_keeps_its_promises_on_any_data(segments, extra):
    language = learn_unit_language(segments, NUM_UNITS, NUM_UNITS + extra, max_units_per_word=4, min_count=2)
    again = learn_unit_language(segments, NUM_UNITS, NUM_UNITS + extra, max_units_per_word=4, min_count=2)
    assert (language.words, language.log_probs) == (again.words, again.log_probs)
    assert NUM_UNITS <= len(language) <= NUM_UNITS + extra
    assert language.max_units_per_word <= 4
    assert all(language.decode(language.encode(segment)) == segment for segment in segments)


@given(st.lists(units_of_any_kind.map(tuple), max_size=10), st.integers(1, 3))
def test_candidates_are_exactly_the_frequent_ngrams(segments, min_count):
    from collections import Counter

    expected = Counter(s[i : i + n] for s in segments for n in (2, 3) for i in range(len(s) - n + 1))
    found = count_candidates(Counter(segments), 3, min_count)
    assert found == {gram: times for gram, times in expected.items() if times >= min_count}


def test_learning_refuses_what_cannot_be():
    with pytest.raises(ValueError, match="at least the 6 single units"):
        learn_unit_language([(0,)], NUM_UNITS, vocabulary_size=5)
    with pytest.raises(ValueError, match="found none; extract"):
        learn_unit_language([], NUM_UNITS)
    with pytest.raises(ValueError, match="from 0 to 5, found up to 6"):
        learn_unit_language([(6,)], NUM_UNITS)


def test_the_stage_writes_a_language_and_its_figures(tmp_path):
    import torch
    from safetensors.torch import save_file

    from echox.data.manifest import UnitUtterance, write_unit_utterances

    rows = [
        UnitUtterance(f"{i}", "one two", (0, 1, 2, 3), (2, 1, 3, 1), (0, 0, 1, 1), "train" if i else "heldout")
        for i in range(9)
    ]
    write_unit_utterances(tmp_path / "units" / "replies.jsonl", rows)
    save_file({"centroids": torch.zeros(NUM_UNITS, 2)}, tmp_path / "units" / "centroids.safetensors")
    overrides = [
        f"data.units={tmp_path}/units/replies.jsonl",
        f"data.extractor={tmp_path}/units",
        f"output_dir={tmp_path}/language",
        "model.vocabulary_size=8",
    ]
    metrics = load_recipe("recipes/nano/unit_language.yaml", overrides).run()
    assert metrics["train_units_per_word"] == metrics["heldout_units_per_word"] == 2
    assert (2, 3) in AutoUnitLanguage.from_pretrained(tmp_path / "language").words
