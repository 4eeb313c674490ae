"""Steps of the Llama inside a unit decoder: `LlamaModel` trains, a lean form of the same mathematics speaks.

One step of a small decoder is some thirty tiny matrix products; on a CPU the general machinery around them (masks,
cache objects, output classes) takes longer than they do. `LeanSteps` runs the same weights with fused projections and
a preallocated key-value memory, at half the time or less; a test holds it equal to `LlamaModel.forward`.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import LlamaModel


class LeanSteps:
    """Incremental decoding with a `LlamaModel`; owns the key-value memory of one generation (nothing is on the module).

    Rows may be padded on the left of the first `advance` only (a prompt); from then on all rows advance together.

    Args:
        backbone: the model; its weights are fused here once, so it must not change during the generation.
        batch: rows B.
        capacity: positions to make room for at first; the memory doubles when it is full.
    """

    def __init__(self, backbone: LlamaModel, batch: int, capacity: int = 256) -> None:
        config = backbone.config
        self.width = config.hidden_size
        self.heads, self.key_heads = config.num_attention_heads, config.num_key_value_heads
        self.head_width = backbone.layers[0].self_attn.head_dim
        self.eps = config.rms_norm_eps
        self.rotary = backbone.rotary_emb
        self.final_norm = backbone.norm.weight
        self.layers = [_fuse(layer) for layer in backbone.layers]
        self.length = 0
        self.visible: Tensor | None = None  # (B, capacity) bool, only when the prompt is padded
        self.offset: Tensor | None = None  # (B, 1) padding of every row
        weight = backbone.norm.weight
        self.memory = weight.new_zeros(len(self.layers), 2, batch, self.key_heads, capacity, self.head_width)
        self._tabulate_rotation(capacity, weight)

    def advance(self, inputs: Tensor, mask: Tensor | None = None) -> Tensor:
        """Hidden states (B, n, D), after the final norm, of the next n inputs (B, n, D).

        Args:
            inputs: input vectors.
            mask: (B, n) True where real; only at the first call, padding on the left.
        """
        batch, count, _ = inputs.shape
        start, end = self.length, self.length + count
        if end > self.memory.shape[4]:
            self._grow(end)
        if mask is not None and not bool(mask.all()):
            self.offset = (~mask).sum(1, keepdim=True)
            self.visible = F.pad(mask, (0, self.memory.shape[4] - count), value=True)
        cos, sin = self._rotation(start, end)
        attention_mask = self._attention_mask(start, end, inputs.device)
        x = inputs.reshape(batch * count, self.width)
        for number, (norm_in, qkv, out, norm_ff, gate_up, down) in enumerate(self.layers):
            joint = F.linear(F.rms_norm(x, (self.width,), norm_in, self.eps), qkv)
            joint = joint.view(batch, count, self.heads + 2 * self.key_heads, self.head_width)
            turning, value = joint.split([self.heads + self.key_heads, self.key_heads], 2)
            first, second = turning.chunk(2, -1)
            turning = turning * cos + torch.cat((-second, first), -1) * sin  # rotary positions, "half" layout
            query, key = turning.split([self.heads, self.key_heads], 2)
            keys, values = self.memory[number].unbind(0)
            keys[:, :, start:end] = key.transpose(1, 2)
            values[:, :, start:end] = value.transpose(1, 2)
            mixed = F.scaled_dot_product_attention(
                query.transpose(1, 2), keys[:, :, :end], values[:, :, :end], attn_mask=attention_mask,
                enable_gqa=self.key_heads != self.heads,
            )  # fmt: skip
            x = x + F.linear(mixed.transpose(1, 2).reshape(batch * count, -1), out)
            gate, up = F.linear(F.rms_norm(x, (self.width,), norm_ff, self.eps), gate_up).chunk(2, -1)
            x = x + F.linear(F.silu(gate) * up, down)
        self.length = end
        return F.rms_norm(x, (self.width,), self.final_norm, self.eps).view(batch, count, self.width)

    def keep_rows(self, rows: Tensor) -> None:
        """Go on with these rows only (indices, ascending): finished rows cost nothing more."""
        self.memory = self.memory[:, :, rows]
        self.visible = None if self.visible is None else self.visible[rows]
        self.offset = None if self.offset is None else self.offset[rows]

    def _rotation(self, start: int, end: int) -> tuple[Tensor, Tensor]:
        """Cosines and sines, broadcastable to (B, n, heads, head width)."""
        if self.offset is None:
            return self.cos[start:end, None], self.sin[start:end, None]
        positions = (torch.arange(start, end, device=self.cos.device) - self.offset).clamp(min=0)
        return self.cos[positions].unsqueeze(2), self.sin[positions].unsqueeze(2)

    def _attention_mask(self, start: int, end: int, device: torch.device) -> Tensor | None:
        """(1 or B, 1, n, end) True where a new position may look; None when everywhere."""
        if end - start == 1:
            return None if self.visible is None else self.visible[:, None, None, :end]
        places = torch.arange(end, device=device)
        allowed = (places <= places[start:, None])[None, None]
        if self.visible is None:
            return allowed
        # A padded query sees itself, so that its softmax is defined; nobody ever looks at it.
        itself = places == places[start:, None]
        return (allowed & self.visible[:, None, None, :end]) | itself

    def _grow(self, needed: int) -> None:
        more = max(needed, 2 * self.memory.shape[4]) - self.memory.shape[4]
        self.memory = F.pad(self.memory, (0, 0, 0, more))
        if self.visible is not None:
            self.visible = F.pad(self.visible, (0, more), value=True)
        self._tabulate_rotation(self.memory.shape[4], self.memory)

    def _tabulate_rotation(self, capacity: int, like: Tensor) -> None:
        positions = torch.arange(capacity, device=like.device)[None]
        cos, sin = self.rotary(like.new_zeros(1), positions)
        self.cos, self.sin = cos[0], sin[0]


def _fuse(layer: torch.nn.Module) -> tuple[Tensor, ...]:
    attention, feed_forward = layer.self_attn, layer.mlp
    qkv = torch.cat([attention.q_proj.weight, attention.k_proj.weight, attention.v_proj.weight])
    gate_up = torch.cat([feed_forward.gate_proj.weight, feed_forward.up_proj.weight])
    return (layer.input_layernorm.weight, qkv, attention.o_proj.weight,
            layer.post_attention_layernorm.weight, gate_up, feed_forward.down_proj.weight)  # fmt: skip


def choose(
    logits: Tensor, do_sample: bool, temperature: float, top_p: float, generator: torch.Generator | None
) -> Tensor:
    """One output per row from logits (B, V): the largest, or a sample from the nucleus of mass `top_p`.

    Raises:
        ValueError: a temperature that is not positive, or `top_p` outside (0, 1].
    """
    if not do_sample:
        return logits.argmax(-1)
    if temperature <= 0 or not 0 < top_p <= 1:
        raise ValueError(f"expected temperature > 0 and 0 < top_p <= 1, found {temperature} and {top_p}; for the most "
                         "likely outputs use do_sample=False")  # fmt: skip
    probabilities = (logits.float() / temperature).softmax(-1)
    if top_p < 1:
        ordered, order = probabilities.sort(-1, descending=True)
        # Kept: every output before which less than top_p has been collected, so always the first.
        ordered = ordered.masked_fill(ordered.cumsum(-1) - ordered >= top_p, 0.0)
        probabilities = torch.zeros_like(probabilities).scatter(-1, order, ordered)
    return torch.multinomial(probabilities, 1, generator=generator).squeeze(-1)
