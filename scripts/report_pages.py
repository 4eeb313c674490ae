"""Draw the tables of docs/report.md and docs/leaderboard.md from what is committed: no figure is typed twice.

python scripts/report_pages.py           # writes both pages
python scripts/report_pages.py --check   # fails if a page is not what its sources give

The text is written by hand; what stands between ``<!-- table NAME -->`` and ``<!-- end -->`` comes from the ablations
(docs/ablations.json), the model cards, which commands write, the gap (docs/gap.json), the agreement of judges
(docs/agreement.json), runs/evidence.sh (docs/evidence.json, docs/unit_language.json, docs/knowledge_mini.json), the
record of sealed questions, and published results with their sources (docs/published_results.json).
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from echox.api.card import markdown_table
from echox.evaluation.evidence.agreement import agreement_markdown
from echox.evaluation.scoring.statistics import Comparison, Interval
from echox.evaluation.sets.sealed import read_openings, seals
from echox.evaluation.sets.tasks import AVERAGED
from echox.evaluation.studies.ablation_report import of_runs, renew_tables, values_of
from echox.evaluation.studies.ablation_report import tables as ablation_tables
from echox.evaluation.studies.ablation_tests import (
    FIGURES,
    LLAMA,
    NEW,
    READ,
    S2S,
    S2T,
    SEEN,
    SIDES,
    T2T,
    WEB,
    WER,
    compared,
    difference_of_shares,
    question_interval,
    table_of_tests,
)
from echox.evaluation.studies.ablations import Plan
from echox.files import write_text

DOCS = Path(__file__).resolve().parents[1] / "docs"
PAGES = ("report.md", "leaderboard.md")
ENOUGH = 3
"""Trainings of each run that a verdict on unit languages asks for."""
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
    return Sources(ablations, nano, mini, evidence, words, of_mini, read("gap.json"), agreement, openings, published)


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


def s2s(sources: Sources, name: str, way: str = "segments") -> str:
    """S2S of an ablation over its seeds, with its interval over questions and seeds."""
    found = question_interval(sources.ablations[name], (way, SEEN, "s2s_answer"))
    assert found is not None, f"{name}: the number of its questions is recorded"
    seeds = len(sources.ablations[name])
    return f"{percent(found)}, {seeds} {'seed' if seeds == 1 else 'seeds'}"


def points(found: Interval) -> str:
    """A difference of shares with its interval."""
    return f"{100 * found.mean:+.1f} points [{100 * found.low:+.1f} to {100 * found.high:+.1f}]"


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
            lines += ["", *table_of_tests(runs, plan.tests, figure).splitlines()]
    return lines + (["", *drawn["whole_mini"].splitlines()] if "shipped" in runs else [])


def kept_knowledge(sources: Sources) -> tuple[str, str]:
    """Whether mini still knows what its language model knew, and the figures that say so."""
    runs = sources.knowledge_mini
    mini = row_of(sources.mini, "What hearing and speaking leave", task="llama-questions")
    shipped = (
        f"mini as it ships, Llama Questions: S2T over T2T {mini['S2T over T2T']}, S2S over S2T {mini['S2S over S2T']}: "
        "what hearing and speaking lose"
    )
    if not {"direct", "cascade"} <= set(runs):
        return "not tested: mini's language model is not trained", shipped
    parts, lost = [], False
    for name, what in (("direct", "trained, all of it, to write units"), ("echo", "by echo training, frozen")):
        if name not in runs:
            continue
        told = []
        for way, task, figure in (("typed", WEB, T2T), ("typed", LLAMA, T2T), ("segments", LLAMA, S2S)):
            found = compared(runs[name], runs["cascade"], (way, task, figure))
            assert found is not None, f"{name}: which questions were right is recorded"
            told.append(f"{FIGURES[figure]} of {SIDES[task]} {points(found.difference)}")
            lost |= name == "direct" and figure == T2T and found.difference.high < 0
        seeds = len(runs[name])
        parts.append(f"{what} ({seeds} {'training' if seeds == 1 else 'trainings'}): {', '.join(told)}")
    verdict = "still writes: loss seen by questions" if lost else "still writes: no loss seen"
    return f"trained to write units, it {verdict} (mini); in echo training its language model is frozen", (
        f"of right answers, beside the cascade, {'; '.join(parts)} ([mini](#knowledge-of-mini)). {shipped}"
    )


def streaming(sources: Sources) -> tuple[str, str]:
    """Whether replies that are spoken in segments are worse than whole ones, and the figures that say so."""
    nano = f"shipped nano, in segments {s2s(sources, 'shipped')}, whole {s2s(sources, 'shipped', 'whole')}"
    few = "so many questions cannot exclude a loss of some points"
    runs = sources.knowledge_mini.get("shipped")
    if runs is None:
        return "no loss seen (nano)", f"{nano}; {few}"
    whole = [{**run, "segments": run["whole"]} for run in runs]
    found = compared(runs, whole, ("segments", LLAMA, S2S))
    assert found is not None, "which questions were right is recorded"
    (run,) = runs
    errors = [f"{100 * run[way][LLAMA]['reply_wer']:.1f} %" for way in ("segments", "whole")]
    mini = (
        f"mini as it ships, Llama Questions: S2S in segments less whole {points(found.difference)}, "
        f"WER of replies {errors[0]} and {errors[1]}"
    )
    verdict = "a loss seen by questions (mini)" if found.difference.high < 0 else "no loss seen (nano, mini)"
    return verdict, f"{nano}; {mini}; {few}"


def change_of_evidence(sources: Sources, one: str, other: str, split: str, figure: str) -> Interval:
    """Difference of two runs of the evidence in a figure, question by question."""
    found = compared(sources.evidence[one], sources.evidence[other], ("segments", split, figure))
    assert found is not None, f"{one}, {other}: which questions were right is recorded"
    return found.difference


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


def better_speech(sources: Sources) -> tuple[str, str]:
    """Whether a unit language is spoken better than single units, and the figures that say so."""
    aligned, single = (mean(sources, f"t2c_{name}_2400", *READ) for name in ("unit_language", "units"))
    told = (
        f"WER {100 * aligned:.1f} %, single units {100 * single:.1f} %, after 2,400 steps of the word-synchronous "
        "form, 1 seed"
    )
    runs, tests, parts = sources.unit_language, [], []
    for one, other in Plan.read(DOCS.parent / "runs" / "unit_language.yaml").tests:
        if one not in runs or other not in runs:
            continue
        found = compared(runs[one], runs[other], READ)
        assert found is not None, f"{one}, {other}: the errors in each text are recorded"
        steps = " against ".join(f"{runs[name][0]['steps']:,}" for name in (one, other))
        seeds = " and ".join(map(str, found.seeds))
        parts.append(f"{runs[one][0]['what']} {points(found.difference)} ({steps} steps, {seeds} trainings)")
        if min(found.seeds) >= ENOUGH:
            tests.append(found)
    if not parts:
        return "not supported here", f"{told}; the published (prefix) form with single units was not measured"
    return verdict_on_words(tests), (
        f"published (prefix) form, about equal CPU-seconds, WER beside single units: {', '.join(parts)} "
        f"([unit language](#unit-language)). Earlier, {told}"
    )


def verdict_on_words(tests: list[Comparison]) -> str:
    """What the WER of unit languages less that of single units says: an interval below 0 speaks for a unit language."""
    helping = [one for one in tests if one.difference.high < 0]
    harming = [one for one in tests if one.difference.low > 0]
    if not tests:
        return "not shown in the published form: too few trainings"
    if helping and harming:
        return "depends on the number of words and the budget (nano)"
    found = helping or harming
    if not found:
        return "no difference seen (nano)"
    some = "" if len(found) == len(tests) else f"in {len(found)} of {len(tests)} comparisons"
    proven = all(one.p is not None and one.p <= 0.05 for one in found)
    kind = "(nano)" if proven else "by texts, not yet by seeds (nano)"
    return " ".join(filter(None, ["supported" if helping else "not supported: single units are clearer", some, kind]))


def cost_of_speaking(sources: Sources) -> tuple[str, str]:
    """Whether a language model that learned to write units lost knowledge, and the figures that say so."""
    if not sources.evidence:
        return "not tested yet", "not measured: `runs/evidence.sh` trains a language model that writes units itself"
    parts, lost = [], {}
    for name, what in (("direct", "trained to write units itself"), ("echo", "by echo training")):
        told = []
        for figure, side in ((S2S, "says"), (S2T, "writes")):
            change = change_of_evidence(sources, name, "cascade", SEEN, figure)
            lost[name, figure] = change.high < 0
            told.append(f"it {side} {points(change)}")
        parts.append(f"{what}, {' and '.join(told)}")
    seen = {True: "supported by questions, at this budget", False: "no loss seen"}
    verdict = f"says: {seen[lost['direct', S2S]]}; still writes: {seen[lost['direct', S2T]]} (nano)"
    return verdict, (
        f"of right answers, beside the cascade, {len(sources.evidence['direct'])} trainings each: {'; '.join(parts)} "
        "([knowledge](#knowledge))"
    )


def own_targets(sources: Sources) -> tuple[str, str]:
    """Whether targets made from the model's own reply are better than recordings, and the figures that say so."""
    too_few = "not supported: too few seeds"
    few = (
        f"{difference(sources, 'echo', 'recorded')} after 100 steps, "
        f"{difference(sources, 'echo_250', 'recorded_250')} after 250; on new voices "
        f"{difference(sources, 'echo', 'recorded', NEW)} and {difference(sources, 'echo_250', 'recorded_250', NEW)}"
    )
    if not sources.evidence:
        return too_few, few
    changes = [change_of_evidence(sources, "echo", "recorded", split, S2S) for split in (SEEN, NEW)]
    return "supported by questions, not yet by seeds (nano)" if changes[0].low > 0 else too_few, (
        f"S2S {points(changes[0])} after 800 steps, {len(sources.evidence['echo'])} trainings each, on new voices "
        f"{points(changes[1])} ([knowledge](#knowledge)); of earlier, shorter trainings {few}"
    )


def difference(sources: Sources, one: str, other: str, split: str = SEEN) -> str:
    """Difference of two ablations in S2S, in points, with the widest interval that their shares allow."""
    return points(difference_of_shares(sources.ablations[one], sources.ablations[other], split))


def mean(sources: Sources, name: str, *path: str) -> float:
    """A figure of an ablation, over its seeds."""
    values = values_of(sources.ablations[name], path)
    return sum(values) / len(values)


def claims(sources: Sources) -> list[str]:
    """Each claim of the paper: what is found here, and the figure that says so."""
    gap, words = sources.gap, ("t2c", "unit_words_per_word")
    length = {name: mean(sources, name, *words) for name in ("t2c_unit_language_2400", "t2c_units_2400")}
    first = row_of(sources.mini, "Figures", figure="first_audio_tokens")

    def space(model: str, name: str) -> str:
        return signed(gap[model][name])

    rows = [
        (
            "Training a language model to speak costs it knowledge",
            *cost_of_speaking(sources),
        ),
        (
            "Echo training lets states of meaning be spoken",
            "supported (nano)",
            f"S2S {s2s(sources, 'zero_shot')} before, {s2s(sources, 'echo_800')} after 800 steps; the cascade has "
            f"{s2s(sources, 'cascade')}",
        ),
        (
            "Targets made from the model's own reply are better than recordings",
            *own_targets(sources),
        ),
        (
            "The denoising adapter helps",
            "supported by questions, not yet by seeds (nano)",
            f"with less without: {difference(sources, 'echo', 'no_adapter')}",
        ),
        (
            "The denoising loss helps",
            "not supported: too few seeds",
            f"with less without: {difference(sources, 'echo', 'no_denoising_loss')}",
        ),
        (
            "A unit language shortens the sequence",
            "supported (nano)",
            f"{length['t2c_unit_language_2400']:.2f} unit words a word, single units {length['t2c_units_2400']:.2f}",
        ),
        (
            "A unit language makes better speech",
            *better_speech(sources),
        ),
        ("Streaming costs no quality", *streaming(sources)),
        (
            "Speech begins after 27 tokens",
            "not comparable",
            f"mini begins after {first['llama-questions']} tokens on average, with another form of decoder and replies "
            "of one sentence",
        ),
        (
            "Language-model states are ordered by meaning, what is spoken by sound",
            "supported (one model of each kind)",
            f"gap of nano: states {space('nano', 'hidden')}, units {space('nano', 'units')}; of mini: "
            f"{space('mini', 'hidden')}, {space('mini', 'units')}",
        ),
        (
            "A speech model keeps what its language model knows",
            *kept_knowledge(sources),
        ),
        (
            "With 3B and 8B it stands beside the best models of its day",
            "not testable here",
            "no weights of 3B or 8B were trained; see the [leaderboard](leaderboard.md)",
        ),
        (
            "People find it more helpful than LLaMA-Omni2 and Freeze-Omni",
            "not testable here",
            "a blind test of mini, nano and a cascade is built (`echox eval listening-sheet`); no panel was asked",
        ),
    ]
    return markdown_table(["claim", "here", "the figure"], [list(row) for row in rows])


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
    return markdown_table(list(rows[0]), [list(row.values()) for row in rows])


def gaps(sources: Sources) -> list[str]:
    """The gap of both models, space by space."""
    rows = []
    for model, spaces in sources.gap.items():
        for space, one in spaces.items():
            rows.append([model, space, signed(one), "< .001" if one["p"] < 0.001 else f"{one['p']:.3f}"])
    return markdown_table(["model", "space", "gap", "p"], rows)


def judges(sources: Sources) -> list[str]:
    """What several judges hear of the same replies."""
    if not sources.agreement:
        return ["Not measured yet."]
    lines = []
    for one in sources.agreement:
        heard = ", ".join(f"{task['replies']} replies" for task in one["tasks"].values())
        lines += [f"**{one['subject']}** (`{one['model']}`), {heard}:", "", *agreement_markdown(one).splitlines(), ""]
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
