"""docs/performance.md is what the stored results of the benchmarks give, and each result says how it was measured."""

import copy
import datetime
import re
import sys

import pytest

from echox.api.loading import best_embedded
from echox.evaluation.subjects.local import weights_of_package
from paths import ROOT

sys.path.insert(0, str(ROOT / "scripts"))
from performance_page import PAGE, TABLES, other_weights, read_results, renew_page, source
from shipped_weights import shipped_weights

RESULTS = read_results()
FIELDS = {"benchmark", "date", "commit", "command", "machine", "torch", "weights", "figures"}
MACHINE = {"processor", "flags", "cores", "threads", "memory_gb", "gpu", "load_average_1m"}
UNIT = re.compile(r"_(s|ms|mb|gb|percent|units|b|1m)$|ms_per_s$|_s_per_turn$|_s_per_second_of_speech$")
# Counts and ratios, which have no unit; p50 and the like have that of the name above them.
COUNTS = re.compile(
    r"^(units|frames|threads|sessions|replies|questions|stalled|not_as_alone|queued|cancelled|still_running|width"
    r"|lost|mixed|conversations|minutes|replies_with_underruns|exit_status|server_cores"
    r"|vocabulary|rtf\w*|gain\w*|share_of_limit|furthest_sample|ttfa_tokens|before|after"
    r"|shards|dialogues|hours|segments|still_said|items_of_a_batch|\w*padding_share|cores_for_one_h200"
    r"|turns|protocol_errors|answered_aloud|called_without_need|\w+_calls|calls|with_a_call|wanting_(a|no)_tool"
    r"|right_tool\w*|order|sessions_in_real_time|unspoken|warm_up|underruns|unspoken_replies|stalled_replies"
    r"|(\w+_)?false_starts|not_answered|rounds|exchanges|\w+_(right|asked)|reply_words)$"
)


def numbers(figures, path=()):
    """The path of names to each number."""
    if isinstance(figures, dict):
        for name, value in figures.items():
            yield from numbers(value, (*path, name))
    elif isinstance(figures, list):
        for value in figures:
            yield from numbers(value, path)
    elif isinstance(figures, int | float) and not isinstance(figures, bool):
        yield path


def test_the_page_is_what_the_results_give():
    page = PAGE.read_text(encoding="utf-8")
    assert renew_page(page, RESULTS) == page, "run python scripts/performance_page.py"


def test_every_result_is_on_the_page():
    assert {file for files, _ in TABLES.values() for file in files} == set(RESULTS)


@pytest.mark.parametrize("name", sorted(RESULTS))
def test_another_figure_gives_another_page(name):
    page = PAGE.read_text(encoding="utf-8")
    changed = copy.deepcopy(RESULTS)
    changed[name]["date"] = "1999-01-01"
    assert renew_page(page, changed) != page


@pytest.mark.parametrize("name", sorted(RESULTS))
def test_a_result_says_when_where_and_of_what(name):
    result = RESULTS[name]
    assert set(result) >= FIELDS
    assert set(result["machine"]) >= MACHINE
    datetime.date.fromisoformat(result["date"])
    assert re.fullmatch(r"[0-9a-f]{12}", result["commit"]), "measure at a commit, without changed files"
    if result["benchmark"] is not None:
        assert (ROOT / "benchmarks" / f"{result['benchmark']}.py").is_file()
    if "documented" in result:
        assert re.search(r"docs/\w+\.md", result["documented"])
    else:
        command = result["command"].removeprefix("OMP_WAIT_POLICY=PASSIVE ")
        assert command.startswith(f"python benchmarks/{result['benchmark']}.py")
        assert all(result["machine"][field] is not None for field in MACHINE - {"gpu"})
        assert result["torch"]


def test_what_is_said_to_ship_ships():
    """docs/shipped_weights.json, by which a page knows whether a record is of what ships."""
    told = shipped_weights()
    assert told["nano"] == weights_of_package("nano"), "run python scripts/shipped_weights.py"
    if best_embedded() != "mini":
        pytest.skip("needs the two packages of mini (requirements/mini.txt)")
    assert told["mini"] == weights_of_package("mini"), "run python scripts/shipped_weights.py"


@pytest.mark.parametrize("name", sorted(name for name, one in RESULTS.items() if one["weights"]))
def test_a_record_of_other_weights_says_so_beside_its_figures(name):
    kind = "tools" if name.startswith("tool_turns") else "conversation"
    ships = shipped_weights()["mini" if "mini" in name or "conversation" in name else "nano"]
    assert other_weights(name, {"weights": ships[kind]}) is None
    for other in {"0123456789ab", ships["alone"]} - {ships[kind]}:
        assert f"(`{other}`)" in str(other_weights(name, {"weights": other}))
    page = " ".join(PAGE.read_text(encoding="utf-8").split())
    assert " ".join(source(name, RESULTS[name]).split()) in page


@pytest.mark.parametrize("name", sorted(RESULTS))
def test_every_number_has_a_unit_in_its_name(name):
    unnamed = {path for path in numbers(RESULTS[name]["figures"]) if not any(map(named, path))}
    assert not unnamed


def named(name):
    return UNIT.search(name) or COUNTS.match(name)
