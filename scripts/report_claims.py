"""The claims of the paper, and what was measured of each: the first table of docs/report.md (report_pages.py)."""

from __future__ import annotations

from report_sources import DOCS, Sources, percent, points, row_of, signed

from echox.api.card import markdown_table
from echox.evaluation.scoring.statistics import Comparison, Interval
from echox.evaluation.studies.ablation_plan import Plan
from echox.evaluation.studies.ablation_report import values_of
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
    compared,
    difference_of_shares,
    question_interval,
)

ENOUGH = 3
"""Trainings of each run that a verdict on unit languages asks for."""


def s2s(sources: Sources, name: str, way: str = "segments") -> str:
    """S2S of an ablation over its seeds, with its interval over questions and seeds."""
    found = question_interval(sources.ablations[name], (way, SEEN, "s2s_answer"))
    assert found is not None, f"{name}: the number of its questions is recorded"
    seeds = len(sources.ablations[name])
    return f"{percent(found)}, {seeds} {'seed' if seeds == 1 else 'seeds'}"


def kept_knowledge(sources: Sources) -> tuple[str, str]:
    """Whether mini still knows what its language model knew, and the figures that say so."""
    runs = sources.knowledge_mini
    mini = row_of(sources.mini, "What hearing and speaking leave", task="llama-questions")
    shipped = (
        f"mini as it ships, Llama Questions: S2T over T2T {mini['S2T over T2T']}, S2S over S2T {mini['S2S over S2T']}: "
        "what hearing and speaking lose"
    )
    if not {"direct", "cascade"} <= set(runs):
        return "not tested: learning to speak leaves mini's language model as it is", shipped
    parts, lost = [], False
    for name, what in (
        ("direct", "trained, all of it, to write units"),
        ("direct_slow", "the same at a tenth of the rate"),
        ("echo", "by echo training, frozen"),
    ):
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
