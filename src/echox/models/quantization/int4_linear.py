"""Linear layers with 4-bit weights on a CPU: at one row, a fourth of the time of float32; the weights as published.

A language model that writes one token reads every weight once, so the time is that of reading. torch's 4-bit kernel
multiplies bfloat16 inputs with groups of 32 codes (`group_int4.py`) and adds up in float32. It runs on x86 from AVX2
on. With weights that were in 4 bits before (GGUF's Q4_1) it changes nothing but the rounding of inputs and outputs to
bfloat16: on SmolLM2-135M, states move by 1.3 % and no token changes, where 8-bit integer products on the same weights
move them by 14 % and change every sixth token (docs/experiments.md).

A sum of low rank (a LoRA) may stand beside the codes, in float32: merging it would need a second rounding.

Source: the kernels, https://github.com/pytorch/pytorch/blob/main/aten/src/ATen/native/cpu/int4mm_kernel.cpp.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from echox.models.quantization.group_int4 import GROUP, GroupInt4, fits, to_group_int4
from echox.models.quantization.linear_layers import linear_layers

_MANY_ROWS = 96
"""From this number of rows on, a float product with expanded weights is faster."""

_ROWS = 16
"""torch packs a multiple of this number of outputs."""


class Int4Linear(nn.Module):
    """`nn.Linear` for inference on a CPU, its weight in 4 bits.

    Args:
        in_features: width of the input, a multiple of 32.
        out_features: width of the output.
        bias: whether there is one.
        rank: of the sum of low rank beside the codes; 0: none.

    The tensors are made empty; `of` and a state dict fill them.
    """

    weight_codes: Tensor
    weight_scale: Tensor
    weight_minimum: Tensor
    bias: Tensor | None
    weight_low_rank_down: Tensor | None
    weight_low_rank_up: Tensor | None

    def __init__(self, in_features: int, out_features: int, bias: bool = False, rank: int = 0) -> None:
        super().__init__()
        self.in_features, self.out_features = in_features, out_features
        groups = in_features // GROUP
        self.register_buffer("weight_codes", torch.empty(out_features, in_features // 2, dtype=torch.uint8))
        self.register_buffer("weight_scale", torch.empty(out_features, groups, dtype=torch.float16))
        self.register_buffer("weight_minimum", torch.empty(out_features, groups, dtype=torch.float16))
        self.register_buffer("bias", torch.empty(out_features) if bias else None)
        self.register_buffer("weight_low_rank_down", torch.empty(rank, in_features) if rank else None)
        self.register_buffer("weight_low_rank_up", torch.empty(out_features, rank) if rank else None)

    @classmethod
    def of(cls, linear: nn.Linear) -> Int4Linear:
        """The layer in 4 bits; its weights are rounded here.

        Raises:
            ValueError: weights that are not finite, or a width that is no multiple of 32.
        """
        stored = to_group_int4(linear.weight)
        layer = cls(linear.in_features, linear.out_features, bias=False)
        layer.weight_codes, layer.weight_scale, layer.weight_minimum = stored.codes, stored.scale, stored.minimum
        if linear.bias is not None:
            layer.bias = linear.bias.detach().clone()
        return layer

    @classmethod
    def joined(cls, layers: Sequence[Int4Linear]) -> Int4Linear:
        """One layer for several of the same input, with concatenated outputs."""
        joint = cls(layers[0].in_features, sum(one.out_features for one in layers))
        for name in ("weight_codes", "weight_scale", "weight_minimum"):
            setattr(joint, name, torch.cat([getattr(one, name) for one in layers]))
        if any(one.bias is not None for one in layers):
            zeros = [torch.zeros(one.out_features) for one in layers]
            joint.bias = torch.cat([zero if one.bias is None else one.bias for one, zero in zip(layers, zeros)])
        if any(one.weight_low_rank_up is not None for one in layers):
            downs, ups = zip(*map(_low_rank, layers))
            joint.weight_low_rank_down, joint.weight_low_rank_up = torch.cat(downs), torch.block_diag(*ups)
        return joint

    @property
    def stored(self) -> GroupInt4:
        """The weight as it is stored."""
        return GroupInt4(self.weight_codes, self.weight_scale, self.weight_minimum)

    @property
    def weight(self) -> Tensor:
        """The weight as float32 (out, in), computed at each call."""
        weight = self.stored.floats()
        if self.weight_low_rank_up is not None and self.weight_low_rank_down is not None:
            weight += self.weight_low_rank_up.float() @ self.weight_low_rank_down.float()
        return weight

    @cached_property
    def _packed(self) -> tuple[Tensor, Tensor]:
        """Codes in the order of this CPU's kernel, and (groups, out, 2) scales and the values of code 8."""
        padding = -self.out_features % _ROWS
        codes = F.pad(self.stored.columns(), (0, 0, 0, padding)).int()
        scale, minimum = (F.pad(one.float(), (0, 0, 0, padding)) for one in (self.weight_scale, self.weight_minimum))
        numbers = torch.stack([scale, minimum + 8 * scale], -1).transpose(0, 1).contiguous()
        return torch._convert_weight_to_int4pack_for_cpu(codes, 1), numbers.bfloat16()

    def forward(self, inputs: Tensor) -> Tensor:
        """(..., in) to (..., out), in the inputs' dtype."""
        rows = inputs.reshape(-1, self.in_features)
        if len(rows) >= _MANY_ROWS or not int4_kernel():
            output = F.linear(rows.float(), self.weight)
        else:
            codes, numbers = self._packed
            output = torch._weight_int4pack_mm_for_cpu(rows.bfloat16(), codes, GROUP, numbers)
            output = output.float()
            if len(numbers[0]) != self.out_features:
                output = output[:, : self.out_features]
            if self.weight_low_rank_up is not None and self.weight_low_rank_down is not None:
                output = output + F.linear(F.linear(rows.float(), self.weight_low_rank_down), self.weight_low_rank_up)
        if self.bias is not None:
            output = output + self.bias
        return output.to(inputs.dtype).view(*inputs.shape[:-1], self.out_features)

    def extra_repr(self) -> str:
        """Sizes, as in `nn.Linear`."""
        return f"in_features={self.in_features}, out_features={self.out_features}, bias={self.bias is not None}"


def _low_rank(layer: Int4Linear) -> tuple[Tensor, Tensor]:
    """The layer's sum of low rank as down (r, in) and up (out, r); of rank 0 where there is none."""
    if layer.weight_low_rank_down is None or layer.weight_low_rank_up is None:
        return torch.zeros(0, layer.in_features), torch.zeros(layer.out_features, 0)
    return layer.weight_low_rank_down.float(), layer.weight_low_rank_up.float()


def int4_kernel() -> bool:
    """Whether this CPU and torch have a fast 4-bit kernel; elsewhere the layers expand their weights at each call."""
    return torch.backends.cpu.get_cpu_capability() in ("AVX2", "AVX512") and hasattr(
        torch, "_weight_int4pack_mm_for_cpu"
    )


def to_int4_linears(model: nn.Module, keep: nn.Module | None = None) -> int:
    """Replace the linear layers inside `model` by `Int4Linear`, one at a time; returns how many.

    Layers of a width that is no multiple of 32 stay as they are.

    Args:
        model: changed in place; on the CPU.
        keep: a layer that is not replaced (a language model's head, whose rows are read as vectors).

    Raises:
        ValueError: weights that are not finite.
    """
    count = 0
    for parent, name, layer in linear_layers(model, keep):
        if fits(layer.weight):
            setattr(parent, name, Int4Linear.of(layer))
            count += 1
    return count


def hold_in_int4(model: nn.Module, names: Mapping[str, int]) -> None:
    """Replace linear layers by empty ones in 4 bits, for a state dict that holds them so.

    Args:
        model: changed in place.
        names: of the layers' weights, with the rank of the sum beside each (0: none).

    Raises:
        ValueError: one is no weight of a linear layer.
    """
    for name, rank in names.items():
        path, _, leaf = name.rpartition(".")
        parent, _, child = path.rpartition(".")
        try:
            layer = model.get_submodule(path)
        except AttributeError:
            layer = None
        if type(layer) is not nn.Linear or leaf != "weight" or layer.in_features % GROUP:
            raise ValueError(f"{name}: expected a linear layer for weights in 4 bits, found another part or none")
        made = Int4Linear(layer.in_features, layer.out_features, layer.bias is not None, rank)
        setattr(model.get_submodule(parent), child, made.to(layer.weight.device))
