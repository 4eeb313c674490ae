"""What the reference spends on vocabulary-sized work, and what we spend on the same, in one process.

Each pair computes the same numbers (checked): the reference's way is written here after what it computes, ours is the
code that runs. Costs grow with the vocabulary V and the width H; ``largest_mb`` is the
largest tensor that the call makes.

python benchmarks/reference_costs.py --width 64 --vocabulary 128260
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import torch
import torch.nn.functional as F
from harness import Measured, milliseconds, run, times_s
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from echox.models.echox.ctc import best_labels
from echox.models.t2c.configuration_t2c import UnitDecoderConfig
from echox.models.t2c.modeling_t2c_text import TextPrefixDecoder

FRAMES, PROMPT, UNITS = 750, 350, 8500


class LargestTensor(TorchDispatchMode):
    """Bytes of the largest tensor that any operation inside makes."""

    def __init__(self) -> None:
        super().__init__()
        self.num_bytes = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        result = func(*args, **(kwargs or {}))
        made = result if isinstance(result, tuple | list) else [result]
        inputs = {value.data_ptr() for value in args if isinstance(value, Tensor)}
        for value in made:
            if isinstance(value, Tensor) and value.data_ptr() not in inputs:
                self.num_bytes = max(self.num_bytes, value.nbytes)
        return result


def cost(call: Callable[[], Tensor], repeats: int) -> tuple[dict[str, float], Tensor]:
    """Median seconds and the largest tensor made."""
    with LargestTensor() as largest:
        result = call()
    spent = milliseconds(times_s(call, repeats))
    return {"median_ms": spent["median_ms"], "largest_mb": round(largest.num_bytes / 1e6, 2)}, result


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--width", type=int, default=64, help="H")
    parser.add_argument("--vocabulary", type=int, default=128260, help="V")
    parser.add_argument("--repeats", type=int, default=5)


@torch.inference_mode()
def measure(options: argparse.Namespace) -> Measured:
    width, vocabulary = options.width, options.vocabulary
    head = nn.Linear(width, vocabulary, bias=False)
    frames, states = torch.randn(1, FRAMES, width), torch.randn(1, PROMPT, width)
    config = UnitDecoderConfig(
        form="text_prefix",
        hidden_size=64,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=64,
        text_hidden_size=width,
        text_vocab_size=vocabulary,
        num_unit_words=UNITS,
        end_token_id=0,
    )
    decoder = TextPrefixDecoder(config).eval()
    unit = torch.tensor([vocabulary + 3])
    tables = decoder.text_embedding.weight, decoder.unit_embedding.weight
    pairs: dict[str, tuple[Callable[[], Tensor], Callable[[], Tensor]]] = {
        "ctc_labels_30_s": (lambda: head(frames).float().argmax(-1), lambda: best_labels(head, frames)),
        "prefill_logits": (lambda: head(states).float()[:, -1], lambda: head(states[:, -1])),
        "input_of_one_unit": (
            lambda: decoder.state_projection(F.embedding(unit, torch.cat(tables))),
            lambda: decoder.embed_outputs(unit),
        ),
    }
    figures: dict[str, object] = {"width": width, "vocabulary": vocabulary}
    for name, (theirs, ours) in pairs.items():
        before, expected = cost(theirs, options.repeats)
        after, found = cost(ours, options.repeats)
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
        figures[name] = {"reference": before, "ours": after}
        print(f"{name:20} reference {before}   ours {after}")
    return Measured(figures)


if __name__ == "__main__":
    run(__doc__, add_arguments, measure)
