"""ShareChatX: spoken dialogues of many scenes (178 h in EchoX), arXiv 2501.01384.

The layout is that of EchoX-Dialogues: `echox_dialogues.py`.
"""

from __future__ import annotations

from dataclasses import replace

from echox.data.corpora.public.spoken.echox_dialogues import EchoXDialogues


class ShareChatX(EchoXDialogues):
    """See the module."""

    name = "sharechatx"
    subset = "sharechatx"
    provenance = replace(
        EchoXDialogues.provenance,
        title="ShareChatX",
        homepage="https://sharechatx.github.io",
        patterns=("*ShareChatX*/*", "*sharechatx*/*"),
    )
