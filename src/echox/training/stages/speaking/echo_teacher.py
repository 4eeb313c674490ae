"""The teacher of stage "echo": the frozen T2C labels replies; of many batches together, and beside the training.

A frozen, greedy decoder takes as many steps for thirty segments as for three: what it costs is the longest. So the
segments of several batches are decoded together. A segment's unit words are a function of its tokens: which others are
decoded beside it, when, and in which thread changes the speed only.
"""

from __future__ import annotations

import functools
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor

from echox.models.t2c.modeling_t2c import T2CForUnitGeneration
from echox.training.stages.speaking.echo_targets import Asked, Labelled, Segments, Targets, joined, padded
from echox.training.stages.speaking.label_cache import Label, LabelCache

Name = tuple[int, ...]
"""What a segment's target is a function of: its tokens."""


class OnlineTargets(Targets):
    """The method: the frozen T2C's greedy decoding of the model's own reply, made during training.

    Labels may be cached: replies of a small corpus repeat. That a segment has no target is cached too: it cost the
    most steps. Only the speed changes.

    Args:
        t2c: the teacher.
        remember: number of segments in the cache; 0 = decode every time.
        max_unit_words: limit of a segment; a segment that is not finished by then has no target.
        cache: labels in a file, besides; None: in memory only.
        rows_together: most segments that are decoded at a time.
    """

    def __init__(
        self,
        t2c: T2CForUnitGeneration,
        remember: int = 50_000,
        max_unit_words: int = 512,
        cache: LabelCache | None = None,
        rows_together: int = 128,
    ) -> None:
        self.t2c, self.remember, self.max_unit_words, self.cache = t2c, remember, max_unit_words, cache
        self.rows_together = rows_together
        self._known: OrderedDict[Name, Label] = OrderedDict()

    def reply_ids(self, own_ids: Tensor, reference: Tensor) -> Tensor:
        """The model's own tokens."""
        return own_ids

    def begin(self, asked: Asked, ahead: bool = False) -> Callable[[], list[Labelled]]:
        """Decode what is new in all batches together; see `Targets.begin`."""
        parts = [segments for segments, _ in asked]
        names = [_names(segments) for segments in parts]
        everything = [name for part in names for name in part]
        found = self._find(everything)
        new = {name: row for row, name in enumerate(everything) if name not in found}
        decoded = self._begin(joined(parts).kept(list(new.values())), ahead) if new else list

        def finish() -> list[Labelled]:
            made = dict(zip(new, decoded(), strict=True))
            if made and self.cache is not None:
                self.cache.keep(made)
            labels = found | made
            self._keep(labels)
            return [
                padded(segments, [labels[name] for name in part]) for segments, part in zip(parts, names, strict=True)
            ]

        return finish

    def num_known(self, segments: Segments) -> int:
        """Segments in the cache."""
        names = _names(segments)
        found = self._find(names)
        return sum(name in found for name in names)

    def _begin(self, segments: Segments, ahead: bool) -> Callable[[], list[Label]]:
        if not ahead:
            return lambda: self._decode(segments)
        device = segments.token_ids.device
        asked = torch.cuda.current_stream(device).record_event() if device.type == "cuda" else None
        return self._thread.submit(self._decode_beside, segments, asked).result

    def _decode_beside(self, segments: Segments, asked: torch.cuda.Event | None) -> list[Label]:
        """In another thread; on a GPU in a stream of its own, after what was asked for is there."""
        if asked is None:
            return self._decode(segments)
        with torch.cuda.stream(self._stream):
            self._stream.wait_event(asked)
            return self._decode(segments)

    def _decode(self, segments: Segments) -> list[Label]:
        """The label of each segment, in the order given; those of similar lengths are decoded together."""
        labels: list[Label] = [([], []) for _ in range(len(segments))]
        order = (segments.token_ids >= 0).sum(1).argsort(stable=True).tolist()
        for start in range(0, len(order), self.rows_together):
            rows = order[start : start + self.rows_together]
            asked = segments.kept(rows)
            sequences = self.t2c.generate(
                asked.token_ids, asked.word_ids, max_unit_words=self.max_unit_words, word_letters=asked.word_letters
            )
            for row, sequence in zip(rows, sequences, strict=True):
                if sequence.finished:
                    labels[row] = sequence.unit_words, sequence.word_of
        return labels

    @functools.cached_property
    def _thread(self) -> ThreadPoolExecutor:
        return ThreadPoolExecutor(max_workers=1, thread_name_prefix="teacher")

    @functools.cached_property
    def _stream(self) -> torch.cuda.Stream:
        return torch.cuda.Stream(self.t2c.device)

    def _find(self, names: Sequence[Name]) -> dict[Name, Label]:
        """Labels at hand: in memory, then in the file."""
        found = {name: self._known[name] for name in names if name in self._known}
        if self.cache is not None and len(found) < len(set(names)):
            found |= self.cache.find(set(names) - found.keys())
        return found

    def _keep(self, found: Mapping[Name, Label]) -> None:
        for name, target in found.items():
            self._known[name] = target
            self._known.move_to_end(name)
        while len(self._known) > self.remember:
            self._known.popitem(last=False)


class OfflineTargets(OnlineTargets):
    """For comparison: the frozen T2C reads the reference reply instead of the model's own."""

    def reply_ids(self, own_ids: Tensor, reference: Tensor) -> Tensor:
        """The reference's tokens."""
        return reference


def _names(segments: Segments) -> list[Name]:
    return [tuple(token for token in row if token >= 0) for row in segments.token_ids.tolist()]
