"""HH-RLHF-Speech: dialogues of the HH-RLHF texts, spoken by the makers of EchoX (656 h, stage II).

The layout is that of EchoX-Dialogues: :mod:`echox.data.corpora.echox_dialogues`.
"""

from __future__ import annotations

from dataclasses import replace

from echox.data.corpora.echox_dialogues import EchoXDialogues


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
