"""The arithmetic of a training step, counted without changing it, and the share of the device's peak that it is.

Counted are products (linear layers, matrix products, convolutions, attention) of the forward pass, and for each of
their operands that has a gradient as many operations again, as the backward pass does: model operations, without what
is computed again for gradient checkpoints. Of losses over the vocabulary, which make their gradients themselves
(`models/text/chunked_loss.py`), only the forward pass is counted.

`torch.utils.flop_counter` is not used here: it takes operations apart, so a counted step would have other last digits.

Source: model flops utilisation as in PaLM (https://arxiv.org/abs/2204.02311, appendix B); peaks by NVIDIA's pages:
https://www.nvidia.com/en-us/data-center/h200/ and https://www.nvidia.com/en-us/data-center/h100/ (half of what they
give "with sparsity"), https://www.nvidia.com/en-us/data-center/a100/, https://www.nvidia.com/en-us/data-center/l40s/,
https://www.nvidia.com/en-us/data-center/products/a10-gpu/; for the RTX 4090 (with sums in float32) the Ada white paper,
https://images.nvidia.com/aem-dam/Solutions/Data-Center/l4/nvidia-ada-gpu-architecture-whitepaper-v2.1.pdf
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

PEAK_TFLOP_PER_S = {
    "H200 NVL": 835.0,
    "H200": 989.0,
    "H100 NVL": 835.0,
    "H100 PCIe": 756.0,
    "H100": 989.0,
    "A100": 312.0,
    "L40S": 362.0,
    "A10": 125.0,
    "RTX 4090": 165.0,
}
"""Part of a GPU's name -> dense bfloat16 products a second, by its maker; the first that fits counts."""


def peak_tflop_per_s(device: torch.device) -> float | None:
    """The peak of a device, by its name; None where it is not known (`training.peak_tflop_per_s` says it then)."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else ""
    return next((peak for part, peak in PEAK_TFLOP_PER_S.items() if part in name), None)


class CountOperations(TorchFunctionMode):
    """Within the ``with`` block, counts the floating-point operations of products; see the module.

    Compiled modules are not counted: `torch.compiler.set_stance` makes them run as they are written.

    Attributes:
        operations: so far.
    """

    def __init__(self) -> None:
        super().__init__()
        self.operations = 0.0

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Call `func` as it would be called, and count it if it is a product."""
        result = func(*args, **(kwargs or {}))
        if func in _PRODUCTS:
            operands = [value for value in args[:3] if isinstance(value, Tensor)]
            forward = _PRODUCTS[func](result, operands)
            grown = sum(value.requires_grad for value in operands[:2]) if torch.is_grad_enabled() else 0
            self.operations += forward * (1 + grown)
        return result


def _of_matmul(result: Tensor, operands: list[Tensor]) -> float:
    return 2.0 * result.numel() * operands[0].shape[-1]


def _of_convolution(result: Tensor, operands: list[Tensor]) -> float:
    return 2.0 * result.numel() * operands[1][0].numel()


def _of_attention(result: Tensor, operands: list[Tensor]) -> float:
    query, key = operands[:2]
    return 4.0 * query.numel() * key.shape[-2]


_PRODUCTS: dict[Callable[..., Any], Callable[[Tensor, list[Tensor]], float]] = {
    F.linear: _of_matmul,
    torch.matmul: _of_matmul,
    Tensor.matmul: _of_matmul,
    Tensor.__matmul__: _of_matmul,
    torch.bmm: _of_matmul,
    F.conv1d: _of_convolution,
    F.conv2d: _of_convolution,
    F.scaled_dot_product_attention: _of_attention,
}
