"""Linear layers with 8-bit weights on a CPU: a quarter of the memory, and several times faster.

Weights: int8, symmetric, one scale per row, as `row_int8` stores them. There are two kernels, both torch's own:

- ``integer``: inputs are scaled to [-1, 1] token by token and rounded to 8 bits, and the products are sums of integers.
  It needs a CPU that adds such products without overflow (VNNI on x86). On other CPUs torch's kernels overflow unless
  the inputs have 7 bits, which doubles the error; because of a few large channels this error is too large for a model.
- ``weight_only``: inputs stay floats (bfloat16, accumulated in float32), only weights have 8 bits. For every CPU.

`best_kernel` chooses by the result of a small product, not by the name of the CPU. benchmarks/quantisation.py measures
speed and error of each.

Source: per-row weights and per-token activations as in LLM.int8() (https://arxiv.org/abs/2208.07339, section 3) without
its outlier columns, which are the reason for the second kernel.
"""

from __future__ import annotations

import warnings
from functools import lru_cache
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from echox.models.quantization.linear_layers import linear_layers
from echox.models.quantization.row_int8 import SCALE_SUFFIX, from_row_int8, to_row_int8

Kernel = Literal["integer", "weight_only"]
"""How a product with 8-bit weights is computed; see the head of this file."""

Packed = torch.ScriptObject | tuple[Tensor, Tensor]
"""The weight in the form of a kernel: torch's packed object (integer), or int8 values and scales (weight_only)."""

_FEW_ROWS = 8
"""Up to this number of rows the weight-only kernel is faster than a float product with expanded weights."""

_BLOCK = 64
"""torch's weight-only kernel reads whole vector registers and past the end of a width that does not fill them."""


class Int8Linear(nn.Module):
    """`nn.Linear` for inference on a CPU, its weight in 8 bits.

    Args:
        linear: the layer that it replaces; its weights are rounded here.
        kernel: None: the fastest one that is correct on this CPU (`best_kernel`).

    Raises:
        ValueError: weights elsewhere than on the CPU or not finite, or a torch without 8-bit kernels.
    """

    bias: Tensor | None

    def __init__(self, linear: nn.Linear, kernel: Kernel | None = None) -> None:
        super().__init__()
        if linear.weight.device.type != "cpu":
            raise ValueError(
                f"expected weights on the CPU, found them on {linear.weight.device}: 8-bit kernels of torch run on a "
                "CPU; on a GPU pass quantization_config"
            )
        self.in_features, self.out_features = linear.in_features, linear.out_features
        stored = to_row_int8({"weight": linear.weight.detach()})
        scale = stored["weight" + SCALE_SUFFIX].double().clamp_min(torch.finfo(torch.float32).tiny)
        self.kernel: Kernel = kernel or best_kernel()
        # In the form of the kernel, and the only copy of the weight. It is neither a parameter nor a buffer.
        self.packed: Packed = (
            _pack(stored["weight"], scale) if self.kernel == "integer" else (stored["weight"], scale.float())
        )
        self.register_buffer("bias", None if linear.bias is None else linear.bias.detach().clone())

    def forward(self, inputs: Tensor) -> Tensor:
        """(..., in) to (..., out), in the inputs' dtype."""
        product = _integer_product if self.kernel == "integer" else _weight_only_product
        output = product(inputs, self.packed).to(inputs.dtype)
        return output if self.bias is None else output + self.bias.to(inputs.dtype)

    @property
    def weight(self) -> Tensor:
        """The weight as floats (out, in), computed at each call."""
        return from_row_int8(self.weights())["weight"]

    def weights(self) -> dict[str, Tensor]:
        """The weight as `row_int8` stores it: int8 (out, in) and its float32 scales (out,)."""
        if isinstance(self.packed, tuple):
            values, scales = self.packed
        else:
            quantized, _ = torch.ops.quantized.linear_unpack(self.packed)
            values, scales = quantized.int_repr(), quantized.q_per_channel_scales().float()
        return {"weight": values, "weight" + SCALE_SUFFIX: scales}

    @property
    def memory_bytes(self) -> int:
        """Of weight, scales (with zero points, for the integer kernel) and bias."""
        beside = 12 if self.kernel == "integer" else 4
        return self.out_features * (self.in_features + beside) + (0 if self.bias is None else self.bias.nbytes)

    def _save_to_state_dict(self, destination: dict[str, Tensor], prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        for name, value in self.weights().items():
            destination[prefix + name] = value

    def extra_repr(self) -> str:
        """Sizes, as in `nn.Linear`, and the kernel."""
        sizes = f"in_features={self.in_features}, out_features={self.out_features}, bias={self.bias is not None}"
        return f"{sizes}, kernel={self.kernel}"


def _pack(weight: Tensor, scale: Tensor) -> torch.ScriptObject:
    zeros = torch.zeros(len(weight), dtype=torch.int64)
    with warnings.catch_warnings():
        # torch plans to drop these kernels (pytorch issue 184982); its newer ones are 3 to 10 times slower.
        warnings.filterwarnings("ignore", message=".*deprecated")
        try:
            quantized = torch._make_per_channel_quantized_tensor(weight, scale, zeros, 0)
            return torch.ops.quantized.linear_prepack(quantized, None)
        except (AttributeError, RuntimeError) as error:
            raise ValueError(
                f"expected torch's 8-bit kernels for this CPU, found none in torch {torch.__version__} ({error}): use "
                "bfloat16"
            ) from error


def _integer_product(inputs: Tensor, packed: Packed) -> Tensor:
    """(..., in) times the packed weight: (..., out) float32."""
    rows = inputs.float()
    scale = rows.abs().amax(dim=-1, keepdim=True).clamp_min(torch.finfo(torch.float32).tiny)
    return torch.ops.quantized.linear_dynamic(rows / scale, packed) * scale


def _weight_only_product(inputs: Tensor, packed: Packed) -> Tensor:
    """(..., in) times int8 (out, in), scaled by row: (..., out) float32."""
    assert isinstance(packed, tuple)
    values, scales = packed
    rows = inputs.reshape(-1, inputs.shape[-1])
    if len(rows) > _FEW_ROWS or values.shape[0] % _BLOCK or values.shape[1] % _BLOCK:
        output = F.linear(rows.float(), values.float())
    else:
        ones = torch.ones(len(values), dtype=torch.bfloat16)  # the scales themselves stay float32
        output = torch._weight_int8pack_mm(rows.bfloat16(), values, ones).float()
    return (output * scales).view(*inputs.shape[:-1], -1)


@lru_cache(maxsize=1)
def best_kernel() -> Kernel:
    """``integer`` where this CPU's sums of 8-bit products are exact, else ``weight_only``.

    The test multiplies the largest values, where a kernel that adds in 16 bits overflows.
    """
    exact = all(_is_exact(*sizes) for sizes in ((1, 64, 8), (40, 256, 48)))  # kernels may differ by size
    return "integer" if exact else "weight_only"


def _is_exact(rows: int, width: int, outputs: int) -> bool:
    """Whether the integer kernel multiplies the largest values correctly; False if there is no such kernel."""
    weight, scale = torch.full((outputs, width), 127, dtype=torch.int8), torch.full((outputs,), 1 / 127).double()
    try:
        packed = _pack(weight, scale)
    except ValueError:
        return False
    inputs = torch.ones(rows, width)
    inputs[:, 0] = -1.0  # zero lies in the middle of the 8-bit range
    product = _integer_product(inputs, packed)
    return bool(((product - (width - 2)).abs() < 0.02 * width).all())


def to_int8_linears(model: nn.Module, keep: nn.Module | None = None, kernel: Kernel | None = None) -> int:
    """Replace the linear layers inside `model` by `Int8Linear`, one at a time; returns how many.

    Args:
        model: changed in place; on the CPU.
        keep: a layer that is not replaced (a language model's head, whose rows are read as vectors).
        kernel: see `Int8Linear`.

    Raises:
        ValueError: weights elsewhere than on the CPU, or not finite.
    """
    count = 0
    for parent, name, layer in linear_layers(model, keep):
        setattr(parent, name, Int8Linear(layer, kernel))
        count += 1
    return count
