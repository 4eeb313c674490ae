"""Precision and quantisation of a model's weights by name, for commands and servers."""

from __future__ import annotations

from typing import Any

import torch

DTYPES = ("float32", "bfloat16", "float16", "int8", "int4")
"""Names of data types of weights in memory; int8 and int4 are for a CPU."""
QUANTIZATIONS = ("nf4", "int8")
"""Names of quantisations of the language model: bitsandbytes in 4 and in 8 bits, for a GPU."""


def named_precision(dtype: str | None, quantization: str | None) -> dict[str, Any]:
    """Keywords of ``EchoX.from_pretrained`` for the names that commands take.

    Args:
        dtype: one of `DTYPES`; None: what the device and the folder suggest.
        quantization: one of `QUANTIZATIONS`; None: none.

    Raises:
        ValueError: another name, or two that exclude each other.
    """
    if dtype is not None and dtype not in DTYPES:
        raise ValueError(f"dtype: expected one of {', '.join(DTYPES)}, found {dtype!r}")
    if quantization is not None and quantization not in QUANTIZATIONS:
        raise ValueError(f"quantization: expected one of {', '.join(QUANTIZATIONS)}, found {quantization!r}")
    if dtype in ("int8", "int4") and quantization is not None:
        raise ValueError(
            f"expected dtype {dtype} (on a CPU) or quantization {quantization} (on a GPU), found both; leave one out"
        )
    chosen: dict[str, Any] = {} if dtype is None else {"dtype": getattr(torch, dtype)}
    if quantization is not None:
        from transformers import BitsAndBytesConfig

        beside = torch.bfloat16 if dtype is None else getattr(torch, dtype)
        chosen["quantization_config"] = (
            BitsAndBytesConfig(load_in_8bit=True)
            if quantization == "int8"
            else BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=beside)
        )
    return chosen
