"""8-bit storage: small, accurate, and loaded without an option."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file

from echox.models.quantization.row_int8 import SCALE_SUFFIX, from_row_int8, to_row_int8
from echox.models.quantization.stored import holds_few_bits


@given(st.integers(0, 1000), st.sampled_from([(3, 5), (4, 2, 3), (1, 1)]), st.floats(1e-6, 1e4))
def test_every_weight_is_within_half_a_step_of_its_row(seed, shape, size):
    weights = torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * size
    back = from_row_int8(to_row_int8({"w": weights}))["w"]
    largest = weights.flatten(1).abs().amax(1).view(-1, *[1] * (weights.ndim - 1))
    assert bool(((back - weights).abs() <= largest / 254 * 1.001).all())


def test_zero_rows_and_vectors_and_integers_survive():
    state = {"w": torch.tensor([[0.0, 0.0], [1.0, -2.0]]), "b": torch.tensor([0.5]), "n": torch.tensor([7])}
    stored = to_row_int8(state)
    assert stored["w"].dtype == torch.int8
    assert stored["b"].dtype == torch.float16
    back = from_row_int8(stored)
    assert set(back) == set(state)
    assert torch.allclose(back["w"], state["w"], atol=1e-2)
    assert back["n"].item() == 7


def test_the_format_is_recognised(tmp_path):
    save_file(to_row_int8({"w": torch.ones(2, 2)}), tmp_path / "small.safetensors")
    save_file({"w": torch.ones(2, 2)}, tmp_path / "plain.safetensors")
    assert holds_few_bits(tmp_path / "small.safetensors")
    assert not holds_few_bits(tmp_path / "plain.safetensors")
    assert not holds_few_bits(tmp_path / "absent.safetensors")
    assert SCALE_SUFFIX.startswith(".")


def test_weights_that_are_not_finite_are_refused():
    with pytest.raises(ValueError, match="w: expected finite"):
        to_row_int8({"w": torch.tensor([[float("nan")]])})
