"""Fast incremental decoding of a Llama: `LlamaModel` is for training, `LeanSteps` for writing and speaking.

One step of a small decoder is about thirty very small matrix products; on a CPU the general code around them (masks,
cache objects, output classes) takes longer than the products. `LeanSteps` runs the same weights with fused projections
and a preallocated key-value memory, in half the time or less; a test compares it with `LlamaModel.forward`.

Its rows are independent: each has its own number of positions, may join or leave at any step, and may be truncated.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TypeGuard

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.distributed.tensor import DTensor
from transformers import LlamaModel
from transformers.models.llama.modeling_llama import LlamaDecoderLayer

from echox.models.decoding.lean_adapter import LeanAdapter, LowRankMap
from echox.models.decoding.row_cache import SavedRow

FUSED_LAYER_WEIGHTS = 16_000_000
"""Layers of at most this many weights are fused. Fusing copies weights, and does not help large products."""


UpdateCache = Callable[[int, Tensor, Tensor], tuple[Tensor, Tensor]]


class LeanWeights:
    """The weights of a `LlamaModel` as `LeanSteps` reads them; made once, shared by any number of memories.

    Args:
        backbone: the model; small layers are copied here, so it must not change while this is in use.
        adapters: that rows may have, one each, by name; None: there are none.
    """

    def __init__(self, backbone: LlamaModel, adapters: Mapping[str, LeanAdapter] | None = None) -> None:
        config = backbone.config
        self.width = config.hidden_size
        self.heads = config.num_attention_heads
        self.key_heads = config.num_key_value_heads or config.num_attention_heads
        self.eps = config.rms_norm_eps
        self.rotary = backbone.rotary_emb
        self.final_norm = backbone.norm.weight
        layers = _layers(backbone)
        self.head_width: int = layers[0].self_attn.head_dim
        self.layers = [_LeanLayer(layer) for layer in layers]
        self.adapters = dict(adapters or {})
        self._added: dict[str, list[dict[str, LowRankMap]]] = {}  # of each adapter, once it is read

    def read_adapter(self, name: str) -> list[dict[str, LowRankMap]]:
        """What an adapter adds, by layer and map; read at the first call.

        Raises:
            ValueError: as `LeanAdapter.layers`.
        """
        if name not in self._added:
            self._added[name] = self.adapters[name].layers(self.final_norm)
        return self._added[name]

    def run(
        self,
        inputs: Tensor,
        cos: Tensor,
        sin: Tensor,
        mask: Tensor | None,
        update_cache: UpdateCache,
        adapted: Mapping[str, Tensor] | None = None,
    ) -> Tensor:
        """All layers.

        Args:
            inputs: (B, n, D).
            cos: of the rotation, to broadcast over (B, n, heads, head width).
            sin: likewise, the first half negated.
            mask: to broadcast over (B, heads, n, L), True where a position may be seen; None for everywhere.
            update_cache: function of a layer's number and keys and values (B, n, key heads, head width) of the inputs;
                it stores them and returns all keys and values to attend to, (B, key heads, L, head width) both.
            adapted: (B, 1) bool by adapter, which rows have it; None: none has any.

        Returns:
            (B, n, D), after the final norm.
        """
        batch, count, width = inputs.shape
        x = inputs.reshape(batch * count, width)
        chosen = [
            (rows.repeat_interleave(count, 0), self.read_adapter(adapter)) for adapter, rows in (adapted or {}).items()
        ]

        def apply(number: int, name: str, x: Tensor) -> Tensor:
            output: Tensor = getattr(self.layers[number], name)(x)
            for rows, added in chosen:
                output = torch.where(rows, output + added[number][name](x), output)
            return output

        for number, layer in enumerate(self.layers):
            joint = apply(number, "qkv", F.rms_norm(x, (width,), layer.norm_in, self.eps))
            joint = joint.view(batch, count, self.heads + 2 * self.key_heads, self.head_width)
            turning, value = joint.split([self.heads + self.key_heads, self.key_heads], 2)
            # Rotary positions, "half" layout: (first, second) cos + (-second, first) sin, the sign in the table.
            turning = torch.addcmul(turning * cos, turning.roll(self.head_width // 2, -1), sin)
            query, key = turning.split([self.heads, self.key_heads], 2)
            keys, values = update_cache(number, key, value)
            mixed = F.scaled_dot_product_attention(
                query.transpose(1, 2), keys, values, attn_mask=mask, enable_gqa=self.key_heads != self.heads
            )
            x = x + apply(number, "out", mixed.transpose(1, 2).reshape(batch * count, -1))
            gate, up = apply(number, "gate_up", F.rms_norm(x, (width,), layer.norm_ff, self.eps)).chunk(2, -1)
            x = x + apply(number, "down", layer.activation(gate) * up)
        return F.rms_norm(x, (width,), self.final_norm, self.eps).view(batch, count, width)


class LeanSteps:
    """Incremental decoding with a `LlamaModel`; holds the key-value memory (the module holds none).

    Args:
        weights: of the model, or the model itself.
        rows: initial number of empty rows; more may `join`.
        capacity: initial number of positions; the memory doubles when it is full.
    """

    def __init__(self, weights: LeanWeights | LlamaModel, rows: int = 0, capacity: int = 256) -> None:
        self.weights = weights if isinstance(weights, LeanWeights) else LeanWeights(weights)
        self.lengths = [0] * rows
        self.adapters: list[str | None] = [None] * rows
        own = self.weights
        self.memory = own.final_norm.new_zeros(
            len(own.layers), 2, max(1, rows), own.key_heads, capacity, own.head_width
        )
        self._tabulate_rotation(capacity)

    def advance(self, inputs: Tensor, counts: Sequence[int] | None = None, first_row: int = 0) -> Tensor:
        """Hidden states (B, n, D), after the final norm, of the next inputs (B, n, D) of B neighbouring rows.

        Args:
            inputs: input vectors.
            counts: number of real inputs of each row, which come first; the outputs of the others have no meaning and
                they are not stored (0: the row is only there to fill the batch). None: all n.
            first_row: the first of the B rows.
        """
        batch, count, _ = inputs.shape
        rows = slice(first_row, first_row + batch)
        starts = self.lengths[rows]
        end = max(starts) + count
        if end > self.memory.shape[4]:
            self._grow(end)
        places, cos, sin, mask = self._positions(starts, count)

        def update_cache(number: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
            keys, values = self.memory[number, :, rows].unbind(0)
            if isinstance(places, slice):
                keys[:, :, places] = key.transpose(1, 2)
                values[:, :, places] = value.transpose(1, 2)
            else:
                keys[places] = key
                values[places] = value
            return keys[:, :, :end], values[:, :, :end]

        hidden = self.weights.run(inputs, cos, sin, mask, update_cache, self._adapted(rows))
        self.lengths[rows] = [start + (count if counts is None else counts[row]) for row, start in enumerate(starts)]
        return hidden

    def _adapted(self, rows: slice) -> dict[str, Tensor]:
        """(B, 1) bool by adapter: which of these rows have it; only those that some row has."""
        found = self.adapters[rows]
        return {
            name: torch.tensor([one == name for one in found], device=self.memory.device)[:, None]
            for name in self.weights.adapters
            if name in found
        }

    def join(self, saved: SavedRow | None = None, adapter: str | None = None) -> int:
        """Add a row at the end, empty or from a saved one; returns its number.

        Args:
            saved: of a row with the same adapter.
            adapter: the one of the weights that it has; None: none.

        Raises:
            ValueError: the weights have no such adapter.
        """
        if adapter is not None and adapter not in self.weights.adapters:
            raise ValueError(f"adapter: expected one of {list(self.weights.adapters)} or None, found {adapter!r}")
        row = len(self.lengths)
        self.adapters.append(adapter)
        if row == self.memory.shape[2]:
            self.memory = F.pad(self.memory, (0, 0, 0, 0, 0, 0, 0, row))
        self.lengths.append(0)
        if saved is not None and saved.length:
            if saved.length > self.memory.shape[4]:
                self._grow(saved.length)
            self.memory[:, :, row, :, : saved.length] = torch.stack(saved.layers)
            self.lengths[row] = saved.length
        return row

    def save(self, row: int) -> SavedRow:
        """A copy of a row's keys and values."""
        length = self.lengths[row]
        return SavedRow(list(self.memory[:, :, row, :, :length].clone().unbind(0)), length)

    @property
    def num_bytes(self) -> int:
        """Allocated memory, including that of rows that have left."""
        return self.memory.nbytes

    def leave(self, row: int) -> int:
        """Remove a row. The last row gets its number, so that rows stay contiguous; returns that row's old number."""
        last = len(self.lengths) - 1
        if row != last:
            held = self.lengths[last]
            self.memory[:, :, row, :, :held] = self.memory[:, :, last, :, :held]
            self.lengths[row], self.adapters[row] = held, self.adapters[last]
        self.lengths.pop()
        self.adapters.pop()
        return last

    def clear(self, row: int) -> None:
        """Set a row to 0. Values that are not finite would reach later rows even from masked positions."""
        self.memory[:, :, row] = 0
        self.lengths[row] = 0

    def truncate(self, row: int, length: int) -> None:
        """Keep only the first `length` positions of a row."""
        self.lengths[row] = min(length, self.lengths[row])

    def keep_rows(self, rows: Tensor) -> None:
        """Keep only these rows (indices, ascending), so that finished rows cost no more time."""
        self.memory = self.memory[:, :, rows]
        self.lengths = [self.lengths[row] for row in rows.tolist()]
        self.adapters = [self.adapters[row] for row in rows.tolist()]

    def _positions(
        self, starts: Sequence[int], count: int
    ) -> tuple[slice | tuple[Tensor, slice, Tensor], Tensor, Tensor, Tensor | None]:
        """Where the new positions are written, cosines and sines of the rotation (to broadcast over (B, n, heads, head
        width)), and the attention mask: (1 or B, 1, n, end) bool, None for no mask.
        """
        device, end = self.memory.device, max(starts) + count
        if min(starts) == max(starts):
            start = starts[0]
            mask = None
            if count > 1:
                seen = torch.arange(end, device=device)
                mask = (seen <= seen[start:, None])[None, None]
            return slice(start, end), self.cos[start:end, None], self.sin[start:end, None], mask
        positions = torch.tensor(starts, device=device)[:, None] + torch.arange(count, device=device)  # (B, n)
        row = torch.arange(len(starts), device=device)[:, None]
        mask = (torch.arange(end, device=device) <= positions[:, :, None])[:, None]
        return (
            (row, slice(None), positions),
            self.cos[positions].unsqueeze(2),
            self.sin[positions].unsqueeze(2),
            mask,
        )

    def _grow(self, needed: int) -> None:
        more = max(needed, 2 * self.memory.shape[4]) - self.memory.shape[4]
        self.memory = F.pad(self.memory, (0, 0, 0, more))
        self._tabulate_rotation(self.memory.shape[4])

    def _tabulate_rotation(self, capacity: int) -> None:
        positions = torch.arange(capacity, device=self.memory.device)[None]
        cos, sin = self.weights.rotary(self.memory.new_zeros(1), positions)
        self.cos, self.sin = cos[0], sin[0]
        self.sin[:, : self.weights.head_width // 2].neg_()


class _LeanLayer:
    """One layer, with fused projections if it is small."""

    def __init__(self, layer: LlamaDecoderLayer) -> None:
        attention, mlp = layer.self_attn, layer.mlp
        self.norm_in, self.norm_ff = layer.input_layernorm.weight, layer.post_attention_layernorm.weight
        self.out, self.down = attention.o_proj, mlp.down_proj
        fuse = _num_weights(layer) <= FUSED_LAYER_WEIGHTS and _plain(layer)
        self.qkv = _Joint([attention.q_proj, attention.k_proj, attention.v_proj], fuse)
        self.gate_up = _Joint([mlp.gate_proj, mlp.up_proj], fuse)
        self.activation = mlp.act_fn


def is_plain(backbone: torch.nn.Module) -> TypeGuard[LlamaModel]:
    """Whether `LeanWeights` supports a decoder: a Llama of plain layers, or of ones with a ``joined``."""
    return type(backbone) is LlamaModel and all(map(_plain, _layers(backbone)))


def fits_fused(backbone: LlamaModel) -> bool:
    """Whether its layers are small enough to be fused."""
    return all(_num_weights(layer) <= FUSED_LAYER_WEIGHTS for layer in _layers(backbone))


def _layers(backbone: LlamaModel) -> list[LlamaDecoderLayer]:
    layers = []
    for layer in backbone.layers:
        assert isinstance(layer, LlamaDecoderLayer), "the layers of a Llama"
        layers.append(layer)
    return layers


def _num_weights(layer: torch.nn.Module) -> int:
    return sum(value.numel() for value in layer.parameters())


def _plain(layer: torch.nn.Module) -> bool:
    if any(isinstance(value, DTensor) for value in layer.parameters()):  # split over processes
        return False
    kinds = {type(one) for one in layer.modules() if _has_weight(one) and not _is_norm(one)}
    return all(kind is torch.nn.Linear or hasattr(kind, "joined") for kind in kinds)


def _has_weight(module: torch.nn.Module) -> bool:
    """Whether it has one, without computing that of a layer of few bits."""
    return hasattr(type(module), "weight") or "weight" in module._parameters or "weight" in module._buffers


def _is_norm(module: torch.nn.Module) -> bool:
    weight = module._parameters.get("weight")  # computed at each call in layers of few bits
    return weight is not None and weight.ndim == 1


class _Joint:
    """Several linear maps of one input, with concatenated outputs."""

    def __init__(self, maps: Sequence[torch.nn.Linear], fuse: bool) -> None:
        self.maps = maps
        join: Callable[..., Callable[[Tensor], Tensor]] | None = getattr(type(maps[0]), "joined", None)
        self.joined = join(maps) if fuse and join is not None else None
        fuse = fuse and join is None
        self.weight = torch.cat(tuple(one.weight for one in maps)) if fuse else None
        biases = [one.bias for one in maps]
        self.bias = torch.cat(tuple(biases)) if fuse and biases[0] is not None else None

    def __call__(self, x: Tensor) -> Tensor:
        if self.joined is not None:
            return self.joined(x)
        if self.weight is None:
            return torch.cat([one(x) for one in self.maps], -1)
        return F.linear(x, self.weight, self.bias)
