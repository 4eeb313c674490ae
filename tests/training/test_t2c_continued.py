"""A finished decoder that stage "t2c" trains further: of a T2C and of a whole model, and what does not fit."""

import pytest
import torch

from echox.api.loading import best_embedded, embedded_folder
from echox.config import TrainingConfig
from echox.models.unit_language.tokenization_auto import AutoUnitLanguage
from echox.models.unit_language.tokenization_unit_language import UnitLanguage
from echox.training.stages.dialogue.continued import load_text_embedding, load_unit_decoder
from echox.training.stages.speaking.t2c import T2CData, T2CModel, T2CRecipe
from tiny_echox import tiny_echox
from tiny_speaker import write_world


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return write_world(tmp_path_factory.mktemp("world"))


def build(world, start_from=None, seed=0, **model):
    model = {"hidden_size": 32, "num_hidden_layers": 1, "intermediate_size": 48, **model}
    return T2CRecipe(
        "t2c",
        T2CData(str(world / "units.jsonl"), str(world / "unit_language"), str(world / "lm")),
        T2CModel(None if start_from is None else str(start_from), **model),
        TrainingConfig(str(world / "t2c"), steps=1, batch_size=4, learning_rates={"decoder": 1e-3}, seed=seed),
    ).build()


@pytest.fixture(scope="module")
def finished(world, tmp_path_factory):
    folder = tmp_path_factory.mktemp("t2c")
    stage = build(world)
    stage.save(folder)
    return folder, stage.model


def assert_same_decoder(decoder, other):
    other = other.state_dict()
    assert all(torch.equal(weight, other[name]) for name, weight in decoder.state_dict().items())


def test_a_t2c_is_continued_and_may_be_trained_with_other_noise(world, finished):
    folder, before = finished
    stage = build(world, folder, seed=1, dropout=0.3, unit_noise=0.2)
    assert_same_decoder(stage.model.decoder, before.decoder)
    assert torch.equal(stage.model.text_embedding.weight, before.text_embedding.weight)
    assert stage.model.config.dropout == 0.3


def test_the_echo_decoder_of_a_whole_model_is_continued(tmp_path):
    whole = tiny_echox()
    whole.save_pretrained(tmp_path)
    assert_same_decoder(load_unit_decoder(tmp_path, whole.processor.unit_language), whole.model.echo_decoder)


def test_text_embeddings_are_those_of_a_language_model_or_of_a_model_that_has_one(tmp_path):
    whole = tiny_echox()
    whole.save_pretrained(tmp_path)
    expected = whole.model.s2t.get_input_embeddings().weight
    assert torch.equal(load_text_embedding(tmp_path), expected)
    whole.model.s2t.save_pretrained(tmp_path / "s2t")
    assert torch.equal(load_text_embedding(tmp_path / "s2t"), expected)
    whole.model.s2t.language_model.save_pretrained(tmp_path / "lm")
    assert torch.equal(load_text_embedding(tmp_path / "lm"), expected)


def test_so_is_that_of_a_model_over_published_parts():
    folder = embedded_folder("mini")
    if best_embedded() != "mini":
        pytest.skip("the packages that mini stands on are not installed")
    language = AutoUnitLanguage.from_pretrained(folder)
    assert load_unit_decoder(folder, language).config.num_unit_words == len(language)


def test_other_sizes_are_refused(world, finished):
    with pytest.raises(ValueError, match=r"expected the recipe's hidden_size 64, num_hidden_layers 2, found 32, 1"):
        build(world, finished[0], hidden_size=64, num_hidden_layers=2)


def test_another_unit_language_is_refused(world, finished, tmp_path):
    stage = build(world)
    words = stage.language.words[:-1]
    stage.language = UnitLanguage(words, [-1.0] * len(words))
    stage.save(tmp_path)
    with pytest.raises(ValueError, match=r"expected a decoder of the recipe's unit language"):
        build(world, tmp_path)
