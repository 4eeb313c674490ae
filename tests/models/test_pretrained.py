"""A model around weights in memory is the one that transformers would load."""

import pytest
import torch

from echox.models.decoding.lean_llama import is_plain
from echox.models.echox.modeling_echox import EchoXForConditionalGeneration
from echox.models.pretrained import from_weights
from echox.models.quantization.int4_linear import Int4Linear
from tiny_echox import tiny_echox


def loaded(weights, dtype=torch.float32):
    config = tiny_echox().model.config
    return from_weights(EchoXForConditionalGeneration, config, weights, dtype)


@pytest.fixture(scope="module")
def weights():
    model = tiny_echox(seed=1).model
    return {name: value.clone() for name, value in model.state_dict().items()}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_as_transformers_loads_them(weights, dtype):
    model, report = loaded(weights, dtype)
    config = tiny_echox().model.config
    expected = EchoXForConditionalGeneration.from_pretrained(None, config=config, state_dict=dict(weights), dtype=dtype)
    assert not any(report.values())
    assert not any(module.training for module in model.modules())
    assert model.config.to_dict() | {"_name_or_path": "None"} == expected.config.to_dict()
    for kind in ("named_parameters", "named_buffers"):
        ours, theirs = (dict(getattr(one, kind)()) for one in (model, expected))
        assert ours.keys() == theirs.keys()
        for name, value in theirs.items():
            assert ours[name].dtype == value.dtype, name
            assert torch.equal(ours[name], value), name
    assert torch.get_default_dtype() == torch.float32


def test_what_is_missing_unexpected_or_of_another_shape_is_told(weights):
    changed = dict(weights)
    names = sorted(weights)
    changed["more.weight"] = changed.pop(names[0])
    changed[names[1]] = torch.zeros(1, 2, 3)
    _, report = loaded(changed)
    assert report["unexpected_keys"] == ["more.weight"]
    assert [name for name, _, _ in report["mismatched_keys"]] == [names[1]]
    assert sorted(report["missing_keys"]) == names[:2]


def test_looking_at_layers_of_few_bits_computes_no_weight(monkeypatch):
    backbone = tiny_echox(hidden_size=32).model.s2t.language_model.model
    for layer in backbone.layers:
        layer.mlp.gate_proj = Int4Linear.of(layer.mlp.gate_proj)
    monkeypatch.setattr(Int4Linear, "weight", property(lambda self: pytest.fail("computed")))
    assert is_plain(backbone)
