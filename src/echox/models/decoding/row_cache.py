"""The key-value memory of a language model for many conversations at once, each in its own row.

transformers' caches hold one batch whose rows start together. Here every row has its own length; rows join (also with
saved keys and values of an earlier turn), leave and are truncated at any step, without repeated computation. It works
with any decoder of transformers that accepts a cache and a prepared attention mask.

Shapes: B rows of a step, n new positions, K key-value heads, L positions held, W head width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypedDict

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.cache_utils import Cache, CacheLayerMixin

POSITIONS = 256
"""Positions that a row has at first, and in multiples of which it grows."""


@dataclass(frozen=True, eq=False)
class SavedRow:
    """A copy of a row's keys and values: one (2, K, L, W) tensor per layer."""

    layers: list[Tensor]
    length: int


class StepInputs(TypedDict):
    """Arguments of a decoder beside the inputs of a step."""

    position_ids: Tensor
    attention_mask: Tensor | dict[str, Tensor]


class RowCache(Cache):
    """Key-value memory with independent rows.

    Example::

        cache = RowCache(model.config)
        row = cache.join()
        places = cache.step(row, batch=1, count=n, device=embeds.device, dtype=embeds.dtype)   # positions and mask
        output = model(inputs_embeds=embeds, past_key_values=cache, **places)
        cache.commit([n])

    Args:
        config: of the decoder.

    Raises:
        ValueError: a decoder with layers that are not attention (their memory has no positions to address).
    """

    def __init__(self, config: PreTrainedConfig) -> None:
        named: list[str] | None = getattr(config, "layer_types", None)
        window: int | None = getattr(config, "sliding_window", None)
        # Where a configuration names no kinds, its window is that of all layers (Mistral, Phi 3, Mixtral).
        only = "full_attention" if window is None else "sliding_attention"
        self.types = list(named or [only] * config.num_hidden_layers)
        unknown = set(self.types) - {"full_attention", "sliding_attention"}
        if unknown:
            raise ValueError(
                f"expected a decoder of attention layers, found {', '.join(sorted(unknown))}: such models "
                "cannot share a memory of rows"
            )
        # Positions that a sliding layer looks back at, itself included.
        self.window = window if "sliding_attention" in self.types else None
        self.by_kind = bool(named) and set(self.types) != {"full_attention"}  # the decoder takes a mask for each kind
        self.row_layers = [_RowLayer(self) for _ in self.types]
        super().__init__(layers=[*self.row_layers])
        self.lengths: list[int] = []
        self.row_capacity, self.capacity = 1, POSITIONS
        self.rows = slice(0, 0)  # of the current step
        self.places: slice | tuple[Tensor, slice, Tensor] = slice(0, 0)
        self.end = 0

    def step(self, first_row: int, batch: int, count: int, device: torch.device, dtype: torch.dtype) -> StepInputs:
        """Begin a step of `count` inputs for each of `batch` neighbouring rows.

        Returns:
            ``position_ids`` (B, n) and ``attention_mask`` (additive, or one for each kind of layer) for the decoder.
        """
        starts = self.lengths[first_row : first_row + batch]
        self.rows, self.end = slice(first_row, first_row + batch), max(starts) + count
        self.capacity = _room(self.capacity, self.end, POSITIONS)
        positions = torch.tensor(starts, device=device)[:, None] + torch.arange(count, device=device)
        if min(starts) == max(starts):
            self.places = slice(starts[0], self.end)
        else:
            self.places = (torch.arange(batch, device=device)[:, None], slice(None), positions)
        seen = torch.arange(self.end, device=device)
        distance = positions[:, None, :, None] - seen  # (B, 1, n, end)
        masks = {"full_attention": _additive(distance >= 0, dtype)}
        if self.window is not None:
            masks["sliding_attention"] = _additive((distance >= 0) & (distance < self.window), dtype)
        mask = masks if self.by_kind else masks[self.types[0]]
        return {"position_ids": positions, "attention_mask": mask}

    def commit(self, counts: Sequence[int]) -> None:
        """Confirm a step: number of real inputs of each row (0: the row only filled the batch and is unchanged)."""
        for place, count in enumerate(counts, self.rows.start):
            self.lengths[place] += count

    def join(self, saved: SavedRow | None = None, adapter: str | None = None) -> int:
        """Add a row at the end, empty or from a saved one; returns its number.

        Raises:
            ValueError: an adapter, which only rows of `LeanSteps` have.
        """
        if adapter is not None:
            raise ValueError(f"adapter: expected none, found {adapter!r}; only rows of LeanSteps have one")
        self.lengths.append(0)
        self.row_capacity = _room(self.row_capacity, len(self.lengths), 1)
        row = len(self.lengths) - 1
        if saved is not None and saved.length:
            self.capacity = _room(self.capacity, saved.length, POSITIONS)
            for layer, (keys, values) in zip(self.row_layers, saved.layers, strict=True):
                layer.reserve(keys)
                layer.keys[row, :, : saved.length] = keys
                layer.values[row, :, : saved.length] = values
            self.lengths[row] = saved.length
        return row

    def save(self, row: int) -> SavedRow:
        """A copy of a row's keys and values."""
        length = self.lengths[row]
        layers = [
            torch.stack([layer.keys[row, :, :length], layer.values[row, :, :length]])
            for layer in self.row_layers
            if layer.is_initialized
        ]
        return SavedRow(layers, length if layers else 0)

    def leave(self, row: int) -> int:
        """Remove a row. The last row gets its number, so that rows stay contiguous; returns that row's old number."""
        last = len(self.lengths) - 1
        if row != last:
            held = self.lengths[last]
            for layer in self.row_layers:
                if layer.is_initialized:
                    layer.keys[row, :, :held] = layer.keys[last, :, :held]
                    layer.values[row, :, :held] = layer.values[last, :, :held]
            self.lengths[row] = held
        self.lengths.pop()
        return last

    def clear(self, row: int) -> None:
        """Set a row to 0. Values that are not finite would reach later rows even from masked positions."""
        for layer in self.row_layers:
            if layer.is_initialized:
                layer.keys[row] = layer.values[row] = 0
        self.lengths[row] = 0

    def truncate(self, row: int, length: int) -> None:
        """Keep only the first `length` positions of a row."""
        self.lengths[row] = min(length, self.lengths[row])

    @property
    def num_bytes(self) -> int:
        """Allocated memory, including that of rows that have left."""
        held = [layer for layer in self.row_layers if layer.is_initialized]
        return sum(2 * layer.keys.numel() * layer.keys.element_size() for layer in held)


class DecoderRows(RowCache):
    """A `RowCache` together with its decoder: `LeanSteps` for any decoder of transformers.

    Args:
        decoder: without its head.

    Raises:
        ValueError: as `RowCache`.
    """

    def __init__(self, decoder: PreTrainedModel) -> None:
        super().__init__(decoder.config)
        self._decoder = decoder

    def advance(self, inputs: Tensor, counts: Sequence[int] | None = None, first_row: int = 0) -> Tensor:
        """Last hidden states (B, n, H) of the next inputs (B, n, H) of B neighbouring rows; see `LeanSteps.advance`."""
        batch, count, _ = inputs.shape
        places = self.step(first_row, batch, count, inputs.device, inputs.dtype)
        output = self._decoder(inputs_embeds=inputs, past_key_values=self, use_cache=True, **places)
        self.commit([count] * batch if counts is None else counts)
        return output.last_hidden_state


def longest_row(config: PreTrainedConfig) -> int | None:
    """Positions that a row of a decoder may hold; None: no bound is known.

    Rotary positions of type "longrope" (Phi 3 with 128k) have other frequencies beyond the original length, for all
    rows of a step, and for keys that were made before. So rows stay within it.

    Args:
        config: of the decoder.
    """
    lengths: list[int | None] = [getattr(config, "max_position_embeddings", None)]
    rope = getattr(config, "rope_parameters", None) or {}
    for one in [rope, *(kind for kind in rope.values() if isinstance(kind, dict))]:
        if one.get("rope_type") == "longrope":
            original = getattr(config, "original_max_position_embeddings", None)
            lengths.append(one.get("original_max_position_embeddings", original))
    return min(filter(None, lengths), default=None)


class _RowLayer(CacheLayerMixin):
    """One layer's keys and values, (rows, K, positions, W) each; None until the first step."""

    keys: Tensor
    values: Tensor

    def __init__(self, owner: RowCache) -> None:
        super().__init__()
        self.owner = owner

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        heads, width = key_states.shape[-3], key_states.shape[-1]
        shape = (self.owner.row_capacity, heads, self.owner.capacity)
        self.keys = key_states.new_zeros(*shape, width)
        self.values = value_states.new_zeros(*shape, value_states.shape[-1])
        self.is_initialized = True

    def reserve(self, like: Tensor) -> None:
        """Make room for the owner's rows and positions."""
        if not self.is_initialized:
            self.lazy_initialization(like, like)
        rows = self.owner.row_capacity - self.keys.shape[0]
        positions = self.owner.capacity - self.keys.shape[2]
        if rows > 0 or positions > 0:
            more = (0, 0, 0, max(0, positions), 0, 0, 0, max(0, rows))
            self.keys, self.values = F.pad(self.keys, more), F.pad(self.values, more)

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: object, **kwargs: object
    ) -> tuple[Tensor, Tensor]:
        self.reserve(key_states)
        owner = self.owner
        keys, values = self.keys[owner.rows], self.values[owner.rows]
        if isinstance(owner.places, slice):
            keys[:, :, owner.places], values[:, :, owner.places] = key_states, value_states
        else:
            keys[owner.places] = key_states.transpose(1, 2)
            values[owner.places] = value_states.transpose(1, 2)
        return keys[:, :, : owner.end], values[:, :, : owner.end]

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.owner.end, 0

    def get_seq_length(self) -> int:
        return self.owner.end

    def get_max_length(self) -> int:
        return -1


def _room(held: int, needed: int, block: int) -> int:
    """Places to hold: those held, or at least a quarter more, in whole blocks, as each growth copies all."""
    return held if needed <= held else -(-max(needed, held + held // 4) // block) * block


def _additive(visible: Tensor, dtype: torch.dtype) -> Tensor:
    """Mask that is added to attention scores: 0 where a position is visible, the type's lowest number elsewhere."""
    return torch.zeros(visible.shape, dtype=dtype, device=visible.device).masked_fill(~visible, torch.finfo(dtype).min)
