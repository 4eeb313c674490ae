"""What the page says and shows, compared with the server and the rules, without a browser."""

import ast
import re
from typing import get_args

import pytest

from echox.errors import NoSpeech, NotHeard
from echox.serving.protocol.events import FailureCode, refusal_code
from paths import ROOT
from web_page import contrast

SERVING = ROOT / "src/echox/serving"
REASONS = (SERVING / "static/connection/reasons.js").read_text(encoding="utf-8")
STYLE = (SERVING / "static/style.css").read_text(encoding="utf-8")
PALETTE = {name: pair for name, *pair in re.findall(r"--([a-z-]+): light-dark\((#\w{6}), (#\w{6})\)", STYLE)}
PAPERS = ("paper", "raised", "tint")
INKS = ("ink", "soft", "faint", "accent", "warn")
PAIRS = [(ink, paper) for paper in PAPERS for ink in INKS]
PAIRS += [(ink, "warn-tint") for ink in INKS if ink != "faint"] + [("on-accent", "accent")]


def known(table):
    """The codes in a table of the page."""
    (rows,) = re.findall(rf"^const {table} = {{$(.*?)^}};$", REASONS, re.MULTILINE | re.DOTALL)
    return set(re.findall(r"^  ([a-z_]+):", rows, re.MULTILINE))


def error_codes():
    """The codes of all errors that a session may send as `error` events."""
    found = set()
    for path in SERVING.rglob("*.py"):
        if path.is_relative_to(SERVING / "rest"):
            continue
        tree = list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
        calls = [one for one in tree if isinstance(one, ast.Call) and getattr(one.func, "id", "") == "EventError"]
        given = [call.args[1] for call in calls if len(call.args) > 1]
        names = {one.id for one in given if isinstance(one, ast.Name)}
        assigned = [one for one in tree if isinstance(one, ast.Assign) and getattr(one.targets[0], "id", "") in names]
        parts = [part for one in [*given, *(one.value for one in assigned)] for part in ast.walk(one)]
        found |= {part.value for part in parts if isinstance(part, ast.Constant) and isinstance(part.value, str)}
    return found


# When tests run, a server's thread may print a traceback, and CPython 3.11 parses in one thread at a time only.
ERROR_CODES = error_codes()


@pytest.mark.parametrize("table", ["FAREWELLS", "REFUSALS"])
def test_the_page_knows_only_codes_that_come_in_error_events(table):
    assert known(table)
    assert known(table) <= ERROR_CODES


def test_the_page_knows_each_code_of_failed_responses_but_the_one_that_has_words_of_its_own():
    assert known("FAILURES") == set(get_args(FailureCode)) - {"not_answerable"}  # the model says what it cannot read


def test_the_protocol_names_each_code_of_failed_responses():
    text = (ROOT / "docs/protocol.md").read_text(encoding="utf-8")
    (told,) = re.findall(r"`failed` with an error: (.*?)\.\n", text, re.DOTALL)
    assert set(re.findall(r"`([a-z_]+)`", told)) == set(get_args(FailureCode))


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (NotHeard("no words"), "not_heard"),
        (NoSpeech("noise"), "not_heard"),
        (ValueError("too long"), "not_answerable"),
    ],
)
def test_each_refusal_has_its_code(error, code):
    assert refusal_code(error) == code


@pytest.mark.parametrize(("ink", "paper"), PAIRS, ids=map("-".join, PAIRS))
def test_texts_stand_out_from_what_is_behind_them(ink, paper):
    for theme in (0, 1):
        assert contrast(PALETTE[ink][theme], PALETTE[paper][theme]) >= 4.5


def test_no_text_is_made_fainter_than_the_palette():
    assert set(re.findall(r"opacity: *([^;]+);", STYLE)) <= {"1"}
