"""VoiceAssistant-400K: Parquet with ``split_name index round question question_audio answer answer_snac``.

Its audio is known not to match its text everywhere (gpt-omni/mini-omni#132): filter by recognition afterwards.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from echox.data.corpora.base import Corpus, CorpusItem, CorpusTurn, Provenance, Row, require
from echox.data.corpora.layouts import parquet
from echox.data.corpora.table import audio_of


class VoiceAssistant(Corpus):
    """See the module; the answers have no audio (only SNAC codes, which are not read): the pipeline speaks them."""

    name = "voiceassistant"
    provenance = Provenance(
        title="VoiceAssistant-400K",
        homepage="https://huggingface.co/datasets/gpt-omni/VoiceAssistant-400K",
        licence="Apache-2.0",
        hub_id="gpt-omni/VoiceAssistant-400K",
        patterns=("data/*.parquet",),
    )

    def rows(self, folder: Path) -> Iterator[Row]:
        """Rows of all Parquet files."""
        for path in sorted(folder.rglob("*.parquet")):
            yield from parquet(path, folder)

    def parse(self, row: Row) -> CorpusItem:
        """One question and its answer."""
        index = require(row, "index", (str, int))
        name = f"{require(row, 'split_name')}-{index}-{row.value.get('round') or 0}"
        question = CorpusTurn(require(row, "question"), audio_of(row, "question_audio"), "user", "voiceassistant/user")
        return CorpusItem(
            name, (question, CorpusTurn(require(row, "answer"), None, "assistant", "voiceassistant/assistant"))
        )
