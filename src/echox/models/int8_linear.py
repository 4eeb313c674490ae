"""Linear layers with 8-bit weights that a CPU multiplies as integers: a quarter of the memory, several times the speed.

Weights: int8, symmetric, one scale per row, as `row_int8` stores them. Inputs: brought to [-1, 1] token by token, then
rounded to 8 bits in the kernel (torch's own, fbgemm or oneDNN; no further library). What it costs and gains is measured
by benchmarks/quantisation.py.

Source: per-row weights and per-token activations as in LLM.int8() (https://arxiv.org/abs/2208.07339) without its
outlier columns.
"""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor, nn

from echox.models.row_int8 import SCALE_SUFFIX, from_row_int8, to_row_int8


class Int8Linear(nn.Module):
    """`nn.Linear` for inference on a CPU, its weight in 8 bits.

    Args:
        linear: what it replaces; rounded once, here.

    Raises:
        ValueError: weights elsewhere than on the CPU or not finite, or a torch without 8-bit kernels.
    """

    bias: Tensor | None

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        if linear.weight.device.type != "cpu":
            raise ValueError(
                f"expected weights on the CPU, found them on {linear.weight.device}: 8-bit kernels of torch run on a "
                "CPU; on a GPU pass quantization_config"
            )
        self.in_features, self.out_features = linear.in_features, linear.out_features
        stored = to_row_int8({"weight": linear.weight.detach()})
        scale = stored["weight" + SCALE_SUFFIX].double().clamp_min(torch.finfo(torch.float32).tiny)
        # Packed as the kernel wants it: the only copy of the weight. Not a tensor, so not in ``buffers()``.
        self.packed: Any = _pack(stored["weight"], scale)
        self.register_buffer("bias", None if linear.bias is None else linear.bias.detach().clone())

    def forward(self, inputs: Tensor) -> Tensor:
        """(..., in) to (..., out), in the inputs' dtype."""
        rows = inputs.float()
        scale = rows.abs().amax(dim=-1, keepdim=True).clamp_min(torch.finfo(torch.float32).tiny)
        output = torch.ops.quantized.linear_dynamic(rows / scale, self.packed, not _exact_products()) * scale
        output = output.to(inputs.dtype)
        return output if self.bias is None else output + self.bias.to(inputs.dtype)

    @property
    def weight(self) -> Tensor:
        """The weight as floats (out, in), made anew at each call: for whoever must look at it."""
        return from_row_int8(self.weights())["weight"]

    def weights(self) -> dict[str, Tensor]:
        """The weight as `row_int8` stores it: int8 (out, in) and its float32 scales (out,)."""
        quantized, _ = torch.ops.quantized.linear_unpack(self.packed)
        return {"weight": quantized.int_repr(), "weight" + SCALE_SUFFIX: quantized.q_per_channel_scales().float()}

    @property
    def memory_bytes(self) -> int:
        """Of weight, scales, zero points and bias."""
        return self.out_features * (self.in_features + 12) + (0 if self.bias is None else self.bias.nbytes)

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        for name, value in self.weights().items():
            destination[prefix + name] = value

    def extra_repr(self) -> str:
        """Sizes, as in `nn.Linear`."""
        return f"in_features={self.in_features}, out_features={self.out_features}, bias={self.bias is not None}"


def _pack(weight: Tensor, scale: Tensor) -> Any:
    zeros = torch.zeros(len(weight), dtype=torch.int64)
    with warnings.catch_warnings():
        # torch means to drop these kernels some day (pytorch issue 184982); its newer ones are slower by 3 to 10 times.
        warnings.filterwarnings("ignore", message=".*deprecated")
        try:
            quantized = torch._make_per_channel_quantized_tensor(weight, scale, zeros, 0)
            return torch.ops.quantized.linear_prepack(quantized, None)
        except (AttributeError, RuntimeError) as error:
            raise ValueError(
                f"expected torch's 8-bit kernels for this CPU, found none in torch {torch.__version__} ({error}): use "
                "bfloat16"
            ) from error


def _exact_products() -> bool:
    """Whether sums of 8-bit products cannot overflow in between; older CPUs need inputs of 7 bits."""
    return bool(torch.cpu._is_vnni_supported())


def to_int8_linears(model: nn.Module, keep: nn.Module | None = None) -> int:
    """Replace the linear layers inside `model` by `Int8Linear`, one at a time; returns how many.

    Args:
        model: changed in place; on the CPU.
        keep: a layer to leave as it is (a language model's head: its rows are read as vectors elsewhere).

    Raises:
        ValueError: weights elsewhere than on the CPU, or not finite.
    """
    count = 0
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if type(child) is nn.Linear and child is not keep:
                setattr(parent, name, Int8Linear(child))
                count += 1
    return count
