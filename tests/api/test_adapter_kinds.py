"""Adapters of every kind that peft writes, on models in every precision: nothing that was learned is lost unsaid."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch

from echox import EchoX
from echox.models.quantization.group_int4 import to_group_int4
from echox.models.quantization.low_bits import INT4
from tiny_echox import tiny_echox

peft = pytest.importorskip("peft")
IDS = torch.tensor([[5, 60, 70, 80, 90, 100]])
BELOW = {"r": 4, "target_modules": ["q_proj", "down_proj"], "init_lora_weights": False}
KINDS = {
    "lora": lambda: peft.LoraConfig(**BELOW),
    "bias": lambda: peft.LoraConfig(**BELOW, bias="all"),
    "ia3": lambda: peft.IA3Config(
        target_modules=["k_proj", "down_proj"], feedforward_modules=["down_proj"], init_ia3_weights=False
    ),
    "lora on the head": lambda: peft.LoraConfig(**BELOW | {"target_modules": ["q_proj", "lm_head"]}),
    "lora on embeddings": lambda: peft.LoraConfig(**BELOW | {"target_modules": ["q_proj", "embed_tokens"]}),
    "a whole head": lambda: peft.LoraConfig(**BELOW, modules_to_save=["lm_head"]),
    "whole embeddings": lambda: peft.LoraConfig(**BELOW, modules_to_save=["embed_tokens"]),
    "a whole norm": lambda: peft.LoraConfig(**BELOW, modules_to_save=["norm"]),
    "tokens": lambda: peft.LoraConfig(**BELOW, trainable_token_indices=[60, 70]),
}
TIED = [kind for kind in KINDS if "head" in kind or "embeddings" in kind]


def logits(model: EchoX) -> torch.Tensor:
    with torch.inference_mode():
        return model.model.s2t.language_model(IDS).logits


def tiny(tied: bool) -> EchoX:
    """A model whose matrices have values that 4 bits can hold; tied: its head is its embedding, as in SmolLM2."""
    model = tiny_echox(hidden_size=64)
    language_model = model.model.s2t.language_model
    for layer in language_model.model.layers.modules():
        if isinstance(layer, torch.nn.Linear):
            layer.weight.data = to_group_int4(layer.weight).floats()
    if tied:
        language_model.lm_head.weight = language_model.model.embed_tokens.weight
        config = model.model.config
        s2t = config.s2t_config
        for one in (config, s2t, s2t.text_config, language_model.config, model.model.s2t.config):
            one.tie_word_embeddings = True
    return model


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Makes the folder of a model and of an adapter, with scores without and with it; each once."""
    root, known = tmp_path_factory.mktemp("kinds"), {}

    def make(kind: str, tied: bool) -> tuple[Path, Path, torch.Tensor, torch.Tensor]:
        if (kind, tied) not in known:
            model, adapter = tiny(tied), root / f"{kind} {tied}"
            model.save_pretrained(root / str(tied))
            torch.manual_seed(0)
            tuned = peft.get_peft_model(copy.deepcopy(model.model.s2t.language_model), KINDS[kind]())
            with torch.no_grad():
                for value in tuned.parameters():
                    if value.requires_grad:
                        value.add_(0.1 * torch.randn_like(value))
            tuned.eval().save_pretrained(adapter, save_embedding_layers=False)
            with torch.inference_mode():
                known[kind, tied] = root / str(tied), adapter, logits(model), tuned(IDS).logits
        return known[kind, tied]

    return make


@pytest.mark.filterwarnings("ignore:Model has `tie_word_embeddings=True`")
@pytest.mark.parametrize(
    ("kind", "tied"), [*((kind, False) for kind in KINDS), *((kind, True) for kind in TIED)], ids=str
)
def test_an_adapter_in_floats_is_saved_apart_merged_and_loaded_again(kind, tied, made, tmp_path):
    folder, adapter, without, expected = made(kind, tied)
    change = (expected - without).norm()
    model = EchoX.from_pretrained(folder, device="cpu", dtype=torch.float32, adapter=adapter)
    assert (logits(model) - expected).norm() / change < 1e-3
    with pytest.raises(ValueError, match="merge_adapter"):
        model.save_pretrained(tmp_path / "half")
    assert not (tmp_path / "half").exists()
    model.save_adapter(tmp_path / "apart")
    again = EchoX.from_pretrained(folder, device="cpu", dtype=torch.float32, adapter=tmp_path / "apart")
    assert (logits(again) - expected).norm() / change < 1e-3

    model.merge_adapter()
    assert (logits(model) - expected).norm() / change < 1e-3
    assert not [name for name, part in model.model.named_modules() if type(part).__module__.startswith("peft.")]
    model.save_pretrained(tmp_path / "merged")
    merged = EchoX.from_pretrained(tmp_path / "merged", device="cpu", dtype=torch.float32)
    assert (logits(merged) - expected).norm() / change < 1e-3


@pytest.mark.parametrize("dtype", [torch.int8, INT4], ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_an_adapter_on_few_bits_is_saved_apart_and_never_lost(kind, dtype, made, tmp_path, monkeypatch):
    monkeypatch.setattr("echox.models.quantization.int8_linear.best_kernel", lambda: "weight_only")
    folder, adapter, without, expected = made(kind, False)
    change = (expected - without).norm()
    model = EchoX.from_pretrained(folder, device="cpu", dtype=dtype, adapter=adapter)
    found = logits(model)
    assert (found - expected).norm() / change < 0.6, "rounding of weights alone"
    model.save_adapter(tmp_path / "apart")
    in_floats = EchoX.from_pretrained(folder, device="cpu", dtype=torch.float32, adapter=tmp_path / "apart")
    assert (logits(in_floats) - expected).norm() / change < 1e-3
    with pytest.raises(ValueError, match="merge_adapter"):
        model.save_pretrained(tmp_path / "half")
    with pytest.raises(ValueError, match=r"load both with dtype=torch\.float32, merge_adapter\(\)"):
        model.merge_adapter()
    assert torch.equal(logits(model), found), "as it was"


def test_a_model_and_an_adapter_have_folders_of_their_own(made):
    """An adapter that lies beside a model is put on it by transformers, whatever it belongs to."""
    folder, adapter, _, _ = made("lora", False)
    model = EchoX.from_pretrained(folder, device="cpu", adapter=adapter)
    with pytest.raises(ValueError, match="expected a folder for an adapter, found one of a model"):
        model.save_adapter(folder)
    model.merge_adapter()
    with pytest.raises(ValueError, match="expected a folder for a model, found one of an adapter"):
        model.save_pretrained(adapter)
    assert {path.name for path in adapter.iterdir()} >= {"adapter_config.json", "adapter_model.safetensors"}
    assert not (adapter / "config.json").exists()


def other_layer(model: EchoX) -> None:
    model.model.s2t.language_model.model.norm = torch.nn.Sequential(model.model.s2t.language_model.model.norm)


def fewer_layers(model: EchoX) -> None:
    del model.model.s2t.language_model.model.layers[1]


def more_tokens(model: EchoX) -> None:
    model.model.s2t.language_model.model.embed_tokens = torch.nn.Embedding(400, 64)


def a_part_more(model: EchoX) -> None:
    model.model.extra = torch.nn.Linear(2, 2)


@pytest.mark.parametrize("change", [other_layer, fewer_layers, more_tokens, a_part_more])
def test_what_could_not_be_loaded_is_not_saved(change, tmp_path):
    model = tiny(tied=False)
    model.save_pretrained(tmp_path / "model")
    before = {path.name: path.read_bytes() for path in (tmp_path / "model").iterdir()}
    change(model)
    for folder in ("model", "new"):
        with pytest.raises(ValueError, match=r"by the model's configuration, found .* could not be loaded"):
            model.save_pretrained(tmp_path / folder)
    assert {path.name: path.read_bytes() for path in (tmp_path / "model").iterdir()} == before
    assert not (tmp_path / "new").exists()
