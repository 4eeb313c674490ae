"""Draw the tables of docs/report.md, ablations.md and leaderboard.md from what is committed: no figure is typed twice.

python scripts/report_pages.py           # writes the pages
python scripts/report_pages.py --check   # fails if a page is not what its sources give

The text is written by hand; what stands between ``<!-- table NAME -->`` and ``<!-- end -->`` comes from the ablations
(docs/ablations.json), the model cards, which commands write, the gap (docs/gap.json), the agreement of judges
(docs/agreement.json), runs/evidence.sh (docs/evidence.json, docs/unit_language.json, docs/knowledge_mini.json), the
record of sealed questions, and published results with their sources (docs/published_results.json).
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable

from report_claims import claims
from report_sources import DOCS, Sources, read_sources, row_of, signed

from echox.api.card import markdown_table
from echox.data.sealed import seals
from echox.evaluation.evidence.agreement import agreement_markdown
from echox.evaluation.scoring.statistics import holm
from echox.evaluation.sets.tasks import AVERAGED
from echox.evaluation.studies.ablation_plan import Plan
from echox.evaluation.studies.ablation_report import renew_tables
from echox.evaluation.studies.ablation_report import tables as ablation_tables
from echox.evaluation.studies.ablation_tests import (
    S2S,
    S2T,
    T2T,
    WER,
    p_text,
    table_of_tests,
)
from echox.evaluation.subjects.local import weights_notice
from echox.files import write_text

PAGES = ("report.md", "ablations.md", "leaderboard.md")


def knowledge(sources: Sources) -> list[str]:
    """What speech training leaves of a language model's knowledge."""
    if not sources.evidence:
        return ["Not measured yet: `runs/evidence.sh` trains and measures it."]
    plan = Plan.read(DOCS.parent / "runs" / "evidence.yaml")
    drawn = ablation_tables(sources.evidence, plan.rows, plan.tests)
    written = table_of_tests(sources.evidence, plan.tests, S2T)
    return [*drawn["knowledge"].splitlines(), "", *written.splitlines(), "", *drawn["tests"].splitlines()]


def knowledge_of_mini(sources: Sources) -> list[str]:
    """The same of mini, whose language model knows more than it is trained on."""
    runs = sources.knowledge_mini
    if not runs:
        return ["Not measured yet: `runs/evidence.sh --only knowledge_mini` trains and measures it."]
    plan = Plan.read(DOCS.parent / "runs" / "knowledge_mini.yaml")
    drawn = ablation_tables(runs, plan.rows)
    lines = drawn["knowledge_mini"].splitlines()
    if any(set(pair) <= set(runs) for pair in plan.tests):
        for figure in (T2T, S2T, S2S):
            lines += ["", *table_of_tests(runs, plan.tests, figure, plan.same_text).splitlines()]
    return lines + (["", *drawn["whole_mini"].splitlines()] if "shipped" in runs else [])


def unit_languages(sources: Sources) -> list[str]:
    """Single units beside unit languages, in the published form of the decoder."""
    runs = sources.unit_language
    if not runs:
        return ["Not measured yet: `runs/evidence.sh` trains and measures it."]
    plan = Plan.read(DOCS.parent / "runs" / "unit_language.yaml")
    drawn = ablation_tables(runs, plan.rows)["unit_language"].splitlines()
    commits = sorted({result["commit"] for results in runs.values() for result in results})
    trained = f"Trained at {', '.join(f'`{commit}`' for commit in commits)}."
    return [*drawn, "", *table_of_tests(runs, plan.tests, WER).splitlines(), "", trained]


def nano_figures(sources: Sources) -> list[str]:
    """The main figures of nano's card."""
    rows = sources.nano["Main figures"]
    return markdown_table(
        ["figure", "measured", "items"], [[row["figure"], row["measured"], row["items"]] for row in rows]
    )


def mini_answers(sources: Sources) -> list[str]:
    """Answers of mini's card."""
    rows = sources.mini["What hearing and speaking leave"]
    return markdown_table(list(rows[0]), [list(row.values()) for row in rows])


def mini_speech(sources: Sources) -> list[str]:
    """Speech of mini's card."""
    kept = ("reply_wer", "control_wer", "reply_wer_minus_control", "control_s2s", "dnsmos", "dnsmos_p808")
    kept += ("control_dnsmos", "control_dnsmos_p808")
    rows = [row_of(sources.mini, "Figures", figure=name) for name in kept]
    return markdown_table(list(rows[0]), [list(row.values()) for row in rows])


def cascade(sources: Sources) -> list[str]:
    """Mini and a cascade of the same parts."""
    rows = sources.mini["Beside a cascade of the same ready parts"]
    notice = weights_notice(sources.cascade_weights, sources.shipped["mini"])
    return [*markdown_table(list(rows[0]), [list(row.values()) for row in rows]), *(["", notice] if notice else [])]


def gaps(sources: Sources) -> list[str]:
    """The gap of both models, space by space."""
    rows = []
    corrected = iter(holm([one["p"] for spaces in sources.gap.values() for one in spaces.values()]))
    for model, spaces in sources.gap.items():
        for space, one in spaces.items():
            rows.append([model, space, signed(one), f"{p_text(one['p'])} ({p_text(next(corrected))})"])
    return markdown_table(["model", "space", "gap", "p (Holm)"], rows)


def judges(sources: Sources) -> list[str]:
    """What several judges hear of the same replies."""
    if not sources.agreement:
        return ["Not measured yet."]
    lines = []
    for one in sources.agreement:
        heard = ", ".join(f"{task['replies']} replies" for task in one["tasks"].values())
        lines += [f"**{one['subject']}** (`{one['model']}`), {heard}:", "", *agreement_markdown(one).splitlines(), ""]
        notice = weights_notice(one["model"], sources.shipped.get(one["subject"], {}), "subject")
        lines += [notice, ""] if notice else []
    return lines[:-1]


def sealed_record(sources: Sources) -> list[str]:
    """Seals and openings."""
    rows = []
    for name, seal in seals().items():
        entries = [one for one in sources.openings if one["name"] == name]
        told = "; ".join(f"{one['at']}, `{one['commit'][:12]}`: {one['purpose']}" for one in entries)
        rows.append([name, f"{len(seal.digests)} of {seal.candidates}", told or "never"])
    return markdown_table(["set", "questions", "opened"], rows)


def costs(sources: Sources) -> list[str]:
    """What each stage of both models took."""
    rows = []
    for name, card, heading in (("nano", sources.nano, "How it was trained"), ("mini", sources.mini, "Training")):
        for row in card[heading]:
            minutes = [row[column] or "not recorded" for column in ("steps", "wall min", "CPU min")]
            rows.append([name, row["stage"], row["commit"] or "not recorded", *minutes])
    return markdown_table(["model", "stage", "commit", "steps", "wall min", "CPU min"], rows)


def leaderboard(sources: Sources) -> list[str]:
    """The published results and ours, by their average, then by Llama Questions."""
    rows: list[tuple[float, float, list[str]]] = []
    for one in sources.published["rows"]:
        values = [one.get(task) for task in AVERAGED]
        full = [value for value in values if value is not None]
        average = sum(full) / len(full) if len(full) == len(values) else None
        source = sources.published["sources"][one["source"]]
        cells = ["-" if value is None else f"{value:.1f}" for value in (*values, average)]
        order = (-1.0 if average is None else average, values[0] or 0.0)
        cells = [one["model"], *cells, f"[{one['source']}]({source['url']}), {source['date']}"]
        rows.append((*order, cells))
    lines = [cells for _, _, cells in sorted(rows, key=lambda row: row[:2], reverse=True)]
    mini = row_of(sources.mini, "What hearing and speaking leave", task="llama-questions")
    control = row_of(sources.mini, "Figures", figure="control_s2s")["llama-questions"]
    card = "[model card](model_card_mini.md), half of the set, judge Moonshine"
    missing = ["not measured", "not measured", "-"]
    lines += [
        ["**mini** (135M), spoken", mini["S2S"], *missing, card],
        ["mini, written (S2T)", mini["S2T"], *missing, card],
        ["mini's language model, typed (T2T)", mini["T2T"], *missing, card],
        ["mini's replies in Piper's voice: what the judge leaves", control, *missing, card],
    ]
    return markdown_table(["model", "Llama Questions", "Web Questions", "TriviaQA", "average", "source, date"], lines)


def published_sources(sources: Sources) -> list[str]:
    """Where the published figures are from."""
    rows = []
    for name, one in sources.published["sources"].items():
        rows.append([name, f"[{one['what']}]({one['url']})", one["date"], one["scoring"]])
    return markdown_table(["source", "what", "date", "scored by"], rows)


TABLES: dict[str, dict[str, Callable[[Sources], list[str]]]] = {
    "report.md": {
        "claims": claims,
        "nano": nano_figures,
        "mini": mini_answers,
        "speech": mini_speech,
        "cascade": cascade,
        "knowledge": knowledge,
        "knowledge_mini": knowledge_of_mini,
        "unit_language": unit_languages,
        "gaps": gaps,
        "judges": judges,
        "sealed": sealed_record,
        "costs": costs,
    },
    "leaderboard.md": {"leaderboard": leaderboard, "sources": published_sources},
}


def renew_page(name: str, page: str, sources: Sources) -> str:
    """A page with the tables that its sources give."""
    if name == "ablations.md":
        plan = Plan.read(DOCS.parent / "runs" / "ablations.yaml")
        return renew_tables(page, ablation_tables(sources.ablations, plan.rows, plan.tests))
    return renew_tables(page, {mark: "\n".join(draw(sources)) + "\n" for mark, draw in TABLES[name].items()})


def main() -> int:
    """Write or check the pages; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing; fail if a page is not up to date")
    check, sources, old = parser.parse_args().check, read_sources(), []
    for name in PAGES:
        page = (DOCS / name).read_text(encoding="utf-8")
        renewed = renew_page(name, page, sources)
        if renewed != page:
            old.append(name)
            if not check:
                write_text(DOCS / name, renewed)
    if check and old:
        print(
            f"error: {', '.join(old)}: expected what the sources give; python scripts/report_pages.py", file=sys.stderr
        )
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
