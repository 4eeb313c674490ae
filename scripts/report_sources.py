"""What the tables of docs/report.md and docs/leaderboard.md are drawn from (scripts/report_pages.py)."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shipped_weights import shipped_weights

from echox.evaluation.scoring.statistics import Interval
from echox.evaluation.sets.sealed import read_openings
from echox.evaluation.studies.ablation_report import of_runs

DOCS = Path(__file__).resolve().parents[1] / "docs"
Row = dict[str, str]
Json = Any


@dataclass(frozen=True)
class Sources:
    """All that the pages are drawn from."""

    ablations: dict[str, list[Json]]
    nano: dict[str, list[Row]]
    mini: dict[str, list[Row]]
    evidence: dict[str, list[Json]]
    unit_language: dict[str, list[Json]]
    knowledge_mini: dict[str, list[Json]]
    gap: Json
    agreement: Json
    openings: list[Json]
    published: Json
    cascade_weights: str | None
    shipped: dict[str, dict[str, str]]


def read_sources(docs: Path = DOCS) -> Sources:
    """Read them; what was not measured yet (the studies of runs/evidence.sh, agreement, openings) is empty."""

    def read(name: str, missing: Json = None) -> Json:
        path = docs / name
        return json.loads(path.read_text(encoding="utf-8")) if missing is None or path.is_file() else missing

    nano, mini = (tables_of((docs / f"model_card_{name}.md").read_text(encoding="utf-8")) for name in ("nano", "mini"))
    openings = read_openings(docs / "sealed_openings.json")
    published = read("published_results.json")
    ablations, evidence = of_runs(read("ablations.json")), of_runs(read("evidence.json", []))
    words, of_mini = (of_runs(read(f"{study}.json", [])) for study in ("unit_language", "knowledge_mini"))
    agreement = read("agreement.json", [])
    cascade = read("../benchmarks/results/mini_cascade.json")["weights"]
    measured = (ablations, nano, mini, evidence, words, of_mini, read("gap.json"), agreement, openings, published)
    return Sources(*measured, cascade, shipped_weights())


def tables_of(markdown: str) -> dict[str, list[Row]]:
    """The first table under each heading of a page: its rows by the names of its columns."""
    found: dict[str, list[Row]] = {}
    heading, heads, closed = "", [], False
    for line in markdown.splitlines():
        if line.startswith("#"):
            heading, heads, closed = line.lstrip("# "), [], False
        elif line.startswith("|") and not closed:
            cells = [cell.strip() for cell in line.strip("|").split("|")]
            if not heads:
                heads = cells
            elif set("".join(cells)) - set("-: "):
                found.setdefault(heading, []).append(dict(zip(heads, cells)))
        elif heads:
            closed = True
    return found


def row_of(tables: dict[str, list[Row]], heading: str, **wanted: str) -> Row:
    """The row of a table with these cells.

    Raises:
        ValueError: there is none.
    """
    for row in tables.get(heading, []):
        if all(row.get(name) == value for name, value in wanted.items()):
            return row
    raise ValueError(f"expected a row {wanted} under {heading!r} of the model card, found none; write the card again")


def percent(found: Interval) -> str:
    """As a percentage with its interval."""
    return f"{100 * found.mean:.1f} % [{100 * found.low:.1f} to {100 * found.high:.1f}]"


def signed(found: Json) -> str:
    """A gap with its interval."""
    return f"{found['mean']:+.2f} ({found['low']:+.2f} to {found['high']:+.2f})"


def points(found: Interval) -> str:
    """A difference of shares with its interval."""
    return f"{100 * found.mean:+.1f} points [{100 * found.low:+.1f} to {100 * found.high:+.1f}]"
