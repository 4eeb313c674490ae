"""Moonshine's decoder as a recogniser: greedy, batched over windows, with key-value memories, one token a step.

A draft of a single window, such as what was heard before a little more audio came, is checked in one step: of its
tokens those stay that the decoder would have written itself, and it goes on after them.

Letters: W windows, F frames, N tokens, D width, J heads, E width of a head.

Source: Moonshine (https://arxiv.org/abs/2410.15608); transformers' implementation; of checking drafts Leviathan et al.
2023 (https://arxiv.org/abs/2211.17192), here greedy.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import MoonshineConfig, PreTrainedConfig
from transformers.models.moonshine.modeling_moonshine import (
    MoonshineAttention,
    MoonshineDecoder,
    MoonshineDecoderLayer,
    apply_rotary_pos_emb,
)

from echox.models.towers.base import EncodedWindows, Recognised, Recogniser
from echox.models.towers.monotonic import token_frames


class MoonshineRecogniser(MoonshineDecoder, Recogniser):
    """Moonshine's decoder, with the same weights and state-dict names; its head is its embedding."""

    def __init__(self, config: PreTrainedConfig) -> None:
        assert isinstance(config, MoonshineConfig)
        super().__init__(config)
        eos = config.eos_token_id
        self.end_ids = frozenset(eos if isinstance(eos, list) else [] if eos is None else [eos])

    @property
    def width(self) -> int:
        """See `Recogniser`."""
        return int(self.config.hidden_size)

    def transcribe_gradually(
        self, windows: EncodedWindows, max_tokens: Sequence[int], draft: Sequence[int] = ()
    ) -> Generator[None, None, list[Recognised]]:
        """See `Recogniser`."""
        memory = [_Memory.of(layer, windows.states) for layer in self._decoder_layers()]
        rows, device = len(max_tokens), windows.states.device
        hidden_frames = None if bool(windows.mask.all()) else ~windows.mask[:, None, None]
        start = torch.full((rows, 1), self.config.decoder_start_token_id, device=device)
        block = torch.cat([start, torch.tensor([list(draft)], device=device)], 1) if draft and rows == 1 else start
        ends = torch.tensor(sorted(self.end_ids), device=device)
        limits = torch.tensor(max_tokens, device=device)
        lengths = torch.zeros(rows, dtype=torch.long, device=device)
        going = limits > 0
        written: list[Tensor] = []
        states: list[Tensor] = []
        seen: list[Tensor] = []
        while bool(going.any()):
            yield
            state, attention = self._step(block, len(written), memory, hidden_frames)
            found = F.linear(state, self.embed_tokens.weight).argmax(dim=-1)  # (W, N)
            right = int((block[0, 1:] == found[0, :-1]).cumprod(0).sum())
            for place in range(1 + right):
                tokens = found[:, place]
                going = going & ~torch.isin(tokens, ends)
                written.append(tokens)
                states.append(state[:, place])
                seen.append(attention[:, place])
                lengths += going
                going = going & (lengths < limits)
                if not bool(going.any()):
                    break
            if 1 + right < block.shape[1]:
                for own in memory:
                    own.keep(len(written))
            block = written[-1][:, None]
        return _recognised(written, states, seen, lengths.tolist(), windows.mask.sum(dim=1).tolist())

    def _decoder_layers(self) -> list[MoonshineDecoderLayer]:
        return [layer for layer in self.layers if isinstance(layer, MoonshineDecoderLayer)]

    def _step(
        self, tokens: Tensor, place: int, memory: list[_Memory], hidden_frames: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """The states (W, N, D) after tokens (W, N) from a place on, and how much each frame was attended to (W, N, F).

        Several tokens only at the beginning.
        """
        hidden = self.embed_tokens(tokens)
        places = torch.arange(place, place + tokens.shape[1], device=hidden.device)
        rotary = self.rotary_emb(hidden, position_ids=places[None])
        attended = []
        for layer, own in zip(self._decoder_layers(), memory, strict=True):
            hidden = hidden + _attend_to_tokens(layer.self_attn, layer.input_layernorm(hidden), rotary, own)
            seen, weights = _attend_to_frames(
                layer.encoder_attn, layer.post_attention_layernorm(hidden), own, hidden_frames
            )
            hidden = hidden + seen
            hidden = hidden + layer.mlp(layer.final_layernorm(hidden))
            attended.append(weights)
        return self.norm(hidden), torch.stack(attended).mean(dim=0)


@dataclass
class _Memory:
    """Keys and values of one layer: of the frames (W, J, F, E), and of the tokens so far (W, J, N, E)."""

    frame_keys: Tensor
    frame_values: Tensor
    keys: Tensor | None = None
    values: Tensor | None = None

    @classmethod
    def of(cls, layer: MoonshineDecoderLayer, states: Tensor) -> _Memory:
        attention = layer.encoder_attn
        return cls(_heads(attention, attention.k_proj(states)), _heads(attention, attention.v_proj(states)))

    def add(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """All keys and values, with those of one more token."""
        self.keys = keys if self.keys is None else torch.cat([self.keys, keys], dim=2)
        self.values = values if self.values is None else torch.cat([self.values, values], dim=2)
        return self.keys, self.values

    def keep(self, tokens: int) -> None:
        """Forget the tokens after the first ones."""
        assert self.keys is not None
        assert self.values is not None
        self.keys, self.values = self.keys[:, :, :tokens], self.values[:, :, :tokens]


def _heads(attention: MoonshineAttention, projected: Tensor) -> Tensor:
    """(W, L, J * E) -> (W, J, L, E)."""
    return projected.unflatten(-1, (-1, attention.head_dim)).transpose(1, 2)


def _attend_to_tokens(
    attention: MoonshineAttention, hidden: Tensor, rotary: tuple[Tensor, Tensor], memory: _Memory
) -> Tensor:
    query, key = (_heads(attention, project(hidden)) for project in (attention.q_proj, attention.k_proj))
    query, key = apply_rotary_pos_emb(query, key, *rotary)
    keys, values = memory.add(key, _heads(attention, attention.v_proj(hidden)))
    seen = F.scaled_dot_product_attention(
        query, keys, values, is_causal=query.shape[2] > 1, scale=attention.scaling, enable_gqa=True
    )
    output: Tensor = attention.o_proj(seen.transpose(1, 2).flatten(2))
    return output


def _attend_to_frames(
    attention: MoonshineAttention, hidden: Tensor, memory: _Memory, hidden_frames: Tensor | None
) -> tuple[Tensor, Tensor]:
    """The output (W, N, D), and the weights of the frames (W, N, F), averaged over heads."""
    query = _heads(attention, attention.q_proj(hidden))
    scores = query @ memory.frame_keys.transpose(2, 3) * attention.scaling  # (W, J, N, F)
    if hidden_frames is not None:
        scores = scores.masked_fill(hidden_frames, float("-inf"))
    weights = scores.float().softmax(dim=-1)
    seen = weights.to(query.dtype) @ memory.frame_values
    return attention.o_proj(seen.transpose(1, 2).flatten(2)), weights.mean(dim=1)


def _recognised(
    written: list[Tensor], states: list[Tensor], seen: list[Tensor], lengths: list[int], frames: list[int]
) -> list[Recognised]:
    """The steps of all windows, as the result of each window."""
    if not written:
        return [Recognised([], torch.zeros(0, 0), []) for _ in lengths]
    ids, all_states, weights = torch.stack(written, 1), torch.stack(states, 1), torch.stack(seen, 1).cpu()
    return [
        Recognised(
            ids[row, :length].tolist(),
            all_states[row, :length],
            token_frames(weights[row, :length, : frames[row]].numpy()),
        )
        for row, length in enumerate(lengths)
    ]
