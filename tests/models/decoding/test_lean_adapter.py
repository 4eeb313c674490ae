"""A LoRA that some rows of a step have: those equal the model of peft, the others the model without it."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import LlamaConfig, LlamaForCausalLM

from echox.models.decoding.lean_adapter import CONFIG_FILE, WEIGHTS_FILE, LeanAdapter
from echox.models.decoding.lean_llama import LeanSteps, LeanWeights
from echox.models.decoding.row_cache import DecoderRows
from echox.models.decoding.static_llama import StaticSteps, static_step
from echox.models.quantization.int4_linear import Int4Linear
from tolerance import assert_equal_up_to_rounding

peft = pytest.importorskip("peft")
WIDTH = 64


def llama(layers: int = 2) -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=20,
        hidden_size=WIDTH,
        intermediate_size=96,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        pad_token_id=None,
        bos_token_id=None,
        eos_token_id=None,
    )
    return LlamaForCausalLM(config).eval()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """What peft writes of a LoRA with weights that matter."""
    config = peft.LoraConfig(r=4, lora_alpha=12, target_modules="all-linear", task_type="CAUSAL_LM")
    model = peft.get_peft_model(llama(), config)
    for name, value in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(value, std=0.3)
    folder = tmp_path_factory.mktemp("adapter")
    model.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("kind", [LeanSteps, lambda weights: StaticSteps(weights, rows=3)])
@torch.inference_mode()
def test_each_row_equals_its_model(folder, kind):
    model, adapter = llama(), LeanAdapter.load(folder)
    adapter.check(model)
    steps = kind(LeanWeights(model.model, {"one": adapter}))
    inputs = torch.randn(3, 6, WIDTH)
    plain = model.model(inputs_embeds=inputs, use_cache=False).last_hidden_state
    adapted_model = peft.PeftModel.from_pretrained(llama(), folder).base_model.model.model
    adapted = adapted_model(inputs_embeds=inputs, use_cache=False).last_hidden_state
    assert (plain - adapted).abs().max() > 0.1
    want = [plain[0], adapted[1], plain[2]]

    assert [steps.join(), steps.join(adapter="one"), steps.join()] == [0, 1, 2]
    found = steps.advance(inputs[:, :4])
    for row in range(3):
        assert_equal_up_to_rounding(found[row], want[row][:4])
    saved = steps.save(1)
    assert steps.leave(0) == 2  # row 2 is row 0 now
    found = steps.advance(torch.stack([inputs[2, 4:5], inputs[1, 4:5]]))
    assert_equal_up_to_rounding(found[0], want[2][4:5])
    assert_equal_up_to_rounding(found[1], want[1][4:5])
    assert steps.leave(1) == 1
    assert steps.join(saved, adapter="one") == 1  # the next turn
    found = steps.advance(inputs[1:2, 4:5], first_row=1)
    assert_equal_up_to_rounding(found[0], want[1][4:5])


@torch.inference_mode()
def test_rows_without_it_are_not_touched_by_a_single_bit(folder):
    model, inputs = llama(), torch.randn(3, 5, WIDTH)
    alone = LeanSteps(LeanWeights(model.model), 3).advance(inputs)
    beside = LeanSteps(LeanWeights(model.model, {"one": LeanAdapter.load(folder)}), 2)
    beside.join(adapter="one")
    mixed = beside.advance(inputs)
    assert torch.equal(mixed[:2], alone[:2])
    assert (mixed[2] - alone[2]).abs().max() > 0.1


def other_adapter(adapter: LeanAdapter) -> LeanAdapter:
    """Another one of the same model."""
    random = torch.Generator().manual_seed(1)
    weights = {name: torch.randn(tuple(shape), generator=random) * 0.3 for name, shape in adapter.shapes.items()}
    return LeanAdapter.of(weights, 1.0)


@pytest.mark.parametrize("kind", [LeanSteps, lambda weights: StaticSteps(weights, rows=4)])
@torch.inference_mode()
def test_rows_with_several_adapters_are_what_each_is_alone(folder, kind):
    one = LeanAdapter.load(folder)
    weights = LeanWeights(llama().model, {"one": one, "two": other_adapter(one)})
    names, inputs = ["two", None, "one", "two"], torch.randn(4, 5, WIDTH)
    together = kind(weights)
    for name in names:
        together.join(adapter=name)
    prompt, step = together.advance(inputs[:, :4]), together.advance(inputs[:, 4:])
    for row, name in enumerate(names):
        alone = LeanSteps(weights)
        alone.join(adapter=name)
        assert_equal_up_to_rounding(prompt[row], alone.advance(inputs[row : row + 1, :4])[0])
        assert_equal_up_to_rounding(step[row], alone.advance(inputs[row : row + 1, 4:])[0])
    assert (prompt[0] - prompt[2]).abs().max() > 0.1
    with pytest.raises(ValueError, match="expected one of \\['one', 'two'\\] or None, found 'three'"):
        LeanSteps(weights).join(adapter="three")


@torch.inference_mode()
def test_what_overflows_in_one_row_stays_there(folder):
    adapter = LeanAdapter.load(folder)
    shapes = adapter.shapes
    huge = {name: torch.full(tuple(shape), 3e38) for name, shape in shapes.items()}
    steps = LeanSteps(LeanWeights(llama().model, {"one": LeanAdapter.of(huge, 1.0)}))
    assert [steps.join(), steps.join(adapter="one")] == [0, 1]
    found = steps.advance(torch.randn(2, 3, WIDTH))
    assert found[0].isfinite().all()
    assert not found[1].isfinite().all()


@torch.inference_mode()
def test_a_compiled_step_has_it(folder):
    """Nothing is read or decided inside the graph."""
    weights = LeanWeights(llama().model, {"one": LeanAdapter.load(folder)})
    compiled = torch.compile(static_step(weights), backend="eager", fullgraph=True)
    static, lean = StaticSteps(weights, rows=2, step=compiled), LeanSteps(weights)
    inputs = torch.randn(2, 4, WIDTH)
    for steps in (static, lean):
        steps.join()
        steps.join(adapter="one")
    for place in range(4):
        one = inputs[:, place : place + 1]
        assert_equal_up_to_rounding(static.advance(one), lean.advance(one))


@torch.inference_mode()
def test_it_stands_beside_weights_of_four_bits(folder):
    model = llama()
    for layer in model.model.layers:
        for parent in (layer.self_attn, layer.mlp):
            for name, linear in list(parent.named_children()):
                if isinstance(linear, torch.nn.Linear):
                    setattr(parent, name, Int4Linear.of(linear))
    adapter = LeanAdapter.load(folder)
    adapter.check(model)
    floats = llama()
    with torch.no_grad():
        for name, linear in model.model.named_modules():
            if isinstance(linear, Int4Linear):
                floats.model.get_submodule(name).weight.copy_(linear.weight)
    inputs = torch.randn(2, 8, WIDTH)
    found, want = [], []
    for memory, out in ((model, found), (floats, want)):
        steps = LeanSteps(LeanWeights(memory.model, {"one": adapter}))
        steps.join(adapter="one")
        steps.join()
        out.append(steps.advance(inputs))
    assert torch.nn.functional.cosine_similarity(found[0], want[0], dim=-1).min() > 0.995  # bfloat16 inside


def test_what_we_write_is_read_by_peft(folder, tmp_path):
    adapter = LeanAdapter.load(folder)
    save_file(adapter.tensors(), tmp_path / WEIGHTS_FILE)
    (tmp_path / CONFIG_FILE).write_text(json.dumps(adapter.config()))
    inputs = torch.randn(1, 5, WIDTH)
    with torch.inference_mode():
        found, want = (
            peft.PeftModel.from_pretrained(llama(), place)(inputs_embeds=inputs).logits for place in (tmp_path, folder)
        )
    assert (found - want).abs().max() < 5e-3  # half precision
    assert (want - llama()(inputs_embeds=inputs).logits).abs().max() > 0.05


def damaged(folder, change):
    config, weights = json.loads((folder / CONFIG_FILE).read_text()), load_file(folder / WEIGHTS_FILE)
    change(config, weights)
    (folder / CONFIG_FILE).write_text(json.dumps(config))
    save_file({name: value.contiguous() for name, value in weights.items()}, folder / WEIGHTS_FILE)


FIRST = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda config, weights: config.update(peft_type="LOHA"), "expected a plain LoRA"),
        (lambda config, weights: config.update(use_rslora=True), "expected a plain LoRA"),
        (lambda config, weights: config.update(r="four"), "expected a plain LoRA"),
        (lambda config, weights: config.update(alpha_pattern={"q_proj": 3}), "expected a plain LoRA"),
        (lambda config, weights: weights.update({FIRST: torch.tensor(1.0)}), "expected a matrix of rank"),
        (lambda config, weights: weights.pop(FIRST), "all linear layers"),
        (lambda config, weights: weights.update({FIRST: weights[FIRST][:2]}), "rank 2"),
        (lambda config, weights: weights.update({"extra": torch.zeros(1)}), "found others: .'extra'"),
    ],
)
def test_other_folders_are_refused(folder, tmp_path, change, said):
    place = shutil.copytree(folder, tmp_path / "adapter")
    damaged(place, change)
    with pytest.raises(ValueError, match=said):
        LeanAdapter.load(place)


def test_a_missing_or_cut_file_is_refused(folder, tmp_path):
    with pytest.raises(ValueError, match=CONFIG_FILE):
        LeanAdapter.load(tmp_path)
    place = shutil.copytree(folder, tmp_path / "adapter")
    (place / WEIGHTS_FILE).write_bytes((place / WEIGHTS_FILE).read_bytes()[:-40])
    with pytest.raises(ValueError, match=WEIGHTS_FILE):
        LeanAdapter.load(place)


def test_a_folder_that_changes_after_loading_is_an_error(folder, tmp_path):
    place = shutil.copytree(folder, tmp_path / "adapter")
    adapter = LeanAdapter.load(place)
    (place / WEIGHTS_FILE).unlink()
    with pytest.raises(ValueError, match=WEIGHTS_FILE):
        LeanWeights(llama().model, {"one": adapter}).read_adapter("one")
    shutil.copy(folder / WEIGHTS_FILE, place)
    damaged(place, lambda config, weights: weights.pop(FIRST))
    with pytest.raises(ValueError, match="found another"):
        LeanWeights(llama().model, {"one": adapter}).read_adapter("one")


def test_weights_that_are_not_finite_are_refused_when_they_are_read(folder, tmp_path):
    place = shutil.copytree(folder, tmp_path / "adapter")
    damaged(place, lambda config, weights: weights.update({FIRST: weights[FIRST] * torch.nan}))
    steps = LeanSteps(LeanWeights(llama().model, {"one": LeanAdapter.load(place)}))
    steps.join(adapter="one")
    with pytest.raises(ValueError, match="finite"):
        steps.advance(torch.zeros(1, 1, WIDTH))


def test_one_of_another_language_model_is_refused(folder):
    adapter = LeanAdapter.load(folder)
    with pytest.raises(ValueError, match="3 layers, found 2"):
        adapter.check(llama(layers=3))
    config = llama().config
    config.hidden_size, config.head_dim = 32, 8
    with pytest.raises(ValueError, match="expected 32 inputs and 32 outputs, found 64 and 64"):
        adapter.check(LlamaForCausalLM(config))
    config = llama().config
    config.num_key_value_heads = 4
    with pytest.raises(ValueError, match="k_proj: expected 64 inputs and 64 outputs, found 64 and 32"):
        adapter.check(LlamaForCausalLM(config))


def test_decoders_of_other_kinds_have_no_adapted_rows():
    with pytest.raises(ValueError, match="only rows of LeanSteps"):
        DecoderRows(llama().model).join(adapter="one")
