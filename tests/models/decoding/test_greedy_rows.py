"""Many rows written at once are what `generate` writes of each alone, with the states that predict their tokens."""

import pytest
import torch

from echox.models.decoding.greedy_rows import write_rows
from tiny_echox import tiny_echox


@pytest.mark.parametrize("limit", [1, 12])
def test_rows_are_written_as_alone(limit):
    model = tiny_echox(seed=3).model.eval().s2t.language_model
    embed, head = model.get_input_embeddings(), model.get_output_embeddings()
    prompts = [embed(torch.randint(5, 30, (length,))).detach() for length in (3, 9, 1, 6)]
    free = write_rows(model.base_model, prompts, head, embed, [], limit)
    assert all(len(row.token_ids) == limit and not row.ended for row in free)
    ends = {row.token_ids[place] for row, place in zip(free[:2], (0, limit // 2))}
    rows = write_rows(model.base_model, prompts, head, embed, ends, limit)
    assert rows[0].ended
    assert rows[0].states.shape == (0, embed.weight.shape[1])
    for row, prompt, whole in zip(rows, prompts, free, strict=True):
        expected = whole.token_ids
        stop = next((place for place, token in enumerate(expected) if token in ends), None)
        assert (row.token_ids, row.ended) == (expected[:stop], stop is not None)
        with torch.inference_mode():
            alone = model.generate(inputs_embeds=prompt[None], do_sample=False, max_new_tokens=limit, eos_token_id=None)
            assert alone[0].tolist() == expected
            said = embed(torch.tensor(row.token_ids, dtype=torch.long))
            states = model.base_model(inputs_embeds=torch.cat([prompt, said])[None]).last_hidden_state[0]
        first = len(prompt) - 1
        torch.testing.assert_close(row.states, states[first : first + len(row.token_ids)], atol=1e-4, rtol=1e-3)
