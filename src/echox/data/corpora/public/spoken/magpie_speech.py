"""Magpie-Pro-Speech+: instructions answered by Llama 3.3, rewritten for speech and spoken (327 h; 1,413 h in Plus).

The layout is that of EchoX-Dialogues: `echox_dialogues.py`.
"""

from __future__ import annotations

from dataclasses import replace

from echox.data.corpora.public.spoken.echox_dialogues import EchoXDialogues


class MagpieProSpeech(EchoXDialogues):
    """See the module."""

    name = "magpie-speech"
    subset = "magpie"
    provenance = replace(
        EchoXDialogues.provenance,
        title="Magpie-Pro-Speech+",
        homepage="https://huggingface.co/datasets/Magpie-Align/Magpie-Llama-3.3-Pro-1M-v0.1",
        patterns=("*Magpie-Pro-Speech*/*", "*magpie*/*"),
    )
