"""docs/report.md and docs/leaderboard.md are what their sources give, and every published figure has a source."""

import copy
import datetime
import sys
from dataclasses import replace

import pytest

from echox.evaluation.studies.ablation_plan import Plan
from paths import ROOT

sys.path.insert(0, str(ROOT / "scripts"))
from report_claims import better_speech, kept_knowledge
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
            read = {"word_errors": [each] * 10, "reference_words": [10] * 10, "wer": each / 10}
            one = {"name": name, "what": name, "steps": 1000, "items": {}, "t2c": read}
            runs[name] = [one | {"seed": seed} for seed in range(seeds)]
        return better_speech(replace(SOURCES, unit_language=runs))

    found, told = measured(3)
    assert found == f"{verdict} (nano)"
    assert f"{10 * errors[0] - 20:+.1f} points" in told
    assert "(1,000 against 1,000 steps, 3 and 3 trainings)" in told
    proven = verdict.replace(" by texts, not yet by seeds", "")
    assert measured(5)[0] == f"{proven} (nano)"  # five trainings can give p < .05
    assert measured(1)[0] == "not shown in the published form: too few trainings"
    assert better_speech(replace(SOURCES, unit_language={}))[0] == "not supported here"


@pytest.mark.parametrize(
    ("direct", "verdict"),
    [("1111111111", "still writes: no loss seen"), ("0" * 10, "still writes: loss seen by questions")],
)
def test_the_verdict_on_what_is_kept_follows_the_typed_questions(direct, verdict):
    def measured(name, right):
        typed = {
            task: {"t2t_answer": 0.5, "right": {"t2t_answer": right}} for task in ("llama-questions", "web-questions")
        }
        aloud = {"llama-questions": {"right": {"s2t_answer": right, "s2s_answer": "0" * len(right)}}}
        return [{"name": name, "seed": 0, "what": name, "items": {}, "typed": typed, "segments": aloud}]

    runs = {"cascade": measured("cascade", "1111100000")}
    assert kept_knowledge(replace(SOURCES, knowledge_mini=runs))[0].startswith("not tested")
    runs["direct"] = measured("direct", direct)
    found, told = kept_knowledge(replace(SOURCES, knowledge_mini=runs))
    assert verdict in found
    assert "(1 training): T2T of Web Questions" in told
    assert "| `direct` | `cascade` | Web Questions | 1 and 1 |" in "\n".join(
        knowledge_of_mini(replace(SOURCES, knowledge_mini=runs))
    )


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
