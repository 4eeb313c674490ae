"""HH-RLHF-Speech: dialogues of the HH-RLHF texts, spoken by the makers of EchoX (656 h, stage II).

The layout is that of EchoX-Dialogues: `echox_dialogues.py`.
"""

from __future__ import annotations

from dataclasses import replace

from echox.data.corpora.public.spoken.echox_dialogues import EchoXDialogues


class HHRLHFSpeech(EchoXDialogues):
    """See the module."""

    name = "hh-rlhf-speech"
    subset = "hh-rlhf"
    provenance = replace(
        EchoXDialogues.provenance,
        title="HH-RLHF-Speech",
        homepage="https://huggingface.co/datasets/Anthropic/hh-rlhf",
        patterns=("*HH-RLHF-Speech*/*", "*hh-rlhf*/*"),
    )
