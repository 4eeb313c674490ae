"""Windows of waveforms: long audio is cut where it is quietest, so that no word is cut in two.

Letters: A audios, S samples, W windows, F frames, D width.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from echox.models.towers.base import EncodedWindows

SEARCHED, LEAST_REST = 0.4, 0.2
"""Shares of a window: its end, in which the quietest place is searched; and the least that is left for the last one."""
_QUIET_FRAMES = 8
"""Frames over which the level is averaged (0.2 s at 41.7 frames/s): a pause, not a zero crossing."""


@dataclass(frozen=True)
class Window:
    """A part of an audio, in frames of the tower.

    Attributes:
        audio: its place in the batch. first_frame, num_frames: of the audio.
        last: whether the audio ends with it; then ``end_sample`` is where.
    """

    audio: int
    first_frame: int
    num_frames: int
    last: bool
    end_sample: int

    def samples(self, frame_samples: int, receptive_samples: int) -> int:
        """Samples that it is computed from: a window that is not the last also reads what its last frame sees."""
        if self.last:
            return self.end_sample - self.first_frame * frame_samples
        return (self.num_frames - 1) * frame_samples + receptive_samples


def cut_windows(samples: Tensor, mask: Tensor, window_frames: int | None, frame_samples: int) -> list[Window]:
    """Windows of audios (A, S) with mask (A, S), in order; with ``window_frames`` None, each audio is one window."""
    found = []
    for audio, length in enumerate(mask.sum(dim=1).tolist()):
        first = 0
        total = -(-length // frame_samples)
        while window_frames is not None and total - first > window_frames:
            most = min(window_frames, total - first - int(LEAST_REST * window_frames))
            taken = _quietest(samples[audio, first * frame_samples :], most, frame_samples)
            found.append(Window(audio, first, taken, False, length))
            first += taken
        found.append(Window(audio, first, total - first, True, length))
    return found


def _quietest(samples: Tensor, most_frames: int, frame_samples: int) -> int:
    """Number of frames, at most ``most_frames``, after which samples (S,) are quietest."""
    searched = min(most_frames - 1, max(1, int(SEARCHED * most_frames)))
    start = most_frames - searched
    part = samples[start * frame_samples : most_frames * frame_samples].float()
    level = part.square().view(searched, frame_samples).mean(dim=1)
    around = min(_QUIET_FRAMES, searched)
    smooth = F.avg_pool1d(level[None], around, stride=1)[0]
    return start + int(smooth.argmin()) + (around + 1) // 2


def gather_windows(
    samples: Tensor, windows: list[Window], frame_samples: int, receptive_samples: int
) -> tuple[Tensor, Tensor]:
    """Samples (W, S') of windows, padded with zeros, and their true lengths (W,), at least those of one frame."""
    lengths = [window.samples(frame_samples, receptive_samples) for window in windows]
    rows = []
    for window, length in zip(windows, lengths, strict=True):
        start = window.first_frame * frame_samples
        row = samples[window.audio, start : start + length]
        rows.append(F.pad(row, (0, max(0, receptive_samples - len(row)))))
    values = nn.utils.rnn.pad_sequence(rows, batch_first=True)
    return values, torch.tensor([max(length, receptive_samples) for length in lengths], device=samples.device)


def join_windows(encoded: EncodedWindows) -> tuple[Tensor, Tensor]:
    """Frames (A, F, D) of whole audios and their mask (A, F), from those of their windows."""
    audios = 1 + max(encoded.audio_of)
    rows: list[list[Tensor]] = [[] for _ in range(audios)]
    for audio, states, mask in zip(encoded.audio_of, encoded.states, encoded.mask, strict=True):
        rows[audio].append(states[mask])
    joined = [torch.cat(row) for row in rows]
    lengths = torch.tensor([len(row) for row in joined], device=encoded.states.device)
    values = nn.utils.rnn.pad_sequence(joined, batch_first=True)
    return values, torch.arange(values.shape[1], device=values.device) < lengths[:, None]
