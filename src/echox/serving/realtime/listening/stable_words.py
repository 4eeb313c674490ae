"""Which words of a transcript that is still growing will stay: those that two transcripts in a row agree on.

A delta cannot be taken back, and the last word of a recording that was cut off in the middle is often wrong. So a word
is sent when it stands at the same place in the transcripts of two windows, and is not the last one in either.

Source: local agreement, Liu, Spanakis and Niehues 2020, "Low-Latency Sequence-to-Sequence Speech Recognition and
Translation by Partial Hypothesis Selection", Interspeech (https://arxiv.org/abs/2005.11185).
"""

from __future__ import annotations

from collections.abc import Sequence

from echox.streaming.events import HeardWord


class StableWords:
    """The words of one utterance, in windows of its audio.

    Attributes:
        text: what was sent: all stable words so far.
    """

    def __init__(self) -> None:
        self.text = ""
        self._previous: list[str] = []  # words of the last transcript of this window
        self._num_stable = 0  # of them, sent already
        self._end_s = 0.0  # end of the last one that was sent, in the window

    def push(self, words: Sequence[HeardWord]) -> str:
        """Take the transcript of the window, which has grown; return what can be sent now: "" or the next words."""
        found = [word.text for word in words]
        agreed = 0
        for old, new in zip(self._previous[:-1], found[:-1], strict=False):
            if old != new:
                break
            agreed += 1
        self._previous = found
        if agreed <= self._num_stable:
            return ""
        delta = " ".join(found[self._num_stable : agreed])
        delta = f" {delta}" if self.text else delta
        self.text += delta
        self._num_stable, self._end_s = agreed, words[agreed - 1].end_s
        return delta

    def next_window(self) -> float | None:
        """Let the window begin after the last word that was sent: return where that is in it, s; None: none was."""
        if not self._num_stable:
            return None
        self._previous, self._num_stable = self._previous[self._num_stable :], 0
        return self._end_s

    def skip_window(self) -> None:
        """The window began anew, wherever it was: nothing of it is compared any more."""
        self._previous, self._num_stable = [], 0


def rest_of(sent: str, transcript: str) -> str:
    """What is missing to the whole transcript after what was sent; "" if the transcript says something else."""
    return transcript[len(sent) :] if transcript.startswith(sent) else ""
