"""The sampler: greedy, nucleus, and a random number of its own for each row of a batch."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from echox.models.decoding.sampling import choose, nucleus

LOGITS = torch.tensor([3.0, 2.0, 1.0, -2.0])


def draw(
    uniforms: list[float], temperature: float = 1.0, top_p: float = 1.0, logits: torch.Tensor = LOGITS
) -> list[int]:
    rows = len(uniforms)
    return nucleus(
        logits.expand(rows, -1), torch.full((rows,), temperature), torch.full((rows,), top_p), torch.tensor(uniforms)
    ).tolist()


def test_greedy_takes_the_first_of_the_largest():
    assert draw([0.0, 0.99], temperature=0.0, logits=torch.tensor([0.0, 2.0, 2.0])) == [1, 1]


def test_samples_follow_the_distribution_and_keep_to_the_nucleus():
    uniforms = [(place + 0.5) / 1000 for place in range(1000)]
    counts = torch.bincount(torch.tensor(draw(uniforms)), minlength=4) / 1000
    torch.testing.assert_close(counts, LOGITS.softmax(-1), atol=2e-3, rtol=0)
    assert set(draw(uniforms, top_p=0.7)) == {0, 1}  # 0.64 + 0.24
    assert set(draw(uniforms, top_p=0.01)) == {0}


@given(st.lists(st.floats(0, 1, exclude_max=True), min_size=1, max_size=6), st.floats(0.1, 3), st.floats(0.01, 1))
def test_a_row_draws_what_it_draws_alone(uniforms, temperature, top_p):
    together = draw(uniforms, temperature, top_p)
    assert together == [draw([uniform], temperature, top_p)[0] for uniform in uniforms]


def test_the_last_number_draws_nothing_impossible():
    logits = torch.tensor([0.0, 0.0, -torch.inf])
    assert draw([1 - 1e-16, 0.999999], logits=logits)[0] in (0, 1)


def test_seeds_repeat_and_settings_are_checked():
    rows = LOGITS.expand(60, -1)
    one, same, other = (
        choose(rows, True, 1.0, 1.0, torch.Generator().manual_seed(seed)).tolist() for seed in (3, 3, 4)
    )
    assert one == same != other
    for temperature, top_p in ((0.0, 1.0), (1.0, 0.0), (1.0, 1.5)):
        with pytest.raises(ValueError, match="temperature"):
            choose(rows, True, temperature, top_p, None)


@pytest.mark.parametrize("temperature", [5e-324, 1e-300, 1e-45, 1e-38, 1e-7])
@pytest.mark.parametrize("top_p", [1.0, 1e-6])
def test_the_coldest_temperatures_choose_the_most_likely(temperature, top_p):
    logits = torch.tensor([[-30.0, 11.0, 12.0, 3.0]])
    choices = torch.tensor([[temperature], [top_p], [0.5]], dtype=torch.float64)
    assert nucleus(logits, *choices).tolist() == [2]
