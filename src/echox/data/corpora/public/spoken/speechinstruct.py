"""SpeechInstruct: ``chain_of_modality_instruction.jsonl``, spoken dialogues as mHuBERT units with their texts.

A line is ``{"prefix", "plain_text"}``; the text reads ``[Human]: <sosp><189>...<eosp> <eoh> [SpeechGPT]: question text;
[ta] answer text; [ua] <sosp>...<eosp> <eoa>``. There is no audio: texts become dialogues that stage ``prepare_data``
can speak, units go to ``units.jsonl`` (k-means of mHuBERT, 1000 clusters, runs collapsed).
Source: arXiv 2305.11000 and its README.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from echox.data.corpora.base import Corpus, CorpusItem, CorpusTurn, Provenance, Row, require
from echox.data.corpora.layouts import json_lines

_LINE = re.compile(
    r"\[Human\]\s*:\s*(?P<heard><sosp>.*?<eosp>).*?\[SpeechGPT\]\s*:\s*(?P<question>.+?);?\s*\[ta\]\s*:?\s*(?P<answer>.+?)"
    r";?\s*\[ua\]\s*:?\s*(?P<spoken><sosp>.*?<eosp>)",
    re.DOTALL,
)
NUM_UNITS = 1000


class SpeechInstruct(Corpus):
    """See the module."""

    name = "speechinstruct"
    provenance = Provenance(
        title="SpeechInstruct",
        homepage="https://huggingface.co/datasets/fnlp/SpeechInstruct",
        licence="not stated on the card",
        hub_id="fnlp/SpeechInstruct",
        patterns=("chain_of_modality_instruction.jsonl",),
    )

    def rows(self, folder: Path) -> Iterator[Row]:
        """Lines of the chain-of-modality files."""
        for path in sorted(folder.glob("chain_of_modality*.jsonl")):
            yield from json_lines(path, folder)

    def parse(self, row: Row) -> CorpusItem:
        """Question and answer, each with text and units."""
        text = require(row, "plain_text")
        match = _LINE.search(text)
        if match is None:
            raise ValueError(f"plain_text: expected '[Human]: units ... [ta] text; [ua] units', found {text[:60]!r}")
        said = (
            CorpusTurn(match["question"], role="user", units=_units(match["heard"])),
            CorpusTurn(match["answer"], role="assistant", units=_units(match["spoken"])),
        )
        return CorpusItem(row.place.replace(".jsonl:", "-"), said)


def _units(text: str) -> tuple[int, ...]:
    """Ids between the marks. Raises ValueError for anything else there: units are never guessed from digits."""
    body = text.removeprefix("<sosp>").removesuffix("<eosp>").strip()
    if not re.fullmatch(r"(<\d+>)+", body):
        raise ValueError(f"units: expected <12><345>..., found {body[:40]!r}")
    units = tuple(int(unit) for unit in body[1:-1].split("><"))
    if max(units) >= NUM_UNITS:
        raise ValueError(f"units: expected ids below {NUM_UNITS}, found {max(units)}")
    return units
