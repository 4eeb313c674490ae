"""The claims of the paper, and what was measured of each: the first table of docs/report.md (report_pages.py).

One comparison of each claim is the primary one, and its verdict is `verdict_on` its figures; what else was measured is
told beside it. Nothing is typed but the words, and that a claim could not be tested.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from report_sources import DOCS, Json, Sources, percent, points, row_of, signed

from echox.api.card import markdown_table
from echox.evaluation.scoring.statistics import Interval, holm
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
    WER,
    PairTest,
    compared,
    difference_of_shares,
    p_text,
    pair_tests,
    question_interval,
)

ENOUGH = 3
"""Trainings of each run that a verdict on unit languages asks for."""
ALPHA = 0.05
RUNS = DOCS.parent / "runs"


@dataclass(frozen=True)
class Claim:
    """A row of the table.

    Attributes:
        claim: of the paper.
        primary: the comparison that the verdict follows.
        here: the verdict.
        figure: what was measured.
    """

    claim: str
    primary: str
    here: str
    figure: str


def verdict_on(difference: Interval, p_items: float | None, p_seeds: float | None, seeds: tuple[int, int]) -> str:
    """What a difference says of a claim that it is above 0.

    Args:
        difference: with its 95 % interval over items and trainings.
        p_items: over items, corrected for all tests of its table; None: only shares are known, and the interval has to
            say it.
        p_seeds: likewise over trainings; None: one of each.
        seeds: trainings of each.
    """
    if difference.high < 0:
        return "not supported: the contrary is seen"
    if difference.low <= 0:
        return "not shown: chance gives as much"
    if p_items is not None and p_items > ALPHA:
        return f"not shown: p over items {p_text(p_items)} after correction for all tests of its table"
    if max(seeds) == 1:
        return "supported by items, of one training each"
    if p_seeds is None or p_seeds > ALPHA:
        return "supported by items, not by trainings"
    return "supported"


def verdict_of(row: PairTest, sign: int = 1) -> str:
    """`verdict_on` a row of a table of tests; with ``sign`` -1 on its second run less the first."""
    assert row.difference is not None, f"{row.first}, {row.second}: scores are recorded"
    return verdict_on(turned(row.difference, sign), row.corrected[0], row.corrected[1], row.seeds)


def turned(found: Interval, sign: int) -> Interval:
    """An interval, or with ``sign`` -1 that of the opposite difference."""
    return found if sign > 0 else Interval(-found.mean, -found.high, -found.low, found.count)


def of_pair(rows: list[PairTest], first: str, second: str, side: str) -> PairTest:
    """The row of a pair.

    Raises:
        ValueError: there is none.
    """
    for row in rows:
        if (row.first, row.second, row.side) == (first, second, SIDES[side]):
            return row
    raise ValueError(f"expected a test of {first} and {second} on {SIDES[side]}, found none; add it to the plan")


def told(row: PairTest) -> str:
    """A difference with its interval, its p over items, and the corrected one."""
    if row.by_construction or row.difference is None:
        return "the same by construction"
    p_items, after = row.values[0], row.corrected[0]
    if p_items is None or after is None:
        return points(row.difference)
    return f"{points(row.difference)} (p {p_text(p_items)}, corrected {p_text(after)})"


def evidence_tests(sources: Sources, figure: str) -> list[PairTest]:
    """Tests of what speaking costs nano."""
    return pair_tests(sources.evidence, Plan.read(RUNS / "evidence.yaml").tests, figure)


def mini_tests(sources: Sources, figure: str) -> list[PairTest]:
    """Tests of what speaking costs mini."""
    plan = Plan.read(RUNS / "knowledge_mini.yaml")
    return pair_tests(sources.knowledge_mini, plan.tests, figure, plan.same_text)


def s2s(sources: Sources, name: str, way: str = "segments") -> str:
    """S2S of an ablation over its seeds, with its interval over questions and seeds."""
    found = question_interval(sources.ablations[name], (way, SEEN, "s2s_answer"))
    assert found is not None, f"{name}: the number of its questions is recorded"
    seeds = len(sources.ablations[name])
    return f"{percent(found)}, {seeds} {'seed' if seeds == 1 else 'seeds'}"


def cost_of_speaking(sources: Sources) -> Claim:
    """Whether a language model that learned to write units lost knowledge."""
    claim = "Training a language model to speak costs it knowledge"
    primary = "S2S of nano trained to write units (`direct`) less `cascade`, known voices"
    if not sources.evidence:
        missing = "not measured: `runs/evidence.sh` trains a language model that writes units itself"
        return Claim(claim, primary, "not tested yet", missing)
    says, writes = evidence_tests(sources, S2S), evidence_tests(sources, S2T)
    parts = []
    for name, what in (("direct", "trained to write units itself"), ("echo", "by echo training")):
        said, written = (of_pair(rows, name, "cascade", SEEN) for rows in (says, writes))
        parts.append(f"{what}, it says {told(said)} and it writes {told(written)}")
    primary_row = of_pair(says, "direct", "cascade", SEEN)
    still = [f"nano {_kept(of_pair(writes, 'direct', 'cascade', SEEN))}"]
    typed = {row.side: row for row in mini_tests(sources, T2T) if (row.first, row.second) == ("direct", "cascade")}
    if SIDES[LLAMA] in typed:
        still.append(f"mini {_kept(typed[SIDES[LLAMA]])}")
        parts.append(f"mini, trained so, writes {told(typed[SIDES[LLAMA]])} (Llama Questions, typed)")
    return Claim(
        claim,
        primary,
        f"says: {verdict_of(primary_row, -1)}, at this budget (nano); still writes: {', '.join(still)}",
        f"of right answers, beside the cascade, {primary_row.seeds[0]} trainings: {'; '.join(parts)} "
        "([knowledge](#knowledge), [of mini](#knowledge-of-mini))",
    )


def _kept(row: PairTest) -> str:
    lost = verdict_of(row, -1)
    return "loses by questions" if lost.startswith("supported") else "no loss seen"


def kept_knowledge(sources: Sources) -> Claim:
    """Whether mini still knows what its language model knew."""
    claim = "A speech model keeps what its language model knows"
    primary = "T2T of mini trained to write units (`direct`) less `cascade`, Web Questions"
    runs = sources.knowledge_mini
    mini = row_of(sources.mini, "What hearing and speaking leave", task="llama-questions")
    shipped = (
        f"mini as it ships, Llama Questions: S2T over T2T {mini['S2T over T2T']}, S2S over S2T {mini['S2S over S2T']}: "
        "what hearing and speaking lose"
    )
    if not {"direct", "cascade"} <= set(runs):
        return Claim(claim, primary, "not tested: learning to speak leaves mini's language model as it is", shipped)
    tests = {figure: mini_tests(sources, figure) for figure in (T2T, S2S)}
    parts = []
    for name, what in (
        ("direct", "trained, all of it, to write units"),
        ("direct_slow", "the same at a tenth of the rate"),
        ("echo", "by echo training, frozen"),
    ):
        if name not in runs:
            continue
        figures = [
            f"{FIGURES[figure]} of {SIDES[task]} {told(of_pair(tests[figure], name, 'cascade', task))}"
            for task, figure in ((WEB, T2T), (LLAMA, T2T), (LLAMA, S2S))
        ]
        seeds = len(runs[name])
        parts.append(f"{what} ({seeds} {'training' if seeds == 1 else 'trainings'}): {', '.join(figures)}")
    verdict = _kept(of_pair(tests[T2T], "direct", "cascade", WEB))
    return Claim(
        claim,
        primary,
        f"trained to write units, it still writes: {verdict} (mini); in echo training its language model is frozen",
        f"of right answers, beside the cascade, {'; '.join(parts)} ([mini](#knowledge-of-mini)). {shipped}",
    )


def streaming(sources: Sources) -> Claim:
    """Whether replies that are spoken in segments are worse than whole ones."""
    claim, primary = "Streaming costs no quality", "S2S of mini as it ships, in segments less whole, Llama Questions"
    shipped = sources.ablations["shipped"]
    nano = difference_of_shares(shipped, shipped, SEEN, ways=("segments", "whole"))
    ways = f"in segments {s2s(sources, 'shipped')}, whole {s2s(sources, 'shipped', 'whole')}"
    found, parts = {"nano": nano}, [f"shipped nano, {ways}, a difference of {points(nano)}"]
    if runs := sources.knowledge_mini.get("shipped"):
        whole = [{**run, "segments": run["whole"]} for run in runs]
        change = compared(runs, whole, ("segments", LLAMA, S2S))
        assert change is not None, "which questions were right is recorded"
        errors = [f"{100 * runs[0][way][LLAMA]['reply_wer']:.1f} %" for way in ("segments", "whole")]
        found["mini"] = change.difference
        parts.append(
            f"mini as it ships, Llama Questions: S2S in segments less whole {points(change.difference)}, "
            f"WER of replies {errors[0]} and {errors[1]}"
        )
    losing = [name for name, change in found.items() if change.high < 0]
    verdict = f"a loss seen by questions ({', '.join(losing)})" if losing else f"no loss seen ({', '.join(found)})"
    least = " and ".join(f"{-100 * change.low:.1f} ({name})" for name, change in found.items())
    return Claim(claim, primary, verdict, f"{'; '.join(parts)}; a loss of up to {least} points is not excluded")


def better_speech(sources: Sources) -> Claim:
    """Whether a unit language is spoken better than single units."""
    claim = "A unit language makes better speech"
    primary = "WER of the published form, each number of words less single units, at the larger budget"
    aligned, single = (mean(sources, f"t2c_{name}_2400", *READ) for name in ("unit_language", "units"))
    earlier = (
        f"WER {100 * aligned:.1f} %, single units {100 * single:.1f} %, after 2,400 steps of the word-synchronous "
        "form, 1 seed"
    )
    runs = sources.unit_language
    rows = pair_tests(runs, Plan.read(RUNS / "unit_language.yaml").tests, WER)
    rows = [row for row in rows if row.difference is not None]
    if not rows:
        verdict = "not supported here" if aligned >= single else "not shown in the published form"
        missing = f"{earlier}; the published (prefix) form with single units was not measured"
        return Claim(claim, primary, verdict, missing)
    parts = []
    for row in rows:
        ours, theirs = runs[row.first], runs[row.second]
        steps = " against ".join(f"{one[0]['steps']:,}" for one in (ours, theirs))
        seeds = " and ".join(map(str, row.seeds))
        parts.append(f"{ours[0]['what']} {told(row)} ({steps} steps{more_time(ours, theirs)}, {seeds} trainings)")
    return Claim(
        claim,
        primary,
        verdict_on_words([row for row in rows if min(row.seeds) >= ENOUGH]),
        f"published (prefix) form, WER beside single units: {', '.join(parts)} ([unit language](#unit-language)). "
        f"Earlier, {earlier}",
    )


def more_time(ours: Sequence[Json], theirs: Sequence[Json]) -> str:
    """By how much more or less CPU time trainings took than others; empty where it was not recorded."""
    one, other = (values_of(results, ("cpu_s",)) for results in (ours, theirs))
    if not one or not other:
        return ""
    change = sum(one) / len(one) / (sum(other) / len(other)) - 1
    return f", {100 * abs(change):.0f} % {'more' if change > 0 else 'less'} CPU-s"


def verdict_on_words(rows: list[PairTest]) -> str:
    """What the WER of unit languages less that of single units says: an interval below 0 speaks for a unit language."""
    if not rows:
        return "not shown in the published form: too few trainings"
    helping = [row for row in rows if verdict_of(row, -1).startswith("supported")]
    harming = [row for row in rows if verdict_of(row).startswith("supported")]
    if helping and harming:
        return "depends on the number of words and the budget (nano)"
    found = helping or harming
    if not found:
        return "no difference seen (nano)"
    some = "" if len(found) == len(rows) else f"in {len(found)} of {len(rows)} comparisons"
    proven = all(row.corrected[2] is not None and row.corrected[2] <= ALPHA for row in found)
    kind = "(nano)" if proven else "by texts, not yet by seeds (nano)"
    return " ".join(filter(None, ["supported" if helping else "not supported: single units are clearer", some, kind]))


def own_targets(sources: Sources) -> Claim:
    """Whether targets made from the model's own reply are better than recordings."""
    claim = "Targets made from the model's own reply are better than recordings"
    primary = "S2S of `echo` less `recorded`, 800 steps, known voices"
    few = (
        f"{difference(sources, 'echo', 'recorded')} after 100 steps, "
        f"{difference(sources, 'echo_250', 'recorded_250')} after 250; on new voices "
        f"{difference(sources, 'echo', 'recorded', NEW)} and {difference(sources, 'echo_250', 'recorded_250', NEW)}"
    )
    if not sources.evidence:
        return Claim(claim, primary, "not shown: too few seeds", few)
    rows = evidence_tests(sources, S2S)
    seen, new = (of_pair(rows, "echo", "recorded", side) for side in (SEEN, NEW))
    return Claim(
        claim,
        primary,
        f"{verdict_of(seen)} (nano)",
        f"S2S {told(seen)} after 800 steps, {seen.seeds[0]} trainings each, on new voices {told(new)}, of {len(rows)} "
        f"tests ([knowledge](#knowledge)); of earlier, shorter trainings {few}",
    )


ABLATED = {"no_adapter": "The denoising adapter helps", "no_denoising_loss": "The denoising loss helps"}
"""Claims that a run of the ablations without a part tests."""


def from_ablations(sources: Sources, name: str) -> Claim:
    """One of `ABLATED`, with its difference on new voices beside it."""
    rows = pair_tests(sources.ablations, Plan.read(RUNS / "ablations.yaml").tests)
    seen, new = (of_pair(rows, "echo", name, side) for side in (SEEN, NEW))
    return Claim(
        ABLATED[name],
        f"S2S of `echo` less `{name}`, known voices",
        f"{verdict_of(seen)} (nano)",
        f"with less without: {told(seen)}, on new voices {told(new)}; which questions were right was not recorded",
    )


def states_spoken(sources: Sources) -> Claim:
    """Whether echo training makes states speak."""
    before, after = sources.ablations["zero_shot"], sources.ablations["echo_800"]
    change = difference_of_shares(after, before, SEEN)
    return Claim(
        "Echo training lets states of meaning be spoken",
        "S2S after 800 steps (`echo_800`) less before (`zero_shot`), known voices",
        f"{verdict_on(change, None, None, (len(after), len(before)))} (nano)",
        f"S2S {s2s(sources, 'zero_shot')} before, {s2s(sources, 'echo_800')} after 800 steps, a difference of "
        f"{points(change)}; the cascade has {s2s(sources, 'cascade')}",
    )


def shorter_sequence(sources: Sources) -> Claim:
    """Whether a unit language shortens the sequence."""
    words = ("t2c", "unit_words_per_word")
    language, single = (mean(sources, f"t2c_{name}_2400", *words) for name in ("unit_language", "units"))
    return Claim(
        "A unit language shortens the sequence",
        "unit words a word, a unit language of 1,000 words less single units: a count, no test",
        f"{'supported' if language < single else 'not supported'} (nano)",
        f"{language:.2f} unit words a word, single units {single:.2f}",
    )


def order_of_states(sources: Sources) -> Claim:
    """Whether states of the language model are ordered by meaning, and what is spoken by sound."""
    gap = sources.gap
    values = [(model, space, one["p"]) for model, spaces in gap.items() for space, one in spaces.items()]
    after = {(model, space): p for (model, space, _), p in zip(values, holm([p for *_, p in values]), strict=True)}
    ordered = [
        model
        for model, spaces in gap.items()
        if spaces["hidden"]["high"] < 0 < spaces["units"]["low"]
        and max(after[model, "hidden"], after[model, "units"]) <= ALPHA
    ]
    one = "one model of each kind"
    verdict = "not shown" if not ordered else f"supported ({one if len(ordered) == len(gap) else ', '.join(ordered)})"
    told_of = [
        f"{model}: states {signed(spaces['hidden'])}, units {signed(spaces['units'])}" for model, spaces in gap.items()
    ]
    return Claim(
        "Language-model states are ordered by meaning, what is spoken by sound",
        f"gap of states and of units, each model; p corrected for {len(values)} tests",
        verdict,
        f"gap of {'; of '.join(told_of)}",
    )


def difference(sources: Sources, one: str, other: str, split: str = SEEN) -> str:
    """Difference of two ablations in S2S, in points, with the widest interval that their shares allow."""
    return points(difference_of_shares(sources.ablations[one], sources.ablations[other], split))


def mean(sources: Sources, name: str, *path: str) -> float:
    """A figure of an ablation, over its seeds."""
    values = values_of(sources.ablations[name], path)
    return sum(values) / len(values)


def untestable(sources: Sources) -> tuple[Claim, Claim, Claim]:
    """Claims that cannot be tested with what is here; why is said by hand."""
    first = row_of(sources.mini, "Figures", figure="first_audio_tokens")["llama-questions"]
    return (
        Claim(
            "Speech begins after 27 tokens",
            "none",
            "not comparable",
            f"mini begins after {first} tokens on average, with another form of decoder and replies of one sentence",
        ),
        Claim(
            "With 3B and 8B it stands beside the best models of its day",
            "none",
            "not testable here",
            "no weights of 3B or 8B were trained; see the [leaderboard](leaderboard.md)",
        ),
        Claim(
            "People find it more helpful than LLaMA-Omni2 and Freeze-Omni",
            "none",
            "not testable here",
            "a blind test of mini, nano and a cascade is built (`echox eval listening-sheet`); no panel was asked",
        ),
    )


def all_claims(sources: Sources) -> list[Claim]:
    """Each claim of the paper: what is found here, and the figure that says so."""
    tokens, best_models, people = untestable(sources)
    return [
        cost_of_speaking(sources),
        states_spoken(sources),
        own_targets(sources),
        *(from_ablations(sources, name) for name in ABLATED),
        shorter_sequence(sources),
        better_speech(sources),
        streaming(sources),
        tokens,
        order_of_states(sources),
        kept_knowledge(sources),
        best_models,
        people,
    ]


def claims(sources: Sources) -> list[str]:
    """The table."""
    rows = [[one.claim, one.primary, one.here, one.figure] for one in all_claims(sources)]
    return markdown_table(["claim", "primary comparison", "here", "the figure"], rows)
