"""What was heard of audio that grows: while somebody speaks, and in their pauses, its beginning is heard many times.

A draft only saves time: it is checked against the audio, so what is heard does not depend on it.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict

import numpy as np

from echox.models.echox.aligner import Draft
from echox.streaming.prompt.messages import Audio

SAME_S = 1.0
"""Audios that begin with the same samples, for so long, are one that has grown."""
MAX_DRAFTS = 64
"""Drafts that are kept: those of the audios that were heard last."""


class Drafts:
    """The drafts of the audios that were heard last, of all conversations."""

    def __init__(self) -> None:
        self._kept: OrderedDict[bytes, Draft] = OrderedDict()

    def of(self, audio: Audio) -> Draft:
        """The draft of an audio, to be read and replaced; an empty one for an audio that is short or new."""
        samples = round(SAME_S * audio.sampling_rate)
        if len(audio.waveform) < samples:
            return Draft()
        beginning = hashlib.sha256(np.ascontiguousarray(audio.waveform[:samples]).data).digest()
        draft = self._kept.setdefault(beginning, Draft())
        self._kept.move_to_end(beginning)
        if len(self._kept) > MAX_DRAFTS:
            self._kept.popitem(last=False)
        return draft

    def clear(self) -> None:
        """Forget all."""
        self._kept.clear()
