"""Ratings of a finished run: a model predicts how natural each spoken reply sounds; they are kept with the run."""

from __future__ import annotations

from pathlib import Path
from typing import cast

from echox.audio import load_audio
from echox.evaluation.judges.naturalness import RATE_HZ, RATINGS, Rater, dnsmos_raters, open_utmos
from echox.evaluation.run_files import CONTROL, REPLIES, RecordedReply, raters_of, read_run, write_run
from echox.evaluation.scoring.records import read_lines, recorded
from echox.evaluation.scoring.schema import ReplyRecord
from echox.training.control.lock import output_lock


def rate_run(output: Path, utmos: Path | None, dnsmos: str | Path | None) -> None:
    """Rate every spoken reply of a run, and its control; a stopped call continues. Scoring again adds the means.

    Other model files rate again, and their ratings count from then on.

    Args:
        output: folder of the run.
        utmos: see `open_utmos`.
        dnsmos: see `dnsmos_raters`.

    Raises:
        ValueError: no run there, another one writes to it, or a file that is no such model.
    """
    run = read_run(output)
    raters = {"utmos": open_utmos(utmos)} if utmos else {}
    raters |= dnsmos_raters(dnsmos) if dnsmos else {}
    with output_lock(output):
        for task in run["tasks"]:
            folder = output / task["name"]
            records = [*read_lines(folder / REPLIES), *read_lines(folder / CONTROL)]
            replies = [RecordedReply(cast(ReplyRecord, record)) for record in records if record["audio"]]
            for rater in raters.values():
                _rate_replies(replies, folder, rater)
        names = {figure: rater.name for figure, rater in raters.items()}
        write_run(output, {**run, "raters": raters_of(run) | names})


def _rate_replies(replies: list[RecordedReply], folder: Path, rater: Rater) -> None:
    def rate(reply: RecordedReply) -> dict[str, float]:
        return {"rating": rater(load_audio(folder / str(reply.record["audio"]), RATE_HZ))}

    for _ in recorded(replies, folder / RATINGS, lambda reply: f"{reply.record['key']} {rater.name}", rate):
        pass
