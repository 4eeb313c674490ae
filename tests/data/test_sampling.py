"""Bucketed batches: every item once, similar lengths together, the same after a restart and over ranks."""

import random
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from echox.data.sampling import BucketBatchSampler

_rng = random.Random(3)
LENGTHS = [_rng.uniform(1, 30) for _ in range(400)]


@settings(max_examples=40, deadline=None)
@given(
    lengths=st.lists(st.floats(0.1, 50), min_size=1, max_size=80),
    batch=st.integers(1, 9),
    world=st.integers(1, 3),
    by=st.sampled_from(["items", "total_length"]),
)
def test_all_ranks_together_see_every_item(lengths, batch, world, by):
    size = batch if by == "items" else batch * 10.0
    ranks = [list(BucketBatchSampler(lengths, size, by=by, world_size=world, rank=r)) for r in range(world)]
    assert len({len(batches) for batches in ranks}) == 1
    seen = Counter(index for batches in ranks for each in batches for index in each)
    assert set(seen) == set(range(len(lengths)))
    if world == 1:
        assert set(seen.values()) == {1}
    for batches in ranks:
        for each in batches:
            if by == "items":
                assert len(each) <= batch
            else:
                assert len(each) == 1 or len(each) * max(lengths[i] for i in each) <= size


def test_batches_have_similar_lengths():
    real = sum(LENGTHS)
    padded = sum(len(b) * max(LENGTHS[i] for i in b) for b in BucketBatchSampler(LENGTHS, 8))
    assert padded < 1.1 * real


def test_order_depends_on_seed_and_epoch_only():
    sampler = BucketBatchSampler(LENGTHS, 8, seed=1)
    first = list(sampler)
    assert first == list(sampler) == list(BucketBatchSampler(LENGTHS, 8, seed=1))
    assert first != list(BucketBatchSampler(LENGTHS, 8, seed=2))
    sampler.set_epoch(1)
    assert first != list(sampler)
    sampler.set_epoch(0)
    assert first == list(sampler)


def test_batches_come_in_shuffled_length_order():
    longest = [max(LENGTHS[i] for i in batch) for batch in BucketBatchSampler(LENGTHS, 8)]
    assert longest != sorted(longest)


@pytest.mark.parametrize("taken", [0, 1, 7, 50])
def test_resumes_where_it_stopped(taken):
    sampler = BucketBatchSampler(LENGTHS, 8, seed=4)
    sampler.set_epoch(2)
    everything = list(sampler)
    stopped = BucketBatchSampler(LENGTHS, 8, seed=4)
    stopped.set_epoch(2)
    batches = iter(stopped)
    for _ in range(taken):
        next(batches)
    resumed = BucketBatchSampler(LENGTHS, 8, seed=4)
    resumed.load_state_dict(stopped.state_dict())
    resumed.set_epoch(2)
    rest = everything[taken:] if taken < len(everything) else everything
    assert list(resumed) == rest
    assert list(resumed) == everything, "a finished epoch starts over"


def test_drop_last_keeps_batches_full_and_ranks_even():
    ranks = [list(BucketBatchSampler(LENGTHS[:103], 8, world_size=2, rank=r, drop_last=True)) for r in range(2)]
    assert len(ranks[0]) == len(ranks[1]) == 6
    assert {len(batch) for batches in ranks for batch in batches} == {8}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([], 2), "lengths"),
        (([1.0], 0), "batch_size"),
        (([1.0], 1.5), "batch_size"),
        (([1.0], 1, 0, "bytes"), "by"),
        (([1.0], 1, 0, "items", 2, 2), "rank"),
    ],
)
def test_bad_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        BucketBatchSampler(*arguments)


def test_two_lengths_limit_a_batch():
    """As seconds and tokens: either may be the one that fills it."""
    tokens = [_rng.randint(1, 60) for _ in LENGTHS]
    batches = list(BucketBatchSampler(LENGTHS, 120.0, by="total_length", also=(tokens, 200)))
    assert sorted(index for batch in batches for index in batch) == list(range(len(LENGTHS)))
    full_by = set()
    for batch in batches:
        seconds, words = (len(batch) * max(values[i] for i in batch) for values in (LENGTHS, tokens))
        assert len(batch) == 1 or (seconds <= 120 and words <= 200)
        full_by |= {"seconds"} if seconds > 100 else set()
        full_by |= {"tokens"} if words > 170 else set()
    assert full_by == {"seconds", "tokens"}
    assert all(len(batch) <= 3 for batch in BucketBatchSampler(LENGTHS, 3, also=(tokens, 200)))


def test_items_of_few_shards_are_read_at_a_time():
    shards = [index // 20 for index in range(len(LENGTHS))]
    sampler = BucketBatchSampler(LENGTHS, 8, shards=shards, window_shards=4, pool_batches=5)
    for epoch in range(2):
        sampler.set_epoch(epoch)
        order = [index for batch in sampler for index in batch]
        assert sorted(order) == list(range(len(LENGTHS)))
        open_at = [{shards[index] for index in order[start : start + 80]} for start in range(0, 400, 80)]
        assert all(len(shards_of_window) == 4 for shards_of_window in open_at)
        mixed = [{shards[index] for index in batch} for batch in sampler]
        assert sum(map(len, mixed)) / len(mixed) > 2, "a batch has items of several shards"
    again = BucketBatchSampler(LENGTHS, 8, shards=shards, window_shards=4, pool_batches=5)
    again.set_epoch(1)
    again.load_state_dict({"epoch": 1, "taken": 20})
    assert [index for batch in again for index in batch] == order[-sum(map(len, list(sampler)[20:])) :]
