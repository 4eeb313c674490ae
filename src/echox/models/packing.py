"""Sequence packing: several sequences of a batch in one row of a transformer, instead of padding behind each.

The mechanism is transformers' own: without an attention mask, positions that begin again at 0 are new sequences, and
its mask is block-diagonal and causal (`find_packed_sequence_indices` in ``transformers/masking_utils.py``). So packed
equals padded with the attention kernels "eager" and "sdpa", on a CPU and on a GPU, and nothing in the models is
replaced. Rows are as long as the longest sequence, so that attention costs no more than before: one long row of
everything would cost the square of its length.

Letters: B sequences, L positions of the longest with its padding, P packed rows, C positions of a packed row, D width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

KERNELS = ("eager", "sdpa")
"""Attention kernels that take a mask for several packed rows. Flash kernels take packed sequences in one row only;
"flex_attention" takes such masks, but was not tried on a GPU, and on a CPU it compiled for minutes."""


def rows_of(lengths: Sequence[int]) -> list[list[int]]:
    """Which sequences share a row no longer than the longest: first fit, the longest first.

    Source: https://en.wikipedia.org/wiki/First-fit-decreasing_bin_packing (at most 11/9 of the fewest rows, and one)
    """
    room = max(lengths, default=0)
    rows: list[list[int]] = []
    left: list[int] = []
    for number in sorted(range(len(lengths)), key=lambda place: -lengths[place]):
        row = next((row for row, free in enumerate(left) if free >= lengths[number]), len(rows))
        if row == len(rows):
            rows.append([])
            left.append(room)
        rows[row].append(number)
        left[row] -= lengths[number]
    return rows


@dataclass(frozen=True)
class PackedRows:
    """Where the positions of a batch are in packed rows.

    Attributes:
        real: (N,) places of the N real positions among all B * L.
        packed: (N,) their places among all P * C.
        position_ids: (P, C), from 0 in each sequence; the rest of a row is one more sequence.
    """

    real: Tensor
    packed: Tensor
    position_ids: Tensor

    @classmethod
    def of(cls, mask: Tensor) -> PackedRows:
        """From a mask (B, L), not 0 at real positions."""
        lengths = (mask != 0).sum(1).tolist()
        rows, width = rows_of(lengths), max(lengths, default=0)
        position_ids = torch.arange(width).repeat(len(rows), 1)
        packed: list[Tensor] = [torch.zeros(0, dtype=torch.long)] * len(lengths)
        for row, numbers in enumerate(rows):
            start = 0
            for number in numbers:
                end = start + lengths[number]
                position_ids[row, start:] = torch.arange(width - start)
                packed[number] = torch.arange(row * width + start, row * width + end)
                start = end
            position_ids[row, start:] = torch.arange(width - start)
        real = (mask != 0).flatten().nonzero().squeeze(1)
        return cls(real, torch.cat(packed).to(mask.device), position_ids.to(mask.device))

    def pack(self, values: Tensor) -> Tensor:
        """(B, L, D) to (P, C, D), 0 at the end of a row that is not full."""
        rows, width = self.position_ids.shape
        flat = values.new_zeros(rows * width, values.shape[2])
        return flat.index_copy(0, self.packed, values.flatten(0, 1)[self.real]).view(rows, width, flat.shape[1])

    def unpack(self, values: Tensor, shape: torch.Size) -> Tensor:
        """(P, C, D) to (B, L, D) of a mask's shape (B, L), 0 at the padding."""
        flat = values.new_zeros(shape.numel(), values.shape[2])
        return flat.index_copy(0, self.real, values.flatten(0, 1)[self.packed]).view(*shape, flat.shape[1])


def run(model: nn.Module, inputs_embeds: Tensor, mask: Tensor) -> Tensor:
    """Last hidden states (B, L, D) of a causal model's real positions, run packed; 0 at the padding.

    Args:
        model: without a head.
        inputs_embeds: (B, L, D).
        mask: (B, L), not 0 at real positions, which in a row are together.
    """
    rows = PackedRows.of(mask)
    hidden = model(
        inputs_embeds=rows.pack(inputs_embeds), position_ids=rows.position_ids, use_cache=False
    ).last_hidden_state
    return rows.unpack(hidden, mask.shape)


def padding_shares(mask: Tensor, packed: bool, name: str = "padding_share") -> dict[str, Tensor]:
    """The share of computed positions that are padding, by `name`; packed also what it would be otherwise.

    Args:
        mask: (B, L), not 0 at real positions.
        packed: whether they are run packed.
        name: of the share; with ``unpacked_`` before it: of the padded batch.
    """
    lengths = (mask != 0).sum(1).tolist()
    total, padded = sum(lengths), max(1, mask.numel())
    computed = max(1, len(rows_of(lengths)) * max(lengths, default=0)) if packed else padded
    shares = {name: 1 - total / computed} | ({f"unpacked_{name}": 1 - total / padded} if packed else {})
    return {key: torch.tensor(value) for key, value in shares.items()}


@torch.no_grad()
def check_packing(model: nn.Module, what: str) -> None:
    """Check, on a few random vectors, that a model keeps packed sequences apart.

    Three sequences make two rows. What a sequence reads must not depend on what is before it in its row, to the last
    bit; and it must be what it reads alone, up to rounding.

    Raises:
        ValueError: it does not, or has an attention kernel of which that is not known.
    """
    config: Any = model.config  # a model of transformers, without its head
    kernel = config._attn_implementation
    if kernel not in KERNELS:
        raise ValueError(
            f"training.packing: expected an attention kernel of {', '.join(KERNELS)} in the {what}, found {kernel!r}; "
            "load it with one of these, or set training.packing=false"
        )
    weight, was_training = next(model.parameters()), model.training
    model.eval()
    drawn = torch.randn(4, 6, config.get_text_config().hidden_size, generator=torch.Generator().manual_seed(0))
    vectors, other = drawn[:3].to(weight), drawn[[0, 3, 2]].to(weight)
    mask = torch.tensor([[1] * 6, [1, 1, 1, 0, 0, 0], [1, 1, 0, 0, 0, 0]], device=weight.device)
    found, beside_another = (run(model, value, mask)[2, :2].float() for value in (vectors, other))
    alone = model(inputs_embeds=vectors[2:, :2], use_cache=False).last_hidden_state[0].float()
    model.train(was_training)
    off = float((found - alone).abs().max() / alone.abs().max().clamp_min(1e-9))
    if not (torch.equal(found, beside_another) and off < 0.05):
        raise ValueError(
            f"training.packing: expected the same states of the {what} packed and alone, found others: "
            f"{type(model).__name__} with attention {kernel!r} does not keep packed sequences apart; set "
            "training.packing=false"
        )
