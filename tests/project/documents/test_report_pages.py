"""docs/report.md and docs/leaderboard.md are what their sources give, and every published figure has a source."""

import copy
import datetime
import functools
import sys
from dataclasses import replace

import pytest

from echox.evaluation.scoring.statistics import Interval
from echox.evaluation.studies.ablation_plan import Plan
from paths import ROOT

sys.path.insert(0, str(ROOT / "scripts"))
from report_claims import (
    all_claims,
    better_speech,
    cost_of_speaking,
    from_ablations,
    kept_knowledge,
    order_of_states,
    own_targets,
    shorter_sequence,
    states_spoken,
    streaming,
    verdict_on,
)
from report_pages import PAGES, TABLES, knowledge_of_mini, renew_page
from report_sources import DOCS, read_sources, row_of, tables_of

SOURCES = read_sources()


@pytest.mark.parametrize("name", PAGES)
def test_a_page_is_what_the_sources_give(name):
    page = (DOCS / name).read_text(encoding="utf-8")
    assert renew_page(name, page, SOURCES) == page, "run python scripts/report_pages.py"


def test_another_measurement_gives_another_report():
    page = (DOCS / "report.md").read_text(encoding="utf-8")
    ablations, gap = copy.deepcopy(SOURCES.ablations), copy.deepcopy(SOURCES.gap)
    ablations["recorded"][0]["segments"]["heldout_seen_voices"]["s2s_answer"] = 0.9
    gap["nano"]["hidden"]["mean"] = 0.123
    for changed in (replace(SOURCES, ablations=ablations), replace(SOURCES, gap=gap), replace(SOURCES, agreement=[])):
        assert renew_page("report.md", page, changed) != page or not SOURCES.agreement


@pytest.mark.parametrize(
    ("errors", "verdict"),
    [
        ((0, 0), "supported by texts, not yet by seeds"),
        ((2, 0), "supported in 1 of 2 comparisons by texts, not yet by seeds"),
        ((2, 2), "no difference seen"),
        ((2, 4), "not supported: single units are clearer in 1 of 2 comparisons by texts, not yet by seeds"),
        ((4, 4), "not supported: single units are clearer by texts, not yet by seeds"),
        ((0, 4), "depends on the number of words and the budget"),
    ],
)
def test_the_verdict_on_unit_languages_follows_the_intervals(errors, verdict):
    tests = Plan.read(ROOT / "runs" / "unit_language.yaml").tests[:2]
    wrong = {tests[0][1]: 2, tests[1][1]: 2} | {one: each for (one, _), each in zip(tests, errors)}

    def measured(seeds):
        runs = {}
        for name, each in wrong.items():
            read = {"word_errors": [each] * 150, "reference_words": [10] * 150, "wer": each / 10}
            one = {"name": name, "what": name, "steps": 1000, "items": {}, "t2c": read}
            runs[name] = [one | {"seed": seed} for seed in range(seeds)]
        claim = better_speech(replace(SOURCES, unit_language=runs))
        return claim.here, claim.figure

    found, told = measured(3)
    assert found == f"{verdict} (nano)"
    assert f"{10 * errors[0] - 20:+.1f} points" in told
    assert "(1,000 against 1,000 steps, 3 and 3 trainings)" in told
    proven = verdict.replace(" by texts, not yet by seeds", "")
    assert measured(5)[0] == f"{proven} (nano)"  # five trainings can give p < .05
    assert measured(1)[0] == "not shown in the published form: too few trainings"
    assert better_speech(replace(SOURCES, unit_language={})).here == "not supported here"


@pytest.mark.parametrize(
    ("direct", "verdict"),
    [("1" * 20, "still writes: no loss seen"), ("0" * 20, "still writes: loses by questions")],
)
def test_the_verdict_on_what_is_kept_follows_the_typed_questions(direct, verdict):
    def measured(name, right):
        typed = {
            task: {"t2t_answer": 0.5, "right": {"t2t_answer": right}} for task in ("llama-questions", "web-questions")
        }
        aloud = {"llama-questions": {"right": {"s2t_answer": right, "s2s_answer": "0" * len(right)}}}
        return [{"name": name, "seed": 0, "what": name, "items": {}, "typed": typed, "segments": aloud}]

    runs = {"cascade": measured("cascade", "1" * 10 + "0" * 10)}
    assert kept_knowledge(replace(SOURCES, knowledge_mini=runs)).here.startswith("not tested")
    runs["direct"] = measured("direct", direct)
    found = kept_knowledge(replace(SOURCES, knowledge_mini=runs))
    assert verdict in found.here
    assert "(1 training): T2T of Web Questions" in found.figure
    assert "| `direct` | `cascade` | Web Questions | 1 and 1 |" in "\n".join(
        knowledge_of_mini(replace(SOURCES, knowledge_mini=runs))
    )


def other_answers(by_name, name, spoken):
    """The measurements with other answers of one run, in every way and on every set."""
    changed = copy.deepcopy(by_name)
    for result in changed[name]:
        for way in ("segments", "whole", "typed"):
            for scores in result.get(way, {}).values():
                for figure in ("s2t_answer", "s2s_answer", "t2t_answer"):
                    if figure in scores:
                        scores[figure] = float(spoken)
                    if figure in scores.get("right", {}):
                        scores["right"][figure] = str(spoken) * len(scores["right"][figure])
    return changed


def other_lengths(by_name):
    changed = copy.deepcopy(by_name)
    for result in changed["t2c_unit_language_2400"]:
        result["t2c"]["unit_words_per_word"] = 9.0
    return changed


def other_order(gap):
    changed = copy.deepcopy(gap)
    for spaces in changed.values():
        spaces["hidden"]["p"] = 0.02  # below .05 alone, not among all
    return changed


def worse_segments(by_name):
    changed = other_answers(by_name, "shipped", 1)
    for result in changed["shipped"]:
        for scores in result["segments"].values():
            scores["right"] = {name: "0" * len(right) for name, right in scores["right"].items()}
    return changed


CHANGES = {
    cost_of_speaking: ("evidence", lambda now: other_answers(now, "direct", 1)),
    states_spoken: ("ablations", lambda now: other_answers(now, "zero_shot", 1)),
    own_targets: ("evidence", lambda now: other_answers(now, "recorded", 0)),
    functools.partial(from_ablations, name="no_adapter"): (
        "ablations",
        lambda now: other_answers(now, "no_adapter", 0),
    ),
    functools.partial(from_ablations, name="no_denoising_loss"): (
        "ablations",
        lambda now: other_answers(now, "no_denoising_loss", 1),
    ),
    shorter_sequence: ("ablations", other_lengths),
    better_speech: ("unit_language", lambda now: {name: now[name] for name in now if "words" not in name}),
    streaming: ("knowledge_mini", worse_segments),
    order_of_states: ("gap", other_order),
    kept_knowledge: ("knowledge_mini", lambda now: other_answers(now, "direct", 1)),
}
"""A change of the measurements behind each verdict that turns it; the other claims could not be tested."""


def test_every_verdict_follows_its_figures():
    now = {claim.claim: claim for claim in all_claims(SOURCES)}
    untested = [one for one in now.values() if one.primary == "none"]
    assert {one.here for one in untested} == {"not comparable", "not testable here"}
    tested = set()
    for claim, (source, change) in CHANGES.items():
        after = claim(replace(SOURCES, **{source: change(getattr(SOURCES, source))}))
        tested.add(after.claim)
        assert after.here != now[after.claim].here, after
        assert after.primary == now[after.claim].primary
    assert tested | {one.claim for one in untested} == set(now)


@pytest.mark.parametrize(
    ("ends", "p_items", "p_seeds", "seeds", "verdict"),
    [
        ((0.01, 0.2), 0.001, 0.01, (5, 5), "supported"),
        ((0.01, 0.2), 0.001, 0.1, (3, 3), "supported by items, not by trainings"),
        ((0.01, 0.2), 0.001, None, (1, 1), "supported by items, of one training each"),
        ((0.01, 0.2), None, 0.1, (3, 2), "supported by items, not by trainings"),
        ((0.01, 0.2), 0.094, 0.1, (3, 3), "not shown: p over items 0.094 after correction for all tests of its table"),
        ((0.0, 0.2), 0.001, 0.01, (5, 5), "not shown: chance gives as much"),
        ((-0.2, -0.1), 0.001, 0.01, (5, 5), "not supported: the contrary is seen"),
    ],
)
def test_a_verdict_asks_for_interval_items_and_trainings(ends, p_items, p_seeds, seeds, verdict):
    assert verdict_on(Interval(0.1, *ends, 100), p_items, p_seeds, seeds) == verdict


def test_figures_of_other_weights_say_so():
    page = (DOCS / "report.md").read_text(encoding="utf-8")
    shipped = SOURCES.shipped["mini"]
    ours = "\n".join(TABLES["report.md"]["cascade"](replace(SOURCES, cascade_weights=shipped["conversation"])))
    assert "Not of what ships" not in ours
    for other, told in (("0123456789ab", "of earlier weights"), (shipped["alone"], "of its weights alone")):
        drawn = "\n".join(TABLES["report.md"]["cascade"](replace(SOURCES, cascade_weights=other)))
        assert f"**Not of what ships (`{shipped['conversation']}`)**: {told} (`{other}`)" in drawn
    for one in SOURCES.agreement:
        other = one["model"] != SOURCES.shipped[one["subject"]]["subject"]
        assert (f"of earlier weights (`{one['model']}`)" in page) is other


def test_tables_of_a_card_are_read_by_their_headings():
    tables = tables_of(
        "# A\n\ntext\n\n| x | y |\n|---|---|\n| 1 | 2 |\n\n| z |\n|---|\n| 9 |\n## B\n| x |\n|---|\n| 3 |\n"
    )
    assert tables == {"A": [{"x": "1", "y": "2"}], "B": [{"x": "3"}]}
    assert row_of(tables, "A", x="1") == {"x": "1", "y": "2"}
    with pytest.raises(ValueError, match="expected a row"):
        row_of(tables, "A", x="2")


def test_published_figures_have_sources():
    published = SOURCES.published
    assert {row["source"] for row in published["rows"]} == set(published["sources"])
    models = [row["model"] for row in published["rows"]]
    assert len(set(models)) == len(models)
    for source in published["sources"].values():
        assert source["url"].startswith("https://")
        datetime.date.fromisoformat(f"{source['date']}-01"[:10])
    for row in published["rows"]:
        figures = [row[task] for task in ("llama-questions", "web-questions", "triviaqa") if task in row]
        assert figures
        assert all(0 < figure < 100 for figure in figures)


def test_every_table_of_the_pages_is_drawn():
    assert {*TABLES, "ablations.md"} == set(PAGES)  # which its own study draws, too
