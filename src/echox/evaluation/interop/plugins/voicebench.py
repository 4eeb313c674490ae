"""EchoX as a VoiceBench assistant, for users who edit VoiceBench; our own export does not need it.

In their ``src/models/__init__.py``: ``from echox.evaluation.interop.plugins.voicebench import EchoXAssistant`` and
``"echox": EchoXAssistant`` in ``model_cls_mapping``. Only the text of a reply is scored there.
Source: https://github.com/MatthewCYM/VoiceBench, src/models/base.py.
"""

from __future__ import annotations

import time
from typing import TypedDict

import numpy as np

from echox import EchoX


class Recording(TypedDict):
    """Audio as the library ``datasets`` decodes it: samples (S,) and their rate in Hz."""

    array: np.ndarray
    sampling_rate: int


class EchoXAssistant:
    """The interface of a VoiceBench assistant over `EchoX`, decoded greedily.

    Args:
        model: folder, hub id or "nano".
    """

    def __init__(self, model: str = "nano") -> None:
        self.model = EchoX.from_pretrained(model)

    def generate_audio(self, audio: Recording, max_new_tokens: int = 2048) -> str:
        """The written reply to a spoken question."""
        reply = self.model.generate(
            audio["array"],
            sampling_rate=audio["sampling_rate"],
            speak=False,
            temperature=0.0,
            max_new_tokens=max_new_tokens,
        )
        return reply.text

    def generate_text(self, text: str) -> str:
        """The written reply to a typed question."""
        return self.model.generate({"role": "user", "content": text}, speak=False, temperature=0.0).text

    def generate_ttft(self, audio: Recording) -> float:
        """Seconds until the first token."""
        began_s = time.perf_counter()
        self.generate_audio(audio, max_new_tokens=1)
        return time.perf_counter() - began_s
