"""Predicted naturalness of a finished run: every spoken reply is rated, and the ratings are kept beside it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from echox.audio import load_audio
from echox.evaluation.judges.naturalness import RATE_HZ, RATINGS, Rater, open_dnsmos, open_utmos
from echox.evaluation.run_files import REPLIES, read_run
from echox.evaluation.scoring.records import read_lines, recorded


def rate_run(output: Path, utmos: Path | None, dnsmos: Path | None) -> None:
    """Rate every spoken reply of a run; resumes. Scoring the run again shows the means.

    Raises:
        ValueError: no run there, or a file that is no such model.
    """
    raters = {"utmos": open_utmos(utmos)} if utmos else {}
    raters |= {"dnsmos": open_dnsmos(dnsmos)} if dnsmos else {}
    for task in read_run(output)["tasks"]:
        folder = output / task["name"]
        replies = [_Spoken(record) for record in read_lines(folder / REPLIES) if record["audio"]]
        for name, rater in raters.items():
            _rate_replies(replies, folder, name, rater)


def _rate_replies(replies: list[_Spoken], folder: Path, name: str, rater: Rater) -> None:
    def rate(reply: _Spoken) -> dict[str, Any]:
        return {"rating": rater(load_audio(folder / reply.record["audio"], RATE_HZ))}

    for _ in recorded(replies, folder / RATINGS, lambda reply: f"{reply.record['key']} {name}", rate):
        pass


class _Spoken:
    def __init__(self, record: dict[str, Any]) -> None:
        self.id, self.record = record["id"], record
