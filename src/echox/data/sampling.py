"""Batches of items of similar lengths, in a random order that is the same for every rank and every restart."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from typing import Literal, TypeVar

Item = TypeVar("Item")


class BucketBatchSampler:
    """Yield lists of indices whose items have similar lengths, in shuffled order, deterministic per epoch.

    Items are shuffled and sorted within large pools by length, cut into batches, and the batches shuffled. Padding is
    small, and the items of a batch differ from epoch to epoch. All ranks compute the same plan and take its batches
    round robin, each rank the same number (if it does not divide, the last batches come twice, or are left out with
    ``drop_last``).

    A sampler can stop and continue: ``state_dict`` counts the batches this rank has taken of the epoch; the iteration
    after ``load_state_dict`` starts there. A finished epoch starts over; ``set_epoch`` moves to another.

    Items of shards are read where they are, so those of a few shards come one after the other: shards are shuffled, and
    items and batches within `window_shards` of them.

    Args:
        lengths: Length of each item (any unit; seconds, frames, tokens).
        batch_size: Items of a batch, or the largest sum of lengths with ``by="total_length"`` (an item longer than
            that makes a batch of its own).
        seed: Decides all orders, together with the epoch.
        by: What ``batch_size`` counts. With "total_length" the sum counts padding: items x longest.
        world_size: Number of ranks.
        rank: This rank.
        drop_last: Leave out the short last batch of a pool, and batches the ranks cannot share evenly.
        pool_batches: How many batches of items are sorted together; larger pads less, smaller mixes more.
        also: Other lengths of the items, and the largest sum of a batch, counted as with "total_length"; as well.
        shards: The shard of each item, by any number; None: they are not in shards.
        window_shards: How many shards are mixed.

    Raises:
        ValueError: No items, a batch size below or at 0, a rank outside the world, or an unknown ``by``.
    """

    def __init__(
        self,
        lengths: Sequence[float],
        batch_size: float,
        seed: int = 0,
        by: Literal["items", "total_length"] = "items",
        world_size: int = 1,
        rank: int = 0,
        drop_last: bool = False,
        pool_batches: int = 50,
        also: tuple[Sequence[float], float] | None = None,
        shards: Sequence[int] | None = None,
        window_shards: int = 8,
    ) -> None:
        if not lengths:
            raise ValueError("lengths: expected at least one item, found none; is the manifest empty?")
        if batch_size <= 0 or (by == "items" and batch_size != int(batch_size)):
            raise ValueError(f"batch_size: expected a positive number (whole for by='items'), found {batch_size}")
        if by not in ("items", "total_length"):
            raise ValueError(f"by: expected 'items' or 'total_length', found {by!r}; choose one")
        if not 0 <= rank < world_size:
            raise ValueError(f"rank: expected 0 to {world_size - 1}, found {rank}; check the launcher's environment")
        self.lengths = list(lengths)
        self.batch_size = batch_size
        self.seed = seed
        self.by = by
        self.world_size = world_size
        self.rank = rank
        self.drop_last = drop_last
        self.pool_batches = pool_batches
        self.window_shards = window_shards
        self._limits = ([(self.lengths, batch_size)] if by == "total_length" else []) + ([also] if also else [])
        self._of_shard: dict[int, list[int]] | None = None
        if shards is not None:
            self._of_shard = {}
            for index, shard in enumerate(shards):
                self._of_shard.setdefault(shard, []).append(index)
        self.epoch = 0
        self._taken = 0
        self._plan: tuple[int, list[list[int]]] | None = None

    def set_epoch(self, epoch: int) -> None:
        """Move to the start of another epoch; the current one changes nothing, so that a resumed run continues."""
        if epoch != self.epoch:
            self.epoch, self._taken = epoch, 0

    def state_dict(self) -> dict[str, int]:
        """Return the epoch and how many batches of it this rank has taken."""
        return {"epoch": self.epoch, "taken": self._taken}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Continue from ``state``."""
        self.epoch, self._taken = int(state["epoch"]), int(state["taken"])

    def __len__(self) -> int:
        """Return the number of batches of this rank in the current epoch."""
        return len(self._batches())

    def __iter__(self) -> Iterator[list[int]]:
        """Yield the batches of this rank that are left in the current epoch."""
        batches = self._batches()
        if self._taken >= len(batches):
            self._taken = 0
        while self._taken < len(batches):
            self._taken += 1  # counted before the batch is yielded: a state saved now includes it
            yield batches[self._taken - 1]

    def _batches(self) -> list[list[int]]:
        if self._plan is None or self._plan[0] != self.epoch:
            self._plan = (self.epoch, self._plan_epoch())
        return self._plan[1]

    def _plan_epoch(self) -> list[list[int]]:
        rng = random.Random(f"bucket batches {self.seed} {self.epoch}")
        pool_size = self._pool_size()
        batches: list[list[int]] = []
        for window in self._windows(rng):
            rng.shuffle(window)
            found: list[list[int]] = []
            for start in range(0, len(window), pool_size):
                pool = sorted(window[start : start + pool_size], key=lambda index: self.lengths[index])
                found += self._cut(pool)
            rng.shuffle(found)
            batches += found
        whole = len(batches) - len(batches) % self.world_size
        if self.drop_last and whole:
            batches = batches[:whole]
        elif whole != len(batches):
            missing = self.world_size - (len(batches) - whole)
            batches += [batches[index % len(batches)] for index in range(missing)]
        return batches[self.rank :: self.world_size]

    def _windows(self, rng: random.Random) -> Iterator[list[int]]:
        """Items that are mixed with each other."""
        if self._of_shard is None:
            yield list(range(len(self.lengths)))
            return
        order = list(self._of_shard)
        rng.shuffle(order)
        for start in range(0, len(order), self.window_shards):
            yield [index for shard in order[start : start + self.window_shards] for index in self._of_shard[shard]]

    def _pool_size(self) -> int:
        if self.by == "items":
            per_batch = int(self.batch_size)
        else:
            mean = sum(self.lengths) / len(self.lengths)
            per_batch = max(1, int(self.batch_size / max(mean, 1e-9)))
        return per_batch * self.pool_batches

    def _cut(self, pool: list[int]) -> list[list[int]]:
        """Cut a pool, sorted by length, into batches."""
        batches: list[list[int]] = []
        batch: list[int] = []
        longest: list[float] = []  # by each limit: all items of a batch are padded to it
        for index in pool:
            own = [lengths[index] for lengths, _ in self._limits]
            longest = [max(pair) for pair in zip(longest, own, strict=True)] if batch else own
            size = len(batch) + 1
            full = self.by == "items" and size > self.batch_size
            full |= any(size * length > limit for length, (_, limit) in zip(longest, self._limits, strict=True))
            if batch and full:
                batches.append(batch)
                batch, longest = [], own
            batch.append(index)
        if batch and not (self.drop_last and batches and self.by == "items" and len(batch) < self.batch_size):
            batches.append(batch)
        return batches


def spread(items: Sequence[Item], limit: int) -> list[Item]:
    """At most `limit` items, evenly spaced."""
    count = min(limit, len(items))
    return [items[place * len(items) // count] for place in range(count)]


def in_chunks(items: Sequence[Item], size: int) -> list[list[Item]]:
    """The items in lists of `size`; the last one may be shorter."""
    return [list(items[start : start + size]) for start in range(0, len(items), size)]
