"""Losses in chunks: the values and gradients of the plain ones, with the memory of one chunk."""

from __future__ import annotations

import weakref

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from echox.models.text.chunked_loss import ctc_losses, token_losses
from tolerance import assert_equal_up_to_rounding


def parts(rows: tuple[int, ...], vocabulary: int = 23, width: int = 6, seed: int = 0):
    generator = torch.Generator().manual_seed(seed)
    head = nn.Linear(width, vocabulary)
    with torch.no_grad():
        head.weight.copy_(torch.randn(vocabulary, width, generator=generator))
    return torch.randn(*rows, width, generator=generator, requires_grad=True), head, generator


def gradients(loss, states, head):
    return torch.autograd.grad(loss, [states, head.weight, head.bias])


@pytest.mark.parametrize("max_scores", [1, 23 * 4, 10**6])
def test_cross_entropy_equals_the_plain_one(max_scores):
    states, head, generator = parts((11,))
    targets = torch.randint(23, (11,), generator=generator)
    weights = torch.rand(11, generator=generator)
    losses, best = token_losses(states, head, targets, max_scores)
    plain = F.cross_entropy(head(states), targets, reduction="none")
    assert_equal_up_to_rounding(losses, plain)
    assert torch.equal(best, head(states).argmax(-1))
    for found, expected in zip(
        gradients((losses * weights).sum(), states, head), gradients((plain * weights).sum(), states, head), strict=True
    ):
        assert_equal_up_to_rounding(found, expected)


@given(
    seed=st.integers(0, 10_000),
    lengths=st.lists(st.tuples(st.integers(1, 9), st.integers(0, 6)), min_size=1, max_size=4),
    max_scores=st.sampled_from([1, 50, 10**6]),
)
def test_ctc_equals_the_plain_one(seed, lengths, max_scores):
    """Repeated labels, labels that do not fit, rows without labels, padded frames."""
    frames, head, generator = parts((len(lengths), max(frames for frames, _ in lengths)), seed=seed)
    longest = max(1, *(count for _, count in lengths))
    labels = torch.randint(1, 4, (len(lengths), longest), generator=generator)  # few: many repeats
    for row, (_, count) in enumerate(lengths):
        labels[row, count:] = -100
    valid = torch.tensor([count for count, _ in lengths])
    mask = torch.arange(frames.shape[1]) < valid[:, None]
    losses, best = ctc_losses(frames, head, mask, labels, 7, max_scores)
    plain = F.ctc_loss(
        head(frames).log_softmax(-1).transpose(0, 1),
        labels.clamp_min(0),
        valid,
        (labels >= 0).sum(1),
        blank=7,
        reduction="none",
        zero_infinity=True,
    )
    torch.testing.assert_close(losses, plain, rtol=1e-4, atol=1e-4)
    assert torch.equal(best, head(frames).argmax(-1))
    weights = torch.rand(len(lengths), generator=generator)
    for found, expected in zip(
        gradients((losses * weights).sum(), frames, head), gradients((plain * weights).sum(), frames, head), strict=True
    ):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def peak_bytes(vocabulary: int, max_scores: int) -> int:
    """Of a loss and its gradients with respect to the states, at 64 positions."""
    states, head, generator = parts((64,), vocabulary)
    targets = torch.randint(vocabulary, (64,), generator=generator)
    head.requires_grad_(False)
    with LiveBytes() as live:
        losses, _ = token_losses(states, head, targets, max_scores)
        losses.mean().backward()
    return live.most


def peak_bytes_ctc(vocabulary: int, max_scores: int) -> int:
    """Of a CTC loss and its gradients with respect to the frames, at 2 x 32 frames and 5 labels."""
    frames, head, generator = parts((2, 32), vocabulary)
    labels = torch.randint(1, vocabulary, (2, 5), generator=generator)
    head.requires_grad_(False)
    with LiveBytes() as live:
        losses, _ = ctc_losses(frames, head, torch.ones(2, 32).bool(), labels, 0, max_scores)
        losses.mean().backward()
    return live.most


@pytest.mark.parametrize("measure", [peak_bytes, peak_bytes_ctc])
def test_memory_does_not_grow_with_the_vocabulary(measure):
    plain = [measure(vocabulary, 10**9) for vocabulary in (2_000, 8_000, 32_000)]
    chunked = [measure(vocabulary, 32_000) for vocabulary in (2_000, 8_000, 32_000)]
    print(f"{measure.__name__}: plain {plain}, in chunks {chunked} bytes")
    assert plain[2] > 12 * plain[0]
    assert max(chunked) < 1.3 * min(chunked)
    assert chunked[2] < plain[2] / 10


class LiveBytes(TorchDispatchMode):
    """The most bytes of new tensors alive at once."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.most = 0
        self.seen: set[int] = set()

    def __torch_dispatch__(self, function, types, arguments=(), named=None):
        for value in torch.utils._pytree.tree_leaves(arguments):
            if isinstance(value, torch.Tensor):
                self.seen.add(value.untyped_storage()._cdata)  # was there before: views of it are nothing new
        result = function(*arguments, **(named or {}))
        for value in result if isinstance(result, tuple | list) else (result,):
            if isinstance(value, torch.Tensor):
                storage = value.untyped_storage()
                if storage._cdata not in self.seen:
                    self.seen.add(storage._cdata)
                    self.now += storage.nbytes()
                    weakref.finalize(storage, self._gone, storage._cdata, storage.nbytes())
                self.most = max(self.most, self.now)
        return result

    def _gone(self, key: int, size: int) -> None:
        self.seen.discard(key)
        self.now -= size
