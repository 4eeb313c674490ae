"""Greedy writing of many rows at once with any causal language model; a row that has ended costs nothing more.

Letters: B rows, L positions of a prompt, R tokens of a row, H width of the language model.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence


@dataclass
class WrittenRow:
    """What one row wrote.

    Attributes:
        token_ids: R, without the end. states: (R, H) those that predict them.
        ended: whether it came to an end within the limit.
    """

    token_ids: list[int]
    states: Tensor
    ended: bool


@torch.inference_mode()
def write_rows(
    base: nn.Module,
    prompts: Sequence[Tensor],
    head: nn.Module,
    embedding: Callable[[Tensor], Tensor],
    ends: Collection[int],
    limit: int,
) -> list[WrittenRow]:
    """Continue prompts greedily.

    Args:
        base: a causal language model of transformers without its head.
        prompts: (L, H) of each row, of any lengths.
        head: states (B, H) to scores of tokens.
        embedding: token ids (B,) to inputs (B, H) of the language model.
        ends: token ids that end a row.
        limit: tokens of a row.
    """
    inputs = pad_sequence(list(prompts), batch_first=True, padding_side="left")
    ones = [torch.ones(len(prompt), dtype=torch.long, device=inputs.device) for prompt in prompts]
    seen = pad_sequence(ones, batch_first=True, padding_side="left")
    positions, memory = (seen.cumsum(1) - 1).clamp_min(0), None
    written: list[list[int]] = [[] for _ in prompts]
    states: list[list[Tensor]] = [[] for _ in prompts]
    writing = list(range(len(prompts)))
    stops = torch.tensor(sorted(ends), device=inputs.device)
    for _ in range(limit):
        output = base(
            inputs_embeds=inputs,
            attention_mask=seen,
            position_ids=positions,
            past_key_values=memory,
            use_cache=True,
        )
        memory = output.past_key_values
        predicting = output.last_hidden_state[:, -1]
        tokens = head(predicting).argmax(-1)
        going = (~torch.isin(tokens, stops)).nonzero().flatten()
        if len(going) < len(tokens):
            memory.batch_select_indices(going)
            tokens, predicting, seen, positions = tokens[going], predicting[going], seen[going], positions[going]
            writing = [writing[place] for place in going.tolist()]
        if not writing:
            break
        for row, token, state in zip(writing, tokens.tolist(), predicting, strict=True):
            written[row].append(token)
            states[row].append(state)
        inputs = embedding(tokens)[:, None]
        seen, positions = torch.cat([seen, seen.new_ones(len(seen), 1)], 1), positions[:, -1:] + 1
    nothing = inputs.new_zeros(0, inputs.shape[2])
    return [
        WrittenRow(row, torch.stack(row_states) if row_states else nothing, place not in writing)
        for place, (row, row_states) in enumerate(zip(written, states, strict=True))
    ]
