"""Unit decoders: both forms, teacher forcing against steps, batches against single rows, saving, registration."""

import json
import random

import pytest
import torch
from torch import nn
from transformers import AutoConfig, AutoModel, LlamaConfig, LlamaModel

from echox.config import TrainingConfig, load_recipe
from echox.data.manifest import UnitUtterance
from echox.models.decoding import lean_llama
from echox.models.decoding.lean_llama import LeanSteps
from echox.models.decoding.sampling import choose
from echox.models.t2c.configuration_t2c import UnitDecoderConfig
from echox.models.t2c.modeling_letters import letters_of
from echox.models.t2c.modeling_t2c import T2CForUnitGeneration, build_unit_decoder
from echox.models.t2c.modeling_unit_decoder import IGNORED
from echox.models.t2c.text_words import TextWords
from echox.models.unit_language.tokenization_auto import AutoUnitLanguage
from echox.training.control.health import check_trainable
from echox.training.stage import Stage
from echox.training.stages.speaking.t2c import T2CData, T2CModel, T2CRecipe, spoken_text
from tiny_decoder import tiny_decoder
from tiny_speaker import write_world
from tiny_tokenizers import JAPANESE
from tolerance import assert_equal_up_to_rounding

FORMS = ("word_synchronous", "prefix")


def tiny(form: str, **values) -> UnitDecoderConfig:
    sizes = {"num_key_value_heads": 2, "max_unit_words": 60, "max_unit_words_per_word": 9, "num_prefix_vectors": 2}
    return tiny_decoder(form, **(sizes | values))


@pytest.fixture(params=FORMS)
def decoder(request):
    torch.manual_seed(0)
    return build_unit_decoder(tiny(request.param)).eval()


def ragged_batch():
    """Three rows of 7, 3 and 5 states; the words' ids do not start at 0 and skip one."""
    torch.manual_seed(1)
    states = torch.randn(3, 7, 24)
    word_ids = torch.tensor([[4, 4, 5, 7, 7, 7, -1], [0, 1, 1, -1, -1, -1, -1], [-1, 2, 3, 3, 4, -1, -1]])
    return states, word_ids


def teach(decoder, states, word_ids, sequences):
    longest = max(len(sequence.unit_words) for sequence in sequences)
    words = torch.full((len(sequences), longest), IGNORED)
    word_of = torch.full((len(sequences), longest), -1)
    for row, sequence in enumerate(sequences):
        words[row, : len(sequence.unit_words)] = torch.tensor(sequence.unit_words)
        word_of[row, : len(sequence.unit_words)] = torch.tensor(sequence.word_of)
    return decoder(states, word_ids, words, word_of)


@pytest.mark.parametrize("fused_weights", [0, 10**9])
def test_steps_equal_the_llama(monkeypatch, fused_weights):
    """Rows of different lengths that join, park, are wound back and leave, each as the model alone computes it."""
    monkeypatch.setattr(lean_llama, "FUSED_LAYER_WEIGHTS", fused_weights)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=4,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        pad_token_id=None,
        bos_token_id=None,
        eos_token_id=None,
    )
    llama = LlamaModel(config).eval()
    inputs = torch.randn(3, 12, 32)
    with torch.no_grad():
        want = llama(inputs_embeds=inputs).last_hidden_state
        steps = LeanSteps(llama, rows=2, capacity=6)  # grows
        first = steps.advance(inputs[:2, :5], counts=[5, 2])
        close = assert_equal_up_to_rounding
        close(first[0], want[0, :5])
        close(first[1, :2], want[1, :2])
        assert steps.join() == 2
        close(steps.advance(inputs[2:, :3], first_row=2)[0], want[2, :3])
        second = steps.advance(torch.stack([inputs[0, 5:7], inputs[1, 2:4], inputs[2, 3:5]]), counts=[1, 2, 0])
        close(second[0, :1], want[0, 5:6])
        close(second[1], want[1, 2:4])
        steps.truncate(0, 4)
        assert steps.lengths == [4, 4, 3]
        close(steps.advance(inputs[:1, 4:8])[0], want[0, 4:8])
        assert steps.leave(0) == 2  # row 2 is row 0 now
        third = steps.advance(torch.stack([inputs[2, 3:5], inputs[1, 4:6]]))
        close(third[0], want[2, 3:5])
        close(third[1], want[1, 4:6])


def test_teacher_forced_equals_step_by_step(decoder):
    """What greedy decoding said is the arg max of the teacher-forced logits at every step, ends included."""
    states, word_ids = ragged_batch()
    sequences = decoder.generate(states, word_ids, max_unit_words=40)
    output = teach(decoder, states, word_ids, sequences)
    end = decoder.end_id
    for row, sequence in enumerate(sequences):
        logits, targets = output.logits[row].clone(), output.targets[row]
        if decoder.config.form == "word_synchronous":
            assert sequence.finished
            in_word = 0
            for step, target in enumerate(targets.tolist()):
                if target == IGNORED:
                    break
                if in_word == 0:
                    logits[step, end] = -torch.inf  # force_sound
                if in_word < decoder.config.max_unit_words_per_word:  # otherwise the end was forced
                    assert int(logits[step].argmax()) == target
                in_word = 0 if target == end else in_word + 1
        else:
            count = len(sequence.unit_words) + int(sequence.finished)
            assert logits[:count].argmax(-1).tolist() == targets[:count].tolist()


def test_batch_equals_single(decoder):
    states, word_ids = ragged_batch()
    together = decoder.generate(states, word_ids)
    for row in range(3):
        length = 7 - int((word_ids[row].flip(0) >= 0).int().argmax())
        assert decoder.generate(states[row : row + 1, :length], word_ids[row : row + 1, :length]) == [together[row]]
        single = teach(decoder, states[row : row + 1, :length], word_ids[row : row + 1, :length], [together[row]])
        batch = teach(decoder, states, word_ids, together)
        real = int((single.targets[0] != IGNORED).sum())
        torch.testing.assert_close(single.logits[0, :real], batch.logits[row, :real], atol=1e-4, rtol=1e-3)


def test_words_in_order_and_every_word_sounds():
    torch.manual_seed(0)
    decoder = build_unit_decoder(tiny("word_synchronous")).eval()
    states, word_ids = ragged_batch()
    for sequence, ids in zip(decoder.generate(states, word_ids), word_ids.tolist(), strict=True):
        assert sequence.word_of == sorted(sequence.word_of)
        assert set(sequence.word_of) == {word for word in ids if word >= 0}
        assert max(sequence.word_of.count(word) for word in set(sequence.word_of)) <= 9


def test_layout_puts_an_end_after_every_word():
    decoder = build_unit_decoder(tiny("word_synchronous"))
    words = TextWords.of(torch.tensor([[2, 2, 5, -1], [0, 1, 2, 3]]))
    steps = decoder.layout(
        words, torch.tensor([[7, 8, 9], [3, IGNORED, IGNORED]]), torch.tensor([[2, 2, 5], [1, -1, -1]])
    )
    assert steps.targets.tolist() == [[7, 8, 20, 9, 20], [20, 3, 20, 20, 20]]
    assert steps.word_of_step.tolist() == [[0, 0, 0, 1, 1], [0, 1, 1, 2, 3]]
    assert steps.in_word.tolist() == [[0, 1, 2, 0, 1], [0, 0, 1, 0, 0]]
    assert steps.first_steps[0, :2].tolist() == [0, 3]


def test_a_word_hears_only_its_neighbours():
    """Look-ahead is one word: the vector of the third word changes nothing of the first."""
    torch.manual_seed(0)
    decoder = build_unit_decoder(tiny("word_synchronous")).eval()
    states, word_ids = torch.randn(1, 3, 24), torch.tensor([[0, 1, 2]])
    changed = states.clone()
    changed[0, 2] += 1.0
    words = TextWords.of(word_ids)
    before, after = (decoder.conditions(decoder.word_vectors(value, words)) for value in (states, changed))
    assert_equal_up_to_rounding(before[:, 0], after[:, 0])
    assert not torch.allclose(before[:, 1], after[:, 1])


def test_nothing_to_say():
    states = torch.randn(2, 3, 24)
    word_ids = torch.tensor([[-1, -1, -1], [0, 0, 1]])
    decoder = build_unit_decoder(tiny("word_synchronous")).eval()
    silent, spoken = decoder.generate(states, word_ids)
    assert (silent.unit_words, silent.finished) == ([], True)
    assert spoken.unit_words
    assert decoder.generate(states[:1], word_ids[:1])[0].finished


def test_no_rows(decoder):
    """A batch in which nothing is to be said: no speech, and a loss of 0 that still has a gradient."""
    states, word_ids = torch.randn(0, 1, 24), torch.zeros(0, 1, dtype=torch.long)
    assert decoder.generate(states, word_ids) == []
    output = decoder(states, word_ids, word_ids, word_ids)
    assert output.loss.detach() == 0
    output.loss.backward()


def test_a_row_beyond_the_limit_is_never_finished_whatever_stands_beside_it():
    decoder = build_unit_decoder(tiny("word_synchronous"))
    end = decoder.end_id
    words = TextWords.of(torch.tensor([[0, 1, -1], [0, 1, 2]]))
    outputs = [(3, 4), (5, end), (6, end), (end, end), (end, end)]  # the first row says three, the second one
    said = [(torch.tensor([0, 1]), torch.tensor(pair)) for pair in outputs[:-1]]
    said.append((torch.tensor([0]), torch.tensor([end])))
    first, second = decoder._collect(said, words, limit=2)
    assert first.unit_words == [3, 5]
    assert not first.finished
    assert second.unit_words == [4]
    assert second.finished


def test_limit_is_reported(decoder):
    states, word_ids = ragged_batch()
    for sequence in decoder.generate(states, word_ids, max_unit_words=2):
        assert len(sequence.unit_words) <= 2
        assert len(sequence.word_of) == len(sequence.unit_words)
    assert not all(sequence.finished for sequence in decoder.generate(states, word_ids, max_unit_words=1))


def test_sampling_repeats_with_its_generator(decoder):
    states, word_ids = ragged_batch()
    said = [
        decoder.generate(states, word_ids, do_sample=True, top_p=0.9, generator=torch.Generator().manual_seed(3))
        for _ in range(2)
    ]
    assert said[0] == said[1]
    assert said[0] != decoder.generate(states, word_ids)


def test_top_p_keeps_the_nucleus():
    logits = torch.tensor([[0.5, 0.3, 0.2]]).log().expand(200, 3)
    drawn = choose(logits, True, 1.0, 0.6, torch.Generator().manual_seed(0))
    assert set(drawn.tolist()) == {0, 1}
    with pytest.raises(ValueError, match="temperature > 0"):
        choose(logits, True, 0.0, 1.0, None)


def test_noise_only_in_training_and_never_on_ends():
    decoder = build_unit_decoder(tiny("word_synchronous", unit_noise=1.0))
    given = torch.tensor([[1, 2, 20, 3]]).repeat(50, 1)
    assert torch.equal(decoder.eval()._noisy(given), given)
    noisy = decoder.train()._noisy(given)
    assert not torch.equal(noisy, given)
    assert (noisy[:, 2] == 20).all()
    assert (noisy[:, [0, 1, 3]] < 20).all()


@pytest.mark.parametrize("form", FORMS)
def test_learns_one_batch(form):
    torch.manual_seed(0)
    model = T2CForUnitGeneration(tiny(form))
    tokens = torch.tensor([[3, 4, 5, 6], [7, 8, 9, 0]])
    word_ids = torch.tensor([[0, 0, 1, 2], [0, 1, 1, -1]])
    units = torch.tensor([[1, 2, 3, 4, 5], [6, 7, 8, IGNORED, IGNORED]])
    word_of = torch.tensor([[0, 0, 1, 2, 2], [0, 1, 1, -1, -1]])
    optimizer = torch.optim.AdamW([value for value in model.parameters() if value.requires_grad], lr=1e-2)
    for _ in range(60):
        loss = model(tokens, word_ids, units, word_of).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert model.text_embedding.weight.grad is None
    assert loss < 0.05
    said = model.eval().generate(tokens, word_ids)
    assert [sequence.unit_words for sequence in said] == [[1, 2, 3, 4, 5], [6, 7, 8]]
    if form == "word_synchronous":
        assert [sequence.word_of for sequence in said] == [[0, 0, 1, 2, 2], [0, 1, 1]]


@pytest.mark.parametrize("form", FORMS)
def test_save_equals_load(form, tmp_path):
    torch.manual_seed(0)
    model = T2CForUnitGeneration(tiny(form)).eval()
    model.save_pretrained(tmp_path)
    assert AutoConfig.from_pretrained(tmp_path).form == form
    loaded = AutoModel.from_pretrained(tmp_path).eval()
    assert isinstance(loaded, T2CForUnitGeneration)
    for name, value in model.state_dict().items():
        torch.testing.assert_close(loaded.state_dict()[name], value)
    tokens, word_ids = torch.tensor([[3, 4, 5, 6]]), torch.tensor([[0, 0, 1, 2]])
    assert loaded.generate(tokens, word_ids) == model.generate(tokens, word_ids)


def test_state_scale_does_not_matter(decoder):
    states, word_ids = ragged_batch()
    assert decoder.generate(states, word_ids) == decoder.generate(states * 50, word_ids)


def test_boundaries_speak_plainly():
    decoder = build_unit_decoder(tiny("word_synchronous"))
    states = torch.randn(1, 3, 24)
    with pytest.raises(ValueError, match="ascending order"):
        decoder.generate(states, torch.tensor([[1, 0, 2]]))
    with pytest.raises(ValueError, match=r"expected states \(rows, states, 24\)"):
        decoder.generate(states[..., :20], torch.tensor([[0, 1, 2]]))
    with pytest.raises(ValueError, match="words that occur"):
        decoder(states, torch.tensor([[0, 1, 2]]), torch.tensor([[4]]), torch.tensor([[5]]))
    with pytest.raises(ValueError, match="form: expected one of"):
        UnitDecoderConfig(form="suffix")
    with pytest.raises(ValueError, match="text embedding: expected shape"):
        T2CForUnitGeneration(tiny("prefix")).copy_text_embedding(torch.zeros(2, 3))


def test_backbone_table_starts_at_its_own_size():
    torch.manual_seed(0)
    decoder = build_unit_decoder(tiny("word_synchronous", embedding_std=0.5, initializer_range=0.02))
    assert abs(float(decoder.backbone.embed_tokens.weight.detach().std()) - 0.5) < 0.1
    assert float(decoder.unit_head.weight.detach().std()) < 0.1
    assert isinstance(decoder.word_norm, nn.RMSNorm)


# ------------------------------------------------------------------------------------------------ the stage


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return write_world(tmp_path_factory.mktemp("world"))


def stage_recipe(world, letters: int = 0, **data) -> T2CRecipe:
    options = {"max_unit_words_per_word": 8, "max_word_letters": letters}
    return T2CRecipe(
        "t2c",
        T2CData(str(world / "units.jsonl"), str(world / "unit_language"), str(world / "lm"), **data),
        T2CModel(hidden_size=32, num_hidden_layers=1, intermediate_size=48, options=options),
        TrainingConfig(output_dir=str(world / "t2c"), steps=10, batch_size=4, learning_rates={"decoder": 5e-3}),
    )


@pytest.mark.parametrize("letters", [0, 12])
def test_stage_trains_the_decoder_only(world, letters):
    stage = stage_recipe(world, letters).build()
    assert isinstance(stage, Stage)
    check_trainable("t2c", stage.objective, stage.parameter_groups(), stage.recipe.training)
    items = stage.dataset()
    assert len(items) == len(stage.lengths()) == 5
    batch = stage.collate(list(items), random.Random(0))
    losses = stage.objective.train()(batch)
    losses["loss"].backward()
    assert all(value.grad is not None for value in stage.parameter_groups()["decoder"])
    assert stage.model.text_embedding.weight.grad is None
    with torch.inference_mode():
        metrics = stage.evaluate()
    assert set(metrics) == {"heldout_loss", "heldout_accuracy", "heldout_finished", "heldout_length_ratio"}
    assert metrics["heldout_finished"] == 1.0


def test_a_text_without_spaces_is_refused(world):
    stage = stage_recipe(world).build()
    with pytest.raises(ValueError, match="u: expected white space between the words"):
        spoken_text(UnitUtterance("u", JAPANESE, (1,), (5,), (0,)), stage.tokenizer, stage.language)


def test_stage_writes_units_and_loads_again(world, tmp_path):
    stage = stage_recipe(world).build()
    stage.sample(tmp_path / "samples")
    rows = [json.loads(line) for line in (tmp_path / "samples" / "units.jsonl").read_text().splitlines()]
    assert rows[0]["text"] == "A dog says woof."
    assert rows[0]["units"]
    stage.save(tmp_path / "model")
    assert isinstance(AutoModel.from_pretrained(tmp_path / "model"), T2CForUnitGeneration)
    assert len(AutoUnitLanguage.from_pretrained(tmp_path / "model")) == len(stage.language)


def test_cuts_keep_text_and_units_together(world):
    """Tokens, text words and unit words of any cut speak about the same words."""
    stage = stage_recipe(world, sentences=0.4, spans=0.6).build()
    rng = random.Random(0)
    seen = set()
    for item in list(stage.dataset()) * 20:
        cut = item.random_cut(stage.recipe.data, rng)
        words = {word for word in cut.word_ids if word >= 0}
        assert words == set(cut.unit_word_of)
        assert stage.tokenizer.decode(cut.token_ids).split() == cut.text.split()
        assert words == set(range(min(words), min(words) + cut.num_words))
        again = cut.random_cut(stage.recipe.data, rng)
        for part in (cut, again):
            assert part.letters(99) == [letters_of(word, 99) for word in part.text.split()]
        seen.add((item.id, cut.text))
    assert ("r4", "Green is a colour too.") in seen


@pytest.mark.parametrize("name", ["t2c", "t2c_prefix"])
def test_nano_recipes_load(name):
    recipe = load_recipe(f"recipes/nano/{name}.yaml")
    config = recipe.model.configuration(256, 1536, 1000)
    decoder = build_unit_decoder(config)
    size = sum(value.numel() for value in decoder.parameters())
    assert 2.5e6 < size < 3.1e6
