"""Speech in parts: a vocoder that gets units in parts, and whose joined chunks equal its output for all units at once.

A sample is final when all that it depends on is known: the duration of its unit (which depends on
``config.receptive_field_units`` neighbours) and ``config.right_context_frames`` unit frames after it. `VocoderStream`
holds the state of one reply; the vocoder has no state, so one vocoder serves all streams, several in one batch.

Edges: before the first frame and after the last, layers read the same zeros as at the edges of a whole utterance (the
vocoders mask both). Between chunks they continue from the state of the frames before, so chunks join without a seam.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from echox.models.vocoder.modeling_unit_vocoder import NewFrames, UnitVocoder

SLOWEST, FASTEST = 0.25, 4.0
"""Range of the speed of a stream."""
_ENDLESS = torch.iinfo(torch.int64).max


class VocoderStream:
    """The waveform of one reply, made while its units arrive.

    Example:
        >>> stream = VocoderStream(vocoder)
        >>> stream.push([3, 17, 17, 4])
        >>> stream.finish()
        >>> [waveform] = VocoderStream.advance([stream])

    Args:
        vocoder: any unit vocoder, in evaluation mode.
        speaker_id: of a vocoder with several voices; None = its default voice.
        duration_lookahead_units: number of later units that a duration depends on; None = as many as the vocoder was
            trained with, and the sound equals that of the whole. With fewer, sound starts earlier, and some durations
            differ: of nano (receptive field 12), with 4 units 4.5% of the units are a frame longer or shorter, with 7
            none (docs/performance.md). In any case chunks depend on the units alone, not on how they were pushed.
        speed: factor, `SLOWEST` to `FASTEST`. Predicted durations are divided by it and rounded without accumulated
            error; the pitch does not change, because the vocoder predicts it for each frame (length regulation of
            FastSpeech, arXiv 1905.09263, section 3.2). At high speeds some units have no frame.

    Raises:
        ValueError: a speaker that the vocoder does not have, a lookahead below 0, a speed out of range.
    """

    def __init__(
        self,
        vocoder: UnitVocoder,
        speaker_id: int | None = None,
        duration_lookahead_units: int | None = None,
        speed: float = 1.0,
    ) -> None:
        speakers = vocoder.config.num_speakers
        if speaker_id is not None and not 0 <= speaker_id < speakers:
            raise ValueError(f"speaker_id: expected one of {speakers} speakers, found {speaker_id}")
        if duration_lookahead_units is not None and duration_lookahead_units < 0:
            raise ValueError(f"duration_lookahead_units: expected at least 0, found {duration_lookahead_units}")
        if not SLOWEST <= speed <= FASTEST:
            raise ValueError(f"speed: expected {SLOWEST:g} to {FASTEST:g}, found {speed}; 1 is as trained")
        self.vocoder = vocoder
        self.speaker_id = speaker_id
        self.speed = speed
        self.finished = False
        # Read once, because access to a configuration is slow.
        self._right = int(vocoder.config.right_context_frames)
        self._reach = int(vocoder.config.receptive_field_units)
        self._trained_lookahead = int(vocoder.config.lookahead_units)
        self._lookahead = self._trained_lookahead
        if duration_lookahead_units is not None:
            self._lookahead = min(self._lookahead, duration_lookahead_units)
        self._samples_per_frame = int(vocoder.config.samples_per_frame)
        self._num_units = int(vocoder.config.num_units)
        # Reduced units from `_first` on: context of later durations, and units whose frames are not emitted yet.
        self._units: list[int] = []
        self._durations: list[int] = []  # frames of the first of them
        self._first = 0  # reduced units dropped from the front
        self._reduced_of_pushed: list[int] = []  # how many reduced units the first n + 1 pushed ones make
        self._ends_frames: list[int] = []  # end of each reduced unit whose duration is final
        self._predicted_frames = 0  # length of these units at speed 1
        self._fed_frames = 0
        self._emitted_frames = 0
        self._state: Any = vocoder.begin()  # a named tuple of the vocoder's own type

    # ------------------------------------------------------------------------------------------ input

    def push(self, units: Sequence[int]) -> None:
        """Add units that are final; equal neighbours count as one, also across calls.

        Raises:
            ValueError: an id beyond the inventory, or the stream is finished.
        """
        if self.finished:
            raise ValueError("push: expected a stream that is not finished, found a finished one; open a new one")
        wrong = [unit for unit in units if not 0 <= unit < self._num_units]
        if wrong:
            raise ValueError(f"units: expected ids from 0 to {self._num_units - 1}, found {wrong[:5]}")
        for unit in units:
            if not self._units or self._units[-1] != unit:
                self._units.append(int(unit))
            self._reduced_of_pushed.append(self._first + len(self._units))

    def finish(self) -> None:
        """No more units: the rest becomes final."""
        self.finished = True

    # ------------------------------------------------------------------------------------------ state

    @property
    def ready_frames(self) -> int:
        """Unit frames whose sound is final and not yet emitted."""
        self.time([self])
        return max(self._known_frames - self._emitted_frames - (0 if self.finished else self._right), 0)

    @property
    def done(self) -> bool:
        """Whether the stream is finished and all of it emitted."""
        return self.finished and not self.ready_frames

    @property
    def num_samples(self) -> int:
        """Samples emitted so far."""
        return self._emitted_frames * self._samples_per_frame

    @property
    def num_timed(self) -> int:
        """Number of pushed units whose end time is final."""
        self.time([self])
        return bisect_right(self._reduced_of_pushed, len(self._ends_frames))

    def end_s(self, count: int) -> float:
        """When the first `count` pushed units end, in seconds of emitted sound; units merged into one end together.

        Raises:
            ValueError: a count beyond `num_timed`.
        """
        timed = self.num_timed
        if not 0 <= count <= timed:
            raise ValueError(f"count: expected 0 to {timed}, the units whose time is final, found {count}")
        frames = self._ends_frames[self._reduced_of_pushed[count - 1] - 1] if count else 0
        return frames / self.vocoder.frame_rate_hz

    @property
    def _known_frames(self) -> int:
        return self._ends_frames[-1] if self._ends_frames else 0

    # ------------------------------------------------------------------------------------------ output

    @staticmethod
    @torch.inference_mode()
    def advance(streams: Sequence[VocoderStream], max_frames: int | None = None) -> list[np.ndarray]:
        """Emit the final samples of all streams, in one batch.

        Args:
            streams: of one vocoder, each once.
            max_frames: largest number of unit frames of each; None = all that are ready.

        Returns:
            The next samples of each stream, (S,) float32; S is a multiple of the samples of a unit frame, and often 0.
            With broken weights they may be not finite: the caller must check.

        Raises:
            ValueError: streams of different vocoders, a stream given twice, `max_frames` below 1.
            FloatingPointError: as in `time`.
        """
        _check(streams, max_frames)
        VocoderStream.time(streams)
        chunks: list[np.ndarray] = [np.zeros(0, np.float32) for _ in streams]
        rows = [row for row, stream in enumerate(streams) if stream.ready_frames]
        if not rows:
            return chunks
        speaking = [streams[row] for row in rows]
        vocoder, right = speaking[0].vocoder, speaking[0]._right
        emits = [min(stream.ready_frames, max_frames or stream.ready_frames) for stream in speaking]
        counts = [s._emitted_frames + n + right - s._fed_frames for s, n in zip(speaking, emits, strict=True)]
        frames = _new_frames(speaking, counts, vocoder.device)
        states = zip(*(stream._state for stream in speaking), strict=True)
        state = type(speaking[0]._state)(*(torch.cat(parts) for parts in states))
        sound, state = vocoder.vocode_next(frames, state, _speaker_ids(speaking))
        samples = sound.float().cpu().numpy()
        for index, (row, stream) in enumerate(zip(rows, speaking, strict=True)):
            stream._state = type(state)(*(part[index : index + 1].clone() for part in state))
            before = stream._emitted_frames + right - stream._fed_frames  # frames before the first one
            first, last = (stream._samples_per_frame * n for n in (before, before + emits[index]))
            stream._fed_frames += counts[index]
            stream._emitted_frames += emits[index]
            stream._drop_used_units()
            chunks[row] = samples[index, first:last].copy()
        return chunks

    @staticmethod
    @torch.inference_mode()
    def time(streams: Sequence[VocoderStream]) -> None:
        """Predict durations as soon as all units that they depend on are known, for all streams in one batch.

        The properties and `advance` call this; one call for many streams takes less time than one for each.

        Raises:
            FloatingPointError: a duration that is not finite: broken weights.
        """
        windows = [window for stream in streams for window in stream._untimed()]
        if not windows:
            return
        vocoder, longest = streams[0].vocoder, max(len(units) for _, units, _, _ in windows)
        rows = [units + [-1] * (longest - len(units)) for _, units, _, _ in windows]
        durations = vocoder.predict_durations(torch.tensor(rows, device=vocoder.device)).tolist()
        for (stream, _, first, last), row in zip(windows, durations, strict=True):
            for frames in row[first:last]:
                stream._end_unit(frames)

    def _end_unit(self, frames: int) -> None:
        """Set the duration of the next unit, given in frames at speed 1."""
        self._predicted_frames += frames
        self._ends_frames.append(max(1, math.floor(self._predicted_frames / self.speed + 0.5)))

    def _untimed(self) -> Iterator[tuple[VocoderStream, list[int], int, int]]:
        """Units whose durations can be predicted: a window of units, and their first and last place in it."""
        begin = len(self._ends_frames) - self._first
        end = len(self._units) - (0 if self.finished else self._lookahead)
        # With a short lookahead each duration has its own window, so that it cannot depend on later units.
        size = max(end - begin, 1) if self._lookahead == self._trained_lookahead else 1
        for first in range(begin, end, size):
            start, last = max(first - self._reach, 0), min(first + size, end)
            yield self, self._units[start : last + self._lookahead], first - start, last - start

    def _rows(self, count: int, longest: int) -> list[tuple[int, int, int]]:
        """Unit, frames since its beginning and duration of the next `count` frames; then padding."""
        rows: list[tuple[int, int, int]] = []
        number = bisect_right(self._ends_frames, self._fed_frames)
        frame = self._fed_frames
        while len(rows) < count and number < len(self._ends_frames):
            begin = self._ends_frames[number - 1] if number else 0
            end = self._ends_frames[number]
            unit = self._units[number - self._first]
            rows += [(unit, place - begin, end - begin) for place in range(frame, end)]
            frame, number = end, number + 1
        del rows[count:]
        return rows + [_NOTHING] * (longest - len(rows))

    def _drop_used_units(self) -> None:
        """Drop units that neither frames nor durations need."""
        said = bisect_right(self._ends_frames, self._fed_frames)
        # The newest stays: an equal one may follow.
        needed = min(said, len(self._ends_frames) - self._reach, self._first + len(self._units) - 1)
        if needed > self._first:
            del self._units[: needed - self._first]
            self._first = needed


_NOTHING = (-1, 0, 1)
_FEWEST = 8
"""Smallest number of frames in a batch: with fewer, matrix products on CPU use another algorithm with other rounding,
and such differences of the pitch add up in its phase."""


def _speaker_ids(streams: Sequence[VocoderStream]) -> Tensor | None:
    """(B,) voice of each stream; None for a vocoder of one voice."""
    vocoder = streams[0].vocoder
    if not vocoder.config.num_speakers:
        return None
    default = vocoder.config.default_speaker_id
    ids = [default if stream.speaker_id is None else stream.speaker_id for stream in streams]
    return torch.tensor(ids, device=vocoder.device)


def _new_frames(streams: Sequence[VocoderStream], counts: Sequence[int], device: torch.device) -> NewFrames:
    """The next frames of each stream, `counts` of them."""
    longest = max(*counts, _FEWEST)
    rows = [stream._rows(count, longest) for stream, count in zip(streams, counts, strict=True)]
    units, elapsed, durations = torch.tensor(rows, device=device).unbind(2)
    starts = [stream._fed_frames for stream in streams]
    totals = [stream._known_frames if stream.finished else _ENDLESS for stream in streams]
    begun = min(starts) >= streams[0]._right
    inner = begun and all(start + longest <= total for start, total in zip(starts, totals, strict=True))
    uneven = min(counts) < longest
    places = torch.tensor([starts, totals, counts], device=device)
    return NewFrames(units, elapsed, durations, places[0], places[1], places[2] if uneven else None, inner)


def _check(streams: Sequence[VocoderStream], max_frames: int | None) -> None:
    """Check the arguments of `VocoderStream.advance`. Raises: ValueError: see there."""
    if max_frames is not None and max_frames < 1:
        raise ValueError(f"max_frames: expected at least 1 or None, found {max_frames}")
    if len({id(stream) for stream in streams}) < len(streams):
        raise ValueError("streams: expected each stream once, found one twice")
    if len({id(stream.vocoder) for stream in streams}) > 1:
        raise ValueError("streams: expected streams of one vocoder, found several; call advance for each")
